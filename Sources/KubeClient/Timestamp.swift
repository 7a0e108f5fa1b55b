/// Seconds since 1970 out of the two forms of time that API servers send.
enum Timestamp {
    /// RFC 3339, such as `2026-01-31T23:59:59.5Z` or `…+02:00`; fractions are cut off. Nil if it is anything else.
    static func rfc3339(_ text: String) -> Int64? {
        let bytes = Array(text.utf8)
        guard bytes.count >= 20, bytes[4] == UInt8(ascii: "-"), bytes[7] == UInt8(ascii: "-"),
            bytes[10] | 0x20 == UInt8(ascii: "t"), bytes[13] == UInt8(ascii: ":"), bytes[16] == UInt8(ascii: ":"),
            let year = Self.number(bytes[0..<4]), let month = Self.number(bytes[5..<7]),
            let day = Self.number(bytes[8..<10]), let hour = Self.number(bytes[11..<13]),
            let minute = Self.number(bytes[14..<16]), let second = Self.number(bytes[17..<19]),
            let seconds = Self.seconds(year, month, day, hour, minute, second)
        else { return nil }
        var zone = bytes[19...]
        if zone.first == UInt8(ascii: ".") {
            zone = zone.dropFirst().drop { $0 >= 0x30 && $0 <= 0x39 }
        }
        if zone.count == 1, zone.first.map({ $0 | 0x20 }) == UInt8(ascii: "z") { return seconds }
        let offset = Array(zone)
        guard offset.count == 6, offset[3] == UInt8(ascii: ":"), let hours = Self.number(offset[1..<3]),
            let minutes = Self.number(offset[4..<6])
        else { return nil }
        switch offset[0] {
        case UInt8(ascii: "+"): return seconds - hours * 3600 - minutes * 60
        case UInt8(ascii: "-"): return seconds + hours * 3600 + minutes * 60
        default: return nil
        }
    }

    /// The `Date` header (RFC 9110 section 5.6.7), such as `Sun, 06 Nov 1994 08:49:37 GMT`.
    static func httpDate(_ text: String) -> Int64? {
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        let words = text.split(separator: " ")
        guard words.count == 6, words[5] == "GMT", let month = months.firstIndex(of: String(words[2])),
            let day = Self.number(Array(words[1].utf8)[...]), let year = Self.number(Array(words[3].utf8)[...])
        else { return nil }
        let clock = words[4].split(separator: ":").map { Self.number(Array($0.utf8)[...]) }
        guard clock.count == 3, let hour = clock[0], let minute = clock[1], let second = clock[2] else { return nil }
        return Self.seconds(year, Int64(month) + 1, day, hour, minute, second)
    }

    private static func number(_ digits: ArraySlice<UInt8>) -> Int64? {
        guard !digits.isEmpty, digits.count <= 4, digits.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }) else { return nil }
        return digits.reduce(0) { $0 * 10 + Int64($1 - 0x30) }
    }

    /// Days since 1970 by counting from 1 March, so that the leap day is the last of its year.
    private static func seconds(
        _ year: Int64,
        _ month: Int64,
        _ day: Int64,
        _ hour: Int64,
        _ minute: Int64,
        _ second: Int64
    ) -> Int64? {
        guard (1...9999).contains(year), (1...12).contains(month), (1...31).contains(day), (0...23).contains(hour),
            (0...59).contains(minute), (0...60).contains(second)
        else { return nil }
        let shifted = month <= 2 ? year - 1 : year
        let monthFromMarch = (month + 9) % 12
        let dayOfYear = (153 * monthFromMarch + 2) / 5 + day - 1
        let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + dayOfYear - 719_468
        return days * 86_400 + hour * 3600 + minute * 60 + second
    }
}
