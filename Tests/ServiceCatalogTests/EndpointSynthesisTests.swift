import KubeModel
import MeshCore
import Testing

@testable import ServiceCatalog

@Suite("Endpoints made of pods")
struct EndpointSynthesisTests {
    private func pod(
        _ text: String,
        _ addresses: [IPAddress],
        labels: [String: String] = ["app": "web"],
        configure: (inout PodObject) -> Void = { _ in }
    ) -> PodObject {
        var pod = PodObject(name: name(text))
        pod.labels = labels
        pod.podIPs = addresses
        configure(&pod)
        return pod
    }

    private func web(configure: (inout ServiceObject) -> Void = { _ in }) -> ServiceObject {
        var service = ServiceObject(name: name("d/web"))
        service.selector = ["app": "web"]
        service.clusterIPs = [ip(1)]
        service.ports = [ServiceObject.Port(name: "http", port: 80, targetPort: .number(8080))]
        configure(&service)
        return service
    }

    private func slices(
        _ service: ServiceObject,
        _ pods: [PodObject],
        given: Set<ObjectName> = []
    ) -> [EndpointSliceObject] {
        EndpointSynthesis.slices(services: [service], pods: pods, given: given)
    }

    @Test("pods of the namespace whose labels match are endpoints, in order of name")
    func selection() {
        let pods = [
            self.pod("d/b", [ip(2)], labels: ["app": "web", "tier": "front"]), self.pod("d/a", [ip(1)]),
            self.pod("d/other", [ip(3)], labels: ["app": "db"]), self.pod("e/a", [ip(4)]), self.pod("d/none", []),
        ]
        let slices = self.slices(self.web(), pods)
        #expect(slices.map(\.name) == [name("d/web-manifest")] && slices.map(\.serviceName) == ["web"])
        #expect(slices.first?.group.ports == [EndpointPort(name: "http", port: 8080)])
        #expect(slices.first?.group.endpoints.map(\.address) == [ip(1), ip(2)])
        #expect(slices.first?.group.endpoints.map(\.podName) == ["a", "b"])
    }

    @Test("no slices for services without a selector, with given endpoints, or with an external name")
    func exempt() {
        let pods = [self.pod("d/a", [ip(1)])]
        #expect(self.slices(self.web { $0.selector = [:] }, pods).isEmpty)
        #expect(self.slices(self.web(), pods, given: [name("d/web")]).isEmpty)
        #expect(self.slices(self.web { $0.type = .externalName }, pods).isEmpty)
        #expect(self.slices(self.web(), []).isEmpty)
    }

    @Test("named ports are looked up in each pod; different numbers make different slices")
    func namedPorts() {
        func container(_ port: UInt16, _ transport: TransportProtocol = .tcp) -> [PodObject.ContainerPort] {
            [PodObject.ContainerPort(name: "web", transport: transport, port: port)]
        }
        let service = self.web {
            $0.ports = [
                ServiceObject.Port(name: "http", port: 80, targetPort: .name("web")),
                ServiceObject.Port(name: "metrics", port: 90, targetPort: .number(9090)),
            ]
        }
        let pods = [
            self.pod("d/a", [ip(1)]) { $0.containerPorts = container(8080) },
            self.pod("d/b", [ip(2)]) { $0.containerPorts = container(8081) },
            self.pod("d/c", [ip(3)]) { $0.containerPorts = container(8080) },
            self.pod("d/d", [ip(4)]) { $0.containerPorts = container(8080, .udp) },
        ]
        let slices = self.slices(service, pods)
        #expect(slices.map(\.name.name) == ["web-manifest", "web-manifest-2", "web-manifest-3"])
        #expect(slices.map { $0.group.ports.map(\.port) } == [[8080, 9090], [8081, 9090], [9090]])
        #expect(slices.map { $0.group.endpoints.map(\.address) } == [[ip(1), ip(3)], [ip(2)], [ip(4)]])
        let onlyNamed = self.web { $0.ports = [ServiceObject.Port(port: 80, targetPort: .name("web"))] }
        #expect(self.slices(onlyNamed, [pods[3]]).isEmpty)
    }

    @Test("a headless service without ports still names its pods")
    func headlessWithoutPorts() {
        let service = self.web {
            $0.ports = []
            $0.clusterIPs = []
            $0.isHeadless = true
        }
        let slices = self.slices(service, [self.pod("d/a", [ip(1)])])
        #expect(slices.first?.group.ports == [] && slices.first?.group.endpoints.count == 1)
    }

    @Test(
        "conditions",
        arguments: [
            (true, false, [.ready, .serving]), (false, false, []), (true, true, [.serving, .terminating]),
            (false, true, [.terminating]),
        ] as [(Bool, Bool, EndpointConditions)]
    )
    func conditions(isReady: Bool, isTerminating: Bool, expected: EndpointConditions) {
        let pod = self.pod("d/a", [ip(1)]) {
            $0.isReady = isReady
            $0.isTerminating = isTerminating
        }
        #expect(self.slices(self.web(), [pod]).first?.group.endpoints.first?.conditions == expected)
    }

    @Test("host names count only in the subdomain's service; addresses only of the service's families")
    func hostnamesAndFamilies() throws {
        let v6 = try #require(IPAddress("fd00::1"))
        let pod = self.pod("d/a", [ip(1), v6]) {
            $0.hostname = "db-0"
            $0.subdomain = "web"
        }
        #expect(self.slices(self.web(), [pod]).first?.group.endpoints.map(\.address) == [ip(1)])
        #expect(self.slices(self.web(), [pod]).first?.group.endpoints.first?.hostname == "db-0")
        let dual = self.web { $0.clusterIPs = [ip(1), v6] }
        #expect(self.slices(dual, [pod]).first?.group.endpoints.map(\.address) == [ip(1), v6])
        var elsewhere = pod
        elsewhere.subdomain = "other"
        #expect(self.slices(self.web(), [elsewhere]).first?.group.endpoints.first?.hostname == nil)
    }
}
