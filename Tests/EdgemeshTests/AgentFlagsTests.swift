import Configuration
import Testing

@testable import edgemesh

@Suite struct AgentFlagsTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var line: String
        var expected: AgentFlags
        var testDescription: String { self.line }

        init(_ line: String, _ change: (inout AgentFlags) -> Void) {
            self.line = line
            self.expected = AgentFlags()
            change(&self.expected)
        }
    }

    static let cases: [Case] = [
        Case("") { _ in },
        Case("--config-file=/a.yaml") {
            $0.configFile = "/a.yaml"
            $0.hasExplicitConfigFile = true
        },
        Case("--config-file /a.yaml") {
            $0.configFile = "/a.yaml"
            $0.hasExplicitConfigFile = true
        },
        Case("-config-file /a.yaml") {
            $0.configFile = "/a.yaml"
            $0.hasExplicitConfigFile = true
        },
        Case("--config_file=/a=b.yaml") {
            $0.configFile = "/a=b.yaml"
            $0.hasExplicitConfigFile = true
        },
        Case("-v 4") { $0.verbosity = 4 },
        Case("-v=4") { $0.verbosity = 4 },
        Case("-v4") { $0.verbosity = 4 },
        Case("--v=4") { $0.verbosity = 4 },
        Case("--v 4") { $0.verbosity = 4 },
        Case("--version") { $0.action = .version(raw: false) },
        Case("--version=raw") { $0.action = .version(raw: true) },
        Case("--version=true") { $0.action = .version(raw: false) },
        Case("--version=false") { _ in },
        Case("--defaultconfig") { $0.action = .defaultConfig },
        Case("--defaultconfig=true") { $0.action = .defaultConfig },
        Case("--minconfig") { $0.action = .minimalConfig },
        Case("-h") { $0.action = .help },
        Case("--help --version") { $0.action = .help },
        Case("--version --help") { $0.action = .help },
        Case("--manifests /m --node-name n1") {
            $0.manifestFolder = "/m"
            $0.nodeName = "n1"
        },
        Case("--logtostderr=true --alsologtostderr --stderrthreshold=2 --vmodule=a=1") { _ in },
        Case("--log_dir /var/log --log_file x --log_file_max_size 10 --log-flush-frequency=5s") { _ in },
        Case("--log-dir=/var/log --skip-headers --add_dir_header=false --one_output") { _ in },
        Case("--log_backtrace_at :0 --skip_log_headers -v 2") { $0.verbosity = 2 },
        Case("-v 2 --") { $0.verbosity = 2 },
    ]

    @Test(arguments: cases)
    func accepts(_ testCase: Case) throws {
        #expect(try AgentFlags.parse(testCase.line.split(separator: " ").map(String.init)) == testCase.expected)
    }

    @Test func theGatewayHasTheSameFlagsAndAFileOfItsOwn() throws {
        #expect(try AgentFlags.parse(["-v4"]).configFile == "/etc/edgemesh/config/edgemesh-agent.yaml")
        let flags = try AgentFlags.parse(["-v4", "--manifests=/m", "--node-name", "n1"], role: .gateway)
        #expect(flags.configFile == "/etc/edgemesh/config/edgemesh-gateway.yaml")
        #expect(flags.verbosity == 4 && flags.manifestFolder == "/m" && !flags.isConfigFileRequired)
        #expect(throws: AgentFlags.ParseError(description: "unexpected argument \"x\": the gateway takes flags only")) {
            try AgentFlags.parse(["x"], role: .gateway)
        }
        #expect(AgentFlags.help(of: .gateway).contains("(default /etc/edgemesh/config/edgemesh-gateway.yaml)"))
    }

    @Test(arguments: [
        ("--config-fil=x", "did you mean --config-file?"), ("--manifest /m", "did you mean --manifests?"),
        ("--min-config", "did you mean --minconfig?"), ("--zzzzzzzzzz", "unknown flag --zzzzzzzzzz"),
        ("--config-file", "needs a value"), ("-v", "needs a value"), ("-v many", "needs a number"),
        ("-v=-1", "needs a number"),
        ("--version=maybe", "true or false"), ("start", "unexpected argument"), ("-", "unexpected argument"),
    ])
    func refuses(line: String, words: String) {
        #expect {
            try AgentFlags.parse(line.split(separator: " ").map(String.init))
        } throws: { error in
            "\(error)".contains(words)
        }
    }
}
