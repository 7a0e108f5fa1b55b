import MeshCore
import Multiformats

/// Which addresses are worth a hole punch.
enum HolePunchAddresses {
    /// Of the candidates, those that may be offered to a peer or dialled for it: public ones first, and at most `maximum`.
    /// Addresses of a circuit or without a port never are.
    static func choose(_ candidates: [Multiaddr], reaches: [AddressReach], maximum: Int) -> [Multiaddr] {
        var chosen: [Multiaddr] = []
        for reach in reaches {
            for candidate in candidates {
                let address = candidate.withoutPeerID
                guard !address.isCircuit, address.ipAddress?.reach == reach, let port = address.port, port != 0,
                    !chosen.contains(address)
                else { continue }
                guard chosen.count < maximum else { return chosen }
                chosen.append(address)
            }
        }
        return chosen
    }
}
