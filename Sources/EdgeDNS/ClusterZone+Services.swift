import DNSWire
import HashTreeCollections
import KubeModel
import MeshCore
import ServiceCatalog

extension ClusterZone {
    /// Names under `<service>.<namespace>.svc`; `labels` ends with these two.
    func service(
        _ name: DomainName,
        _ type: RecordType,
        _ labels: [String],
        in snapshot: CatalogSnapshot
    ) -> (Outcome, ObjectName?) {
        let key = ObjectName(namespace: labels[labels.count - 1], name: labels[labels.count - 2])
        guard let service = snapshot.services[key] else { return (.nameError, nil) }
        let outcome =
            switch labels.count {
            case 2: self.service(service, name, type)
            case 3: self.endpointOrProtocol(service, label: labels[0], name, type)
            case 4: self.port(service, portLabel: labels[0], protocolLabel: labels[1], name, type)
            default: Outcome.nameError
            }
        return (outcome, key)
    }

    private func service(_ service: Service, _ name: DomainName, _ type: RecordType) -> Outcome {
        let object = service.object
        if object.type == .externalName {
            guard let target = object.externalName.flatMap({ try? DomainName($0) }) else {
                return .noData(apex: self.domain)
            }
            return .alias(target)
        }
        if type == .srv { return self.servicePorts(service, name) { _ in true } }
        guard object.isHeadless else { return self.addresses(object.clusterIPs, of: name, type) }
        let endpoints = service.publishedEndpoints
        // Specification 2.4.1: no ready endpoint, no name.
        guard !endpoints.isEmpty else { return .nameError }
        return self.addresses(endpoints.map(\.address), of: name, type)
    }

    /// `<endpoint>.<service>` or `_tcp.<service>`, which is only the parent of port names.
    private func endpointOrProtocol(
        _ service: Service,
        label: String,
        _ name: DomainName,
        _ type: RecordType
    ) -> Outcome {
        if label.hasPrefix("_") {
            let exists = service.publishedPorts.contains { !$0.name.isEmpty && "_\($0.transport)" == label }
            return exists ? .noData(apex: self.domain) : .nameError
        }
        let addresses = service.publishedEndpoints.filter { $0.dnsLabel == label }.map(\.address)
        return addresses.isEmpty ? .nameError : self.addresses(addresses, of: name, type)
    }

    private func port(
        _ service: Service,
        portLabel: String,
        protocolLabel: String,
        _ name: DomainName,
        _ type: RecordType
    ) -> Outcome {
        func isAsked(_ port: PublishedPort) -> Bool {
            !port.name.isEmpty && "_\(port.name.lowercased())" == portLabel && "_\(port.transport)" == protocolLabel
        }
        guard service.publishedPorts.contains(where: isAsked) else { return .nameError }
        guard type == .srv else { return .noData(apex: self.domain) }
        return self.servicePorts(service, name, isAsked)
    }

    /// SRV records of the ports that `isAsked` accepts, with the addresses of their targets as additional records.
    private func servicePorts(
        _ service: Service,
        _ name: DomainName,
        _ isAsked: (PublishedPort) -> Bool
    ) -> Outcome {
        guard let base = self.name(of: service.name) else { return .nameError }
        var targets: [(name: DomainName, port: UInt16, addresses: [IPAddress])] = []
        var known: [PortOfName: Int] = [:]
        if service.object.isHeadless {
            guard !service.publishedEndpoints.isEmpty else { return .nameError }
            for group in service.groups {
                for port in group.ports where isAsked(PublishedPort(name: port.name, transport: port.transport)) {
                    for endpoint in group.endpoints where service.publishes(endpoint) {
                        guard let target = try? base.prepending(endpoint.dnsLabel) else { continue }
                        if let index = known[PortOfName(name: target, port: port.port)] {
                            if !targets[index].addresses.contains(endpoint.address) {
                                targets[index].addresses.append(endpoint.address)
                            }
                        } else {
                            known[PortOfName(name: target, port: port.port)] = targets.count
                            targets.append((target, port.port, [endpoint.address]))
                        }
                    }
                }
            }
        } else {
            for port in service.object.ports where isAsked(PublishedPort(name: port.name, transport: port.transport)) {
                targets.append((base, port.port, service.object.clusterIPs))
            }
        }
        guard !targets.isEmpty else { return .noData(apex: self.domain) }
        let weight = UInt16(max(1, 100 / targets.count))
        var additionals: [ResourceRecord] = []
        var seen: Set<DomainName> = []
        for target in targets where seen.insert(target.name).inserted {
            additionals += target.addresses.map { ResourceRecord(target.name, ttl: self.ttl, $0.recordData) }
        }
        let answers = targets.map {
            let data = RecordData.srv(priority: 0, weight: weight, port: $0.port, target: $0.name)
            return ResourceRecord(name, ttl: self.ttl, data)
        }
        return .records(answers, additionals: additionals)
    }

    private func name(of service: ObjectName) -> DomainName? {
        try? self.domain.prepending(service.name, service.namespace, "svc")
    }

    /// Names under `in-addr.arpa` and `ip6.arpa`: cluster IPs and endpoints of headless services; others are outside.
    func reverse(_ name: DomainName, _ type: RecordType, in snapshot: CatalogSnapshot) -> Outcome {
        guard let (address, apex) = IPAddress.fromReverseName(name) else { return .outside }
        var targets: [DomainName] = []
        if let service = snapshot.servicesByClusterIP[address] {
            targets = [self.name(of: service)].compactMap(\.self)
        } else {
            for serviceName in snapshot.headlessServicesByEndpoint[address] ?? [] {
                guard let service = snapshot.services[serviceName], let base = self.name(of: serviceName) else {
                    continue
                }
                let endpoints = service.publishedEndpoints.filter { $0.address == address }
                targets += endpoints.compactMap { try? base.prepending($0.dnsLabel) }
            }
        }
        guard !targets.isEmpty else { return .outside }
        guard type == .ptr else { return .noData(apex: apex) }
        return .records(targets.map { ResourceRecord(name, ttl: self.ttl, .ptr($0)) })
    }
}

/// What one SRV record names.
private struct PortOfName: Hashable {
    var name: DomainName
    var port: UInt16
}

/// A port by the two labels that name it.
private struct PublishedPort: Hashable {
    var name: String
    var transport: TransportProtocol
}

extension Service {
    fileprivate var publishedPorts: [PublishedPort] {
        guard self.object.isHeadless else {
            return self.object.ports.map { PublishedPort(name: $0.name, transport: $0.transport) }
        }
        return self.groups.filter { $0.endpoints.contains(where: self.publishes) }.flatMap { group in
            group.ports.map { PublishedPort(name: $0.name, transport: $0.transport) }
        }
    }

    fileprivate func publishes(_ endpoint: Endpoint) -> Bool {
        endpoint.conditions.contains(.ready) || self.object.publishNotReadyAddresses
    }

    /// Endpoints that have names, each address once.
    fileprivate var publishedEndpoints: [Endpoint] {
        var seen: Set<IPAddress> = []
        return self.groups.flatMap(\.endpoints).filter { self.publishes($0) && seen.insert($0.address).inserted }
    }
}

extension Endpoint {
    fileprivate var dnsLabel: String {
        self.hostname.map { $0.lowercased() } ?? self.address.dashed
    }
}

extension IPAddress {
    /// Reads a whole reverse name (RFC 1035 section 3.5, RFC 3596 section 2.5); also gives the zone it lies in.
    fileprivate static func fromReverseName(_ name: DomainName) -> (IPAddress, apex: DomainName)? {
        let labels = name.labels
        guard labels.count == 6 || labels.count == 34 else { return nil }
        let zone = labels.suffix(2).map { String(decoding: $0, as: UTF8.self).lowercased() }
        guard let apex = try? DomainName(labels: labels.suffix(2)) else { return nil }
        let digits = labels.dropLast(2).reversed().map { String(decoding: $0, as: UTF8.self) }
        if zone == ["in-addr", "arpa"], digits.count == 4 {
            return IPv4Address(digits.joined(separator: ".")).map { (.v4($0), apex) }
        }
        // Alone, the number's own parser would take a sign.
        guard zone == ["ip6", "arpa"], digits.count == 32,
            digits.allSatisfy({ $0.utf8.count == 1 && $0.allSatisfy(\.isHexDigit) })
        else { return nil }
        let halves = [digits[..<16], digits[16...]].map { UInt64($0.joined(), radix: 16) }
        guard let high = halves[0], let low = halves[1] else { return nil }
        return (.v6(IPv6Address(high: high, low: low)), apex)
    }
}
