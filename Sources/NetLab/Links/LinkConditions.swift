import MeshCore

/// How a link is: the cable between a host and its LAN. All of it holds for each direction.
public struct LinkConditions: Sendable, Hashable, CustomStringConvertible {
    /// False: the cable is pulled, which both its ends notice. A loss of 1 is a cut that nobody notices.
    public var isUp = true
    /// One way, so that a round trip takes twice as long.
    public var delay = Duration.zero
    /// A frame's delay differs from `delay` by at most this. Frames keep their order.
    public var jitter = Duration.zero
    /// The share of frames that is lost, from 0 to 1.
    public var loss = 0.0
    /// In bits per second; nil: as much as the machine can.
    public var bandwidth: Int?

    public init(
        isUp: Bool = true,
        delay: Duration = .zero,
        jitter: Duration = .zero,
        loss: Double = 0,
        bandwidth: Int? = nil
    ) {
        self.isUp = isUp
        self.delay = delay
        self.jitter = jitter
        self.loss = loss
        self.bandwidth = bandwidth
    }

    /// Whether frames have to be held or lost. If not, they take the kernel's way.
    var isShaped: Bool { self.delay > .zero || self.jitter > .zero || self.loss > 0 || self.bandwidth != nil }

    public var description: String {
        var parts = self.isUp ? [] : ["down"]
        if self.delay > .zero { parts.append("delay \(Self.text(self.delay))") }
        if self.jitter > .zero { parts.append("jitter \(Self.text(self.jitter))") }
        if self.loss > 0 { parts.append("loss \(LoadReport.short(self.loss * 100)) %") }
        if let bandwidth { parts.append("\(LoadReport.short(Double(bandwidth) / 1e6)) Mbit/s") }
        return parts.joined(separator: ", ")
    }

    private static func text(_ duration: Duration) -> String {
        "\(LoadReport.short(duration.inSeconds * 1e3)) ms"
    }
}

// MARK: - As people write it

extension LinkConditions {
    static let keys = ["delay", "jitter", "loss", "bandwidth"]

    /// Applies one change as it is written in a shell: `up`, `down`, `clear` (no delay, no loss, no limit) or
    /// `delay=50ms`, `jitter=5ms`, `loss=1%`, `bandwidth=10mbit`.
    public mutating func apply(_ change: String) throws(LabError) {
        switch change {
        case "up": self.isUp = true
        case "down": self.isUp = false
        case "clear": self = LinkConditions(isUp: self.isUp)
        default:
            let parts = change.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2 else {
                throw LabError(
                    .usage,
                    "'\(change)' is no change of a link: use up, down, clear, delay=50ms, jitter=5ms, loss=1% or bandwidth=10mbit"
                )
            }
            try self.set(parts[0], parts[1])
        }
    }

    mutating func set(_ key: String, _ text: String) throws(LabError) {
        switch key {
        case "delay": self.delay = try Self.duration(text, of: key)
        case "jitter": self.jitter = try Self.duration(text, of: key)
        case "loss":
            guard let share = Self.number(text, units: [("%", 0.01)]), share <= 1 else {
                throw LabError(.usage, "'\(text)' is no loss: use a share of frames such as 1% or 0.5%")
            }
            self.loss = share
        case "bandwidth":
            guard let rate = Self.number(text, units: [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)]), rate >= 1e3,
                rate <= 1e12
            else {
                throw LabError(.usage, "'\(text)' is no bandwidth: use one such as 512kbit, 10mbit or 1gbit")
            }
            self.bandwidth = Int(rate)
        default:
            throw LabError(.usage, "a link has no '\(key)'; it has: \(Self.keys.joined(separator: ", "))")
        }
    }

    private static func duration(_ text: String, of key: String) throws(LabError) -> Duration {
        guard let seconds = Self.number(text, units: [("us", 1e-6), ("ms", 1e-3), ("s", 1)]), seconds <= 10 else {
            throw LabError(.usage, "'\(text)' is no \(key): use a time up to 10s, such as 50ms")
        }
        return .nanoseconds(Int64((seconds * 1e9).rounded()))
    }

    /// A number that is not negative, with one of the units.
    private static func number(_ text: String, units: [(name: String, factor: Double)]) -> Double? {
        guard let unit = units.first(where: { text.lowercased().hasSuffix($0.name) }),
            let number = Double(text.dropLast(unit.name.count)), number >= 0, number.isFinite
        else { return nil }
        return number * unit.factor
    }
}
