import Glibc
import MeshCore
import Synchronization

/// Packets and bytes that opened flows to a frontend.
public struct FlowCounter: Hashable, Sendable {
    /// One packet per flow: only a flow's first packet passes the NAT chains.
    public var flows: UInt64
    public var bytes: UInt64
}

/// Reads the flows that the kernel counted, on a socket and a thread of its own: for thousands of frontends that takes tenths
/// of a second, in which changes of the rules do not wait.
actor FlowCounterReader {
    typealias Counters = [KernelFrontend: FlowCounter]

    /// How old what was read last may be for those who ask again: people, and collectors of several kinds.
    static let maximumAge = Duration.seconds(5)

    private let source: Source
    private let maximumAge: Duration
    private var last: (counters: Counters, at: MonotonicTime)?
    private var reading: Task<Counters, any Error>?

    /// Opens its socket in the network namespace of the calling thread.
    init(maximumAge: Duration = FlowCounterReader.maximumAge) throws {
        self.source = try Source()
        self.maximumAge = maximumAge
    }

    /// What was read lately, or is being read for someone else.
    func recent(_ rules: [KernelFrontend: KernelRule], _ families: [NFTFamily]) async throws -> Counters {
        if let last, .now() - last.at < self.maximumAge { return last.counters }
        if let reading { return try await reading.value }
        let reading = Task { try await self.read(rules, families) }
        self.reading = reading
        defer { self.reading = nil }
        let counters = try await reading.value
        self.last = (counters, .now())
        return counters
    }

    nonisolated func read(_ rules: [KernelFrontend: KernelRule], _ families: [NFTFamily]) async throws -> Counters {
        let source = self.source
        return try await besides { try source.read(rules, families) }
    }

    private final class Source: Sendable {
        private let socket: Mutex<NetlinkSocket>

        init() throws { self.socket = Mutex(try NetlinkSocket(.netfilter)) }

        func read(_ rules: [KernelFrontend: KernelRule], _ families: [NFTFamily]) throws -> Counters {
            try self.socket.withLock { try Self.read(rules, families, $0) }
        }

        private static func read(
            _ rules: [KernelFrontend: KernelRule],
            _ families: [NFTFamily],
            _ socket: NetlinkSocket
        ) throws(LinuxNetworkError) -> Counters {
            var counters: [KernelFrontend: FlowCounter] = [:]
            for family in families {
                for set in [NFTSet.services, .nodePorts] {
                    func note(_ element: NetlinkAttributes) throws(LinuxNetworkError) {
                        guard let key = try element.nested(1)?[1], let frontend = KernelFrontend(key, family, set),
                            let counter = try element.nested(7)?.nested(2)
                        else { return }
                        counters[frontend] = FlowCounter(
                            flows: counter.network(2, UInt64.self) ?? 0,
                            bytes: counter.network(1, UInt64.self) ?? 0
                        )
                    }
                    try socket.readElements(family, set, each: note)
                    // The kernel lists a hash table by position. While it grows the table, as it does for a moment after many
                    // elements came, positions shift and a listing passes some over: those are asked for by their keys.
                    for (frontend, rule) in rules where counters[frontend] == nil {
                        guard NFTFamily(frontend.family) == family, frontend.keys.nodePort == (set == .nodePorts),
                            let element = NFTRulePlan(frontend, rule, version: 0).elements[set]?.first
                        else { continue }
                        // Nil: a change took it out meanwhile.
                        if let list = try socket.readElement(family, set, key: element.key) {
                            try NetlinkSocket.elements(list, note)
                        }
                    }
                }
            }
            return counters
        }
    }
}

extension NetlinkSocket {
    func readElements(
        _ family: NFTFamily,
        _ set: NFTSet,
        each: (NetlinkAttributes) throws(LinuxNetworkError) -> Void
    ) throws(LinuxNetworkError) {
        try self.dump(
            type: NFTBatch.Message.getElement.type,
            what: "reading map \(set.name)",
            {
                $0.netfilterHeader(family: family.number)
                $0.attribute(1, text: NFTBatch.tableName)
                $0.attribute(2, text: set.name)
            },
            each: { (message) throws(LinuxNetworkError) in try Self.elements(message, each) }
        )
    }

    /// Nil if it is not there.
    fileprivate func readElement(
        _ family: NFTFamily,
        _ set: NFTSet,
        key: [UInt8]
    ) throws(LinuxNetworkError) -> NetlinkMessage? {
        do {
            return try self.request(
                type: NFTBatch.Message.getElement.type,
                flags: [],
                what: "reading an element of map \(set.name)"
            ) { writer in
                writer.netfilterHeader(family: family.number)
                writer.attribute(1, text: NFTBatch.tableName)
                writer.attribute(2, text: set.name)
                writer.nested(3) { $0.nested(1) { $0.nested(1) { $0.attribute(1, key) } } }
            }
        } catch {
            guard error.errno == ENOENT else { throw error }
            return nil
        }
    }

    fileprivate static func elements(
        _ message: NetlinkMessage,
        _ each: (NetlinkAttributes) throws(LinuxNetworkError) -> Void
    ) throws(LinuxNetworkError) {
        guard let list = try NetlinkAttributes(message.payload.dropFirst(4)).nested(3) else { return }
        for (_, value) in list.all { try each(try NetlinkAttributes(value)) }
    }
}

extension KernelFrontend {
    /// Reads the key of an element of `services` or `nodePorts`; nil if it is not one.
    fileprivate init?(_ key: ArraySlice<UInt8>, _ family: NFTFamily, _ set: NFTSet) {
        let addressBytes = set == .nodePorts ? 0 : Int(family.addressLength)
        let tail = Array(key.dropFirst(addressBytes))
        guard tail.count == 8, let transport = TransportProtocol(rawValue: tail[0]) else { return nil }
        let match: Match
        if set == .nodePorts {
            match = .nodePort(family == .ip ? .v4 : .v6)
        } else {
            guard let address = IPAddress(networkBytes: key.prefix(addressBytes)) else { return nil }
            match = .address(address)
        }
        self.init(match: match, transport: transport, port: UInt16(tail[4]) << 8 | UInt16(tail[5]))
    }
}
