import CLinux
import Glibc
import Synchronization

/// A network namespace, held open by a descriptor.
public final class NetworkNamespace: Sendable {
    private let descriptor: Int32

    /// Opens `/run/netns/NAME`.
    public convenience init(named name: String) throws {
        try self.init(path: "/run/netns/\(name)")
    }

    /// Opens the namespace in which the process lives.
    public convenience init(ofProcess process: Int32) throws {
        try self.init(path: "/proc/\(process)/ns/net")
    }

    public init(path: String) throws {
        self.descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard self.descriptor >= 0 else { throw systemError("cannot open the network namespace \(path)") }
    }

    private init(descriptor: Int32) {
        self.descriptor = descriptor
    }

    /// Makes a namespace that no name refers to; it goes when the last socket and descriptor in it do.
    public static func anonymous() throws -> NetworkNamespace {
        try onThread {
            guard clinux_unshare(clinux_clone_newnet) == 0 else { throw systemError("cannot make a network namespace") }
            let descriptor = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)
            guard descriptor >= 0 else { throw systemError("cannot open the new network namespace") }
            return NetworkNamespace(descriptor: descriptor)
        }
    }

    deinit { close(self.descriptor) }

    /// Runs `body` on a thread of its own inside the namespace and waits for it. Sockets it opens stay in the namespace.
    public func run<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) throws -> Value {
        try onThread { [descriptor] in
            guard clinux_setns(descriptor, clinux_clone_newnet) == 0 else {
                throw systemError("cannot enter the network namespace")
            }
            return try body()
        }
    }
}

/// Runs `body` on a new thread, so that what it does to its thread (its namespaces) ends with it.
private func onThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) throws -> Value {
    let outcome = Outcome<Value>()
    let thread = try startThread(
        ThreadJob {
            let result = Result { try body() }
            outcome.result.withLock { $0 = result }
        }
    )
    pthread_join(thread, nil)
    guard let result = outcome.result.withLock({ $0 }) else {
        throw LinuxNetworkError(.unsupported, "the thread ended without a result")
    }
    return try result.get()
}

/// Runs `body`, which blocks, on a thread of its own, while the caller's thread does other work.
func besides<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
        do {
            pthread_detach(try startThread(ThreadJob { continuation.resume(with: Result { try body() }) }))
        } catch {
            continuation.resume(throwing: error)
        }
    }
}

private func startThread(_ job: ThreadJob) throws(LinuxNetworkError) -> pthread_t {
    var thread = pthread_t()
    let argument = Unmanaged.passRetained(job).toOpaque()
    let status = pthread_create(
        &thread,
        nil,
        { argument in
            // The pointer is never null: it is the one passed below.
            if let argument { Unmanaged<ThreadJob>.fromOpaque(argument).takeRetainedValue().work() }
            return nil
        },
        argument
    )
    guard status == 0 else {
        Unmanaged<ThreadJob>.fromOpaque(argument).release()
        throw LinuxNetworkError(.system(status), "cannot start a thread")
    }
    return thread
}

/// What a thread does, as an object that can pass through a C pointer.
private final class ThreadJob: Sendable {
    let work: @Sendable () -> Void
    init(_ work: @escaping @Sendable () -> Void) { self.work = work }
}

private final class Outcome<Value: Sendable>: Sendable {
    let result = Mutex<Result<Value, any Error>?>(nil)
}
