import Documents
import Glibc
import HashTreeCollections
import KubeModel
import MeshCore

/// Why the last good state could not be read or written.
public struct OfflineStoreError: Error, Sendable, Hashable, CustomStringConvertible {
    public enum Code: String, Sendable, Hashable {
        /// The file system refused: `message` has its reason.
        case system
        /// The file is truncated or damaged.
        case corrupt
        /// The file is of another program or version.
        case foreign
    }

    public var code: Code
    public var message: String
    /// The error number of the system call; zero if it was none.
    public var errorNumber: Int32 = 0

    public var description: String { self.message }

    static func system(_ doing: String, _ path: String) -> OfflineStoreError {
        let number = errno
        return OfflineStoreError(
            code: .system,
            message: "\(doing) \(path): \(systemReason(number))",
            errorNumber: number
        )
    }
}

/// The file of the last good state: JSON lines, so that both ways need the memory of one object only.
///
///     {"format":"edgemesh-catalog","version":1,"savedAt":1700000000}
///     {"apiVersion":"v1","kind":"Service",...,"source":"manifests"}
///     {"objects":1,"checksum":"0123456789abcdef"}
///
/// Objects without a `source` came from the API. The checksum is xxHash64 of each line before the last, seeded with that of the line before it.
enum StoreFile {
    static let version: Int64 = 1
    static let maximumFileSize = 1 << 30
    /// An object of the API server is at most 1.5 MB.
    static let maximumLineLength = 4 << 20
    /// Objects given to the catalog at once.
    static let batchSize = 500
    private static let format = "edgemesh-catalog"
    private static let sourceKey = "source"
    private static let manifests = "manifests"
    private static let trailerStart = Array("{\"objects\":".utf8)

    struct Summary: Hashable {
        var objects = 0
        var bytes = 0
        /// Seconds since 1970.
        var savedAt: Int64 = 0
    }

    // MARK: Writing

    /// Writes beside `path` and renames, so that a crash leaves the old file or the new one.
    static func write(
        _ snapshot: CatalogSnapshot,
        to path: String,
        in directory: String,
        savedAt: Int64
    ) throws(OfflineStoreError) -> Summary {
        let temporary = path + ".new"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw .system("cannot create", temporary) }
        do throws(OfflineStoreError) {
            var writer = LineWriter(descriptor: descriptor, path: temporary)
            try writer.write([
                "format": .string(self.format), "version": .integer(self.version), "savedAt": .integer(savedAt),
            ])
            var objects = 0
            for (object, origin) in self.objects(of: snapshot) {
                var document = object.document
                if origin == .manifests { document = Self.marked(document) }
                try writer.write(document)
                objects += 1
            }
            try writer.finish(objects: objects)
            guard fsync(descriptor) == 0 else { throw .system("cannot write", temporary) }
            guard rename(temporary, path) == 0 else { throw .system("cannot rename to", path) }
            close(descriptor)
            try self.syncDirectory(directory)
            return Summary(objects: objects, bytes: writer.written, savedAt: savedAt)
        } catch {
            close(descriptor)
            unlink(temporary)
            throw error
        }
    }

    /// Manifests too, though they are files already: their folder may be gone, or not be given, at the next start.
    private static func objects(of snapshot: CatalogSnapshot) -> some Sequence<(ClusterObject, ObjectSource)> {
        func origin(_ kind: ObjectKind, _ name: ObjectName) -> ObjectSource {
            snapshot.fromManifests.contains(ObjectKey(kind: kind, name: name)) ? .manifests : .api
        }
        let services = snapshot.services.values.lazy.flatMap { service in
            let origin = origin(.service, service.name)
            let slices = service.groups.enumerated().map { index, group in
                let name = ObjectName(namespace: service.name.namespace, name: "\(service.name.name)-\(index)")
                return EndpointSliceObject(name: name, serviceName: service.name.name, group: group)
            }
            return [(ClusterObject.service(service.object), origin)] + slices.map { (.endpointSlice($0), origin) }
                + Self.pods(of: service, snapshot).map { (.pod($0), origin) }
        }
        let namespaces = snapshot.namespaces.map { name in
            var namespace = NamespaceObject(name: name)
            namespace.labels = snapshot.namespaceLabels[name] ?? [:]
            return ClusterObject.namespace(namespace)
        }
        let others =
            snapshot.nodes.values.map { ClusterObject.node($0) }
            + snapshot.destinationRules.values.map { ClusterObject.destinationRule($0) }
            + snapshot.gatewayResources.values.map { ClusterObject.gateway($0) }
        return [
            AnySequence(namespaces.map { ($0, ObjectSource.api) }),
            AnySequence(others.map { ($0, origin($0.kind, $0.name)) }), AnySequence(services),
        ].lazy.joined()
    }

    /// What its subsets are made of: names and labels.
    private static func pods(of service: Service, _ snapshot: CatalogSnapshot) -> [PodObject] {
        guard !service.subsets.isEmpty else { return [] }
        let names = Set(service.groups.lazy.flatMap(\.endpoints).compactMap(\.podName))
        return names.sorted().compactMap { name in
            var pod = PodObject(name: ObjectName(namespace: service.name.namespace, name: name))
            guard let labels = snapshot.podLabels[pod.name] else { return nil }
            pod.labels = labels
            return pod
        }
    }

    private static func marked(_ object: Document) -> Document {
        .object((object.members ?? []) + [.init(self.sourceKey, .string(self.manifests))])
    }

    private static func syncDirectory(_ directory: String) throws(OfflineStoreError) {
        let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system("cannot open", directory) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw .system("cannot write", directory) }
    }

    private struct LineWriter {
        private static let bufferSize = 64 << 10
        let descriptor: Int32
        let path: String
        private(set) var written = 0
        private var buffer: [UInt8] = []
        private var checksum: UInt64 = 0

        init(descriptor: Int32, path: String) {
            self.descriptor = descriptor
            self.path = path
            self.buffer.reserveCapacity(Self.bufferSize)
        }

        mutating func write(_ document: Document) throws(OfflineStoreError) {
            let line = document.jsonBytes()
            self.checksum = XXHash64.hash(line, seed: self.checksum)
            self.buffer += line
            self.buffer.append(UInt8(ascii: "\n"))
            if self.buffer.count >= Self.bufferSize { try self.flush() }
        }

        mutating func finish(objects: Int) throws(OfflineStoreError) {
            let checksum = self.checksum
            try self.write(["objects": .integer(objects), "checksum": .string(hexadecimal(checksum))])
            try self.flush()
        }

        private mutating func flush() throws(OfflineStoreError) {
            var offset = 0
            while offset < self.buffer.count {
                let count = self.buffer.withUnsafeBytes {
                    Glibc.write(self.descriptor, $0.baseAddress.map { $0 + offset }, $0.count - offset)
                }
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { throw .system("cannot write", self.path) }
                offset += count
            }
            self.written += offset
            self.buffer.removeAll(keepingCapacity: true)
        }
    }

    // MARK: Reading

    /// Gives the objects of a file to `receive` in batches, with the source that they came from; nothing of it unless the
    /// whole file is sound. Nil if there is no file.
    static func read(
        _ path: String,
        receive: ([SourceEvent], ObjectSource) -> Void
    ) throws(OfflineStoreError) -> Summary? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw .system("cannot open", path)
        }
        defer { close(descriptor) }
        let summary = try self.verify(descriptor, path)
        guard lseek(descriptor, 0, SEEK_SET) == 0 else { throw .system("cannot read", path) }
        var reader = LineReader(descriptor: descriptor, path: path)
        _ = try reader.next()
        var pending: [ObjectSource: [SourceEvent]] = [:]
        for _ in 0..<summary.objects {
            guard let line = try reader.next() else { throw self.corrupt(path, "it changed while it was read") }
            guard let document = try? Document.parseJSON(line) else { continue }
            let origin = document[self.sourceKey]?.string == self.manifests ? ObjectSource.manifests : .api
            pending[origin, default: []] += self.events(document)
            if let events = pending[origin], events.count >= self.batchSize {
                receive(events, origin)
                pending[origin] = nil
            }
        }
        for (origin, events) in pending where !events.isEmpty { receive(events, origin) }
        return summary
    }

    /// An object that this version cannot read is rejected; the others still serve.
    private static func events(_ document: Document) -> [SourceEvent] {
        ClusterObject.decodeEach(document).compactMap { result in
            switch result {
            case .success(let object): .upsert(object)
            case .failure(let error): error.rejectedObject.map { .rejected($0) }
            }
        }
    }

    private static func verify(_ descriptor: Int32, _ path: String) throws(OfflineStoreError) -> Summary {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw .system("cannot read", path) }
        guard status.st_mode & S_IFMT == S_IFREG, status.st_size <= Self.maximumFileSize else {
            throw self.corrupt(path, "it is no regular file of at most \(self.maximumFileSize) bytes")
        }
        var reader = LineReader(descriptor: descriptor, path: path)
        guard let header = try reader.next(), let document = try? Document.parseJSON(header),
            document["format"]?.string == self.format
        else {
            throw OfflineStoreError(code: .foreign, message: "\(path) does not begin as a file of the last good state")
        }
        guard let version = document["version"]?.integer, version == self.version else {
            let found = document["version"].map { $0.jsonText() } ?? "none"
            throw OfflineStoreError(
                code: .foreign,
                message: "\(path) has version \(found.prefix(20)); this program reads \(self.version)"
            )
        }
        var summary = Summary(bytes: Int(status.st_size), savedAt: document["savedAt"]?.integer ?? 0)
        var checksum = XXHash64.hash(header)
        while let line = try reader.next() {
            guard line.starts(with: self.trailerStart) else {
                checksum = XXHash64.hash(line, seed: checksum)
                summary.objects += 1
                continue
            }
            guard let trailer = try? Document.parseJSON(line), trailer["objects"]?.integer == Int64(summary.objects),
                trailer["checksum"]?.string == hexadecimal(checksum)
            else { throw self.corrupt(path, "its checksum or count of objects does not fit") }
            guard try reader.next() == nil else { throw self.corrupt(path, "it goes on after its end") }
            return summary
        }
        throw self.corrupt(path, "its end is missing")
    }

    private static func corrupt(_ path: String, _ reason: String) -> OfflineStoreError {
        OfflineStoreError(code: .corrupt, message: "\(path) is damaged: \(reason)")
    }

    private struct LineReader {
        private static let chunkSize = 64 << 10
        let descriptor: Int32
        let path: String
        private var buffer: [UInt8] = []
        private var position = 0

        init(descriptor: Int32, path: String) {
            self.descriptor = descriptor
            self.path = path
        }

        /// The next line without its newline; nil at the end. A last line without a newline is damage.
        mutating func next() throws(OfflineStoreError) -> [UInt8]? {
            var searched = self.position
            while true {
                if let end = self.buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) {
                    defer { self.position = end + 1 }
                    return Array(self.buffer[self.position..<end])
                }
                searched = self.buffer.count
                guard self.buffer.count - self.position <= StoreFile.maximumLineLength else {
                    throw StoreFile.corrupt(self.path, "a line is longer than \(StoreFile.maximumLineLength) bytes")
                }
                searched -= self.position
                self.buffer.removeFirst(self.position)
                self.position = 0
                var chunk = [UInt8](repeating: 0, count: Self.chunkSize)
                let count = chunk.withUnsafeMutableBytes { Glibc.read(self.descriptor, $0.baseAddress, $0.count) }
                if count < 0, errno == EINTR { continue }
                guard count >= 0 else { throw .system("cannot read", self.path) }
                if count == 0 {
                    guard self.buffer.isEmpty else { throw StoreFile.corrupt(self.path, "its last line is cut off") }
                    return nil
                }
                self.buffer += chunk[..<count]
            }
        }
    }

    private static func hexadecimal(_ number: UInt64) -> String {
        let digits = String(number, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}
