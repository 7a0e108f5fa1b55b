/// One task for each thing that is followed. They are of no group, of which single ones cannot be cancelled: whoever made this
/// cancels them.
struct FollowedTasks<Key: Hashable> {
    private var tasks: [Key: Task<Void, any Error>] = [:]

    /// Cancels the tasks of all but `keys`, and begins those that are missing.
    mutating func replace(with keys: some Sequence<Key>, _ begin: (Key) -> Task<Void, any Error>) {
        var former = self.tasks
        self.tasks = [:]
        for key in keys { self.tasks[key] = former.removeValue(forKey: key) ?? begin(key) }
        for task in former.values { task.cancel() }
    }

    func cancel() {
        for task in self.tasks.values { task.cancel() }
    }
}
