import Documents
import Glibc
import MeshCore
import NIOCore
import NIOPosix

/// What a shell can ask of a world that another process runs.
public enum WorldCommand: Sendable {
    case status
    case link(String, [String])
    case kill(String)
    case stop(String)
    case start(String)
    case pause(String)
    case resume(String)
    case renumber(String)
    case move(String, String)

    var words: [String] {
        switch self {
        case .status: ["status"]
        case .link(let name, let changes): ["link", name] + changes
        case .kill(let node): ["kill", node]
        case .stop(let node): ["stop", node]
        case .start(let node): ["start", node]
        case .pause(let node): ["pause", node]
        case .resume(let node): ["resume", node]
        case .renumber(let node): ["renumber", node]
        case .move(let node, let lan): ["move", node, lan]
        }
    }

    init?(_ words: [String]) {
        switch (words.first ?? "", words.dropFirst().first, words.count) {
        case ("status", nil, _): self = .status
        case ("link", let name?, _): self = .link(name, Array(words.dropFirst(2)))
        case ("kill", let node?, 2): self = .kill(node)
        case ("stop", let node?, 2): self = .stop(node)
        case ("start", let node?, 2): self = .start(node)
        case ("pause", let node?, 2): self = .pause(node)
        case ("resume", let node?, 2): self = .resume(node)
        case ("renumber", let node?, 2): self = .renumber(node)
        case ("move", let node?, 3): self = .move(node, words[2])
        default: return nil
        }
    }
}

extension World {
    /// Does what a shell asked, and says what has become of it.
    func perform(_ command: WorldCommand) async throws -> String {
        switch command {
        case .status: return self.picture()
        case .link(let name, let changes):
            let link = "\(try await self.changeLink(name, changes))"
            return "link \(name): \(link.isEmpty ? "up" : link)\n"
        case .kill(let node):
            try await self.killAgent(of: node)
            return "the agent of \(node) is killed\n"
        case .stop(let node): return "the agent of \(node) ended with \(try await self.stopAgent(of: node))\n"
        case .start(let node):
            try self.startAgent(of: node)
            try await self.waitUntilServing(node)
            return "the agent of \(node) serves\n"
        case .pause(let node):
            try self.pauseAgent(of: node)
            return "the agent of \(node) stands still\n"
        case .resume(let node):
            try self.resumeAgent(of: node)
            return "the agent of \(node) goes on\n"
        case .renumber(let node): return "\(node) has the address \(try await self.renumber(node))\n"
        case .move(let node, let lan):
            return "\(node) is on \(lan) with the address \(try await self.move(node, to: lan))\n"
        }
    }

    /// Serves shells on the world's socket until the channel is closed.
    func serveControl() async throws -> any Channel {
        try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        WholeDocument { channel, question in Task { await self.answer(question, on: channel) } }
                    )
                }
            }
            .bind(unixDomainSocketPath: WorldControl.socket(in: self.lab.directory), cleanupExistingSocketFile: true)
            .get()
    }
}

extension World {
    private func answer(_ question: Result<Document, any Error>, on channel: any Channel) async {
        let answer: Document
        do {
            let words = try question.get().array?.compactMap(\.string) ?? []
            guard let command = WorldCommand(words) else {
                throw LabError(.usage, "'\(words.joined(separator: " "))' is no command for a world")
            }
            answer = ["done": true, "text": .string(try await self.perform(command))]
        } catch {
            answer = ["done": false, "text": .string("\(error)")]
        }
        try? await channel.writeAndFlush(ByteBuffer(string: answer.jsonText())).get()
        try? await channel.close().get()
    }
}

/// The client's side.
enum WorldControl {
    static func socket(in directory: String) -> String { "\(directory)/control.sock" }

    /// Asks the process that runs a world, and returns its answer.
    static func ask(_ directory: String, _ command: WorldCommand) async throws -> String {
        let answered = MultiThreadedEventLoopGroup.singleton.next().makePromise(of: Document.self)
        let channel: any Channel
        do {
            channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .channelOption(.allowRemoteHalfClosure, value: true)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(
                            WholeDocument { _, document in answered.completeWith(document) }
                        )
                    }
                }
                .connect(unixDomainSocketPath: Self.socket(in: directory)).get()
        } catch {
            answered.fail(error)
            throw LabError(
                .usage,
                "this lab has no LANs to command; start one with: edgemesh lab up FILE",
                cause: LoadClient.reason(for: error)
            )
        }
        let question = Document.array(command.words.map { Document.string($0) })
        try await channel.writeAndFlush(ByteBuffer(string: question.jsonText())).get()
        try await channel.close(mode: .output).get()
        let answer = try await answered.futureResult.get()
        try? await channel.close()
        let text = answer["text"]?.string ?? ""
        guard answer["done"]?.bool == true else { throw LabError(.commandFailed, text) }
        return text
    }
}

/// Collects what comes until the other side has said all, one JSON document.
private final class WholeDocument: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private static let limit = 1 << 20
    private let completion: (any Channel, Result<Document, any Error>) -> Void
    private var bytes = ByteBuffer()
    private var isComplete = false

    init(_ completion: @escaping (any Channel, Result<Document, any Error>) -> Void) {
        self.completion = completion
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.bytes.writeImmutableBuffer(self.unwrapInboundIn(data))
        if self.bytes.readableBytes > Self.limit { context.close(promise: nil) }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event as? ChannelEvent == .inputClosed { self.complete(context.channel) }
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.complete(context.channel)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }

    private func complete(_ channel: any Channel) {
        guard !self.isComplete else { return }
        self.isComplete = true
        do {
            let document = try Document.parseJSON(self.bytes.readableBytesView, limits: .default)
            self.completion(channel, .success(document))
        } catch {
            self.completion(channel, .failure(error))
        }
    }
}
