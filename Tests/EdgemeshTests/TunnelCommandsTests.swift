import ArgumentParser
import Testing

@testable import edgemesh

@Suite struct TunnelCommandsTests {
    @Test func pingTakesCountIntervalAndForm() throws {
        let words = ["ping", "north-1", "-c", "3", "-i", "0.5", "-o", "json"]
        let command = try #require(try EdgemeshCommand.parseAsRoot(words) as? PingCommand)
        #expect(command.node == "north-1")
        #expect(command.count == 3)
        #expect(command.interval == 0.5)
        #expect(command.output.output == .json)
        let plain = try #require(try EdgemeshCommand.parseAsRoot(["ping", "n"]) as? PingCommand)
        #expect(plain.count == nil)
        #expect(plain.interval == 1)
    }

    @Test(arguments: [
        ["ping"], ["ping", "n", "-c", "0"], ["ping", "n", "-c", "x"], ["ping", "n", "-i", "0"],
        ["ping", "n", "-i", "nan"],
        ["routes"], ["netcheck", "n"], ["status", "--peers", "default/web"], ["routes", "a", "-o", "yaml"],
    ])
    func wrongUsageIsRefused(words: [String]) {
        #expect(throws: (any Error).self) { try EdgemeshCommand.parseAsRoot(words) }
    }

    @Test(arguments: [
        ["status", "--peers"], ["status", "--peers", "-o", "json", "--watch"], ["routes", "default/web"],
        ["routes", "web.default.svc.cluster.local", "-o", "json"], ["netcheck"], ["netcheck", "-o", "json"],
        ["probe"], ["probe", "--live", "--socket", "/run/a.sock"],
    ])
    func rightUsageIsTaken(words: [String]) {
        #expect(throws: Never.self) { try EdgemeshCommand.parseAsRoot(words) }
    }

    @Test(arguments: [("north-1", "north-1"), ("a/b", "a/b"), ("a&b=c d", "a%26b%3dc%20d"), ("ü", "%c3%bc")])
    func whatIsAskedForCannotChangeTheRequest(text: String, escaped: String) {
        #expect(text.inQuery == escaped)
    }
}
