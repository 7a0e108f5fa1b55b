public import Documents

/// Cluster objects as an API server would hold them, for tests and benchmarks.
public enum FakeObjects {
    public static func service(
        namespace: String = "default",
        name: String,
        clusterIP: String,
        port: Int = 80,
        targetPort: Int = 8080
    ) -> Document {
        [
            "apiVersion": "v1", "kind": "Service",
            "metadata": ["name": .string(name), "namespace": .string(namespace)],
            "spec": [
                "type": "ClusterIP", "clusterIP": .string(clusterIP), "clusterIPs": [.string(clusterIP)],
                "selector": ["app": .string(name)],
                "ports": [
                    [
                        "name": "http", "protocol": "TCP", "port": .integer(port), "targetPort": .integer(targetPort),
                    ]
                ],
            ],
        ]
    }

    /// - Parameter pods: the names of the pods at `addresses`, in the same order; nil to name none.
    public static func endpointSlice(
        namespace: String = "default",
        service: String,
        suffix: String = "abcde",
        addresses: [String],
        port: Int = 8080,
        node: String = "node-0",
        pods: [String]? = nil
    ) -> Document {
        [
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": [
                "name": .string("\(service)-\(suffix)"), "namespace": .string(namespace),
                "labels": ["kubernetes.io/service-name": .string(service)],
            ],
            "ports": [["name": "http", "protocol": "TCP", "port": .integer(port)]],
            "endpoints": .array(
                addresses.enumerated().map { index, address in
                    var members: [Document.Member] = [
                        .init("addresses", [.string(address)]), .init("nodeName", .string(node)),
                        .init("conditions", ["ready": true, "serving": true, "terminating": false]),
                    ]
                    if let pods { members.append(.init("targetRef", ["kind": "Pod", "name": .string(pods[index])])) }
                    return .object(members)
                }
            ),
        ]
    }

    public static func endpoints(
        namespace: String = "default",
        name: String,
        addresses: [String],
        port: Int = 8080
    ) -> Document {
        [
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": ["name": .string(name), "namespace": .string(namespace)],
            "subsets": [
                [
                    "addresses": .array(addresses.map { ["ip": .string($0), "nodeName": "node-0"] }),
                    "ports": [["name": "http", "protocol": "TCP", "port": .integer(port)]],
                ]
            ],
        ]
    }

    public static func pod(namespace: String, name: String, labels: [String: String]) -> Document {
        [
            "apiVersion": "v1", "kind": "Pod",
            "metadata": [
                "name": .string(name), "namespace": .string(namespace),
                "labels": .object(labels.sorted { $0.key < $1.key }.map { .init($0.key, .string($0.value)) }),
            ],
            "spec": ["containers": [["name": "app", "image": "app"]]], "status": ["phase": "Running"],
        ]
    }

    public static func namespace(_ name: String) -> Document {
        ["apiVersion": "v1", "kind": "Namespace", "metadata": ["name": .string(name)]]
    }

    public static func node(_ name: String, internalIP: String, podCIDR: String) -> Document {
        [
            "apiVersion": "v1", "kind": "Node", "metadata": ["name": .string(name)],
            "spec": ["podCIDR": .string(podCIDR), "podCIDRs": [.string(podCIDR)]],
            "status": ["addresses": [["type": "InternalIP", "address": .string(internalIP)]]],
        ]
    }

    public static func destinationRule(namespace: String = "default", name: String, policy: String) -> Document {
        [
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": ["name": .string(name), "namespace": .string(namespace)],
            "spec": ["host": .string(name), "trafficPolicy": ["loadBalancer": ["simple": .string(policy)]]],
        ]
    }

    /// The n-th address of 10.0.0.0/8 after `offset`, for as many distinct addresses as a test wants.
    public static func address(_ number: Int, offset: UInt32 = 0x0A00_0000) -> String {
        let value = offset + UInt32(truncatingIfNeeded: number & 0xFF_FFFF)
        return "\(value >> 24).\(value >> 16 & 255).\(value >> 8 & 255).\(value & 255)"
    }
}

extension FakeKube {
    /// Fills the cluster with `services` services named `svc-N` of `endpoints` endpoints each.
    public func fill(services: Int, endpoints: Int) {
        for number in 0..<services {
            let name = "svc-\(number)"
            self.apply(FakeObjects.service(name: name, clusterIP: FakeObjects.address(number + 1, offset: 0x0A60_0000)))
            let addresses = (0..<endpoints).map {
                FakeObjects.address(number * endpoints + $0 + 1, offset: 0x0AC8_0000)
            }
            self.apply(FakeObjects.endpointSlice(service: name, addresses: addresses))
        }
    }
}
