import Documents
import Glibc
import LinuxNetwork
import MeshTesting
import Testing

@testable import CNIPlugin

/// With the plugins of Debian's package, a namespace that is the node and one that is the pod.
@Suite
struct DebianPluginTests {
    static let directory = "/usr/lib/cni"
    static let isInstalled = access("\(directory)/bridge", X_OK) == 0 && access("\(directory)/host-local", X_OK) == 0

    private final class Node {
        let name = "emc\(getpid())x\(UInt16.random(in: 0...UInt16.max))"
        let folder: String
        private let namespace: NetworkNamespace

        init() throws {
            guard geteuid() == 0 else { throw KernelTestError(message: "kernel tests need root: run them with sudo") }
            self.folder = try shell("mktemp -d").split(separator: "\n").map(String.init)[0]
            try shell("ip netns add \(self.name)n && ip netns add \(self.name)p && ip -n \(self.name)n link set lo up")
            self.namespace = try NetworkNamespace(named: "\(self.name)n")
        }

        deinit {
            _ = try? shell("ip netns del \(self.name)n; ip netns del \(self.name)p; rm -rf '\(self.folder)'")
        }

        func configuration(version: String, _ more: String = "") -> String {
            #"{"cniVersion":"\#(version)","name":"mesh"\#(more),"type":"edgemesh-cni","delegate":{"bridge":"em\#(getpid())b","#
                + #""isDefaultGateway":true,"ipam":{"type":"host-local","dataDir":"\#(self.folder)","#
                + #""ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:244:1::/64"}]]}}}"#
        }

        func call(_ command: String, _ configuration: String) throws -> CNIPlugin.Outcome {
            let environment = [
                "CNI_COMMAND": command, "CNI_CONTAINERID": "pod-1", "CNI_NETNS": "/run/netns/\(self.name)p",
                "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere:\(DebianPluginTests.directory)",
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            ]
            return try self.namespace.run {
                CNIPlugin(delegates: DelegatePrograms()).run(environment: environment, input: Array(configuration.utf8))
            }
        }
    }

    @Test(.enabled(if: isInstalled), arguments: ["0.3.1", "0.4.0", "1.0.0"])
    func podsAreAttachedAndDetached(version: String) throws {
        let node = try Node()
        let added = try node.call("ADD", node.configuration(version: version))
        let text = String(decoding: added.standardOutput, as: UTF8.self)
        #expect(added.status == 0, "\(text) \(added.standardError)")
        let result = try Document.parseJSON(added.standardOutput)
        #expect(result["cniVersion"]?.string == version)
        #expect(result["ips"]?.array?.compactMap { $0["address"]?.string } == ["10.244.1.2/24", "fd00:244:1::2/64"])
        let addresses = try shell("ip -n \(node.name)p -o addr show dev eth0")
        #expect(addresses.contains("10.244.1.2/24"))
        #expect(try shell("ip -n \(node.name)p route show default").contains("10.244.1.1"))
        try shell("ip netns exec \(node.name)p timeout -s KILL 60 busybox ping -c 1 10.244.1.1")

        if version != "0.3.1" {
            let checked = try node.call("CHECK", node.configuration(version: version, #","prevResult":\#(text)"#))
            #expect(checked.status == 0, "\(String(decoding: checked.standardOutput, as: UTF8.self))")
            try shell("ip -n \(node.name)p addr flush dev eth0")
            #expect(
                try node.call("CHECK", node.configuration(version: version, #","prevResult":\#(text)"#)).status != 0
            )
        }
        // As often as one likes.
        for _ in 0..<2 {
            let removed = try node.call("DEL", node.configuration(version: version))
            #expect(removed.status == 0, "\(String(decoding: removed.standardOutput, as: UTF8.self))")
        }
        #expect(try shell("ip -n \(node.name)p -o link show").contains("eth0") == false)
        #expect(try shell("ls '\(node.folder)/mesh'").contains("10.244.1.2") == false)
    }

    @Test(.enabled(if: isInstalled))
    func aSecondAttachmentOfTheSameNameFailsAndGivesItsAddressBack() throws {
        let node = try Node()
        try shell("ip -n \(node.name)p link add eth0 type veth peer name other0")
        let outcome = try node.call("ADD", node.configuration(version: "1.0.0"))
        #expect(outcome.status == 1)
        #expect(try Document.parseJSON(outcome.standardOutput)["msg"]?.string?.isEmpty == false)
        #expect(try shell("ls '\(node.folder)/mesh' 2>/dev/null", allowFailure: true).contains("10.244.1") == false)
    }

    @Test(.enabled(if: isInstalled))
    func aVersionThatThePluginDoesNotKnowIsTold() throws {
        let node = try Node()
        let outcome = try node.call("ADD", node.configuration(version: "1.1.0"))
        #expect(outcome.status == 1)
        #expect(try Document.parseJSON(outcome.standardOutput)["code"]?.integer == 1)
    }

    @Test
    func programsAreCalledWithEnvironmentAndInput() throws {
        let folder = try shell("mktemp -d").split(separator: "\n").map(String.init)[0]
        defer { _ = try? shell("rm -rf '\(folder)'") }
        let script = """
            #!/bin/sh
            input=$(cat)
            echo "note" >&2
            [ "$CNI_COMMAND" = ADD ] || exit 0
            printf '{"cniVersion":"1.0.0","ips":[],"seen":"%s %s","input":%s}' "$CNI_IFNAME" "$CNI_ARGS" "$input"
            """
        try shell("cat > '\(folder)/bridge' <<'END'\n\(script)\nEND\nchmod +x '\(folder)/bridge'")
        var environment = FakeDelegates.environment
        environment["CNI_COMMAND"] = "ADD"
        environment["CNI_PATH"] = folder
        let outcome = CNIPlugin(delegates: DelegatePrograms())
            .run(environment: environment, input: Array(#"{"cniVersion":"1.0.0","name":"mesh"}"#.utf8))
        #expect(outcome.status == 0)
        #expect(outcome.standardError == "note\n")
        let result = try Document.parseJSON(outcome.standardOutput)
        #expect(result["seen"]?.string == "eth0 K8S_POD_NAME=web")
        #expect(result["input"]?["bridge"]?.string == "edgebr0")
    }
}
