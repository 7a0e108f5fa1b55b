public import MeshCore

// Topologies are written down in code, where a wrong address is a mistake of the programmer.

extension IPAddress: ExpressibleByStringLiteral {
    public init(stringLiteral text: String) {
        guard let address = IPAddress(text) else { preconditionFailure("\(text) is no address") }
        self = address
    }
}

extension CIDR: ExpressibleByStringLiteral {
    public init(stringLiteral text: String) {
        guard let block = CIDR(text) else { preconditionFailure("\(text) is no block of addresses") }
        self = block
    }
}

extension TransportAddress: ExpressibleByStringLiteral {
    public init(stringLiteral text: String) {
        guard let address = TransportAddress(text) else { preconditionFailure("\(text) is no address and port") }
        self = address
    }
}
