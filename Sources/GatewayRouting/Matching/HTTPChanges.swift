/// A list of headers that can be changed; NIO's `HTTPHeaders` has these methods.
public protocol EditableHeaders {
    mutating func remove(name: String)
    mutating func replaceOrAdd(name: String, value: String)
    mutating func add(name: String, value: String)
}

extension HeaderEdits {
    public func apply(to headers: inout some EditableHeaders) {
        for name in self.remove { headers.remove(name: name) }
        for field in self.set { headers.replaceOrAdd(name: field.name, value: field.value) }
        for field in self.add { headers.add(name: field.name, value: field.value) }
    }
}

extension PathRewrite {
    /// The new path; nil if it took too much work.
    /// - Parameter match: by which the request came, see `HTTPRule.match`.
    public func path(of path: String, match: HTTPMatch?) -> String? {
        switch self {
        case .full(let text): return text
        case .prefix(let text): return Self.replacingPrefix(of: path, match: match, by: text)
        case .regex(let regex, let substitution):
            guard let substitution = try? RegexSubstitution(substitution, groups: regex.groupCount) else { return path }
            guard let result = regex.replacing(in: path, with: substitution) else { return nil }
            return result.utf8.first == UInt8(ascii: "/") ? result : "/" + result
        }
    }

    private static func replacingPrefix(of path: String, match: HTTPMatch?, by text: String) -> String {
        guard let pathMatch = match?.path else { return path }
        // A regular expression has no prefix: all of it is replaced.
        guard let length = pathMatch.prefixLength(in: path) else { return text }
        let rest = path.utf8.dropFirst(length)
        guard case .elements = pathMatch else {
            let isDoubled = text.utf8.last == UInt8(ascii: "/") && rest.first == UInt8(ascii: "/")
            let result = text + Substring(isDoubled ? rest.dropFirst() : rest)
            return result.utf8.first == UInt8(ascii: "/") ? result : "/" + result
        }
        // Whole elements: one slash between what is new and what stays.
        let prefix = text.utf8.last == UInt8(ascii: "/") ? text.utf8.dropLast() : text.utf8[...]
        let result = String(Substring(prefix)) + Substring(rest)
        return result.isEmpty ? "/" : result
    }
}

extension HTTPFilters {
    /// The target that the backend is asked for; nil if rewriting took too much work.
    public func target(of request: some GatewayRequest, match: HTTPMatch?) -> String? {
        guard let path = self.path else { return request.query.map { "\(request.path)?\($0)" } ?? request.path }
        guard let path = path.path(of: request.path, match: match) else { return nil }
        // A new path may bring a query of its own, which then goes first.
        guard let query = request.query else { return path }
        return path.utf8.contains(UInt8(ascii: "?")) ? "\(path)&\(query)" : "\(path)?\(query)"
    }
}

extension HTTPRedirect {
    /// The `Location`; nil if making it took too much work.
    public func location(for request: some GatewayRequest, match: HTTPMatch?) -> String? {
        let asked = RequestHost(request.authority)
        let scheme = self.scheme ?? request.scheme
        let port: UInt16? =
            switch self.port {
            case .number(let number): number
            case .ofRequest: asked?.port
            case .omitted: nil
            case .automatic: self.scheme == nil ? request.port : nil
            }
        let defaultPort: UInt16? = scheme == "http" ? 80 : scheme == "https" ? 443 : nil
        let name = self.host ?? asked?.name ?? ""
        let host = name.utf8.contains(UInt8(ascii: ":")) && name.utf8.first != UInt8(ascii: "[") ? "[\(name)]" : name
        let suffix = port == nil || port == defaultPort ? "" : ":\(port ?? 0)"
        var filters = HTTPFilters()
        filters.path = self.path
        guard var target = filters.target(of: request, match: match) else { return nil }
        // A query of its own stands alone.
        if case .full(let path) = self.path, path.utf8.contains(UInt8(ascii: "?")) { target = path }
        return "\(scheme)://\(host)\(suffix)\(target)"
    }

    /// What a server with `httpsRedirect` answers.
    public static let toHTTPS: HTTPRedirect = {
        var redirect = HTTPRedirect(status: 301)
        redirect.scheme = "https"
        return redirect
    }()
}
