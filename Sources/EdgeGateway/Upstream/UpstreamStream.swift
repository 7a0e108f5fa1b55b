import NIOCore

/// Why a backend gave no answer, or no whole one.
enum UpstreamFailure: Error, Sendable {
    /// Nothing of the request reached it.
    case connect(String)
    /// HTTP/2's REFUSED_STREAM: it has done nothing for the request.
    case refused
    /// The connection broke. `isStale`: it had served requests before, and nothing came for this one.
    case reset(isStale: Bool)
    /// It answered what is no HTTP.
    case malformed(String)
    case timeout
}

/// One request to a backend, over whichever version of HTTP. Confined to its loop.
protocol UpstreamStream: AnyObject {
    var isWritable: Bool { get }
    /// Who is told what comes; nil drops it.
    var observer: (any UpstreamObserver)? { get set }
    func send(_ head: RequestHead)
    func write(_ bytes: ByteBuffer)
    func end(_ trailers: HeaderFields?)
    func flush()
    /// Asks for more of the response: each call brings one read's worth, then `upstreamReadComplete`.
    func read()
    /// The request is given up. The observer hears nothing more.
    func cancel()
}

protocol UpstreamObserver: AnyObject {
    /// A 1xx other than 101.
    func upstreamInformed(_ head: ResponseHead)
    func upstreamAnswered(_ head: ResponseHead)
    func upstreamSent(_ bytes: ByteBuffer)
    func upstreamReadComplete()
    func upstreamEnded(_ trailers: HeaderFields?)
    func upstreamFailed(_ failure: UpstreamFailure)
    func upstreamBecameWritable()
    /// 101: the bytes of `channel`, which has no handler of HTTP any more, are the new protocol's, `received` first.
    func upstreamSwitched(_ head: ResponseHead, _ channel: any Channel, received: ByteBuffer?)
}
