import Documents
import KubeModel
import MeshCore
import Testing

@Suite("Objects, at random")
struct RoundTripTests {
    @Test("what is written reads back the same", arguments: 0..<4)
    func roundTrips(stream: UInt64) throws {
        let seed = 0x0B1EC7 &+ stream
        var random = RandomObjects(generator: SeededGenerator(seed: seed))
        for round in 0..<200 {
            let object = random.object()
            let text = object.document.jsonText()
            let read = try ClusterObject.decode(Document.parseJSON(text.utf8))
            #expect(read == [object], "seed \(seed), round \(round): \(text)")
            let item = try ClusterObject.decodeItem(kind: object.kind, document: object.document)
            #expect(item == object, "seed \(seed), round \(round)")
        }
    }

    @Test("objects with fields swapped, dropped and retyped give an object or an error, never a trap")
    func mutations() {
        let seed: UInt64 = 0x0B1EC7_FF
        var random = RandomObjects(generator: SeededGenerator(seed: seed))
        var accepted = 0
        for _ in 0..<3000 {
            let object = random.object()
            let mutated = random.mutate(object.document)
            if (try? ClusterObject.decodeItem(kind: object.kind, document: mutated)) != nil { accepted += 1 }
        }
        #expect((300..<2900).contains(accepted), "seed \(seed): \(accepted) of 3000 accepted")
    }
}

/// Objects within what their kind can say in the API.
struct RandomObjects {
    var generator: SeededGenerator

    private mutating func chance() -> Bool { .random(using: &self.generator) }
    private mutating func number(_ range: ClosedRange<Int>) -> Int { .random(in: range, using: &self.generator) }
    private mutating func port() -> UInt16 { .random(in: 1...65535, using: &self.generator) }
    private mutating func name() -> String { "n\(self.number(0...9999))" }
    private mutating func maybe(_ text: String) -> String? { self.chance() ? text : nil }
    private mutating func list<Element>(_ make: (inout RandomObjects) -> Element) -> [Element] {
        (0..<self.number(0...3)).map { _ in make(&self) }
    }
    private mutating func transport() -> TransportProtocol { [.tcp, .udp, .sctp][self.number(0...2)] }
    private mutating func address() -> IPAddress {
        self.chance()
            ? .v4(IPv4Address(rawValue: UInt32.random(in: 0 ... .max, using: &self.generator)))
            : .v6(IPv6Address(high: self.generator.next(), low: self.generator.next()))
    }
    private mutating func blocks() -> [CIDR] {
        self.list { CIDR($0.address(), prefixLength: $0.number(0...32)) }.compactMap { $0 }
    }
    private mutating func objectName() -> ObjectName { ObjectName(namespace: self.name(), name: self.name()) }

    mutating func object() -> ClusterObject {
        switch self.number(0...6) {
        case 0: .service(self.service())
        case 1: .endpoints(self.endpoints())
        case 2: .endpointSlice(self.slice())
        case 3: .node(self.node())
        case 4: .namespace(NamespaceObject(name: self.name()))
        case 5: .pod(self.pod())
        default: .destinationRule(self.rule())
        }
    }

    private mutating func service() -> ServiceObject {
        var service = ServiceObject(name: self.objectName())
        service.type = [.clusterIP, .nodePort, .loadBalancer, .externalName][self.number(0...3)]
        if service.type == .externalName {
            service.externalName = "x.example"
        } else {
            service.isHeadless = self.chance()
            if !service.isHeadless { service.clusterIPs = self.list { $0.address() } }
        }
        for index in 0..<self.number(0...3) {
            service.ports.append(
                ServiceObject.Port(
                    name: "p\(index)",
                    transport: self.transport(),
                    port: UInt16(index * 1000 + self.number(1...1000)),
                    nodePort: self.chance() ? self.port() : 0,
                    targetPort: self.chance() ? .name(self.name()) : .number(self.port()),
                    appProtocol: self.maybe("http")
                )
            )
        }
        if self.chance() { service.selector = ["app": self.name()] }
        service.externalIPs = self.list { $0.address() }
        service.loadBalancerIngress = self.list { $0.address() }
        service.loadBalancerSourceRanges = self.blocks()
        service.clientIPAffinitySeconds = self.chance() ? self.number(1...86400) : nil
        service.internalTrafficPolicy = self.chance() ? .local : .cluster
        service.externalTrafficPolicy = self.chance() ? .local : .cluster
        service.publishNotReadyAddresses = self.chance()
        service.trafficDistribution = self.maybe("PreferClose")
        service.filterLabels = ServiceObject.FilterLabels(rawValue: UInt8(self.number(0...7)))
        return service
    }

    private mutating func ports() -> [EndpointPort] {
        self.list {
            EndpointPort(
                name: $0.maybe($0.name()) ?? "",
                transport: $0.transport(),
                port: $0.port(),
                appProtocol: $0.maybe("http")
            )
        }
    }

    private mutating func endpoints() -> EndpointsObject {
        let groups = self.list { random in
            var endpoints: [Endpoint] = []
            for conditions in [[.ready, .serving], []] as [EndpointConditions] {
                endpoints += random.list {
                    Endpoint(
                        address: $0.address(),
                        conditions: conditions,
                        nodeName: $0.maybe($0.name()),
                        hostname: $0.maybe($0.name()),
                        podName: $0.maybe($0.name())
                    )
                }
            }
            return EndpointGroup(ports: random.ports(), endpoints: endpoints)
        }
        return EndpointsObject(name: self.objectName(), groups: groups)
    }

    private mutating func slice() -> EndpointSliceObject {
        let endpoints = self.list {
            Endpoint(
                address: $0.address(),
                conditions: EndpointConditions(rawValue: UInt8($0.number(0...7))),
                nodeName: $0.maybe($0.name()),
                zone: $0.maybe("z"),
                hostname: $0.maybe($0.name()),
                podName: $0.maybe($0.name()),
                zoneHints: $0.list { $0.name() }
            )
        }
        return EndpointSliceObject(
            name: self.objectName(),
            serviceName: self.name(),
            group: EndpointGroup(ports: self.ports(), endpoints: endpoints)
        )
    }

    private mutating func node() -> NodeObject {
        var node = NodeObject(name: self.name())
        node.internalIPs = self.list { $0.address() }
        node.podCIDRs = self.blocks()
        node.zone = self.maybe("z")
        node.region = self.maybe("r")
        return node
    }

    private mutating func pod() -> PodObject {
        var pod = PodObject(name: self.objectName())
        if self.chance() { pod.labels = ["app": self.name()] }
        pod.podIPs = self.list { $0.address() }
        pod.nodeName = self.maybe(self.name())
        pod.hostname = self.maybe(self.name())
        pod.subdomain = self.maybe(self.name())
        pod.isReady = self.chance()
        pod.isTerminating = self.chance()
        pod.containerPorts = self.list {
            .init(name: $0.maybe($0.name()) ?? "", transport: $0.transport(), port: $0.port())
        }
        return pod
    }

    private mutating func balancer() -> DestinationRuleObject.LoadBalancer {
        if self.chance() { return .simple("ROUND_ROBIN") }
        let keys: [DestinationRuleObject.ConsistentHash.Key] = [
            .sourceIP, .httpHeader("X"), .httpQueryParameter("q"),
            .httpCookie(name: "c", path: self.maybe("/p"), ttl: nil),
            .httpCookie(name: "c", path: nil, ttl: Double(self.number(0...99))),
        ]
        let algorithms: [DestinationRuleObject.ConsistentHash.Algorithm] = [
            .ring(minimumSize: nil), .ring(minimumSize: 1024), .maglev(tableSize: nil), .maglev(tableSize: 101),
        ]
        return .consistentHash(.init(key: keys[self.number(0...4)], algorithm: algorithms[self.number(0...3)]))
    }

    private mutating func rule() -> DestinationRuleObject {
        var rule = DestinationRuleObject(name: self.objectName(), host: self.name())
        if self.chance() { rule.loadBalancer = self.balancer() }
        for _ in 0..<self.number(0...2) { rule.portLoadBalancers[self.port()] = self.balancer() }
        if self.chance() {
            var locality = DestinationRuleObject.LocalitySetting()
            locality.isEnabled = self.chance()
            for _ in 0..<self.number(0...2) {
                locality.distribute.append(.init(from: "\(self.name())/*", to: ["*": UInt32(self.number(0...100))]))
            }
            if self.chance() { locality.failover[self.name()] = self.name() }
            if self.chance() { locality.failoverPriority = [self.name(), "a=b"] }
            rule.locality = locality
        }
        return rule
    }

    // MARK: Mutation

    /// The document with one value, picked on a random way down, replaced or dropped.
    mutating func mutate(_ document: Document) -> Document {
        switch document.content {
        case .object(var members) where !members.isEmpty && self.number(0...9) > 0:
            let index = self.number(0...(members.count - 1))
            if self.number(0...9) == 0 {
                members.remove(at: index)
            } else {
                members[index].value = self.mutate(members[index].value)
            }
            return .object(members)
        case .array(var elements) where !elements.isEmpty && self.number(0...9) > 0:
            let index = self.number(0...(elements.count - 1))
            elements[index] = self.mutate(elements[index])
            return .array(elements)
        default:
            let values: [Document] = [
                nil, true, -1, 0, 65536, .integer(Int64.min), 1e300, "", "None", "yes", "10.0.0.1/40",
                "99999999999999999999", [],
                [nil], [[]], [:], ["a": 1], ["name": "x"],
            ]
            return values[self.number(0...(values.count - 1))]
        }
    }
}
