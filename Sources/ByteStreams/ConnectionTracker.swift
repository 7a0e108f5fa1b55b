public import NIOCore

/// A connection that is no channel. Confined to the loop of its tracker.
public protocol TrackedConnection: AnyObject {
    /// Ends it so that both peers see a reset.
    func closeWithReset()
}

/// The open connections of one event loop, so that a drain can wait for them and then close the rest. Confined to the loop.
public final class ConnectionTracker {
    private let loop: any EventLoop
    private var channels: [ObjectIdentifier: any Channel] = [:]
    private var connections: [ObjectIdentifier: any TrackedConnection] = [:]
    private var drained: EventLoopPromise<Int>?
    private var deadline: Scheduled<Void>?

    public init(loop: any EventLoop) {
        self.loop = loop
    }

    public var count: Int { self.channels.count + self.connections.count }

    public func add(_ channel: any Channel) {
        self.channels[ObjectIdentifier(channel)] = channel
    }

    public func remove(_ channel: any Channel) {
        self.channels[ObjectIdentifier(channel)] = nil
        if self.count == 0 { self.finish(closed: 0) }
    }

    public func add(_ connection: any TrackedConnection) {
        self.connections[ObjectIdentifier(connection)] = connection
    }

    public func remove(_ connection: any TrackedConnection) {
        self.connections[ObjectIdentifier(connection)] = nil
        if self.count == 0 { self.finish(closed: 0) }
    }

    /// Tells every channel's handlers that the connection is to end as soon as it is idle.
    public func quiesce() {
        for channel in self.channels.values {
            channel.pipeline.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent())
        }
    }

    /// Completes when no connection is left, or at `deadline` after closing those that are; the value is how many were
    /// closed so. One drain in the life of a tracker.
    public func drain(until deadline: NIODeadline) -> EventLoopFuture<Int> {
        if let drained { return drained.futureResult }
        guard self.count > 0 else { return self.loop.makeSucceededFuture(0) }
        let promise = self.loop.makePromise(of: Int.self)
        self.drained = promise
        let tracker = NIOLoopBound(self, eventLoop: self.loop)
        self.deadline = self.loop.scheduleTask(deadline: deadline) { tracker.value.closeAll() }
        return promise.futureResult
    }

    private func closeAll() {
        let channels = self.channels
        let connections = self.connections
        self.channels = [:]
        self.connections = [:]
        for channel in channels.values { channel.closeWithReset() }
        for connection in connections.values { connection.closeWithReset() }
        self.finish(closed: channels.count + connections.count)
    }

    private func finish(closed: Int) {
        self.deadline?.cancel()
        self.deadline = nil
        self.drained?.succeed(closed)
    }
}
