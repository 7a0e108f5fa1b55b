import Crypto
public import NIOCore

/// What a datagram holds; other numbers are passed over.
public enum DatagramKind: UInt8, Sendable, Hashable, CaseIterable {
    /// A packet of IP.
    case packet = 0
    /// One whose checksum of TCP or UDP covers the pseudo header alone.
    case partialPacket = 1
    /// Asks for an answer: a number of eight bytes, then zeros.
    case probe = 2
    /// The number of a probe.
    case answer = 3
}

/// The keys of one agreement, and the datagrams that they have sealed and opened. Confined to its owner.
///
/// A datagram: its kind, three zeros, the receiver's index in four bytes, the counter in eight, ciphertext, tag. The header is
/// authenticated with the ciphertext.
public struct DatagramSession: Sendable {
    /// Of header and tag.
    public static let overhead = headerLength + DatagramCipher.tagLength
    static let headerLength = 16
    /// Datagrams that one key seals: with AES-GCM an attacker learns nothing of worth from so many (RFC 8446 section 5.5).
    static let maximumDatagrams: UInt64 = 1 << 32

    public let ownIndex: UInt32
    let peerIndex: UInt32
    private let sealing: DatagramCipher
    private let opening: DatagramCipher
    private(set) var sent: UInt64
    private var window = ReplayWindow()

    init(
        ownIndex: UInt32,
        peerIndex: UInt32,
        sealing: DatagramCipher,
        opening: DatagramCipher,
        sent: UInt64 = 0
    ) {
        self.ownIndex = ownIndex
        self.peerIndex = peerIndex
        self.sealing = sealing
        self.opening = opening
        self.sent = sent
    }

    public var usesAES: Bool { self.sealing.usesAES }
    /// For what is sent, and for what comes.
    var keys: [SymmetricKey] { [self.sealing.key, self.opening.key] }
    /// Datagrams that this session has used up in the direction that has used more.
    var used: UInt64 { max(self.sent, self.window.next) }

    /// Whose session a datagram is of; nil if it is none.
    public static func index(of datagram: ByteBuffer) -> UInt32? {
        guard datagram.readableBytes >= Self.overhead else { return nil }
        return datagram.getInteger(at: datagram.readerIndex + 4, as: UInt32.self)
    }

    /// Appends a datagram to `buffer`.
    mutating func seal(
        _ kind: DatagramKind,
        _ plaintext: UnsafeRawBufferPointer,
        into buffer: inout ByteBuffer
    ) throws(DatagramError) {
        guard self.sent < Self.maximumDatagrams else { throw DatagramError(.exhausted) }
        let counter = self.sent
        self.sent += 1
        let header = (
            UInt32(kind.rawValue).littleEndian, self.peerIndex.bigEndian, counter.bigEndian
        )
        do {
            try withUnsafeBytes(of: header) { header in
                buffer.writeBytes(header)
                try self.sealing.seal(plaintext, counter: counter, authenticating: header, into: &buffer)
            }
        } catch {
            throw error as? DatagramError ?? DatagramError(.exhausted)
        }
    }

    /// Appends what a datagram holds to `buffer`, once it is proven and new.
    /// - Returns: nil for one of a kind that is not known.
    mutating func open(
        _ datagram: UnsafeRawBufferPointer,
        into buffer: inout ByteBuffer
    ) throws(DatagramError) -> DatagramKind? {
        guard datagram.count >= Self.overhead,
            datagram.loadUnaligned(fromByteOffset: 0, as: UInt32.self).littleEndian <= 0xFF,
            UInt32(bigEndian: datagram.loadUnaligned(fromByteOffset: 4, as: UInt32.self)) == self.ownIndex
        else { throw DatagramError(.malformed) }
        let counter = UInt64(bigEndian: datagram.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        guard self.window.admits(counter) else { throw DatagramError(.replayed) }
        do {
            try self.opening.open(
                UnsafeRawBufferPointer(rebasing: datagram.dropFirst(Self.headerLength)),
                counter: counter,
                authenticating: UnsafeRawBufferPointer(rebasing: datagram.prefix(Self.headerLength)),
                into: &buffer
            )
        } catch {
            throw DatagramError(.forged)
        }
        self.window.insert(counter)
        return DatagramKind(rawValue: datagram[0])
    }
}
