import MeshCore
import Multiformats

/// Admits what comes from the network against two bounds: in all, and from one address, so that none takes all the places.
/// Pure; addresses vanish with their last user.
struct Admission {
    private let maximum: Int
    private let maximumPerAddress: Int
    private let what: String
    private(set) var count = 0
    private var byAddress: [IPAddress: Int] = [:]

    /// - Parameter what: for the error, as in "more than 5 …".
    init(of what: String, maximum: Int, perAddress: Int) {
        self.what = what
        self.maximum = maximum
        self.maximumPerAddress = perAddress
    }

    var addressCount: Int { self.byAddress.count }

    mutating func admit(_ source: Multiaddr) throws(LibP2PError) {
        guard self.count < self.maximum else {
            throw LibP2PError(code: .limitExceeded, message: "more than \(self.maximum) \(self.what)")
        }
        if let address = source.sourceNetwork {
            let count = self.byAddress[address, default: 0]
            guard count < self.maximumPerAddress else {
                throw LibP2PError(
                    code: .limitExceeded,
                    message: "more than \(self.maximumPerAddress) \(self.what) from \(address)"
                )
            }
            self.byAddress[address] = count + 1
        }
        self.count += 1
    }

    /// Of what was admitted from the same source.
    mutating func leave(_ source: Multiaddr) {
        self.count -= 1
        guard let address = source.sourceNetwork, let count = self.byAddress[address] else { return }
        self.byAddress[address] = count > 1 ? count - 1 : nil
    }
}

extension Multiaddr {
    /// What stands for one user of the network: an IPv4 address, the first 64 bits of an IPv6 address. Nil for a circuit,
    /// whose address is its relay's.
    var sourceNetwork: IPAddress? {
        guard !self.isCircuit, let address = self.ipAddress else { return nil }
        return switch address {
        case .v4: address
        case .v6(let v6): .v6(IPv6Address(high: v6.high, low: 0))
        }
    }
}
