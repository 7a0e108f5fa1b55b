import Configuration
import Documents
import EdgeDNS
import Foundation
import Logging
import MeshCore
import ServiceCatalog
import Synchronization
import Testing

@testable import MeshApp

@Suite struct ConfigTests {
    private static func temporaryFile(_ text: String) throws -> String {
        let path = "/tmp/edgemesh-config-\(UUID().uuidString).yaml"
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        return path
    }

    private static func source(_ path: String, manifests: String? = nil) -> ConfigSource {
        ConfigSource(options: AgentOptions(configFile: path, manifestFolder: manifests)) {
            $0 == "NODE_NAME" ? "n1" : nil
        }
    }

    @Test func aMissingFileIsSaidWithItsMend() {
        #expect { try Self.source("/no/such.yaml").read() } throws: { error in
            "\(error)".contains("/no/such.yaml") && "\(error)".contains("--config-file")
        }
    }

    @Test func anErrorNamesFileAndLine() throws {
        let path = try Self.temporaryFile("modules:\n  edgeDNS:\n    listenPort: many\n")
        #expect { try Self.source(path).read() } throws: { "\($0)".contains("\(path):3:") }
    }

    @Test func manifestsNeedNeitherFileNorNodeName() throws {
        let source = ConfigSource(
            options: AgentOptions(configFile: "/no/such.yaml", isConfigFileRequired: false, manifestFolder: "/m")
        ) { _ in nil }
        let reading = try source.read()
        #expect(!reading.configuration.commonConfig.nodeName.isEmpty)
        #expect(reading.configuration.modules.edgeDNS.enable && reading.configuration.modules.edgeProxy.enable)
        #expect(!reading.configuration.followsAPI, "no API is contacted")
    }

    @Test func whatIsNotServedIsSaid() throws {
        let path = try Self.temporaryFile(
            "{commonConfig: {pprofConfig: {enableProfiling: true}}, modules: {edgeProxy: {enable: true}}}"
        )
        let warnings = try Self.source(path).read().warnings
        #expect(warnings.filter { $0.contains("pprofConfig") }.count == 1)
    }

    @Test func aReloadAppliesWhatItCanAndNamesTheRest() async throws {
        let path = try Self.temporaryFile("modules: {edgeDNS: {enable: true}}")
        let source = Self.source(path)
        let applied = Mutex(0)
        let reloader = ConfigReloader(source: source, started: try source.read(), logger: Logger(label: "test")) {
            new in
            applied.withLock { $0 = new.modules.edgeDNS.cacheSize }
        }
        try "modules: {edgeDNS: {enable: true, cacheSize: 7}, edgeCNI: {meshCIDRConfig: {cloudCIDR: [10.0.0.0/8]}}}"
            .write(toFile: path, atomically: true, encoding: .utf8)
        let outcome = await reloader.reload()
        #expect(outcome["applied"]?.array?.compactMap(\.string) == ["modules.edgeDNS.cacheSize"])
        #expect(outcome["restartNeeded"]?.array?.compactMap(\.string) == ["modules.edgeCNI.meshCIDRConfig.cloudCIDR"])
        #expect(applied.withLock { $0 } == 7)
    }

    @Test func aBrokenFileKeepsTheOldOneAndShowsInStatus() async throws {
        let path = try Self.temporaryFile("modules: {edgeDNS: {enable: true}}")
        let source = Self.source(path)
        let reloader = ConfigReloader(source: source, started: try source.read(), logger: Logger(label: "test")) { _ in
            Issue.record("a broken configuration must not be applied")
        }
        try "modules: [".write(toFile: path, atomically: true, encoding: .utf8)
        #expect(await reloader.reload()["error"]?.string?.contains(path) == true)
        #expect(await reloader.state.config["error"]?.string != nil)
        try "modules: {edgeDNS: {enable: true}}".write(toFile: path, atomically: true, encoding: .utf8)
        _ = await reloader.reload()
        #expect(await reloader.state.config["error"]?.isNull == true)
    }

    @Test func theFileIsSeenToChangeThroughSymbolicLinks() throws {
        let folder = "/tmp/edgemesh-links-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        for name in ["a", "b"] {
            try "modules: {}".write(toFile: "\(folder)/\(name)", atomically: false, encoding: .utf8)
        }
        try FileManager.default.createSymbolicLink(atPath: "\(folder)/agent.yaml", withDestinationPath: "a")
        let source = Self.source("\(folder)/agent.yaml")
        let before = source.fileIdentity
        #expect(before != nil && before == source.fileIdentity)
        try FileManager.default.removeItem(atPath: "\(folder)/agent.yaml")
        #expect(source.fileIdentity == nil)
        try FileManager.default.createSymbolicLink(atPath: "\(folder)/agent.yaml", withDestinationPath: "b")
        #expect(source.fileIdentity != before)
    }

    @Test func aSignalAndTheWatchDoNotReadOneChangeTwice() async throws {
        let path = try Self.temporaryFile("modules: {edgeDNS: {enable: true}}")
        let source = Self.source(path)
        let applied = Mutex(0)
        let reloader = ConfigReloader(source: source, started: try source.read(), logger: Logger(label: "test")) { _ in
            applied.withLock { $0 += 1 }
        }
        await reloader.reloadIfChanged()
        #expect(applied.withLock { $0 } == 0, "the file is as it was when the process started")
        try "modules: {edgeDNS: {enable: true, cacheSize: 7}}".write(toFile: path, atomically: true, encoding: .utf8)
        async let bySignal = reloader.reload()
        async let byWatch: Void = reloader.reloadIfChanged()
        _ = await (bySignal, byWatch)
        await reloader.reloadIfChanged()
        #expect(applied.withLock { $0 } == 1)
    }

    @Test func whatNeedsARestartStaysWhenALiveKeyChanges() {
        var started = AgentConfiguration()
        started.commonConfig.bridgeDeviceIP = .init(169, 254, 96, 16)
        var read = started
        read.commonConfig.bridgeDeviceIP = .init(169, 254, 96, 17)
        read.modules.edgeProxy.kernelBackend = .iptables
        read.modules.edgeDNS.listenPort = 5353
        read.modules.edgeProxy.loadBalancer.load = 2
        read.modules.edgeProxy.loadBalancer.partitionCount = 500
        let taken = started.takingLiveValues(of: read)
        #expect(taken.commonConfig == started.commonConfig)
        #expect(taken.modules.edgeProxy.kernelBackend == .auto)
        #expect(taken.dnsSettings.listenAddresses.map(\.description) == ["169.254.96.16:5353"])
        #expect(taken.catalogSettings.ringLoadFactor == 2)
        #expect(taken.catalogSettings.ringSize == 5_000)
    }
}
