import GatewayRouting
import LinuxNetwork
import Logging
import MeshCore
import NIOCore

/// Brings what is listened on into line with the plan and with the machine's addresses. A listener that stays is not touched.
actor GatewayListeners {
    /// One address of the plan, as status shows it.
    struct Entry: Sendable, Hashable {
        var address: ListenAddress
        var origins: [String]
        /// Why nobody listens there; nil if the gateway does.
        var problem: String?
    }

    private struct Wanted: Equatable {
        var service: ListenerPlan.Service
        var origins: [String]
    }

    private let handles: [WorkerHandle]
    private let certificates: CertificateStore
    private let logger: Logger
    private let machine: @Sendable () throws -> (links: [NetworkLink], addresses: [LinkAddress])
    private var settings: GatewaySettings
    private var plan = GatewayPlan()
    /// What is in force, by the address that was asked for.
    private var inForce: [ListenAddress: Wanted] = [:]
    /// The same with the port that the kernel chose.
    private var bound: [ListenAddress: ListenAddress] = [:]
    private var problems: [ListenAddress: String] = [:]
    private var certificateProblems: [String] = []
    private var cannotReadAddresses = false
    private var isReconciling = false
    private var needsReconciling = false
    private var isStopped = false

    init(
        handles: [WorkerHandle],
        certificates: CertificateStore,
        settings: GatewaySettings,
        logger: Logger,
        machine: @escaping @Sendable () throws -> (links: [NetworkLink], addresses: [LinkAddress])
    ) {
        self.handles = handles
        self.certificates = certificates
        self.settings = settings
        self.logger = logger
        self.machine = machine
    }

    func replace(_ plan: GatewayPlan) async {
        self.plan = plan
        await self.reconcile()
    }

    func replace(_ settings: GatewaySettings) async {
        self.settings = settings
        await self.reconcile()
    }

    func stop() {
        self.isStopped = true
    }

    var entries: [Entry] {
        let open = self.inForce.map { asked, wanted in
            Entry(address: self.bound[asked] ?? asked, origins: wanted.origins, problem: nil)
        }
        let closed = self.problems.map { Entry(address: $0.key, origins: [], problem: $0.value) }
        return (open + closed).sorted { $0.address < $1.address }
    }

    var brokenCertificates: [String] { self.certificateProblems }

    /// Whether anything that is wanted is not served.
    var hasProblems: Bool { !self.problems.isEmpty || !self.certificateProblems.isEmpty || self.cannotReadAddresses }

    /// Looks again at everything: what changed, what could not be listened on before. One at a time; what comes meanwhile is
    /// done after it.
    func reconcile() async {
        guard !self.isReconciling else {
            self.needsReconciling = true
            return
        }
        self.isReconciling = true
        repeat {
            self.needsReconciling = false
            await self.reconcileOnce()
        } while self.needsReconciling
        self.isReconciling = false
    }

    private func reconcileOnce() async {
        guard !self.isStopped else { return }
        await self.prepareCertificates()
        let wanted = self.wanted()
        self.problems = self.problems.filter { wanted[$0.key] != nil }
        for (address, want) in wanted.sorted(by: { $0.key < $1.key }) where self.inForce[address] != want {
            await self.open(address, want)
        }
        // Last, so that a port that moves from all addresses to one is never without a listener.
        for address in self.inForce.keys.sorted() where wanted[address] == nil {
            self.inForce[address] = nil
            let known = self.bound.removeValue(forKey: address) ?? address
            for handle in self.handles { try? await handle.stopListening(known).get() }
            self.logger.info("the gateway listens no more", metadata: ["address": "\(known)"])
        }
    }

    private func open(_ address: ListenAddress, _ want: Wanted) async {
        var bound = self.bound[address] ?? address
        do {
            // The first socket settles the port, the others join it.
            for handle in self.handles { bound = try await handle.listen(bound, want.service).get() }
        } catch {
            let problem = "\(error)"
            if self.problems.updateValue(problem, forKey: address) != problem {
                self.logger.warning(
                    "the gateway cannot listen: check what else has the port; it is tried again",
                    metadata: ["address": "\(address)", "error": "\(error)"]
                )
            }
            for handle in self.handles { try? await handle.stopListening(bound).get() }
            self.inForce[address] = nil
            self.bound[address] = nil
            return
        }
        if self.inForce.updateValue(want, forKey: address) == nil {
            self.logger.info("the gateway listens", metadata: ["address": "\(bound)"])
        }
        self.bound[address] = bound
        self.problems[address] = nil
    }

    private func wanted() -> [ListenAddress: Wanted] {
        let own: [IPAddress]
        // A socket on a wildcard could not answer from the address that was asked.
        let ownForDatagrams: [IPAddress]
        do {
            let (links, addresses) = try self.machine()
            own = self.settings.addresses(links: links, addresses: addresses)
            ownForDatagrams = self.settings.singleAddresses(links: links, addresses: addresses)
            self.cannotReadAddresses = false
        } catch {
            self.logger.warning("the machine's addresses cannot be read", metadata: ["error": "\(error)"])
            own = self.settings.isUnconfined ? [.v4(.any)] : []
            ownForDatagrams = []
            self.cannotReadAddresses = true
        }
        var wanted: [ListenAddress: Wanted] = [:]
        for listener in self.plan.listeners {
            let all = listener.key.transport == .udp ? ownForDatagrams : own
            for address in listener.key.address.map({ [$0] }) ?? all {
                let key = ListenAddress(
                    transport: listener.key.transport,
                    address: TransportAddress(address, listener.key.port)
                )
                if wanted[key] == nil { wanted[key] = Wanted(service: listener.service, origins: listener.origins) }
            }
        }
        return wanted
    }

    /// Off the loops, and before connections need them.
    private func prepareCertificates() async {
        var terminations: Set<TLSTermination> = []
        for case .tls(let servers) in self.plan.listeners.map(\.service) {
            terminations.formUnion(servers.compactMap(\.termination))
        }
        var problems: [String] = []
        for termination in terminations {
            if case .failure(let error) = self.certificates.prepare(termination) { problems.append("\(error)") }
        }
        self.certificates.keep(only: terminations)
        self.certificateProblems = problems.sorted()
    }
}
