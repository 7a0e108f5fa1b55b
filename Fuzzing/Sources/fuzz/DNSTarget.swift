import DNSWire

extension FuzzTarget {
    /// DNS messages. What is parsed is written and parsed again as the same; the fast reader of queries agrees.
    static let dns = FuzzTarget(name: "dns") { data, count in
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: 255, alignment: 1)
        defer { scratch.deallocate() }
        if case .query(let head) = QueryHead.read(bytes, lowercasedName: scratch) {
            guard let message = try? Message(parsing: bytes), message.id == head.id else {
                fatalError("a query that the parser refuses")
            }
        }
        guard let message = try? Message(parsing: bytes) else { return 0 }
        let written = message.encoded()
        guard let again = try? Message(parsing: written) else { fatalError("\(message) does not read back") }
        guard again.encoded() == written else { fatalError("\(message) is written in two ways") }
        return 0
    }
}
