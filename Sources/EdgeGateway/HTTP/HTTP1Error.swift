/// Why bytes are no message that the gateway passes on.
struct HTTP1Error: Error, Sendable, Hashable, CustomStringConvertible {
    /// What a client is answered.
    var status: Int
    var message: String

    init(_ status: Int, _ message: String) {
        self.status = status
        self.message = message
    }

    init(_ message: String) { self.init(400, message) }

    var description: String { self.message }
}
