import ByteStreams
import NIOCore

/// What the flows of one event loop have carried, and the streams that are open on it. Confined to that loop.
final class FlowTraffic {
    let bytes = GlueCounters()
    var datagrams = DatagramCounters()
    private let tracker: ConnectionTracker
    /// Of datagrams, which may be lost: nobody waits for their end, which would be the end of the client's patience.
    private let sessions: ConnectionTracker

    init(loop: any EventLoop) {
        self.tracker = ConnectionTracker(loop: loop)
        self.sessions = ConnectionTracker(loop: loop)
    }

    func began(_ stream: any Channel) { self.tracker.add(stream) }

    func carriesDatagrams(_ stream: any Channel) {
        self.sessions.add(stream)
        self.tracker.remove(stream)
    }

    func ended(_ stream: any Channel) {
        self.sessions.remove(stream)
        self.tracker.remove(stream)
    }

    /// Resets the flows of datagrams, waits for the others until `deadline`, and resets the rest.
    /// - Returns: how many that rest was.
    func drain(until deadline: NIODeadline) -> EventLoopFuture<Int> {
        self.sessions.drain(until: .uptimeNanoseconds(0)).and(self.tracker.drain(until: deadline)).map(\.1)
    }
}

struct DatagramCounters: Sendable, Hashable {
    var toTarget: UInt64 = 0
    var toPeer: UInt64 = 0
    /// A buffer was full.
    var dropped: UInt64 = 0
    /// Too long for the protocol of the flow, or empty where that has no form for it.
    var unfit: UInt64 = 0
}

/// The traffic of all loops, one after the other. Any thread.
final class FlowTrafficBook: Sendable {
    struct Total: Sendable, Hashable {
        var peerToTargetBytes: UInt64 = 0
        var targetToPeerBytes: UInt64 = 0
        /// Flows that were reset because a side did not take what was left for it.
        var lingered: UInt64 = 0
        var datagrams = DatagramCounters()
    }

    private struct Page {
        let loop: any EventLoop
        let traffic: NIOLoopBoundBox<FlowTraffic?>
    }

    private let pages: [ObjectIdentifier: Page]

    init(_ group: any EventLoopGroup) {
        var pages: [ObjectIdentifier: Page] = [:]
        for loop in group.makeIterator() {
            let box = NIOLoopBoundBox<FlowTraffic?>.makeEmptyBox(valueType: FlowTraffic.self, eventLoop: loop)
            pages[ObjectIdentifier(loop)] = Page(loop: loop, traffic: box)
        }
        self.pages = pages
    }

    /// That of `loop`, on it; nil for one that is not of the group.
    func on(_ loop: any EventLoop) -> FlowTraffic? {
        guard let page = self.pages[ObjectIdentifier(loop)] else { return nil }
        if let traffic = page.traffic.value { return traffic }
        let traffic = FlowTraffic(loop: loop)
        page.traffic.value = traffic
        return traffic
    }

    func total() async -> Total {
        var total = Total()
        for page in self.pages.values {
            let part = try? await page.loop.submit { page.traffic.value.map { Total($0) } }.get()
            guard let part = part.flatMap({ $0 }) else { continue }
            total.peerToTargetBytes &+= part.peerToTargetBytes
            total.targetToPeerBytes &+= part.targetToPeerBytes
            total.lingered &+= part.lingered
            total.datagrams.toTarget &+= part.datagrams.toTarget
            total.datagrams.toPeer &+= part.datagrams.toPeer
            total.datagrams.dropped &+= part.datagrams.dropped
            total.datagrams.unfit &+= part.datagrams.unfit
        }
        return total
    }

    /// Resets the flows of datagrams, waits for the others until `deadline`, and resets the rest.
    /// - Returns: how many that rest was.
    func drain(until deadline: NIODeadline) async -> Int {
        await withTaskGroup(of: Int.self) { group in
            for page in self.pages.values {
                group.addTask {
                    let drained = page.loop.flatSubmit {
                        page.traffic.value?.drain(until: deadline) ?? page.loop.makeSucceededFuture(0)
                    }
                    return (try? await drained.get()) ?? 0
                }
            }
            return await group.reduce(0, +)
        }
    }
}

extension FlowTrafficBook.Total {
    fileprivate init(_ traffic: FlowTraffic) {
        self.peerToTargetBytes = traffic.bytes.clientToServerBytes
        self.targetToPeerBytes = traffic.bytes.serverToClientBytes
        self.lingered = traffic.bytes.lingered
        self.datagrams = traffic.datagrams
    }
}
