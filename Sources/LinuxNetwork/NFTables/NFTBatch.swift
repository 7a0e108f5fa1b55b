/// A transaction of nf_tables messages (linux/netfilter/nf_tables.h), for one or both address families.
struct NFTBatch {
    /// Message types of the nf_tables subsystem.
    enum Message: UInt16 {
        case newTable = 0
        case getTable = 1
        case deleteTable = 2
        case newChain = 3
        case getChain = 4
        case deleteChain = 5
        case newRule = 6
        case newSet = 9
        case newElement = 12
        case getElement = 13
        case deleteElement = 14
        case getGeneration = 16

        var type: UInt16 { 10 << 8 | self.rawValue }
    }

    static let tableName = "edgemesh"

    private(set) var writer: NetlinkWriter
    /// The number of the message that opens the batch; the others follow it.
    let first: UInt32
    private(set) var count: UInt32 = 0
    private var setIdentifiers: UInt32 = 0
    private let table: String
    private let marksFlows: Bool
    /// Whether anything was added.
    var isEmpty: Bool { self.count == 0 }

    init(first: UInt32, table: String = Self.tableName, marksFlows: Bool = false, reserving capacity: Int = 4096) {
        self.first = first
        self.table = table
        self.marksFlows = marksFlows
        self.writer = NetlinkWriter(reserving: capacity)
        self.writer.begin(type: 16, flags: .request, sequence: first)
        self.writer.netfilterHeader(family: 0, resource: 10)
        self.writer.end()
    }

    /// The bytes to send and the sequence number of the message that will be acknowledged.
    mutating func finish() throws(LinuxNetworkError) -> (bytes: [UInt8], last: UInt32) {
        self.writer.addFlags(.ack)
        let last = self.first &+ self.count
        self.writer.begin(type: 17, flags: .request, sequence: last &+ 1)
        self.writer.netfilterHeader(family: 0, resource: 10)
        self.writer.end()
        return (try self.writer.finished(), last)
    }

    mutating func message(
        _ message: Message,
        _ family: NFTFamily,
        flags: NetlinkWriter.Flags = [],
        _ body: (inout NetlinkWriter) -> Void
    ) {
        self.count &+= 1
        self.writer.begin(type: message.type, flags: flags.union(.request), sequence: self.first &+ self.count)
        self.writer.netfilterHeader(family: family.number)
        self.writer.attribute(1, text: self.table)
        body(&self.writer)
        self.writer.end()
    }

    mutating func createTable(_ family: NFTFamily) {
        self.message(.newTable, family, flags: .create) { $0.attribute(2, network: UInt32(0)) }
    }

    mutating func deleteTable(_ family: NFTFamily) {
        self.message(.deleteTable, family) { _ in }
    }

    /// Hook numbers of the two IP families.
    enum Hook: UInt32 {
        case prerouting = 0
        case forward = 2
        case output = 3
        case postrouting = 4
    }

    mutating func createChain(_ family: NFTFamily, _ name: String, type: String, hook: Hook, priority: Int32) {
        self.message(.newChain, family, flags: .create) { writer in
            writer.attribute(3, text: name)
            writer.nested(4) {
                $0.attribute(1, network: hook.rawValue)
                $0.attribute(2, network: priority)
            }
            writer.attribute(5, network: UInt32(1))
            writer.attribute(7, text: type)
        }
    }

    mutating func createChain(_ family: NFTFamily, _ name: String) {
        self.message(.newChain, family, flags: .create) { $0.attribute(3, text: name) }
    }

    /// The kernel deletes the chain's rules with it.
    mutating func deleteChain(_ family: NFTFamily, _ name: String) {
        self.message(.deleteChain, family) { $0.attribute(3, text: name) }
    }

    mutating func appendRule(_ family: NFTFamily, chain: String, _ expressions: (inout NFTExpressions) -> Void) {
        let marksFlows = self.marksFlows
        self.message(.newRule, family, flags: [.create, .append]) { writer in
            writer.attribute(2, text: chain)
            writer.nested(4) { list in
                var builder = NFTExpressions(family: family, marksFlows: marksFlows, writer: list)
                // The builder owns the buffer meanwhile; leaving it here too would copy it.
                list = NetlinkWriter(reserving: 0)
                expressions(&builder)
                list = builder.writer
            }
        }
    }

    mutating func createSet(_ family: NFTFamily, _ set: NFTSet, maximumSize: UInt32? = nil) {
        self.setIdentifiers += 1
        let identifier = self.setIdentifiers
        self.message(.newSet, family, flags: .create) { writer in
            writer.attribute(2, text: set.name)
            writer.attribute(3, network: set.flags)
            writer.attribute(4, network: set.keyFields(family).reduce(0) { $0 << 6 | $1.type })
            writer.attribute(5, network: set.keyFields(family).reduce(0) { $0 + $1.length })
            switch set.value {
            case .none: break
            case .verdict:
                writer.attribute(6, network: UInt32(0xFFFF_FF00))
                writer.attribute(7, network: UInt32(16))
            case .address:
                let fields = set.valueFields(family)
                writer.attribute(6, network: fields.reduce(0) { $0 << 6 | $1.type })
                writer.attribute(7, network: fields.reduce(0) { $0 + $1.length })
            }
            if let size = maximumSize { writer.nested(9) { $0.attribute(1, network: size) } }
            writer.attribute(10, network: identifier)
            let key = set.keyFields(family)
            if key.contains(where: { $0.type == NFTField.integer }) {
                let value =
                    switch set.value {
                    case .none: [UInt8]?.none
                    case .verdict: NFTTypeof.verdict
                    case .address: NFTTypeof.concatenation(set.valueFields(family).map(\.typeof))
                    }
                writer.attribute(13, NFTTypeof.userData(key: key.map(\.typeof), value: value))
            }
            if set.isCounted { writer.nested(17, Self.counter) }
        }
    }

    /// Adds or deletes elements, in as many messages as their 16-bit attribute lengths ask for.
    mutating func elements(_ message: Message, _ family: NFTFamily, _ set: NFTSet, _ elements: [NFTElement]) {
        var rest = elements[...]
        while !rest.isEmpty {
            self.message(message, family, flags: message == .newElement ? .create : []) { writer in
                writer.attribute(2, text: set.name)
                let list = writer.beginNested(3)
                // An element takes less than 256 bytes, so that this stays below 65,536.
                while let element = rest.first, writer.messageLength < 60_000 {
                    rest.removeFirst()
                    Self.write(element, deleting: message == .deleteElement, counted: set.isCounted, to: &writer)
                }
                writer.endNested(list)
            }
        }
    }

    private static func write(_ element: NFTElement, deleting: Bool, counted: Bool, to writer: inout NetlinkWriter) {
        writer.nested(1) { writer in
            writer.nested(1) { $0.attribute(1, element.key) }
            guard !deleting else { return }
            switch element.value {
            case .none: break
            case .data(let bytes): writer.nested(2) { $0.attribute(1, bytes) }
            case .verdict(let verdict): writer.nested(2) { NFTExpressions.write(verdict, to: &$0) }
            case .lasting(let milliseconds, let left):
                writer.attribute(4, network: milliseconds)
                writer.attribute(5, network: min(max(left, 1), milliseconds))
            }
            if counted { writer.nested(7, Self.counter) }
        }
    }

    private static func counter(_ writer: inout NetlinkWriter) {
        writer.attribute(1, text: "counter")
        writer.nested(2) { _ in }
    }
}
