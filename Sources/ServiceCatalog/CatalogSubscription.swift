/// Ends a subscription when cancelled or released.
public final class CatalogSubscription: Sendable {
    private let onCancel: @Sendable () -> Void

    public init(onCancel: @escaping @Sendable () -> Void) {
        self.onCancel = onCancel
    }

    /// May be called more than once.
    public func cancel() {
        self.onCancel()
    }

    deinit {
        self.onCancel()
    }
}
