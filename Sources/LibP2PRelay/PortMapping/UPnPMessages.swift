import MeshCore

/// An `http` address of a gateway: always an IPv4 address, as everything in UPnP comes from the gateway itself.
struct GatewayURL: Hashable {
    var host: IPv4Address
    var port: UInt16
    /// With its query.
    var path: String

    init(host: IPv4Address, port: UInt16, path: String) {
        self.host = host
        self.port = port
        self.path = path
    }

    init?(_ text: some StringProtocol) {
        let scheme = "http://"
        guard text.utf8.count <= 1024, text.lowercased().hasPrefix(scheme),
            text.utf8.allSatisfy({ (0x21...0x7E).contains($0) })
        else { return nil }
        let rest = text.dropFirst(scheme.count)
        let end = rest.firstIndex(of: "/") ?? rest.endIndex
        let authority = rest[..<end].split(separator: ":", omittingEmptySubsequences: false)
        guard (1...2).contains(authority.count), let host = IPv4Address(authority[0]) else { return nil }
        var port: UInt16 = 80
        if authority.count == 2 {
            guard let given = UInt16(authority[1]), given != 0 else { return nil }
            port = given
        }
        self.init(host: host, port: port, path: end == rest.endIndex ? "/" : String(rest[end...]))
    }

    /// An address as a document at this one gives it; nil if it leads to another host.
    func resolving(_ text: String) -> GatewayURL? {
        if text.lowercased().hasPrefix("http://") {
            guard let url = GatewayURL(text), url.host == self.host else { return nil }
            return url
        }
        guard !text.contains("://"), text.utf8.count <= 1024, text.utf8.allSatisfy({ (0x21...0x7E).contains($0) })
        else { return nil }
        return GatewayURL(host: self.host, port: self.port, path: text.hasPrefix("/") ? text : "/\(text)")
    }
}

/// What UPnP gateways and their clients say to each other (UPnP Device Architecture 1.1, Internet Gateway Device 1 and 2).
enum UPnP {
    static let searchTargets = [
        "urn:schemas-upnp-org:device:InternetGatewayDevice:2", "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    ]
    /// In the order of preference.
    private static let services = [
        "urn:schemas-upnp-org:service:WANIPConnection:2", "urn:schemas-upnp-org:service:WANIPConnection:1",
        "urn:schemas-upnp-org:service:WANPPPConnection:1",
    ]

    /// The service of a gateway that maps ports.
    struct Service: Hashable {
        var type: String
        var control: GatewayURL
    }

    static func search(for target: String) -> String {
        "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: \(target)\r\n\r\n"
    }

    /// Where the sender of an answer to a search describes itself; nil if the text is no such answer.
    static func location(in answer: String) -> GatewayURL? {
        let lines = answer.split(separator: "\r\n").prefix(64)
        guard let status = lines.first, status.hasPrefix("HTTP/1."), status.contains(" 200") else { return nil }
        for line in lines {
            guard let colon = line.firstIndex(of: ":"), line[..<colon].lowercased() == "location" else { continue }
            return GatewayURL(line[line.index(after: colon)...].filter { $0 != " " })
        }
        return nil
    }

    /// The best service in a device's description; nil if it has none that maps ports.
    static func service(in description: [UInt8], at location: GatewayURL) throws(LibP2PRelayError) -> Service? {
        var scanner = XMLScanner(description)
        var base = location
        var element = ""
        var type: String?
        var control: String?
        var best: (rank: Int, service: Service)?
        while let event = try scanner.next() {
            switch event {
            case .start(let name):
                element = name
                if name == "service" { (type, control) = (nil, nil) }
            case .text(let text):
                let text = String(text.filter { !$0.isWhitespace })
                switch element {
                case "URLBase": base = location.resolving(text) ?? base
                case "serviceType": type = text
                case "controlURL": control = text
                default: break
                }
            case .end(let name):
                element = ""
                guard name == "service", let type, let rank = Self.services.firstIndex(of: type),
                    let url = control.flatMap({ base.resolving($0) }), rank < best?.rank ?? .max
                else { continue }
                best = (rank, Service(type: type, control: url))
            }
        }
        return best?.service
    }

    /// A call of the service.
    enum Action: Hashable {
        case externalAddress
        case add(client: IPv4Address, internalPort: UInt16, externalPort: UInt16, lifetime: UInt32)
        case delete(externalPort: UInt16)

        var name: String {
            switch self {
            case .externalAddress: "GetExternalIPAddress"
            case .add: "AddPortMapping"
            case .delete: "DeletePortMapping"
            }
        }

        private var arguments: [(String, String)] {
            switch self {
            case .externalAddress: []
            case .add(let client, let internalPort, let externalPort, let lifetime):
                [
                    ("NewRemoteHost", ""), ("NewExternalPort", "\(externalPort)"), ("NewProtocol", "TCP"),
                    ("NewInternalPort", "\(internalPort)"), ("NewInternalClient", "\(client)"), ("NewEnabled", "1"),
                    ("NewPortMappingDescription", "edgemesh"), ("NewLeaseDuration", "\(lifetime)"),
                ]
            case .delete(let externalPort):
                [("NewRemoteHost", ""), ("NewExternalPort", "\(externalPort)"), ("NewProtocol", "TCP")]
            }
        }

        func body(for service: String) -> String {
            let arguments = self.arguments.map { "<\($0)>\($1)</\($0)>" }.joined()
            return """
                <?xml version="1.0"?>\r
                <s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" \
                s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">\
                <s:Body><u:\(self.name) xmlns:u="\(service)">\(arguments)</u:\(self.name)></s:Body></s:Envelope>
                """
        }
    }
}
