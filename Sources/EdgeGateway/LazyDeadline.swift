import NIOCore

/// A deadline that is moved often and seldom met: moving it is a store. Confined to its loop.
final class LazyDeadline {
    private let loop: any EventLoop
    private var deadline: NIODeadline = .distantFuture
    private var wakeup: Scheduled<Void>?
    private var wakeupTime: NIODeadline = .distantFuture
    private var onPassed: (() -> Void)?

    init(on loop: any EventLoop, _ onPassed: @escaping () -> Void) {
        self.loop = loop
        self.onPassed = onPassed
    }

    func set(_ timeout: TimeAmount) {
        self.deadline = self.loop.now + timeout
        guard self.deadline < self.wakeupTime else { return }
        self.schedule()
    }

    var isSet: Bool { self.deadline < .distantFuture }

    /// It never passes until it is set again.
    func clear() {
        self.deadline = .distantFuture
    }

    /// For good: nothing of the owner is held any more.
    func cancel() {
        self.deadline = .distantFuture
        self.wakeup?.cancel()
        self.wakeup = nil
        self.onPassed = nil
    }

    private func schedule() {
        self.wakeup?.cancel()
        self.wakeupTime = self.deadline
        self.wakeup = self.loop.assumeIsolated().scheduleTask(deadline: self.deadline) { self.wake() }
    }

    private func wake() {
        self.wakeup = nil
        self.wakeupTime = .distantFuture
        guard self.onPassed != nil, self.deadline < .distantFuture else { return }
        guard self.deadline <= self.loop.now else { return self.schedule() }
        self.deadline = .distantFuture
        self.onPassed?()
    }
}
