public import KubeModel
import NIOCore

// The way of an API server's bytes to events, without a connection: what the fuzz targets feed.

/// The events in the lines of a watch that arrives in pieces of `chunk` bytes.
public func decodeWatchStream(_ bytes: [UInt8], kind: ObjectKind, chunk: Int) -> [String] {
    let decoding = ObjectDecoding(kind: kind)
    var cutter = LineCutter()
    var events: [String] = []
    for piece in pieces(of: bytes, chunk) {
        cutter.feed(piece) { events.append("\(decoding.watchEvent(line: $0))") }
    }
    return events
}

/// The events in the items of a list that arrives in pieces of `chunk` bytes; nil if it is no list.
public func decodeListStream(_ bytes: [UInt8], kind: ObjectKind, chunk: Int) -> [String]? {
    let decoding = ObjectDecoding(kind: kind)
    var scanner = ListScanner()
    var events: [String] = []
    do {
        for piece in pieces(of: bytes, chunk) {
            try scanner.feed(piece) { events.append("\(decoding.event(item: $0))") }
        }
        _ = try ListEnvelope(scanner.finish())
    } catch {
        return nil
    }
    return events
}

private func pieces(of bytes: [UInt8], _ chunk: Int) -> [ByteBuffer] {
    stride(from: 0, to: bytes.count, by: max(chunk, 1)).map { start in
        ByteBuffer(bytes: bytes[start..<min(start + max(chunk, 1), bytes.count)])
    }
}
