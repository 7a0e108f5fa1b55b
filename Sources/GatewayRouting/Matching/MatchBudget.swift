/// How much work the regular expressions of one request may be, all of them together. Not shared between threads.
///
/// A step is one instruction of a program at one character, or one part of a character class: so many texts and patterns as a
/// request and its host's rules bring, it ends in bounded time. Once it is used up nothing matches any more, and the request must be refused: a rule that was not
/// reached may be the one that guards.
public final class MatchBudget {
    /// What a request may cost in all: a few milliseconds of its loop.
    public static let maximumSteps = 100_000

    private let steps: Int
    private var left: Int

    public init(steps: Int = MatchBudget.maximumSteps) {
        self.steps = steps
        self.left = steps
    }

    /// For the next request.
    public func renew() { self.left = self.steps }

    public var isExhausted: Bool { self.left < 0 }

    /// Takes the steps of one match; what it found counts only if this is true.
    func spend(_ steps: Int) -> Bool {
        self.left -= min(steps, self.left + 1)
        return self.left >= 0
    }

    /// The most that the next match may take.
    var limit: Int { max(0, self.left) }
}
