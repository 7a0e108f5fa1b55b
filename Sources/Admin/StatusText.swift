public import Documents

/// What `edgemesh status` prints for people, made of the agent's JSON. Reads leniently: a member that an older agent
/// does not send is left out.
public enum StatusText {
    /// The whole status.
    public static func overview(_ status: Document) -> String {
        var text = ""
        if let agent = status["agent"] { text += self.agent(agent) }
        if let gateway = status["edgeGateway"] { text += "\n" + GatewayText.overview(gateway) }
        text += "\n" + self.services(status)
        text += self.rejected(status)
        let warnings = (status["warnings"]?.array ?? []).compactMap(\.string) + self.complaints(status)
        if !warnings.isEmpty { text += "\n" + warnings.map { "Warning: \($0)\n" }.joined() }
        for name in ["edgeDNS", "edgeProxy", "edgeGateway", "catalog"] {
            var table = TextTable(header: [name.uppercased(), "COUNT"])
            for section in ["gauges", "counters"] { self.add(status[name]?[section], "", to: &table) }
            for section in ["queries", "cache", "forwarding"] { self.add(status[name]?[section], section, to: &table) }
            if !table.isEmpty { text += "\n" + table.text }
        }
        return text
    }

    /// The figures below `value`, each with the path that leads to it.
    private static func add(_ value: Document?, _ path: String, to table: inout TextTable) {
        for member in value?.members ?? [] {
            let name = path.isEmpty ? member.key : "\(path).\(member.key)"
            if member.value.members == nil {
                table.add([name, self.show(member.value)])
            } else {
                self.add(member.value, name, to: &table)
            }
        }
    }

    /// What is amiss in DNS and proxy, as they report it, in words.
    public static func complaints(_ status: Document) -> [String] {
        let (dns, proxy) = (status["edgeDNS"], status["edgeProxy"])
        var lines = (dns?["notListening"]?.members ?? []).map {
            "edgeDNS does not listen on \($0.key): \($0.value.string ?? "")"
        }
        lines += (dns?["problems"]?.array ?? []).compactMap { $0.string.map { "edgeDNS: \($0)" } }
        for upstream in dns?["upstreams"]?.array ?? [] {
            let address = upstream["address"]?.string ?? "?"
            switch upstream["state"]?.string {
            case "down":
                let failures = upstream["consecutiveFailures"]?.integer ?? 0
                lines.append("edgeDNS: upstream \(address) does not answer (\(failures) failures in a row)")
            case "looping":
                lines.append("edgeDNS: upstream \(address) sends our queries back and is not used")
            default: break
            }
        }
        if let error = proxy?["kernel"]?["lastError"]?.string {
            lines.append("edgeProxy: the kernel refused the service rules, the last good ones stay: \(error)")
        }
        for conflict in proxy?["conflicts"]?.array ?? [] {
            let text = { (key: String) in conflict[key]?.string ?? "?" }
            lines.append(
                "edgeProxy: two services claim \(text("frontend")): \(text("served")) is served, \(text("ignored")) is not"
            )
        }
        return lines + GatewayText.complaints(status["edgeGateway"])
    }

    private static func agent(_ agent: Document) -> String {
        var table: [(String, String)] = []
        let uptime = agent["uptimeSeconds"]?.integer.map { ", up \(self.duration($0))" } ?? ""
        let process = agent["pid"]?.integer.map { ", pid \($0)" } ?? ""
        table.append(
            (
                agent["role"]?.string == "gateway" ? "Gateway" : "Agent",
                "\(agent["version"]?.string ?? "?") on \(agent["node"]?.string ?? "?")\(uptime)\(process)"
            )
        )
        if let config = agent["config"] {
            var line = config["file"]?.string ?? "defaults"
            if let error = config["error"]?.string { line += " (not in force: \(error))" }
            table.append(("Config", line))
            if let restart = config["restartNeeded"]?.array, !restart.isEmpty {
                table.append(("Restart", "needed for " + restart.compactMap(\.string).joined(separator: ", ")))
            }
        }
        for source in agent["sources"]?.array ?? [] {
            var line = "\(source["state"]?.string ?? "?")  \(source["origin"]?.string ?? "")"
            if let seconds = source["forSeconds"]?.integer { line += "  for \(self.duration(seconds))" }
            if source["state"]?.string != "synced", let seconds = source["sinceSyncedSeconds"]?.integer {
                line += ", in step \(self.duration(seconds)) ago"
            }
            if let message = source["message"]?.string { line += "  (\(message))" }
            table.append(("Source", line))
        }
        for module in agent["modules"]?.members ?? [] {
            var line = module.value["state"]?.string ?? "?"
            if let message = module.value["message"]?.string, !message.isEmpty { line += "  \(message)" }
            table.append((module.key, line))
        }
        for warning in agent["warnings"]?.array ?? [] {
            table.append(("Warning", warning.string ?? ""))
        }
        let width = (table.map(\.0.count).max() ?? 0) + 2
        return table.map { name, value in
            name + String(repeating: " ", count: width - name.count) + value + "\n"
        }.joined()
    }

    private static func services(_ status: Document) -> String {
        let rows = status["services"]?.array ?? []
        guard !rows.isEmpty else { return "No services are known.\n" }
        var table = TextTable(
            header: ["NAMESPACE", "SERVICE", "TYPE", "ADDRESS", "PORTS", "READY", "POLICY", "PATH", "CALLS", "REASON"]
        )
        for row in rows {
            let text = { (key: String) in row[key]?.string ?? "" }
            let list = { (key: String) in (row[key]?.array ?? []).compactMap(\.string).joined(separator: ",") }
            table.add([
                text("namespace"), text("name"), text("type"), list("addresses").isEmpty ? "-" : list("addresses"),
                list("ports"), "\(row["ready"]?.integer ?? 0)/\(row["endpoints"]?.integer ?? 0)", text("policy"),
                text("path"), self.calls(row), text("reason"),
            ])
        }
        var result = table.text
        if let omitted = status["servicesOmitted"]?.integer, omitted > 0 {
            result += "... and \(omitted) more: `edgemesh status --limit \(rows.count + Int(omitted))` lists all\n"
        }
        return result
    }

    /// `12`, or `12 kernel, 3 user` where the ports of a service differ; `-` where nobody counts.
    private static func calls(_ row: Document) -> String {
        let calls = row["calls"]?.members ?? []
        guard calls.count > 1 else { return calls.first?.value.integer.map { "\($0)" } ?? "-" }
        return calls.map { "\($0.value.integer ?? 0) \($0.key)" }.joined(separator: ", ")
    }

    private static func rejected(_ status: Document) -> String {
        guard let rows = status["rejected"]?.array, !rows.isEmpty else { return "" }
        var table = TextTable(header: ["REJECTED", "NAME", "FIELD", "REASON"])
        for row in rows {
            table.add(["kind", "name", "field", "reason"].map { row[$0]?.string ?? "" })
        }
        let omitted = status["rejectedOmitted"]?.integer ?? 0
        return "\n" + table.text + (omitted > 0 ? "... and \(omitted) more: mend these first\n" : "")
    }

    /// One service with its endpoints.
    public static func service(_ service: Document) -> String {
        let text = { (key: String) in service[key]?.string ?? "" }
        let list = { (key: String) in (service[key]?.array ?? []).compactMap(\.string).joined(separator: ", ") }
        var result = "Service   \(text("namespace"))/\(text("name"))  \(text("type"))\n"
        result += "Address   \(list("addresses").isEmpty ? "-" : list("addresses"))\n"
        result += "Ports     \(list("ports"))\n"
        result += "Policy    \(text("policy"))"
        for member in service["portPolicies"]?.members ?? [] {
            result += "; port \(member.key): \(member.value.string ?? "")"
        }
        if let seconds = service["affinitySeconds"]?.integer { result += "; client address for \(seconds) s" }
        result += "\nPath      \(text("path"))\(text("reason").isEmpty ? "" : "  (\(text("reason")))")\n"
        result += "Calls     \(self.calls(service)) since the rules last changed\n\n"
        var table = TextTable(header: ["ENDPOINT", "PORT", "STATE", "NODE", "ZONE", "POD"])
        for endpoint in service["endpointList"]?.array ?? [] {
            table.add(["address", "port", "state", "node", "zone", "pod"].map { endpoint[$0]?.string ?? "" })
        }
        return result + (table.isEmpty ? "It has no endpoints.\n" : table.text)
    }

    private static func show(_ value: Document) -> String {
        switch value.content {
        case .integer(let number): String(number)
        case .number(let number): String(number)
        case .string(let text): text
        case .bool(let flag): flag ? "yes" : "no"
        default: value.jsonText(pretty: false)
        }
    }

    /// `93 s`, `12 min`, `3 h 5 min`, `4 d 2 h`.
    static func duration(_ seconds: Int64) -> String {
        switch seconds {
        case ..<120: "\(max(0, seconds)) s"
        case ..<7200: "\(seconds / 60) min"
        case ..<172_800: "\(seconds / 3600) h \(seconds % 3600 / 60) min"
        default: "\(seconds / 86_400) d \(seconds % 86_400 / 3600) h"
        }
    }
}
