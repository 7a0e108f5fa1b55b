import Documents
import MeshCore

/// How one kind of value is read from a document and written to it.
struct ValueForm<Value> {
    /// Reads the value at the path. Nil if it does not fit, which has been reported.
    var read: (Document, String, inout ConfigurationReport) -> Value?
    var write: (Value) -> Document

    init(
        read: @escaping (Document, String, inout ConfigurationReport) -> Value?,
        write: @escaping (Value) -> Document
    ) {
        self.read = read
        self.write = write
    }

    /// A form whose values are checked one by one; `parse` gives nil for what is not `allowed`.
    init(_ allowed: String, parse: @escaping (Document) -> Value?, write: @escaping (Value) -> Document) {
        self.init(
            read: { document, path, report in
                if let value = parse(document) { return value }
                report.add(.error, path, at: document.position, "\(path) is \(document.brief); allowed: \(allowed)")
                return nil
            },
            write: write
        )
    }
}

extension ValueForm where Value == Bool {
    static var flag: ValueForm { ValueForm("true or false, without quotes", parse: \.bool) { .init(.bool($0)) } }
}

extension ValueForm where Value == String {
    static var text: ValueForm {
        .text("text; write it in quotes if it looks like a number or a word such as yes") { _ in true }
    }

    static func text(_ allowed: String, _ isAllowed: @escaping (String) -> Bool) -> ValueForm {
        ValueForm(allowed, parse: { $0.string.flatMap { isAllowed($0) ? $0 : nil } }, write: { .string($0) })
    }

    static var absolutePath: ValueForm { .text("an absolute path, such as /etc/edgemesh/x") { $0.hasPrefix("/") } }

    static var optionalPath: ValueForm { .text("an absolute path, or \"\"") { $0.isEmpty || $0.hasPrefix("/") } }

    /// IFNAMSIZ of Linux, and what it refuses in a name.
    static var interfaceName: ValueForm {
        .text("an interface name of 1 to 15 characters without /, : and spaces") { name in
            (1...15).contains(name.utf8.count) && name != "." && name != ".."
                && name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && !"/:".utf8.contains($0) }
        }
    }
}

extension ValueForm where Value == Int {
    static func integer(_ range: ClosedRange<Int>) -> ValueForm {
        ValueForm("a whole number from \(range.lowerBound) to \(range.upperBound)") { document in
            let number: Int? =
                switch document.content {
                case .integer(let number): Int(exactly: number)
                // YAML writes 1e4 for 10000.
                case .number(let number): Int(exactly: number)
                default: nil
                }
            return number.flatMap { range.contains($0) ? $0 : nil }
        } write: {
            .integer($0)
        }
    }
}

extension ValueForm where Value == UInt16 {
    static var port: ValueForm {
        let form = ValueForm<Int>.integer(1...65535)
        return ValueForm(
            read: { document, path, report in form.read(document, path, &report).map { UInt16($0) } },
            write: { .integer($0) }
        )
    }
}

extension ValueForm where Value == Double {
    static func decimal(_ range: ClosedRange<Double>) -> ValueForm {
        ValueForm("a number from \(range.lowerBound) to \(range.upperBound)") { document in
            let number: Double? =
                switch document.content {
                case .integer(let number): Double(number)
                case .number(let number): number
                default: nil
                }
            return number.flatMap { range.contains($0) ? $0 : nil }
        } write: {
            .init(.number($0))
        }
    }
}

extension ValueForm where Value == Duration {
    /// Whole or decimal seconds.
    static func seconds(_ range: ClosedRange<Double>) -> ValueForm {
        let form = ValueForm<Double>.decimal(range)
        return ValueForm(
            read: { document, path, report in form.read(document, path, &report).map { .seconds($0) } },
            write: { duration in
                let (seconds, attoseconds) = duration.components
                return attoseconds == 0
                    ? .integer(seconds) : .init(.number(Double(seconds) + Double(attoseconds) / 1e18))
            }
        )
    }
}

extension ValueForm where Value: RawRepresentable<String> & CaseIterable {
    static var choice: ValueForm {
        let allowed = Value.allCases.map(\.rawValue).joined(separator: ", ")
        return ValueForm(allowed, parse: { $0.string.flatMap(Value.init) }, write: { .string($0.rawValue) })
    }
}

extension ValueForm where Value == IPv4Address {
    static var ipv4: ValueForm {
        ValueForm(
            "an IPv4 address",
            parse: { $0.string.flatMap { IPv4Address($0) } },
            write: { .string($0.description) }
        )
    }
}

extension ValueForm where Value == AgentConfiguration.RelayAddress {
    static var relayAddress: ValueForm {
        ValueForm("an IPv4 or IPv6 address, or a DNS name such as relay.example.com") { document in
            guard let text = document.string else { return nil }
            if let address = IPAddress(text) { return .address(address) }
            return Self.isName(text) ? .name(text) : nil
        } write: {
            switch $0 {
            case .address(let address): .string(address.description)
            case .name(let name): .string(name)
            }
        }
    }

    /// A host name (RFC 1123, section 2.1). What has only digits in its last label is an address that is mistyped.
    private static func isName(_ text: String) -> Bool {
        let labels = (text.hasSuffix(".") ? text.dropLast() : text[...]).split(
            separator: ".",
            omittingEmptySubsequences: false
        )
        return text.utf8.count <= 253 && labels.last?.utf8.allSatisfy { (0x30...0x39).contains($0) } == false
            && labels.allSatisfy { label in
                (1...63).contains(label.utf8.count) && label.first != "-" && label.last != "-"
                    && label.utf8.allSatisfy { byte in
                        (0x61...0x7A).contains(byte | 0x20) || (0x30...0x39).contains(byte) || byte == 0x2D
                    }
            }
    }
}

extension ValueForm where Value == IPv6Address? {
    static var optionalIPv6: ValueForm {
        ValueForm("an IPv6 address, or \"\" for none") { document -> IPv6Address?? in
            guard let text = document.string else { return .none }
            if text.isEmpty { return .some(nil) }
            return IPv6Address(text).map { .some($0) } ?? .none
        } write: {
            .string($0?.description ?? "")
        }
    }
}

extension ValueForm where Value == CIDR {
    static var block: ValueForm {
        ValueForm(
            "a block such as 10.244.0.0/16",
            parse: { $0.string.flatMap { CIDR($0) } },
            write: { .string($0.description) }
        )
    }
}

extension ValueForm where Value == TransportAddress {
    /// An address with the port, which is 53 if it is not written.
    static var dnsServer: ValueForm {
        ValueForm("an address such as 10.0.0.10, 10.0.0.10:5353 or [fd00::10]:53") { document in
            guard let text = document.string,
                let server = IPAddress(text).map({ TransportAddress($0, 53) }) ?? TransportAddress(text),
                server.port != 0, !server.address.isUnspecified
            else { return nil }
            return server
        } write: {
            .string($0.port == 53 ? $0.address.description : $0.description)
        }
    }
}

extension ValueForm {
    /// A list of values; it replaces the default as a whole.
    static func list<Element>(of form: ValueForm<Element>) -> ValueForm where Value == [Element] {
        ValueForm(
            read: { document, path, report in
                guard let elements = document.array else {
                    report.add(
                        .error,
                        path,
                        at: document.position,
                        "\(path) is \(document.brief); allowed: a list (lines that start with -)"
                    )
                    return nil
                }
                // Every element is read, so that all problems show.
                let values = elements.enumerated().map { form.read($1, "\(path)[\($0)]", &report) }
                return values.contains { $0 == nil } ? nil : values.compactMap { $0 }
            },
            write: { .array($0.map(form.write)) }
        )
    }

    /// An object with its own keys, of which `required` may not be left out.
    static func object(
        _ keys: [ConfigurationKey<Value>],
        required: String,
        empty: @escaping () -> Value
    ) -> ValueForm {
        ValueForm(
            read: { document, path, report in
                var value = empty()
                let count = report.problems.count
                ConfigurationReader(keys: keys).read(document, into: &value, at: path, report: &report)
                if let members = document.members,
                    !members.contains(where: { $0.key.lowercased() == required.lowercased() })
                {
                    report.add(.error, path, at: document.position, "\(path).\(required) is missing; set it")
                }
                return report.problems[count...].contains { $0.severity == .error } ? nil : value
            },
            write: { ConfigurationReader(keys: keys).document(of: $0) }
        )
    }
}
