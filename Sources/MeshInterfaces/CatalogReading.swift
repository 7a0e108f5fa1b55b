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

extension ClusterCatalog: CatalogReading {}
