/// Runs a program over a text, all ways through it side by side (Pike's machine), each scalar once.
struct RegexMatcher {
    /// Where a thread stands: between two scalars.
    private struct Place {
        var offset: Int
        var before: UInt32?
        var after: UInt32?
    }

    /// Threads in order of preference, each instruction at most once.
    private struct Threads {
        var order: [Int] = []
        var isListed: [Bool]
        /// Captures by instruction.
        var slots: [Int]

        mutating func clear() {
            for index in self.order { self.isListed[index] = false }
            self.order.removeAll(keepingCapacity: true)
        }

        /// Lists the instruction and all that follow from it without a scalar. Recursion is no deeper than the program is long.
        mutating func follow(
            _ index: Int,
            in program: RegexProgram,
            at place: Place,
            slots: inout [Int],
            steps: inout Int
        ) {
            guard !self.isListed[index] else { return }
            self.isListed[index] = true
            self.order.append(index)
            steps += 1
            switch program.instructions[index] {
            case .split(let first, let second):
                self.follow(first, in: program, at: place, slots: &slots, steps: &steps)
                self.follow(second, in: program, at: place, slots: &slots, steps: &steps)
            case .save(let slot):
                let isWanted = slot < slots.count
                let former = isWanted ? slots[slot] : 0
                if isWanted { slots[slot] = place.offset }
                self.follow(index + 1, in: program, at: place, slots: &slots, steps: &steps)
                if isWanted { slots[slot] = former }
            case .check(let assertion):
                guard RegexMatcher.holds(assertion, at: place) else { return }
                self.follow(index + 1, in: program, at: place, slots: &slots, steps: &steps)
            case .scalar, .set, .match:
                for slot in slots.indices { self.slots[index * slots.count + slot] = slots[slot] }
            }
        }
    }

    private let program: RegexProgram
    private let slotCount: Int
    private let maximumSteps: Int
    private var current: Threads
    private var following: Threads
    /// Instructions followed and parts of sets looked at so far, of all matches. Beyond the maximum nothing is found.
    private(set) var steps = 0
    /// The captures of the way that is being followed.
    private var slots: [Int]

    init(_ program: RegexProgram, captures: Bool, maximumSteps: Int) {
        self.maximumSteps = maximumSteps
        let size = program.instructions.count
        self.program = program
        self.slotCount = captures ? 2 * (program.groups + 1) : 0
        let threads = Threads(
            isListed: Array(repeating: false, count: size),
            slots: Array(repeating: -1, count: size * self.slotCount)
        )
        self.current = threads
        self.following = threads
        self.slots = Array(repeating: -1, count: self.slotCount)
    }

    /// The captures of the match that is preferred, as offsets in bytes (-1 for none), the first two being its bounds; empty if
    /// captures were not asked for, nil without a match.
    ///
    /// - Parameters:
    ///   - from: the offset of the first scalar.
    ///   - before: the scalar in front of it.
    ///   - whole: it must begin at the first scalar and end with the text; otherwise the first match counts.
    mutating func match(
        _ text: some Sequence<Unicode.Scalar>,
        from offset: Int,
        before: UInt32? = nil,
        whole: Bool
    ) -> [Int]? {
        var scalars = text.makeIterator()
        var next = scalars.next()
        var place = Place(offset: offset, before: before, after: next?.value)
        var found: [Int]?
        self.current.clear()
        self.start(at: place)
        while true {
            self.following.clear()
            var after: Place?
            if let scalar = next {
                next = scalars.next()
                after = Place(offset: place.offset + UTF8.width(scalar), before: scalar.value, after: next?.value)
            }
            for index in self.current.order {
                switch self.program.instructions[index] {
                case .match:
                    guard !whole || after == nil else { continue }
                    found = self.captures(of: index, end: place.offset)
                case .scalar(let value):
                    if let after, after.before == value { self.advance(index, to: after) }
                    continue
                case .set(let set):
                    self.steps += self.program.setCosts[set]
                    if let after, let scalar = after.before, self.program.sets[set].contains(scalar) {
                        self.advance(index, to: after)
                    }
                    continue
                case .split, .save, .check: continue
                }
                // What is preferred less than a match need not be followed.
                break
            }
            guard self.steps <= self.maximumSteps else { return nil }
            guard let after else { return found }
            place = after
            swap(&self.current, &self.following)
            // A match may start later as long as there is none.
            if !whole, found == nil { self.start(at: place) }
            if self.current.order.isEmpty, whole || found != nil { return found }
        }
    }

    private mutating func start(at place: Place) {
        for slot in self.slots.indices { self.slots[slot] = -1 }
        if self.slotCount > 0 { self.slots[0] = place.offset }
        self.current.follow(0, in: self.program, at: place, slots: &self.slots, steps: &self.steps)
    }

    private mutating func advance(_ index: Int, to place: Place) {
        for slot in 0..<self.slotCount { self.slots[slot] = self.current.slots[index * self.slotCount + slot] }
        self.following.follow(index + 1, in: self.program, at: place, slots: &self.slots, steps: &self.steps)
    }

    private func captures(of index: Int, end: Int) -> [Int] {
        var slots = Array(self.current.slots[index * self.slotCount..<(index + 1) * self.slotCount])
        if self.slotCount > 0 { slots[1] = end }
        return slots
    }

    private static func holds(_ assertion: RegexAssertion, at place: Place) -> Bool {
        switch assertion {
        case .textStart: place.before == nil
        case .textEnd: place.after == nil
        case .lineStart: place.before == nil || place.before == 0x0A
        case .lineEnd: place.after == nil || place.after == 0x0A
        case .wordBoundary: self.isWord(place.before) != self.isWord(place.after)
        case .noWordBoundary: self.isWord(place.before) == self.isWord(place.after)
        }
    }

    private static func isWord(_ scalar: UInt32?) -> Bool {
        switch scalar {
        case .some(0x30...0x39), .some(0x41...0x5A), .some(0x5F), .some(0x61...0x7A): true
        default: false
        }
    }
}
