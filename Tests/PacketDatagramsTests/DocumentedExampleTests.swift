import Crypto
import Glibc
import MeshCore
import NIOCore
import Testing

@testable import PacketDatagrams

/// What docs/protocols/packet-datagrams.md gives as examples, which another program has computed.
@Suite struct DocumentedExampleTests {
    /// The examples of the page, each by the names of its lines.
    private static func examples() throws -> [[String: [UInt8]]] {
        let root = #filePath.split(separator: "/").dropLast(3).map { "/\($0)" }.joined()
        let file = try #require(fopen("\(root)/docs/protocols/packet-datagrams.md", "r"))
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 1 << 18)
        let text = String(decoding: bytes[..<fread(&bytes, 1, bytes.count, file)], as: UTF8.self)
        let parts = text.split(separator: "```", omittingEmptySubsequences: false)
        return parts.indices.filter { $0 % 2 == 1 }.map { index in
            var example: [String: [UInt8]] = [:]
            for line in parts[index].split(separator: "\n") {
                guard let space = line.lastIndex(of: " ") else { continue }
                let name = line[..<space].split(separator: " ").joined(separator: " ")
                example[name] = Self.bytes(of: line[line.index(after: space)...])
            }
            return example
        }
    }

    private static func bytes(of hexadecimal: Substring) -> [UInt8] {
        let digits = hexadecimal.compactMap(\.hexDigitValue)
        return stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
    }

    private static func exchange(
        key: ClosedRange<UInt8>,
        index: UInt32,
        address: String,
        prefersAES: Bool,
        answering: DatagramHello? = nil
    ) throws -> DatagramExchange {
        DatagramExchange(
            key: try Curve25519.KeyAgreement.PrivateKey(rawRepresentation: Array(key)),
            index: index,
            addresses: [try #require(TransportAddress(address))],
            prefersAES: prefersAES,
            answering: answering
        )
    }

    private static func seal(
        _ session: inout DatagramSession,
        _ kind: DatagramKind,
        _ content: [UInt8]
    ) throws -> [UInt8] {
        var datagram = ByteBuffer()
        try content.withUnsafeBytes { try session.seal(kind, $0, into: &datagram) }
        return Array(datagram.readableBytesView)
    }

    @Test("the examples are what is sent", arguments: [true, false])
    func examples(prefersAES: Bool) throws {
        let examples = try Self.examples()
        try #require(examples.count == 2 && examples.allSatisfy { $0.count == 8 })
        let example = examples[prefersAES ? 0 : 1]
        let begin: [UInt8] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20]
        let parties = DatagramParties(
            opener: begin + [UInt8](repeating: 0xAA, count: 32),
            acceptor: begin + [UInt8](repeating: 0xBB, count: 32)
        )
        let opener = try Self.exchange(key: 1...32, index: 7, address: "192.0.2.1:20006", prefersAES: prefersAES)
        let acceptor = try Self.exchange(
            key: 33...64,
            index: 9,
            address: "[2001:db8::1]:20006",
            prefersAES: prefersAES,
            answering: opener.hello
        )
        let (asked, answer) = (opener.hello.buffer, acceptor.hello.buffer)
        #expect(Array(asked.readableBytesView) == example["asked"])
        #expect(Array(answer.readableBytesView) == example["answer"])
        var one = try opener.session(.opener, of: parties, asked: asked, answer: answer, remote: acceptor.hello)
        var two = try acceptor.session(.acceptor, of: parties, asked: asked, answer: answer, remote: opener.hello)
        #expect(one.keys.map { $0.withUnsafeBytes(Array.init) } == [example["opener key"], example["acceptor key"]])
        #expect(two.keys == one.keys.reversed())
        #expect(try Self.seal(&one, .packet, Array(0..<20)) == example["packet"])
        _ = try Self.seal(&two, .packet, [])
        #expect(try Self.seal(&two, .probe, Array(1...8)) == example["probe"])
    }
}
