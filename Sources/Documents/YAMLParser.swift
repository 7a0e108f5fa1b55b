extension Document {
    /// Reads a stream of YAML documents (which may as well be JSON). Empty documents are left out.
    ///
    /// Plain scalars mean what they mean to Kubernetes tools (see `YAMLScalar`), anchors, aliases and merge keys are
    /// resolved, a repeated key is an error. Keys are text as written, whatever type it would have as a value.
    public static func parseYAML(
        _ bytes: [UInt8],
        limits: DocumentLimits = .default
    ) throws(DocumentError) -> [Document] {
        guard bytes.count <= limits.bytes else {
            throw DocumentError(
                .limit,
                "the text has \(bytes.count) bytes, more than the \(limits.bytes) allowed",
                at: SourcePosition(line: 1, column: 1)
            )
        }
        guard !bytes.isEmpty else { return [] }
        return try bytes.withUnsafeBufferPointer { buffer throws(DocumentError) in
            var composer = YAMLComposer(events: try YAMLEventParser(buffer), limits: limits)
            return try composer.composeStream()
        }
    }
}

/// Builds documents from events.
private struct YAMLComposer {
    /// A value that aliases may repeat, with what a repetition costs.
    private struct Anchor {
        var document: Document
        /// Values and bytes of text in it, and its levels: counted once here, since aliases multiply both.
        var weight: Int
        var height: Int
    }

    private let events: YAMLEventParser
    private let limits: DocumentLimits
    private var anchors: [String: Anchor] = [:]
    private var values = 0
    private var expansion = 0

    init(events: YAMLEventParser, limits: DocumentLimits) {
        self.events = events
        self.limits = limits
    }

    mutating func composeStream() throws(DocumentError) -> [Document] {
        var documents: [Document] = []
        while true {
            let event = try self.events.next()
            switch event.kind {
            case .streamEnd:
                return documents
            case .documentStart:
                self.anchors = [:]
                let root = try self.events.next()
                let document = try self.compose(root, depth: 0)
                if case .scalar("", true) = root.kind, root.tag == nil { continue }
                documents.append(document)
            default:
                continue
            }
        }
    }

    private mutating func compose(_ event: YAMLEvent, depth: Int) throws(DocumentError) -> Document {
        self.values += 1
        guard self.values <= self.limits.values else {
            throw DocumentError(
                .limit,
                "the text has more than the \(self.limits.values) values allowed",
                at: event.position
            )
        }
        let document: Document
        switch event.kind {
        case .alias(let name):
            return try self.repeatAnchor(name, at: event.position, depth: depth)
        case .scalar(let text, let isPlain):
            document = try Document(self.content(text, isPlain: isPlain, event), position: event.position)
        case .sequenceStart:
            try self.checkTag(of: event, is: "seq", "list")
            document = Document(.array(try self.composeSequence(event, depth: depth + 1)), position: event.position)
        case .mappingStart:
            try self.checkTag(of: event, is: "map", "object")
            document = Document(.object(try self.composeMapping(event, depth: depth + 1)), position: event.position)
        case .documentStart, .documentEnd, .streamEnd, .collectionEnd:
            throw DocumentError(.syntax, "a value is expected here", at: event.position)
        }
        if let anchor = event.anchor {
            let (weight, height) = document.weightAndHeight
            self.anchors[anchor] = Anchor(document: document, weight: weight, height: height)
        }
        return document
    }

    private func checkDepth(_ depth: Int, at position: SourcePosition) throws(DocumentError) {
        guard depth <= self.limits.depth else {
            throw DocumentError(
                .limit,
                "lists and objects nest deeper than the \(self.limits.depth) levels allowed",
                at: position
            )
        }
    }

    private mutating func composeSequence(_ start: YAMLEvent, depth: Int) throws(DocumentError) -> [Document] {
        try self.checkDepth(depth, at: start.position)
        var elements: [Document] = []
        while true {
            let event = try self.events.next()
            if case .collectionEnd = event.kind { return elements }
            elements.append(try self.compose(event, depth: depth))
        }
    }

    private mutating func composeMapping(_ start: YAMLEvent, depth: Int) throws(DocumentError) -> [Document.Member] {
        try self.checkDepth(depth, at: start.position)
        var builder = ObjectBuilder()
        var merges: [Document] = []
        while true {
            let event = try self.events.next()
            if case .collectionEnd = event.kind { break }
            if case .scalar("<<", true) = event.kind {
                merges += try self.mergedObjects(self.compose(self.events.next(), depth: depth))
                continue
            }
            let key = try self.key(event, depth: depth)
            let value = try self.compose(self.events.next(), depth: depth)
            if self.limits.allowsEqualRepeats, let first = builder.index(of: key),
                builder.members[first].value.withoutPositions == value.withoutPositions
            {
                continue
            }
            try builder.append(Document.Member(key, value, keyPosition: event.position))
        }
        // What the object says itself wins over what it merges, earlier merges win over later ones.
        for member in merges.compactMap(\.members).joined() where builder.index(of: member.key) == nil {
            try builder.append(member)
        }
        return builder.members
    }

    private mutating func key(_ event: YAMLEvent, depth: Int) throws(DocumentError) -> String {
        switch event.kind {
        case .scalar(let text, let isPlain):
            // An anchored key is a value that aliases may name.
            if event.anchor != nil || event.tag != nil { _ = try self.compose(event, depth: depth) }
            if !isPlain || YAMLScalar.resolve(text) != .null { return text }
        case .alias:
            if let text = try self.compose(event, depth: depth).string { return text }
        default:
            break
        }
        throw DocumentError(.unsupported, "a key must be text; write it in quotes", at: event.position)
    }

    private func mergedObjects(_ document: Document) throws(DocumentError) -> [Document] {
        let objects = document.array ?? [document]
        for object in objects where object.members == nil {
            throw DocumentError(
                .unsupported,
                "the merge key << takes an object, or a list of objects",
                at: object.position
            )
        }
        return objects
    }

    private mutating func repeatAnchor(
        _ name: String,
        at position: SourcePosition,
        depth: Int
    ) throws(DocumentError) -> Document {
        guard let anchor = self.anchors[name] else {
            throw DocumentError(
                .unsupported,
                "the alias *\(name) has no anchor &\(name) before it in this document",
                at: position
            )
        }
        try self.checkDepth(depth + anchor.height, at: position)
        self.expansion += anchor.weight
        guard self.expansion <= self.limits.aliasExpansion else {
            throw DocumentError(
                .limit,
                "aliases such as *\(name) repeat more than the \(self.limits.aliasExpansion) values and bytes allowed",
                at: position
            )
        }
        return anchor.document
    }

    // MARK: Tags

    private static let tagPrefix = "tag:yaml.org,2002:"

    private func checkTag(of event: YAMLEvent, is name: String, _ kind: String) throws(DocumentError) {
        guard let tag = event.tag, tag != "!", tag != Self.tagPrefix + name else { return }
        throw DocumentError(.unsupported, "the tag \(tag) on a \(kind) is not supported; remove it", at: event.position)
    }

    private func content(
        _ text: String,
        isPlain: Bool,
        _ event: YAMLEvent
    ) throws(DocumentError) -> Document.Content {
        guard let tag = event.tag else { return isPlain ? YAMLScalar.resolve(text) : .string(text) }
        let resolved = YAMLScalar.resolve(text)
        switch (tag, resolved) {
        case ("!", _), (Self.tagPrefix + "str", _): return .string(text)
        case (Self.tagPrefix + "null", .null), (Self.tagPrefix + "bool", .bool), (Self.tagPrefix + "int", .integer),
            (Self.tagPrefix + "float", .number):
            return resolved
        case (Self.tagPrefix + "float", .integer(let number)): return .number(Double(number))
        default:
            throw DocumentError(
                .unsupported,
                "the tag \(tag) does not fit \"\(text.prefix(40))\", or is not supported; remove it",
                at: event.position
            )
        }
    }
}

extension Document {
    /// How many values and bytes of text this holds, and how deep it nests. Recursion is bounded by the parser's depth.
    fileprivate var weightAndHeight: (weight: Int, height: Int) {
        switch self.content {
        case .null, .bool, .integer, .number: return (1, 0)
        case .string(let text): return (1 + text.utf8.count, 0)
        case .array(let elements):
            let inner = elements.map(\.weightAndHeight)
            return (inner.reduce(1) { $0 + $1.weight }, 1 + (inner.map(\.height).max() ?? 0))
        case .object(let members):
            let inner = members.map(\.value.weightAndHeight)
            let keys = members.reduce(1) { $0 + $1.key.utf8.count }
            return (inner.reduce(keys) { $0 + $1.weight }, 1 + (inner.map(\.height).max() ?? 0))
        }
    }
}
