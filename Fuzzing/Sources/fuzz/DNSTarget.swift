import DNSWire

extension FuzzTarget {
    /// DNS messages. What is parsed is written and parsed again as the same; the fast reader of queries agrees.
    static let dns = FuzzTarget(name: "dns") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        guard let message = try? Message(parsing: bytes) else {
            // The fast reader judges less: it skips the data of records and the options, which no answer depends on.
            withScratch { _ = QueryHead.read(bytes, lowercasedName: $0) }
            return 0
        }
        withScratch { check(QueryHead.read(bytes, lowercasedName: $0), of: message, bytes, $0) }
        let written = message.encoded()
        guard let again = try? Message(parsing: written) else { fatalError("\(message) does not read back") }
        guard again.encoded() == written else { fatalError("\(message) is written in two ways") }
        return 0
    }
}

/// The fast reader has to take every query that the parser takes, and to see the same in it. It refuses what no client
/// sends: not exactly one question, a name of the question that is compressed.
private func check(
    _ reading: QueryReading,
    of message: Message,
    _ bytes: UnsafeRawBufferPointer,
    _ scratch: UnsafeMutableRawBufferPointer
) {
    switch reading {
    case .ignore:
        guard message.flags.contains(.response) else { fatalError("a query is ignored: \(message)") }
    case .refuse(let id, let flags, let code):
        guard id == message.id, !flags.contains(.response) else { fatalError("another message is refused") }
        guard code == .formatError, message.questions.count == 1, let name = message.questions.first?.name else {
            return
        }
        let written = bytes.dropFirst(QueryHead.questionOffset).prefix(name.wire.count)
        guard !written.elementsEqual(name.wire) else { fatalError("a sound query is refused: \(message)") }
    case .query(let head):
        guard message.questions.count == 1, let question = message.questions.first, head.id == message.id,
            !head.flags.contains(.response), head.type == question.type, head.recordClass == question.recordClass,
            DomainName(scratch: UnsafeRawBufferPointer(scratch), length: head.nameLength) == question.name,
            head.edns?.payloadSize == message.edns?.payloadSize, head.edns?.version == message.edns?.version,
            head.edns?.dnssecOK == message.edns?.dnssecOK
        else { fatalError("two readings of one query: \(head) and \(message)") }
    }
}

private func withScratch(_ body: (UnsafeMutableRawBufferPointer) -> Void) {
    withUnsafeTemporaryAllocation(byteCount: 255, alignment: 1, body)
}
