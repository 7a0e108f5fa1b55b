/// What the processor computes by itself.
enum Processor {
    /// AES, as `/proc/cpuinfo` lists it among the flags (x86) or the features (ARM).
    static let computesAES: Bool = {
        guard let bytes = try? WholeFile.read("/proc/cpuinfo", atMost: 1 << 16) else { return false }
        return bytes.split(separator: UInt8(ascii: "\n")).contains { line in
            line.split { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") }.contains { $0.elementsEqual("aes".utf8) }
        }
    }()
}
