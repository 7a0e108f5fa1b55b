import Glibc
public import MeshCore

/// Finds the router of the default route.
public enum DefaultGateway {
    /// Reads the kernel's IPv4 routes, of this network namespace.
    public static func find() -> IPv4Address? {
        let file = open("/proc/net/route", O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16 * 1024)
        // A node of a cluster has some hundred routes; the default ones come first.
        while bytes.count < 1 << 20 {
            let count = read(file, &chunk, chunk.count)
            guard count > 0 else { break }
            bytes += chunk[..<count]
        }
        return Self.parse(String(decoding: bytes, as: UTF8.self))
    }

    /// The gateway of the default route with the lowest metric, in the format of `/proc/net/route` (proc(5)).
    static func parse(_ routes: String) -> IPv4Address? {
        var best: (metric: UInt32, gateway: IPv4Address)?
        for line in routes.split(separator: "\n").dropFirst() {
            let fields = line.split(whereSeparator: \.isWhitespace)
            // RTF_UP and RTF_GATEWAY.
            guard fields.count >= 8, fields[1] == "00000000", fields[7] == "00000000",
                let flags = UInt32(fields[3], radix: 16), flags & 3 == 3, let metric = UInt32(fields[6]),
                let gateway = UInt32(fields[2], radix: 16), gateway != 0, metric < best?.metric ?? .max
            else { continue }
            // The kernel prints the word as it lies in memory, in network byte order.
            best = (metric, IPv4Address(rawValue: UInt32(bigEndian: gateway)))
        }
        return best?.gateway
    }
}
