import HashTreeCollections
import KubeModel
import LoadBalancing
import MeshCore
import ServiceCatalog
import Testing

@Suite("Catalog against a naive rebuild")
struct CatalogPropertyTests {
    /// What a source holds after all it has said.
    private struct Model {
        var objects: [ObjectSource: [CatalogSnapshot.RejectedKey: ClusterObject]] = [.api: [:], .manifests: [:]]

        func inForce() -> [(ObjectSource, ClusterObject)] {
            let api = self.objects[.api] ?? [:]
            let manifests = (self.objects[.manifests] ?? [:]).filter { api[$0.key] == nil }
            return api.values.map { (.api, $0) } + manifests.values.map { (.manifests, $0) }
        }
    }

    private static let names = ["a", "b", "c"]

    private func randomObject(using generator: inout SeededGenerator) -> ClusterObject {
        func pick<T>(_ choices: [T]) -> T { choices[Int.random(in: choices.indices, using: &generator)] }
        let namespace = pick(["d", "e"])
        let own = "\(namespace)/\(pick(Self.names))"
        let addresses = (0..<Int.random(in: 0..<4, using: &generator)).map { _ in
            ip(Int.random(in: 1..<6, using: &generator), 2)
        }
        let nodeName = pick(["n1", "n2", nil])
        switch Int.random(in: 0..<8, using: &generator) {
        case 0, 1:
            let isHeadless = Bool.random(using: &generator)
            let address = pick([ip(1), ip(2), ip(3)])
            let labels = pick([[], .edgeMeshProxyName, .headless] as [ServiceObject.FilterLabels])
            return service(own, clusterIP: isHeadless ? nil : address) {
                $0.isHeadless = isHeadless
                $0.filterLabels = labels
            }
        case 2, 3:
            return slice(
                "\(namespace)/s\(pick(Self.names))",
                of: pick(Self.names),
                addresses,
                port: pick([80, 81]),
                node: nodeName,
                zone: pick([nil, "own"]),
                conditions: pick([[.ready, .serving], [.serving]])
            )
        case 4: return endpointsObject(own, addresses, node: nodeName)
        case 5: return node(pick(["n1", "n2"]), zone: pick(["x", "y", nil]))
        case 6: return .namespace(NamespaceObject(name: pick(["d", "e", "f"])))
        default:
            let host = pick(["a", "b", "c.e", "*.d", "*", "a.d.svc.cluster.local", "example.org."])
            return rule(own, host: host, pick(["RANDOM", "LEAST_CONN", "NO", nil]))
        }
    }

    private func randomBatch(
        _ model: inout Model,
        from source: ObjectSource,
        using generator: inout SeededGenerator
    ) -> [SourceEvent] {
        var known = model.objects[source] ?? [:]
        var events: [SourceEvent] = []
        for _ in 0..<Int.random(in: 1..<5, using: &generator) {
            let object = self.randomObject(using: &generator)
            let key = CatalogSnapshot.RejectedKey(kind: object.kind, name: object.name)
            switch Int.random(in: 0..<10, using: &generator) {
            case 0...5:
                known[key] = object
                events.append(object.upsert)
            case 6, 7, 8:
                known[key] = nil
                events.append(object.deletion)
            default:
                // A listing that names about half of what was there, and a new object.
                events.append(.syncBegan(object.kind))
                let ofKind = known.filter { $0.key.kind == object.kind }
                for (key, object) in ofKind.sorted(by: { $0.key.name < $1.key.name }) {
                    if Bool.random(using: &generator) {
                        events.append(object.upsert)
                    } else {
                        known[key] = nil
                    }
                }
                known[key] = object
                events.append(object.upsert)
                events.append(.syncEnded(object.kind))
            }
        }
        model.objects[source] = known
        return events
    }

    private func expectEqual(_ actual: CatalogSnapshot, _ expected: CatalogSnapshot, _ comment: Comment) {
        #expect(actual.services == expected.services, comment)
        #expect(actual.namespaces == expected.namespaces, comment)
        #expect(actual.nodes == expected.nodes, comment)
        #expect(actual.destinationRules == expected.destinationRules, comment)
        #expect(actual.servicesByClusterIP == expected.servicesByClusterIP, comment)
        #expect(actual.headlessServicesByEndpoint == expected.headlessServicesByEndpoint, comment)
        #expect(actual.rejected == expected.rejected, comment)
        #expect(actual.warnings == expected.warnings, comment)
    }

    /// The lookups from their definition.
    private func expectLookups(_ snapshot: CatalogSnapshot, _ comment: Comment) {
        var byClusterIP: [IPAddress: ObjectName] = [:]
        var byEndpoint: [IPAddress: Set<ObjectName>] = [:]
        for (name, service) in snapshot.services {
            for address in service.object.clusterIPs { byClusterIP[address] = min(byClusterIP[address] ?? name, name) }
            guard service.object.isHeadless else { continue }
            for endpoint in service.groups.flatMap(\.endpoints) {
                byEndpoint[endpoint.address, default: []].insert(name)
            }
        }
        #expect(Dictionary(uniqueKeysWithValues: Array(snapshot.servicesByClusterIP)) == byClusterIP, comment)
        #expect(
            Dictionary(uniqueKeysWithValues: Array(snapshot.headlessServicesByEndpoint))
                == byEndpoint.mapValues { $0.sorted() },
            comment
        )
    }

    @Test("any sequence of events ends as its outcome does", arguments: 0..<40 as Range<UInt64>)
    func sequences(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let catalog = ClusterCatalog()
        let log = UpdateLog()
        let subscription = catalog.subscribe { log.record($0) }
        var model = Model()
        var previous = catalog.snapshot
        for step in 0..<60 {
            let source: ObjectSource = Bool.random(using: &generator) ? .api : .manifests
            catalog.apply(self.randomBatch(&model, from: source, using: &generator), from: source)
            let comment: Comment = "seed \(seed) step \(step)"
            let snapshot = catalog.snapshot

            let naive = ClusterCatalog()
            for (source, object) in model.inForce().sorted(by: {
                ($0.1.kind.rawValue, $0.1.name) < ($1.1.kind.rawValue, $1.1.name)
            }).shuffled(using: &generator) {
                naive.apply([object.upsert], from: source)
            }
            self.expectEqual(snapshot, naive.snapshot, comment)
            self.expectLookups(snapshot, comment)

            let names = Set(previous.services.keys).union(snapshot.services.keys)
            let changed = names.filter { previous.services[$0] != snapshot.services[$0] }
            let told = log.take().reduce(into: Set<ObjectName>()) { $0.formUnion($1.changedServices) }
            if step > 0 { #expect(told == changed, comment) }
            previous = snapshot
        }
        subscription.cancel()
    }
}
