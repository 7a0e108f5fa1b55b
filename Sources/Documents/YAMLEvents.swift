import CLibYAML

/// One event of libyaml's parser, as a value.
struct YAMLEvent {
    enum Kind {
        case documentStart
        case documentEnd
        case streamEnd
        case alias(String)
        /// `isPlain`: written without quotes and not as a block, so that its text decides its type.
        case scalar(text: String, isPlain: Bool)
        case sequenceStart
        case mappingStart
        case collectionEnd
    }

    var kind: Kind
    var anchor: String?
    var tag: String?
    var position: SourcePosition
}

/// libyaml's event parser over bytes that outlive it.
final class YAMLEventParser {
    private let bytes: UnsafeBufferPointer<UInt8>
    // On the heap: libyaml keeps pointers into its own state.
    private let parser: UnsafeMutablePointer<yaml_parser_t>

    init(_ bytes: UnsafeBufferPointer<UInt8>) throws(DocumentError) {
        self.bytes = bytes
        self.parser = .allocate(capacity: 1)
        self.parser.initialize(to: yaml_parser_t())
        guard yaml_parser_initialize(self.parser) == 1 else { throw Self.outOfMemory }
        yaml_parser_set_input_string(self.parser, bytes.baseAddress, bytes.count)
    }

    deinit {
        yaml_parser_delete(self.parser)
        self.parser.deallocate()
    }

    private static var outOfMemory: DocumentError { DocumentError(.limit, "no memory for the YAML reader", at: .none) }

    /// The next event. Nothing may be read after `.streamEnd` or an error.
    func next() throws(DocumentError) -> YAMLEvent {
        while true {
            var event = yaml_event_t()
            guard yaml_parser_parse(self.parser, &event) == 1 else { throw self.failure() }
            defer { yaml_event_delete(&event) }
            if let event = Self.value(of: event) { return event }
        }
    }

    /// Nil for an event that says nothing about the documents.
    private static func value(of event: yaml_event_t) -> YAMLEvent? {
        let position = self.position(event.start_mark)
        func text(_ bytes: UnsafeMutablePointer<yaml_char_t>?) -> String? { bytes.map { String(cString: $0) } }
        switch event.type {
        case YAML_DOCUMENT_START_EVENT: return YAMLEvent(kind: .documentStart, position: position)
        case YAML_DOCUMENT_END_EVENT: return YAMLEvent(kind: .documentEnd, position: position)
        case YAML_STREAM_END_EVENT: return YAMLEvent(kind: .streamEnd, position: position)
        case YAML_SEQUENCE_END_EVENT, YAML_MAPPING_END_EVENT:
            return YAMLEvent(kind: .collectionEnd, position: position)
        case YAML_ALIAS_EVENT:
            return YAMLEvent(kind: .alias(text(event.data.alias.anchor) ?? ""), position: position)
        case YAML_SEQUENCE_START_EVENT:
            let data = event.data.sequence_start
            return YAMLEvent(kind: .sequenceStart, anchor: text(data.anchor), tag: text(data.tag), position: position)
        case YAML_MAPPING_START_EVENT:
            let data = event.data.mapping_start
            return YAMLEvent(kind: .mappingStart, anchor: text(data.anchor), tag: text(data.tag), position: position)
        case YAML_SCALAR_EVENT:
            let data = event.data.scalar
            // A scalar is not a C string: it may hold a NUL by an escape.
            let content = String(decoding: UnsafeBufferPointer(start: data.value, count: data.length), as: UTF8.self)
            return YAMLEvent(
                kind: .scalar(text: content, isPlain: data.style == YAML_PLAIN_SCALAR_STYLE),
                anchor: text(data.anchor),
                tag: text(data.tag),
                position: position
            )
        default: return nil
        }
    }

    private static func position(_ mark: yaml_mark_t) -> SourcePosition {
        SourcePosition(line: Int(clamping: mark.line) + 1, column: Int(clamping: mark.column) + 1)
    }

    // MARK: Errors

    private func failure() -> DocumentError {
        let state = self.parser.pointee
        let problem = state.problem.map { String(cString: $0) } ?? "the text is not YAML"
        switch state.error {
        case YAML_MEMORY_ERROR:
            return Self.outOfMemory
        case YAML_READER_ERROR:
            let position = self.position(ofByte: Int(clamping: state.problem_offset))
            if problem.contains("control characters") {
                let value = String(UInt32(truncatingIfNeeded: state.problem_value), radix: 16)
                return DocumentError(
                    .syntax,
                    "control character 0x\(value); YAML allows none but tab and newline",
                    at: position
                )
            }
            return DocumentError(.invalidUTF8, "not UTF-8: \(problem)", at: position)
        default:
            let position = Self.position(state.problem_mark)
            if self.hasTabInIndentation(line: position.line) {
                return DocumentError(.syntax, "a tab in the indentation; YAML indents with spaces only", at: position)
            }
            var message = problem
            if let context = state.context.map({ String(cString: $0) }) {
                message += " \(context) that starts at \(Self.position(state.context_mark))"
            }
            if let hint = Self.hint(for: problem) { message += "; \(hint)" }
            return DocumentError(.syntax, message, at: position)
        }
    }

    /// What people most often did, for problems whose wording does not tell.
    private static func hint(for problem: String) -> String? {
        switch problem {
        case "mapping values are not allowed in this context":
            "a value that contains ': ' wants quotes, or the indentation is wrong"
        case "did not find expected key", "did not find expected '-' indicator", "could not find expected ':'":
            "compare the indentation of this line with its neighbours, and look for an unclosed quote or bracket above"
        case "found character that cannot start any token":
            "a value that starts with one of @ ` % wants quotes"
        default: nil
        }
    }

    private func position(ofByte offset: Int) -> SourcePosition {
        let before = self.bytes.prefix(offset)
        let line = before.suffix(from: before.lastIndex(of: UInt8(ascii: "\n")).map { $0 + 1 } ?? 0)
        // Bytes within a character do not count.
        return SourcePosition(
            line: 1 + before.count { $0 == UInt8(ascii: "\n") },
            column: 1 + line.count { $0 & 0xC0 != 0x80 }
        )
    }

    private func hasTabInIndentation(line: Int) -> Bool {
        let lines = self.bytes.split(separator: UInt8(ascii: "\n"), maxSplits: line, omittingEmptySubsequences: false)
        guard line <= lines.count else { return false }
        let indentation = lines[line - 1].prefix { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") }
        return indentation.contains(UInt8(ascii: "\t"))
    }
}
