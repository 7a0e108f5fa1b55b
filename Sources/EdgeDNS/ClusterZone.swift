import DNSWire
import HashTreeCollections
import KubeModel
import MeshCore
import ServiceCatalog

/// The zone of the cluster: what the Kubernetes DNS specification 1.1.0 says about a name, read from a catalog snapshot.
/// A pure function; who calls it keeps the answers.
///
/// Where the specification leaves room it does as CoreDNS: an endpoint without a hostname is named by its address with
/// dashes, endpoint names are answered for every service, an SRV question for the service itself names all its ports,
/// pod records are made up for any address while the namespace exists.
struct ClusterZone: Hashable, Sendable {
    let domain: DomainName
    /// Seconds.
    let ttl: UInt32
    /// Seconds for which "no such name" and "no such record" may be kept.
    let negativeTTL: UInt32
    /// Addresses of this server, given for its own name `ns.dns.<domain>`.
    let nameServers: [IPAddress]

    /// The most services of ExternalName type that are followed for one question.
    static let maximumAliasDepth = 8
    static let specificationVersion = "1.1.0"

    enum Answer: Equatable {
        /// Not a name of this zone.
        case outside
        case complete(Sections)
        /// An ExternalName leads out of the zone: the answer is `prefix` and what an upstream says of `target`.
        case chase(prefix: [ResourceRecord], target: DomainName)
    }

    struct Sections: Equatable {
        var responseCode: ResponseCode = .noError
        var answers: [ResourceRecord] = []
        var authorities: [ResourceRecord] = []
        var additionals: [ResourceRecord] = []
    }

    /// An answer and the one service it was made from; nil if it depends on anything else in the snapshot.
    struct Resolution {
        var answer: Answer
        var service: ObjectName?
    }

    func resolve(_ name: DomainName, _ type: RecordType, in snapshot: CatalogSnapshot) -> Resolution {
        var prefix: [ResourceRecord] = []
        var name = name
        var single: ObjectName?
        for depth in 0...ClusterZone.maximumAliasDepth {
            let (outcome, service) = self.lookUp(name, type, in: snapshot)
            single = depth == 0 ? service : nil
            switch outcome {
            case .outside:
                return Resolution(answer: prefix.isEmpty ? .outside : .chase(prefix: prefix, target: name))
            case .records(let records, let additionals):
                let sections = Sections(answers: prefix + records, additionals: additionals)
                return Resolution(answer: .complete(sections), service: single)
            case .noData(let apex):
                let sections = Sections(answers: prefix, authorities: [self.startOfAuthority(apex, snapshot)])
                return Resolution(answer: .complete(sections), service: single)
            case .nameError:
                let authority = self.startOfAuthority(self.domain, snapshot)
                let sections = Sections(responseCode: .nameError, answers: prefix, authorities: [authority])
                return Resolution(answer: .complete(sections), service: single)
            case .alias(let target):
                let isLoop = target == name || prefix.contains { $0.name == target }
                prefix.append(ResourceRecord(name, ttl: self.ttl, .cname(target)))
                if type == .cname {
                    return Resolution(answer: .complete(Sections(answers: prefix)), service: single)
                }
                guard !isLoop else { return Resolution(answer: .complete(Sections(responseCode: .serverFailure))) }
                name = target
            }
        }
        return Resolution(answer: .complete(Sections(responseCode: .serverFailure)))
    }

    enum Outcome {
        case outside
        case records([ResourceRecord], additionals: [ResourceRecord] = [])
        /// The name exists without a record of this type; the SOA is that of `apex`.
        case noData(apex: DomainName)
        case nameError
        case alias(DomainName)
    }

    /// One step: no alias is followed.
    private func lookUp(
        _ name: DomainName,
        _ type: RecordType,
        in snapshot: CatalogSnapshot
    ) -> (Outcome, ObjectName?) {
        guard let below = name.labels(below: self.domain) else {
            return (self.reverse(name, type, in: snapshot), nil)
        }
        let labels = below.map { String(decoding: $0, as: UTF8.self).lowercased() }
        guard let last = labels.last else { return (self.apex(name, type, snapshot), nil) }
        switch last {
        case "svc":
            if labels.count >= 3 { return self.service(name, type, Array(labels.dropLast()), in: snapshot) }
            return (self.branch(namespace: labels.dropLast().last, in: snapshot), nil)
        case "pod":
            if labels.count == 3 {
                return (self.pod(name, type, label: labels[0], namespace: labels[1], snapshot), nil)
            }
            return (labels.count > 3 ? .nameError : self.branch(namespace: labels.dropLast().last, in: snapshot), nil)
        case "dns-version" where labels.count == 1:
            guard type == .txt else { return (.noData(apex: self.domain), nil) }
            let text = RecordData.txt([Array(ClusterZone.specificationVersion.utf8)])
            return (.records([ResourceRecord(name, ttl: self.ttl, text)]), nil)
        case "dns" where labels.count == 1:
            return (.noData(apex: self.domain), nil)
        case "dns" where labels == ["ns", "dns"]:
            return (self.addresses(self.nameServers, of: name, type), nil)
        default:
            return (.nameError, nil)
        }
    }

    /// `svc.<domain>`, `<namespace>.svc.<domain>` and the same for pods: names without records.
    private func branch(namespace: String?, in snapshot: CatalogSnapshot) -> Outcome {
        guard let namespace else { return .noData(apex: self.domain) }
        return snapshot.namespaces.contains(namespace) ? .noData(apex: self.domain) : .nameError
    }

    private func apex(_ name: DomainName, _ type: RecordType, _ snapshot: CatalogSnapshot) -> Outcome {
        switch type {
        case .soa:
            return .records([self.startOfAuthority(self.domain, snapshot)])
        case .ns:
            guard let server = try? self.domain.prepending("ns", "dns") else { return .noData(apex: self.domain) }
            return .records(
                [ResourceRecord(name, ttl: self.ttl, .ns(server))],
                additionals: self.nameServers.map { ResourceRecord(server, ttl: self.ttl, $0.recordData) }
            )
        default:
            return .noData(apex: self.domain)
        }
    }

    func addresses(_ addresses: [IPAddress], of name: DomainName, _ type: RecordType) -> Outcome {
        let records = addresses.map(\.recordData).filter { $0.type == type }
        return records.isEmpty
            ? .noData(apex: self.domain) : .records(records.map { ResourceRecord(name, ttl: self.ttl, $0) })
    }

    private func pod(
        _ name: DomainName,
        _ type: RecordType,
        label: String,
        namespace: String,
        _ snapshot: CatalogSnapshot
    ) -> Outcome {
        guard snapshot.namespaces.contains(namespace), let address = IPAddress(dashed: label) else { return .nameError }
        return self.addresses([address], of: name, type)
    }

    /// RFC 2308 section 5: a negative answer lives for the smaller of the record's TTL and its last field.
    private func startOfAuthority(_ apex: DomainName, _ snapshot: CatalogSnapshot) -> ResourceRecord {
        let primary = (try? self.domain.prepending("ns", "dns")) ?? self.domain
        let mailbox = (try? self.domain.prepending("hostmaster")) ?? self.domain
        let data = StartOfAuthority(
            primary: primary,
            mailbox: mailbox,
            serial: UInt32(truncatingIfNeeded: snapshot.version),
            refresh: 7200,
            retry: 1800,
            expire: 86_400,
            minimum: self.negativeTTL
        )
        return ResourceRecord(apex, ttl: self.negativeTTL, .soa(data))
    }
}

extension IPAddress {
    var recordData: RecordData {
        switch self {
        case .v4(let address): .a(address)
        case .v6(let address): .aaaa(address)
        }
    }

    /// The label of an endpoint or pod that has no name of its own: its address with dashes.
    var dashed: String {
        String(self.description.map { $0 == "." || $0 == ":" ? "-" : $0 })
    }

    /// Reads `10-0-0-1` and `2001-db8--1`.
    init?(dashed label: String) {
        if let address = IPv4Address(String(label.map { $0 == "-" ? "." : $0 })) {
            self = .v4(address)
        } else if let address = IPv6Address(String(label.map { $0 == "-" ? ":" : $0 })) {
            self = .v6(address)
        } else {
            return nil
        }
    }
}
