import Glibc
import Testing

/// Keeps `docs/gateway-conformance.md` to what there is.
@Suite struct ConformanceTableTests {
    private struct Row {
        var name: String
        var holds: Bool
        var tests: [String]
    }

    private static var root: String {
        "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
    }

    private static func text(_ path: String) throws -> String {
        let descriptor = open(path, O_RDONLY)
        try #require(descriptor >= 0, "\(path) cannot be read")
        defer { close(descriptor) }
        let size = Int(lseek(descriptor, 0, SEEK_END))
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            count = max(0, pread(descriptor, buffer.baseAddress, size, 0))
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func rows() throws -> [Row] {
        try Self.text("\(self.root)/docs/gateway-conformance.md").split(separator: "\n").compactMap { line in
            let cells = line.split(separator: "|", omittingEmptySubsequences: false).dropFirst().dropLast()
                .map { $0.drop { $0 == " " } }
            guard cells.count == 3, !["Case", "---"].contains(where: cells[0].hasPrefix) else { return nil }
            let names = cells[2].split(separator: "`").filter { name in name.allSatisfy { $0.isLetter || $0.isNumber } }
            return Row(name: String(cells[0]), holds: cells[1].hasPrefix("yes"), tests: names.map(String.init))
        }
    }

    /// Of the folders that have tests of the gateway.
    private static func functions() throws -> Set<Substring> {
        var names: Set<Substring> = []
        for folder in ["GatewayRoutingTests", "EdgeGatewayTests", "MeshAppTests", "LabTests"] {
            let directory = try #require(opendir("\(Self.root)/Tests/\(folder)"))
            defer { closedir(directory) }
            while let entry = readdir(directory) {
                let file = withUnsafePointer(to: &entry.pointee.d_name) {
                    String(cString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
                }
                guard file.hasSuffix(".swift") else { continue }
                for part in try Self.text("\(Self.root)/Tests/\(folder)/\(file)").split(separator: "func ").dropFirst()
                {
                    names.insert(part.prefix { $0.isLetter || $0.isNumber })
                }
            }
        }
        return names
    }

    @Test("every case that holds names a test, and every test that is named is there")
    func rowsAreTrue() throws {
        let rows = try Self.rows()
        let functions = try Self.functions()
        #expect(rows.count > 60)
        for row in rows {
            #expect(!row.holds || !row.tests.isEmpty, "\(row.name) names no test")
            for test in row.tests { #expect(functions.contains(Substring(test)), "\(row.name): there is no \(test)") }
        }
    }
}
