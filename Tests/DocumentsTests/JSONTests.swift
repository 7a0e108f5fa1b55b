import Documents
import Testing

@Suite("JSON")
struct JSONTests {
    @Test(
        "texts that RFC 8259 accepts",
        arguments: [
            ("null", nil), (" \t\r\n true ", true), ("false", false), ("0", 0), ("-0", 0), ("-12", -12), ("1.5", 1.5),
            ("1e2", 100.0), ("1E+2", 100.0), ("0.1e-1", 0.01), ("9223372036854775807", .integer(Int64.max)),
            ("-9223372036854775808", .integer(Int64.min)), ("9223372036854775808", 9_223_372_036_854_775_808.0),
            ("\"\"", ""), (#""a\"\\\/\b\f\n\r\tA""#, "a\"\\/\u{8}\u{C}\n\r\tA"), (#""\ud83d\ude80x""#, "🚀x"),
            ("\"é日🚀\"", "é日🚀"), (#""\u0000""#, "\u{0}"), ("[]", []), ("{}", [:]), ("[1,[2],{}]", [1, [2], [:]]),
            (#"{"a":1,"b":{"a":[null]}}"#, ["a": 1, "b": ["a": [nil]]]), ("{\"\":0}", ["": 0]), ("\u{FEFF}1", 1),
            ("\"\u{7F}\"", "\u{7F}"),
        ] as [(String, Document)]
    )
    func accepted(text: String, document: Document) throws {
        #expect(try Document.parseJSON(text).withoutPositions == document)
    }

    @Test(
        "texts that it refuses, by place and reason",
        arguments: [
            ("", 1, 1, "where a value is expected"), ("  ", 1, 3, "may be cut off"), ("nul", 1, 1, "such as null"),
            ("True", 1, 1, "'T'"), ("01", 1, 1, "needless 0"), ("-", 1, 2, "a digit"),
            ("-x", 1, 2, "'x' where a digit"),
            ("+1", 1, 1, "'+'"), (".5", 1, 1, "'.'"), ("1.", 1, 3, "a digit after '.'"), ("1e", 1, 3, "exponent"),
            ("1e+", 1, 4, "exponent"), ("0x10", 1, 2, "'x' follows"), ("1e400", 1, 1, "too large"),
            ("NaN", 1, 1, "'N'"),
            ("Infinity", 1, 1, "'I'"), ("[1,]", 1, 4, "']' where a value"), ("[1 2]", 1, 4, "',' or ']'"),
            ("[1", 1, 3, "cut off"), ("{\"a\":1,}", 1, 8, "'}' where a key"), ("{a:1}", 1, 2, "double quotes"),
            ("{'a':1}", 1, 2, "double quotes"), ("{\"a\" 1}", 1, 6, "':' after a key"), ("{\"a\":}", 1, 6, "a value"),
            ("{\"a\":1 \"b\":2}", 1, 8, "',' or '}'"), ("{\"a\":1", 1, 7, "cut off"), ("\"abc", 1, 1, "cut off"),
            ("\"a\nb\"", 1, 3, "control characters"), ("\"a\\qb\"", 1, 4, "after a backslash"),
            ("\"\\u12g4\"", 1, 6, "hexadecimal"),
            ("\"\\u12", 1, 6, "hexadecimal"), ("\"\\ud800\"", 1, 8, "surrogate"),
            ("\"\\ud800\\u0041\"", 1, 14, "surrogate"),
            ("\"\\udc00\"", 1, 8, "surrogate"), ("1 1", 1, 3, "holds one value"), ("{}\n]", 2, 1, "']' follows"),
            ("[\n 1,\n  x\n]", 3, 3, "'x'"), ("// c\n1", 1, 1, "'/'"), ("\u{FEFF}\u{FEFF}1", 1, 1, "0xef"),
            ("{\"a\":1,\n \"b\":2,\n \"a\":3}", 3, 2, "already used at 1:2"),
        ] as [(String, Int, Int, String)]
    )
    func refused(text: String, line: Int, column: Int, message: String) {
        let error = #expect(throws: DocumentError.self) { try Document.parseJSON(text) }
        #expect(error?.position == SourcePosition(line: line, column: column), "\(error.debugDescription)")
        #expect(error?.message.contains(message) == true, "\(error.debugDescription)")
    }

    @Test(
        "bytes that are not UTF-8",
        arguments: [[0xFF], [0xC0, 0xAF], [0xED, 0xA0, 0x80], [0xE2, 0x82], [0xF4, 0x90, 0x80, 0x80]] as [[UInt8]]
    )
    func notUTF8(bytes: [UInt8]) {
        for prefix in ["[1, \"a", "[1, \"\\n"] {
            let error = #expect(throws: DocumentError.self) {
                try Document.parseJSON(Array(prefix.utf8) + bytes + Array("\"]".utf8))
            }
            #expect(error?.code == .invalidUTF8)
            #expect(error?.position == SourcePosition(line: 1, column: 5))
        }
    }

    @Test("every value and key knows its place")
    func positions() throws {
        let document = try Document.parseJSON("{\r\n  \"a\": [1,\n   {\"b\": \"x\"}]}")
        #expect(document.position == SourcePosition(line: 1, column: 1))
        let member = try #require(document.members?.first)
        #expect(member.keyPosition == SourcePosition(line: 2, column: 3))
        let inner = try #require(member.value.array?.last)
        #expect(inner.position == SourcePosition(line: 3, column: 4))
        #expect(inner["b"]?.position == SourcePosition(line: 3, column: 10))
    }

    @Test("limits of depth, size and count hold exactly")
    func limits() throws {
        func nested(_ levels: Int) -> String {
            String(repeating: "[", count: levels) + String(repeating: "]", count: levels)
        }
        _ = try Document.parseJSON(nested(64))
        #expect(throws: DocumentError.self) { try Document.parseJSON(nested(65)) }
        #expect(throws: DocumentError.self) { try Document.parseJSON(String(repeating: "[", count: 1_000_000)) }
        let limits = DocumentLimits(bytes: 8, values: 3)
        #expect(try Document.parseJSON("[1,2]   ".utf8, limits: limits).array?.count == 2)
        #expect(throws: DocumentError.self) { try Document.parseJSON("[1,2]    ".utf8, limits: limits) }
        let error = #expect(throws: DocumentError.self) { try Document.parseJSON("[1,2,3]".utf8, limits: limits) }
        #expect(error?.code == .limit)
    }

    @Test("a repeated key is found in small and in large objects")
    func repeatedKeys() throws {
        for count in [1, 2, 16, 17, 18, 100] {
            let members = (0..<count).map { "\"k\($0)\":\($0)" }
            #expect(try Document.parseJSON("{" + members.joined(separator: ",") + "}").members?.count == count)
            for repeated in [0, count - 1] {
                let text = "{" + (members + ["\"k\(repeated)\":0"]).joined(separator: ",") + "}"
                let error = #expect(throws: DocumentError.self) { try Document.parseJSON(text) }
                #expect(error?.code == .duplicateKey)
            }
        }
    }

    @Test("bytes that are not contiguous are read as well")
    func notContiguous() throws {
        #expect(
            try Document.parseJSON(
                [Array("[1,".utf8), Array("2]".utf8)].joined().lazy.map { $0 }.reversed().reversed()
            ).array?.count == 2
        )
    }

    @Test("text and pretty text")
    func writing() {
        let document: Document = ["a": [1, 2.5, nil], "b\n": ["c": "é\"\\\u{1}"], "d": [], "e": [:], "f": true]
        #expect(document.jsonText() == #"{"a":[1,2.5,null],"b\n":{"c":"é\"\\\u0001"},"d":[],"e":{},"f":true}"#)
        #expect(
            document.jsonText(pretty: true)
                == "{\n  \"a\": [\n    1,\n    2.5,\n    null\n  ],\n  \"b\\n\": {\n    \"c\": \"é\\\"\\\\\\u0001\"\n  },\n"
                + "  \"d\": [],\n  \"e\": {},\n  \"f\": true\n}\n"
        )
        #expect(Document(.number(.infinity)).jsonText() == "null")
    }
}
