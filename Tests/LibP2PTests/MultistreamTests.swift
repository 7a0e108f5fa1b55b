import MeshCore
import NIOCore
import Testing

@testable import LibP2P

@Suite struct MultistreamTests {
    typealias Machine = MultistreamStateMachine

    static func wire(_ lines: String...) -> ByteBuffer {
        var buffer = ByteBuffer()
        for line in lines { MultistreamFraming.write(line, to: &buffer) }
        return buffer
    }

    static let header = MultistreamFraming.header

    static func responder(_ names: [String]) -> Machine {
        Machine(role: .responder(supports: { names.contains($0) }, list: { names }))
    }

    @Test func theHeaderIsAsTheSpecificationWritesIt() {
        #expect(Array(Self.wire(Self.header).readableBytesView) == [0x13] + Array("/multistream/1.0.0\n".utf8))
        #expect(Array(Self.wire("na").readableBytesView) == [0x03, 0x6E, 0x61, 0x0A])
    }

    @Test func theInitiatorSendsItsFirstProposalWithTheHeader() throws {
        var machine = Machine(role: .initiator(["/a", "/b"]))
        var output = ByteBuffer()
        machine.start(to: &output)
        #expect(output == Self.wire(Self.header, "/a"))

        output = ByteBuffer()
        var input = Self.wire(Self.header, "/a")
        input.writeString("payload")
        #expect(try machine.receive(&input, output: &output) == .agreed("/a"))
        #expect(String(buffer: input) == "payload")
        #expect(output.readableBytes == 0)
    }

    @Test func theInitiatorProposesTheNextOneAfterARefusal() throws {
        var machine = Machine(role: .initiator(["/a", "/b"]))
        var output = ByteBuffer()
        var input = Self.wire(Self.header, "na")
        #expect(try machine.receive(&input, output: &output) == .needsMore)
        #expect(output == Self.wire("/b"))
        input = Self.wire("/b")
        #expect(try machine.receive(&input, output: &output) == .agreed("/b"))
    }

    @Test func theLastRefusalNamesWhatWasProposed() {
        var machine = Machine(role: .initiator(["/a", "/b"]))
        var output = ByteBuffer()
        var input = Self.wire(Self.header, "na", "na")
        let error = #expect(throws: LibP2PError.self) { try machine.receive(&input, output: &output) }
        #expect(error?.code == .protocolNotSupported)
        #expect(error?.message.contains("/a, /b") == true)
    }

    @Test(arguments: ["/b", "", "nada", MultistreamFraming.header])
    func theInitiatorTakesNoOtherAnswer(_ answer: String) {
        var machine = Machine(role: .initiator(["/a"]))
        var output = ByteBuffer()
        var input = Self.wire(Self.header, answer)
        let error = #expect(throws: LibP2PError.self) { try machine.receive(&input, output: &output) }
        #expect(error?.code == .malformed)
    }

    @Test func theResponderAnswersAllOfOneReadAtOnce() throws {
        var machine = Self.responder(["/b"])
        var output = ByteBuffer()
        machine.start(to: &output)
        #expect(output.readableBytes == 0)
        var input = Self.wire(Self.header, "/a", "/b")
        input.writeString("first bytes")
        #expect(try machine.receive(&input, output: &output) == .agreed("/b"))
        #expect(output == Self.wire(Self.header, "na", "/b"))
        #expect(String(buffer: input) == "first bytes")
    }

    @Test func theResponderListsItsProtocols() throws {
        var machine = Self.responder(["/a", "/b"])
        var output = ByteBuffer()
        var input = Self.wire(Self.header, "ls")
        #expect(try machine.receive(&input, output: &output) == .needsMore)
        var expected = Self.wire(Self.header)
        expected.writeBytes([9, 3] + Array("/a\n".utf8) + [3] + Array("/b\n".utf8) + [0x0A])
        #expect(output == expected)
    }

    @Test func theResponderAnswersABoundedNumberOfProposals() throws {
        var machine = Self.responder(["/b"])
        var output = ByteBuffer()
        var input = Self.wire(Self.header)
        for _ in 0..<Machine.maximumProposals { MultistreamFraming.write("/a", to: &input) }
        #expect(try machine.receive(&input, output: &output) == .needsMore)
        input = Self.wire("/a")
        let error = #expect(throws: LibP2PError.self) { try machine.receive(&input, output: &output) }
        #expect(error?.code == .protocolNotSupported)
    }

    @Test func bytesMayComeOneByOne() throws {
        var machine = Self.responder(["/b"])
        var output = ByteBuffer()
        var input = ByteBuffer()
        var outcome = Machine.Outcome.needsMore
        for byte in Self.wire(Self.header, "/a", "/b").readableBytesView {
            #expect(outcome == .needsMore)
            input.writeInteger(byte)
            outcome = try machine.receive(&input, output: &output)
        }
        #expect(outcome == .agreed("/b"))
        #expect(output == Self.wire(Self.header, "na", "/b"))
    }

    @Test func aResponderThatNothingIsProposedToProposes() throws {
        var machine = Self.responder(["/a", "/b"])
        var output = ByteBuffer()
        let isTaken = machine.takeInitiative(with: ["/a", "/b"], output: &output)
        #expect(isTaken)
        #expect(output == Self.wire(Self.header, "/a"))
        output = ByteBuffer()
        var input = Self.wire(Self.header, "na", "/b")
        #expect(try machine.receive(&input, output: &output) == .agreed("/b"))
        #expect(output == Self.wire("/b"))
    }

    @Test func itsHeaderIsSentOnce() throws {
        var machine = Self.responder(["/a"])
        var output = ByteBuffer()
        var input = Self.wire(Self.header)
        _ = try machine.receive(&input, output: &output)
        #expect(output == Self.wire(Self.header))
        output = ByteBuffer()
        let isTaken = machine.takeInitiative(with: ["/a"], output: &output)
        #expect(isTaken)
        #expect(output == Self.wire("/a"))
        input = Self.wire("/a")
        #expect(try machine.receive(&input, output: &output) == .agreed("/a"))
    }

    @Test func whoHasBeenAskedDoesNotPropose() throws {
        var machine = Self.responder(["/b"])
        var output = ByteBuffer()
        var input = Self.wire(Self.header, "/a")
        _ = try machine.receive(&input, output: &output)
        output = ByteBuffer()
        let isTaken = machine.takeInitiative(with: ["/b"], output: &output)
        #expect(!isTaken)
        #expect(output.readableBytes == 0)
    }

    static let garbage: [[UInt8]] = [
        [0x02, 0x61, 0x0A],  // another header
        [0x01, 0x61],  // no end of line
        [0x00],  // empty
        [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80],  // a varint without end
        [0x81, 0x08],  // one byte longer than the bound
        [0x03, 0xFF, 0xFE, 0x0A],  // no UTF-8
        Array("GET / HTTP/1.1\r\n\r\n".utf8) + [UInt8](repeating: 0x20, count: 64),
    ]

    @Test(arguments: garbage) func garbageIsRefused(_ bytes: [UInt8]) {
        for role in [Machine(role: .initiator(["/a"])), Self.responder(["/a"])] {
            var machine = role
            var output = ByteBuffer()
            var input = ByteBuffer(bytes: bytes)
            let error = #expect(throws: LibP2PError.self) { try machine.receive(&input, output: &output) }
            #expect(error?.code == .malformed)
        }
    }

    @Test func randomBytesNeverTrap() {
        let seed = UInt64.random(in: .min ... .max)
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<2000 {
            var machine = Self.responder(["/a"])
            var output = ByteBuffer()
            var input = Self.wire(Self.header)
            let count = Int.random(in: 0..<40, using: &generator)
            input.writeBytes((0..<count).map { _ in UInt8.random(in: .min ... .max, using: &generator) })
            _ = try? machine.receive(&input, output: &output)
            #expect(output.readableBytes <= 4096, "seed \(seed)")
        }
    }
}
