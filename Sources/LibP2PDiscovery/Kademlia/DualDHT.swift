public import LibP2P
public import Multiformats
public import NIOCore

/// The two DHTs of a node beside each other, as EdgeMesh v1.17 has them: one of public addresses, one of private networks.
/// What is asked is asked of both.
public struct DualDHT: Sendable, PeerRouting {
    public let wan: KademliaDHT
    public let lan: KademliaDHT

    public init(wan: KademliaDHT, lan: KademliaDHT) {
        self.wan = wan
        self.lan = lan
    }

    public func start() async throws {
        try await self.wan.start()
        try await self.lan.start()
    }

    public func stop() async {
        await self.wan.stop()
        await self.lan.stop()
    }

    public func findAddresses(of peer: PeerID, on loop: any EventLoop) -> EventLoopFuture<[Multiaddr]> {
        let found = [self.lan, self.wan].map { $0.findAddresses(of: peer, on: loop) }
        return EventLoopFuture.whenAllSucceed(found, on: loop).map { $0.flatMap { $0 } }
    }

    /// - Returns: how many peers of both were told.
    /// - Throws: If none was.
    @discardableResult
    public func advertise(rendezvous: String) async throws -> Int {
        try await self.both({ try await $0.advertise(rendezvous: rendezvous) }).reduce(0, +)
    }

    public func stopAdvertising(rendezvous: String) async {
        await self.wan.stopAdvertising(rendezvous: rendezvous)
        await self.lan.stopAdvertising(rendezvous: rendezvous)
    }

    public func findPeers(rendezvous: String, limit: Int = 100) async throws -> [DiscoveredPeer] {
        let found = try await self.both { try await $0.findPeers(rendezvous: rendezvous, limit: limit) }.flatMap { $0 }
        var peers: Set<PeerID> = []
        return found.filter { peers.insert($0.peer).inserted }
    }

    /// The answers of those that have one; the error of the second if none has.
    private func both<Value>(_ body: (KademliaDHT) async throws -> Value) async throws -> [Value] {
        var values: [Value] = []
        do { values.append(try await body(self.lan)) } catch {}
        do { values.append(try await body(self.wan)) } catch {
            guard !values.isEmpty else { throw error }
        }
        return values
    }
}
