public import MeshCore
public import NIOCore

/// Looks names up for `/dns`, `/dns4`, `/dns6` and `/dnsaddr` addresses.
public protocol NameResolver: Sendable {
    /// The addresses of a host name, of one family or of both. Completes on `loop`.
    func addresses(of name: String, family: IPFamily?, on loop: any EventLoop) -> EventLoopFuture<[IPAddress]>
    /// The TXT records of a name, each joined to one text. Completes on `loop`.
    func texts(of name: String, on loop: any EventLoop) -> EventLoopFuture<[String]>
}
