import GatewayRouting
import Testing

@Suite("Bounded regular expressions")
struct BoundedRegexTests {
    /// Pattern, texts that match as a whole, texts that do not.
    private static let cases: [(String, [String], [String])] = [
        ("", [""], ["a"]),
        ("abc", ["abc"], ["ab", "abcd", "xabc", "ABC"]),
        ("a.c", ["abc", "a/c", "aéc"], ["a\nc", "ac"]),
        ("a.*", ["a", "abc"], ["ba", "a\nb"]),
        ("(?s)a.*", ["a\nb"], []),
        ("a|b|", ["a", "b", ""], ["ab"]),
        ("a|ab", ["a", "ab"], ["abb"]),
        ("(a|ab)(c|bcd)(d*)", ["abcd", "abc", "acd"], ["ad"]),
        ("a*", ["", "aaaa"], ["ab"]),
        ("a+b?", ["a", "aab"], ["b", "abb"]),
        ("(a*)*", ["", "aaa"], ["b"]),
        ("(|a)+", ["", "aaa"], ["b"]),
        ("(a*|b)+c", ["c", "abac"], ["ab"]),
        ("a{3}", ["aaa"], ["aa", "aaaa"]),
        ("a{2,}", ["aa", "aaaaa"], ["a"]),
        ("a{2,4}", ["aa", "aaaa"], ["a", "aaaaa"]),
        ("a{0}", [""], ["a"]),
        ("a{,2}", ["a{,2}"], ["a"]),
        ("a{x", ["a{x"], []),
        ("{", ["{"], []),
        ("a{2,4}?b", ["aab"], ["ab"]),
        ("(?:ab){2}", ["abab"], ["ab"]),
        ("[abc]", ["a", "c"], ["d", ""]),
        ("[^abc]", ["d", "\n", "é"], ["a", ""]),
        ("[a-c0-2]+", ["a1c"], ["d", "3"]),
        ("[]a]", ["]", "a"], ["b"]),
        ("[^]a]", ["b"], ["]", "a"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[\\]\\-x]", ["]", "-", "x"], ["\\"]),
        ("[\\d.]+", ["1.2"], ["a"]),
        ("[^\\d]", ["a"], ["1"]),
        ("[\\D]", ["a"], ["1"]),
        ("[[:alpha:]_]+", ["ab_Z"], ["1", "é"]),
        ("[[:^digit:]]", ["a"], ["1"]),
        ("\\d+", ["123"], ["١", "a"]),
        ("\\w+", ["aZ_9"], ["-", "é"]),
        ("\\s\\S", [" a", "\tb"], ["ab", "\u{0B}a"]),
        ("\\pL+", ["aéж"], ["1"]),
        ("\\p{Lu}\\P{Lu}", ["Éa"], ["éa", "AB"]),
        ("\\p{^L}", ["1"], ["a"]),
        ("^abc$", ["abc"], ["abcd"]),
        ("\\Aabc\\z", ["abc"], []),
        ("a^b", [], ["ab", "a^b"]),
        ("(?m)a$\\n^b", ["a\nb"], ["a\n\nb"]),
        ("a$\\nb", [], ["a\nb"]),
        ("\\bfoo\\b.*", ["foo", "foo bar"], ["foobar"]),
        (".*\\Boo", ["foo"], [" oo"]),
        ("(?i)abc", ["ABC", "aBc"], ["abd"]),
        ("(?i)[a-c]+", ["AbC"], ["D"]),
        ("(?i)[^a]", ["b"], ["A"]),
        ("(?i)straße", ["STRAßE"], ["strasse"]),
        ("(?i)é", ["É", "é"], ["e"]),
        ("a(?i)b", ["ab", "aB"], ["AB"]),
        ("(?i:a)b", ["Ab"], ["AB"]),
        ("(?i)a(?-i)b", ["Ab"], ["AB"]),
        ("a(?:(?i)b)c", ["aBc"], ["aBC"]),
        ("(?P<name>a)(?<other>b)", ["ab"], []),
        ("\\Qa.b*\\E+", ["a.b*", "a.b**"], ["aXb"]),
        ("\\Qab", ["ab"], []),
        ("\\x41\\x{1F600}\\101", ["A😀A"], []),
        ("\\t\\n\\r\\f\\v\\a", ["\t\n\r\u{0C}\u{0B}\u{07}"], []),
        ("\\.\\*\\/\\-\\\\", [".*/-\\"], ["a*/-\\"]),
        (
            "/v[1-3]/users/[0-9]+(/.*)?", ["/v2/users/17", "/v1/users/1/x"],
            ["/v4/users/1", "/v2/users/", "/x/v2/users/1"]
        ),
        (".*\\.(png|jpe?g|css)", ["/a/b.jpg", "/x.css"], ["/x.csss"]),
        ("^(.*?;)?(user=jason)(;.*)?$", ["user=jason", "a=b;user=jason;c=d"], ["user=jasons"]),
        ("x*x*x*x*x*y", ["xxxxy"], ["xxxx"]),
    ]

    @Test("What RE2 matches", arguments: cases)
    func matches(pattern: String, yes: [String], no: [String]) throws {
        let regex = try BoundedRegex(pattern: pattern)
        for text in yes { #expect(regex.matchesWhole(text), "\(text)") }
        for text in no { #expect(!regex.matchesWhole(text), "\(text)") }
    }

    /// Pattern, where it is wrong, a part of what is said.
    private static let broken: [(String, Int, String)] = [
        ("(", 0, "not closed"), ("a)", 1, "closes no group"), ("[a", 0, "not closed"), ("[]", 0, "not closed"),
        ("*a", 0, "nothing stands before"), ("a|*", 2, "nothing stands before"), ("(+)", 1, "nothing stands before"),
        ("a**", 2, "cannot be repeated"), ("a*+", 2, "cannot be repeated"), ("a{2}{3}", 4, "cannot be repeated"),
        ("a{3,2}", 1, "swap"), ("a{1001}", 1, "up to 1000"), ("[z-a]", 1, "swap"), ("\\", 0, "ends in a backslash"),
        ("a\\1", 1, "matched again"), ("\\q", 0, "means nothing"), ("\\Z", 0, "means nothing"),
        ("\\8", 0, "means nothing"),
        ("(?=a)", 0, "lookahead"), ("(?<!a)", 0, "lookbehind"), ("(?P<a>x)(?P<a>y)", 8, "named a"),
        ("(?i", 0, "not closed"), ("(?z)", 0, "after (?"), ("\\pX", 0, "\\p knows"), ("\\p{Greek}", 0, "\\p knows"),
        ("\\p{L", 0, "lacks its }"), ("[[:foo:]]", 1, "the names are"), ("\\x4", 0, "hexadecimal"),
        ("\\x{110000}", 0, "hexadecimal"), ("(a{100}){100}", 0, "more than 1024 steps"),
        (String(repeating: "(", count: 65), 64, "deeper than 64"),
        (String(repeating: "a", count: 1025), 1024, "longer"),
    ]

    @Test("What is wrong is said with its place", arguments: broken)
    func errors(pattern: String, offset: Int, reason: String) {
        let error = #expect(throws: RegexError.self) { try BoundedRegex(pattern: pattern) }
        #expect(error?.offset == offset)
        #expect(error?.reason.contains(reason) == true, "\(String(describing: error))")
    }

    /// Pattern, substitution, text, result; the first as Envoy documents its `regex_rewrite`.
    private static let replacements: [(String, String, String, String)] = [
        ("^/service/([^/]+)(/.*)$", "\\2/instance/\\1", "/service/foo/v1/api", "/v1/api/instance/foo"),
        ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
        ("^(.*?)one(.*)$", "\\1two\\2", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/one/zzz"),
        ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
        ("b*", "-", "abc", "-a-c-"), ("", "-", "é", "-é-"), ("a|ab", "<\\0>", "abab", "<a>b<a>b"),
        ("a+?", "x", "aaa", "xxx"), ("(a)|b", "[\\1]", "ab", "[a][]"), ("\\bx", "\\\\", "x xx", "\\ \\x"),
        ("none", "x", "text", "text"), ("^a", "b", "aaa", "baa"), ("a*?$", "x", "baa", "bx"),
    ]

    @Test("Replacement is RE2's", arguments: replacements)
    func replaces(pattern: String, substitution: String, text: String, result: String) throws {
        let regex = try BoundedRegex(pattern: pattern)
        let substitution = try RegexSubstitution(substitution, groups: regex.groupCount)
        #expect(regex.replacing(in: text, with: substitution) == result)
    }

    @Test("A substitution names groups that exist", arguments: [("\\2", 0), ("a\\", 1), ("ab\\x", 2)])
    func substitutionErrors(text: String, offset: Int) {
        let error = #expect(throws: RegexError.self) { try RegexSubstitution(text, groups: 1) }
        #expect(error?.offset == offset)
    }

    @Test("Work is bounded where a backtracking matcher would not end")
    func bounded() throws {
        let text = String(repeating: "a", count: 2_000)
        #expect(try !BoundedRegex(pattern: "(a*)*(a|aa)*(a?){50}b").matchesWhole(text))
        #expect(try BoundedRegex(pattern: "(?:(?:(?:){1000}){1000}){1000}a").matchesWhole("a"))
        let heavy = try BoundedRegex(pattern: "(?:a{500}b|a)")
        let long = String(repeating: "a", count: 30_000)
        #expect(heavy.replacing(in: long, with: try RegexSubstitution("x", groups: 0)) == nil)
    }

    /// The least number of steps with which the text is matched.
    private func cost(_ regex: BoundedRegex, _ text: String) -> Int {
        func suffices(_ steps: Int) -> Bool {
            let budget = MatchBudget(steps: steps)
            _ = regex.matchesWhole(text, within: budget)
            return !budget.isExhausted
        }
        var (low, high) = (0, 10_000_000)
        while low < high {
            let middle = (low + high) / 2
            if suffices(middle) { high = middle } else { low = middle + 1 }
        }
        return low
    }

    @Test(
        "Steps are no more than instructions times characters",
        arguments: ["(a|b)*c", "(?:a?){100}b", "(a*)*(a|aa)*b", ".*.*.*=.*", "(?:a{200}b|a)*"]
    )
    func costs(pattern: String) throws {
        let regex = try BoundedRegex(pattern: pattern)
        let costs = [1_000, 2_000, 3_000].map { self.cost(regex, String(repeating: "a", count: $0)) }
        #expect(costs[2] - costs[1] == costs[1] - costs[0], "each character costs the same")
        #expect(costs[2] <= BoundedRegex.maximumProgram * 3_001)
    }

    @Test("A budget that is used up matches nothing more")
    func budgets() throws {
        let heavy = try BoundedRegex(pattern: "(?:a{250}b|a)*c")
        let text = String(repeating: "a", count: 8_000)
        let budget = MatchBudget()
        #expect(self.cost(heavy, text) > MatchBudget.maximumSteps)
        #expect(!heavy.matchesWhole(text, within: budget) && budget.isExhausted)
        #expect(try !BoundedRegex(pattern: "a").matchesWhole("a", within: budget))
        #expect(try !BoundedRegex(pattern: "a*").matchesWhole("a", within: budget) && budget.isExhausted)
    }

    @Test("A rule that lies behind a match too heavy is not chosen: what it guards against could be missed")
    func rules() throws {
        let heavy = NamedMatch(name: "x", value: .regex(try BoundedRegex(pattern: "(?:a{250}b|a)*c")))
        var (guarded, negated) = (HTTPMatch(), HTTPMatch())
        guarded.headers = [heavy]
        negated.withoutHeaders = [heavy]
        let other = HTTPRule(origin: "other", matches: [], action: .respond(DirectResponse(status: 200)))
        for match in [guarded, negated] {
            let rule = HTTPRule(origin: "heavy", matches: [match], action: .respond(DirectResponse(status: 403)))
            let hosts = HTTPHosts([HTTPHosts.Host(pattern: .any, rules: [rule, other])])
            let short = try TestRequest("/", headers: ["x": "aac"])
            let long = try TestRequest("/", headers: ["x": String(repeating: "a", count: 8_000)])
            #expect(hosts.rule(for: short)?.origin == (match == guarded ? "heavy" : "other"))
            let budget = MatchBudget()
            #expect(hosts.rule(for: long, within: budget) == nil && budget.isExhausted)
        }
    }

    @Test("Equal by pattern")
    func equality() throws {
        #expect(try BoundedRegex(pattern: "a+") == BoundedRegex(pattern: "a+"))
        #expect(try BoundedRegex(pattern: "a+") != BoundedRegex(pattern: "aa*"))
    }
}
