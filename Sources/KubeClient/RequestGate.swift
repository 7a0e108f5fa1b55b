import MeshCore

/// Holds the requests of all reflectors of one source to the configured rate (`kubeAPIConfig.qps` and `.burst`).
actor RequestGate {
    private var bucket: TokenBucket

    init(rate: Double, burst: Double) {
        self.bucket = TokenBucket(rate: rate, burst: burst, now: .now())
    }

    func pass() async throws {
        while !self.bucket.take(now: .now()) {
            // Another task may take the token that this one waited for, so ask again.
            try await Task.sleep(for: self.bucket.delay(now: .now()) ?? .seconds(1))
        }
    }
}
