import Documents
import KubeModel
import Logging
import MeshCore
import MeshTesting
import Synchronization
import Testing

@testable import GatewayRouting
@testable import MeshApp

/// What is written of addresses and of policies, beside what others write.
@Suite(.timeLimit(.minutes(4))) struct GatewayStatusWriterTests {
    /// One object of a cluster, and what is to be said of it.
    private final class World: Sendable {
        let object: Mutex<Document>
        let report: Mutex<GatewayStatusWriter.Report>
        let looks = Mutex(0)

        init(_ object: Document, _ report: GatewayStatusWriter.Report) {
            self.object = Mutex(object)
            self.report = Mutex(report)
        }

        func setStatus(_ status: Document) {
            self.object.withLock { object in
                let others = (object.members ?? []).filter { $0.key != "status" }
                let former = (object["status"]?.members ?? []).filter { status[$0.key] == nil }
                object = .object(others + [.init("status", .object(former + (status.members ?? [])))])
            }
        }

        var addresses: [String] {
            self.object.withLock { ($0["status"]?["addresses"]?.array ?? []).compactMap { $0["value"]?.string } }
        }

        func update(_ change: (Document) -> Document?) -> Bool {
            self.looks.withLock { $0 += 1 }
            guard let status = change(self.object.withLock { $0 }) else { return false }
            self.setStatus(status)
            return true
        }
    }

    private static func resource(_ yaml: String) throws -> (GatewayResource, Document) {
        let document = try #require(try Document.parseYAML(Array(yaml.utf8)).first)
        let resources = try ClusterObject.decode(document).compactMap { object in
            if case .gateway(let resource) = object { resource } else { nil }
        }
        return (try #require(resources.first), document)
    }

    private static func addresses(_ texts: [String]) -> Document {
        .array(texts.map { ["type": "IPAddress", "value": .string($0)] })
    }

    /// Runs a writer for `body`, which wakes it.
    private static func write(
        _ world: World,
        _ body: (AsyncStream<Void>.Continuation) async throws -> Void
    ) async throws {
        let (signals, signal) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        let writer = GatewayStatusWriter(
            update: { _, _, change in world.update(change) },
            report: { world.report.withLock { $0 } },
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        )
        let running = Task { try await writer.run(signals) }
        defer { running.cancel() }
        try await body(signal)
    }

    @Test func addressesThatHaveMovedAreTakenAwayAndThoseOfOthersStay() async throws {
        let (resource, document) = try Self.resource(
            """
            apiVersion: gateway.networking.k8s.io/v1
            kind: Gateway
            metadata: {name: edge, namespace: shop, generation: 1}
            spec: {gatewayClassName: edge, listeners: []}
            status: {addresses: [{type: IPAddress, value: 192.0.2.77}]}
            """
        )
        func report(_ addresses: [String], _ generation: Int64 = 1) throws -> GatewayStatusWriter.Report {
            var status = GatewayStatus(resource)
            status.generation = generation
            status.conditions = [GatewayCondition("Accepted", true, "Accepted")]
            return .init(
                statuses: [status],
                controllerName: "c",
                addresses: [resource.name: try addresses.map { try #require(IPAddress($0)) }]
            )
        }
        let world = World(document, try report(["10.0.0.1", "10.0.0.2"]))
        try await Self.write(world) { signal in
            signal.yield()
            try await eventually("both are told") { world.addresses == ["192.0.2.77", "10.0.0.1", "10.0.0.2"] }
            let moved = try report(["10.0.0.2"])
            world.report.withLock { $0 = moved }
            signal.yield()
            try await eventually("one is taken away") { world.addresses == ["192.0.2.77", "10.0.0.2"] }
            // Another gateway has the address now.
            world.setStatus(["addresses": Self.addresses(["192.0.2.77", "10.0.0.2", "10.0.0.1"])])
            let (looks, later) = (world.looks.withLock { $0 }, try report(["10.0.0.2"], 2))
            world.report.withLock { $0 = later }
            signal.yield()
            try await eventually("it has looked again") { world.looks.withLock { $0 } > looks }
            #expect(world.addresses == ["192.0.2.77", "10.0.0.2", "10.0.0.1"])
            let nowhere = try report([], 2)
            world.report.withLock { $0 = nowhere }
            signal.yield()
            try await eventually("it serves nowhere") { world.addresses == ["192.0.2.77", "10.0.0.1"] }
        }
    }

    @Test func policiesTellTheirStateAtTheirGateways() throws {
        let (policy, _) = try Self.resource(
            """
            apiVersion: gateway.networking.k8s.io/v1
            kind: BackendTLSPolicy
            metadata: {name: p, namespace: shop, generation: 4}
            spec:
              targetRefs: [{group: "", kind: Service, name: web}]
              validation: {hostname: web.example, wellKnownCACertificates: System}
            """
        )
        let (route, _) = try Self.resource(
            """
            apiVersion: gateway.networking.k8s.io/v1
            kind: HTTPRoute
            metadata: {name: r, namespace: shop}
            spec: {parentRefs: [{name: edge, namespace: shop}]}
            """
        )
        let references = if case .route(let spec) = route.content { spec.parents } else { [ParentReference]() }
        var status = GatewayStatus(policy)
        let condition = GatewayCondition("Accepted", true, "Accepted")
        status.parents = references.map { GatewayStatus.Parent(reference: $0, conditions: [condition]) }
        let document = GatewayStatusDocument(desired: status, controllerName: "ours")
        let theirs: Document = ["ancestorRef": ["name": "x"], "controllerName": "theirs", "conditions": []]
        let object: Document = ["status": ["ancestors": [theirs]]]
        let change = try #require(document.change(of: object, now: "2024-01-01T00:00:00Z"))
        let ancestors = try #require(change["ancestors"]?.array)
        #expect((change.members ?? []).map(\.key) == ["ancestors"] && ancestors.count == 2 && ancestors[0] == theirs)
        #expect(ancestors[1]["ancestorRef"]?["kind"]?.string == "Gateway" && ancestors[1]["parentRef"] == nil)
        #expect(
            ancestors[1]["ancestorRef"]?["name"]?.string == "edge" && ancestors[1]["controllerName"]?.string == "ours"
        )
        #expect(ancestors[1]["conditions"]?.array?.first?["observedGeneration"]?.integer == 4)
        func isLeft(_ status: Document?, _ document: GatewayStatusDocument) -> Bool {
            if case .some = document.change(of: ["status": status ?? [:]], now: "2025-01-01T00:00:00Z") {
                false
            } else {
                true
            }
        }
        #expect(isLeft(change, document))

        status.parents = []
        let gone = GatewayStatusDocument(desired: status, controllerName: "ours")
        #expect(gone.change(of: ["status": change], now: "")?["ancestors"]?.array == [theirs])
        #expect(isLeft(nil, gone), "a policy that no Gateway of ours uses is left alone")
    }
}
