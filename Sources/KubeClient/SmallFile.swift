import Glibc

/// Files of credentials and configuration: read whole, bounded.
enum SmallFile {
    static let sizeLimit = 4 << 20

    static func read(_ path: String) throws(KubeError) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw KubeError(.invalidConfiguration, "cannot open \(path): \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        while true {
            let start = bytes.count
            bytes.append(contentsOf: repeatElement(0, count: 16_384))
            let count = bytes.withUnsafeMutableBytes { buffer in
                Glibc.read(descriptor, buffer.baseAddress?.advanced(by: start), buffer.count - start)
            }
            if count < 0 {
                bytes.removeLast(bytes.count - start)
                if errno == EINTR { continue }
                throw KubeError(.invalidConfiguration, "cannot read \(path): \(String(cString: strerror(errno)))")
            }
            bytes.removeLast(bytes.count - start - count)
            if count == 0 { return bytes }
            guard bytes.count <= Self.sizeLimit else {
                throw KubeError(.tooLarge, "\(path) is longer than \(Self.sizeLimit) bytes; is it the right file?")
            }
        }
    }
}
