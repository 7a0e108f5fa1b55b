import Documents

/// When a changed key takes effect.
public enum ConfigurationEffect: String, Hashable, Sendable {
    /// On reload, without a restart.
    case live
    case restart
    /// Never: the key is accepted because the original has it.
    case none
}

/// One key of a schema: where it is kept and what it may hold.
struct ConfigurationKey<Root> {
    /// The path from the root of the schema, such as `modules.edgeDNS.listenPort`.
    var path: String
    var effect: ConfigurationEffect
    var read: (Document, String, inout Root, inout ConfigurationReport) -> Void
    /// Nil if the key is not written.
    var write: (Root) -> Document?
    var isSame: (Root, Root) -> Bool
    /// Takes the value of the first over into the second.
    var copy: (Root, inout Root) -> Void

    init<Value: Equatable>(
        _ path: String,
        _ field: WritableKeyPath<Root, Value>,
        _ form: ValueForm<Value>,
        _ effect: ConfigurationEffect
    ) {
        self.path = path
        self.effect = effect
        self.read = { document, path, root, report in
            if let value = form.read(document, path, &report) { root[keyPath: field] = value }
        }
        self.write = { form.write($0[keyPath: field]) }
        self.isSame = { $0[keyPath: field] == $1[keyPath: field] }
        self.copy = { $1[keyPath: field] = $0[keyPath: field] }
    }

    /// A key of the original that holds anything and changes nothing.
    init(ignored path: String) {
        self.path = path
        self.effect = .none
        self.read = { _, _, _, _ in }
        self.write = { _ in nil }
        self.isSame = { _, _ in true }
        self.copy = { _, _ in }
    }
}

/// Reads and writes values by a schema. Objects merge over the value that is there, key by key; lists replace.
struct ConfigurationReader<Root> {
    let keys: [ConfigurationKey<Root>]

    /// Reads `document` over `root` and reports all that is wrong. Keys match in any case, as in the original.
    func read(_ document: Document, into root: inout Root, at path: String = "", report: inout ConfigurationReport) {
        self.readSection(document, section: "", into: &root, base: path, report: &report)
    }

    private func readSection(
        _ document: Document,
        section: String,
        into root: inout Root,
        base: String,
        report: inout ConfigurationReport
    ) {
        let place = Self.join(base, section)
        let name = place.isEmpty ? "the file" : place
        if document.isNull {
            report.add(.warning, place, at: document.position, "\(name) is empty; its defaults hold")
            return
        }
        guard let members = document.members else {
            report.add(
                .error,
                place,
                at: document.position,
                "\(name) is \(document.brief); allowed: an object (lines of the form key: value)"
            )
            return
        }
        let names = self.names(in: section)
        var seen: [String: SourcePosition] = [:]
        for member in members {
            guard let name = names.first(where: { $0.lowercased() == member.key.lowercased() }) else {
                self.reportUnknown(member, in: section, names: names, base: base, report: &report)
                continue
            }
            let path = Self.join(section, name)
            let fullPath = Self.join(base, path)
            if let first = seen[name] {
                report.add(
                    .error,
                    fullPath,
                    at: member.keyPosition,
                    "\(fullPath) is already set at \(first); remove one of the two"
                )
                continue
            }
            seen[name] = member.keyPosition
            report.note(fullPath, at: member.value.position)
            guard let key = self.keys.first(where: { $0.path == path }) else {
                self.readSection(member.value, section: path, into: &root, base: base, report: &report)
                continue
            }
            // An empty value is as good as none.
            if !member.value.isNull { key.read(member.value, fullPath, &root, &report) }
        }
    }

    /// The names that follow `section` in the schema, in its order.
    private func names(in section: String) -> [String] {
        let prefix = section.isEmpty ? "" : section + "."
        var names: [String] = []
        for key in self.keys where key.path.hasPrefix(prefix) {
            let name = String(key.path.dropFirst(prefix.count).prefix { $0 != "." })
            if names.last != name, !names.contains(name) { names.append(name) }
        }
        return names
    }

    private func reportUnknown(
        _ member: Document.Member,
        in section: String,
        names: [String],
        base: String,
        report: inout ConfigurationReport
    ) {
        let path = Self.join(base, Self.join(section, member.key))
        let key = member.key.lowercased()
        let nearest = names.map { (distance: editDistance(key, $0.lowercased()), name: $0) }.min {
            $0.distance < $1.distance
        }
        let elsewhere = self.keys.first { $0.path.lowercased().hasSuffix(".\(key)") && $0.path.lowercased() != key }
        let hint =
            if let nearest, nearest.distance <= max(2, key.count / 3) {
                "did you mean \(nearest.name)?"
            } else if let elsewhere {
                "there is \(Self.join(base, elsewhere.path))"
            } else {
                "the keys here are \(names.joined(separator: ", "))"
            }
        report.add(.warning, path, at: member.keyPosition, "\(path) is no key and has no effect; \(hint)")
    }

    private static func join(_ section: String, _ name: String) -> String {
        section.isEmpty ? name : name.isEmpty ? section : "\(section).\(name)"
    }

    // MARK: Writing

    /// The value as a document, in the order of the schema.
    func document(of root: Root) -> Document {
        self.document(of: root, section: "")
    }

    private func document(of root: Root, section: String) -> Document {
        var members: [Document.Member] = []
        for name in self.names(in: section) {
            let path = Self.join(section, name)
            if let key = self.keys.first(where: { $0.path == path }) {
                if let value = key.write(root) { members.append(Document.Member(name, value)) }
            } else {
                members.append(Document.Member(name, self.document(of: root, section: path)))
            }
        }
        return .object(members)
    }
}

/// The number of single-character insertions, removals and replacements between two words (Levenshtein).
func editDistance(_ a: String, _ b: String) -> Int {
    let (a, b) = (Array(a.utf8.prefix(64)), Array(b.utf8.prefix(64)))
    var row = Array(0...b.count)
    for i in a.indices {
        var diagonal = row[0]
        row[0] = i + 1
        for j in b.indices {
            let replaced = diagonal + (a[i] == b[j] ? 0 : 1)
            diagonal = row[j + 1]
            row[j + 1] = min(replaced, row[j] + 1, diagonal + 1)
        }
    }
    return row[b.count]
}
