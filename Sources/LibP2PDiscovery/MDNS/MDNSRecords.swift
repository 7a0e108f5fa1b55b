import DNSWire
import MeshCore
import Multiformats

/// The names that all peers of a service share.
struct MDNSNames: Hashable, Sendable {
    let domain: DomainName
    /// What is browsed for.
    let service: DomainName
    /// The names of all services of the link (RFC 6763 section 9).
    let enumeration: DomainName

    init(serviceName: String) throws(DNSWireError) {
        self.domain = try DomainName("local")
        self.service = try DomainName("\(serviceName).local")
        self.enumeration = try DomainName("_services._dns-sd._udp.local")
    }
}

/// What one peer announces on one interface: PTR and SRV for those who browse, TXT with the addresses of libp2p, and
/// address records, without which some browsers ignore the rest (facts of v1.17: one TXT record, port 4001).
struct MDNSRecords: Hashable, Sendable {
    enum Kind: Hashable, Sendable, CaseIterable {
        case pointer
        case enumeration
        case service
        case text
        case address
        /// That the names have no records of other types (RFC 6762 section 6.1).
        case instanceDenial
        case hostDenial

        /// What announcements hold: others learn what there is not when they ask.
        static let announced: Set<Kind> = [.pointer, .enumeration, .service, .text, .address]

        /// Others answer to the same name, too (RFC 6762 section 2).
        var isShared: Bool { self == .pointer || self == .enumeration }
    }

    /// Octets of the TXT record, so that all records fit one datagram.
    static let maximumTextLength = 1000
    static let prefix = Array("dnsaddr=".utf8)

    let names: MDNSNames
    let instance: DomainName
    let host: DomainName
    let text: [[UInt8]]
    let addresses: [IPAddress]
    let lifetime: UInt32
    let hostLifetime: UInt32

    /// - Parameter addresses: with the peer ID. Those for which there is no room are left out.
    init(
        names: MDNSNames,
        peerName: String,
        addresses: [Multiaddr],
        configuration: MDNSConfiguration
    ) throws(DNSWireError) {
        self.names = names
        self.instance = try names.service.prepending(peerName)
        self.host = try names.domain.prepending(peerName)
        var text: [[UInt8]] = []
        var length = 0
        for address in addresses {
            let string = Self.prefix + Array(address.description.utf8)
            guard string.count <= 255, length + string.count + 1 <= Self.maximumTextLength else { continue }
            length += string.count + 1
            text.append(string)
        }
        self.text = text
        var hosts: [IPAddress] = []
        for case let address? in addresses.map(\.ipAddress) where !hosts.contains(address) && hosts.count < 4 {
            hosts.append(address)
        }
        self.addresses = hosts
        self.lifetime = configuration.recordLifetime
        self.hostLifetime = configuration.hostLifetime
    }

    private var addressTypes: Set<RecordType> {
        Set(
            self.addresses.map { address in
                if case .v4 = address { RecordType.a } else { RecordType.aaaa }
            }
        )
    }

    func lifetime(of kind: Kind) -> UInt32 {
        kind == .address || kind == .hostDenial ? self.hostLifetime : self.lifetime
    }

    /// - Parameter ttl: instead of the usual one; zero says goodbye.
    func records(_ kind: Kind, ttl: UInt32? = nil, flushes: Bool = true) -> [ResourceRecord] {
        let ttl = ttl ?? self.lifetime(of: kind)
        let unique = flushes ? RecordClass.internet.withTopBit : .internet
        switch kind {
        case .pointer: return [ResourceRecord(self.names.service, ttl: ttl, .ptr(self.instance))]
        case .enumeration: return [ResourceRecord(self.names.enumeration, ttl: ttl, .ptr(self.names.service))]
        case .service:
            // The port is the one that all implementations put there; addresses are in the text.
            let data = RecordData.srv(priority: 0, weight: 0, port: 4001, target: self.host)
            return [ResourceRecord(self.instance, ttl: ttl, data, recordClass: unique)]
        case .text: return [ResourceRecord(self.instance, ttl: ttl, .txt(self.text), recordClass: unique)]
        case .address:
            return self.addresses.map { address in
                switch address {
                case .v4(let v4): ResourceRecord(self.host, ttl: ttl, .a(v4), recordClass: unique)
                case .v6(let v6): ResourceRecord(self.host, ttl: ttl, .aaaa(v6), recordClass: unique)
                }
            }
        case .instanceDenial:
            let data = RecordData.onlyTypes([.srv, .txt], of: self.instance)
            return [ResourceRecord(self.instance, ttl: ttl, data, recordClass: unique)]
        case .hostDenial:
            let data = RecordData.onlyTypes(self.addressTypes, of: self.host)
            return [ResourceRecord(self.host, ttl: ttl, data, recordClass: unique)]
        }
    }

    /// The records that answer a question.
    func kinds(answering question: Question) -> Set<Kind> {
        let recordClass = question.recordClass.withoutTopBit
        guard recordClass == .internet || recordClass == .any else { return [] }
        func isAsked(_ types: RecordType...) -> Bool { question.type == .any || types.contains(question.type) }
        switch question.name {
        case self.names.service: return isAsked(.ptr) ? [.pointer] : []
        case self.names.enumeration: return isAsked(.ptr) ? [.enumeration] : []
        case self.instance:
            var kinds: Set<Kind> = []
            if isAsked(.srv) { kinds.insert(.service) }
            if isAsked(.txt) { kinds.insert(.text) }
            return kinds.isEmpty ? [.instanceDenial] : kinds
        case self.host: return isAsked(.any) || self.addressTypes.contains(question.type) ? [.address] : [.hostDenial]
        default: return []
        }
    }

    /// What the asker has already, at more than half of its lifetime (RFC 6762 section 7.1).
    func kinds(known answers: [ResourceRecord]) -> Set<Kind> {
        Set(
            Kind.allCases.filter { kind in
                self.records(kind).allSatisfy { record in
                    answers.contains {
                        $0.name == record.name && $0.data == record.data && $0.ttl >= (record.ttl + 1) / 2
                    }
                }
            }
        )
    }

    /// A response (RFC 6762 section 18) with what those who ask will ask next.
    func response(_ kinds: Set<Kind>) -> Message {
        var message = Message(id: 0, flags: [.response, .authoritative])
        var further: Set<Kind> = []
        if kinds.contains(.pointer) { further.formUnion([.service, .text, .address]) }
        if kinds.contains(.service) { further.insert(.address) }
        // Who has addresses of one family only says that there are no others (section 6.2).
        if kinds.union(further).contains(.address), self.addressTypes.count == 1 { further.insert(.hostDenial) }
        message.answers = Kind.allCases.filter(kinds.contains).flatMap { self.records($0) }
        message.additionals = Kind.allCases.filter(further.subtracting(kinds).contains).flatMap { self.records($0) }
        return message
    }
}

/// What the state machines want sent.
enum MDNSOutput: Hashable, Sendable {
    case multicast(Message)
    case unicast(Message, to: TransportAddress)
}

/// Random numbers of the host, for the standard library.
struct HostGenerator: RandomNumberGenerator, Sendable {
    let number: @Sendable () -> UInt64

    func next() -> UInt64 { self.number() }

    /// A name that nobody else has, as libp2p/specs wants it.
    mutating func peerName() -> String {
        let alphabet = Array("abcdefghijklmnopqrstuvwxyz0123456789")
        return String((0..<40).map { _ in alphabet[Int.random(in: 0..<alphabet.count, using: &self)] })
    }
}
