import Glibc
public import MeshCore

/// The kernel's table of flows, over ctnetlink, in the network namespace of the thread that makes this value.
///
/// Not Sendable: an event loop or a task has one of its own. A lookup is one `send` and one `recv`, tens of
/// microseconds, so that an event loop may call it.
public final class Conntrack {
    private static let get: UInt16 = 1 << 8 | 1
    static let delete: UInt16 = 1 << 8 | 2
    private static let statistics: UInt16 = 1 << 8 | 5

    let socket: NetlinkSocket

    public init(timeoutMilliseconds: Int = 1000) throws {
        self.socket = try NetlinkSocket(.netfilter, timeoutMilliseconds: timeoutMilliseconds)
    }

    /// A flow's original direction and who answers it.
    public struct Flow: Hashable, Sendable {
        public var transport: UInt8
        public var source: TransportAddress
        public var destination: TransportAddress
        /// Where replies come from: the backend, if the destination was translated.
        public var replySource: TransportAddress
        /// A packet of it has come back.
        public var isAnswered: Bool
        fileprivate var original: [UInt8]
    }

    /// Where the client sent the flow that reached `proxy`, before destination translation; nil if the kernel has no such flow.
    public func originalDestination(
        transport: TransportProtocol,
        client: TransportAddress,
        proxy: TransportAddress
    ) throws -> TransportAddress? {
        guard client.address.family == proxy.address.family else { return nil }
        do {
            let answer = try self.socket.request(type: Self.get, flags: [], what: "looking a flow up") { writer in
                writer.netfilterHeader(family: client.address.family.number)
                // The reply runs from the proxy to the client.
                writer.nested(2) { Self.write(transport.rawValue, from: proxy, to: client, into: &$0) }
            }
            guard let answer else { return nil }
            return try Self.parse(answer)?.destination
        } catch {
            guard error.errno == ENOENT else { throw error }
            return nil
        }
    }

    /// Calls `each` with every flow of a family as the kernel lists them, or of one protocol. The kernel's table is as large as
    /// `nf_conntrack_max`.
    public func forEachFlow(
        _ family: IPFamily,
        _ transport: TransportProtocol? = nil,
        _ each: (Flow) -> Void
    ) throws {
        try self.socket.dump(
            type: Self.get,
            what: "listing flows",
            { writer in
                writer.netfilterHeader(family: family.number)
                // The kernel filters since Linux 5.8; an older one lists all.
                guard let transport else { return }
                writer.nested(1) { $0.nested(2) { $0.attribute(1, native: transport.rawValue) } }
                writer.nested(25) {
                    $0.attribute(1, native: UInt32(1 << 3))
                    $0.attribute(2, native: UInt32(0))
                }
            },
            each: { (message) throws(LinuxNetworkError) in
                guard let flow = try Self.parse(message), transport == nil || flow.transport == transport?.rawValue
                else {
                    return
                }
                each(flow)
            }
        )
    }

    /// Flows that are gathered before they are deleted, each some 100 bytes.
    private static let deletionBatch = 65_536
    private static let maximumPasses = 64
    /// Deletions sent at once. Each may be answered by an error of some 40 bytes: together less than the receive buffer.
    private static let deletionMessages = 2_048

    /// Deletes the flows that `stale` names, so that the next packet is balanced anew; returns how many there were.
    @discardableResult
    public func deleteFlows(
        _ family: IPFamily,
        _ transport: TransportProtocol,
        where stale: (Flow) -> Bool
    ) throws -> Int {
        var total = 0
        for _ in 0..<Self.maximumPasses {
            var doomed: [[UInt8]] = []
            try self.forEachFlow(family, transport) { flow in
                if doomed.count < Self.deletionBatch, stale(flow) { doomed.append(flow.original) }
            }
            total += try self.delete(doomed, family)
            if doomed.count < Self.deletionBatch { break }
        }
        return total
    }

    private func delete(_ tuples: [[UInt8]], _ family: IPFamily) throws(LinuxNetworkError) -> Int {
        var deleted = 0
        var rest = tuples[...]
        while !rest.isEmpty {
            let chunk = rest.prefix(Self.deletionMessages)
            rest = rest.dropFirst(chunk.count)
            let first = self.socket.reserveSequences(chunk.count)
            var writer = NetlinkWriter(reserving: 16 << 10)
            for (index, tuple) in chunk.enumerated() {
                let isLast = index == chunk.count - 1
                writer.begin(
                    type: Self.delete,
                    flags: isLast ? [.request, .ack] : .request,
                    sequence: first &+ UInt32(truncatingIfNeeded: index)
                )
                writer.netfilterHeader(family: family.number)
                writer.attribute(1 | 0x8000, tuple)
                writer.end()
            }
            // Flows end by themselves meanwhile.
            let gone = try self.socket.pipeline(
                try writer.finished(),
                first: first,
                last: first &+ UInt32(truncatingIfNeeded: chunk.count - 1),
                tolerating: ENOENT,
                what: "deleting flows"
            )
            deleted += chunk.count - gone
        }
        return deleted
    }

    /// The number of flows in this namespace.
    public func count() throws -> Int {
        let answer = try self.socket.request(type: Self.statistics, flags: [], what: "counting flows") {
            $0.netfilterHeader(family: 0)
        }
        guard let payload = answer?.payload else { return 0 }
        return try NetlinkAttributes(payload.dropFirst(4)).network(1, UInt32.self).map(Int.init) ?? 0
    }

    private static func write(
        _ transport: UInt8,
        from source: TransportAddress,
        to destination: TransportAddress,
        into writer: inout NetlinkWriter
    ) {
        let isV4 = source.address.family == .v4
        writer.nested(1) {
            $0.attribute(isV4 ? 1 : 3, source.address.networkBytes)
            $0.attribute(isV4 ? 2 : 4, destination.address.networkBytes)
        }
        writer.nested(2) {
            $0.attribute(1, native: transport)
            $0.attribute(2, network: source.port)
            $0.attribute(3, network: destination.port)
        }
    }

    private static func parse(_ message: NetlinkMessage) throws(LinuxNetworkError) -> Flow? {
        let attributes = try NetlinkAttributes(message.payload.dropFirst(4))
        guard let bytes = attributes[1], let original = try Self.tuple(attributes, 1),
            let reply = try Self.tuple(attributes, 2)
        else { return nil }
        return Flow(
            transport: original.transport,
            source: original.source,
            destination: original.destination,
            replySource: reply.source,
            isAnswered: (attributes.network(3, UInt32.self) ?? 0) & Self.seenReply != 0,
            original: Array(bytes)
        )
    }

    private static func tuple(
        _ attributes: NetlinkAttributes,
        _ type: UInt16
    ) throws(LinuxNetworkError) -> (transport: UInt8, source: TransportAddress, destination: TransportAddress)? {
        guard let tuple = try attributes.nested(type), let addresses = try tuple.nested(1),
            let transport = try tuple.nested(2), let number = transport.native(1, UInt8.self),
            let sourceBytes = addresses[1] ?? addresses[3], let source = IPAddress(networkBytes: sourceBytes),
            let destinationBytes = addresses[2] ?? addresses[4],
            let destination = IPAddress(networkBytes: destinationBytes)
        else { return nil }
        // ICMP has no ports.
        return (
            number, TransportAddress(source, transport.network(2, UInt16.self) ?? 0),
            TransportAddress(destination, transport.network(3, UInt16.self) ?? 0)
        )
    }
}

extension IPFamily {
    /// `AF_INET`, `AF_INET6`.
    var number: UInt8 { self == .v4 ? 2 : 10 }
}
