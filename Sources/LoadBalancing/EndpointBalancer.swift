public import MeshCore

/// Chooses endpoints of one service port. A value without I/O: its owner keeps it on one event loop or under one lock.
///
/// Endpoints are named by slots: small integers that stay with an endpoint while it is listed or has open connections,
/// so that the owner can keep its own state in arrays beside this one. Count connections with `begin` and `end`.
public struct EndpointBalancer: Sendable {
    struct Slot: Sendable {
        var endpoint: BalancedEndpoint
        var active = 0
        /// Smooth weighted round robin: what the endpoint is still owed.
        var credit: Int64 = 0
        var isListed = true
    }

    public private(set) var policy: LoadBalancingPolicy
    /// Open connections on listed endpoints.
    public private(set) var totalActive = 0
    /// ClientIP session affinity; nil if the service has none. It goes before the policy.
    public private(set) var affinity: AffinityTable?

    private(set) var slots: [Slot] = []
    private var freeSlots: [Int] = []
    private var slotsByAddress: [TransportAddress: Int] = [:]
    /// The slots of the list in force, ordered by address so that every node of the fleet builds the same hash table.
    private(set) var listed: [Int] = []
    /// Running sums of the weights of `listed`; empty if all weights are equal.
    private var cumulativeWeights: [UInt64] = []
    private(set) var totalWeight: UInt64 = 0
    /// Round robin: the position in `listed` that is next.
    private var cursor = 0
    /// Asked for by the first pick that needs it: most services are never called from most nodes.
    private var table: PlacedTable?
    /// Grows with each change that makes a hash table another one.
    private var tableGeneration: UInt64 = 0
    /// A pick found no table, or an outdated one, and did not build it itself.
    private var isTableWanted = false

    /// A hash table with the slots that its positions had when it came.
    private struct PlacedTable: Sendable {
        var table: ConsistentHashTable
        var slots: [Int]
        var generation: UInt64
    }

    /// - Parameter affinityTimeout: nil for no session affinity.
    public init(
        policy: LoadBalancingPolicy,
        endpoints: [BalancedEndpoint],
        affinityTimeout: Duration? = nil,
        using generator: inout some RandomNumberGenerator
    ) {
        self.policy = policy
        self.affinity = affinityTimeout.map { AffinityTable(timeout: $0) }
        self.update(endpoints: endpoints, using: &generator)
    }

    /// How many endpoints can be picked.
    public var count: Int { self.listed.count }

    /// Replaces the list. Endpoints that stay keep their slot, their count of connections and their turn.
    public mutating func update(endpoints: [BalancedEndpoint], using generator: inout some RandomNumberGenerator) {
        let nextInTurn = self.listed.indices.map { self.listed[($0 + self.cursor) % self.listed.count] }
        for slot in self.listed { self.slots[slot].isListed = false }
        self.listed.removeAll(keepingCapacity: true)
        for endpoint in endpoints where endpoint.weight > 0 {
            let slot = self.slot(for: endpoint, using: &generator)
            // An address that is listed twice counts once.
            guard !self.slots[slot].isListed else { continue }
            self.slots[slot].isListed = true
            self.listed.append(slot)
        }
        self.releaseUnlisted(nextInTurn)
        self.listed.sort { self.slots[$0].endpoint.address < self.slots[$1].endpoint.address }
        self.totalActive = self.listed.reduce(0) { $0 + self.slots[$1].active }
        self.sumWeights()
        self.tableGeneration += 1
        if let next = nextInTurn.first(where: { $0 < self.slots.count && self.slots[$0].isListed }),
            let position = self.listed.firstIndex(of: next)
        {
            self.cursor = position
        } else {
            // A random start keeps the nodes of a fleet from calling the same endpoint at the same time.
            self.cursor = self.listed.isEmpty ? 0 : Int.random(in: self.listed.indices, using: &generator)
        }
    }

    /// Changes policy and affinity; a running affinity table is kept if its timeout stays.
    public mutating func update(policy: LoadBalancingPolicy, affinityTimeout: Duration?) {
        if policy != self.policy {
            self.policy = policy
            self.tableGeneration += 1
        }
        if affinityTimeout != self.affinity?.timeout {
            self.affinity = affinityTimeout.map { AffinityTable(timeout: $0) }
        }
    }

    /// The endpoint in a slot; nil if the slot is free.
    public func endpoint(in slot: Int) -> BalancedEndpoint? {
        guard self.slots.indices.contains(slot), self.slotsByAddress[self.slots[slot].endpoint.address] == slot else {
            return nil
        }
        return self.slots[slot].endpoint
    }

    /// The slot of an endpoint that may be chosen; nil if it is not listed.
    public func slot(listing address: TransportAddress) -> Int? {
        self.slotsByAddress[address].flatMap { self.slots[$0].isListed ? $0 : nil }
    }

    /// Open connections of a slot.
    public func active(in slot: Int) -> Int {
        self.slots.indices.contains(slot) ? self.slots[slot].active : 0
    }

    /// Open connections to an endpoint.
    public func active(to address: TransportAddress) -> Int {
        self.slotsByAddress[address].map { self.slots[$0].active } ?? 0
    }

    /// A connection to the endpoint of `slot` begins (before it is dialled, so that dials in flight count).
    public mutating func begin(_ slot: Int) {
        guard self.slots.indices.contains(slot) else { return }
        self.slots[slot].active += 1
        if self.slots[slot].isListed { self.totalActive += 1 }
    }

    /// A connection that was begun has ended, or its dial failed.
    public mutating func end(_ slot: Int) {
        guard self.slots.indices.contains(slot), self.slots[slot].active > 0 else { return }
        self.slots[slot].active -= 1
        if self.slots[slot].isListed {
            self.totalActive -= 1
        } else if self.slots[slot].active == 0 {
            self.release(slot)
        }
    }

    /// The slot of the endpoint to use; nil if none is listed or all are excluded.
    public mutating func pick(_ context: PickContext, using generator: inout some RandomNumberGenerator) -> Int? {
        if let address = self.affinity?.endpoint(for: context.client, now: context.now),
            let slot = self.slotsByAddress[address], self.slots[slot].isListed, !context.excluded.contains(slot)
        {
            return slot
        }
        guard let slot = self.pickByPolicy(context, using: &generator) else { return nil }
        self.affinity?.record(self.slots[slot].endpoint.address, for: context.client, now: context.now)
        return slot
    }

    private mutating func pickByPolicy(
        _ context: PickContext,
        using generator: inout some RandomNumberGenerator
    ) -> Int? {
        guard !self.listed.isEmpty else { return nil }
        switch self.policy {
        case .roundRobin:
            return self.pickInTurn(excluding: context.excluded)
        case .random:
            return self.pickAtRandom(excluding: context.excluded, using: &generator)
        case .leastRequest:
            return self.pickLessLoaded(excluding: context.excluded, using: &generator)
        case .consistentHash(let policy):
            return self.pickByHash(policy, context)
        }
    }
}

// MARK: Policies

extension EndpointBalancer {
    private mutating func pickInTurn(excluding excluded: [Int]) -> Int? {
        if self.cumulativeWeights.isEmpty {
            for _ in self.listed.indices {
                let slot = self.listed[self.cursor]
                self.cursor = (self.cursor + 1) % self.listed.count
                if !excluded.contains(slot) { return slot }
            }
            return nil
        }
        // Smooth weighted round robin, as nginx has it: heavy endpoints are spread over the cycle.
        var best: Int?
        var total: Int64 = 0
        for slot in self.listed where !excluded.contains(slot) {
            let weight = Int64(self.slots[slot].endpoint.weight)
            self.slots[slot].credit += weight
            total += weight
            if best.map({ self.slots[slot].credit > self.slots[$0].credit }) ?? true { best = slot }
        }
        if let best { self.slots[best].credit -= total }
        return best
    }

    private func pickAtRandom(
        excluding excluded: [Int],
        using generator: inout some RandomNumberGenerator
    ) -> Int? {
        guard !excluded.isEmpty else {
            return self.listed[self.randomPosition(without: nil, using: &generator)]
        }
        // Only after a failed dial, so a scan is cheap enough.
        let candidates = self.listed.filter { !excluded.contains($0) }
        let total = candidates.reduce(0) { $0 + UInt64(self.slots[$1].endpoint.weight) }
        guard total > 0 else { return nil }
        var remaining = UInt64.random(in: 0..<total, using: &generator)
        for slot in candidates {
            let weight = UInt64(self.slots[slot].endpoint.weight)
            if remaining < weight { return slot }
            remaining -= weight
        }
        return candidates.last
    }

    /// Power of two choices: two different endpoints drawn by weight; the one with fewer connections per weight wins,
    /// the first of them if equal, so that idle endpoints are shared out by weight.
    private func pickLessLoaded(
        excluding excluded: [Int],
        using generator: inout some RandomNumberGenerator
    ) -> Int? {
        guard self.listed.count > 1 else {
            return self.listed.first.flatMap { excluded.contains($0) ? nil : $0 }
        }
        let first: Int
        let second: Int
        if excluded.isEmpty {
            let position = self.randomPosition(without: nil, using: &generator)
            first = self.listed[position]
            second = self.listed[self.randomPosition(without: position, using: &generator)]
        } else {
            guard let one = self.pickAtRandom(excluding: excluded, using: &generator) else { return nil }
            first = one
            second = self.pickAtRandom(excluding: excluded + [one], using: &generator) ?? one
        }
        let firstLoad = UInt64(self.slots[first].active) &* UInt64(self.slots[second].endpoint.weight)
        let secondLoad = UInt64(self.slots[second].active) &* UInt64(self.slots[first].endpoint.weight)
        return firstLoad <= secondLoad ? first : second
    }

    private mutating func pickByHash(_ policy: ConsistentHashPolicy, _ context: PickContext) -> Int? {
        if self.table?.generation != self.tableGeneration { self.renewTable(policy.algorithm) }
        var loadFactor: Double?
        if case .ring(_, let factor) = policy.algorithm { loadFactor = factor }
        func isAcceptable(_ slot: Int) -> Bool {
            // An outdated table may name slots whose endpoint has left.
            guard slot >= 0, self.slots[slot].isListed, !context.excluded.contains(slot) else { return false }
            guard let loadFactor else { return true }
            return self.slots[slot].active < self.capacity(of: slot, loadFactor: loadFactor)
        }
        if let placed = self.table {
            let position = placed.table.first(from: context.keyHash) { isAcceptable(placed.slots[$0]) }
            if let position { return placed.slots[position] }
        }
        // No table yet, or no endpoint of an outdated one is left.
        let start = Int(context.keyHash % UInt64(self.listed.count))
        let order = self.listed[start...] + self.listed[..<start]
        return order.first(where: isAcceptable)
    }

    /// Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): the most connections that a slot may
    /// have so that no endpoint has more than `loadFactor` times its share, the one to be placed included. A handful is always
    /// allowed: where there are few connections a key's stickiness is worth more than their even spread.
    func capacity(of slot: Int, loadFactor: Double) -> Int {
        let share = Double(self.slots[slot].endpoint.weight) / Double(max(self.totalWeight, 1))
        let bound = Int((max(loadFactor, 1) * Double(self.totalActive + 1) * share).rounded(.up))
        return max(bound, ConsistentHashPolicy.unboundedConnections)
    }

    /// A position in `listed` drawn by weight, never `taken`.
    private func randomPosition(without taken: Int?, using generator: inout some RandomNumberGenerator) -> Int {
        guard !self.cumulativeWeights.isEmpty else {
            guard let taken else { return Int.random(in: self.listed.indices, using: &generator) }
            let position = Int.random(in: 0..<self.listed.count - 1, using: &generator)
            return position < taken ? position : position + 1
        }
        var draw: UInt64
        if let taken {
            let weight = UInt64(self.slots[self.listed[taken]].endpoint.weight)
            draw = UInt64.random(in: 0..<self.totalWeight - weight, using: &generator)
            if draw >= self.cumulativeWeights[taken] - weight { draw += weight }
        } else {
            draw = UInt64.random(in: 0..<self.totalWeight, using: &generator)
        }
        return self.cumulativeWeights.firstPosition { $0 > draw }
    }
}

// MARK: Hash tables

/// What a hash table is to be made of, so that it can be built elsewhere.
public struct ConsistentHashTableRequest: Sendable {
    public let algorithm: ConsistentHashPolicy.Algorithm
    public let endpoints: [BalancedEndpoint]
    fileprivate let generation: UInt64

    public func build() -> ConsistentHashTable { ConsistentHashTable(self.algorithm, self.endpoints) }
}

extension EndpointBalancer {
    /// Points or entries of a table that a pick builds itself: about a millisecond's work.
    static let smallTable = 8_192

    /// Builds the table if it is small. Else the outdated one goes on serving, or the hash alone chooses if there is none, until
    /// the owner has built what `takeTableRequest` asks for. So a key's first connections, those of the time that it takes to
    /// build the first table, may go elsewhere than its others: no other connection waits for that.
    private mutating func renewTable(_ algorithm: ConsistentHashPolicy.Algorithm) {
        guard ConsistentHashTable.size(algorithm, endpoints: self.listed.count) <= Self.smallTable else {
            self.isTableWanted = true
            return
        }
        let table = ConsistentHashTable(algorithm, self.listed.map { self.slots[$0].endpoint })
        self.table = PlacedTable(table: table, slots: self.listed, generation: self.tableGeneration)
    }

    /// The table that picks are waiting for, to be built off the loop and brought to `install`; nil if they wait for none.
    public mutating func takeTableRequest() -> ConsistentHashTableRequest? {
        guard self.isTableWanted else { return nil }
        self.isTableWanted = false
        guard self.table?.generation != self.tableGeneration, case .consistentHash(let policy) = self.policy else {
            return nil
        }
        return ConsistentHashTableRequest(
            algorithm: policy.algorithm,
            endpoints: self.listed.map { self.slots[$0].endpoint },
            generation: self.tableGeneration
        )
    }

    /// Puts a table in force. One that is outdated by now serves all the same until the next is there.
    public mutating func install(_ table: ConsistentHashTable, for request: ConsistentHashTableRequest) {
        guard request.generation > self.table?.generation ?? 0 else { return }
        // An endpoint that has left since has no slot.
        let slots = request.endpoints.map { self.slotsByAddress[$0.address] ?? -1 }
        self.table = PlacedTable(table: table, slots: slots, generation: request.generation)
    }
}

// MARK: Slots

extension EndpointBalancer {
    /// The slot of an endpoint, taken anew if it has none; its weight is brought up to date.
    private mutating func slot(
        for endpoint: BalancedEndpoint,
        using generator: inout some RandomNumberGenerator
    ) -> Int {
        if let slot = self.slotsByAddress[endpoint.address] {
            self.slots[slot].endpoint.weight = endpoint.weight
            return slot
        }
        var entry = Slot(endpoint: endpoint, isListed: false)
        entry.credit = Int64.random(in: 0..<Int64(endpoint.weight), using: &generator)
        let slot: Int
        if let free = self.freeSlots.popLast() {
            slot = free
            self.slots[slot] = entry
        } else {
            slot = self.slots.count
            self.slots.append(entry)
        }
        self.slotsByAddress[endpoint.address] = slot
        return slot
    }

    private mutating func releaseUnlisted(_ former: [Int]) {
        for slot in former where !self.slots[slot].isListed && self.slots[slot].active == 0 {
            self.release(slot)
        }
    }

    private mutating func release(_ slot: Int) {
        self.slotsByAddress[self.slots[slot].endpoint.address] = nil
        self.freeSlots.append(slot)
    }

    private mutating func sumWeights() {
        let weights = self.listed.map { UInt64(self.slots[$0].endpoint.weight) }
        self.totalWeight = weights.reduce(0, +)
        guard let first = weights.first, weights.contains(where: { $0 != first }) else {
            self.cumulativeWeights = []
            return
        }
        var sum: UInt64 = 0
        self.cumulativeWeights = weights.map {
            sum += $0
            return sum
        }
    }
}

extension Array {
    /// The first position whose element satisfies `predicate`, in an array where all such elements come last; `count` if
    /// there is none.
    func firstPosition(where predicate: (Element) -> Bool) -> Int {
        var low = 0
        var high = self.count
        while low < high {
            let middle = (low + high) / 2
            if predicate(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
