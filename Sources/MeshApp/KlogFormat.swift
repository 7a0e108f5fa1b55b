import Glibc
import Logging

/// The line format of Kubernetes' own components, which log collectors on nodes already parse:
/// `Lmmdd hh:mm:ss.uuuuuu process file:line] message key=value`.
enum KlogFormat {
    /// One complete line with its newline. `time` is the wall clock.
    static func line(
        level: Logger.Level,
        time: timespec,
        processID: Int32,
        file: String,
        line: UInt,
        message: String,
        metadata: Logger.Metadata
    ) -> String {
        var seconds = time.tv_sec
        var local = tm()
        localtime_r(&seconds, &local)
        var text = self.letter(of: level)
        text += self.padded(local.tm_mon + 1, 2) + self.padded(local.tm_mday, 2) + " "
        text += self.padded(local.tm_hour, 2) + ":" + self.padded(local.tm_min, 2) + ":" + self.padded(local.tm_sec, 2)
        text += "." + self.padded(time.tv_nsec / 1000, 6) + " "
        let process = String(processID)
        text += String(repeating: " ", count: max(0, 7 - process.count)) + process
        // `#fileID` is `Module/File.swift`; klog shows the file alone.
        text += " \(file.split(separator: "/").last ?? "-"):\(line)] "
        text += self.singleLine(message)
        for (key, value) in metadata.sorted(by: { $0.key < $1.key }) {
            text += " \(key)=\(self.quotedIfNeeded(value.description))"
        }
        text += "\n"
        return text
    }

    private static func letter(of level: Logger.Level) -> String {
        switch level {
        case .trace, .debug, .info, .notice: "I"
        case .warning: "W"
        case .error: "E"
        case .critical: "F"
        }
    }

    private static func padded(_ number: some BinaryInteger, _ width: Int) -> String {
        let digits = String(number)
        return String(repeating: "0", count: max(0, width - digits.count)) + digits
    }

    /// A message of several lines would be taken for several messages.
    private static func singleLine(_ text: String) -> String {
        guard text.utf8.contains(where: { $0 < 0x20 }) else { return text }
        return String(text.unicodeScalars.map { $0.value < 0x20 ? " " : Character($0) })
    }

    private static func quotedIfNeeded(_ value: String) -> String {
        let needsQuotes = value.isEmpty || value.utf8.contains { $0 <= 0x20 || $0 == 0x22 || $0 == 0x3D }
        guard needsQuotes else { return value }
        var quoted = "\""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\"", "\\": quoted += "\\\(scalar)"
            case "\n": quoted += "\\n"
            case "\t": quoted += "\\t"
            case _ where scalar.value < 0x20: quoted += " "
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}
