import Glibc
import MeshCore
import MeshTesting

@testable import LinuxNetwork

struct LabError: Error { var message: String }

/// A node made of network namespaces: a bridge with pods behind it (10.9.0.11, .12, .13), and a host outside (10.8.0.2).
/// Every pod answers TCP and UDP on port 8080 with its number.
final class LabNode: Sendable {
    let name: String
    let namespace: NetworkNamespace
    private static let application = """
        import socket,sys,threading
        n=sys.argv[1].encode()
        def udp(f,a):
            s=socket.socket(f,socket.SOCK_DGRAM); s.bind((a,8080))
            while 1:
                d,p=s.recvfrom(2000); s.sendto(n,p)
        def tcp(f,a):
            s=socket.socket(f); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); s.bind((a,8080)); s.listen(512)
            while 1:
                c,p=s.accept(); c.sendall(n+b' '+p[0].encode()); c.close()
        threading.Thread(target=udp,args=(socket.AF_INET,'0.0.0.0')).start()
        threading.Thread(target=tcp,args=(socket.AF_INET,'0.0.0.0')).start()
        s=socket.socket(socket.AF_INET6); s.setsockopt(41,26,1); s.bind(('::',8080)); s.listen(512)
        while 1:
            c,p=s.accept(); c.sendall(n+b' '+p[0].encode()); c.close()
        """
    /// `client N ADDRESS PORT [udp] [source port]` prints one line per call: the answer, or the error's name. With `-` for all
    /// these it takes the lines `ADDRESS PORT tcp|udp` of its input, a call for each.
    private static let client = """
        import socket,sys,errno
        v=sys.argv
        if v[1]=='-': calls=[(a,int(p),t=='udp') for a,p,t in (l.split() for l in sys.stdin)]
        else: calls=[(v[2],int(v[3]),len(v)>4 and v[4]=='udp')]*int(v[1])
        for a,p,u in calls:
            s=socket.socket(socket.AF_INET6 if ':' in a else socket.AF_INET,socket.SOCK_DGRAM if u else socket.SOCK_STREAM)
            s.settimeout(1)
            try:
                if len(v)>5: s.bind(('',int(v[5])))
                s.connect((a,p))
                if u: s.send(b'x')
                print(s.recv(100).decode())
            except OSError as e: print(errno.errorcode.get(e.errno,'TIMEOUT') if e.errno else 'TIMEOUT')
            s.close()
        """

    init(pods: Int = 3) throws {
        guard geteuid() == 0 else { throw LabError(message: "kernel tests need root: run them with sudo") }
        self.name = "emk\(getpid())x\(UInt16.random(in: 0...UInt16.max))"
        var script = """
            set -e
            ip netns add \(self.name); ip -n \(self.name) link set lo up
            ip netns exec \(self.name) sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
            ip -n \(self.name) link add br0 type bridge; ip -n \(self.name) addr add 10.9.0.1/24 dev br0
            ip -n \(self.name) addr add fd09::1/64 dev br0 nodad; ip -n \(self.name) link set br0 up

            """
        for (index, host) in (1...pods).map({ ("p\($0)", 10 + $0) }) + [("out", 2)] {
            let outside = index == "out"
            let ns = "\(self.name)\(index)"
            let net = outside ? "10.8.0" : "10.9.0"
            let net6 = outside ? "fd08:" : "fd09:"
            script += """
                ip netns add \(ns); ip -n \(ns) link set lo up
                ip -n \(self.name) link add v\(index) type veth peer name eth0 netns \(ns)
                \(outside ? "ip -n \(self.name) addr add 10.8.0.1/24 dev vout; ip -n \(self.name) addr add fd08::1/64 dev vout nodad"
                    : "ip -n \(self.name) link set v\(index) master br0; ip -n \(self.name) link set v\(index) type bridge_slave hairpin on")
                ip -n \(self.name) link set v\(index) up; ip -n \(ns) link set eth0 up
                ip -n \(ns) addr add \(net).\(host)/24 dev eth0; ip -n \(ns) addr add \(net6):\(host)/64 dev eth0 nodad
                ip -n \(ns) route add default via \(net).1; ip -n \(ns) route add default via \(net6):1

                """
            if !outside {
                script += "cat > /tmp/edgemesh-test-app-\(self.name).py <<'E'\n\(Self.application)\nE\n"
                script +=
                    "ip netns exec \(ns) setsid python3 /tmp/edgemesh-test-app-\(self.name).py \(index) >/dev/null 2>&1 </dev/null &\n"
            }
        }
        script +=
            "ip -n \(self.name) route add default via 10.8.0.2; ip -n \(self.name) route add default via fd08::2\n"
        script +=
            "cat > /tmp/edgemesh-test-client-$$.py <<'E'\n\(Self.client)\nE\nmv /tmp/edgemesh-test-client-$$.py /tmp/edgemesh-test-client.py\n"
        for pod in 1...pods {
            script +=
                "for i in $(seq 100); do ip netns exec \(self.name)p\(pod) ss -Hltn | grep -q '\\[::\\]:8080\\|\\*:8080' && break; sleep 0.1; done\n"
        }
        do { try shell(script) } catch {
            Self.destroy(self.name)
            throw error
        }
        try shell("rm /tmp/edgemesh-test-app-\(self.name).py")
        self.namespace = try NetworkNamespace(named: self.name)
    }

    deinit { Self.destroy(self.name) }

    private static func destroy(_ name: String) {
        _ = try? shell(
            "for n in $(ip netns | grep -o '^\(name)[a-z0-9]*'); do kill -9 $(ip netns pids $n) 2>/dev/null; ip netns del $n; done",
            allowFailure: true
        )
    }

    /// Runs in the node (`""`), a pod (`p1`) or outside (`out`).
    @discardableResult
    func run(_ place: String = "", _ command: String, allowFailure: Bool = false) throws -> String {
        try shell("ip netns exec \(self.name)\(place) \(command)", allowFailure: allowFailure)
    }

    /// Answers of `count` calls, first word only, counted.
    func call(
        _ place: String,
        _ count: Int,
        _ address: String,
        _ port: Int,
        _ more: String = ""
    ) throws -> [String: Int] {
        let text = try self.run(place, "python3 /tmp/edgemesh-test-client.py \(count) \(address) \(port) \(more)")
        return text.split(separator: "\n").reduce(into: [:]) { $0[String($1.prefix { $0 != " " }), default: 0] += 1 }
    }

    /// The first word of the answer of each, called once, in order.
    func callEach(
        _ place: String,
        _ targets: [(address: String, port: Int, transport: TransportProtocol)]
    ) throws -> [String] {
        let lines = targets.map { "\($0.address) \($0.port) \($0.transport)" }.joined(separator: "\n")
        let text = try self.run(place, "python3 /tmp/edgemesh-test-client.py - <<'E'\n\(lines)\nE\n")
        return text.split(separator: "\n").map { String($0.prefix { $0 != " " }) }
    }
}
