import Documents
import MeshCore
import NetLab

/// Packets of pods from one node to another by two agents, beside a plain route between the same nodes, and beside programs that carry
/// packets through user space as well.
struct PodBenchmark {
    /// Of each run with load.
    var seconds: Int
    var pings: Int
    /// Of the load over which memory is to stay as it is.
    var memorySeconds: Int
    var rounds: Int

    private static let datagram = 64

    private enum Measure: BenchmarkMeasure, CaseIterable {
        case throughput, carrierCPU, allCPU, datagrams, datagramCPU, median, tail

        var name: String {
            switch self {
            case .throughput: "TCP, one connection"
            case .carrierCPU: "TCP, CPU of what carries"
            case .allCPU: "TCP, CPU of that and of both ends"
            case .datagrams: "UDP of \(PodBenchmark.datagram) bytes that arrives of too much"
            case .datagramCPU: "UDP, CPU of what carries"
            case .median: "ping, p50"
            case .tail: "ping, p99"
            }
        }

        var unit: String {
            switch self {
            case .throughput: "Gbit/s"
            case .carrierCPU, .allCPU: "s/GB"
            case .datagrams: "1000/s"
            case .datagramCPU: "us"
            case .median, .tail: "us"
            }
        }

        var isRate: Bool { self == .throughput || self == .datagrams }

        /// At least what the others of user space do.
        func budget(beside peer: PodLab.Way) -> Figure.Budget? {
            switch (self, peer) {
            case (.throughput, .routed): .atLeast(2)
            case (_, .routed): nil
            default: self.isRate ? .ratioAtLeast(1) : .ratioAtMost(1)
            }
        }
    }

    private typealias Results = BestFigures<PodLab.Way, Measure>

    func run(program: String, into report: inout Report) async throws {
        try await self.measure("pods", program: program, congestionControl: nil, into: &report)
        // As for the tunnel: what BBR paces costs a timer for each burst.
        guard try readText("/proc/sys/net/ipv4/tcp_congestion_control").hasPrefix("bbr") else { return }
        try await self.measure("pods, unpaced", program: program, congestionControl: "reno", into: &report)
    }

    private func measure(
        _ name: String,
        program: String,
        congestionControl: String?,
        into report: inout Report
    ) async throws {
        var labs: [PodLab] = []
        defer { for lab in labs { try? lab.world.remove() } }
        for way in PodLab.Way.allCases {
            do {
                labs.append(try await PodLab.start(way, program: program, congestionControl: congestionControl))
            } catch {
                report.skip("\(name): \(way.rawValue)", "\(error)")
            }
        }
        var results = Results()
        // In turns, so that what else the machine does meets all of them.
        for round in 1...self.rounds {
            writeError("  \(name), round \(round)\n")
            for lab in labs {
                await results.attempt("\(name): TCP", lab.way, &report) { try await self.stream(lab) }
                await results.attempt("\(name): UDP", lab.way, &report) {
                    try await self.flood(lab, seconds: self.seconds).figures
                }
                await results.attempt("\(name): ping", lab.way, &report) { try await self.ping(lab) }
            }
        }
        self.tell(name, results, into: &report)
        guard congestionControl == nil, let ours = labs.first(where: { $0.way == .ours }) else { return }
        do { try await self.measureMemory(ours, into: &report) } catch { report.skip("\(name): memory", "\(error)") }
    }

    private func tell(_ name: String, _ results: Results, into report: inout Report) {
        let peers = PodLab.Way.allCases.filter { $0 != .ours }
        results.tell(name, of: .ours, beside: peers, into: &report) { $0.budget(beside: $1) }
        if let ours = results[.ours]?[.median], let routed = results[.routed]?[.median] {
            report.add("\(name): ping, p50 added to the route", ours - routed, "us", budget: .atMost(150))
        }
    }

    // MARK: Loads

    /// Runs the load, and returns its report and what it has cost those who carry.
    private func load(
        _ lab: PodLab,
        seconds: Int,
        _ options: [String]
    ) async throws -> (end: Document, carriers: Double?) {
        let before = try lab.usage()
        let text = try await lab.world.lab.output(
            on: try lab.client.name,
            ["iperf3", "-c", try lab.target, "-p", "\(PodLab.port)", "-J", "-t", "\(seconds)"] + options,
            deadline: .seconds(seconds + 30)
        )
        guard let end = try Document.parseJSON(Array(text.utf8))["end"] else {
            throw BenchmarkError("iperf3 says nothing of its end: \(text)")
        }
        let cpu = try before.flatMap { before in try lab.usage().map { ($0.cpu - before.cpu).inSeconds } }
        return (end, cpu)
    }

    private func stream(_ lab: PodLab) async throws -> [Measure: Double] {
        let (end, carriers) = try await self.load(lab, seconds: self.seconds, [])
        let gigabytes = try end.number("sum_received", "bytes") / 1e9
        let seconds = try end.number("sum_received", "seconds")
        let ends = try ["host_total", "remote_total"].reduce(0) {
            $0 + (try end.number("cpu_utilization_percent", $1)) / 100 * seconds
        }
        var figures = [
            Measure.throughput: try end.number("sum_received", "bits_per_second") / 1e9,
            .allCPU: (ends + (carriers ?? 0)) / gigabytes,
        ]
        if let carriers { figures[.carrierCPU] = carriers / gigabytes }
        return figures
    }

    /// Small datagrams, as many as their sender makes: more than arrive.
    private func flood(
        _ lab: PodLab,
        seconds: Int
    ) async throws -> (figures: [Measure: Double], arrived: Double) {
        let options = ["-u", "-b", "0", "-l", "\(Self.datagram)"]
        let (end, carriers) = try await self.load(lab, seconds: seconds, options)
        let arrived = try end.number("sum", "packets") - end.number("sum", "lost_packets")
        var figures = [Measure.datagrams: arrived / (try end.number("sum", "seconds")) / 1000]
        if let carriers { figures[.datagramCPU] = carriers / arrived * 1e6 }
        return (figures, arrived)
    }

    private func ping(_ lab: PodLab) async throws -> [Measure: Double] {
        let text = try await lab.world.lab.output(
            on: try lab.client.name,
            ["busybox", "ping", "-A", "-c", "\(self.pings)", try lab.target],
            deadline: .seconds(60)
        )
        let times = text.split(separator: "\n").compactMap { line in
            line.split(separator: " ").first { $0.hasPrefix("time=") }.flatMap { Double($0.dropFirst(5)) }
        }.sorted()
        guard times.count * 10 >= self.pings * 9 else {
            throw BenchmarkError("\(times.count) of \(self.pings) pings were answered")
        }
        return [.median: times[times.count / 2] * 1000, .tail: times[times.count * 99 / 100] * 1000]
    }

    // MARK: Memory

    private func measureMemory(_ lab: PodLab, into report: inout Report) async throws {
        // What the first packets make grow stays.
        _ = try await self.flood(lab, seconds: self.seconds)
        guard let before = try lab.usage() else { return }
        let flood = try await self.flood(lab, seconds: self.memorySeconds)
        guard let after = try lab.usage() else { return }
        func mebibytes(_ usage: ProcessUsage) -> Double { Double(usage.resident) / 1_048_576 }
        report.add(
            "pods: memory of both agents after \(Report.number(flood.arrived / 1e6)) million datagrams",
            mebibytes(after),
            "MiB",
            peer: ("before", mebibytes(before)),
            budget: .ratioAtMost(1.05)
        )
    }
}
