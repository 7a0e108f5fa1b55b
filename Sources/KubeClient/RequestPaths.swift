import MeshCore

extension ReflectorStateMachine.ListRequest {
    var path: String {
        var query = self.resource.selector
        if let limit { query.append(("limit", "\(limit)")) }
        if let continueToken { query.append(("continue", continueToken)) }
        if !self.resourceVersion.isEmpty { query.append(("resourceVersion", self.resourceVersion)) }
        return self.resource.path + Self.encode(query)
    }
}

extension ReflectorStateMachine.WatchRequest {
    var path: String {
        self.resource.path
            + ReflectorStateMachine.ListRequest.encode(
                [("allowWatchBookmarks", "true")] + self.resource.selector + [
                    ("resourceVersion", self.resourceVersion), ("timeoutSeconds", "\(self.timeoutSeconds)"),
                    ("watch", "true"),
                ]
            )
    }
}

extension ReflectorStateMachine.ListRequest {
    fileprivate static func encode(_ query: [(String, String)]) -> String {
        query.isEmpty ? "" : "?" + query.map { "\($0)=\(Self.percentEncode($1))" }.joined(separator: "&")
    }

    /// RFC 3986: all but the unreserved characters is escaped.
    private static func percentEncode(_ text: String) -> String {
        let digits = Array("0123456789ABCDEF".utf8)
        var bytes: [UInt8] = []
        for byte in text.utf8 {
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
                UInt8(ascii: "~"):
                bytes.append(byte)
            default:
                bytes += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
