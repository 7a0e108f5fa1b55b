import Glibc
public import KubeModel
public import Logging
import MeshCore

/// A folder of manifests (`*.yaml`, `*.yml`, `*.json`, not recursive) as a source of cluster objects: the way to run
/// without a cluster. Watched by inotify, and looked through now and then for what inotify cannot see.
public struct ManifestSource: ClusterObjectSource {
    public static let defaultRescanInterval = Duration.seconds(10)
    /// Editors and `kubectl` write in several steps; this long after the first sign of a change the folder is read.
    static let settleTime = Duration.milliseconds(50)

    private let folder: String
    private let readsCredentials: Bool
    private let rescanInterval: Duration
    private let logger: Logger

    /// - Parameter readsCredentials: Secrets and ConfigMaps are told of, too: to a sink that keeps them out of the catalog.
    public init(
        folder: String,
        logger: Logger,
        readsCredentials: Bool = false,
        rescanInterval: Duration = ManifestSource.defaultRescanInterval
    ) {
        self.folder = folder
        self.readsCredentials = readsCredentials
        self.rescanInterval = rescanInterval
        self.logger = logger
    }

    public func run(sink: @escaping @Sendable ([SourceEvent]) async -> Void) async throws {
        let (wakeups, continuation) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
        let rescans = Task { [rescanInterval] in
            while true {
                continuation.yield()
                try await Task.sleep(for: rescanInterval)
            }
        }
        defer { rescans.cancel() }
        var scanner = ManifestScanner(
            folder: self.folder,
            readsCredentials: self.readsCredentials,
            logger: self.logger
        )
        var watch: FolderWatch?
        for await _ in wakeups {
            if watch == nil || watch?.isCurrent == false {
                // Watching begins before reading, so that no change falls between the two.
                watch = FolderWatch(self.folder) { continuation.yield() }
            } else {
                try await Task.sleep(for: Self.settleTime)
            }
            let events = scanner.scan()
            if !events.isEmpty { await sink(events) }
        }
        try Task.checkCancellation()
    }
}

/// Reads the files of a folder that have changed.
struct ManifestScanner {
    static let maximumFiles = 4_096
    static let maximumFileSize = 16 << 20

    /// What tells a file from its former self. Symbolic links are followed, so that the swap of a ConfigMap's
    /// `..data` shows as another inode.
    private struct Signature: Hashable {
        var device: UInt64
        var inode: UInt64
        var size: Int64
        var seconds: Int
        var nanoseconds: Int
        var changeSeconds: Int
        var changeNanoseconds: Int

        init(_ status: stat) {
            self.device = UInt64(status.st_dev)
            self.inode = UInt64(status.st_ino)
            self.size = Int64(status.st_size)
            self.seconds = status.st_mtim.tv_sec
            self.nanoseconds = status.st_mtim.tv_nsec
            self.changeSeconds = status.st_ctim.tv_sec
            self.changeNanoseconds = status.st_ctim.tv_nsec
        }
    }

    private let folder: String
    private let logger: Logger
    private var signatures: [String: Signature] = [:]
    private var contents = ManifestFolder()
    private var toldStatus: SourceStatus?
    private var hasRead = false

    init(folder: String, readsCredentials: Bool = false, logger: Logger) {
        self.folder = folder
        self.contents.readsCredentials = readsCredentials
        self.logger = logger
    }

    /// What to tell the catalog; empty if nothing has changed.
    mutating func scan() -> [SourceEvent] {
        guard let names = self.fileNames() else {
            // An unreadable folder says nothing about its objects: they stay.
            let reason = systemReason()
            return self.status(
                SourceStatus(
                    state: self.hasRead ? .stale : .connecting,
                    origin: self.folder,
                    message: "cannot read the folder: \(reason); what is known stays in force until it can be read"
                )
            )
        }
        var status = SourceStatus(state: .synced, origin: self.folder)
        if names.count > Self.maximumFiles {
            status.message = "only the first \(Self.maximumFiles) of \(names.count) files are read"
        }
        let present = names.sorted().prefix(Self.maximumFiles)
        for name in Set(self.signatures.keys).subtracting(present) {
            self.signatures[name] = nil
            self.contents.remove(name)
        }
        for name in present { self.read(name) }
        self.hasRead = true
        let events = self.contents.events()
        let unclear = self.contents.unclear
        if let first = unclear.first {
            status.state = .stale
            status.message =
                "\(first)\(unclear.count > 1 ? " and \(unclear.count - 1) more" : "") cannot be understood: "
                + "what the last good state has of this folder stays in force until it can be"
        }
        for case .rejected(let rejection) in events {
            self.logger.warning("manifest rejected", metadata: ["reason": "\(rejection.reason)"])
        }
        return events + self.status(status)
    }

    private mutating func read(_ name: String) {
        let path = self.folder + "/" + name
        var status = stat()
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        defer { if descriptor >= 0 { close(descriptor) } }
        guard descriptor >= 0, fstat(descriptor, &status) == 0 else {
            let isGone = errno == ENOENT
            let reason = systemReason()
            self.signatures[name] = nil
            if isGone { self.contents.remove(name) } else { self.contents.fail(name, reason: reason) }
            return
        }
        let signature = Signature(status)
        guard self.signatures[name] != signature else { return }
        guard status.st_mode & S_IFMT == S_IFREG else {
            self.signatures[name] = signature
            self.contents.remove(name)
            return
        }
        guard status.st_size <= Self.maximumFileSize else {
            self.signatures[name] = signature
            self.contents.fail(name, reason: "larger than \(Self.maximumFileSize) bytes: split it")
            return
        }
        guard let bytes = self.bytes(of: descriptor) else {
            let reason = systemReason()
            self.signatures[name] = nil
            self.contents.fail(name, reason: reason)
            return
        }
        // A file that changed while it was read is read again with the next scan.
        var after = stat()
        self.signatures[name] = fstat(descriptor, &after) == 0 && Signature(after) == signature ? signature : nil
        self.contents.update(name, bytes: bytes)
    }

    /// Nil with `errno` on failure.
    private func bytes(of descriptor: Int32) -> [UInt8]? {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while bytes.count <= Self.maximumFileSize {
            let count = chunk.withUnsafeMutableBytes { Glibc.read(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { return nil }
            if count == 0 { return bytes }
            bytes += chunk[..<count]
        }
        errno = EFBIG
        return nil
    }

    /// The manifests of the folder; nil with `errno` if it cannot be read. Hidden files are those of editors and of the
    /// kubelet's atomic writer.
    private func fileNames() -> [String]? {
        guard let directory = opendir(self.folder) else { return nil }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard !name.hasPrefix("."), [".yaml", ".yml", ".json"].contains(where: name.hasSuffix) else { continue }
            names.append(name)
        }
        return names
    }

    private mutating func status(_ status: SourceStatus) -> [SourceEvent] {
        guard status != self.toldStatus else { return [] }
        self.toldStatus = status
        if let message = status.message {
            self.logger.warning("folder of manifests", metadata: ["folder": "\(self.folder)", "reason": "\(message)"])
        }
        return [.status(status)]
    }
}

/// The text for an error number.
func systemReason(_ number: Int32 = errno) -> String {
    strerror(number).map { String(cString: $0) } ?? "error \(number)"
}
