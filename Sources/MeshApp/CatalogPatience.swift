import KubeModel
import MeshCore
import ServiceCatalog
import ServiceLifecycle

extension ClusterCatalog {
    private static let patience = Duration.seconds(10)

    /// Returns once there is something to serve: a source has listed everything, or the last good state was loaded. A source that
    /// lists some kinds and never all of them serves what it has.
    func waitForState() async throws {
        let began = MonotonicTime.now()
        var delay = Duration.milliseconds(5)
        while self.freshness.state == .connecting {
            if self.snapshot.version > 0, .now() - began > Self.patience { break }
            try await cancelWhenGracefulShutdown { [delay] in try await Task.sleep(for: delay) }
            try Task.checkCancellation()
            delay = min(delay * 2, .milliseconds(250))
        }
    }
}
