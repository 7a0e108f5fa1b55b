import MeshCore

/// What a verdict map or a rule decides.
enum NFTVerdict: Hashable, Sendable {
    case accept
    case drop
    case goto(String)
    case jump(String)
}

/// A 32-bit register by its index, 0 to 15. Wider values take the following ones too.
struct NFTRegister: Hashable {
    var index: UInt32
    /// `NFT_REG32_00` is 8.
    var number: UInt32 { 8 + self.index }
    init(_ index: UInt32) { self.index = index }
    static func + (register: NFTRegister, words: UInt32) -> NFTRegister { NFTRegister(register.index + words) }
}

/// Writes the expressions of one rule.
struct NFTExpressions {
    let family: NFTFamily
    let marksFlows: Bool
    var writer: NetlinkWriter

    init(family: NFTFamily, marksFlows: Bool, writer: NetlinkWriter) {
        self.family = family
        self.marksFlows = marksFlows
        self.writer = writer
    }

    static func write(_ verdict: NFTVerdict, to writer: inout NetlinkWriter) {
        writer.nested(2) { writer in
            switch verdict {
            case .drop: writer.attribute(1, network: Int32(0))
            case .accept: writer.attribute(1, network: Int32(1))
            case .jump(let chain):
                writer.attribute(1, network: Int32(-3))
                writer.attribute(2, text: chain)
            case .goto(let chain):
                writer.attribute(1, network: Int32(-4))
                writer.attribute(2, text: chain)
            }
        }
    }

    private mutating func expression(_ name: String, _ body: (inout NetlinkWriter) -> Void) {
        self.writer.nested(1) { writer in
            writer.attribute(1, text: name)
            writer.nested(2, body)
        }
    }

    mutating func verdict(_ verdict: NFTVerdict) {
        self.expression("immediate") { writer in
            writer.attribute(1, network: UInt32(0))
            writer.nested(2) { Self.write(verdict, to: &$0) }
        }
    }

    mutating func immediate(_ register: NFTRegister, _ bytes: [UInt8]) {
        self.expression("immediate") { writer in
            writer.attribute(1, network: register.number)
            writer.nested(2) { $0.attribute(1, bytes) }
        }
    }

    private mutating func payload(_ register: NFTRegister, base: UInt32, offset: UInt32, length: UInt32) {
        self.expression("payload") { writer in
            writer.attribute(1, network: register.number)
            writer.attribute(2, network: base)
            writer.attribute(3, network: offset)
            writer.attribute(4, network: length)
        }
    }

    mutating func sourceAddress(_ register: NFTRegister) {
        self.payload(register, base: 1, offset: self.family.sourceOffset, length: self.family.addressLength)
    }

    mutating func destinationAddress(_ register: NFTRegister) {
        self.payload(
            register,
            base: 1,
            offset: self.family.sourceOffset + self.family.addressLength,
            length: self.family.addressLength
        )
    }

    mutating func destinationPort(_ register: NFTRegister) {
        self.payload(register, base: 2, offset: 2, length: 2)
    }

    private mutating func meta(_ register: NFTRegister, key: UInt32) {
        self.expression("meta") { writer in
            writer.attribute(1, network: register.number)
            writer.attribute(2, network: key)
        }
    }

    mutating func transport(_ register: NFTRegister) {
        self.meta(register, key: 16)
    }

    /// The packet came by a bridge and leaves by one (`iifkind`, `oifkind`). Linux before 5.7 does not know at postrouting by
    /// which device a packet came: it never matches there.
    mutating func isBridged() {
        for key in [UInt32(26), 27] {
            self.meta(NFTRegister(0), key: key)
            self.compare(NFTRegister(0), Array("bridge".utf8) + [UInt8](repeating: 0, count: 10))
        }
    }

    /// The packet leaves by a device, or came by it (`oifname`, `iifname`).
    mutating func passesDevice(_ name: String, isLeaving: Bool) {
        self.meta(NFTRegister(0), key: isLeaving ? 7 : 6)
        let bytes = Array(name.utf8.prefix(15))
        self.compare(NFTRegister(0), bytes + [UInt8](repeating: 0, count: 16 - bytes.count))
    }

    /// The packet is of this protocol.
    mutating func isTransport(_ transport: TransportProtocol) {
        self.transport(NFTRegister(0))
        self.compare(NFTRegister(0), [transport.rawValue])
    }

    /// daddr . l4proto . dport.
    mutating func frontendKey(_ register: NFTRegister) {
        self.destinationAddress(register)
        self.transport(register + self.family.addressWords)
        self.destinationPort(register + self.family.addressWords + 1)
    }

    /// saddr . daddr . dport . number of a backend, the key of an affinity set; without daddr for a node port.
    mutating func affinityKey(_ register: NFTRegister, nodePort: Bool, _ backend: TransportAddress) {
        var next = register + self.family.addressWords
        self.sourceAddress(register)
        if !nodePort {
            self.destinationAddress(next)
            next = next + self.family.addressWords
        }
        self.destinationPort(next)
        self.constant(next + 1, backend.affinityNumber)
    }

    /// A number that is always the same. nft cannot read back a constant that stands in a concatenation by itself.
    mutating func constant(_ register: NFTRegister, _ value: UInt32) {
        self.number(register, .incremental, modulus: 1, offset: value)
    }

    /// An address and, in the register after it, a port.
    mutating func immediate(_ register: NFTRegister, _ target: TransportAddress) {
        self.immediate(register, target.address.networkBytes)
        self.immediate(register + self.family.addressWords, networkOrder(target.port))
    }

    mutating func compare(_ register: NFTRegister, equal: Bool = true, _ bytes: [UInt8]) {
        self.expression("cmp") { writer in
            writer.attribute(1, network: register.number)
            writer.attribute(2, network: UInt32(equal ? 0 : 1))
            writer.nested(3) { $0.attribute(1, bytes) }
        }
    }

    mutating func mask(_ register: NFTRegister, _ mask: [UInt8], xor: [UInt8]? = nil) {
        self.expression("bitwise") { writer in
            writer.attribute(1, network: register.number)
            writer.attribute(2, network: register.number)
            writer.attribute(3, network: UInt32(mask.count))
            writer.nested(4) { $0.attribute(1, mask) }
            writer.nested(5) { $0.attribute(1, xor ?? [UInt8](repeating: 0, count: mask.count)) }
        }
    }

    /// The destination is an address of this node (`fib daddr type local`).
    mutating func destinationIsLocal() {
        self.expression("fib") { writer in
            writer.attribute(1, network: NFTRegister(0).number)
            writer.attribute(2, network: UInt32(3))
            writer.attribute(3, network: UInt32(2))
        }
        self.compare(NFTRegister(0), hostOrder(2))
    }

    /// The destination is, or is not, loopback.
    mutating func destinationIsLoopback(_ wanted: Bool) {
        switch self.family {
        case .ip:
            self.payload(NFTRegister(0), base: 1, offset: 16, length: 1)
            self.compare(NFTRegister(0), equal: wanted, [127])
        case .ip6:
            self.destinationAddress(NFTRegister(0))
            self.compare(NFTRegister(0), equal: wanted, [UInt8](repeating: 0, count: 15) + [1])
        }
    }

    private mutating func conntrack(_ register: NFTRegister, key: UInt32, original: Bool = false) {
        self.expression("ct") { writer in
            writer.attribute(1, network: register.number)
            writer.attribute(2, network: key)
            if original { writer.attribute(3, native: UInt8(0)) }
        }
    }

    /// The packet opens a flow (`ct state new`).
    mutating func isNewFlow() {
        self.conntrack(NFTRegister(0), key: 0)
        self.mask(NFTRegister(0), hostOrder(8))
        self.compare(NFTRegister(0), equal: false, hostOrder(0))
    }

    /// The flow's destination was translated (`ct status dnat`).
    mutating func isTranslated() {
        self.conntrack(NFTRegister(0), key: 2)
        self.mask(NFTRegister(0), hostOrder(0x20))
        self.compare(NFTRegister(0), equal: false, hostOrder(0))
    }

    /// Sets our bit of the flow's mark (`ct mark set ct mark | …`), by which a firewall that forwards nothing knows the flow.
    mutating func markFlow() {
        guard self.marksFlows else { return }
        // The last one: what is translated to stands in those before it.
        let register = NFTRegister(15)
        self.conntrack(register, key: 3)
        self.mask(register, hostOrder(~ForwardAcceptance.mark), xor: hostOrder(ForwardAcceptance.mark))
        self.expression("ct") { writer in
            writer.attribute(2, network: UInt32(3))
            writer.attribute(4, network: register.number)
        }
    }

    mutating func originalDestinationAddress(_ register: NFTRegister) {
        self.conntrack(register, key: self.family == .ip ? 20 : 22, original: true)
    }

    mutating func originalDestinationPort(_ register: NFTRegister) {
        self.conntrack(register, key: 12, original: true)
    }

    /// Looks a key up: in a verdict map it acts, in a map it loads `into`, in a set it only matches.
    mutating func lookup(_ set: NFTSet, key: NFTRegister, into: NFTRegister? = nil) {
        self.expression("lookup") { writer in
            writer.attribute(1, text: set.name)
            writer.attribute(2, network: key.number)
            switch set.value {
            case .verdict: writer.attribute(3, network: UInt32(0))
            case .address: if let into { writer.attribute(3, network: into.number) }
            case .none: break
            }
        }
    }

    enum Counting: UInt32 {
        case incremental = 0
        case random = 1
    }

    /// A number from `offset` on, of `modulus` different ones, in host order.
    mutating func number(_ register: NFTRegister, _ counting: Counting, modulus: Int, offset: UInt32 = 0) {
        self.expression("numgen") { writer in
            writer.attribute(1, network: register.number)
            writer.attribute(2, network: UInt32(modulus))
            writer.attribute(3, network: counting.rawValue)
            writer.attribute(4, network: offset)
        }
    }

    /// A hash of the source address in `source`, below `modulus`. The seed is fixed, so that a client keeps its backend when
    /// the agent restarts.
    mutating func hash(_ source: NFTRegister, into register: NFTRegister, modulus: Int) {
        let family = self.family
        self.expression("hash") { writer in
            writer.attribute(1, network: source.number)
            writer.attribute(2, network: register.number)
            writer.attribute(3, network: family.addressLength)
            writer.attribute(4, network: UInt32(modulus))
            writer.attribute(5, network: UInt32(0xED6E_3E54))
            writer.attribute(7, network: UInt32(0))
        }
    }

    /// Adds an element for `seconds`, or renews the time of the one that is there. The rule ends here if the set is full.
    mutating func remember(_ set: NFTSet, key: NFTRegister, seconds: UInt32) {
        self.expression("dynset") { writer in
            writer.attribute(1, text: set.name)
            writer.attribute(3, network: UInt32(1))
            writer.attribute(4, network: key.number)
            writer.attribute(6, network: UInt64(seconds) * 1000)
        }
    }

    /// DNAT to the address in `address` and the port in the register after it.
    mutating func translate(_ address: NFTRegister) {
        let port = address + self.family.addressWords
        let family = self.family
        self.expression("nat") { writer in
            writer.attribute(1, network: UInt32(1))
            writer.attribute(2, network: UInt32(family.number))
            writer.attribute(3, network: address.number)
            writer.attribute(5, network: port.number)
        }
    }

    /// SNAT to the source that the packet has: nobody translates it after that.
    mutating func keepSource() {
        let source = NFTRegister(0)
        let family = self.family
        self.sourceAddress(source)
        self.expression("nat") { writer in
            writer.attribute(1, network: UInt32(0))
            writer.attribute(2, network: UInt32(family.number))
            writer.attribute(3, network: source.number)
        }
    }

    mutating func masquerade() {
        self.expression("masq") { _ in }
    }

    /// ICMP "port unreachable", or a TCP reset.
    mutating func reject(tcpReset: Bool) {
        let family = self.family
        self.expression("reject") { writer in
            writer.attribute(1, network: UInt32(tcpReset ? 1 : 0))
            if !tcpReset { writer.attribute(2, native: UInt8(family == .ip ? 3 : 4)) }
        }
    }
}

/// Registers that the kernel fills with numbers hold them in host order.
func hostOrder(_ value: UInt32) -> [UInt8] {
    withUnsafeBytes(of: value) { Array($0) }
}
