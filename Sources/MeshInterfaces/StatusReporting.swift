public import Documents

/// A part of the agent that can say how it is doing. What it says is read from its data path, not from its intent.
public protocol StatusReporting: Sendable {
    /// The key of this part in `edgemesh status -o json`.
    var statusName: String { get }

    /// The state now. Must answer within a second; bounded in size.
    func status() async -> Document
}
