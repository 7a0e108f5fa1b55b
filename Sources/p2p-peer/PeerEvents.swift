import Documents
import Glibc
import LibP2P

/// What happens to a peer, one line of JSON each on its standard output.
enum PeerEvents {
    static func say(_ event: String, _ details: KeyValuePairs<String, Document> = [:]) {
        Self.say([("event", .string(event))] + details.map { ($0.key, $0.value) })
    }

    static func say(_ members: [(String, Document)]) {
        let line = Document.object(members.map { Document.Member($0.0, $0.1) }).jsonText() + "\n"
        _ = write(1, line, line.utf8.count)
    }

    static func say(_ event: HostEvent) {
        switch event {
        case .connected(let connection): Self.say("connected", Self.describe(connection))
        case .disconnected(let connection, _): Self.say("disconnected", Self.describe(connection))
        case .identified(let connection, let peer):
            Self.say(
                "identified",
                [
                    "peer": .string("\(connection.remotePeer)"),
                    "observed": .string(peer.observedAddress.map { "\($0)" } ?? ""),
                ]
            )
        case .addressesChanged(let addresses):
            Self.say("addresses", ["addresses": .array(addresses.map { .string("\($0)") })])
        case .reservation(let reservation):
            let state =
                switch reservation.state {
                case .active: "active"
                case .refused: "refused"
                case .lost: "lost"
                }
            Self.say("reservation", ["relay": .string("\(reservation.relay)"), "state": .string(state)])
        case .identifyFailed(let connection, let error):
            Self.say("identify-failed", ["peer": .string("\(connection.remotePeer)"), "error": .string("\(error)")])
        case .reachabilityChanged(let reachability):
            Self.say("reachability", ["state": .string("\(reachability)")])
        }
    }

    private static func describe(_ connection: Connection) -> KeyValuePairs<String, Document> {
        [
            "peer": .string("\(connection.remotePeer)"),
            "path": .string(connection.isRelayed ? "relayed" : "direct"),
            "direction": .string("\(connection.direction)"),
            "address": .string("\(connection.remoteAddress)"),
        ]
    }
}
