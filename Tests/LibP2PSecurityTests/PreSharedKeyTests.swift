import LibP2PSecurity
import Multiformats
import Testing

@Suite struct PreSharedKeyTests {
    /// Facts 2.3, measured on the original.
    @Test(arguments: [
        (
            "JugH9HP1XBouyO5pWGeZa8LtipDURrf17EJvUHcJGuQ=",
            "ef4d5fdb6d1b75ad1b7bc79a7b7f5e69ed77ddfdf8ddee3579de5bf35d1b7bdd"
        ),
        ("edgemesh e2e test", "69bdbcf77e376b9efdf37e78e7ce1d7fdd3ae397dedfbe3bf75e7a71c778e77f"),
        ("123456", "f1df7af5e79fe9e71a777736f5addaeb6f76f347baf3a71fd1cddfe5de5af3a6"),
    ])
    func asTheOriginalDerivesIt(_ file: String, _ key: String) {
        #expect(PreSharedKey(originalFileBytes: file.utf8).bytes == hex(key))
        #expect(PreSharedKey(originalFileBytes: (file + "\n").utf8).bytes != hex(key))
    }

    @Test func swarmKeys() throws {
        let key = (0..<32).map { UInt8($0 * 7) }
        let base16 = key.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        for text in [
            "/key/swarm/psk/1.0.0/\n/base16/\n\(base16)",
            "/key/swarm/psk/1.0.0/\r\n/base16/ \r\n\(base16.uppercased())\r\n",
            "/key/swarm/psk/1.0.0/\n/base64/\n\(Base64.encode(key))\n",
        ] {
            #expect(try PreSharedKey(swarmKey: text).bytes == key)
        }
    }

    @Test(arguments: [
        "", "/key/swarm/psk/1.0.0/\n/base16/", "/key/swarm/psk/2.0.0/\n/base16/\n00", "/key/swarm/psk/1.0.0/\n/bin/\nx",
        "/key/swarm/psk/1.0.0/\n/base16/\n0g", "/key/swarm/psk/1.0.0/\n/base16/\n000",
        "/key/swarm/psk/1.0.0/\n/base16/\n+1+1", "/key/swarm/psk/1.0.0/\n/base64/\nAAAA",
    ])
    func badSwarmKeysAreNamed(_ text: String) {
        do {
            _ = try PreSharedKey(swarmKey: text)
            Issue.record("accepted")
        } catch {
            #expect(error.code == .malformed)
            #expect(error.message.hasPrefix("the swarm key "))
        }
    }
}
