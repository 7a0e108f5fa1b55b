import Glibc

/// A shell command that failed, with what it printed.
public struct ShellError: Error {
    public let message: String
}

/// Runs a shell command; what it prints on both outputs is returned, a failure is thrown unless `allowFailure`.
@discardableResult
public func shell(_ command: String, allowFailure: Bool = false) throws -> String {
    guard let pipe = popen("( \(command) ) 2>&1", "r") else { throw ShellError(message: "popen: \(command)") }
    var output: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4096)
    while true {
        let count = fread(&chunk, 1, chunk.count, pipe)
        if count == 0 { break }
        output += chunk[..<count]
    }
    let status = pclose(pipe)
    let text = String(decoding: output, as: UTF8.self)
    guard status == 0 || allowFailure else { throw ShellError(message: "\(command): \(status): \(text)") }
    return text
}
