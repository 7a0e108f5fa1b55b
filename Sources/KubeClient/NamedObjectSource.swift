public import KubeModel
public import Logging
public import MeshCore
public import NIOCore

/// Follows single objects by their names, and reads nothing else of their kinds: Secrets and ConfigMaps.
///
/// Each object has a connection of its own, by which it is listed and watched with `fieldSelector=metadata.name=NAME`.
public struct NamedObjectSource: Sendable {
    public struct Reference: Hashable, Sendable, Comparable, CustomStringConvertible {
        public var kind: ObjectKind
        public var name: ObjectName

        public init(_ kind: ObjectKind, _ name: ObjectName) {
            self.kind = kind
            self.name = name
        }

        public var description: String { "\(self.kind.rawValue) \(self.name)" }

        public static func < (lhs: Self, rhs: Self) -> Bool {
            (lhs.kind.rawValue, lhs.name) < (rhs.kind.rawValue, rhs.name)
        }
    }

    public enum Event: Sendable {
        /// The object as it is now; nil if there is none.
        case present(CredentialObject?)
        /// Why nothing new is known of it, in words.
        case failing(String)
    }

    /// The most objects that are followed; of more the first in order are.
    public static let maximumObjects = 256

    private let source: KubernetesSource
    private let gate: RequestGate
    private let logger: Logger

    public init(
        _ configuration: KubeConfiguration,
        options: KubernetesSource.Options = KubernetesSource.Options(),
        group: any EventLoopGroup,
        logger: Logger
    ) {
        self.source = KubernetesSource(configuration, options: options, group: group, logger: logger)
        self.gate = RequestGate(rate: options.requestsPerSecond, burst: options.burst)
        self.logger = logger
    }

    /// Follows what was asked for last, until cancelled. What nobody asks for any more is forgotten without an event.
    public func run(
        _ wanted: AsyncStream<Set<Reference>>,
        sink: @escaping @Sendable (Reference, Event) async -> Void
    ) async throws {
        var following = FollowedTasks<Reference>()
        defer { following.cancel() }
        for await references in wanted {
            let chosen = references.sorted().prefix(Self.maximumObjects)
            for reference in references.subtracting(chosen) {
                let most = "\(Self.maximumObjects) objects are followed already; this one is not"
                await sink(reference, .failing(most))
            }
            following.replace(with: chosen) { reference in Task { try await self.follow(reference, sink) } }
        }
        try Task.checkCancellation()
    }

    private func follow(
        _ reference: Reference,
        _ sink: @escaping @Sendable (Reference, Event) async -> Void
    ) async throws {
        let listing = Listing()
        let reflector = Reflector(
            transport: self.source.transport,
            gate: self.gate,
            machine: self.source.machine(for: .named(reference.kind, reference.name)),
            logger: self.logger,
            sink: { events in
                for event in events {
                    if let news = await listing.take(event, reference) { await sink(reference, news) }
                }
            },
            report: { health in
                switch health {
                case .failing(let message), .limited(let message): await sink(reference, .failing(message))
                case .connecting, .synced: break
                }
            }
        )
        try await reflector.run()
    }

    /// Whether a listing had the object.
    private actor Listing {
        private var hasSeen = false

        func take(_ event: SourceEvent, _ reference: Reference) -> Event? {
            switch event {
            case .syncBegan: self.hasSeen = false
            case .upsert(.credentials(let object)) where object.name == reference.name:
                self.hasSeen = true
                return .present(object)
            case .deleted(_, let name) where name == reference.name: return .present(nil)
            case .rejected(let rejection) where rejection.name == reference.name:
                self.hasSeen = true
                return .failing(rejection.reason)
            case .syncEnded: if !self.hasSeen { return .present(nil) }
            // A server that does not know the selector sends others, too.
            case .upsert, .deleted, .rejected, .status: break
            }
            return nil
        }
    }
}
