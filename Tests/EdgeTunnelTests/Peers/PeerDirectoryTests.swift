import HashTreeCollections
import KubeModel
import MeshCore
import Multiformats
import NIOCore
import PeerIdentity
import Testing

@testable import EdgeTunnel

@Suite
struct PeerDirectoryTests {
    private let own = KeyPair.generate().peerID

    private var directory: PeerDirectory { PeerDirectory(ownName: "self", ownPeer: self.own) }

    private func nodes(_ records: [String: String?]) -> TreeDictionary<String, NodeObject> {
        var nodes: TreeDictionary<String, NodeObject> = [:]
        for (name, peer) in records {
            var node = NodeObject(name: name)
            node.peerID = peer
            nodes[name] = node
        }
        return nodes
    }

    private func derived(_ name: String) -> PeerID {
        guard let pair = try? KeyPair.derived(nodeName: name) else { preconditionFailure("a name has a key") }
        return pair.peerID
    }

    @Test("nodes with a record are that peer alone, others are known by their names")
    func mixed() throws {
        let directory = self.directory
        let recorded = KeyPair.generate().peerID
        let change = try #require(directory.update(self.nodes(["a": recorded.description, "b": nil])))
        #expect(change.isPending && change.problems.isEmpty)
        #expect(!directory.derivePending(atMost: 10))
        #expect(directory.peer(of: "a") == recorded && directory.node(of: recorded) == "a")
        #expect(directory.peer(of: "b") == self.derived("b") && directory.node(of: self.derived("b")) == "b")
        #expect(directory.node(of: self.derived("a")) == nil)
        #expect(directory.peer(of: "self") == self.own && directory.node(of: self.own) == "self")
        #expect(directory.update(self.nodes(["a": recorded.description, "b": nil])) == nil)
    }

    @Test("a name that the catalog does not have is known by its key, as gateways are")
    func unknown() {
        let directory = self.directory
        #expect(
            directory.peer(of: "k8s-master-gateway")?.description
                == "12D3KooWK7jA1pdgBVvNicvVEE1Dp24YNcFTyUzwCBLyH7fVgKZ8"
        )
        #expect(directory.node(of: self.derived("k8s-master-gateway")) == "k8s-master-gateway")
        #expect(directory.peer(of: "") == nil && directory.peer(of: String(repeating: "n", count: 254)) == nil)
    }

    @Test("a name that no node has is told, with the nearest there is; without a cluster any name may be one")
    func mistyped() {
        let directory = self.directory
        #expect(directory.complaint(about: "anything") == nil)
        _ = directory.update(self.nodes(["north-1": nil, "north-2": KeyPair.generate().peerID.description]))
        for name in ["north-1", "north-2", "self", "north-1-gateway"] {
            #expect(directory.complaint(about: name) == nil, "\(name)")
        }
        #expect(directory.complaint(about: "nroth-2") == "no node 'nroth-2' is known; did you mean 'north-2'?")
        #expect(
            directory.complaint(about: "something-else")
                == "no node 'something-else' is known; known are north-1, north-2, self"
        )
        _ = directory.update(self.nodes(Dictionary(uniqueKeysWithValues: (0..<20).map { ("machine-\($0)", nil) })))
        #expect(directory.complaint(about: "xyz")?.hasSuffix(" and 13 more") == true)
        // What a flow or another node has named counts as known.
        _ = directory.peer(of: "xyz")
        #expect(directory.complaint(about: "xyz") == nil)
    }

    @Test("a changed record drops the old key, which is accepted no more until it is recorded again")
    func rotation() throws {
        let directory = self.directory
        let (old, new) = (KeyPair.generate().peerID, KeyPair.generate().peerID)
        _ = directory.update(self.nodes(["a": old.description]))
        let change = try #require(directory.update(self.nodes(["a": new.description])))
        #expect(change.revoked == [old] && directory.isRevoked(old) && !directory.isRevoked(new))
        #expect(directory.node(of: old) == nil && directory.node(of: new) == "a" && directory.peer(of: "a") == new)
        let back = try #require(directory.update(self.nodes(["a": old.description])))
        #expect(back.revoked == [new] && !directory.isRevoked(old))
    }

    @Test("revocations of an earlier run hold against the last good state, and are bounded; the oldest go")
    func restart() throws {
        let peers = (0...PeerDirectory.maximumRevoked).map { _ in KeyPair.generate().peerID }
        let directory = PeerDirectory(ownName: "self", ownPeer: self.own, revoked: peers)
        #expect(directory.revokedPeers == Array(peers.dropFirst()) && !directory.isRevoked(peers[0]))
        let nodes = self.nodes(["a": peers[1].description, "b": peers[0].description])
        let stale = try #require(directory.update(nodes, stored: ["a", "b"]))
        #expect(stale.problems.count == 1 && !stale.isRevocationChanged && directory.isRevoked(peers[1]))
        #expect(directory.peer(of: "a") == nil && directory.node(of: peers[0]) == "b")
        let fresh = try #require(directory.update(nodes, stored: ["b"]))
        #expect(fresh.isRevocationChanged && fresh.revoked.isEmpty && !directory.isRevoked(peers[1]))
        #expect(directory.node(of: peers[1]) == "a" && directory.revokedPeers == Array(peers.dropFirst(2)))
        #expect(directory.update(nodes, stored: []) != nil && directory.node(of: peers[0]) == "b")
    }

    @Test("a node that gets a record loses the key of its name; one that loses it, or goes, is revoked")
    func migration() throws {
        let directory = self.directory
        _ = directory.update(self.nodes(["a": nil]))
        #expect(!directory.derivePending(atMost: 10))
        let recorded = KeyPair.generate().peerID
        let change = try #require(directory.update(self.nodes(["a": recorded.description])))
        #expect(change.revoked == [self.derived("a")] && directory.node(of: self.derived("a")) == nil)
        let gone = try #require(directory.update(self.nodes([:])))
        #expect(gone.revoked == [recorded] && directory.isRevoked(recorded))
    }

    @Test("a record that is no peer ID proves nobody, and one of another node's peer neither")
    func broken() throws {
        let directory = self.directory
        let peer = KeyPair.generate().peerID
        let change = try #require(
            directory.update(self.nodes(["a": peer.description, "b": peer.description, "c": "nonsense"]))
        )
        #expect(change.problems.count == 2)
        #expect(directory.node(of: peer) == "a" && directory.peer(of: "b") == nil && directory.peer(of: "c") == nil)
    }

    @Test("names that were only asked for are forgotten beyond the bound")
    func bound() {
        let directory = PeerDirectory(ownName: "self", ownPeer: self.own, maximumLearned: 8)
        for index in 0...8 { _ = directory.peer(of: "n\(index)") }
        #expect(directory.node(of: self.derived("n0")) == nil)
        #expect(directory.node(of: self.derived("n1")) == "n1")
    }
}

@Suite
struct InterfaceSelectionTests {
    @Test(
        "interfaces of containers are left out, bridges that lead somewhere are not",
        arguments: [
            ("eth0", true), ("br0", true), ("br-lan", true), ("br-0123456789ab", false), ("br-0123456789AB", true),
            ("docker0", false), ("veth12", false), ("cni0", false), ("edgemesh0", false), ("lo", false),
            ("wlan0", true), ("cni-uplink", true), ("wg1", false),
        ]
    )
    func admits(name: String, isAdmitted: Bool) {
        let selection = InterfaceSelection(named: [], filtered: ["wg"])
        selection.setUplinks(["cni-uplink", "wg1"])
        #expect(selection.admits(name) == isAdmitted)
    }

    @Test("named ones are the only ones")
    func named() {
        let selection = InterfaceSelection(named: ["docker0", "eth1"], filtered: ["eth"])
        #expect(selection.admits("docker0") && !selection.admits("eth1") && !selection.admits("wlan0"))
    }
}

@Suite
struct RelayBookTests {
    @Test("circuits lead through the nearest relay first, and never through the peer or this node")
    func circuits() throws {
        let own = try KeyPair.derived(nodeName: "self").peerID
        let book = RelayBook(ownPeer: own, naming: PeerDirectory(ownName: "self", ownPeer: own))
        var settings = TunnelSettings(nodeName: "self")
        settings.relays = try ["self", "far", "near", "target"].enumerated().map { index, name in
            TunnelSettings.Relay(
                nodeName: name,
                hosts: try ["10.0.\(index).1", "10.0.\(index).2"].map {
                    .ip4(try #require(IPv4Address($0)))
                }
            )
        }
        book.configure(settings)
        book.measured(try KeyPair.derived(nodeName: "near").peerID, .milliseconds(3))
        book.measured(try KeyPair.derived(nodeName: "far").peerID, .milliseconds(30))
        let circuits = book.circuits(to: try KeyPair.derived(nodeName: "target").peerID)
        #expect(circuits.map { $0.ipAddress?.description } == ["10.0.2.1", "10.0.1.1", "10.0.2.2", "10.0.1.2"])
        #expect(circuits.allSatisfy { $0.isCircuit && $0.port == 20006 })
    }
}
