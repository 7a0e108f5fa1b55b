import Documents
import Glibc

/// What has to be removed of a lab, on disk before any of it exists, so that it can be removed by another process.
struct LabState: Sendable, Hashable {
    /// Variable in the environment of every process of a lab; its value is the lab's name.
    static let environmentMark = "EDGEMESH_LAB"
    static let root = "/run/edgemesh-lab"
    static let namespaceRoot = "/run/netns"
    /// Where an agent has its socket.
    static let runDirectory = "/run/edgemesh"

    var name: String
    /// The process that made it.
    var owner: Int32
    var namespaces: [String]

    /// Logs, manifests, sockets and state of the lab.
    var directory: String { "\(Self.root)/\(self.name)" }

    static func resolverConfiguration(of host: String, in directory: String) -> String {
        "\(directory)/\(host).resolv.conf"
    }

    static func runDirectory(of host: String, in directory: String) -> String { "\(directory)/\(host).run" }

    /// What processes of a host see in other places.
    func mounts(of host: String) -> [SpawnRequest.Mount] {
        [
            SpawnRequest.Mount(
                source: Self.resolverConfiguration(of: host, in: self.directory),
                target: "/etc/resolv.conf"
            ),
            SpawnRequest.Mount(source: Self.runDirectory(of: host, in: self.directory), target: Self.runDirectory),
        ].filter { Files.exists($0.source) }
    }

    static func path(of name: String) -> String { "\(Self.root)/\(name).json" }

    func save() throws(LabError) {
        let document: Document = [
            "name": .string(self.name), "owner": .integer(self.owner),
            "namespaces": .array(self.namespaces.map { Document.string($0) }),
        ]
        try Files.write(document.jsonText(pretty: true), to: Self.path(of: self.name))
    }

    /// The state of a lab; nil if there is none. What cannot be read is treated as a lab without namespaces: the names
    /// of namespaces tell whose they are anyway.
    static func load(_ name: String) -> LabState? {
        guard let bytes = try? Files.read(Self.path(of: name)) else { return nil }
        let document = try? Document.parseJSON(bytes, limits: .default)
        return LabState(
            name: name,
            owner: Int32(truncatingIfNeeded: document?["owner"]?.integer ?? 0),
            namespaces: document?["namespaces"]?.array?.compactMap(\.string) ?? []
        )
    }

    /// The labs that have left a state file.
    static var names: [String] {
        Files.names(in: Self.root).filter { $0.hasSuffix(".json") }.map { String($0.dropLast(5)) }
    }
}

/// Held by the process that runs a lab, released by the kernel when that process ends in whatever way.
struct LabLock: ~Copyable {
    private let path: String
    private let descriptor: Int32

    private init(path: String, descriptor: Int32) {
        self.path = path
        self.descriptor = descriptor
    }

    /// Takes the lock of a lab; nil if another process holds it.
    static func take(_ name: String) throws(LabError) -> LabLock? {
        try Files.makeDirectory(LabState.root)
        let path = "\(LabState.root)/\(name).lock"
        while true {
            let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
            guard descriptor >= 0 else { throw Files.error("open", path) }
            guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
                close(descriptor)
                return nil
            }
            // Whoever held it may have removed the file after we opened it: then what we locked is nobody's.
            var locked = stat()
            var present = stat()
            if fstat(descriptor, &locked) == 0, stat(path, &present) == 0, locked.st_ino == present.st_ino {
                return LabLock(path: path, descriptor: descriptor)
            }
            close(descriptor)
        }
    }

    deinit {
        unlink(self.path)
        close(self.descriptor)
    }
}
