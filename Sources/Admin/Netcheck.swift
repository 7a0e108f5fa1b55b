public import Documents

/// `edgemesh netcheck`: how this node is reached, by which relays, and what keeps paths from being direct; concluded from the
/// tunnel's report.
public enum Netcheck {
    /// A problem and what to do about it.
    private struct Finding: Hashable {
        var problem: String
        var advice: String

        var document: Document { ["problem": .string(self.problem), "advice": .string(self.advice)] }
    }

    /// A punch that has not come off within this many seconds will not do so by itself.
    private static let punchPatience = 30

    // MARK: Conclusions

    /// - Parameter report: of the tunnel.
    public static func document(_ report: Document) -> Document {
        let list = { (key: String) in (report[key]?.array ?? []).compactMap(\.string) }
        let reachability = report["reachability"]?.string ?? "unknown"
        let publicAddresses = list("public")
        let nat = NATKind(
            (report["sightings"]?.array ?? []).compactMap { NATKind.Sighting($0) },
            isPublic: reachability == "public" || publicAddresses.contains { $0.hasPrefix("/ip4/") }
        )
        let isRelay = report["isRelay"]?.bool ?? false
        let relays = report["relays"]?.array ?? []
        let relayed = TunnelText.nodes(report).filter { $0.path["kind"]?.string == "relayed" }
        return [
            "reachability": .string(reachability), "nat": .string(nat.rawValue),
            "publicIPv6": .init(.bool(publicAddresses.contains { $0.hasPrefix("/ip6/") })),
            "transport": report["transport"] ?? nil, "sightings": report["sightings"] ?? [],
            "isRelay": .init(.bool(isRelay)),
            "listening": report["listening"] ?? [], "advertised": report["advertised"] ?? [],
            "observed": report["observed"] ?? [],
            "relays": .array(relays.map { self.relay($0, needsReservation: !isRelay && reachability != "public") }),
            "findings": .array(
                self.findings(hasRelay: isRelay || !relays.isEmpty, isPublic: reachability == "public").map(\.document)
            ),
            "relayed": .array(
                relayed.map { node, path in
                    [
                        "node": .string(node), "relay": path["relay"] ?? nil,
                        "rttMilliseconds": path["rttMilliseconds"] ?? nil,
                        "blockedBy": .array(self.blocks(node, path, report, nat).map(\.document)),
                    ]
                }
            ),
        ]
    }

    private static func findings(hasRelay: Bool, isPublic: Bool) -> [Finding] {
        guard !hasRelay, !isPublic else { return [] }
        return [
            Finding(
                problem: "no relay is known, so that nodes behind other NATs do not find this one",
                advice: "name one that all nodes reach in modules.edgeTunnel.relayNodes"
            )
        ]
    }

    private static func relay(_ relay: Document, needsReservation: Bool) -> Document {
        let isConnected = relay["connected"]?.bool ?? false
        let isReserved = relay["reservedUntil"]?.integer != nil
        let node = relay["node"]?.string ?? "?"
        let addresses = (relay["addresses"]?.array ?? []).compactMap(\.string).joined(separator: " or ")
        let finding: Finding? =
            if !isConnected {
                Finding(
                    problem: "\(node) is not connected",
                    advice:
                        "let this node connect to \(addresses.isEmpty ? "it" : addresses); is its agent up, with the same pre-shared key?"
                )
            } else { nil }
        let state = isReserved ? "reserved" : isConnected ? "connected" : "not connected"
        return [
            "node": .string(node), "origin": relay["origin"] ?? nil, "state": .string(state),
            "needed": .init(.bool(needsReservation)), "rttMilliseconds": relay["rttMilliseconds"] ?? nil,
            "reservedUntil": relay["reservedUntil"] ?? nil,
            "problem": finding.map { .string($0.problem) } ?? nil, "advice": finding.map { .string($0.advice) } ?? nil,
        ]
    }

    /// What keeps the path to a relayed node from being direct, as far as this side can tell.
    private static func blocks(_ node: String, _ path: Document, _ report: Document, _ nat: NATKind) -> [Finding] {
        var findings: [Finding] = []
        if report["holePunching"]?.bool == false {
            findings.append(
                Finding(
                    problem: "hole punching is off on this node",
                    advice: "set modules.edgeTunnel.holePunching: true and restart the agent"
                )
            )
        }
        if nat == .endpointDependent {
            findings.append(
                Finding(
                    problem: "the NAT of this node takes another port for each destination",
                    advice:
                        "lead a port of the gateway to the tunnel's port of this node, or let the gateway do so (modules.edgeTunnel.portMapping), or give both nodes public IPv6 addresses"
                )
            )
        }
        guard findings.isEmpty else { return findings }
        if let seconds = path["forSeconds"]?.integer, seconds < Self.punchPatience {
            return [
                Finding(
                    problem: "it is relayed for \(seconds) s only, a direct path may still come about",
                    advice: "watch it with `edgemesh ping \(node)`"
                )
            ]
        }
        guard report["reachability"]?.string != "public" else {
            return [
                Finding(
                    problem: "this node can be reached from outside, but \(node) does not dial it",
                    advice: "let the firewall of \(node) pass connections to \(self.outside(report))"
                )
            ]
        }
        return [
            Finding(
                problem: "nothing is found on this side; the NAT or a firewall of \(node) may be in the way",
                advice: "run `edgemesh netcheck` on \(node)"
            )
        ]
    }

    private static func outside(_ report: Document) -> String {
        (report["advertised"]?.array ?? []).compactMap(\.string).first { !$0.contains("/p2p-circuit") } ?? "this node"
    }

    // MARK: For people

    /// - Parameter check: as `document` has made it.
    public static func text(_ check: Document) -> String {
        let list = { (key: String) in
            let texts = (check[key]?.array ?? []).compactMap(\.string)
            return texts.isEmpty ? "-" : texts.joined(separator: ", ")
        }
        let nat = check["nat"]?.string.flatMap { NATKind(rawValue: $0) } ?? .unknown
        let reachability =
            switch check["reachability"]?.string {
            case "public": "peers can dial this node"
            case "private": "peers cannot dial this node"
            default: "unknown: no peer has tried yet to dial this node"
            }
        var text = "Reached   \(reachability)\n"
        text += "NAT       \(nat.words)\n"
        let hasIPv6 = check["publicIPv6"]?.bool == true
        text += "IPv6      \(hasIPv6 ? "public addresses, which no NAT changes" : "no public address")\n"
        if let transport = check["transport"]?.string {
            text += "Transport \(transport), TCP alone: whether UDP passes does not matter\n"
        }
        text += "Own       \(list("listening"))\n"
        text += "Seen as   \(list("observed"))\n"
        text += "Told      \(list("advertised"))\n"
        if check["isRelay"]?.bool == true { text += "Relay     this node relays for others\n" }
        text += self.findings(check["findings"]?.array ?? [], indent: "")
        var relays = TextTable(header: ["RELAY", "STATE", "RTT", "ORIGIN"])
        var problems: [Document] = []
        for relay in check["relays"]?.array ?? [] {
            let isLacking = relay["needed"]?.bool == true && relay["state"]?.string == "connected"
            relays.add([
                relay["node"]?.string ?? "?",
                (relay["state"]?.string ?? "?") + (isLacking ? ", no reservation" : ""),
                TunnelText.roundTrip(relay), relay["origin"]?.string ?? "",
            ])
            if relay["problem"]?.string != nil { problems.append(relay) }
        }
        if !relays.isEmpty { text += "\n" + relays.text + self.findings(problems, indent: "") }
        let relayed = check["relayed"]?.array ?? []
        if !relayed.isEmpty { text += "\nRelayed nodes, and what keeps the path from being direct:\n" }
        for node in relayed {
            text += "\(node["node"]?.string ?? "?"), via \(node["relay"]?.string ?? "?"), "
            text += TunnelText.roundTrip(node) + "\n"
            text += self.findings(node["blockedBy"]?.array ?? [], indent: "  ")
        }
        return text
    }

    private static func findings(_ findings: [Document], indent: String) -> String {
        findings.map {
            "\(indent)! \($0["problem"]?.string ?? "?")\n\(indent)  -> \($0["advice"]?.string ?? "?")\n"
        }.joined()
    }
}
