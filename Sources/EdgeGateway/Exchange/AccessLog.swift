import MeshCore
import NIOCore

/// What the access log tells of a request beside what the request itself tells.
struct AccessLogEntry {
    var status = 0
    var upstream: TransportAddress?
    var rule: String?
    var requestID = ""
    var retries = 0
    /// Why the gateway answered itself or broke off.
    var reason: String?
    /// What only an operator should see.
    var detail: String?
}

/// Lines of the access log; `docs/gateway.md` states their format.
enum AccessLog {
    static func line(_ exchange: Exchange, now: NIODeadline) -> String {
        let (head, log) = (exchange.head, exchange.log)
        let milliseconds = (now - exchange.started).nanoseconds / 1_000_000
        let words = [
            "\(exchange.client.address)", head.method, self.quoted(head.authority), self.quoted(head.target.text),
            head.version.text, "\(log.status)", "\(exchange.requestBytes)", "\(exchange.responseBytes)",
            "\(milliseconds)", log.upstream.map { "\($0)" } ?? "-", self.quoted(log.rule ?? ""), log.requestID,
            "\(log.retries)",
            self.quoted([log.reason, log.detail].compactMap { $0 }.joined(separator: ": ")),
        ]
        return words.joined(separator: " ")
    }

    private static func quoted(_ text: String) -> String {
        guard !text.isEmpty else { return "-" }
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\":
                quoted.unicodeScalars.append("\\")
                quoted.unicodeScalars.append(scalar)
            case " "..."~": quoted.unicodeScalars.append(scalar)
            default: quoted += "\\u{\(String(scalar.value, radix: 16))}"
            }
        }
        return quoted + "\""
    }
}

/// `X-Request-Id`: the client's if it is a short word, else one of our own.
enum RequestIdentity {
    static func identify(_ fields: inout HeaderFields, using generator: inout some RandomNumberGenerator) -> String {
        if let given = fields["x-request-id"], (1...128).contains(given.utf8.count), ASCII.isToken(given) {
            return given
        }
        var bits: UInt64 = 0
        let identity = String(unsafeUninitializedCapacity: 32) { digits in
            for index in 0..<32 {
                if index & 15 == 0 { bits = generator.next() }
                let digit = UInt8(truncatingIfNeeded: bits & 15)
                digits[index] = digit < 10 ? 0x30 + digit : 0x57 + digit
                bits >>= 4
            }
            return 32
        }
        fields.set("x-request-id", identity)
        return identity
    }
}
