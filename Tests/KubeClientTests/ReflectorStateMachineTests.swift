import KubeModel
import MeshCore
import Testing

@testable import KubeClient

@Suite struct ReflectorStateMachineTests {
    private typealias Machine = ReflectorStateMachine

    private func machine(
        _ resource: WatchedResource = .services,
        known: Int = 0,
        configure: (inout Machine.Configuration) -> Void = { _ in }
    ) -> Machine {
        var configuration = Machine.Configuration()
        configure(&configuration)
        return Machine(resource: resource, configuration: configuration, knownItems: known, seed: 7)
    }

    private let start = MonotonicTime(nanoseconds: 1_000_000_000)

    private func list(
        _ resource: APIResource,
        version: String,
        token: String? = nil,
        limit: Int? = 500
    ) -> Machine.Step {
        .list(.init(resource: resource, limit: limit, continueToken: token, resourceVersion: version))
    }

    /// A machine that has listed one object at version 10 and is about to watch.
    private func watching(_ resource: WatchedResource = .services) -> Machine {
        var machine = self.machine(resource)
        _ = machine.nextStep()
        _ = machine.pageBegan()
        _ = machine.pageEnded(items: 1, continueToken: nil, resourceVersion: "10", now: self.start)
        return machine
    }

    private func watchedVersion(_ step: Machine.Step) -> String? {
        guard case .watch(let request) = step else { return nil }
        return request.resourceVersion
    }

    private func delay(_ step: Machine.Step) -> Duration? {
        guard case .wait(let duration) = step else { return nil }
        return duration
    }

    @Test func listsInPagesThenWatches() {
        var machine = self.machine()
        let services = machine.current
        #expect(machine.nextStep() == self.list(services, version: "0"))
        #expect(machine.pageBegan() == [.syncBegan(.service)])
        #expect(machine.pageEnded(items: 500, continueToken: "t", resourceVersion: "10", now: self.start) == [])
        #expect(machine.nextStep() == self.list(services, version: "", token: "t"))
        #expect(machine.pageBegan() == [])
        let effects = machine.pageEnded(items: 3, continueToken: "", resourceVersion: "10", now: self.start)
        #expect(effects == [.syncEnded(.service), .health(.synced)])
        guard case .watch(let request) = machine.nextStep() else {
            Issue.record("no watch")
            return
        }
        #expect(request.resourceVersion == "10")
        #expect((300...600).contains(request.timeoutSeconds))
    }

    @Test func resumesFromTheLastVersion() {
        var machine = self.watching()
        _ = machine.watchBegan()
        machine.observed(resourceVersion: "11")
        machine.observed(resourceVersion: nil)
        machine.watchEnded(after: .seconds(300), sawEvents: true)
        #expect(self.watchedVersion(machine.nextStep()) == "11")
    }

    @Test func aWatchThatEndsAtOnceIsNotRenewedInATightLoop() {
        var machine = self.watching()
        _ = machine.watchBegan()
        machine.watchEnded(after: .milliseconds(3), sawEvents: false)
        #expect(self.delay(machine.nextStep()) != nil)
        #expect(self.watchedVersion(machine.nextStep()) == "10")
    }

    @Test func goneListsAnewFromTheLatest() {
        var machine = self.watching()
        let services = machine.current
        #expect(machine.failed(.gone) == [])
        #expect(self.delay(machine.nextStep()) != nil)
        #expect(machine.nextStep() == self.list(services, version: ""))
        // A server that always answers so is asked less and less often.
        var delays: [Duration] = []
        for _ in 0..<12 {
            _ = machine.pageBegan()
            _ = machine.pageEnded(items: 1, continueToken: nil, resourceVersion: "10", now: self.start)
            _ = machine.failed(.gone)
            delays.append(self.delay(machine.nextStep()) ?? .zero)
            _ = machine.nextStep()
        }
        #expect(delays.last ?? .zero >= .seconds(15))
    }

    @Test func anExpiredTokenListsWhole() {
        var machine = self.machine()
        let services = machine.current
        _ = machine.pageBegan()
        _ = machine.pageEnded(items: 500, continueToken: "t", resourceVersion: "10", now: self.start)
        _ = machine.failed(.gone)
        _ = machine.nextStep()
        #expect(machine.nextStep() == self.list(services, version: "", limit: nil))
        #expect(machine.pageBegan() == [.syncBegan(.service)])
    }

    @Test func aBrokenPageIsAskedForAgain() {
        var machine = self.machine()
        let services = machine.current
        _ = machine.pageBegan()
        _ = machine.pageEnded(items: 500, continueToken: "t", resourceVersion: "10", now: self.start)
        _ = machine.failed(.disconnected("x"))
        #expect(self.delay(machine.nextStep()) != nil)
        #expect(machine.nextStep() == self.list(services, version: "", token: "t"))
    }

    @Test func retryAfterIsHonouredWithinABound() {
        var machine = self.watching()
        _ = machine.failed(.throttled(retryAfter: .seconds(17), "busy"))
        #expect(self.delay(machine.nextStep()) == .seconds(17))
        _ = machine.failed(.throttled(retryAfter: .seconds(100_000), "busy"))
        #expect(self.delay(machine.nextStep()) == .seconds(300))
        #expect(self.watchedVersion(machine.nextStep()) == "10")
    }

    @Test func unauthorizedRefreshesAtOnceThenSlowly() {
        var machine = self.watching()
        #expect(machine.failed(.unauthorized("no")) == [.refreshCredentials])
        #expect(self.watchedVersion(machine.nextStep()) == "10")
        let effects = machine.failed(.unauthorized("no"))
        #expect(effects.first == .refreshCredentials && effects.count == 2)
        #expect(self.delay(machine.nextStep()) != nil)
    }

    @Test func forbiddenNamesThePermission() {
        var machine = self.machine(.services)
        guard case .health(.failing(let message)) = machine.failed(.forbidden("rbac says no")).first else {
            Issue.record("no failure told")
            return
        }
        #expect(message.contains("list services") && message.contains("rbac says no"))
        #expect(self.delay(machine.nextStep()) ?? .zero >= .seconds(15))
        var watching = self.watching()
        #expect("\(watching.failed(.forbidden("")))".contains("watch services"))
        #expect(self.delay(watching.nextStep()) ?? .zero >= .seconds(15))
        #expect(self.watchedVersion(watching.nextStep()) == "10")
    }

    @Test func whatIsForbiddenIsReplacedOrDoneWithout() {
        var endpoints = self.machine(.endpoints)
        #expect(endpoints.failed(.forbidden("no")) == [])
        #expect(endpoints.current.kind == .endpoints)
        _ = endpoints.pageBegan()
        let effects = endpoints.pageEnded(items: 1, continueToken: nil, resourceVersion: "5", now: self.start)
        guard case .health(.limited(let message)) = effects.last else {
            Issue.record("no limitation told")
            return
        }
        #expect(message.contains("list endpointslices.discovery.k8s.io"))

        // Once followed, slices are not given up for Endpoints over a permission that may come back.
        var slices = self.watching(.endpoints)
        #expect(slices.failed(.forbidden("no")).count == 1)
        #expect(slices.current.kind == .endpointSlice)

        var nodes = self.machine(.nodes)
        guard case .health(.limited) = nodes.failed(.forbidden("no")).first else {
            Issue.record("nodes should be done without")
            return
        }
        #expect(nodes.nextStep() != nodes.nextStep())
    }

    @Test func slicesFallBackToEndpoints() {
        var machine = self.machine(.endpoints)
        #expect(machine.failed(.notFound) == [])
        #expect(machine.current.kind == .endpoints)
        #expect(machine.nextStep() == self.list(machine.current, version: "0"))
        #expect(machine.pageBegan() == [.syncBegan(.endpoints)])
        // What a store kept of slices goes.
        #expect(
            machine.pageEnded(items: 1, continueToken: nil, resourceVersion: "5", now: self.start) == [
                .syncEnded(.endpoints), .syncBegan(.endpointSlice), .syncEnded(.endpointSlice), .health(.synced),
            ]
        )
        #expect("\(machine.failed(.notFound))".contains("endpoints"))
    }

    @Test func anOptionalResourceMayBeAbsent() {
        var machine = self.machine(.destinationRules)
        #expect(machine.current.version == "v1")
        #expect(machine.failed(.notFound) == [])
        #expect(machine.current.version == "v1beta1")
        #expect(machine.failed(.notFound) == [])
        #expect(machine.current.version == "v1alpha3")
        #expect(
            machine.failed(.notFound) == [
                .syncBegan(.destinationRule), .syncEnded(.destinationRule), .health(.synced),
            ]
        )
        #expect(self.delay(machine.nextStep()) ?? .zero >= .seconds(150))
        #expect(machine.current.version == "v1")
    }

    @Test func garbageOnAWatchEndsInAList() {
        var machine = self.watching()
        for _ in 0..<2 {
            _ = machine.failed(.malformed("?"))
            #expect(self.delay(machine.nextStep()) != nil)
            #expect(self.watchedVersion(machine.nextStep()) == "10")
        }
        _ = machine.failed(.malformed("?"))
        _ = machine.nextStep()
        #expect(machine.nextStep() == self.list(machine.current, version: ""))
    }

    @Test func aBrokenStreamIsWorthAWordOnlyIfItCannotBeResumed() {
        var machine = self.watching()
        _ = machine.watchBegan()
        #expect(machine.failed(.disconnected("x")) == [])
        #expect(machine.failed(.disconnected("x")) == [.health(.failing("x"))])
    }

    @Test func anEmptyListIsDoubtedForATime() {
        var machine = self.machine(known: 5) { $0.emptyListDoubt = .seconds(60) }
        for second in [0, 30, 59] {
            _ = machine.nextStep()
            _ = machine.pageBegan()
            let effects = machine.pageEnded(
                items: 0,
                continueToken: nil,
                resourceVersion: "1",
                now: self.start + .seconds(second)
            )
            #expect(!effects.contains(.syncEnded(.service)) && effects.count == 1)
            #expect(self.delay(machine.nextStep()) != nil)
        }
        _ = machine.pageBegan()
        let effects = machine.pageEnded(
            items: 0,
            continueToken: nil,
            resourceVersion: "1",
            now: self.start + .seconds(60)
        )
        #expect(effects == [.syncEnded(.service), .health(.synced)])
    }

    @Test func anEmptyListIsBelievedWhereNothingWasKnown() {
        var machine = self.machine(known: 0) { $0.emptyListDoubt = .seconds(60) }
        _ = machine.pageBegan()
        let effects = machine.pageEnded(items: 0, continueToken: nil, resourceVersion: "", now: self.start)
        #expect(effects.first == .syncEnded(.service))
        #expect(self.watchedVersion(machine.nextStep()) == "0")
    }
}
