/// Which counters of datagrams have come: each is taken once, in any order within the window (RFC 6479).
struct ReplayWindow {
    private static let words: UInt64 = 64
    /// How far behind the newest one a datagram may come: one word is being filled anew.
    static let size = (words - 1) * 64
    /// The last counter there is.
    static let last = UInt64.max - 1

    private var bits = [UInt64](repeating: 0, count: Int(words))
    /// One more than the highest counter that came.
    private(set) var next: UInt64 = 0

    /// Whether a counter may still come. Asked before the datagram is proven, so nothing changes.
    func admits(_ counter: UInt64) -> Bool {
        guard counter <= Self.last else { return false }
        guard counter < self.next else { return true }
        return self.next - counter <= Self.size && self.bits[Self.word(counter)] & Self.bit(counter) == 0
    }

    /// Notes a counter that is admitted, once its datagram is proven.
    mutating func insert(_ counter: UInt64) {
        if counter >= self.next {
            let newest = self.next == 0 ? 0 : (self.next - 1) >> 6
            // Beyond the length of the ring each word is another one.
            for step in 0..<min((counter >> 6) - newest, Self.words) {
                self.bits[Int((newest + 1 + step) % Self.words)] = 0
            }
            self.next = counter + 1
        }
        self.bits[Self.word(counter)] |= Self.bit(counter)
    }

    private static func word(_ counter: UInt64) -> Int { Int((counter >> 6) % Self.words) }
    private static func bit(_ counter: UInt64) -> UInt64 { 1 << (counter & 63) }
}
