import Glibc
import LibP2P
import Logging
import Multiformats
import NIOCore
import NIOPosix
import PeerIdentity
import Testing

/// The article's first snippet, line for line, is the body of `snippet()`.
@Suite struct DocumentationTests {
    private func snippet() async throws -> (greeting: String, hosts: [Host]) {
        let group = MultiThreadedEventLoopGroup.singleton
        let listen = try Multiaddr("/ip4/127.0.0.1/tcp/0")
        let configuration = HostConfiguration(listenAddresses: [listen])
        let logger = Logger(label: "example")

        let server = try Host(identity: .generate(), configuration: configuration, group: group, logger: logger)
        server.add(transport: TCPTransport())
        server.handle("/greeting/1.0.0") { stream in
            stream.channel.writeAndFlush(ByteBuffer(string: "Hello!")).flatMap { stream.channel.close() }
        }
        try await server.start()

        let client = try Host(identity: .generate(), configuration: configuration, group: group, logger: logger)
        client.add(transport: TCPTransport())
        try await client.start()
        _ = try await client.connect(to: server.peerID, addresses: server.listenAddresses)
        let stream = try await client.openStream(to: server.peerID, protocols: ["/greeting/1.0.0"])

        let greeting = try await NIOAsyncChannel<ByteBuffer, ByteBuffer>(of: stream).executeThenClose { inbound, _ in
            try await inbound.reduce(into: "") { $0 += String(buffer: $1) }
        }
        return (greeting, [server, client])
    }

    @Test func theSnippetWorks() async throws {
        // It has the deadlines of a product; on a machine that is busy with other things they may pass.
        for tryNumber in 1... {
            do {
                let (greeting, hosts) = try await self.snippet()
                #expect(greeting == "Hello!")
                for host in hosts { await host.shutdown(deadline: .now() + .seconds(1)) }
                return
            } catch {
                guard (error as? LibP2PError)?.code == .timedOut, tryNumber < 5 else { throw error }
            }
        }
    }

    @Test func theArticleHoldsThisSnippet() throws {
        let source = try Self.text(#filePath).split(separator: "\n", omittingEmptySubsequences: false)
        let article = try Self.text(
            String(#filePath.dropLast("/Tests/LibP2PTests/DocumentationTests.swift".count))
                + "/Sources/LibP2P/LibP2P.docc/OpenAStream.md"
        ).split(separator: "\n", omittingEmptySubsequences: false)
        let first = try #require(article.firstIndex(of: "```swift")) + 1
        let end = try #require(article[first...].firstIndex(of: "```"))
        let snippet = article[first..<end].map { $0.isEmpty ? "" : "        " + $0 }
        let start = try #require(source.firstIndex { $0.contains("let group = MultiThreaded") })
        #expect(source[start..<(start + snippet.count)].elementsEqual(snippet[...], by: ==))
    }

    private static func text(_ path: String) throws -> String {
        let file = try #require(fopen(path, "r"), "\(path) cannot be read")
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while case let count = fread(&buffer, 1, buffer.count, file), count > 0 { bytes += buffer[..<count] }
        return String(decoding: bytes, as: UTF8.self)
    }
}
