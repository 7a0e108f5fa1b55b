import Documents
import GatewayRouting
import Glibc
import KubeClient
import KubeModel
import Logging
import MeshCore

/// Keeps the status of GatewayClasses, Gateways and routes in the cluster as the plan has it.
///
/// An object is read when what is to be said of it has changed, and now and then; it is written only if it says something else.
/// Several gateways with one `controllerName` say the same of the same objects, and leave each other's addresses alone. One that
/// serves at an address no more takes it away, and looks again soon: the address may have moved to another gateway, or back.
actor GatewayStatusWriter {
    /// What is to be said, and where this process serves what.
    struct Report: Sendable {
        var statuses: [GatewayStatus]
        var controllerName: String
        /// By Gateway.
        var addresses: [ObjectName: [IPAddress]] = [:]
    }

    private struct Key: Hashable {
        var kind: ObjectKind
        var name: ObjectName
    }

    private struct Said: Hashable {
        var status: GatewayStatus
        var addresses: [IPAddress]
        var controllerName: String
    }

    /// Between looks at objects of which nothing new is to be said, and at what failed.
    private static let lookInterval = Duration.seconds(600)
    private static let retryInterval = Duration.seconds(30)
    /// When to look again after addresses have changed.
    private static let settleInterval = Duration.seconds(30)

    /// `StatusPatcher.update`.
    typealias Update =
        @Sendable (ObjectKind, ObjectName, @escaping @Sendable (Document) -> Document?) async throws -> Bool

    private let update: Update
    private let report: @Sendable () async -> Report?
    private let logger: Logger
    private var said: [Key: (said: Said, lookAt: MonotonicTime)] = [:]
    /// Where this process has said that it serves each Gateway, or may have.
    private var served: [Key: Set<IPAddress>] = [:]
    private var lastFailure = ""
    private var pausedUntil: MonotonicTime?
    private(set) var writes: UInt64 = 0

    /// - Parameter report: what is to be said now; nil while that is not known for sure.
    init(update: @escaping Update, report: @escaping @Sendable () async -> Report?, logger: Logger) {
        self.update = update
        self.report = report
        self.logger = logger
    }

    /// Writes until cancelled, at each signal and now and then.
    func run(_ signals: AsyncStream<Void>) async throws {
        for await _ in signals {
            try Task.checkCancellation()
            if let pausedUntil, pausedUntil > .now() { continue }
            self.pausedUntil = nil
            if let report = await self.report() { await self.write(report) }
        }
        try Task.checkCancellation()
    }

    private func write(_ report: Report) async {
        var wanted: [Key: Said] = [:]
        for status in report.statuses {
            wanted[Key(kind: status.kind, name: status.name)] = Said(
                status: status,
                addresses: (report.addresses[status.name] ?? []).sorted(),
                controllerName: report.controllerName
            )
        }
        for (key, former) in self.said where wanted[key] == nil {
            // A route that no Gateway of ours is named by any more; of what is gone nothing is found.
            self.said[key] = nil
            self.served[key] = nil
            var last = former.said
            last.status.parents = []
            guard ![.gateway, .gatewayClass].contains(key.kind) else { continue }
            _ = await self.say(last, of: key)
        }
        let now = MonotonicTime.now()
        for (key, said) in wanted {
            let former = self.said[key]
            if let former, former.said == said, now < former.lookAt { continue }
            guard !Task.isCancelled else { return }
            if !said.addresses.isEmpty { self.served[key, default: []].formUnion(said.addresses) }
            guard await self.say(said, of: key) else {
                self.pausedUntil = .now() + Self.retryInterval
                return
            }
            if !said.addresses.isEmpty || self.served[key] != nil { self.served[key] = Set(said.addresses) }
            let hasMoved = former?.said.addresses ?? [] != said.addresses
            self.said[key] = (said, .now() + (hasMoved ? Self.settleInterval : Self.lookInterval))
        }
    }

    private func say(_ said: Said, of key: Key) async -> Bool {
        let document = GatewayStatusDocument(
            desired: said.status,
            controllerName: said.controllerName,
            addresses: said.addresses,
            formerAddresses: (self.served[key] ?? []).subtracting(said.addresses)
        )
        do {
            let now = Self.timestamp()
            if try await self.update(key.kind, key.name, { document.change(of: $0, now: now) }) { self.writes += 1 }
            self.lastFailure = ""
            return true
        } catch {
            // The same cause fails all of them: it is told once.
            let failure = (error as? KubeError).map { "\($0.code)" } ?? "\(error)"
            if failure != self.lastFailure, !Task.isCancelled {
                self.logger.warning(
                    "the status of gateways and routes is not written; it is tried again",
                    metadata: ["error": "\(error)"]
                )
            }
            self.lastFailure = failure
            return false
        }
    }

    /// RFC 3339, as the API server writes it.
    private static func timestamp() -> String {
        var now = time(nil)
        var parts = tm()
        gmtime_r(&now, &parts)
        var text = [CChar](repeating: 0, count: 32)
        let length = strftime(&text, text.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
        return String(decoding: text.prefix(length).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
