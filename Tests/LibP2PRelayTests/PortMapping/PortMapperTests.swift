import LibP2P
import MeshCore
import MeshTesting
import Multiformats
import NIOCore
import Synchronization
import Testing

@testable import LibP2PRelay

@Suite struct PortMapperTests {
    typealias Method = PortMappingConfiguration.Method

    func with(
        _ speaks: Set<Method>,
        _ change: (inout PortMappingConfiguration) -> Void = { _ in },
        body: (FakeGateway, Host, PortMapper, UInt16) async throws -> Void
    ) async throws {
        let gateway = try await FakeGateway(speaks)
        let host = try await natHost(["/ip4/127.0.0.1/tcp/0"])
        let mapper = PortMapper(host: host, configuration: gateway.configuration(change))
        try await withNATHosts([host]) {
            let port = try #require(host.listenAddresses.first?.port)
            try await body(gateway, host, mapper, port)
        }
        await mapper.stop()
        try await gateway.stop()
    }

    static let gateways: [(Set<Method>, Method)] = [
        ([.pcp, .natPMP, .upnp], .pcp), ([.natPMP], .natPMP), ([.upnp], .upnp), ([.natPMP, .upnp], .natPMP),
    ]

    @Test(arguments: gateways) func aPortIsMappedAdvertisedAndGivenBack(
        _ speaks: Set<Method>,
        _ method: Method
    ) async throws {
        try await self.with(speaks) { gateway, host, mapper, port in
            mapper.start()
            try await eventually("the port is mapped") { gateway.mapped == [port: port] }
            try await eventually("it is known") { mapper.mappings.map(\.method) == [method] }
            let outside = addr("/ip4/1.2.3.4/tcp/\(port)")
            try await eventually("it is advertised") { host.advertisedAddresses.contains(outside) }
            await mapper.stop()
            #expect(gateway.mapped.isEmpty)
            #expect(mapper.mappings.isEmpty)
            #expect(!host.advertisedAddresses.contains(outside))
        }
    }

    @Test(arguments: Method.allCases) func whereAPortIsTakenAnotherIsUsed(_ method: Method) async throws {
        let change: (inout PortMappingConfiguration) -> Void = { $0.methods = [method] }
        try await self.with([method], change) { gateway, host, mapper, port in
            gateway.state.withLock { $0.taken = [port] }
            mapper.start()
            try await eventually("the port is mapped") { gateway.mapped.values.contains(port) }
            try await eventually("the right one is told") {
                mapper.mappings.first.map { gateway.mapped[$0.externalAddress.port] == port } ?? false
            }
            #expect(mapper.mappings.first?.externalAddress.port != port)
        }
    }

    @Test(arguments: Method.allCases) func mappingsAreRenewed(_ method: Method) async throws {
        let change: (inout PortMappingConfiguration) -> Void = {
            $0.methods = [method]
            $0.renewalInterval = .milliseconds(50)
        }
        try await self.with([method], change) { gateway, _, mapper, port in
            mapper.start()
            try await eventually("the port is mapped") { gateway.mapped == [port: port] }
            // The gateway is started anew.
            gateway.state.withLock { $0.mapped = [:] }
            try await eventually("the port is mapped again") { gateway.mapped == [port: port] }
        }
    }

    @Test func aGatewayThatMapsForEverIsTakenAtItsWord() async throws {
        let change: (inout PortMappingConfiguration) -> Void = { $0.methods = [.upnp] }
        try await self.with([.upnp], change) { gateway, _, mapper, port in
            gateway.state.withLock { $0.onlyPermanent = true }
            mapper.start()
            try await eventually("the port is mapped") { mapper.mappings.first?.lifetime == .zero }
            #expect(gateway.mapped == [port: port])
        }
    }

    @Test func newListenersAreMappedAndOldOnesGivenBack() async throws {
        let change: (inout PortMappingConfiguration) -> Void = { $0.methods = [.natPMP] }
        try await self.with([.natPMP], change) { gateway, host, mapper, port in
            mapper.start()
            try await eventually("the first is mapped") { gateway.mapped == [port: port] }
            try await host.listen(on: addr("/ip4/127.0.0.1/tcp/0"))
            let ports = Set(host.listenAddresses.compactMap(\.port))
            #expect(ports.count == 2)
            try await eventually("both are mapped") { Set(gateway.mapped.values) == ports }
        }
    }

    @Test func theNumberOfMappingsIsBounded() async throws {
        let change: (inout PortMappingConfiguration) -> Void = {
            $0.methods = [.natPMP]
            $0.maximumMappings = 1
        }
        try await self.with([.natPMP], change) { gateway, host, mapper, _ in
            try await host.listen(on: addr("/ip4/127.0.0.1/tcp/0"))
            mapper.start()
            try await eventually("one is mapped") { mapper.mappings.count == 1 }
            #expect(gateway.mapped.count == 1)
        }
    }

    @Test func aGatewayThatMapsNothingIsAskedAgainLater() async throws {
        let change: (inout PortMappingConfiguration) -> Void = {
            $0.methods = [.pcp, .natPMP]
            $0.tries = 1
            $0.retryInterval = .milliseconds(20)
        }
        try await self.with([], change) { gateway, host, mapper, port in
            mapper.start()
            try await eventually("it was asked") { gateway.state.withLock { $0.requests } >= 2 }
            #expect(mapper.mappings.isEmpty)
            gateway.state.withLock { $0.speaks = [.natPMP] }
            try await eventually("the port is mapped") { gateway.mapped == [port: port] }
        }
    }
}
