public import Documents
public import MeshInterfaces

extension EdgeGatewayService: StatusReporting {
    public var statusName: String { "edgeGateway" }

    /// Listeners shown; the others are counted.
    private static let maximumListeners = 256

    public func status() async -> Document {
        let entries = await self.listenEntries
        let listeners: [Document] = entries.prefix(Self.maximumListeners).map { entry in
            var members: [Document.Member] = [.init("address", .string("\(entry.address)"))]
            if let problem = entry.problem { members.append(.init("problem", .string(problem))) }
            members.append(.init("origins", .array(entry.origins.map { .string($0) })))
            return .object(members)
        }
        return .object(
            [
                .init("listenerCount", .integer(entries.count)),
                .init("listeners", .array(listeners)),
                .init("certificateProblems", .array(await self.brokenCertificates.map { .string($0) })),
            ] + (await self.figures())
        )
    }

    /// The members `counters` and `gauges`: sums over the loops.
    private func figures() async -> [Document.Member] {
        let reports = await self.reports()
        func sums(_ figures: [GatewayCounters.Figure]) -> Document {
            .object(
                figures.map { figure in .init(figure.key, .integer(reports.reduce(0) { $0 + figure.value($1) })) }
            )
        }
        return [.init("counters", sums(GatewayCounters.counters)), .init("gauges", sums(GatewayCounters.gauges))]
    }

    public func metrics() async -> [MetricSample] {
        let help = Dictionary((GatewayCounters.counters + GatewayCounters.gauges).map { ($0.key, $0.help) }) { $1 }
        return MetricSample.samples(ofStatus: .object(await self.figures()), subsystem: self.statusName, help: help)
    }
}
