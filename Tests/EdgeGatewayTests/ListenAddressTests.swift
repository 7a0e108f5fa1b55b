import GatewayRouting
import LoadBalancing
import Logging
import MeshCore
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import EdgeGateway
@testable import LinuxNetwork

@Suite struct ListenAddressTests {
    /// Addresses of one interface, which a test changes.
    private final class Machine: Sendable {
        let addresses = Mutex<[String]>([])

        func read() throws -> (links: [NetworkLink], addresses: [LinkAddress]) {
            let addresses = self.addresses.withLock { $0 }.compactMap { IPAddress($0) }
            return (
                [NetworkLink(index: 2, name: "eth0", isUp: true, kind: nil)],
                addresses.map { LinkAddress(linkIndex: 2, address: $0, prefixLength: 8) }
            )
        }
    }

    @Test(
        "listeners follow the addresses of their interface; UDP has no wildcard",
        arguments: [TransportProtocol.tcp, .udp]
    )
    func follows(_ transport: TransportProtocol) async throws {
        let machine = Machine()
        let environment = GatewayWorker.Environment(
            limits: GatewayLimits(),
            dialer: LoopbackDialer(),
            certificates: CertificateStore { _ in nil },
            backends: BackendDirectory(defaultPolicy: .roundRobin, seed: 1),
            accessLogInterval: 0,
            showsReasons: false,
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        )
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let handle = try await WorkerHandle.make(on: loop, environment, seed: 1).get()
        var settings = GatewaySettings()
        if transport == .tcp { settings.interfaces = ["eth0"] }
        let listeners = GatewayListeners(
            handles: [handle],
            certificates: environment.certificates,
            settings: settings,
            logger: environment.logger,
            machine: machine.read
        )
        func addresses() async -> [String] { await listeners.entries.map { "\($0.address.address.address)" } }
        let service: ListenerPlan.Service =
            transport == .udp ? .stream(StreamRoute(backends: [backend("web")])) : .http(hosts([forwarding("web")]))
        await listeners.replace(
            GatewayPlan(
                listeners: [
                    ListenerPlan(
                        key: ListenerPlan.Key(transport: transport, port: 0),
                        service: service,
                        origins: ["test"]
                    )
                ]
            )
        )
        #expect(await addresses() == [])
        machine.addresses.withLock { $0 = ["127.9.0.1", "127.9.0.2"] }
        await listeners.reconcile()
        #expect(await addresses() == ["127.9.0.1", "127.9.0.2"])
        machine.addresses.withLock { $0 = ["127.9.0.2", "127.9.0.3"] }
        await listeners.reconcile()
        #expect(await addresses() == ["127.9.0.2", "127.9.0.3"])
        #expect(await !listeners.hasProblems)
        // Nobody has this address: it is told, and tried again.
        machine.addresses.withLock { $0 = ["192.0.2.1"] }
        await listeners.reconcile()
        #expect(await listeners.hasProblems)
        _ = try await handle.drain(until: .now()).get()
    }
}
