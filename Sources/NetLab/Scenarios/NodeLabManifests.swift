import MeshCore

/// The Kubernetes objects of the one-node lab, as a user would write them: one file per application, one per pod.
enum NodeLabManifests {
    /// Services that all stand before the `hostname` pods, one for each way of balancing.
    static let hostnameServices: [(name: String, clusterIP: IPv4Address, loadBalancer: String?)] = [
        ("hostname-svc", IPv4Address(10, 96, 0, 10), nil),
        ("hostname-lb-roundrobin", IPv4Address(10, 96, 0, 11), "simple: ROUND_ROBIN"),
        ("hostname-lb-random", IPv4Address(10, 96, 0, 12), "simple: RANDOM"),
        ("hostname-lb-consistenthash", IPv4Address(10, 96, 0, 13), "consistentHash:\n        useSourceIp: true"),
    ]

    static let nodePort: UInt16 = 31234

    /// File names with their contents.
    static func files(for lab: NodeLab.Layout) -> [(name: String, text: String)] {
        var files = lab.backends.map { (Self.podFile($0.name), Self.hostnamePod($0, node: lab.node)) }
        files += Self.hostnameServices.map { service in
            var text = Self.service(
                service.name,
                clusterIP: service.clusterIP,
                selector: "app: hostname",
                ports: [("http", .tcp, 12345, 9376)],
                nodePort: service.loadBalancer == nil ? Self.nodePort : nil
            )
            if let loadBalancer = service.loadBalancer {
                text += "---\n" + Self.destinationRule(service.name, loadBalancer: loadBalancer)
            }
            return (service.name + ".yaml", text)
        }
        files.append(
            (
                "hostname-udp.yaml",
                Self.service(
                    "hostname-udp-svc",
                    clusterIP: IPv4Address(10, 96, 0, 14),
                    selector: "app: hostname",
                    ports: [("udp", .udp, 12345, 9376)]
                )
            )
        )
        files += Self.echoFiles(lab)
        return files
    }

    /// Services without a selector, whose endpoints are given.
    private static func echoFiles(_ lab: NodeLab.Layout) -> [(name: String, text: String)] {
        let services: [(file: String, name: String, host: UInt8, port: ServicePort)] = [
            ("tcp-echo-service.yaml", "tcp-echo-service", 15, ("tcp-echo", .tcp, 2701, 2701)),
            ("udp-echo.yaml", "udp-echo-svc", 16, ("udp-echo", .udp, 2702, 2702)),
            ("websocket.yaml", "ws-svc", 17, ("websocket", .tcp, 12348, 8080)),
            ("bulk.yaml", "bulk-svc", 18, ("bulk", .tcp, 5201, 5201)),
        ]
        return services.map { service in
            let text =
                Self.service(
                    service.name,
                    clusterIP: IPv4Address(10, 96, 0, service.host),
                    selector: nil,
                    ports: [service.port]
                ) + "---\n"
                + Self.endpointSlice(
                    service.name,
                    ports: [service.port],
                    endpoints: [(lab.echo.address, lab.node)]
                )
            return (service.file, text)
        }
    }

    static func podFile(_ pod: String) -> String { "pod-\(pod).yaml" }

    typealias ServicePort = (name: String, transport: TransportProtocol, port: UInt16, targetPort: UInt16)

    static func hostnamePod(_ pod: NodeLab.Pod, node: String) -> String {
        """
        apiVersion: v1
        kind: Pod
        metadata:
          name: \(pod.name)
          namespace: default
          labels:
            app: hostname
        spec:
          nodeName: \(node)
          containers:
            - name: hostname
              image: lab
              ports:
                - name: http
                  containerPort: 9376
                - name: udp
                  containerPort: 9376
                  protocol: UDP
        status:
          phase: Running
          podIP: \(pod.address)
          podIPs:
            - ip: \(pod.address)
          conditions:
            - type: Ready
              status: "True"

        """
    }

    static func service(
        _ name: String,
        clusterIP: IPv4Address,
        selector: String?,
        ports: [ServicePort],
        nodePort: UInt16? = nil
    ) -> String {
        var text = """
            apiVersion: v1
            kind: Service
            metadata:
              name: \(name)
              namespace: default
            spec:
              type: \(nodePort == nil ? "ClusterIP" : "NodePort")
              clusterIP: \(clusterIP)

            """
        if let selector { text += "  selector:\n    \(selector)\n" }
        text += "  ports:\n"
        for port in ports {
            text += """
                    - name: \(port.name)
                      port: \(port.port)
                      protocol: \(port.transport.description.uppercased())
                      targetPort: \(port.targetPort)

                """
            if let nodePort { text += "      nodePort: \(nodePort)\n" }
        }
        return text
    }

    static func endpointSlice(
        _ service: String,
        ports: [ServicePort],
        endpoints: [(address: IPv4Address, node: String)]
    ) -> String {
        var text = """
            apiVersion: discovery.k8s.io/v1
            kind: EndpointSlice
            metadata:
              name: \(service)-1
              namespace: default
              labels:
                kubernetes.io/service-name: \(service)
            addressType: IPv4
            ports:

            """
        for port in ports {
            text += """
                  - name: \(port.name)
                    port: \(port.targetPort)
                    protocol: \(port.transport.description.uppercased())

                """
        }
        text += "endpoints:\n"
        for endpoint in endpoints {
            text += """
                  - addresses:
                      - \(endpoint.address)
                    nodeName: \(endpoint.node)
                    conditions:
                      ready: true

                """
        }
        return text
    }

    /// Named as its service: the original matches by name.
    static func destinationRule(_ service: String, loadBalancer: String) -> String {
        """
        apiVersion: networking.istio.io/v1alpha3
        kind: DestinationRule
        metadata:
          name: \(service)
          namespace: default
        spec:
          host: \(service)
          trafficPolicy:
            loadBalancer:
              \(loadBalancer)

        """
    }
}
