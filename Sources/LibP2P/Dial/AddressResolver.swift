import MeshCore
import Multiformats
import NIOCore
import Synchronization

/// Turns the names in multiaddrs into addresses: `/dns`, `/dns4`, `/dns6`, and `/dnsaddr`, whose TXT records hold multiaddrs.
struct AddressResolver: Sendable {
    /// Records of one `/dnsaddr` name that are followed.
    static let maximumRecords = 32
    /// Names that are asked for on behalf of one address: records may point at many others, each of them at as many.
    static let maximumLookups = 32
    /// Addresses of one name that are taken.
    static let maximumHosts = 16

    /// What the branches of one resolution share.
    private final class Budget: Sendable {
        private let left: Mutex<Int>

        init(_ count: Int) { self.left = Mutex(count) }

        func take() -> Bool {
            self.left.withLock { left in
                guard left > 0 else { return false }
                left -= 1
                return true
            }
        }
    }

    let resolver: any NameResolver
    let maximumDepth: Int

    /// All that an address leads to; an address without a name is its own answer. Completes on `loop`, and fails if the name
    /// does not resolve.
    /// - Parameter peer: records of `/dnsaddr` that name another peer are left out.
    func resolve(_ address: Multiaddr, of peer: PeerID, on loop: any EventLoop) -> EventLoopFuture<[Multiaddr]> {
        self.resolve(address, of: peer, depth: self.maximumDepth, lookups: Budget(Self.maximumLookups), on: loop)
    }

    private func resolve(
        _ address: Multiaddr,
        of peer: PeerID,
        depth: Int,
        lookups: Budget,
        on loop: any EventLoop
    ) -> EventLoopFuture<[Multiaddr]> {
        guard address.startsWithName else { return loop.makeSucceededFuture([address]) }
        guard lookups.take() else {
            return loop.makeFailedFuture(
                LibP2PError(
                    code: .resolutionFailed,
                    message: "\(address): more names point at others than are followed"
                )
            )
        }
        let rest = Array(address.components.dropFirst())
        switch address.components.first {
        case .dns(let name): return self.hosts(name, nil, rest, on: loop)
        case .dns4(let name): return self.hosts(name, .v4, rest, on: loop)
        case .dns6(let name): return self.hosts(name, .v6, rest, on: loop)
        case .dnsaddr(let name):
            guard depth > 0 else {
                return loop.makeFailedFuture(
                    LibP2PError(
                        code: .resolutionFailed,
                        message: "the dnsaddr records of \(name) point at too many others"
                    )
                )
            }
            return self.resolver.texts(of: "_dnsaddr.\(name)", on: loop).flatMap { texts in
                let found = texts.compactMap { Self.record($0, endingIn: rest, of: peer) }.prefix(Self.maximumRecords)
                return EventLoopFuture.whenAllComplete(
                    found.map { self.resolve($0, of: peer, depth: depth - 1, lookups: lookups, on: loop) },
                    on: loop
                ).flatMapThrowing { results in
                    let addresses = results.flatMap { (try? $0.get()) ?? [] }
                    guard !addresses.isEmpty else {
                        throw LibP2PError(
                            code: .resolutionFailed,
                            message: "no dnsaddr record of \(name) leads to an address of \(peer)"
                        )
                    }
                    return addresses
                }
            }
        default:
            return loop.makeSucceededFuture([address])
        }
    }

    /// The address in a record `dnsaddr=…`, if it ends as the asked one does after its name.
    private static func record(_ text: String, endingIn rest: [Multiaddr.Component], of peer: PeerID) -> Multiaddr? {
        let prefix = "dnsaddr="
        guard text.hasPrefix(prefix), let address = try? Multiaddr(text.dropFirst(prefix.count)) else { return nil }
        if let named = address.peerID, named != peer { return nil }
        guard rest.isEmpty || address.components.suffix(rest.count).elementsEqual(rest) || address.peerID == nil else {
            return nil
        }
        return address.withoutPeerID
    }

    private func hosts(
        _ name: String,
        _ family: IPFamily?,
        _ rest: [Multiaddr.Component],
        on loop: any EventLoop
    ) -> EventLoopFuture<[Multiaddr]> {
        self.resolver.addresses(of: name, family: family, on: loop).map { addresses in
            addresses.prefix(Self.maximumHosts).map { address in
                let head: Multiaddr.Component =
                    switch address {
                    case .v4(let v4): .ip4(v4)
                    case .v6(let v6): .ip6(v6)
                    }
                return Multiaddr([head] + Self.naming(name, in: rest))
            }
        }
    }

    /// TLS must still know which name to prove when the name itself is gone: `/wss` becomes `/tls/sni/NAME/ws`.
    private static func naming(_ name: String, in rest: [Multiaddr.Component]) -> [Multiaddr.Component] {
        if let index = rest.firstIndex(of: .wss) {
            return Array(rest[..<index]) + [.tls, .sni(name), .ws] + Array(rest[(index + 1)...])
        }
        if let index = rest.firstIndex(of: .tls), rest.dropFirst(index + 1).first == .ws {
            return Array(rest[...index]) + [.sni(name)] + Array(rest[(index + 1)...])
        }
        return rest
    }
}
