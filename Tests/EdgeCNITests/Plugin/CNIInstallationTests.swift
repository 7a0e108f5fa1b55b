import Documents
import Glibc
import MeshTesting
import Testing

@testable import CNIPlugin

@Suite
struct CNIInstallationTests {
    /// A folder that goes with the test.
    private final class Folder {
        let path: String

        init() throws {
            self.path = try shell("mktemp -d").split(separator: "\n").map(String.init)[0]
        }

        deinit { _ = try? shell("rm -rf '\(self.path)'") }

        var installation: CNIInstallation {
            CNIInstallation(programDirectory: "\(self.path)/opt/bin", configurationDirectory: "\(self.path)/etc/net.d")
        }

        var configuration: String { "\(self.path)/etc/net.d/10-edgemesh-cni.conflist" }

        func install(_ document: Document, isReplacing: Bool = false) throws -> [String] {
            try shell("echo program > '\(self.path)/edgemesh'")
            return try self.installation.install(
                program: "\(self.path)/edgemesh",
                configuration: document,
                isReplacing: isReplacing
            )
        }
    }

    @Test
    func programAndConfigurationAppear() throws {
        let folder = try Folder()
        let warnings = try folder.install(CNIInstallation.configurationList(mtu: 1400))
        #expect(
            warnings.map { $0.prefix(19) } == ["the plugin \"bridge\"", "the plugin \"spiderp", "the plugin \"portmap"]
        )
        #expect(try shell("cat '\(folder.path)/opt/bin/edgemesh-cni'") == "program\n")
        #expect(try shell("stat -c %a '\(folder.path)/opt/bin/edgemesh-cni' '\(folder.configuration)'") == "755\n644\n")
        #expect(
            try shell("ls -A '\(folder.path)/opt/bin' '\(folder.path)/etc/net.d' | grep -c new", allowFailure: true)
                == "0\n"
        )
        let text = try shell("cat '\(folder.configuration)'")
        let document = try Document.parseJSON(Array(text.utf8)).withoutPositions
        #expect(document["cniVersion"] == "1.0.0")
        let delegate = try #require(document["plugins"]?.array?.first?["delegate"])
        #expect(delegate["isDefaultGateway"] == true)
        #expect(delegate["mtu"] == 1400)
        #expect(delegate["ipam"] == ["type": "spiderpool"])
    }

    @Test
    func whatAnOperatorWroteStays() throws {
        let folder = try Folder()
        _ = try folder.install(CNIInstallation.configurationList())
        let own = #"{"cniVersion":"1.0.0","name":"own","plugins":[{"type":"edgemesh-cni"}]}"#
        try shell("echo '\(own)' > '\(folder.configuration)'")
        #expect(try folder.install(CNIInstallation.configurationList()).isEmpty)
        #expect(try shell("cat '\(folder.configuration)'") == own + "\n")
        _ = try folder.install(CNIInstallation.configurationList(), isReplacing: true)
        #expect(try shell("cat '\(folder.configuration)'") != own + "\n")
        // What the original's installer wrote works for nobody.
        let broken = #"{"cniVersion":"0.0.1","name":"edgemesh-cni","type":"edgemesh"}"#
        try shell("echo '\(broken)' > '\(folder.configuration)'")
        _ = try folder.install(CNIInstallation.configurationList())
        #expect(try shell("cat '\(folder.configuration)'") != broken + "\n")
    }

    @Test
    func networksThatComeFirstAreNamed() throws {
        let folder = try Folder()
        try shell("mkdir -p '\(folder.path)/etc/net.d'; touch '\(folder.path)/etc/net.d/05-other.conflist'")
        let warnings = try folder.install(CNIInstallation.configurationList())
        #expect(warnings.first?.contains("05-other.conflist comes first") == true)
    }

    @Test
    func everythingGoesAgain() throws {
        let folder = try Folder()
        _ = try folder.install(CNIInstallation.configurationList())
        try folder.installation.remove()
        #expect(try shell("find '\(folder.path)/opt' '\(folder.path)/etc' -type f").isEmpty)
        try folder.installation.remove()
    }

    @Test
    func whatCannotBeWrittenIsTold() throws {
        let folder = try Folder()
        try shell("touch '\(folder.path)/opt'")
        #expect(throws: CNIError.self) { _ = try folder.install(CNIInstallation.configurationList()) }
        #expect(throws: CNIError.self) {
            _ = try folder.installation.install(program: "\(folder.path)/none", configuration: [:])
        }
    }
}
