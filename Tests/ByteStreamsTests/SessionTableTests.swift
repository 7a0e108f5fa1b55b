import MeshCore
import Testing

@testable import ByteStreams

@Suite("UDP sessions")
struct SessionTableTests {
    private func at(_ seconds: UInt64) -> MonotonicTime { MonotonicTime(nanoseconds: seconds * 1_000_000_000) }

    private func client(_ port: UInt16) -> TransportAddress { TransportAddress(.v4(.loopback), port) }

    private func table() -> SessionTable<Int> {
        SessionTable(unrepliedTimeout: .seconds(30), assuredTimeout: .seconds(180))
    }

    @Test("a session that was never answered ends after 30 s, one that was after 180 s, both after the last datagram")
    func timeouts() {
        var table = self.table()
        table.insert(1, for: self.client(1), now: self.at(0))
        table.insert(2, for: self.client(2), now: self.at(0))
        table.touch(self.client(2), isReply: true, now: self.at(1))
        table.touch(self.client(1), isReply: false, now: self.at(20))
        #expect(table.expire(now: self.at(49)).isEmpty)
        #expect(table.expire(now: self.at(50)) == [1])
        table.touch(self.client(2), isReply: false, now: self.at(100))
        #expect(table.expire(now: self.at(279)).isEmpty)
        #expect(table.expire(now: self.at(280)) == [2])
        #expect(table.count == 0)
    }

    @Test("the unanswered session idle for longest is given up first, then the answered")
    func eviction() {
        var table = self.table()
        for port in 1...4 { table.insert(port, for: self.client(UInt16(port)), now: self.at(UInt64(port))) }
        table.touch(self.client(1), isReply: true, now: self.at(5))
        table.touch(self.client(2), isReply: false, now: self.at(6))
        #expect((0..<5).map { _ in table.evict() } == [3, 4, 2, 1, nil])
    }

    @Test("its order is that of a plain list, whatever is done", arguments: 0..<8)
    func model(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var table = self.table()
        var model: [(client: UInt16, used: UInt64, assured: Bool)] = []
        for step in 0..<3_000 {
            let now = UInt64(step)
            let port = UInt16.random(in: 1...40, using: &generator)
            switch Int.random(in: 0..<6, using: &generator) {
            case 0, 1:
                table.insert(Int(port), for: self.client(port), now: self.at(now))
                model.removeAll { $0.client == port }
                model.append((port, now, false))
            case 2, 3:
                let isReply = Bool.random(using: &generator)
                table.touch(self.client(port), isReply: isReply, now: self.at(now))
                if let index = model.firstIndex(where: { $0.client == port }) {
                    let entry = model.remove(at: index)
                    model.append((port, now, entry.assured || isReply))
                }
            case 4:
                #expect(table.remove(self.client(port)) == model.first { $0.client == port }.map { Int($0.client) })
                model.removeAll { $0.client == port }
            default:
                let expired = Set(table.expire(now: self.at(now)))
                let gone = model.filter { now - $0.used >= ($0.assured ? 180 : 30) }
                #expect(expired == Set(gone.map { Int($0.client) }), "seed \(seed)")
                model.removeAll { entry in gone.contains { $0.client == entry.client } }
            }
            #expect(table.count == model.count, "seed \(seed)")
        }
        while let evicted = table.evict() {
            let next = model.first { !$0.assured } ?? model.first
            #expect(evicted == next.map { Int($0.client) }, "seed \(seed)")
            model.removeAll { $0.client == next?.client }
        }
        #expect(model.isEmpty)
    }
}
