public import Documents
import Glibc
import MeshCore
public import NIOCore
import NIOHTTP1
import NIOHTTPCompression
public import NIOPosix
import NIOSSL
import Synchronization

/// A fake Kubernetes API server with the behaviour that list-watch clients depend on: paged lists from one snapshot
/// with tokens that expire, watches that resume from a bounded history or answer 410, bookmarks, gzip, Status objects.
/// What can go wrong with a real one can be made to go wrong here.
///
/// All methods may be called from any task.
public final class FakeKube: Sendable {
    public struct Options: Sendable {
        public var host = "127.0.0.1"
        /// Zero: a free one, which is kept over `stop` and `start`.
        public var port = 0
        /// The server's certificate, or nil for http.
        public var tls: FakeKubeCertificates?
        /// Refuses connections without a certificate of the same authority.
        public var requiresClientCertificate = false
        public var historyLimit = 10_000
        /// Whether a list at version 0 is given whole whatever its `limit`, as servers before Kubernetes 1.33 do.
        public var listsVersionZeroWhole = false
        public var bookmarkInterval: Duration = .seconds(60)
        public var gitVersion = "v1.31.0+fake"
        /// The request log keeps this many.
        public var logLimit = 10_000

        public init() {}
    }

    struct State {
        var store: FakeKubeStore
        var faults: [FakeKubeFault] = []
        var requests: [FakeKubeRequest] = []
        var listener: (any Channel)?
        var connections = 0
        var clients: [Int: any Channel] = [:]
        var absent: Set<String> = []
        var forbidden: Set<String> = []
        /// Collections that are served as if they were empty, as a cold MetaServer does.
        var hidden: Set<String> = []
        var authorizations: Set<String>?
        var watches: [Int: Watch] = [:]
        var nextWatch = 0
        var port: Int
    }

    struct Watch {
        /// Level-triggered: whoever is woken looks at everything, so one pending wake-up is enough.
        var wake: AsyncStream<Void>.Continuation
        var plural: String
        var order = WatchOrder.goOn
    }

    enum WatchOrder {
        case goOn
        case disconnect
        case sendGone
        case sendBookmark
    }

    public let options: Options
    let state: Mutex<State>
    private let group: any EventLoopGroup

    public init(options: Options = Options(), group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton) {
        self.options = options
        self.group = group
        self.state = Mutex(State(store: FakeKubeStore(historyLimit: options.historyLimit), port: options.port))
    }

    /// Listens; returns when connections are accepted.
    /// - Parameter socket: one that is bound to `options.host` and `options.port` already, as in another network namespace.
    public func start(on socket: CInt? = nil) async throws {
        let context = try self.options.tls?.serverContext(
            requiresClientCertificate: self.options.requiresClientCertificate
        )
        let bootstrap = ServerBootstrap(group: self.group)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    if let context { try pipeline.addHandler(NIOSSLServerHandler(context: context)) }
                    try pipeline.configureHTTPServerPipeline(withPipeliningAssistance: false)
                    try pipeline.addHandler(HTTPResponseCompressor())
                    self.serve(try FakeKubeConnection.Client(wrappingChannelSynchronously: channel))
                }
            }
        let (server, port) = try await self.listen(bootstrap, on: socket)
        self.state.withLock { state in
            state.port = port
            state.listener = server
        }
    }

    /// A port asked for, or one below those that the kernel gives to outgoing connections: such a connection could take
    /// the port between `stop` and the next `start`.
    private func listen(_ bootstrap: ServerBootstrap, on socket: CInt?) async throws -> (any Channel, Int) {
        let wanted = self.state.withLock { $0.port }
        if let socket { return (try await bootstrap.withBoundSocket(socket).get(), wanted) }
        if wanted != 0 {
            return (try await bootstrap.bind(host: self.options.host, port: wanted).get(), wanted)
        }
        for _ in 0..<64 {
            let port = Int.random(in: 20_000..<32_000)
            do {
                return (try await bootstrap.bind(host: self.options.host, port: port).get(), port)
            } catch let error as IOError where error.errnoCode == EADDRINUSE {
                continue
            }
        }
        throw IOError(errnoCode: EADDRINUSE, reason: "64 random ports of \(self.options.host) are taken")
    }

    private func serve(_ client: FakeKubeConnection.Client) {
        let number = self.state.withLock { state in
            state.connections += 1
            state.clients[state.connections] = client.channel
            return state.connections
        }
        // Ends with its channel, which `stop` closes.
        Task {
            try? await FakeKubeConnection(self, number: number).serve(client)
            self.state.withLock { $0.clients[number] = nil }
        }
    }

    /// Closes every connection and the listener; objects and port stay for the next `start`.
    public func stop() async {
        let listener = self.state.withLock { state in
            defer { state.listener = nil }
            return state.listener
        }
        try? await listener?.close()
        for client in self.state.withLock({ Array($0.clients.values) }) { try? await client.close() }
    }

    public var port: Int { self.state.withLock { $0.port } }
    public var url: String { "\(self.options.tls == nil ? "http" : "https")://\(self.options.host):\(self.port)" }
    public var requests: [FakeKubeRequest] { self.state.withLock { $0.requests } }
    public var openWatches: Int { self.state.withLock { $0.watches.count } }
    public func openWatches(of plural: String) -> Int {
        self.state.withLock { $0.watches.values.filter { $0.plural == plural }.count }
    }

    // MARK: Objects

    /// Creates or replaces an object by its kind, namespace and name. Kinds that are not known are ignored.
    public func apply(_ document: Document) {
        guard let (collection, key) = Self.place(of: document) else { return }
        self.change { state in
            _ = state.store.apply(document, to: collection.key, isBuiltIn: collection.isBuiltIn, key: key)
        }
    }

    /// Deletes by plural, such as `services`; false if there was no such object.
    @discardableResult
    public func delete(_ plural: String, namespace: String = "", name: String) -> Bool {
        self.change { $0.store.delete(plural, key: "\(namespace)/\(name)") }
    }

    /// Puts any bytes in place of an object.
    public func applyRaw(_ json: [UInt8], plural: String, namespace: String = "", name: String) {
        self.change { $0.store.applyRaw(json, to: plural, key: "\(namespace)/\(name)") }
    }

    /// `namespace/name` of all objects of a collection, sorted; the namespace is empty for cluster-scoped ones.
    public func keys(of plural: String) -> [String] { self.state.withLock { $0.store.keys(of: plural) } }

    /// An object as it is stored.
    public func json(_ plural: String, namespace: String = "", name: String) -> [UInt8]? {
        self.state.withLock { $0.store.object(plural, key: "\(namespace)/\(name)") }
    }

    // MARK: Behaviour

    public func inject(_ fault: FakeKubeFault) { self.state.withLock { $0.faults.append(fault) } }

    /// Ends all faults.
    public func heal() { self.state.withLock { $0.faults = [] } }

    /// Breaks off the connections of open watches, of one collection or all.
    public func dropWatches(of plural: String? = nil) { self.order(.disconnect, plural) }

    /// Sends an ERROR event with code 410 into open watches and ends them.
    public func failWatchesAsGone(of plural: String? = nil) { self.order(.sendGone, plural) }

    /// Sends a bookmark into open watches now.
    public func sendBookmarks() { self.order(.sendBookmark, nil) }

    /// Whether an open watch has yet to do what it was told.
    public var hasPendingOrders: Bool { self.state.withLock { $0.watches.values.contains { $0.order != .goOn } } }

    /// Forgets the history, so that watches from any older version get 410.
    public func compactHistory() { self.change { $0.store.compact() } }

    /// Makes all continue tokens that were handed out expire.
    public func expireContinueTokens() { self.state.withLock { $0.store.expireListings() } }

    /// Collections that answer 404, such as `endpointslices`, or with one version only, `v1/destinationrules`.
    public func setAbsent(_ plurals: Set<String>) { self.state.withLock { $0.absent = plurals } }

    /// Collections that answer 403.
    public func setForbidden(_ plurals: Set<String>) { self.state.withLock { $0.forbidden = plurals } }

    /// Collections that list nothing though they hold objects.
    public func setHidden(_ plurals: Set<String>) { self.state.withLock { $0.hidden = plurals } }

    /// `Authorization` headers that are accepted, such as `Bearer abc`; nil accepts everybody. Others get 401.
    public func setAuthorizations(_ values: Set<String>?) { self.state.withLock { $0.authorizations = values } }

    /// What an expired continue token is answered with: it lists the rest as it is now.
    public static let inconsistentToken = "inconsistent"

    // MARK: Inside

    @discardableResult
    private func change<Result: Sendable>(_ body: (inout State) -> Result) -> Result {
        let (result, wakes) = self.state.withLock { state in
            let result = body(&state)
            return (result, state.watches.values.map(\.wake))
        }
        for wake in wakes { wake.yield() }
        return result
    }

    private func order(_ order: WatchOrder, _ plural: String?) {
        self.change { state in
            for (id, watch) in state.watches where plural == nil || watch.plural == plural {
                state.watches[id]?.order = order
            }
        }
    }

    private static func place(of document: Document) -> (collection: FakeCollection, key: String)? {
        guard let kind = document["kind"]?.string, let name = document["metadata"]?["name"]?.string,
            let collection = FakeCollection.of(kind: kind, apiVersion: document["apiVersion"]?.string ?? "")
        else { return nil }
        return (collection, "\(document["metadata"]?["namespace"]?.string ?? "")/\(name)")
    }
}
