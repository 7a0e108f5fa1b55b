import Glibc
import LibP2P
import LibP2PRelay
import NIOCore
import Testing
import Yamux

@testable import LibP2PDiscovery

/// docs/libp2p.md lists what bounds a host: every setting that is a number, and every bound that is fixed, as they are.
@Suite struct LimitsDocumentationTests {
    private static let root = #filePath.split(separator: "/").dropLast(3).map { "/\($0)" }.joined()

    private static func text(of path: String) throws -> String {
        let file = try #require(fopen("\(self.root)/\(path)", "r"), "\(path) cannot be read")
        defer { fclose(file) }
        var text: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while case let count = fread(&chunk, 1, chunk.count, file), count > 0 { text += chunk[..<count] }
        return String(decoding: text, as: UTF8.self)
    }

    /// The rows `| name | value | …` of the tables, names in backquotes.
    private static func documented() throws -> [String: String] {
        var rows: [String: String] = [:]
        for line in try self.text(of: "docs/libp2p.md").split(separator: "\n") where line.hasPrefix("| `") {
            let cells = line.split(separator: "|").map { $0.drop { $0 == " " } }
            let name = String(cells[0].dropFirst().prefix { $0 != "`" })
            var value = String(cells[1])
            while value.last == " " { value.removeLast() }
            #expect(rows.updateValue(value, forKey: name) == nil, "\(name) is listed twice")
        }
        return rows
    }

    @Test func everySettingIsListed() throws {
        var settings: [String: String] = [:]
        Self.list(HostConfiguration(), "HostConfiguration", in: &settings)
        Self.list(WebSocketTransport.Configuration(), "WebSocketTransport.Configuration", in: &settings)
        Self.list(RelayServiceConfiguration(), "RelayServiceConfiguration", in: &settings)
        Self.list(RelayClientConfiguration(), "RelayClientConfiguration", in: &settings)
        Self.list(AutoNATConfiguration(), "AutoNATConfiguration", in: &settings)
        Self.list(AutoNATServerConfiguration(), "AutoNATServerConfiguration", in: &settings)
        Self.list(ObservedAddressConfiguration(), "ObservedAddressConfiguration", in: &settings)
        Self.list(HolePunchConfiguration(), "HolePunchConfiguration", in: &settings)
        Self.list(PortMappingConfiguration(), "PortMappingConfiguration", in: &settings)
        Self.list(KademliaConfiguration.wan(), "KademliaConfiguration", in: &settings)
        Self.list(MDNSConfiguration(), "MDNSConfiguration", in: &settings)
        Self.list(HostCapacity(), "HostCapacity", in: &settings)
        try Self.compare(settings) {
            !$0.contains(" fixed") && $0.contains("Configuration") || $0.hasPrefix("HostCapacity")
        }
    }

    /// Bounds that no configuration changes, by the type that has them.
    @Test func everyFixedBoundIsListed() throws {
        var bounds: [String: String] = [:]
        let targets = [
            "LibP2P", "LibP2PRelay", "LibP2PDiscovery", "LibP2PSecurity", "Yamux", "Multiformats", "PeerIdentity",
        ]
        for target in targets {
            for file in try Self.files(below: "Sources/\(target)") { Self.list(try Self.text(of: file), in: &bounds) }
        }
        #expect(bounds.count > 40, "the sources were not found")
        try Self.compare(bounds) { !$0.contains("Configuration") && !$0.hasPrefix("HostCapacity") }
    }

    private static func compare(_ actual: [String: String], of section: (String) -> Bool) throws {
        let documented = try self.documented().filter { section($0.key) }
        for (name, value) in actual.sorted(by: { $0.key < $1.key }) {
            #expect(documented[name] == value, "| `\(name)` | \(value) |")
        }
        for name in documented.keys.sorted() { #expect(actual[name] != nil, "\(name) is no more") }
    }

    // MARK: Settings

    /// Lists the numbers of a configuration under their paths.
    private static func list(_ value: Any, _ path: String, in settings: inout [String: String]) {
        switch value {
        case let value as TimeAmount: settings[path] = self.text(of: value)
        case let value as Double: settings[path] = "\(value)"
        case let value as any FixedWidthInteger: settings[path] = self.text(of: Int(value), path)
        case let limits as [ProtocolID: ResourceLimits.Streams]:
            for (name, streams) in limits { self.list(streams, "\(path)[\(name)]", in: &settings) }
        default:
            let mirror = Mirror(reflecting: value)
            switch mirror.displayStyle {
            case .optional:
                if let value = mirror.children.first?.value { self.list(value, path, in: &settings) }
            case .struct where self.isWithoutParts(value): break
            case .struct, .tuple:
                for child in mirror.children {
                    self.list(child.value, "\(path).\(child.label ?? "")", in: &settings)
                }
            default: break
            }
        }
    }

    /// Addresses, names and the like are no limits.
    private static func isWithoutParts(_ value: Any) -> Bool {
        value is any CustomStringConvertible || value is any StringProtocol || value is any Collection
    }

    private static func text(of amount: TimeAmount) -> String {
        let milliseconds = amount.nanoseconds / 1_000_000
        return milliseconds % 1000 == 0 ? "\(milliseconds / 1000) s" : "\(milliseconds) ms"
    }

    private static func text(of number: Int, _ path: String) -> String {
        let isBytes = ["bytes", "budget", "mark.low", "mark.high"].contains { path.lowercased().hasSuffix($0) }
        guard isBytes, number >= 1024, number % 1024 == 0 else { return "\(number)" }
        return number % (1 << 20) == 0 ? "\(number >> 20) MiB" : "\(number >> 10) KiB"
    }

    // MARK: Fixed bounds

    private static func files(below folder: String) throws -> [String] {
        guard let entries = opendir("\(self.root)/\(folder)") else { return [] }
        defer { closedir(entries) }
        var files: [String] = []
        while let entry = readdir(entries) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name.hasSuffix(".swift") {
                files.append("\(folder)/\(name)")
            } else if !name.hasPrefix("."), !name.hasSuffix(".docc") {
                files += try self.files(below: "\(folder)/\(name)")
            }
        }
        return files
    }

    /// `static let maximum… = 8 * 1024`, within the type that was declared last.
    private static func list(_ source: String, in bounds: inout [String: String]) {
        var type = ""
        for line in source.split(separator: "\n") {
            let words = line.split(separator: " ").map { $0.filter { $0 != ":" && $0 != "{" } }
            let kinds: Set = ["struct", "enum", "class", "extension"]
            if line.first != " ", let index = words.firstIndex(where: { kinds.contains($0) }), index + 1 < words.count {
                type = words[index + 1]
            }
            guard let index = words.firstIndex(of: "let"), index > 0, words[index - 1] == "static",
                words[index + 1].hasPrefix("maximum"), let equals = words.firstIndex(of: "=")
            else { continue }
            let factors = words[(equals + 1)...].filter { $0 != "*" }.map { Int($0.filter { $0 != "_" }) ?? 0 }
            bounds["\(type).\(words[index + 1])"] = "\(factors.reduce(1, *))"
        }
    }
}
