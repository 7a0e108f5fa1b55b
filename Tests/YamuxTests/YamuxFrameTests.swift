import NIOCore
import Testing

@testable import Yamux

@Suite struct YamuxFrameTests {
    @Test func headersAreWrittenAsTheSpecificationSays() throws {
        var bytes = ByteBuffer()
        YamuxFrameHeader(.windowUpdate, [.syn, .fin], streamID: 0x0102_0304, length: 0x0A0B_0C0D).write(to: &bytes)
        #expect(Array(bytes.readableBytesView) == [0, 1, 0, 5, 1, 2, 3, 4, 10, 11, 12, 13])
        let read = try YamuxFrameHeader(reading: &bytes)
        #expect(read == YamuxFrameHeader(.windowUpdate, [.syn, .fin], streamID: 0x0102_0304, length: 0x0A0B_0C0D))
    }

    @Test(
        arguments: [
            [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],  // version
            [0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],  // type
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],  // data of no stream
            [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],  // window of no stream
            [0, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0],  // ping of a stream
            [0, 3, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0],  // end of a stream
            [0x13, 0x2F, 0x6D, 0x75, 0x6C, 0x74, 0x69, 0x73, 0x74, 0x72, 0x65, 0x61],  // multistream-select
        ] as [[UInt8]]
    )
    func hostileHeadersAreViolations(_ bytes: [UInt8]) {
        var buffer = ByteBuffer(bytes: bytes)
        let error = #expect(throws: YamuxError.self) { try YamuxFrameHeader(reading: &buffer) }
        #expect(error?.code == .protocolViolation)
    }

    @Test func theCutOfReadsDoesNotMatter() throws {
        let frames: [Frame] = [
            .update(1, .syn), .data(1, Array(0..<40)), .data(1, []), .ping(7, .syn), .data(3, Array(100..<110), .fin),
        ]
        let bytes = frames.flatMap { Array($0.bytes.readableBytesView) }
        for chunk in 1...bytes.count {
            var parser = YamuxFrameParser(wholePayloadBytes: 1024)
            var parsed: [Frame] = []
            for start in stride(from: 0, to: bytes.count, by: chunk) {
                var buffer = ByteBuffer(bytes: bytes[start..<min(bytes.count, start + chunk)])
                while let element = try parser.next(from: &buffer) {
                    switch element {
                    case .header(let header): parsed.append(Frame(header: header))
                    case .payload(let payload, let isLast):
                        #expect(isLast)
                        parsed[parsed.count - 1].payload = Array(payload.readableBytesView)
                    }
                }
                #expect(buffer.readableBytes == 0)
            }
            #expect(parsed == frames, "cut every \(chunk) bytes")
        }
    }

    @Test func largePayloadsComeInPiecesAndAreNotGathered() throws {
        var parser = YamuxFrameParser(wholePayloadBytes: 8)
        var first = Frame.data(1, Array(0..<9)).bytes
        var second = first
        first.moveWriterIndex(to: first.readerIndex + 16)
        second.moveReaderIndex(forwardBy: 16)
        _ = try parser.next(from: &first)
        #expect(try parser.next(from: &first) == .payload(ByteBuffer(bytes: [0, 1, 2, 3]), isLast: false))
        #expect(try parser.next(from: &first) == nil)
        #expect(try parser.next(from: &second) == .payload(ByteBuffer(bytes: [4, 5, 6, 7, 8]), isLast: true))
    }

    @Test func payloadsAreSlicesOfWhatWasRead() throws {
        var parser = YamuxFrameParser(wholePayloadBytes: 8)
        var read = Frame.data(1, Array(repeating: 7, count: 100)).bytes
        let capacity = read.storageCapacity
        _ = try parser.next(from: &read)
        guard case .payload(let payload, _)? = try parser.next(from: &read) else {
            Issue.record("no payload")
            return
        }
        #expect(payload.storageCapacity == capacity)
    }
}
