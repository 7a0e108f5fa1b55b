/// Instructions for all ways through an expression at once (Thompson's construction).
struct RegexProgram: Sendable {
    enum Instruction: Sendable {
        case scalar(UInt32)
        /// Of `sets`.
        case set(Int)
        /// The first is tried before the second.
        case split(Int, Int)
        case save(Int)
        case check(RegexAssertion)
        case match
    }

    private(set) var instructions: [Instruction] = []
    private(set) var sets: [RegexSet] = []
    /// Of `sets`.
    private(set) var setCosts: [Int] = []
    let groups: Int
    /// The only text that matches as a whole, if the expression is one of plain characters.
    private(set) var literal: String?
    private let pattern: String

    init(_ node: RegexNode, groups: Int, pattern: String) throws(RegexError) {
        self.groups = groups
        self.pattern = pattern
        try self.add(node)
        try self.emit(.match)
        self.literal = self.plainText
    }

    private var plainText: String? {
        var text = ""
        for instruction in self.instructions.dropLast() {
            guard case .scalar(let value) = instruction, let scalar = Unicode.Scalar(value) else { return nil }
            text.unicodeScalars.append(scalar)
        }
        return text
    }

    private mutating func emit(_ instruction: Instruction) throws(RegexError) {
        guard self.instructions.count < BoundedRegex.maximumProgram else {
            throw RegexError(
                self.pattern,
                at: 0,
                "it needs more than \(BoundedRegex.maximumProgram) steps; use smaller repetitions or several routes"
            )
        }
        self.instructions.append(instruction)
    }

    // Recursion goes as deep as groups lie within each other, which the parser bounds.
    private mutating func add(_ node: RegexNode) throws(RegexError) {
        switch node {
        case .empty: break
        case .set(let set):
            if let scalar = set.literal {
                try self.emit(.scalar(scalar))
            } else {
                self.sets.append(set)
                self.setCosts.append(set.cost)
                try self.emit(.set(self.sets.count - 1))
            }
        case .assertion(let assertion): try self.emit(.check(assertion))
        case .group(let inner, let number):
            try self.emit(.save(2 * number))
            try self.add(inner)
            try self.emit(.save(2 * number + 1))
        case .sequence(let nodes): for node in nodes { try self.add(node) }
        case .choice(let branches): try self.addChoice(branches)
        case .repetition(let inner, let least, let most, let isLazy):
            for _ in 0..<least {
                let start = self.instructions.count
                try self.add(inner)
                // What takes no instruction would be repeated without end if repetitions lie in each other.
                if self.instructions.count == start { return }
            }
            guard let most else { return try self.addLoop(inner, isLazy: isLazy) }
            // Each further copy can be left for the end.
            var exits: [Int] = []
            for _ in least..<most {
                exits.append(self.instructions.count)
                try self.emit(.match)
                try self.add(inner)
            }
            for exit in exits { self.setSplit(at: exit, exit + 1, self.instructions.count, isLazy) }
        }
    }

    private mutating func addLoop(_ inner: RegexNode, isLazy: Bool) throws(RegexError) {
        let start = self.instructions.count
        try self.emit(.match)
        try self.add(inner)
        try self.emit(.split(start, start))
        self.setSplit(at: start, start + 1, self.instructions.count, isLazy)
    }

    private mutating func setSplit(at index: Int, _ body: Int, _ exit: Int, _ isLazy: Bool) {
        self.instructions[index] = isLazy ? .split(exit, body) : .split(body, exit)
    }

    private mutating func addChoice(_ branches: [RegexNode]) throws(RegexError) {
        var jumps: [Int] = []
        for branch in branches.dropLast() {
            let split = self.instructions.count
            try self.emit(.match)
            try self.add(branch)
            jumps.append(self.instructions.count)
            try self.emit(.match)
            self.instructions[split] = .split(split + 1, self.instructions.count)
        }
        if let last = branches.last { try self.add(last) }
        let end = self.instructions.count
        for jump in jumps { self.instructions[jump] = .split(end, end) }
    }
}
