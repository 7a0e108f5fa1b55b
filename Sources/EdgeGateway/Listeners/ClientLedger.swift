import MeshCore
import Synchronization

/// Counts open connections, or sessions of datagrams, of all loops and of each client address. Any thread.
final class ClientLedger: Sendable {
    private struct State {
        var total = 0
        var clients: [IPAddress: Int] = [:]
        var splices = 0
    }

    private let state = Mutex(State())

    /// False if a limit is reached; then nothing is counted.
    func enter(_ client: IPAddress, most: Int, ofClient: Int) -> Bool {
        self.state.withLock { state in
            guard state.total < most, state.clients[client, default: 0] < ofClient else { return false }
            state.total += 1
            state.clients[client, default: 0] += 1
            return true
        }
    }

    /// One more of a client that has one: no limit is asked.
    func hold(_ client: IPAddress) {
        self.state.withLock { state in
            state.total += 1
            state.clients[client, default: 0] += 1
        }
    }

    func leave(_ client: IPAddress) {
        self.state.withLock { state in
            state.total -= 1
            guard let count = state.clients[client] else { return }
            state.clients[client] = count > 1 ? count - 1 : nil
        }
    }

    /// False if the kernel carries as many streams as it may.
    func enterSplice(_ limits: GatewayLimits) -> Bool {
        self.state.withLock { state in
            guard state.splices < limits.maximumSplices else { return false }
            state.splices += 1
            return true
        }
    }

    func leaveSplice() { self.state.withLock { $0.splices -= 1 } }

    var count: Int { self.state.withLock { $0.total } }
}
