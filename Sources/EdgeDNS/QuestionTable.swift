import DNSWire
import Glibc

/// Values by question, bounded, least recently used first out. A look-up hashes the bytes of the name where they lie and
/// allocates nothing. The hash is keyed anew in each process, so that names cannot be chosen to collide.
struct QuestionTable<Value> {
    private struct Entry {
        var name: [UInt8]
        var tag: UInt32
        var hash: Int
        var value: Value
        /// Next in the same bucket.
        var next: Int32
        var newer: Int32
        var older: Int32
    }

    let capacity: Int
    private(set) var count = 0
    /// Values that had to go for others.
    private(set) var evictions: UInt64 = 0
    private var entries: [Entry] = []
    private var buckets: [Int32]
    private var newest: Int32 = -1
    private var oldest: Int32 = -1
    private var free: Int32 = -1

    /// - Parameter capacity: the most questions kept.
    init(capacity: Int) {
        self.capacity = max(1, min(capacity, Int(Int32.max) / 2))
        self.buckets = [Int32](repeating: -1, count: 16)
    }

    /// The type and what else tells questions for one name apart.
    static func tag(_ type: RecordType, flags: UInt16 = 0) -> UInt32 { UInt32(type.rawValue) << 16 | UInt32(flags) }

    private static func hash(_ name: UnsafeRawBufferPointer, _ tag: UInt32) -> Int {
        var hasher = Hasher()
        hasher.combine(bytes: name)
        hasher.combine(tag)
        return hasher.finalize()
    }

    /// The place of a question, valid until the next insertion or removal.
    /// - Parameter name: wire form in lower case.
    func find(_ name: UnsafeRawBufferPointer, _ tag: UInt32) -> Int? {
        self.find(name, tag, hash: QuestionTable.hash(name, tag))
    }

    private func find(_ name: UnsafeRawBufferPointer, _ tag: UInt32, hash: Int) -> Int? {
        var index = self.buckets[hash & (self.buckets.count - 1)]
        while index >= 0 {
            let place = Int(index)
            if self.entries[place].hash == hash, self.entries[place].tag == tag,
                self.entries[place].name.withUnsafeBytes({ $0.isEqual(to: name) })
            {
                return place
            }
            index = self.entries[place].next
        }
        return nil
    }

    subscript(place: Int) -> Value {
        get { self.entries[place].value }
        _modify { yield &self.entries[place].value }
    }

    /// Marks as used just now.
    mutating func touch(_ place: Int) {
        let index = Int32(place)
        guard index != self.newest else { return }
        self.unlink(index)
        self.linkNewest(index)
    }

    /// Adds or replaces; the oldest goes if there is no room.
    mutating func insert(_ value: Value, for name: UnsafeRawBufferPointer, _ tag: UInt32) {
        let hash = QuestionTable.hash(name, tag)
        if let place = self.find(name, tag, hash: hash) {
            self.entries[place].value = value
            self.touch(place)
            return
        }
        if self.count >= self.capacity {
            self.evictions += 1
            self.remove(Int(self.oldest))
        }
        if self.count >= self.buckets.count { self.growBuckets() }
        let bucket = hash & (self.buckets.count - 1)
        let entry = Entry(
            name: Array(name),
            tag: tag,
            hash: hash,
            value: value,
            next: self.buckets[bucket],
            newer: -1,
            older: -1
        )
        let index: Int32
        if self.free >= 0 {
            index = self.free
            self.free = self.entries[Int(index)].next
            self.entries[Int(index)] = entry
        } else {
            index = Int32(self.entries.count)
            self.entries.append(entry)
        }
        self.buckets[bucket] = index
        self.linkNewest(index)
        self.count += 1
    }

    mutating func remove(_ place: Int) {
        let index = Int32(place)
        let bucket = self.entries[place].hash & (self.buckets.count - 1)
        if self.buckets[bucket] == index {
            self.buckets[bucket] = self.entries[place].next
        } else {
            var previous = self.buckets[bucket]
            while self.entries[Int(previous)].next != index { previous = self.entries[Int(previous)].next }
            self.entries[Int(previous)].next = self.entries[place].next
        }
        self.unlink(index)
        self.entries[place].next = self.free
        self.entries[place].hash = 0
        self.entries[place].name = []
        self.free = index
        self.count -= 1
    }

    private mutating func growBuckets() {
        self.buckets = [Int32](repeating: -1, count: self.buckets.count * 2)
        var index = self.oldest
        while index >= 0 {
            let bucket = self.entries[Int(index)].hash & (self.buckets.count - 1)
            self.entries[Int(index)].next = self.buckets[bucket]
            self.buckets[bucket] = index
            index = self.entries[Int(index)].newer
        }
    }

    private mutating func unlink(_ index: Int32) {
        let (newer, older) = (self.entries[Int(index)].newer, self.entries[Int(index)].older)
        if newer >= 0 { self.entries[Int(newer)].older = older } else { self.newest = older }
        if older >= 0 { self.entries[Int(older)].newer = newer } else { self.oldest = newer }
    }

    private mutating func linkNewest(_ index: Int32) {
        self.entries[Int(index)].older = self.newest
        self.entries[Int(index)].newer = -1
        if self.newest >= 0 { self.entries[Int(self.newest)].newer = index } else { self.oldest = index }
        self.newest = index
    }
}

extension UnsafeRawBufferPointer {
    func isEqual(to other: UnsafeRawBufferPointer) -> Bool {
        guard self.count == other.count, let mine = self.baseAddress, let theirs = other.baseAddress else {
            return self.count == other.count
        }
        return memcmp(mine, theirs, self.count) == 0
    }
}
