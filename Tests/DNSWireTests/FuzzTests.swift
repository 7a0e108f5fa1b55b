import DNSWire
import MeshCore
import NIOCore
import Testing

/// Seeded mutations of well-formed messages: nothing may trap, and what is accepted must mean the same when read again.
@Suite struct FuzzTests {
    @Test(arguments: 1...8)
    func survivesMutatedMessages(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        var query = Message(id: 9, flags: .recursionDesired, questions: [Question(try DomainName("a.bc.def"), .a)])
        query.edns = EDNS(payloadSize: 1232)
        let corpus = [try Fixtures.everyType().encoded(), query.encoded()].map { Array($0.readableBytesView) }
        var accepted = 0
        for round in 0..<4000 {
            var bytes = corpus[Int.random(in: 0..<corpus.count, using: &generator)]
            for _ in 0..<Int.random(in: 1...6, using: &generator) { self.mutate(&bytes, &generator) }
            let buffer = ByteBuffer(bytes: bytes)
            let head = readHead(buffer).reading
            guard let message = try? Message(parsing: buffer) else { continue }
            accepted += 1
            let again = try Message(parsing: message.encoded())
            // The encoder keeps to 64 KiB and its OPT record to one class; all else must survive.
            #expect(again.questions == message.questions, "seed \(seed) round \(round)")
            if !again.flags.contains(.truncated) || message.flags.contains(.truncated) {
                #expect(again.answers == message.answers, "seed \(seed) round \(round)")
                #expect(again.additionals == message.additionals, "seed \(seed) round \(round)")
            }
            if case .query(let head) = head {
                #expect(message.questions.first?.type == head.type, "seed \(seed) round \(round)")
                #expect(message.edns?.payloadSize == head.edns?.payloadSize, "seed \(seed) round \(round)")
            }
        }
        #expect(accepted > 0, "seed \(seed)")
    }

    @Test(arguments: 1...4)
    func survivesNoise(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<4000 {
            let count = Int.random(in: 0...120, using: &generator)
            let bytes = (0..<count).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
            _ = readHead(ByteBuffer(bytes: bytes))
            _ = try? Message(parsing: ByteBuffer(bytes: bytes))
        }
    }

    private func mutate(_ bytes: inout [UInt8], _ generator: inout SeededGenerator) {
        guard !bytes.isEmpty else { return }
        let index = Int.random(in: 0..<bytes.count, using: &generator)
        switch Int.random(in: 0..<6, using: &generator) {
        case 0: bytes[index] = .random(in: .min ... .max, using: &generator)
        case 1: bytes[index] ^= 1 << UInt8.random(in: 0...7, using: &generator)
        case 2: bytes.removeSubrange(index...)
        case 3: bytes.insert(.random(in: .min ... .max, using: &generator), at: index)
        case 4: bytes[index] = [0, 1, 63, 64, 0xC0, 0xFF].randomElement(using: &generator) ?? 0
        default: bytes[index...] = bytes[..<(bytes.count - index)]
        }
    }
}
