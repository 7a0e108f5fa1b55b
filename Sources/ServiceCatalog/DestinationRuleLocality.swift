import KubeModel
import LoadBalancing

extension LocalityPreference {
    /// Nil if the rule turns it off.
    init?(_ setting: DestinationRuleObject.LocalitySetting, field: String) throws(RuleRefusal) {
        guard setting.isEnabled else { return nil }
        let kinds = [!setting.distribute.isEmpty, !setting.failover.isEmpty, !setting.failoverPriority.isEmpty]
        guard !kinds[0] || !kinds[1] && !kinds[2] else {
            throw RuleRefusal(
                field: field,
                reason: "distribute stands alone: failover and failoverPriority need it gone"
            )
        }
        if !setting.distribute.isEmpty {
            var entries: [Distribution] = []
            for (index, entry) in setting.distribute.enumerated() {
                let path = "\(field).distribute[\(index)]"
                var shares: [Share] = []
                for (text, weight) in entry.to.sorted(by: { $0.key < $1.key }) {
                    shares.append(Share(to: try Self.pattern(text, path + ".to"), weight: weight))
                }
                let sum = shares.reduce(0) { $0 + UInt64($1.weight) }
                guard sum == 100 else {
                    throw RuleRefusal(field: path + ".to", reason: "the shares add up to \(sum), not to 100")
                }
                entries.append(Distribution(from: try Self.pattern(entry.from, path + ".from"), to: shares))
            }
            self = .distribute(entries)
        } else if !setting.failoverPriority.isEmpty {
            var keys: [Key] = []
            for (index, text) in setting.failoverPriority.enumerated() {
                let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
                guard let label = parts.first.flatMap({ Label(rawValue: $0) }) else {
                    let known = Label.allCases.map(\.rawValue).joined(separator: ", ")
                    throw RuleRefusal(
                        field: "\(field).failoverPriority[\(index)]",
                        reason: "label \(text) is not known of endpoints: use \(known)"
                    )
                }
                keys.append(Key(label: label, value: parts.count > 1 ? parts[1] : nil))
            }
            self = .priority(keys)
        } else {
            self = .failover(setting.failover)
        }
    }

    private static func pattern(_ text: String, _ field: String) throws(RuleRefusal) -> LocalityPattern {
        guard let pattern = LocalityPattern(text) else {
            throw RuleRefusal(
                field: field,
                reason: "\(text) is no locality: write REGION/ZONE/*, with * at the end only"
            )
        }
        return pattern
    }
}
