import LibP2PDiscovery
import Logging
import NIOCore

/// Meets other nodes in the DHT: tells that this node is at the rendezvous, and looks who else is.
///
/// Soon after the start and then seldom, as each search asks some dozens of peers; a node that is wanted and not known is searched for
/// by its own ID when it is dialled.
struct Rendezvous: Sendable {
    static let pauses: [TimeAmount] = [.seconds(3), .seconds(15), .seconds(60)]
    static let laterPause = TimeAmount.minutes(30)

    let dht: DualDHT
    let name: String
    let loop: any EventLoop
    let logger: Logger

    /// Runs until it is cancelled.
    func run() async {
        var pauses = Self.pauses[...]
        while !Task.isCancelled {
            guard await self.loop.pause(pauses.popFirst() ?? Self.laterPause) else { return }
            do {
                // What is found is told as events of the host.
                _ = try await self.dht.findPeers(rendezvous: self.name)
                _ = try await self.dht.advertise(rendezvous: self.name)
            } catch {
                self.logger.debug("nobody was met in the DHT", metadata: ["error": "\(error)"])
            }
        }
    }
}

extension EventLoop {
    /// Lets some time pass, by the loop's clock.
    /// - Returns: false if the task was cancelled meanwhile, or the loop has ended.
    func pause(_ time: TimeAmount) async -> Bool {
        let timer = self.scheduleTask(in: time) {}
        do {
            try await withTaskCancellationHandler {
                try await timer.futureResult.get()
            } onCancel: {
                timer.cancel()
            }
        } catch {
            return false
        }
        return !Task.isCancelled
    }
}
