import Documents
import Testing

@Suite("YAML")
struct YAMLTests {
    @Test(
        "plain scalars mean what they mean to Kubernetes tools",
        arguments: [
            ("~", nil), ("null", nil), ("Null", nil), ("true", true), ("yes", true), ("On", true), ("no", false),
            ("OFF", false), ("False", false), ("12", 12), ("-12", -12), ("+12", 12), ("1_000", 1000), ("0x1F", 31),
            ("-0x10", -16), ("0o17", 15), ("017", 15), ("0b101", 5), ("08", 8.0), ("0", 0), ("-0", 0), ("1.5", 1.5),
            (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("-1.5E-3", -0.0015),
            ("9223372036854775807", .integer(Int64.max)),
            ("9223372036854775808", 9_223_372_036_854_775_808.0), (".inf", .init(.number(.infinity))),
            ("-.INF", .init(.number(-.infinity))), ("\"12\"", "12"), ("'true'", "true"), ("!!str 12", "12"),
            ("! 12", "12"), ("!!int 12", 12), ("!!float 1", 1.0), ("2001-01-01", "2001-01-01"),
            ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"), ("10.0.0.1", "10.0.0.1"),
            ("1.2.3", "1.2.3"), ("infinity", "infinity"), ("nan", "nan"), ("0x", "0x"), ("0xg", "0xg"), ("1e", "1e"),
            ("+-1", "+-1"), ("0x-1", "0x-1"), ("-", "-"), ("+", "+"), (".", "."), ("y", "y"), ("n", "n"), ("nO", "nO"),
            ("1e999", "1e999"), ("|\n  12\n", "12\n"), (">-\n  a\n  b\n", "a b"), ("\"a\\tb\\x41\\u00e9\"", "a\tbAé"),
        ] as [(String, Document)]
    )
    func scalars(text: String, document: Document) throws {
        #expect(
            try Document.parseYAML(text == "-" ? "[-]" : text).first?.withoutPositions
                == (text == "-" ? ["-"] : document)
        )
    }

    @Test("documents, comments, flow and block style")
    func streams() throws {
        let text = """
            # a comment
            a: 1
            b:
            - x
            - {y: [1, 2], z: }
            ---
            ---
            # nothing
            --- null
            --- "second" # with a comment
            ...
            """
        let documents = try Document.parseYAML(text)
        #expect(
            documents.map(\.withoutPositions) == [["a": 1, "b": ["x", ["y": [1, 2], "z": nil]]], nil, "second"]
        )
        for empty in ["", "\n", "# only a comment", "---\n", "\u{FEFF}"] {
            #expect(try Document.parseYAML(empty).isEmpty, "\(empty)")
        }
    }

    @Test("keys are text as written, whatever type they look like")
    func keys() throws {
        let document = try #require(try Document.parseYAML("80: a\nyes: b\n0x10: c\n'': d\n? long\n: e\n").first)
        #expect(document.members?.map(\.key) == ["80", "yes", "0x10", "", "long"])
    }

    @Test("byte order mark, Windows line ends and UTF-16")
    func encodings() throws {
        let expected: Document = ["a": ["b": "c"], "d": 1]
        let text = "a:\r\n  b: c\r\nd: 1\r\n"
        #expect(try Document.parseYAML(text).map(\.withoutPositions) == [expected])
        #expect(try Document.parseYAML("\u{FEFF}" + text).map(\.withoutPositions) == [expected])
        let utf16: [UInt8] = [0xFF, 0xFE] + text.utf8.flatMap { [$0, 0] as [UInt8] }
        #expect(try Document.parseYAML(utf16).map(\.withoutPositions) == [expected])
    }

    @Test("anchors, aliases and merge keys")
    func aliases() throws {
        let text = """
            base: &base {a: 1, b: 2}
            other: &other {b: 3, c: 4}
            one: {<<: *base, b: 9}
            two:
              <<: [*base, *other]
            three: *base
            &k key: *k
            quoted: {'<<': 1}
            """
        let document = try #require(try Document.parseYAML(text).first)
        func json(_ key: String) -> String? { document[key]?.jsonText() }
        #expect(json("one") == #"{"b":9,"a":1}"#)
        #expect(json("two") == #"{"a":1,"b":2,"c":4}"#)
        #expect(json("three") == #"{"a":1,"b":2}"#)
        #expect(json("key") == #""key""#)
        #expect(json("quoted") == #"{"<<":1}"#)
    }

    @Test(
        "texts that are refused, by place and reason",
        arguments: [
            ("a: b: c", 1, 5, "wants quotes"), ("a:\n\tb: c\n", 2, 1, "tab in the indentation"),
            ("a: 1\n b: 2\n", 2, 3, "wants quotes"), ("a: [1, 2\nb: 3\n", 2, 2, "flow sequence that starts at 1:4"),
            ("a: \"x\nb: 1\n", 3, 1, "quoted scalar that starts at 1:4"), ("a: @b", 1, 4, "@ ` %"),
            ("a: 1\nb: 2\na: 3\n", 3, 1, "already used at 1:1"), ("{a: 1, a: 2}", 1, 8, "already used at 1:2"),
            ("- *x\n", 1, 3, "&x before it"), ("a: &x [*x]\n", 1, 8, "&x before it"),
            ("--- &x 1\n--- *x\n", 2, 5, "&x"),
            ("[a]: 1", 1, 1, "must be text"), ("? {a: 1}\n: 1\n", 1, 3, "must be text"), ("~: 1", 1, 1, "must be text"),
            ("<<: 1", 1, 5, "merge key"), ("<<: [1]", 1, 6, "merge key"), ("!!binary aGk=", 1, 1, "not supported"),
            ("!x {a: 1}", 1, 1, "not supported"), ("!!int abc", 1, 1, "does not fit"),
            ("!!set {a}", 1, 1, "not supported"),
            ("a: \u{1}\n", 1, 4, "control character 0x1"), ("a\n: b", 2, 1, "<document start>"),
            ("a:\n  - b\n c: d\n", 3, 2, "indentation"), ("%YAML 3.0\n---\na", 1, 1, "incompatible"),
            ("a: 1\n}", 2, 1, "expected"), ("- a\nb: 1\n", 2, 1, "indentation"), ("\"\\q\"", 1, 2, "escape"),
        ] as [(String, Int, Int, String)]
    )
    func refused(text: String, line: Int, column: Int, message: String) {
        let error = #expect(throws: DocumentError.self) { try Document.parseYAML(text) }
        #expect(error?.position == SourcePosition(line: line, column: column), "\(error.debugDescription)")
        #expect(error?.message.contains(message) == true, "\(error.debugDescription)")
        #expect(error?.describe(in: "f.yaml").hasPrefix("f.yaml:\(line):\(column): ") == true)
    }

    @Test("bytes that are not UTF-8 are refused where they stand")
    func notUTF8() {
        let error = #expect(throws: DocumentError.self) {
            try Document.parseYAML(Array("a: 1\nb: x".utf8) + [0xFF] + Array("\n".utf8))
        }
        #expect(error?.code == .invalidUTF8)
        #expect(error?.position == SourcePosition(line: 2, column: 5))
    }

    @Test("aliases cannot make a small text large or deep")
    func expansion() throws {
        var laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
        for level in 1..<10 {
            laughs +=
                "a\(level): &a\(level) [" + Array(repeating: "*a\(level - 1)", count: 10).joined(separator: ", ")
                + "]\n"
        }
        let error = #expect(throws: DocumentError.self) { try Document.parseYAML(laughs) }
        #expect(error?.code == .limit)
        #expect(error?.message.contains("aliases such as *a") == true)

        var deep = "a0: &a0 [[[[[[[[[[1]]]]]]]]]]\n"
        for level in 1..<10 { deep += "a\(level): &a\(level) [[[[[[[[[*a\(level - 1)]]]]]]]]]\n" }
        #expect(throws: DocumentError.self) { try Document.parseYAML(deep) }

        let text = "a: &a [xx]\nb: *a\n"
        #expect(try Document.parseYAML(Array(text.utf8), limits: DocumentLimits(aliasExpansion: 4)).count == 1)
        #expect(throws: DocumentError.self) {
            try Document.parseYAML(Array(text.utf8), limits: DocumentLimits(aliasExpansion: 3))
        }
    }

    @Test("a key may be repeated with an equal value where that is asked for")
    func equalRepeats() throws {
        let limits = DocumentLimits(allowsEqualRepeats: true)
        let equal = try Document.parseYAML(Array("a: [1, {b: c}]\na:\n- 1\n- b: c\n".utf8), limits: limits)
        #expect(equal.map(\.withoutPositions) == [["a": [1, ["b": "c"]]]])
        let error = #expect(throws: DocumentError.self) {
            try Document.parseYAML(Array("a: 1\na: \"1\"\n".utf8), limits: limits)
        }
        #expect(error?.code == .duplicateKey)
    }

    @Test("limits of depth, size and count hold exactly")
    func limits() throws {
        func nested(_ levels: Int) -> String {
            String(repeating: "[", count: levels) + String(repeating: "]", count: levels)
        }
        _ = try Document.parseYAML(nested(64))
        #expect(throws: DocumentError.self) { try Document.parseYAML(nested(65)) }
        #expect(throws: DocumentError.self) { try Document.parseYAML(String(repeating: "- ", count: 100_000) + "x") }
        let limits = DocumentLimits(bytes: 6, values: 3)
        #expect(try Document.parseYAML(Array("[1,2] ".utf8), limits: limits).count == 1)
        #expect(throws: DocumentError.self) { try Document.parseYAML(Array("[1,2]  ".utf8), limits: limits) }
        #expect(throws: DocumentError.self) {
            try Document.parseYAML(Array("[1,1,]".utf8), limits: DocumentLimits(values: 2))
        }
    }

    @Test("text is written in block style, with quotes where another reader could err")
    func writing() {
        let document: Document = [
            "apiVersion": "v1", "empty": [], "none": [:], "nothing": nil, "port": 53, "load": 1.25,
            "list": ["a", "yes", ["b": 1, "c": [["d": "1:20"]]]], "star": "*", "text": "two\nlines",
            "ip": "169.254.96.16",
        ]
        #expect(
            document.yamlText() == """
                apiVersion: v1
                empty: []
                none: {}
                nothing: null
                port: 53
                load: 1.25
                list:
                - a
                - "yes"
                - b: 1
                  c:
                  - d: "1:20"
                star: "*"
                text: "two\\nlines"
                ip: 169.254.96.16

                """
        )
    }
}
