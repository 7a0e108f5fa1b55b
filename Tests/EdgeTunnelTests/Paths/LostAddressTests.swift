import MeshCore
import Multiformats
import Testing

@testable import EdgeTunnel

@Suite
struct LostAddressTests {
    /// Any pod that starts changes the machine's interfaces: what is not known to be lost has to stay.
    @Test(
        "a connection's own address is lost if the machine's list would have it and has not",
        arguments: [
            ("/ip4/10.0.0.2/tcp/20006", false), ("/ip4/10.0.0.3/tcp/20006", true),
            ("/ip6/2001:db8::2/tcp/20006", false), ("/ip6/2001:db8::3/tcp/20006", true),
            ("/ip4/127.0.0.1/tcp/20006", false), ("/ip6/fe80::2/tcp/20006", false),
            ("/ip6zone/eth0/ip6/fe80::2/tcp/20006", false), ("/dns4/relay.example/tcp/20006", false),
        ]
    )
    func lost(address: String, isLost: Bool) throws {
        let present = Set(["10.0.0.2", "2001:db8::2"].compactMap { IPAddress($0) })
        #expect(PathTable.isLost(try Multiaddr(address), present: present) == isLost)
    }
}
