import Glibc
import MeshCore
import MeshInterfaces
import Multiformats
import NIOCore
import Testing

@testable import EdgeTunnel

/// The vectors of docs/protocols/flow.md are what the codecs write and read.
@Suite
struct FlowDocumentationTests {
    private static let tcp = OpenRequest(
        .tcp,
        to: TransportAddress(.v4(IPv4Address(10, 244, 1, 2)), 9376),
        of: "ke-edge1"
    )

    private static var udp: OpenRequest {
        let address = IPv6Address(high: 0xFD00_0000_0000_0000, low: 10)
        var request = OpenRequest(.udp, to: TransportAddress(.v6(address), 53), of: "ke-edge1")
        request.client = TransportAddress(.v4(IPv4Address(192, 168, 1, 7)), 40_000)
        request.timeoutMilliseconds = 4500
        request.service = ObjectName(namespace: "shop", name: "cart")
        return request
    }

    private static let socks = OpenRequest(
        .tcp,
        to: TransportAddress(.v4(IPv4Address(192, 168, 1, 10)), 22),
        of: "ke-edge1",
        purpose: .socks
    )

    private static let refused = OpenReply(.refused, "10.244.1.2:9376: connection refused")

    @Test
    func theDocumentsVectorsAreWrittenAndRead() throws {
        let vectors = try Self.vectors()
        let datagrams = ["hello", "", "!"].map { ByteBuffer(string: $0) }
        var framed = ByteBuffer()
        for datagram in datagrams {
            framed.writeImmutableBuffer(
                try #require(DatagramFraming.frame(datagram, allocator: ByteBufferAllocator()))
            )
        }
        #expect(
            vectors
                == [
                    Self.tcp.framed, Self.udp.framed, Self.socks.framed, OpenReply.ok.framed, Self.refused.framed,
                    framed,
                ]
                .map(\.hex)
        )
        for (vector, request) in zip(vectors, [Self.tcp, Self.udp, Self.socks]) {
            var bytes = try ByteBuffer(hex: vector)
            #expect(try OpenRequest(try #require(try bytes.readVarintPrefixed(maximumLength: 4096))) == request)
        }
        var decoder = DatagramDecoder()
        decoder.append(try ByteBuffer(hex: try #require(vectors.last)))
        for datagram in datagrams { #expect(try decoder.next() == datagram) }
        #expect(try decoder.next() == nil && !decoder.isMidway)
    }

    /// The table of the codes names all of them, by their numbers.
    @Test
    func theDocumentNamesEveryCode() throws {
        let document = try Self.document()
        for code in OpenReply.Code.allCases {
            #expect(document.contains("| \(code.rawValue) | `\(code)` |"))
        }
        #expect(document.contains("`\(TunnelProtocol.flow)`"))
    }

    /// The indented lines behind the heading, without their spaces.
    private static func vectors() throws -> [String] {
        let document = try Self.document()
        let heading = try #require(document.firstRange(of: "## Vectors"))
        return document[heading.upperBound...].split(separator: "\n").filter { $0.hasPrefix("    ") }
            .map { $0.filter { $0 != " " } }
    }

    private static func document() throws -> String {
        let path =
            String(#filePath.dropLast("/Tests/EdgeTunnelTests/Wire/FlowDocumentationTests.swift".count))
            + "/docs/protocols/flow.md"
        let file = try #require(fopen(path, "r"), "\(path) cannot be read")
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while case let count = fread(&buffer, 1, buffer.count, file), count > 0 { bytes += buffer[..<count] }
        return String(decoding: bytes, as: UTF8.self)
    }
}
