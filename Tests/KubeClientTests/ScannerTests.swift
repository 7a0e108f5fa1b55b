import Documents
import KubeModel
import MeshCore
import NIOCore
import Testing

@testable import KubeClient

/// Feeds `bytes` in pieces of random sizes.
private func chunks(of bytes: [UInt8], using generator: inout SeededGenerator) -> [ByteBuffer] {
    var chunks: [ByteBuffer] = []
    var rest = bytes[...]
    let largest = [1, 2, 7, 64, 5000].randomElement(using: &generator) ?? 1
    while !rest.isEmpty {
        let piece = rest.prefix(Int.random(in: 1...largest, using: &generator))
        chunks.append(ByteBuffer(bytes: piece))
        rest = rest.dropFirst(piece.count)
    }
    return chunks
}

private func randomDocument(depth: Int, using generator: inout SeededGenerator) -> Document {
    switch Int.random(in: 0..<(depth > 3 ? 4 : 6), using: &generator) {
    case 0: return nil
    case 1: return .integer(Int.random(in: -5...5, using: &generator))
    case 2: return true
    case 3:
        let pieces = ["items", "\"", "\\", "{", "}", "[", "]", ",", ":", "\n", "é", "\u{1F600}", "a"]
        return .string((0..<4).map { _ in pieces.randomElement(using: &generator) ?? "" }.joined())
    case 4:
        return .array((0..<3).map { _ in randomDocument(depth: depth + 1, using: &generator) })
    default:
        return .object(
            (0..<3).map { .init("k\($0)", randomDocument(depth: depth + 1, using: &generator)) }
                + [.init("items", randomDocument(depth: depth + 1, using: &generator))]
        )
    }
}

@Suite struct ListScannerTests {
    private func scan(
        _ text: String,
        itemLimit: Int = ListScanner.itemLimit
    ) throws -> (items: [String], envelope: Document) {
        var scanner = ListScanner(itemLimit: itemLimit)
        var items: [String] = []
        try scanner.feed(ByteBuffer(string: text)) { item in
            switch item {
            case .complete(let bytes): items.append(String(decoding: bytes, as: UTF8.self))
            case .oversized(let prefix): items.append("oversized:\(String(decoding: prefix.prefix(12), as: UTF8.self))")
            }
        }
        return (items, try Document.parseJSON(try scanner.finish()))
    }

    @Test(arguments: [
        (#"{"items":[{"a":1},{"b":[{}]}]}"#, [#"{"a":1}"#, #"{"b":[{}]}"#]),
        (#"{"items":[]}"#, []),
        (#"{"items":null,"metadata":{}}"#, []),
        (#"{"metadata":{"items":[1,2]},"items":[{}]}"#, ["{}"]),
        (#"{"kind":"items","x":["items"],"items" : [ {"s":"]}\"{"} , {} ] }"#, [#"{"s":"]}\"{"}"#, "{}"]),
        (#"{"note":"items","y":[{"a":1}]}"#, []),
    ])
    func cutsItems(text: String, expected: [String]) throws {
        #expect(try self.scan(text).items == expected)
    }

    @Test func keepsTheEnvelope() throws {
        let text = #"{"kind":"List","metadata":{"resourceVersion":"7","continue":"x"},"items":[{"a":1}],"z":2}"#
        #expect(try self.scan(text).envelope.jsonText() == text.replacingFirst(#"{"a":1}"#, with: ""))
    }

    @Test(arguments: [
        "", "{", #"{"items":[{"a":1}"#, #"{"items":[1]}"#, "[]", "null", "}", "{}}", "{} x", "<html>",
        #"{"items":[{}]"#, String(repeating: "[", count: 10_000), #"{"a":"# + String(repeating: "[", count: 10_000),
    ])
    func refusesWhatIsNoList(text: String) {
        #expect(throws: (any Error).self) { try self.scan(text) }
    }

    @Test func skipsAnItemAtTheLimit() throws {
        let item = #"{"s":"\#(String(repeating: "x", count: 92))"}"#
        #expect(item.utf8.count == 100)
        let list = #"{"items":[\#(item),{"b":2}]}"#
        #expect(try self.scan(list, itemLimit: 100).items == [item, #"{"b":2}"#])
        #expect(try self.scan(list, itemLimit: 99).items == [#"oversized:{"s":"xxxxxx"#, #"{"b":2}"#])
    }

    @Test func boundsTheEnvelope() {
        let text = #"{"a":"\#(String(repeating: "x", count: ListScanner.envelopeLimit))","items":[]}"#
        #expect(throws: KubeError.self) { try self.scan(text) }
    }

    @Test(arguments: 0..<200 as Range<UInt64>)
    func anySplitGivesTheSameItems(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let items = (0..<Int.random(in: 0...6, using: &generator)).map { index in
            Document.object([.init("n", .integer(index)), .init("v", randomDocument(depth: 0, using: &generator))])
        }
        let metadata = randomDocument(depth: 1, using: &generator)
        let list: Document = ["metadata": metadata, "items": .array(items), "items2": "items"]
        var scanner = ListScanner()
        var found: [Document] = []
        for chunk in chunks(of: list.jsonBytes(pretty: seed % 2 == 0), using: &generator) {
            try scanner.feed(chunk) { item in
                guard case .complete(let bytes) = item, let document = try? Document.parseJSON(bytes) else { return }
                found.append(document)
            }
        }
        #expect(found.map { $0.jsonText() } == items.map { $0.jsonText() })
        let envelope = try Document.parseJSON(try scanner.finish())
        #expect(envelope["metadata"]?.jsonText() == metadata.jsonText())
    }

    @Test(arguments: 0..<200 as Range<UInt64>)
    func damagedListsNeverTrap(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var bytes = Array(#"{"metadata":{"resourceVersion":"1"},"items":[{"a":"b\"c"},{"d":[1,{"e":2}]}]}"#.utf8)
        for _ in 0..<Int.random(in: 1...4, using: &generator) {
            bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
        }
        bytes = Array(bytes.prefix(Int.random(in: 0...bytes.count, using: &generator)))
        var scanner = ListScanner(itemLimit: 16)
        var size = 0
        for chunk in chunks(of: bytes, using: &generator) {
            try? scanner.feed(chunk) { item in
                switch item {
                case .complete(let bytes): size = max(size, bytes.count)
                case .oversized(let prefix): size = max(size, min(prefix.count, 16))
                }
            }
        }
        _ = try? scanner.finish()
        #expect(size <= 16)
    }
}

@Suite struct WatchLineTests {
    private static let lines = [
        #"{"type":"ADDED","object":{"metadata":{"name":"a","namespace":"n","resourceVersion":"5"},"#
            + #""spec":{"ports":7}}}"#,
        #"{"type":"DELETED","object":{"metadata":{"name":"a","namespace":"n","resourceVersion":"6"}}}"#,
        #"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}"#,
        #"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}"#,
    ]

    @Test(arguments: 0..<500 as Range<UInt64>)
    func damagedEventsNeverTrap(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var bytes = Array(Self.lines.randomElement(using: &generator)?.utf8 ?? "".utf8)
        for _ in 0..<Int.random(in: 1...5, using: &generator) {
            bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
        }
        let line: LineCutter.Line = seed % 8 == 0 ? .oversized(prefix: bytes) : .complete(bytes)
        switch ObjectDecoding(kind: .service).watchEvent(line: line) {
        case .changed(.upsert(let object), _): #expect(object.kind == .service)
        case .changed(.rejected(let object), _): #expect(!object.reason.isEmpty)
        case .malformed(let reason): #expect(!reason.isEmpty)
        case .changed, .bookmark, .failed: break
        }
    }

    @Test func eventsCarryTheirVersion() {
        let events = Self.lines.map { ObjectDecoding(kind: .service).watchEvent(line: .complete(Array($0.utf8))) }
        guard case .changed(.rejected, resourceVersion: "5") = events[0],
            case .changed(.deleted(.service, ObjectName(namespace: "n", name: "a")), resourceVersion: "6") = events[1],
            case .bookmark(resourceVersion: "7") = events[2], case .failed(.gone) = events[3]
        else {
            Issue.record("\(events)")
            return
        }
    }
}

@Suite struct LineCutterTests {
    @Test(arguments: 0..<200 as Range<UInt64>)
    func anySplitGivesTheSameLines(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let lines = (0..<20).map { _ in
            Array(repeating: UInt8(ascii: "x"), count: Int.random(in: 0...40, using: &generator))
        }
        var cutter = LineCutter(lineLimit: 30)
        var found: [LineCutter.Line] = []
        for chunk in chunks(of: Array(lines.joined(separator: [0x0A])) + [0x0A], using: &generator) {
            cutter.feed(chunk) { found.append($0) }
        }
        let expected: [LineCutter.Line] = lines.filter { !$0.isEmpty }.map {
            $0.count > 30 ? .oversized(prefix: $0) : .complete($0)
        }
        // How much of an oversized line is kept depends on the split; that it is one does not.
        #expect(found.count == expected.count)
        for (one, other) in zip(found, expected) {
            switch (one, other) {
            case (.complete(let left), .complete(let right)): #expect(left == right)
            case (.oversized, .oversized): break
            default: Issue.record("\(one) is not \(other)")
            }
        }
    }

    @Test func theLastLineNeedsItsEnd() {
        var cutter = LineCutter()
        var found: [LineCutter.Line] = []
        cutter.feed(ByteBuffer(string: "{\"a\":1}\r\n\n{\"b\"")) { found.append($0) }
        #expect(found == [.complete(Array("{\"a\":1}\r".utf8))])
    }
}

extension String {
    fileprivate func replacingFirst(_ text: String, with other: String) -> String {
        guard let range = self.firstRange(of: text) else { return self }
        return self.replacingSubrange(range, with: other)
    }

    private func replacingSubrange(_ range: Range<Index>, with other: String) -> String {
        var copy = self
        copy.replaceSubrange(range, with: other)
        return copy
    }
}
