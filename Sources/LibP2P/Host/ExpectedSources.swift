import MeshCore
import Multiformats
import NIOCore

/// From where connections of hole punches may come, each until a time. Pure.
struct ExpectedSources {
    private let maximum: Int
    private var deadlines: [IPAddress: NIODeadline] = [:]

    init(maximum: Int) {
        self.maximum = maximum
    }

    var count: Int { self.deadlines.count }

    /// Those beyond the bound are not expected, which costs no more than a punch that meets a listener.
    mutating func add(_ addresses: [IPAddress], until deadline: NIODeadline, now: NIODeadline) {
        self.deadlines = self.deadlines.filter { $0.value > now }
        for address in addresses {
            guard let known = self.deadlines[address] else {
                if self.deadlines.count < self.maximum { self.deadlines[address] = deadline }
                continue
            }
            self.deadlines[address] = max(known, deadline)
        }
    }

    func contains(_ source: Multiaddr, now: NIODeadline) -> Bool {
        guard !source.isCircuit, let address = source.ipAddress, let deadline = self.deadlines[address] else {
            return false
        }
        return deadline > now
    }
}
