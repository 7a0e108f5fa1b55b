import CLinux
import Glibc
import Synchronization

/// Whether this process may build labs, and how it can get to.
public enum LabPrivileges {
    private static let mark = "EDGEMESH_LAB_ROOTLESS"

    /// Throws `.notPermitted` saying what is needed.
    public static func check() throws(LabError) {
        guard geteuid() == 0 else {
            throw LabError(
                .notPermitted,
                "a lab needs root, or a host that allows user namespaces (then `edgemesh lab` enters one by itself)"
            )
        }
        guard access(LabState.namespaceRoot, F_OK) == 0 || access("/run", W_OK) == 0 else {
            throw LabError(.notPermitted, "a lab needs a writable /run")
        }
    }

    /// As another user than root: replaces this process by itself inside a user, network and mount namespace in which
    /// it is root. Returns if it is root already; throws `.notPermitted` if the host does not allow it.
    ///
    /// - Parameter arguments: This process's own, with argv[0].
    public static func enterUserNamespaceIfNeeded(arguments: [String]) async throws {
        guard geteuid() != 0 else { return }
        do {
            try await Command.runLocal(["unshare", "--user", "--map-root-user", "--net", "--mount", "true"])
        } catch {
            throw LabError(
                .notPermitted,
                """
                a lab needs root (sudo), or user namespaces, which this host does not allow \
                (sysctl -w user.max_user_namespaces=10000; on Ubuntu: sysctl -w \
                kernel.apparmor_restrict_unprivileged_userns=0; on old Debian: sysctl -w kernel.unprivileged_userns_clone=1)
                """,
                cause: "\(error)"
            )
        }
        // A /run of its own for names of namespaces and state; where /etc/resolv.conf points into /run, its target
        // has to exist, for hosts mount their own over it.
        let script = """
            target=$(readlink -f /etc/resolv.conf)
            mount -t tmpfs tmpfs /run || exit 1
            [ -e "$target" ] || { mkdir -p "${target%/*}" && : >"$target"; }
            program=$1; shift
            exec "$program" "$@"
            """
        let executable = try Self.executable()
        let command =
            [
                "unshare", "--user", "--map-root-user", "--net", "--mount", "--propagation", "private", "sh", "-c",
                script,
            ]
            + ["edgemesh-lab", executable] + arguments.dropFirst()
        setenv(Self.mark, "1", 1)
        let pointers = command.map { strdup($0) } + [nil]
        execvp("unshare", pointers)
        throw LabError(.spawnFailed, "cannot run unshare", cause: describe(errno: errno))
    }

    /// Whether `enterUserNamespaceIfNeeded` has made this process root.
    public static var isRootless: Bool { getenv(Self.mark) != nil }

    /// Makes the file by which programs make TUN devices: a container may lack it where its kernel has them.
    static func makeTunnelFile() {
        guard access("/dev/net/tun", F_OK) != 0 else { return }
        mkdir("/dev/net", 0o755)
        // Major number 10, minor number 200. Who needs it says so if that fails.
        mknod("/dev/net/tun", S_IFCHR | 0o600, 10 << 8 | 200)
    }

    /// The file of this program.
    public static func executable() throws(LabError) -> String {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
        guard count > 0 else { throw Files.error("read", "/proc/self/exe") }
        return String(decoding: buffer[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
