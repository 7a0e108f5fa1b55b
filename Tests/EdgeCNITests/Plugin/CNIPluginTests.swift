import Documents
import Testing

@testable import CNIPlugin

@Suite
struct CNIPluginTests {
    private func delegated(_ configuration: String, _ command: String = "ADD") throws -> Document {
        let delegates = FakeDelegates(installed: ["bridge", "macvlan"])
        let (outcome, document) = try delegates.call(command, configuration)
        #expect(outcome.status == 0, "\(document?.jsonText() ?? "")")
        return try #require(try delegates.calls.first?.document)
    }

    @Test
    func whatTheConfigurationLeavesOutIsFilledIn() throws {
        let document = try self.delegated(#"{"cniVersion":"1.0.0","name":"mesh","type":"edgemesh-cni"}"#)
        #expect(
            document == [
                "cniVersion": "1.0.0", "name": "mesh", "type": "bridge", "bridge": "edgebr0",
                "ipam": ["type": "spiderpool"],
            ]
        )
    }

    @Test
    func whatTheDelegateSaysStays() throws {
        let document = try self.delegated(
            #"{"cniVersion":"1.0.0","name":"mesh","delegate":{"name":"own","cniVersion":"0.4.0","bridge":"br1","mtu":1400,"#
                + #""ipam":{"type":"host-local","subnet":"10.1.0.0/16"}}}"#
        )
        #expect(
            document == [
                "name": "own", "cniVersion": "0.4.0", "bridge": "br1", "mtu": 1400,
                "ipam": ["type": "host-local", "subnet": "10.1.0.0/16"], "type": "bridge",
            ]
        )
        let other = try self.delegated(#"{"cniVersion":"1.0.0","name":"mesh","delegate":{"type":"macvlan"}}"#)
        #expect(other["bridge"] == nil)
        #expect(other["ipam"] == ["type": "spiderpool"])
    }

    @Test
    func addressesOfTheNetworkReplaceThoseOfTheDelegate() throws {
        let document = try self.delegated(
            #"{"cniVersion":"1.0.0","name":"mesh","ipam":{"type":"static","a":1},"delegate":{"ipam":{"type":"dhcp","b":2}}}"#
        )
        #expect(document["ipam"] == ["type": "static", "a": 1])
        let kept = try self.delegated(
            #"{"cniVersion":"1.0.0","name":"mesh","ipam":{},"delegate":{"ipam":{"subnet":"10.1.0.0/16"}}}"#
        )
        #expect(kept["ipam"] == ["subnet": "10.1.0.0/16", "type": "spiderpool"])
    }

    @Test
    func whatTheRuntimeWantsIsHandedOn() throws {
        let document = try self.delegated(
            #"{"cniVersion":"1.0.0","name":"mesh","runtimeConfig":{"mac":"02:00:00:00:00:01"},"args":{"x":1},"#
                + #""dns":{"nameservers":["169.254.96.16"]},"delegate":{"args":{"x":2}}}"#
        )
        #expect(document["runtimeConfig"] == ["mac": "02:00:00:00:00:01"])
        #expect(document["args"] == ["x": 2])
        #expect(document["dns"] == ["nameservers": ["169.254.96.16"]])
    }

    @Test
    func theResultOfTheDelegateIsTheResult() throws {
        let delegates = FakeDelegates()
        let (outcome, document) = try delegates.call("ADD", #"{"cniVersion":"1.0.0","name":"mesh"}"#)
        #expect(outcome.status == 0)
        #expect(document == (try Document.parseJSON(Array(FakeDelegates.result.utf8)).withoutPositions))
        let call = try #require(delegates.calls.first)
        #expect(call.program == "/plugins/bridge")
        var environment = FakeDelegates.environment
        environment["CNI_COMMAND"] = "ADD"
        #expect(call.environment == environment)
    }

    @Test(arguments: [
        ("0.4.0", #""1.0.0""#, ["4", "6"] as [String?]), ("1.1.0", #""1.0.0""#, [nil, nil]),
        ("1.0.0", #""1.0.0""#, [nil, nil]),
    ])
    func resultsTakeTheFormOfTheNetwork(version: String, delegate: String, families: [String?]) throws {
        let (outcome, document) = try FakeDelegates().call(
            "ADD",
            #"{"cniVersion":"\#(version)","name":"mesh","delegate":{"cniVersion":\#(delegate)}}"#
        )
        #expect(outcome.status == 0)
        #expect(document?["cniVersion"]?.string == version)
        #expect(document?["ips"]?.array?.map { $0["version"]?.string } == families)
    }

    @Test
    func formerResultsTakeTheFormOfTheDelegate() throws {
        let document = try self.delegated(
            #"{"cniVersion":"1.0.0","name":"mesh","prevResult":\#(FakeDelegates.result),"delegate":{"cniVersion":"0.4.0"}}"#,
            "CHECK"
        )
        #expect(document["prevResult"]?["cniVersion"]?.string == "0.4.0")
        #expect(document["prevResult"]?["ips"]?.array?.map { $0["version"]?.string } == ["4", "6"])
    }

    @Test(arguments: ["DEL", "CHECK", "GC", "STATUS"])
    func otherCommandsPrintNothing(command: String) throws {
        let delegates = FakeDelegates()
        let (outcome, _) = try delegates.call(
            command,
            #"{"cniVersion":"1.1.0","name":"mesh","prevResult":{"cniVersion":"1.1.0"},"#
                + #""cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}"#
        )
        #expect(outcome.status == 0)
        #expect(outcome.standardOutput.isEmpty)
        #expect(delegates.calls.map(\.command) == [command])
        let attachments = try #require(try delegates.calls.first?.document["cni.dev/valid-attachments"])
        #expect(attachments == [["containerID": "a", "ifname": "eth0"]])
    }

    @Test
    func anOlderDelegateIsNotAskedForNewCommands() throws {
        let configuration = #"{"cniVersion":"1.1.0","name":"mesh","delegate":{"cniVersion":"1.0.0"}}"#
        for command in ["GC", "STATUS"] {
            let delegates = FakeDelegates()
            #expect(try delegates.call(command, configuration).outcome.status == 0)
            #expect(delegates.calls.isEmpty)
        }
        // But it has to be there.
        let (outcome, document) = try FakeDelegates(installed: []).call("STATUS", configuration)
        #expect(outcome.status != 0)
        #expect(document?["code"] == 50)
    }

    @Test
    func anAttachmentThatFailsIsUndone() throws {
        let delegates = FakeDelegates { call in
            guard call.command == "ADD" else { return DelegateOutput(status: 0, standardOutput: []) }
            let error = #"{"cniVersion":"1.0.0","code":11,"msg":"no address left","details":"try later"}"#
            return DelegateOutput(status: 1, standardOutput: Array(error.utf8), standardError: "log\n")
        }
        let (outcome, document) = try delegates.call("ADD", #"{"cniVersion":"1.0.0","name":"mesh"}"#)
        #expect(outcome.status == 1)
        #expect(outcome.standardError == "log\n")
        #expect(document == ["cniVersion": "1.0.0", "code": 11, "msg": "no address left", "details": "try later"])
        #expect(delegates.calls.map(\.command) == ["ADD", "DEL"])
    }

    @Test(arguments: ["", "panic: runtime error", "[]", #"{"code":"7"}"#])
    func whatADelegatePrintsMayBeAnything(text: String) throws {
        let (outcome, document) = try FakeDelegates { _ in
            DelegateOutput(status: 2, standardOutput: Array(text.utf8))
        }.call("DEL", #"{"cniVersion":"1.0.0","name":"mesh"}"#)
        #expect(outcome.status == 1)
        #expect(document?["code"] == 100)
        #expect(document?["details"]?.string ?? "" == text)
    }

    @Test(arguments: ["", "nothing", "[1]"])
    func aResultThatIsNoneIsAnErrorAndIsUndone(text: String) throws {
        let delegates = FakeDelegates { _ in DelegateOutput(status: 0, standardOutput: Array(text.utf8)) }
        let (outcome, document) = try delegates.call("ADD", #"{"cniVersion":"1.0.0","name":"mesh"}"#)
        #expect(outcome.status == 1)
        #expect(document?["code"] == 6)
        #expect(delegates.calls.map(\.command) == ["ADD", "DEL"])
    }

    @Test
    func versionsAreTold() throws {
        let (outcome, document) = try FakeDelegates().call(
            "VERSION",
            #"{"cniVersion":"0.4.0"}"#,
            changing: ["CNI_PATH": nil]
        )
        #expect(outcome.status == 0)
        #expect(
            document == [
                "cniVersion": "0.4.0",
                "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
            ]
        )
    }

    private static let mesh = #"{"cniVersion":"1.0.0","name":"mesh"}"#

    @Test(
        arguments: [
            ("ADD", mesh, ["CNI_NETNS": ""], 4), ("DEL", mesh, ["CNI_CONTAINERID": ""], 4),
            ("ADD", mesh, ["CNI_PATH": ""], 4),
            ("ADD", mesh, ["CNI_CONTAINERID": "../x"], 4), ("ADD", mesh, ["CNI_IFNAME": "a/b"], 4),
            ("ADD", mesh, ["CNI_IFNAME": "sixteen-letters-"], 4), ("ADD", mesh, ["CNI_IFNAME": ".."], 4),
            ("add", mesh, [:], 4), ("", mesh, [:], 4), ("ADD", "", [:], 6), ("ADD", "{", [:], 6), ("ADD", "[]", [:], 6),
            ("VERSION", "nothing", [:], 6), ("ADD", #"{"cniVersion":"2.0.0","name":"mesh"}"#, [:], 1),
            ("ADD", #"{"cniVersion":1,"name":"mesh"}"#, [:], 1), ("ADD", #"{"cniVersion":"1.0.0"}"#, [:], 7),
            ("ADD", #"{"cniVersion":"1.0.0","name":"a/b"}"#, [:], 7),
            ("ADD", #"{"cniVersion":"1.0.0","name":"mesh","delegate":7}"#, [:], 7),
            ("ADD", #"{"cniVersion":"1.0.0","name":"mesh","delegate":{"type":"../bin/sh"}}"#, [:], 7),
            ("ADD", #"{"cniVersion":"1.0.0","name":"mesh","delegate":{"type":"edgemesh-cni"}}"#, [:], 7),
            ("ADD", #"{"cniVersion":"1.0.0","name":"mesh","delegate":{"ipam":[]}}"#, [:], 7),
            ("ADD", #"{"cniVersion":"1.0.0","name":"mesh","delegate":{"type":"missing"}}"#, [:], 100),
            ("ADD", #"{"cniVersion":"0.2.0","name":"mesh"}"#, [:], 1),
            ("CHECK", mesh, [:], 7), ("CHECK", #"{"cniVersion":"1.0.0","name":"mesh","prevResult":null}"#, [:], 7),
            ("CHECK", #"{"cniVersion":"0.3.1","name":"mesh"}"#, [:], 1), ("GC", mesh, [:], 1),
            ("STATUS", mesh, [:], 1), ("STATUS", #"{"cniVersion":"1.1.0","name":"mesh"}"#, ["CNI_PATH": ""], 4),
        ] as [(String, String, [String: String], Int64)]
    )
    func mistakesAreToldByNumber(command: String, configuration: String, changes: [String: String], code: Int64) throws
    {
        let (outcome, document) = try FakeDelegates().call(command, configuration, changing: changes)
        #expect(outcome.status == 1)
        #expect(document?["code"]?.integer == code, "\(document?.jsonText() ?? "")")
        #expect(document?["msg"]?.string?.isEmpty == false)
        #expect(document?["cniVersion"]?.string != nil)
    }

    @Test
    func aDetachmentNeedsNoNamespace() throws {
        let delegates = FakeDelegates()
        #expect(try delegates.call("DEL", Self.mesh, changing: ["CNI_NETNS": nil]).outcome.status == 0)
        #expect(delegates.calls.count == 1)
    }

    @Test
    func environmentsAreRead() {
        let environment = CNIPlugin.environment(Array("A=1\0B=x=y\0broken\0C=\0".utf8))
        #expect(environment == ["A": "1", "B": "x=y", "C": ""])
    }
}
