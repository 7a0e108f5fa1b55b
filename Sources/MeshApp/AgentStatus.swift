import Configuration
import Documents
import EdgeDNS
import Glibc
import HashTreeCollections
import KubeModel
import MeshCore
import ServiceCatalog

/// What the agent says of itself as a whole.
struct AgentStatus: Sendable {
    let configuration: AgentConfiguration
    let parts: AgentParts
    let reloader: ConfigReloader
    let started: MonotonicTime

    var document: Document {
        get async {
            let (config, warnings) = await self.reloader.state
            let freshness = self.parts.catalog.freshness
            return [
                "version": .string("v\(Version.number)"), "role": .string(self.configuration.role.rawValue),
                "node": .string(self.configuration.commonConfig.nodeName),
                "pid": .integer(getpid()),
                "uptimeSeconds": .integer(Int64((MonotonicTime.now() - self.started).inSeconds)),
                "mode": .string(self.configuration.kubeAPIConfig.mode.rawValue), "config": config,
                "state": .string(freshness.state.rawValue),
                "sources": .array(freshness.sources.map { self.describe($0) }),
                "catalogVersion": .integer(self.parts.catalog.snapshot.version),
                "nodes": .integer(self.parts.catalog.snapshot.nodes.count),
                "store": self.store,
                "modules": self.parts.board.document, "warnings": .array(warnings.map { .string($0) }),
            ]
        }
    }

    private func describe(_ source: CatalogFreshness.Source) -> Document {
        [
            "source": .string("\(source.source)"), "state": .string(source.status.state.rawValue),
            "origin": .string(source.status.origin), "message": source.status.message.map { .string($0) } ?? nil,
            "forSeconds": .integer(Int64(source.age.inSeconds)),
            "sinceSyncedSeconds": source.sinceSynced.map { .integer(Int64($0.inSeconds)) } ?? nil,
        ]
    }

    private var store: Document {
        let status = self.parts.store.status
        return [
            "path": .string(status.path), "loadedObjects": status.loadedObjects.map { .integer($0) } ?? nil,
            "savedObjects": status.savedObjects.map { .integer($0) } ?? nil,
            "savedSecondsAgo": status.lastSaved.map { .integer(Int64((MonotonicTime.now() - $0).inSeconds)) } ?? nil,
            "error": status.failure.map { .string("\($0)") } ?? nil,
        ]
    }

    /// What keeps the agent from serving, in words: modules that are not up, sockets that are missing, rules that are not
    /// in the kernel, and a catalog that never held anything.
    var notReady: [String] {
        get async {
            var missing = self.parts.board.notReady
            if self.parts.catalog.freshness.state == .connecting {
                missing.append("no source has been listed yet, and there is no last good state")
            }
            if let status = await self.parts.dns?.status() {
                for member in status["notListening"]?.members ?? [] {
                    missing.append("DNS does not listen on \(member.key): \(member.value.string ?? "")")
                }
            }
            if let kernel = await self.parts.proxy?.status()["kernel"], kernel["installed"]?.bool != true {
                missing.append("the service rules are not in the kernel: \(kernel["lastError"]?.string ?? "not yet")")
            }
            return missing
        }
    }
}
