import Glibc
import Multiformats
import Testing

@testable import PeerIdentity

@Suite struct IdentityFileTests {
    /// Calls `body` with a folder of its own.
    private func withFolder(_ body: (String) async throws -> Void) async throws {
        var template = Array("\(getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp")/identity-XXXXXX".utf8CString)
        let folder = try #require(mkdtemp(&template).map { String(cString: $0) })
        defer {
            for name in self.names(in: folder) { unlink("\(folder)/\(name)") }
            rmdir(folder)
        }
        try await body(folder)
    }

    private func names(in folder: String) -> [String] {
        guard let directory = opendir(folder) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    private func write(_ bytes: [UInt8], to path: String, mode: mode_t = 0o600) {
        let file = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode)
        #expect(Glibc.write(file, bytes, bytes.count) == bytes.count)
        fchmod(file, mode)
        close(file)
    }

    private func failure(_ path: String) -> PeerIdentityError? {
        do {
            _ = try KeyPair.loadOrCreate(path: path)
            return nil
        } catch {
            return error
        }
    }

    @Test func isMadeOnceAndReadAgain() async throws {
        try await self.withFolder { folder in
            let path = "\(folder)/identity.key"
            let pair = try KeyPair.loadOrCreate(path: path)
            var status = stat()
            #expect(stat(path, &status) == 0)
            #expect(status.st_mode & 0o7777 == 0o600)
            #expect(status.st_size == 68)
            #expect(try IdentityFile.read(path: path) == pair.privateKeyProtobuf)
            #expect(try KeyPair.loadOrCreate(path: path).peerID == pair.peerID)
            // Nothing else is left.
            #expect(self.names(in: folder) == ["identity.key"])
            // Another process that found no file does not replace it.
            #expect(try !IdentityFile.create(path: path, bytes: KeyPair.generate().privateKeyProtobuf))
            #expect(try KeyPair.loadOrCreate(path: path).peerID == pair.peerID)
            #expect(self.names(in: folder) == ["identity.key"])
        }
    }

    @Test func allWhoStartAtOnceAgree() async throws {
        try await self.withFolder { folder in
            for round in 0..<20 {
                let path = "\(folder)/\(round)"
                let peers = try await withThrowingTaskGroup(of: PeerID.self) { group in
                    for _ in 0..<8 { group.addTask { try KeyPair.loadOrCreate(path: path).peerID } }
                    return try await group.reduce(into: Set<PeerID>()) { $0.insert($1) }
                }
                #expect(peers.count == 1)
            }
            #expect(self.names(in: folder).count == 20)
        }
    }

    @Test func otherImplementationsFilesAreRead() async throws {
        try await self.withFolder { folder in
            self.write(KeyVectors.ed25519Private, to: "\(folder)/key", mode: 0o400)
            let pair = try KeyPair.loadOrCreate(path: "\(folder)/key")
            #expect(pair.publicKey.protobuf == KeyVectors.ed25519Public)
        }
    }

    @Test func aBadFileIsNamedAndKept() async throws {
        try await self.withFolder { folder in
            let path = "\(folder)/key"
            for bytes in [
                [], [1], Array(KeyVectors.ed25519Private.prefix(67)), KeyVectors.secp256k1Private,
                [UInt8](repeating: 8, count: 5000),
            ] {
                self.write(bytes, to: path)
                let error = try #require(self.failure(path))
                #expect(error.code == .identityFile)
                #expect(error.message.contains(path))
                if bytes.count <= IdentityFile.maximumLength { #expect(try IdentityFile.read(path: path) == bytes) }
            }
        }
    }

    @Test(arguments: [mode_t(0o644), 0o640, 0o604, 0o620, 0o666])
    func aFileOpenToOthersIsRefused(mode: mode_t) async throws {
        try await self.withFolder { folder in
            let path = "\(folder)/key"
            self.write(KeyVectors.ed25519Private, to: path, mode: mode)
            let error = try #require(self.failure(path))
            #expect(error.code == .identityFile)
            #expect(error.message.contains("chmod 600"))
            #expect(error.message.contains(String(mode, radix: 8)))
        }
    }

    @Test func whatIsNoFileIsRefused() async throws {
        try await self.withFolder { folder in
            #expect(mkfifo("\(folder)/pipe", 0o600) == 0)
            #expect(self.failure("\(folder)/pipe")?.message.contains("no regular file") == true)
            #expect(self.failure(folder)?.code == .identityFile)
            #expect(self.failure("\(folder)/missing/key")?.message.contains("folder") == true)
            #expect(self.failure("\(folder)/pipe/key")?.code == .identityFile)
        }
    }
}
