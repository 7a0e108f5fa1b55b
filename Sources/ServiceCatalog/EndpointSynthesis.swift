import KubeModel
import MeshCore

/// Makes EndpointSlices of pods, as the cluster's endpoint controller does, for manifests that give none.
enum EndpointSynthesis {
    /// Slices for the services that select pods and are not in `given`.
    static func slices(
        services: [ServiceObject],
        pods: [PodObject],
        given: Set<ObjectName>
    ) -> [EndpointSliceObject] {
        let podsByNamespace = Dictionary(grouping: pods) { $0.name.namespace }
        return services.flatMap { service -> [EndpointSliceObject] in
            guard !service.selector.isEmpty, service.type != .externalName, !given.contains(service.name) else {
                return []
            }
            let selected = (podsByNamespace[service.name.namespace] ?? []).filter { pod in
                service.selector.allSatisfy { pod.labels[$0.key] == $0.value }
            }
            return self.slices(of: service, pods: selected.sorted { $0.name < $1.name })
        }
    }

    /// One slice for each combination of port numbers: the same named port may be another number in another pod.
    private static func slices(of service: ServiceObject, pods: [PodObject]) -> [EndpointSliceObject] {
        var groups: [EndpointGroup] = []
        for pod in pods {
            let ports = service.ports.compactMap { self.port($0, in: pod) }
            // A pod that has none of the ports serves nothing; a headless service without ports only names its pods.
            guard !ports.isEmpty || service.ports.isEmpty else { continue }
            let endpoints = self.addresses(of: pod, for: service).map { self.endpoint($0, of: pod, for: service) }
            if let index = groups.firstIndex(where: { $0.ports == ports }) {
                groups[index].endpoints += endpoints
            } else {
                groups.append(EndpointGroup(ports: ports, endpoints: endpoints))
            }
        }
        return groups.enumerated().map { index, group in
            let suffix = index == 0 ? "manifest" : "manifest-\(index + 1)"
            let name = ObjectName(namespace: service.name.namespace, name: "\(service.name.name)-\(suffix)")
            return EndpointSliceObject(name: name, serviceName: service.name.name, group: group)
        }
    }

    private static func port(_ port: ServiceObject.Port, in pod: PodObject) -> EndpointPort? {
        let number: UInt16
        switch port.targetPort {
        case .number(let given):
            number = given
        case .name(let name):
            let match = pod.containerPorts.first { $0.name == name && $0.transport == port.transport }
            guard let match else { return nil }
            number = match.port
        }
        return EndpointPort(name: port.name, transport: port.transport, port: number, appProtocol: port.appProtocol)
    }

    /// The pod's addresses of the families that the service has; all of them for a service without an address.
    private static func addresses(of pod: PodObject, for service: ServiceObject) -> [IPAddress] {
        let families = Set(service.clusterIPs.map(\.family))
        return families.isEmpty ? pod.podIPs : pod.podIPs.filter { families.contains($0.family) }
    }

    private static func endpoint(_ address: IPAddress, of pod: PodObject, for service: ServiceObject) -> Endpoint {
        var conditions: EndpointConditions = []
        if pod.isReady { conditions.insert(.serving) }
        if pod.isReady, !pod.isTerminating { conditions.insert(.ready) }
        if pod.isTerminating { conditions.insert(.terminating) }
        return Endpoint(
            address: address,
            conditions: conditions,
            nodeName: pod.nodeName,
            // A pod has a name of its own only in the service that it names as its subdomain.
            hostname: pod.subdomain == service.name.name ? pod.hostname : nil,
            podName: pod.name.name
        )
    }
}
