import DNSWire
import Documents

/// What one event loop counted.
struct QueryCounters: Hashable, Sendable {
    var overUDP: UInt64 = 0
    var overTCP: UInt64 = 0
    var ignored: UInt64 = 0
    var clusterAnswers: UInt64 = 0
    var cacheHits: UInt64 = 0
    var cacheMisses: UInt64 = 0
    var staleAnswers: UInt64 = 0
    var prefetches: UInt64 = 0
    var rateLimited: UInt64 = 0
    var connections: UInt64 = 0
    var refusedConnections: UInt64 = 0
    /// Times that no connection was accepted for a while: descriptors or memory were short.
    var acceptsPaused: UInt64 = 0
    /// By question type, in the order of `countedTypes`; the last is for all others.
    private(set) var types = [UInt64](repeating: 0, count: countedTypes.count + 1)
    /// By response code; the last is for all over 15.
    private(set) var codes = [UInt64](repeating: 0, count: 17)

    static let countedTypes: [RecordType] = [.a, .aaaa, .srv, .ptr]

    mutating func count(_ type: RecordType) {
        let index =
            switch type {
            case .a: 0
            case .aaaa: 1
            case .srv: 2
            case .ptr: 3
            default: QueryCounters.countedTypes.count
            }
        self.types[index] &+= 1
    }

    mutating func count(_ code: ResponseCode) {
        self.codes[min(Int(code.rawValue), 16)] &+= 1
    }

    static func + (lhs: QueryCounters, rhs: QueryCounters) -> QueryCounters {
        var sum = lhs
        for path in QueryCounters.named.map(\.path) { sum[keyPath: path] &+= rhs[keyPath: path] }
        sum.types = zip(lhs.types, rhs.types).map(&+)
        sum.codes = zip(lhs.codes, rhs.codes).map(&+)
        return sum
    }

    private static var named: [(name: String, path: WritableKeyPath<QueryCounters, UInt64>)] {
        [
            ("overUDP", \.overUDP), ("overTCP", \.overTCP), ("ignored", \.ignored),
            ("clusterAnswers", \.clusterAnswers),
            ("cacheHits", \.cacheHits), ("cacheMisses", \.cacheMisses), ("staleAnswers", \.staleAnswers),
            ("prefetches", \.prefetches), ("rateLimited", \.rateLimited), ("connections", \.connections),
            ("refusedConnections", \.refusedConnections), ("acceptsPaused", \.acceptsPaused),
        ]
    }

    /// By the name of the question's type; those that are not counted by themselves are `other`.
    var byType: [(type: String, count: UInt64)] {
        Array(zip(QueryCounters.countedTypes.map(\.description) + ["other"], self.types)).map { ($0, $1) }
    }

    /// Those that occurred, by name.
    var byCode: [(code: String, count: UInt64)] {
        self.codes.enumerated().filter { $0.element > 0 }.map { code, count in
            (code == 16 ? "other" : ResponseCode(rawValue: UInt16(code)).description, count)
        }
    }

    var document: Document {
        var members = QueryCounters.named.map { Document.Member($0.name, .integer(self[keyPath: $0.path])) }
        members.append(.init("byType", .object(self.byType.map { .init($0.type, .integer($0.count)) })))
        members.append(.init("byCode", .object(self.byCode.map { .init($0.code, .integer($0.count)) })))
        return .object(members)
    }
}
