import Glibc

/// Small synchronous file operations with errors that name the path.
enum Files {
    static func read(_ path: String, limit: Int = 16 << 20) throws(LabError) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Self.error("read", path) }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        while bytes.count < limit {
            let count = withChunk { chunk in
                let count = Glibc.read(descriptor, chunk.baseAddress, chunk.count)
                if count > 0 { bytes.append(contentsOf: chunk[..<count]) }
                return count
            }
            if count < 0 {
                if errno == EINTR { continue }
                throw Self.error("read", path)
            }
            if count == 0 { break }
        }
        return bytes
    }

    static func readText(_ path: String) throws(LabError) -> String {
        String(decoding: try Self.read(path), as: UTF8.self)
    }

    /// Writes the whole file under another name first, so that a reader sees the old one or the new one.
    static func write(_ text: String, to path: String, mode: mode_t = 0o644) throws(LabError) {
        let temporary = path + ".new"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)
        guard descriptor >= 0 else { throw Self.error("write", temporary) }
        var remaining = Array(text.utf8)[...]
        while !remaining.isEmpty {
            let count = remaining.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0 {
                if errno == EINTR { continue }
                let error = Self.error("write", temporary)
                close(descriptor)
                throw error
            }
            remaining = remaining.dropFirst(count)
        }
        close(descriptor)
        guard rename(temporary, path) == 0 else { throw Self.error("rename to", path) }
    }

    static func makeDirectory(_ path: String, mode: mode_t = 0o755) throws(LabError) {
        guard mkdir(path, mode) == 0 || errno == EEXIST else { throw Self.error("make directory", path) }
    }

    /// The names in a directory, sorted; empty if there is no such directory.
    static func names(in directory: String) -> [String] {
        guard let stream = opendir(directory) else { return [] }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Removes a file or a directory with all that is in it, without following links. Missing ones are fine.
    static func removeTree(_ path: String) {
        if unlink(path) == 0 || errno == ENOENT { return }
        for name in Self.names(in: path) { Self.removeTree("\(path)/\(name)") }
        rmdir(path)
    }

    static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    static func error(_ action: String, _ path: String) -> LabError {
        LabError(.file, "cannot \(action) \(path)", cause: describe(errno: errno))
    }

    private static func withChunk<Result>(_ body: (UnsafeMutableRawBufferPointer) -> Result) -> Result {
        withUnsafeTemporaryAllocation(byteCount: 64 << 10, alignment: 16) { body($0) }
    }
}

func describe(errno number: Int32) -> String {
    String(cString: strerror(number))
}
