import Documents

extension Scenario {
    /// Reads a scenario file. An error names the file, the line and what to write instead.
    public static func read(from file: String) throws -> Scenario {
        try Self.parse(Files.read(file, limit: 1 << 20), file: file)
    }

    public static func parse(_ bytes: [UInt8], file: String) throws -> Scenario {
        let documents: [Document]
        do {
            documents = try Document.parseYAML(bytes)
        } catch {
            throw LabError(.invalidPlan, error.describe(in: file))
        }
        guard documents.count == 1 else {
            throw LabError(.invalidPlan, "\(file):1: a scenario is one YAML document, and here are \(documents.count)")
        }
        return try ScenarioReader(file: file).scenario(documents[0])
    }
}

/// Turns the document of a scenario file into a scenario, or says what is wrong with it and where.
private struct ScenarioReader {
    let file: String

    func scenario(_ document: Document) throws(LabError) -> Scenario {
        try self.checkKeys(
            of: document,
            "a scenario",
            ["name", "summary", "transport", "podNetwork", "lans", "services"]
        )
        var scenario = Scenario(name: try self.name(document, of: "scenario", limit: 24), lans: [])
        if let summary = document["summary"] { scenario.summary = try self.text(summary, "summary") }
        if let transport = document["transport"] { scenario.transport = try self.choice(transport, "transport") }
        scenario.hasPodNetwork = try self.flag(document, "podNetwork")
        var taken: [String: SourcePosition] = [
            Internet.core: .none, "switch": .none, WorldPlan.outside: .none,
        ]
        for entry in try self.array(document, "lans", of: "a scenario", mend: "- name: home") {
            scenario.lans.append(try self.lan(entry, taken: &taken))
        }
        guard !scenario.nodes.isEmpty else {
            throw self.error(document, "a scenario needs a node: write 'nodes: [{name: edge-1}]' below a LAN")
        }
        guard scenario.nodes.count <= Scenario.maximumNodes else {
            throw self.error(document, "\(scenario.nodes.count) nodes are too many: \(Scenario.maximumNodes) at most")
        }
        if document["services"] != nil {
            for entry in try self.array(document, "services", of: "a scenario", mend: "- {name: shop, nodes: [a, b]}") {
                scenario.services.append(try self.service(entry, nodes: scenario.nodes.map(\.name), taken: &taken))
            }
        }
        return scenario
    }

    private func lan(_ document: Document, taken: inout [String: SourcePosition]) throws(LabError) -> Scenario.LAN {
        try self.checkKeys(of: document, "a LAN", ["name", "nat", "link", "nodes"])
        var lan = Scenario.LAN(name: try self.name(document, of: "LAN", limit: 24, taken: &taken))
        if let nat = document["nat"] {
            lan.nat = try self.choice(nat, "nat", of: Scenario.natKinds.map(\.rawValue))
        }
        if let link = document["link"] { lan.link = try self.link(link) }
        for (index, entry) in try self.array(document, "nodes", of: "a LAN", mend: "- name: edge-1").enumerated() {
            let node = try self.node(entry, taken: &taken)
            guard !node.isRelay || lan.nat == .open || (lan.nat == .fullCone && index == 0) else {
                throw self.error(
                    entry["relay"] ?? entry,
                    "a relay has to be reachable: put '\(node.name)' into a LAN with 'nat: public', or first into one with 'nat: full-cone'"
                )
            }
            lan.nodes.append(node)
        }
        return lan
    }

    private func node(_ document: Document, taken: inout [String: SourcePosition]) throws(LabError) -> Scenario.Node {
        try self.checkKeys(of: document, "a node", ["name", "relay", "gateway", "pods", "link"])
        var node = Scenario.Node(name: try self.name(document, of: "node", limit: 24, taken: &taken))
        node.isRelay = try self.flag(document, "relay")
        node.isGateway = try self.flag(document, "gateway")
        if let pods = document["pods"] {
            guard let count = pods.integer, (0...Int64(Scenario.maximumPods)).contains(count) else {
                throw self.error(
                    pods,
                    "'pods' is a number from 0 to \(Scenario.maximumPods), and here it is \(pods.brief)"
                )
            }
            node.pods = Int(count)
        }
        if let link = document["link"] { node.link = try self.link(link) }
        return node
    }

    private func service(
        _ document: Document,
        nodes: [String],
        taken: inout [String: SourcePosition]
    ) throws(LabError) -> Scenario.Service {
        try self.checkKeys(of: document, "a service", ["name", "nodes", "balancing"])
        let name = try self.name(document, of: "service", limit: 24, taken: &taken)
        var service = Scenario.Service(name: name, nodes: [])
        for entry in try self.array(document, "nodes", of: "a service", mend: "[\(nodes.first ?? "")]") {
            service.nodes.append(try self.choice(entry, "a node of a service", of: nodes, as: { $0 }))
        }
        if let balancing = document["balancing"] { service.balancing = try self.choice(balancing, "balancing") }
        return service
    }

    private func link(_ document: Document) throws(LabError) -> LinkConditions {
        try self.checkKeys(of: document, "a link", LinkConditions.keys)
        var conditions = LinkConditions()
        for member in document.members ?? [] {
            let text =
                switch member.value.content {
                case .string(let text): text
                case .integer(let number): "\(number)"
                default: member.value.brief
                }
            do {
                try conditions.set(member.key, text)
            } catch {
                throw self.error(member.value, error.message)
            }
        }
        return conditions
    }

    // MARK: Values

    private func error(_ document: Document, _ message: String) -> LabError {
        self.error(at: document.position, message)
    }

    private func error(at position: SourcePosition, _ message: String) -> LabError {
        LabError(.invalidPlan, "\(self.file):\(position): \(message)")
    }

    private func checkKeys(of document: Document, _ what: String, _ keys: [String]) throws(LabError) {
        guard let members = document.members else {
            throw self.error(
                document,
                "\(what) has the keys \(keys.joined(separator: ", ")), and here is \(document.brief)"
            )
        }
        for member in members where !keys.contains(member.key) {
            throw self.error(
                at: member.keyPosition,
                "\(what) has no key '\(member.key)'; it has: \(keys.joined(separator: ", "))"
            )
        }
    }

    private func array(
        _ document: Document,
        _ key: String,
        of what: String,
        mend: String
    ) throws(LabError) -> [Document] {
        guard let value = document[key] else {
            throw self.error(document, "\(what) needs '\(key)': write '\(key):' with a list, such as '\(mend)'")
        }
        guard let entries = value.array else {
            throw self.error(value, "'\(key)' is a list such as '\(mend)', and here is \(value.brief)")
        }
        return entries
    }

    /// False if the key is not there.
    private func flag(_ document: Document, _ key: String) throws(LabError) -> Bool {
        guard let value = document[key] else { return false }
        guard let flag = value.bool else {
            throw self.error(value, "'\(key)' is true or false, and here it is \(value.brief)")
        }
        return flag
    }

    private func text(_ document: Document, _ key: String) throws(LabError) -> String {
        guard let text = document.string else {
            throw self.error(document, "'\(key)' is a text, and here is \(document.brief)")
        }
        return text
    }

    private func name(_ document: Document, of what: String, limit: Int) throws(LabError) -> String {
        guard let value = document["name"] else {
            throw self.error(document, "a \(what) needs a name: write 'name: \(what.lowercased())-1'")
        }
        let name = try self.text(value, "name")
        do {
            try LabPlan.checkName(name, of: what)
        } catch {
            throw self.error(value, error.message)
        }
        // Names of pods, files and interfaces are made of it.
        guard name.utf8.count <= limit else {
            throw self.error(value, "'\(name)' is longer than \(limit) characters: shorten it")
        }
        return name
    }

    private func name(
        _ document: Document,
        of what: String,
        limit: Int,
        taken: inout [String: SourcePosition]
    ) throws(LabError) -> String {
        let name = try self.name(document, of: what, limit: limit)
        let position = document["name"]?.position ?? document.position
        if let first = taken[name] {
            let place = first.line > 0 ? "is in line \(first.line) already" : "is the lab's own"
            throw self.error(
                at: position,
                "the name '\(name)' \(place): LANs, nodes and services have names of their own"
            )
        }
        taken[name] = position
        return name
    }

    private func choice<Choice: CaseIterable & RawRepresentable>(
        _ document: Document,
        _ key: String
    ) throws(LabError) -> Choice where Choice.RawValue == String {
        try self.choice(document, key, of: Choice.allCases.map(\.rawValue), as: Choice.init)
    }

    private func choice(_ document: Document, _ key: String, of choices: [String]) throws(LabError) -> NATKind {
        try self.choice(document, key, of: choices, as: NATKind.init)
    }

    private func choice<Choice>(
        _ document: Document,
        _ key: String,
        of choices: [String],
        as convert: (String) -> Choice?
    ) throws(LabError) -> Choice {
        guard let text = document.string, choices.contains(text), let choice = convert(text) else {
            throw self.error(
                document,
                "\(document.brief) is no value of '\(key)'; choose one of \(choices.joined(separator: ", "))"
            )
        }
        return choice
    }
}
