import NIOCore
import NIOPosix

/// What the load client does, and for how long.
struct LoadOptions: Sendable {
    enum Mode: String, Sendable, CaseIterable {
        /// HTTP GETs, each on a connection of its own, counted by the text of the answer.
        case http
        /// The same over TLS, whatever the server's certificate is.
        case https
        /// A connection to `lab app tcp-echo`, a line to it and back; counted by the server's banner.
        case tcp
        /// A WebSocket connection to `lab app websocket-echo`, a message to it and back.
        case websocket
        /// Datagrams, each from a socket of its own, counted by the text of the answer.
        case udp
        /// Connects and closes.
        case connect
        /// Bytes to or from `lab app bulk`.
        case throughput
        /// Opens connections and holds them.
        case idle
    }

    var mode: Mode
    var target: SocketAddress
    /// Workers that each have one exchange open at a time; for `idle`, connections to hold.
    var connections = 1
    /// All workers together; nil if time decides.
    var requests: Int?
    var duration: Duration?
    /// From the end of an exchange to the start of the next on the same worker.
    var interval: Duration = .zero
    /// For one exchange.
    var timeout: Duration = .seconds(5)
    /// An exchange that took longer came late.
    var late: Duration = .seconds(1)
    var uploads = false
    var printsJSON = false

    init(mode: Mode, target: SocketAddress) {
        self.mode = mode
        self.target = target
    }

    init(_ arguments: [String]) async throws {
        let options = try LabArguments(
            arguments,
            known: ["target", "connections", "requests", "seconds", "interval", "timeout", "late", "direction", "o"]
        )
        guard options.positional.count == 1, let mode = Mode(rawValue: options.positional[0]) else {
            throw LabError(.usage, "say what to do: client \(Mode.allCases.map(\.rawValue).joined(separator: "|"))")
        }
        let target = try options.required("target")
        guard let colon = target.lastIndex(of: ":"), let port = UInt16(target[target.index(after: colon)...]) else {
            throw LabError(.usage, "'--target \(target)' is not of the form HOST:PORT")
        }
        let host = String(target[..<colon].filter { $0 != "[" && $0 != "]" })
        // Once, and not on an event loop: the exchanges themselves dial addresses.
        let address: SocketAddress
        do {
            address = try await NIOThreadPool.singleton.runIfActive {
                try SocketAddress.makeAddressResolvingHost(host, port: Int(port))
            }
        } catch {
            throw LabError(.usage, "cannot resolve '\(host)'", cause: "\(error)")
        }
        self.init(mode: mode, target: address)
        self.connections = try options.integer("connections", in: 1...100_000) ?? 1
        self.requests = try options.integer("requests", in: 1...1_000_000_000)
        self.duration = try options.seconds("seconds")
        self.interval = .milliseconds(try options.integer("interval", in: 0...60_000) ?? 0)
        self.timeout = .milliseconds(try options.integer("timeout", in: 1...600_000) ?? 5000)
        self.late = .milliseconds(try options.integer("late", in: 1...600_000) ?? 1000)
        self.uploads = try options.choice("direction", of: ["down", "up"]) == "up"
        self.printsJSON = try options.choice("o", of: ["text", "json"]) == "json"
        if self.requests == nil, self.duration == nil {
            switch mode {
            case .http, .https, .tcp, .websocket, .udp, .connect: self.requests = self.connections
            case .throughput, .idle: self.duration = .seconds(5)
            }
        }
    }
}
