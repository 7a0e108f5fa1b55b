import DNSWire
import MeshCore

extension RecordData {
    /// An NSEC record in the form of RFC 6762 section 6.1: these types, all below 256, and no others.
    static func onlyTypes(_ types: Set<RecordType>, of name: DomainName) -> RecordData {
        var bitmap: [UInt8] = []
        for value in types.map({ Int($0.rawValue) }) where value < 256 {
            while bitmap.count <= value / 8 { bitmap.append(0) }
            bitmap[value / 8] |= 0x80 >> UInt8(value % 8)
        }
        return .opaque(.nsec, name.wire + [0, UInt8(bitmap.count)] + bitmap)
    }

    /// The data as on the wire, without compression.
    fileprivate var uncompressed: [UInt8] {
        switch self {
        case .a(let address): IPAddress.v4(address).networkBytes
        case .aaaa(let address): IPAddress.v6(address).networkBytes
        case .cname(let name), .ns(let name), .ptr(let name): name.wire
        case .mx(let preference, let exchange): preference.octets + exchange.wire
        case .txt(let strings): strings.flatMap { [UInt8(truncatingIfNeeded: $0.count)] + $0 }
        case .srv(let priority, let weight, let port, let target):
            priority.octets + weight.octets + port.octets + target.wire
        // Nobody probes for these.
        case .soa(let soa): soa.primary.wire + soa.mailbox.wire
        case .opaque(_, let bytes): bytes
        }
    }
}

extension RecordType {
    static let nsec = RecordType(rawValue: 47)
}

extension [ResourceRecord] {
    /// What RFC 6762 section 8.2 compares: class, type and data of each record, in ascending order.
    var tieBreak: [[UInt8]] {
        self.map { $0.recordClass.withoutTopBit.rawValue.octets + $0.type.rawValue.octets + $0.data.uncompressed }
            .sorted { $0.lexicographicallyPrecedes($1) }
    }
}

extension UInt16 {
    fileprivate var octets: [UInt8] { [UInt8(truncatingIfNeeded: self >> 8), UInt8(truncatingIfNeeded: self)] }
}
