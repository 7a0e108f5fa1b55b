public import MeshCore

/// Which targets this node dials for the agents of others.
public struct TargetAccessSettings: Sendable, Hashable {
    public enum Mode: String, Sendable, Hashable, CaseIterable {
        /// Endpoints of services on this node, the node itself for SOCKS5, and what `allowed` names.
        case catalog
        /// Everything that this node can reach, its loopback included, as v1.17 does.
        case any
    }

    /// Addresses, and ports of theirs, that may be dialled whether or not the catalog knows them.
    public struct Entry: Sendable, Hashable, CustomStringConvertible {
        public var block: CIDR
        public var ports: ClosedRange<UInt16>

        public init(_ block: CIDR, ports: ClosedRange<UInt16> = 1...UInt16.max) {
            self.block = block
            self.ports = ports
        }

        /// Reads `BLOCK`, `BLOCK:PORT` or `BLOCK:FIRST-LAST`. The block is an address or a CIDR; one of IPv6 without a prefix
        /// length stands in brackets if ports follow.
        public init?(_ text: some StringProtocol) {
            if let block = CIDR(text) {
                self.init(block)
                return
            }
            guard let colon = text.lastIndex(of: ":") else { return nil }
            var host = text[..<colon]
            if host.first == "[", host.last == "]" {
                host = host.dropFirst().dropLast()
            } else if host.contains(":"), !host.contains("/") {
                // Which part of it is the port cannot be told.
                return nil
            }
            guard let block = CIDR(host), let ports = Self.ports(text[text.index(after: colon)...]) else { return nil }
            self.init(block, ports: ports)
        }

        private static func ports(_ text: some StringProtocol) -> ClosedRange<UInt16>? {
            let parts = text.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
            guard let first = parts.first.flatMap({ UInt16($0) }), let last = parts.last.flatMap({ UInt16($0) }),
                first > 0, first <= last
            else { return nil }
            return first...last
        }

        func contains(_ target: TransportAddress) -> Bool {
            self.ports.contains(target.port) && self.block.contains(target.address)
        }

        public var description: String { "\(self.block):\(self.ports.lowerBound)-\(self.ports.upperBound)" }
    }

    public var mode = Mode.catalog
    /// Blocks that this node routes to, beside its pod CIDRs: endpoints in them count as its own.
    public var routableCIDRs: [CIDR] = []
    public var allowed: [Entry] = []
    /// Loopback addresses may be dialled where the rest allows it.
    public var allowsLoopback = false
    /// A request of v1.17, which does not tell its purpose, may be a SOCKS5 client's: then it may go to the node itself.
    public var treatsOriginalsAsSOCKS = true

    public init() {}
}
