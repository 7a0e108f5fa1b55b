import Logging
import MeshTesting
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import LinuxNetwork

@Suite struct NetworkMonitorTests {
    @Test("addresses and links that come and go are told, in a namespace of its own")
    func changes() async throws {
        let node = try LabNode(pods: 1)
        let count = Mutex(0)
        let monitor = NetworkMonitor(on: MultiThreadedEventLoopGroup.singleton.next(), logger: Logger(label: "test")) {
            count.withLock { $0 += 1 }
        }
        // Its socket stays in the namespace in which it was opened.
        try node.namespace.run { monitor.start() }
        defer { monitor.stop() }
        func change(_ command: String) async throws {
            let before = count.withLock { $0 }
            try node.run("", command)
            try await eventually("\(command) is told") { count.withLock { $0 } > before }
        }
        try await change("ip link add watched type bridge")
        try await change("ip link set watched up")
        try await change("ip address add 192.0.2.77/24 dev watched")
        try await change("ip address del 192.0.2.77/24 dev watched")
        try await change("ip link del watched")
    }
}
