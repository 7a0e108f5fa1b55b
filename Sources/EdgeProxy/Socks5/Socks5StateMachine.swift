import MeshCore
import NIOCore

/// Why a SOCKS5 request was not served: the reply codes of RFC 1928 section 6.
enum Socks5Reply: UInt8, Error, Sendable, Hashable {
    case succeeded = 0
    case generalFailure = 1
    case notAllowed = 2
    case networkUnreachable = 3
    case hostUnreachable = 4
    case connectionRefused = 5
    case timedOut = 6
    case commandNotSupported = 7
    case addressTypeNotSupported = 8

    /// With an unspecified bound address, as the original answers: clients have no use for it.
    var bytes: [UInt8] { [5, self.rawValue, 0, 1, 0, 0, 0, 0, 0, 0] }
}

/// Where a SOCKS5 client wants to go.
struct Socks5Destination: Sendable, Hashable {
    enum Host: Sendable, Hashable {
        case name(String)
        case address(IPAddress)
    }

    var host: Host
    var port: UInt16
}

/// The handshake of a SOCKS5 server (RFC 1928), with user and password (RFC 1929) if it asks for them. A value without I/O.
struct Socks5StateMachine {
    struct Credentials: Sendable, Hashable {
        var user: String
        var password: String
    }

    enum Action: Sendable, Hashable {
        case needsMore
        /// Send these bytes, and go on.
        case reply([UInt8])
        case connect(Socks5Destination)
        /// Send these bytes, and close.
        case end([UInt8])
    }

    private enum State {
        case greeting
        case authentication
        case request
        case done
    }

    private static let noAuthentication: UInt8 = 0
    private static let userAndPassword: UInt8 = 2
    private static let noMethod: UInt8 = 0xFF

    private let credentials: Credentials?
    private var state = State.greeting

    init(credentials: Credentials?) {
        self.credentials = credentials
    }

    /// Takes one message from what has been received. Call it until it needs more; nothing is taken then.
    mutating func receive(_ buffer: inout ByteBuffer) -> Action {
        switch self.state {
        case .greeting: self.greet(&buffer)
        case .authentication: self.authenticate(&buffer)
        case .request: self.request(&buffer)
        case .done: .needsMore
        }
    }

    private mutating func end(_ bytes: [UInt8]) -> Action {
        self.state = .done
        return .end(bytes)
    }

    private mutating func greet(_ buffer: inout ByteBuffer) -> Action {
        guard let version = buffer.peek(UInt8.self, at: 0) else { return .needsMore }
        // SOCKS4 and HTTP come here by mistake; neither would understand an answer.
        guard version == 5 else { return self.end([]) }
        guard let count = buffer.peek(UInt8.self, at: 1), let methods = buffer.peekBytes(Int(count), at: 2) else {
            return .needsMore
        }
        buffer.moveReaderIndex(forwardBy: 2 + Int(count))
        let method = self.credentials == nil ? Self.noAuthentication : Self.userAndPassword
        guard methods.contains(method) else { return self.end([5, Self.noMethod]) }
        self.state = self.credentials == nil ? .request : .authentication
        return .reply([5, method])
    }

    private mutating func authenticate(_ buffer: inout ByteBuffer) -> Action {
        guard let version = buffer.peek(UInt8.self, at: 0) else { return .needsMore }
        guard version == 1 else { return self.end([1, 1]) }
        guard let userLength = buffer.peek(UInt8.self, at: 1).map(Int.init),
            let user = buffer.peekBytes(userLength, at: 2),
            let passwordLength = buffer.peek(UInt8.self, at: 2 + userLength).map(Int.init),
            let password = buffer.peekBytes(passwordLength, at: 3 + userLength)
        else { return .needsMore }
        buffer.moveReaderIndex(forwardBy: 3 + userLength + passwordLength)
        guard let credentials = self.credentials,
            Self.isEqual(user, Array(credentials.user.utf8))
                && Self.isEqual(password, Array(credentials.password.utf8))
        else { return self.end([1, 1]) }
        self.state = .request
        return .reply([1, 0])
    }

    /// In a time that tells nothing of where they differ.
    private static func isEqual(_ lhs: [UInt8], _ rhs: [UInt8]) -> Bool {
        guard lhs.count == rhs.count else { return false }
        return zip(lhs, rhs).reduce(UInt8(0)) { $0 | ($1.0 ^ $1.1) } == 0
    }

    private mutating func request(_ buffer: inout ByteBuffer) -> Action {
        guard let version = buffer.peek(UInt8.self, at: 0) else { return .needsMore }
        guard version == 5 else { return self.end(Socks5Reply.generalFailure.bytes) }
        guard let command = buffer.peek(UInt8.self, at: 1), let type = buffer.peek(UInt8.self, at: 3) else {
            return .needsMore
        }
        let host: Socks5Destination.Host?
        let end: Int
        switch type {
        case 1:
            guard let bytes = buffer.peekBytes(4, at: 4) else { return .needsMore }
            host = IPAddress(networkBytes: bytes).map { .address($0) }
            end = 8
        case 4:
            guard let bytes = buffer.peekBytes(16, at: 4) else { return .needsMore }
            host = IPAddress(networkBytes: bytes).map { .address($0) }
            end = 20
        case 3:
            guard let length = buffer.peek(UInt8.self, at: 4).map(Int.init), let bytes = buffer.peekBytes(length, at: 5)
            else { return .needsMore }
            let text = String(decoding: bytes, as: UTF8.self)
            // Many clients send addresses as names.
            host = IPAddress(text).map { .address($0) } ?? .name(text)
            end = 5 + length
        default:
            return self.end(Socks5Reply.addressTypeNotSupported.bytes)
        }
        guard let port = buffer.peek(UInt16.self, at: end) else { return .needsMore }
        buffer.moveReaderIndex(forwardBy: end + 2)
        guard command == 1 else { return self.end(Socks5Reply.commandNotSupported.bytes) }
        guard let host, port != 0 else { return self.end(Socks5Reply.generalFailure.bytes) }
        self.state = .done
        return .connect(Socks5Destination(host: host, port: port))
    }
}

extension ByteBuffer {
    /// An integer at an offset from the reader index; nil if it has not come yet.
    fileprivate func peek<Value: FixedWidthInteger>(_ type: Value.Type, at offset: Int) -> Value? {
        guard self.readableBytes >= offset + MemoryLayout<Value>.size else { return nil }
        return self.getInteger(at: self.readerIndex + offset)
    }

    fileprivate func peekBytes(_ count: Int, at offset: Int) -> [UInt8]? {
        guard self.readableBytes >= offset + count else { return nil }
        return self.getBytes(at: self.readerIndex + offset, length: count)
    }
}
