import MeshCore
import Testing

@testable import Multiformats

@Suite struct MultiaddrTests {
    static let peer = "12D3KooWB5qVCMrMNLpBDfMu6o4dy6ci2UqDVsFVomcd2PfYVzfW"
    static let other = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC"

    /// Binary forms as go-multiaddr and the table of protocols give them.
    @Test(arguments: [
        ("/ip4/127.0.0.1/udp/1234", "047f000001 910204d2"),
        ("/ip4/127.0.0.1/tcp/4321", "047f000001 0610e1"),
        ("/ip4/127.0.0.1/udp/1234/ip4/127.0.0.1/tcp/4321", "047f000001 910204d2 047f000001 0610e1"),
        ("/ip6/2001:8a0:7ac5:4201:3ac9:86ff:fe31:7095/tcp/8000", "29200108a07ac542013ac986fffe317095 061f40"),
        ("/ip6zone/x/ip6/fe80::1", "2a0178 29fe800000000000000000000000000001"),
        ("/ip4/1.2.3.4/udp/20006/quic", "0401020304 91024e26 cc03"),
        ("/ip4/1.2.3.4/udp/20006/quic-v1", "0401020304 91024e26 cd03"),
        ("/dns4/a.bc/tcp/443/wss", "3604612e6263 0601bb de03"),
        ("/dns6/a.bc/tcp/443/tls/sni/a.bc/ws", "3704612e6263 0601bb c003 c10304612e6263 dd03"),
        ("/dns/a.bc", "3504612e6263"), ("/dnsaddr/a.bc", "3804612e6263"), ("/tcp/0/http", "060000 e003"),
        ("/udp/1/webrtc-direct", "91020001 9802"), ("/unix/a/b/c", "90030 6 2f612f622f63"), ("/p2p-circuit", "a202"),
        (
            "/p2p/QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC",
            "a503221220d52ebb89d85b02a284948203a62ff28389c57c9f42beec4ec20db76a68911c0b"
        ),
        (
            "/ip4/127.0.0.1/udp/1234/quic-v1/webtransport/certhash/uEiDDq4_xNyDorZBH3TlGazyJdOWSwvo4PUo5YHFMrvDE8g",
            "047f000001 910204d2 cd03 d103 d203221220c3ab8ff13720e8ad9047dd39466b3c8974e592c2fa383d4a3960714caef0c4f2"
        ),
    ])
    func readsAndWritesBothForms(text: String, binary: String) throws {
        let address = try Multiaddr(text)
        #expect(address.bytes == hex(binary))
        #expect(address.description == text)
        #expect(try Multiaddr(bytes: hex(binary)) == address)
        // Cut anywhere, it is refused or is the whole components before the cut.
        for count in 0..<hex(binary).count {
            guard let part = try? Multiaddr(bytes: hex(binary).prefix(count)) else { continue }
            #expect(part.bytes.elementsEqual(hex(binary).prefix(count)))
            #expect(part.components.count < address.components.count)
        }
    }

    @Test(arguments: [
        ("/ip4/127.0.0.1/tcp/1234/", "/ip4/127.0.0.1/tcp/1234"), ("/tcp/00080", "/tcp/80"),
        ("/ip6/2001:DB8:0:0:0:0:0:1", "/ip6/2001:db8::1"), ("/ip6/::ffff:7f00:1", "/ip6/::ffff:127.0.0.1"),
        ("/ipfs/\(Self.other)/tcp/1234", "/p2p/\(Self.other)/tcp/1234"),
        ("/p2p/k2k4r8oqamigqdo6o7hsbfwd45y70oyynp98usk7zmyfrzpqxh1pohl7", "/p2p/\(Self.other)"),
        ("/p2p/bafzbeigvf25ytwc3akrijfecaotc74udrhcxzh2cx3we5qqnw5vgrei4bm", "/p2p/\(Self.other)"),
        ("/certhash/b2uaraocy6yrdblb4sfptaddgimjmmpy", "/certhash/u1QEQOFj2IjCsPJFfMAxmQxLGPw"),
    ])
    func writesTheCanonicalForm(text: String, canonical: String) throws {
        #expect(try Multiaddr(text).description == canonical)
        #expect(try Multiaddr(text) == Multiaddr(canonical))
    }

    /// The failures of go-multiaddr's tests as far as its protocols are known here, and more.
    @Test(arguments: [
        "", "/", "//", "ip4/1.2.3.4", "/ip4", "/ip4/", "/ip4/::1", "/ip4/fdpsofodsajfdoisa", "/ip4/1.2.3.4.5",
        "/ip4/01.2.3.4", "/ip6",
        "/ip6/1.2.3.4", "/ip6/fe80::1%eth0", "/ip6zone", "/ip6zone/", "/ip6zone//ip6/fe80::1", "/udp", "/tcp",
        "/udp/65536",
        "/tcp/65536", "/tcp/-1", "/tcp/-0", "/tcp/+1", "/tcp/0x1", "/tcp/1 ", "/tcp/ 1", "/tcp/٣", "/quic/65536",
        "/quic-v1/65536",
        "/ip4/127.0.0.1/udp/jfodsajfidosajfoidsa", "/ip4/127.0.0.1/udp", "/ip4/127.0.0.1//tcp/1",
        "/ip4/127.0.0.1/quic/1234", "/ip4/127.0.0.1/udp/1234/quic-v1/webtransport/certhash",
        "/ip4/127.0.0.1/udp/1234/quic-v1/webtransport/certhash/b2uaraocy6yrdblb4sfptaddgimjmmp",
        "/ip4/127.0.0.1/ipfs", "/ip4/127.0.0.1/ipfs/tcp", "/ip4/127.0.0.1/p2p", "/ip4/127.0.0.1/p2p/tcp", "/unix",
        "/unix/",
        "/ip4/1.2.3.4/tcp/80/unix", "/p2p/QmxoHT6iViN5xAjoz1VZ553cL31U9F94ht3QvWR1FrEbZY", "/p2p/?unknownmultibase",
        "/p2p/k2jmtxwoe2phm1hbqp0e7nufqf6umvuu2e9qd7ana7h411a0haqj6i2z", "/sni//sni/0", "/dns/", "/dns/a b", "/dns/a\n",
        "/dns/\u{301}a", "/dns/\u{e9}", "/\u{301}dns/a", "/unix/a\nb", "/memory/4", "/onion/timaq4ygg2iegci7:80",
        "/IP4/1.2.3.4",
    ])
    func refusesBadText(text: String) {
        #expect(throws: MultiformatsError.self) { try Multiaddr(text) }
    }

    @Test(arguments: [
        "", "84e0ff00", "8400", "04", "04010203", "9002 00", "9003 06 303030303030", "9003 03 2f612f",
        "9003 02 2f61 0600 01",
        "d20300", "3700", "350161 35", "3503 612f62", "3502 c328", "a503 0130", "a503 03 003001", "a503 00", "8101",
        "a503 03 1234", "ffffffffffffffffffff", "3580808080808080808001", "35ffffffffffffffff7f",
    ])
    func refusesBadBytes(binary: String) {
        #expect(throws: MultiformatsError.self) { try Multiaddr(bytes: hex(binary)) }
    }

    @Test func unknownProtocolsAreToldApart() {
        #expect(code { () throws(MultiformatsError) in _ = try Multiaddr("/memory/4") } == .unsupported)
        #expect(
            code { () throws(MultiformatsError) in _ = try Multiaddr(bytes: hex("89060000000000000004")) }
                == .unsupported
        )
        #expect(code { () throws(MultiformatsError) in _ = try Multiaddr("/tcp/x") } == .malformed)
    }

    @Test func boundsAreKept() throws {
        let many = String(repeating: "/tls", count: Multiaddr.maximumComponents)
        #expect(try Multiaddr(many).components.count == Multiaddr.maximumComponents)
        #expect(code { () throws(MultiformatsError) in _ = try Multiaddr(many + "/ws") } == .tooLong)
        let bytes = try Multiaddr(many).bytes
        #expect(throws: Never.self) { try Multiaddr(bytes: bytes) }
        #expect(code { () throws(MultiformatsError) in _ = try Multiaddr(bytes: bytes + [0xDD, 0x03]) } == .tooLong)
        let long = "/dns/" + String(repeating: "a", count: 253)
        #expect(throws: Never.self) { try Multiaddr(long) }
        #expect(code { () throws(MultiformatsError) in _ = try Multiaddr(long + "a") } == .malformed)
        // Four names of 256 bytes each fill the 1024.
        #expect(try Multiaddr(String(repeating: long, count: 4)).bytes.count == 1024)
        #expect(
            code { () throws(MultiformatsError) in _ = try Multiaddr(String(repeating: long, count: 4) + "/tls") }
                == .tooLong
        )
        #expect(
            code { () throws(MultiformatsError) in _ = try Multiaddr(String(repeating: long, count: 8)) } == .tooLong
        )
        #expect(
            code { () throws(MultiformatsError) in _ = try Multiaddr(bytes: [UInt8](repeating: 0xDD, count: 1025)) }
                == .tooLong
        )
    }

    @Test func partsOfADirectAddress() throws {
        let address = try Multiaddr("/ip4/192.0.2.1/tcp/20006/ws/p2p/\(Self.peer)")
        #expect(try address.peerID == PeerID(Self.peer))
        #expect(address.withoutPeerID.description == "/ip4/192.0.2.1/tcp/20006/ws")
        #expect(address.withoutPeerID.peerID == nil)
        #expect(address.withoutPeerID.withoutPeerID == address.withoutPeerID)
        #expect(address.ipAddress?.description == "192.0.2.1")
        #expect(address.port == 20006)
        #expect(!address.isCircuit)
        #expect(address.relay == nil)
        #expect(try Multiaddr("/ip6zone/eth0/ip6/fe80::1/udp/1").ipAddress?.description == "fe80::1")
        #expect(try Multiaddr("/dns4/a.b/tcp/1").ipAddress == nil)
        #expect(try Multiaddr("/dns4/a.b/tcp/1").hostName == "a.b")
        #expect(try address.withoutPeerID.appending(.p2p(PeerID(Self.peer))) == address)
    }

    @Test func partsOfACircuitAddress() throws {
        let relay = try Multiaddr("/ip4/192.0.2.1/tcp/20006/p2p/\(Self.other)")
        let address = relay.encapsulating(try Multiaddr("/p2p-circuit/p2p/\(Self.peer)"))
        #expect(address.isCircuit)
        #expect(address.relay?.address == relay)
        #expect(try address.relay?.target == PeerID(Self.peer))
        #expect(try address.peerID == PeerID(Self.peer))
        #expect(address.withoutPeerID == relay.appending(.circuit))
        #expect(address.withoutPeerID.relay?.address == relay)
        #expect(address.withoutPeerID.relay?.target == nil)
        #expect(address.port == 20006)
        let bare = try Multiaddr("/p2p/\(Self.other)/p2p-circuit/p2p/\(Self.peer)")
        #expect(bare.ipAddress == nil)
        #expect(bare.port == nil)
        #expect(bare.relay?.address.description == "/p2p/\(Self.other)")
        #expect(try Multiaddr("/p2p-circuit/ip4/1.2.3.4/tcp/1").port == nil)
        #expect(Multiaddr([]).description == "/")
    }

    /// What the original announces: QUIC of draft 29, which is not version 1.
    @Test func draft29IsNotVersion1() throws {
        #expect(try Multiaddr("/ip4/1.2.3.4/udp/1/quic") != Multiaddr("/ip4/1.2.3.4/udp/1/quic-v1"))
        #expect(try Multiaddr("/ip4/1.2.3.4/udp/1/quic").components.last == .quic)
    }

    @Test(arguments: [
        ("/ip4/127.0.0.1/tcp/1", AddressReach.loopback), ("/ip4/127.255.0.1", .loopback), ("/ip6/::1", .loopback),
        ("/ip4/10.0.0.1", .private), ("/ip4/172.16.0.1", .private), ("/ip4/172.31.255.255", .private),
        ("/ip4/172.32.0.1", .public),
        ("/ip4/172.15.0.1", .public), ("/ip4/192.168.1.1/tcp/80", .private), ("/ip4/192.169.1.1", .public),
        ("/ip4/100.63.255.255", .public), ("/ip4/100.64.0.1", .private), ("/ip4/100.127.255.255", .private),
        ("/ip4/100.128.0.0", .public), ("/ip4/169.254.96.16", .linkLocal), ("/ip4/1.1.1.1/tcp/80", .public),
        ("/ip4/0.0.0.0", .none), ("/ip4/192.0.2.1", .none), ("/ip4/198.18.0.1", .none), ("/ip4/198.19.255.1", .none),
        ("/ip4/198.20.0.1", .public), ("/ip4/203.0.113.1", .none), ("/ip4/224.0.0.251", .none),
        ("/ip4/255.255.255.255", .none), ("/ip4/240.0.0.1", .none), ("/ip4/223.255.255.255", .public),
        ("/ip6/fe80::1", .linkLocal), ("/ip6zone/eth0/ip6/fe80::1", .linkLocal), ("/ip6/febf::1", .linkLocal),
        ("/ip6/fec0::1", .none), ("/ip6/fc00::1", .private), ("/ip6/fdff::1", .private), ("/ip6/fe00::1", .none),
        ("/ip6/2400::1/tcp/10", .public), ("/ip6/2001:db8::42/tcp/10", .none), ("/ip6/2001:db9::1", .public),
        ("/ip6/64:ff9b::1.1.1.1/tcp/10", .public), ("/ip6/64:ff9b:1::1", .public), ("/ip6/64:ff9c::1", .none),
        ("/ip6/::", .none), ("/ip6/ff02::1", .none), ("/ip6/::ffff:10.0.0.1", .private),
        ("/ip6/::ffff:1.1.1.1", .public),
    ])
    func reach(text: String, reach: AddressReach) throws {
        let address = try Multiaddr(text)
        #expect(address.ipAddress?.reach == reach)
        #expect(address.isPublic == (reach == .public))
        #expect(address.isPrivate == (reach == .private))
        #expect(address.isLoopback == (reach == .loopback))
        #expect(address.isLinkLocal == (reach == .linkLocal))
    }

    @Test(arguments: [
        ("/dns/node.libp2p.io/udp/1/quic-v1", true), ("/dnsaddr/node.libp2p.io", true), ("/dns4/mylocal/tcp/1", true),
        ("/dns/node.libp2p.local/tcp/1", false), ("/dns/localhost/tcp/1", false), ("/dns/a.LOCALHOST/tcp/1", false),
        ("/dns6/nas.home.arpa", false), ("/tcp/80/ip4/1.1.1.1", false), ("/p2p-circuit", false), ("/unix/a", false),
    ])
    func reachOfNames(text: String, isPublic: Bool) throws {
        #expect(try Multiaddr(text).isPublic == isPublic)
    }

    @Test(arguments: 1...8)
    func mutationsAreRefusedOrReadBack(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let corpus = try [
            "/ip4/127.0.0.1/udp/1234/quic-v1/webtransport/certhash/uEiDDq4_xNyDorZBH3TlGazyJdOWSwvo4PUo5YHFMrvDE8g/p2p/\(Self.peer)",
            "/ip6zone/x/ip6/fe80::1/tcp/443/tls/sni/a.b/ws/p2p/\(Self.other)/p2p-circuit/p2p/\(Self.peer)",
            "/dns4/a/tcp/1/unix/a/b",
        ].map { Array(try Multiaddr($0).bytes) }
        var accepted = 0
        for _ in 0..<1000 {
            var bytes = corpus.randomElement(using: &generator) ?? []
            for _ in 0..<Int.random(in: 1...3, using: &generator) { generator.mutate(&bytes) }
            if Int.random(in: 0..<10, using: &generator) == 0 { bytes = generator.bytes(0...60) }
            if let address = try? Multiaddr(bytes: bytes) {
                accepted += 1
                #expect(try Multiaddr(bytes: address.bytes) == address, "seed \(seed)")
                #expect(try Multiaddr(address.description) == address, "seed \(seed)")
                #expect(try Multiaddr(address.description).bytes == address.bytes, "seed \(seed)")
            }
            var text = Array(try Multiaddr(bytes: corpus[0]).description.utf8)
            for _ in 0..<Int.random(in: 1...3, using: &generator) { generator.mutate(&text) }
            if let address = try? Multiaddr(String(decoding: text, as: UTF8.self)) {
                #expect(try Multiaddr(bytes: address.bytes) == address, "seed \(seed)")
            }
        }
        #expect(accepted > 0, "seed \(seed)")
    }
}
