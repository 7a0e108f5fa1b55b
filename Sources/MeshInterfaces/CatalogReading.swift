public import ServiceCatalog

/// How features read the catalog.
public protocol CatalogReading: Sendable {
    /// The snapshot in force. Any thread; a short lock. Data paths keep what `subscribe` posted to their loop instead.
    var snapshot: CatalogSnapshot { get }

    /// Calls `receive` with the present snapshot (every service counted as changed) and then with each update, in order,
    /// never concurrently, until the returned token is released or cancelled. `receive` must not block: it posts to its
    /// own loop or actor.
    func subscribe(_ receive: @escaping @Sendable (CatalogUpdate) -> Void) -> CatalogSubscription
}

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
