import ByteStreams
import MeshCore
import NIOCore
import NIOPosix
import Testing

@Suite("Sockets")
struct SocketTests {
    @Test(
        "addresses survive the way through sockaddr",
        arguments: ["10.1.2.3:65535", "[2001:db8::7]:53", "0.0.0.0:0", "[::1]:1"]
    )
    func addresses(text: String) throws {
        let address = try #require(TransportAddress(text))
        #expect(TransportAddress(SocketAddress(address)) == address)
    }

    @Test("a mapped address becomes IPv4, a Unix socket has none")
    func oddAddresses() throws {
        let mapped = try #require(TransportAddress("[::ffff:10.0.0.1]:80"))
        #expect(TransportAddress(SocketAddress(mapped))?.description == "10.0.0.1:80")
        #expect(try TransportAddress(SocketAddress(unixDomainSocketPath: "/x")) == nil)
    }

    @Test("the task executor runs a task on its loop")
    func executor() async {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let isOnLoop = await withTaskGroup(of: Bool.self) { group in
            group.addTask(executorPreference: LoopTaskExecutor(loop)) { loop.inEventLoop }
            return await group.next() ?? false
        }
        #expect(isOnLoop)
    }

    @Test("a deadline ends what takes too long and leaves alone what does not")
    func deadlines() async throws {
        #expect(try await withDeadline(.seconds(60), "quick") { 7 } == 7)
        let error = await #expect(throws: ByteStreamsError.self) {
            try await withDeadline(.milliseconds(1), "slow") { try await Task.sleep(for: .seconds(3_600)) }
        }
        #expect(error?.code == .deadlineExceeded)
    }

    @Test("a dial to a port that nobody listens on fails, one past its deadline is not begun")
    func dials() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let server = try await ServerBootstrap(group: loop).bind(host: "127.0.0.1", port: 0).get()
        let address = try #require(server.localAddress.flatMap { TransportAddress($0) })
        let channel = try await StreamConnector.connect(
            to: address,
            on: loop,
            deadline: .now() + .seconds(5)
        ) { $0.eventLoop.makeSucceededVoidFuture() }.get()
        #expect(channel.isActive)
        try await channel.close()
        try await server.close()
        // Not the port of the server that was: another test may have been given it meanwhile. Port 1 is never given out.
        let nobody = TransportAddress(.v4(.loopback), 1)
        await #expect(throws: (any Error).self) {
            try await StreamConnector.connect(to: nobody, on: loop, deadline: .now() + .seconds(5)) {
                $0.eventLoop.makeSucceededVoidFuture()
            }.get()
        }
        let late = await #expect(throws: ByteStreamsError.self) {
            try await StreamConnector.connect(to: address, on: loop, deadline: .now() - .seconds(1)) {
                $0.eventLoop.makeSucceededVoidFuture()
            }.get()
        }
        #expect(late?.code == .deadlineExceeded)
    }

    @Test("a drain waits for connections to end and cuts those that do not")
    func drain() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let address = TransportAddress(.v4(.loopback), 0)
        let server = try await ServerBootstrap(group: loop).bind(to: SocketAddress(address)).get()
        let target = try #require(server.localAddress)
        let first = try await ClientBootstrap(group: loop).connect(to: target).get()
        let second = try await ClientBootstrap(group: loop).connect(to: target).get()
        let cut = try await loop.flatSubmit { () -> EventLoopFuture<Int> in
            let tracker = ConnectionTracker(loop: loop)
            tracker.add(first)
            tracker.add(second)
            #expect(tracker.count == 2)
            tracker.remove(first)
            return tracker.drain(until: .now())
        }.get()
        #expect(cut == 1)
        try await second.closeFuture.get()
        try await first.close()
        let empty = try await loop.flatSubmit { ConnectionTracker(loop: loop).drain(until: .now() + .hours(1)) }.get()
        #expect(empty == 0)
        try await server.close()
    }

    @Test("the file limit is raised no further than the host allows and never lowered")
    func fileLimit() {
        let present = FileDescriptorLimit.raise(to: 0)
        #expect(FileDescriptorLimit.raise(to: 1 << 40) >= present)
    }
}
