import Glibc

extension KeyPair {
    /// The identity kept in the file at `path`, which is made with a new random one if there is none. The file holds the
    /// protobuf of the private key, as other implementations keep theirs. Blocks on the disk.
    ///
    /// Of several processes that start at once, all return the identity of the one whose file came to be.
    /// - Throws: `identityFile` if the file cannot be read or made, is open to others, or holds no key. A file that exists is
    ///   never written: peers know this host by what is in it.
    public static func loadOrCreate(path: String) throws(PeerIdentityError) -> KeyPair {
        if let pair = try Self.load(path: path) { return pair }
        let pair = KeyPair.generate()
        if try IdentityFile.create(path: path, bytes: pair.privateKeyProtobuf) { return pair }
        if let pair = try Self.load(path: path) { return pair }
        throw PeerIdentityError(
            code: .identityFile,
            message: "identity file \(path) came and went while it was read; look what else writes there"
        )
    }

    private static func load(path: String) throws(PeerIdentityError) -> KeyPair? {
        guard let bytes = try IdentityFile.read(path: path) else { return nil }
        do {
            return try KeyPair(privateKeyProtobuf: bytes)
        } catch {
            throw PeerIdentityError(
                code: .identityFile,
                message:
                    "identity file \(path) holds no Ed25519 private key; put its backup back, or remove it so that a new "
                    + "identity is made (peers will then know this host by another ID)",
                cause: error
            )
        }
    }
}

/// The system calls upon the file that keeps an identity.
enum IdentityFile {
    /// The most bytes that are read; a key has 68.
    static let maximumLength = 1024

    /// The bytes of the file, nil if there is none.
    static func read(path: String) throws(PeerIdentityError) -> [UInt8]? {
        // Not to hang on a pipe.
        let file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        if file < 0, errno == ENOENT { return nil }
        guard file >= 0 else { throw Self.failure(path, "cannot be opened", errno) }
        defer { close(file) }
        var status = stat()
        guard fstat(file, &status) == 0 else { throw Self.failure(path, "cannot be looked at", errno) }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw PeerIdentityError(code: .identityFile, message: "identity file \(path) is no regular file")
        }
        guard status.st_mode & 0o077 == 0 else {
            throw PeerIdentityError(
                code: .identityFile,
                message:
                    "identity file \(path) is open to others (mode \(String(status.st_mode & 0o777, radix: 8))): chmod 600 "
                    + "it, or remove it so that a new identity is made if others may have read it"
            )
        }
        var bytes = [UInt8](repeating: 0, count: Self.maximumLength + 1)
        var count = 0
        while count < bytes.count {
            let result = bytes.withUnsafeMutableBytes { buffer in
                Glibc.read(file, buffer.baseAddress?.advanced(by: count), buffer.count - count)
            }
            if result < 0, errno == EINTR { continue }
            guard result >= 0 else { throw Self.failure(path, "cannot be read", errno) }
            if result == 0 { break }
            count += result
        }
        guard count <= Self.maximumLength else {
            throw PeerIdentityError(
                code: .identityFile,
                message: "identity file \(path) is longer than any key: \(status.st_size) bytes"
            )
        }
        return Array(bytes[..<count])
    }

    /// Makes the file at once and whole, for its owner only.
    /// - Returns: false if there is one already, which stays as it is.
    static func create(path: String, bytes: [UInt8]) throws(PeerIdentityError) -> Bool {
        let temporary = "\(path).\(UInt64.random(in: 0...UInt64.max))"
        let file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw Self.failure(path, "cannot be made; does its folder exist?", errno) }
        defer { unlink(temporary) }
        // One write of 68 bytes to a regular file is whole or fails.
        let written = bytes.withUnsafeBytes { write(file, $0.baseAddress, $0.count) }
        let writeError = errno
        let synchronized = fsync(file) == 0
        let synchronizeError = errno
        close(file)
        guard written == bytes.count else { throw Self.failure(path, "cannot be written", writeError) }
        guard synchronized else { throw Self.failure(path, "cannot be written", synchronizeError) }
        // Unlike a rename, a link does not replace what another process has put there.
        guard link(temporary, path) == 0 else {
            if errno == EEXIST { return false }
            throw Self.failure(path, "cannot be made", errno)
        }
        try Self.synchronizeFolder(of: path)
        return true
    }

    /// Makes the new name last over a power failure.
    private static func synchronizeFolder(of path: String) throws(PeerIdentityError) {
        let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
        let file = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard file >= 0 else { throw Self.failure(path, "has a folder that cannot be opened", errno) }
        defer { close(file) }
        guard fsync(file) == 0 else { throw Self.failure(path, "has a folder that cannot be written", errno) }
    }

    private static func failure(_ path: String, _ what: String, _ error: CInt) -> PeerIdentityError {
        PeerIdentityError(
            code: .identityFile,
            message: "identity file \(path) \(what): \(strerror(error).map { String(cString: $0) } ?? "error \(error)")"
        )
    }
}
