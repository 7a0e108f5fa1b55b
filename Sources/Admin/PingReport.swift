public import Documents
public import MeshInterfaces

/// The lines of `edgemesh ping`: one per reply, one when the path changes, and a summary.
public struct PingReport: Sendable {
    /// A line for people, and the same for programs.
    public struct Line: Hashable, Sendable {
        public var text: String
        public var document: Document
    }

    public let node: String
    public private(set) var sent = 0
    public private(set) var answered = 0
    private var least = Double.infinity
    private var most = 0.0
    private var sum = 0.0
    /// Replies by path, in the order in which the paths were first seen.
    private var paths: [(path: String, replies: Int)] = []
    private var last: (kind: String, path: String)?

    public init(node: String) {
        self.node = node
    }

    /// What the agent tells of one reply.
    public static func reply(from node: String, _ path: NodePath, _ roundTrip: Duration) -> Document {
        let (seconds, attoseconds) = roundTrip.components
        let milliseconds = Double(seconds) * 1e3 + Double(attoseconds) / 1e15
        return [
            "node": .string(node), "kind": path.kind.map { .string($0.rawValue) } ?? nil,
            "relay": path.relay.map { .string($0) } ?? nil,
            "address": path.remoteAddress.map { .string($0) } ?? nil, "peerID": .string(path.peer),
            "agent": .string(path.agent.rawValue),
            "rttMilliseconds": .init(.number((milliseconds * 1e3).rounded() / 1e3)),
        ]
    }

    /// Takes in a reply.
    /// - Parameter seconds: since the first ping.
    public mutating func answered(_ reply: Document, after seconds: Double) -> [Line] {
        self.sent += 1
        self.answered += 1
        let (kind, path) = (reply["kind"]?.string ?? "?", TunnelText.path(reply))
        var lines: [Line] = []
        if let last, last.path != path {
            let after = (seconds * 10).rounded() / 10
            let isDirect = last.kind == "relayed" && kind != "relayed"
            let now = isDirect ? "turned direct (\(kind))" : "is \(path) now"
            lines.append(
                Line(
                    text: "\(self.node): the path \(now) after \(after) s; it was \(last.path)",
                    document: [
                        "event": isDirect ? "turnedDirect" : "pathChanged", "path": .string(path),
                        "former": .string(last.path), "seconds": .init(.number(after)),
                    ]
                )
            )
        }
        self.last = (kind, path)
        if let index = self.paths.firstIndex(where: { $0.path == path }) {
            self.paths[index].replies += 1
        } else {
            self.paths.append((path, 1))
        }
        if let time = reply["rttMilliseconds"]?.figure {
            self.least = min(self.least, time)
            self.most = max(self.most, time)
            self.sum += time
        }
        lines.append(
            Line(
                text: "\(self.node): reply \(self.sent) in \(TunnelText.roundTrip(reply)), \(path)",
                document: .object(
                    [.init("event", "reply"), .init("sequence", .integer(self.sent))] + (reply.members ?? [])
                )
            )
        )
        return lines
    }

    /// Takes in that no reply came.
    public mutating func unanswered(_ reason: String) -> Line {
        self.sent += 1
        return Line(
            text: "\(self.node): no reply to \(self.sent): \(reason)",
            document: ["event": "noReply", "sequence": .integer(self.sent), "reason": .string(reason)]
        )
    }

    public var summary: Line {
        let lost = self.sent == 0 ? 0 : Double(self.sent - self.answered) / Double(self.sent)
        var text = "\(self.node): \(self.sent) sent, \(self.answered) answered, \(TunnelText.percent(lost)) lost"
        var members: [Document.Member] = [
            .init("event", "summary"), .init("node", .string(self.node)), .init("sent", .integer(self.sent)),
            .init("answered", .integer(self.answered)), .init("loss", .init(.number(lost))),
        ]
        if self.answered > 0 {
            let times = [self.least, self.sum / Double(self.answered), self.most]
            text += "; round trip \(times.map(TunnelText.milliseconds).joined(separator: ", ")) (least, mean, most)"
            text += "; by path: " + self.paths.map { "\($0.path) \($0.replies)" }.joined(separator: ", ")
            for (name, time) in zip(["least", "mean", "most"], times) {
                members.append(.init("\(name)Milliseconds", .init(.number((time * 1e3).rounded() / 1e3))))
            }
            members.append(
                .init("repliesByPath", .object(self.paths.map { .init($0.path, .integer($0.replies)) }))
            )
        }
        return Line(text: text, document: .object(members))
    }
}
