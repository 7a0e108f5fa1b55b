import DNSWire
import MeshCore
import Multiformats
import NIOCore

/// What a querier has found out.
struct MDNSFinding: Hashable, Sendable {
    let peer: PeerID
    /// Without the peer ID.
    let addresses: [Multiaddr]
    let lifetime: TimeAmount
    /// Not only heard again.
    let isNew: Bool
}

/// Browses for a service on one interface and keeps what is announced (RFC 6762 sections 5, 7 and 10). Sans-I/O.
struct MDNSQuerier {
    private struct Instance {
        var pointerExpires: NIODeadline?
        /// Of the pointer record.
        var lifetime = TimeAmount.zero
        /// How often the pointer was asked for as its end drew near.
        var refreshes = 0
        var text: [[UInt8]]?
        var textExpires = NIODeadline.uptimeNanoseconds(0)
        /// How often a text that did not come with its pointer was asked for.
        var textQueries = 0

        var expires: NIODeadline { max(self.pointerExpires ?? .uptimeNanoseconds(0), self.textExpires) }

        /// Section 5.2: at 80, 85, 90 and 95 percent of the lifetime.
        var refreshDue: NIODeadline? {
            guard let expires = self.pointerExpires, self.refreshes < 4 else { return nil }
            return expires - .nanoseconds(self.lifetime.nanoseconds / 100 * Int64(20 - 5 * self.refreshes))
        }
    }

    /// Longer lifetimes are cut to this, the longest that RFC 6762 recommends (section 10).
    static let maximumLifetime: UInt32 = 4500
    /// Known answers in one message, and messages of one query: about a thousand peers are spared their answers.
    private static let knownAnswersPerMessage = 16
    private static let maximumMessages = 16
    /// Questions for the texts of single instances in one query.
    private static let maximumTextQuestions = 16
    private static let maximumTextQueries = 3
    /// Queries in a row that may be left to others.
    private static let maximumSuppressed = 3

    let names: MDNSNames
    private let configuration: MDNSConfiguration
    private var generator: HostGenerator
    private var instances: [DomainName: Instance] = [:]
    private var nextQuery: NIODeadline
    private var interval = TimeAmount.seconds(1)
    private var lastQuery: NIODeadline?
    private var suppressed = 0
    private(set) var instancesDropped: UInt64 = 0
    /// The earliest end or refresh of an instance; nil if it is to be reckoned anew.
    private var cachedDue: NIODeadline?

    /// The first query follows after a random delay (section 5.2).
    init(names: MDNSNames, configuration: MDNSConfiguration, generator: HostGenerator, now: NIODeadline) {
        self.names = names
        self.configuration = configuration
        self.generator = generator
        self.nextQuery = now
        self.nextQuery = now + .milliseconds(Int64.random(in: 20...120, using: &self.generator))
    }

    var count: Int { self.instances.count }

    var deadline: NIODeadline { min(self.nextQuery, self.instanceDue) }

    private var instanceDue: NIODeadline {
        self.cachedDue
            ?? self.instances.values.map { min($0.expires, $0.refreshDue ?? .distantFuture) }.min() ?? .distantFuture
    }

    // MARK: Received

    /// Section 7.3: a query of another for the same, whose known answers are known here too, stands for the own one.
    mutating func received(query message: Message, now: NIODeadline) {
        let asksSame = message.questions.contains {
            $0.name == self.names.service && $0.type == .ptr && $0.recordClass == .internet
        }
        guard asksSame, !message.flags.contains(.truncated), self.suppressed < Self.maximumSuppressed,
            self.nextQuery - now <= self.interval,
            // Its own query comes back to this socket.
            self.lastQuery.map({ now - $0 > .seconds(1) }) ?? true
        else { return }
        for case .ptr(let instance) in message.answers.lazy.map(\.data) where self.instances[instance] == nil { return }
        self.suppressed += 1
        self.scheduleNext(now: now)
    }

    /// - Parameter accepts: gives an address of a peer as it is seen from here; nil for one that is not believed.
    mutating func received(
        response message: Message,
        now: NIODeadline,
        accepts: (Multiaddr) -> Multiaddr?
    ) -> [MDNSFinding] {
        let records = message.answers + message.additionals
        var findings: [MDNSFinding] = []
        for record in records where record.recordClass.withoutTopBit == .internet {
            guard case .ptr(let name) = record.data, record.name == self.names.service,
                name.labels(below: self.names.service)?.count == 1
            else { continue }
            self.pointer(name, ttl: record.ttl, now: now)
        }
        for record in records where record.recordClass.withoutTopBit == .internet {
            guard case .txt(let strings) = record.data, record.name.labels(below: self.names.service)?.count == 1,
                self.text(record.name, strings, ttl: record.ttl, now: now)
            else { continue }
            let isNew = self.instances[record.name]?.text != strings
            self.instances[record.name]?.text = strings
            let lifetime = TimeAmount.seconds(Int64(min(record.ttl, Self.maximumLifetime)))
            findings.append(contentsOf: self.findings(in: strings, lifetime, isNew: isNew, accepts: accepts))
        }
        self.cachedDue = self.instanceDue
        return findings
    }

    private mutating func pointer(_ name: DomainName, ttl: UInt32, now: NIODeadline) {
        self.cachedDue = nil
        guard ttl > 0 else {
            // Section 10.1: a goodbye takes effect after a second; an announcement until then takes it back.
            self.instances[name]?.pointerExpires = now + .seconds(1)
            self.instances[name]?.refreshes = 4
            self.instances[name]?.textExpires = now + .seconds(1)
            self.instances[name]?.text = nil
            self.instances[name]?.textQueries = Self.maximumTextQueries
            return
        }
        var instance = self.instances[name] ?? self.newInstance()
        instance.lifetime = .seconds(Int64(min(ttl, Self.maximumLifetime)))
        instance.pointerExpires = now + instance.lifetime
        instance.refreshes = 0
        if instance.text == nil, instance.textQueries == 0 || instance.textQueries == Self.maximumTextQueries {
            instance.textQueries = 0
            // It comes with the pointer as a rule; if not, it is asked for.
            self.nextQuery = min(self.nextQuery, now + .milliseconds(200))
        }
        self.instances[name] = instance
    }

    /// Tells whether the text is one to look at.
    private mutating func text(_ name: DomainName, _ strings: [[UInt8]], ttl: UInt32, now: NIODeadline) -> Bool {
        self.cachedDue = nil
        guard ttl > 0 else { return false }
        var instance = self.instances[name] ?? self.newInstance()
        instance.textExpires = now + .seconds(Int64(min(ttl, Self.maximumLifetime)))
        instance.textQueries = 0
        self.instances[name] = instance
        return true
    }

    /// When there is no room, the one that would end first gives way: whoever is heard now may be one to talk to.
    private mutating func newInstance() -> Instance {
        if self.instances.count >= self.configuration.maximumInstances,
            let first = self.instances.min(by: { $0.value.expires < $1.value.expires })?.key
        {
            self.instances[first] = nil
            self.instancesDropped += 1
        }
        return Instance()
    }

    private func findings(
        in text: [[UInt8]],
        _ lifetime: TimeAmount,
        isNew: Bool,
        accepts: (Multiaddr) -> Multiaddr?
    ) -> [MDNSFinding] {
        var peers: [PeerID] = []
        var addresses: [PeerID: [Multiaddr]] = [:]
        for string in text.prefix(4 * self.configuration.maximumAddressesPerPeer) {
            guard string.starts(with: MDNSRecords.prefix),
                let told = try? Multiaddr(
                    String(decoding: string.dropFirst(MDNSRecords.prefix.count), as: UTF8.self)
                ),
                let peer = told.peerID, !told.isCircuit, let address = accepts(told),
                addresses[peer, default: []].count < self.configuration.maximumAddressesPerPeer
            else { continue }
            if addresses[peer] == nil { peers.append(peer) }
            addresses[peer, default: []].append(address.withoutPeerID)
        }
        return peers.map {
            MDNSFinding(peer: $0, addresses: addresses[$0] ?? [], lifetime: lifetime, isNew: isNew)
        }
    }

    // MARK: Time

    mutating func advance(now: NIODeadline) -> [MDNSOutput] {
        if self.instanceDue <= now {
            self.instances = self.instances.filter { $0.value.expires > now }
            var refresh = false
            for name in self.instances.keys {
                while let due = self.instances[name]?.refreshDue, due <= now {
                    self.instances[name]?.refreshes += 1
                    refresh = true
                }
            }
            self.cachedDue = nil
            self.cachedDue = self.instanceDue
            if refresh { self.nextQuery = now }
        }
        guard self.nextQuery <= now else { return [] }
        self.suppressed = 0
        self.scheduleNext(now: now)
        self.lastQuery = now
        return self.query(now: now).map { .multicast($0) }
    }

    /// Section 5.2: each interval is at least twice the one before.
    private mutating func scheduleNext(now: NIODeadline) {
        self.nextQuery = now + self.interval
        self.interval = min(.nanoseconds(self.interval.nanoseconds * 2), self.configuration.maximumQueryInterval)
    }

    private mutating func query(now: NIODeadline) -> [Message] {
        var questions = [Question(self.names.service, .ptr)]
        for (name, instance) in self.instances
        where instance.text == nil && instance.textQueries < Self.maximumTextQueries {
            guard questions.count <= Self.maximumTextQuestions else { break }
            questions.append(Question(name, .txt))
            self.instances[name]?.textQueries += 1
        }
        var known: [ResourceRecord] = []
        for (name, instance) in self.instances {
            guard let expires = instance.pointerExpires, instance.text != nil else { continue }
            let left = expires - now
            guard left.nanoseconds >= instance.lifetime.nanoseconds / 2 + 1_000_000_000 else { continue }
            known.append(
                ResourceRecord(self.names.service, ttl: UInt32(clamping: left.nanoseconds / 1_000_000_000), .ptr(name))
            )
            guard known.count < Self.knownAnswersPerMessage * Self.maximumMessages else { break }
        }
        var messages: [Message] = []
        repeat {
            var message = Message(id: 0, questions: messages.isEmpty ? questions : [])
            // Questions for texts take the room of known answers.
            let room =
                messages.isEmpty
                ? max(1, Self.knownAnswersPerMessage - questions.count + 1) : Self.knownAnswersPerMessage
            message.answers = Array(known.prefix(room))
            known.removeFirst(message.answers.count)
            if !known.isEmpty { message.flags.insert(.truncated) }
            messages.append(message)
        } while !known.isEmpty && messages.count < Self.maximumMessages
        return messages
    }
}
