/// A regular expression whose matching takes time linear in the text, as RE2's does: no input can stall a loop.
public struct BoundedRegex: Sendable, Hashable {
    /// As written.
    public let pattern: String

    public init(pattern: String) {
        self.pattern = pattern
    }
}
