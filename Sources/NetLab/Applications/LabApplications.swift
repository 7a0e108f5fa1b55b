import Documents
import Glibc
import MeshCore
import NIOCore
import NIOPosix

/// The small programs that run in labs: servers to be reached and a client that measures. `edgemesh lab app NAME …`.
public enum LabApplications {
    /// What `edgemesh lab app` prints without arguments.
    public static let usage = """
        edgemesh lab app hostname --name NAME [--listen 0.0.0.0:9376]      its name over HTTP and by UDP datagram
        edgemesh lab app tcp-echo [--banner TEXT] [--listen 0.0.0.0:2701]  speaks first, then echoes
        edgemesh lab app udp-echo [--listen 0.0.0.0:2701]                  echoes datagrams of any size
        edgemesh lab app websocket-echo [--listen 0.0.0.0:8080]            echoes messages
        edgemesh lab app tls --name NAME --certificate FILE --key FILE [--listen 0.0.0.0:443]   its name over HTTPS
        edgemesh lab app bulk [--listen 0.0.0.0:5201]                      takes or gives bytes, for `client throughput`
        edgemesh lab app pod --name NAME [--certificate FILE --key FILE]   all of these in one process: 9376 hostname,
                                                                           2701 tcp-echo, 2702 udp-echo, 8080 websocket,
                                                                           443 tls, 5201 bulk
        edgemesh lab app client \(LoadOptions.Mode.allCases.map(\.rawValue).joined(separator: "|")) --target HOST:PORT
            [--connections 1] [--requests N | --seconds S] [--interval MS] [--timeout MS] [--late MS]
            [--direction up|down] [-o text|json]
        """

    /// Runs an application until this task is cancelled; the client until its work is done.
    ///
    /// - Throws: `LabError`, or what the socket said.
    public static func run(name: String, arguments: [String]) async throws {
        signal(SIGPIPE, SIG_IGN)
        LoadClient.raiseFileLimit()
        if name == "client" {
            let options = try await LoadOptions(arguments)
            let report = try await LoadClient.run(options)
            writeToStandardOutput(options.printsJSON ? report.document.jsonText(pretty: true) + "\n" : report.text)
            return
        }
        let channels = try await Self.startServer(name: name, arguments: arguments)
        for channel in channels {
            writeToStandardOutput("\(name) listens on \(channel.localAddress?.description ?? "?")\n")
        }
        try await withTaskCancellationHandler {
            for channel in channels { try await channel.closeFuture.get() }
        } onCancel: {
            for channel in channels { channel.close(promise: nil) }
        }
    }

    /// Starts a server and returns its listening channels.
    static func startServer(name: String, arguments: [String]) async throws -> [any Channel] {
        switch name {
        case "hostname":
            let options = try LabArguments(arguments, known: ["name", "listen"])
            let address = try options.address("listen", default: "0.0.0.0:9376")
            let text = try options.required("name") + "\n"
            return [
                try await HTTPTextServer.start(on: address, text: text),
                try await DatagramServer.start(on: address) { _ in ByteBuffer(string: text) },
            ]
        case "tcp-echo":
            let options = try LabArguments(arguments, known: ["banner", "listen"])
            let banner = options.string("banner", default: "Welcome, you are connected to the tcp-echo server.") + "\n"
            return [try await EchoServer.start(on: options.address("listen", default: "0.0.0.0:2701"), banner: banner)]
        case "udp-echo":
            let options = try LabArguments(arguments, known: ["listen"])
            return [try await DatagramServer.start(on: options.address("listen", default: "0.0.0.0:2701")) { $0 }]
        case "websocket-echo":
            let options = try LabArguments(arguments, known: ["listen"])
            return [try await WebSocketEchoServer.start(on: options.address("listen", default: "0.0.0.0:8080"))]
        case "tls":
            let options = try LabArguments(arguments, known: ["name", "listen", "certificate", "key"])
            return [
                try await HTTPTextServer.start(
                    on: options.address("listen", default: "0.0.0.0:443"),
                    text: options.required("name") + "\n",
                    tls: .init(certificateFile: options.required("certificate"), keyFile: options.required("key"))
                )
            ]
        case "bulk":
            let options = try LabArguments(arguments, known: ["listen"])
            return [try await BulkServer.start(on: options.address("listen", default: "0.0.0.0:5201"))]
        case "pod": return try await Self.startPod(LabArguments(arguments, known: ["name", "certificate", "key"]))
        default:
            throw LabError(.usage, "there is no lab application '\(name)'; there are:\n\(Self.usage)")
        }
    }
}

extension LabApplications {
    /// All servers on the ports that they have by default.
    private static func startPod(_ options: LabArguments) async throws -> [any Channel] {
        let name = try options.required("name")
        var servers = [
            ("hostname", ["--name", name]), ("tcp-echo", ["--banner", name]),
            ("udp-echo", ["--listen", "0.0.0.0:2702"]),
            ("websocket-echo", []), ("bulk", []),
        ]
        let certificate = options.string("certificate", default: "")
        if !certificate.isEmpty {
            let files = ["--certificate", certificate, "--key", try options.required("key")]
            servers.append(("tls", ["--name", name] + files))
        }
        var channels: [any Channel] = []
        for (server, arguments) in servers {
            channels += try await Self.startServer(name: server, arguments: arguments)
        }
        return channels
    }
}

/// `--key value` arguments.
struct LabArguments {
    private var values: [String: String] = [:]
    /// What is no option, in order.
    private(set) var positional: [String] = []

    init(_ arguments: [String], known: [String]) throws(LabError) {
        var remaining = arguments[...]
        while let argument = remaining.popFirst() {
            guard argument.hasPrefix("-"), argument != "-" else {
                self.positional.append(argument)
                continue
            }
            let option = argument.drop { $0 == "-" }
            let parts = option.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            let key = parts.first ?? ""
            guard known.contains(key) else {
                let names = known.map { $0.count == 1 ? "-\($0)" : "--\($0)" }.joined(separator: " ")
                throw LabError(.usage, "unknown option '\(argument)'; there are: \(names)")
            }
            guard let value = parts.count == 2 ? parts[1] : remaining.popFirst() else {
                throw LabError(.usage, "option '\(argument)' wants a value")
            }
            self.values[key] = value
        }
    }

    func string(_ key: String, default value: String) -> String { self.values[key] ?? value }

    func required(_ key: String) throws(LabError) -> String {
        guard let value = self.values[key] else { throw LabError(.usage, "option '--\(key)' is missing") }
        return value
    }

    func integer(_ key: String, in range: ClosedRange<Int>) throws(LabError) -> Int? {
        guard let text = self.values[key] else { return nil }
        guard let number = Int(text), range.contains(number) else {
            throw LabError(.usage, "'--\(key) \(text)' is no number from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    func seconds(_ key: String) throws(LabError) -> Duration? {
        guard let text = self.values[key] else { return nil }
        guard let number = Double(text), number > 0, number < 1e6 else {
            throw LabError(.usage, "'--\(key) \(text)' is no number of seconds")
        }
        return .seconds(number)
    }

    func choice(_ key: String, of choices: [String]) throws(LabError) -> String {
        let text = self.values[key] ?? choices[0]
        guard choices.contains(text) else {
            throw LabError(.usage, "'--\(key) \(text)': choose one of \(choices.joined(separator: ", "))")
        }
        return text
    }

    func address(_ key: String, default value: String) throws(LabError) -> SocketAddress {
        let text = self.values[key] ?? value
        guard let address = TransportAddress(text),
            let socketAddress = try? SocketAddress(ipAddress: "\(address.address)", port: Int(address.port))
        else {
            throw LabError(.usage, "'--\(key) \(text)' is no address with a port, such as 0.0.0.0:80 or [::]:80")
        }
        return socketAddress
    }
}
