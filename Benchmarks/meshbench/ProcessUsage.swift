import Glibc
import MeshCore

/// What the kernel has counted for one process. Read from `/proc`, so it holds for any program.
struct ProcessUsage {
    /// User and system CPU time.
    var cpu: Duration
    /// Resident memory, and the part of it that is the process's own (not mapped from files), in bytes.
    var resident: UInt64
    var anonymous: UInt64

    /// The usage of a process now.
    init(of processID: Int32) throws {
        let (user, system) = try Self.ticks(of: processID)
        self.cpu = .milliseconds((user + system) * 1000 / Int64(sysconf(Int32(_SC_CLK_TCK))))
        let rollup = try readText("/proc/\(processID)/smaps_rollup")
        func kilobytes(_ key: String) -> UInt64 {
            for line in rollup.split(separator: "\n") where line.hasPrefix("\(key):") {
                return line.split(separator: " ").dropFirst().first.flatMap { UInt64($0) } ?? 0
            }
            return 0
        }
        self.resident = kilobytes("Rss") << 10
        self.anonymous = kilobytes("Anonymous") << 10
    }

    /// User and system CPU time in the kernel's ticks, also of a process that has ended and is not reaped.
    static func ticks(of processID: Int32) throws -> (user: Int64, system: Int64) {
        let stat = try readText("/proc/\(processID)/stat")
        // The command name may hold spaces: fields are counted from the last parenthesis.
        let fields = stat[(stat.lastIndex(of: ")") ?? stat.startIndex)...].split(separator: " ")
        guard fields.count > 13, let user = Int64(fields[12]), let system = Int64(fields[13]) else {
            throw BenchmarkError("cannot read the CPU time of process \(processID)")
        }
        return (user, system)
    }

    /// The usage of several processes added up, such as a server and its workers.
    static func total(of processIDs: [Int32]) throws -> ProcessUsage {
        var total = try ProcessUsage(of: processIDs[0])
        for processID in processIDs.dropFirst() {
            let usage = try ProcessUsage(of: processID)
            total.cpu += usage.cpu
            total.resident += usage.resident
            total.anonymous += usage.anonymous
        }
        return total
    }
}

/// Why a benchmark could not be made; never a slow figure.
struct BenchmarkError: Error, CustomStringConvertible {
    var description: String

    init(_ description: String) {
        self.description = description
    }
}

func readText(_ path: String) throws -> String {
    guard let file = fopen(path, "r") else { throw BenchmarkError("cannot read \(path): errno \(errno)") }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 64 << 10)
    while case let count = fread(&chunk, 1, chunk.count, file), count > 0 { bytes += chunk[..<count] }
    return String(decoding: bytes, as: UTF8.self)
}

func writeText(_ text: String, to path: String) throws {
    guard let file = fopen(path, "w") else { throw BenchmarkError("cannot write \(path): errno \(errno)") }
    defer { fclose(file) }
    guard fputs(text, file) >= 0 else { throw BenchmarkError("cannot write \(path)") }
}
