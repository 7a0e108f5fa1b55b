public import Documents

/// A request to the admin interface, cut down to what its routes need.
public struct AdminRequest: Hashable, Sendable {
    public enum Method: String, Hashable, Sendable {
        case get = "GET"
        case post = "POST"
    }

    public var method: Method
    /// Without the query.
    public var path: String
    public var query: [String: String]

    public init(method: Method = .get, path: String, query: [String: String] = [:]) {
        self.method = method
        self.path = path
        self.query = query
    }

    /// Reads a request target such as `/status?service=default/web`. Nil if the method is not served or the target is
    /// no path.
    public init?(method: String, target: String) {
        guard let method = Method(rawValue: method), target.first == "/" else { return nil }
        self.method = method
        let parts = target.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        self.path = String(parts[0])
        self.query = [:]
        guard parts.count == 2 else { return }
        for pair in parts[1].split(separator: "&") {
            let sides = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            self.query[String(sides[0])] = sides.count == 2 ? Self.percentDecoded(sides[1]) : ""
        }
    }

    private static func percentDecoded(_ text: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "%"), rest.count >= 2,
                let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
            {
                bytes.append(value)
                rest.removeFirst(2)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// An answer of the admin interface.
public struct AdminResponse: Hashable, Sendable {
    /// The HTTP status code.
    public var status: Int
    public var contentType: String
    public var body: String

    public init(status: Int, contentType: String = "text/plain; charset=utf-8", body: String) {
        self.status = status
        self.contentType = contentType
        self.body = body
    }

    public static func json(_ document: Document, status: Int = 200) -> AdminResponse {
        AdminResponse(status: status, contentType: "application/json", body: document.jsonText(pretty: false) + "\n")
    }
}

/// What went wrong between the command line and the agent, or when the admin interface was opened.
public struct AdminError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: String, Hashable, Sendable {
        /// No agent answers on the socket.
        case notRunning
        /// The socket is there, but may not be used.
        case forbidden
        /// Something answered that is no agent, or too much, or too late.
        case badAnswer
        /// The socket or port could not be opened.
        case cannotListen
    }

    public var code: Code
    public var message: String

    public init(code: Code, message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { self.message }
}
