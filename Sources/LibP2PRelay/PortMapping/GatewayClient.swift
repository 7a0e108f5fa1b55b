import ByteStreams
import MeshCore
import NIOCore
import NIOHTTP1
import NIOPosix

/// Asks one gateway for mappings, by any of the protocols. Its functions run on `loop`.
struct GatewayClient: Sendable {
    /// What UPnP answers if it has mappings that last for ever only, or the port is another client's.
    private static let onlyPermanent = 725
    private static let conflicts: Set<Int> = [718, 729]
    private static let wildcardAttempts = 3

    let configuration: PortMappingConfiguration
    let gateway: IPv4Address
    let loop: any EventLoop
    let randomNumber: @Sendable () -> UInt64

    func map(
        _ target: TransportAddress,
        by method: PortMappingConfiguration.Method,
        before: PortMapping?
    ) async throws -> PortMapping {
        let before = before?.method == method && before?.gateway == self.gateway ? before : nil
        switch method {
        case .pcp: return try await self.mapByPCP(target, before)
        case .natPMP: return try await self.mapByNATPMP(target, before)
        case .upnp: return try await self.mapByUPnP(target, before)
        }
    }

    func unmap(_ mapping: PortMapping) async throws {
        switch mapping.handle {
        case .nonce(let nonce):
            _ = try await self.pcp(
                PCP.MapRequest(
                    client: mapping.internalAddress.address,
                    nonce: nonce,
                    internalPort: mapping.internalAddress.port,
                    externalPort: 0,
                    lifetime: 0
                )
            )
        case .none:
            let request = NATPMP.Request.mapTCP(
                internalPort: mapping.internalAddress.port,
                externalPort: 0,
                lifetime: 0
            )
            _ = try await self.natPMP(request)
        case .service(let service):
            _ = try await self.call(.delete(externalPort: mapping.externalAddress.port), of: service)
        }
    }

    /// The address that this machine has towards the gateway.
    func localAddress() async throws -> IPAddress {
        let channel = try await DatagramBootstrap(group: self.loop).connect(to: self.server).get()
        defer { channel.close(promise: nil) }
        guard let local = channel.localAddress.flatMap({ TransportAddress($0) })?.address else {
            throw LibP2PRelayError(code: .mappingFailed, message: "no way to the gateway \(self.gateway)")
        }
        return local
    }

    private var seconds: UInt32 { UInt32(clamping: self.configuration.lifetime.nanoseconds / 1_000_000_000) }
    private var server: SocketAddress {
        SocketAddress(TransportAddress(.v4(self.gateway), self.configuration.gatewayPort))
    }

    // MARK: PCP

    private func mapByPCP(_ target: TransportAddress, _ before: PortMapping?) async throws -> PortMapping {
        var nonce: [UInt8] = []
        if case .nonce(let known)? = before?.handle {
            nonce = known
        } else {
            for _ in 0..<PCP.nonceLength { nonce.append(UInt8(truncatingIfNeeded: self.randomNumber())) }
        }
        let response = try await self.pcp(
            PCP.MapRequest(
                client: target.address,
                nonce: nonce,
                internalPort: target.port,
                externalPort: before?.externalAddress.port ?? target.port,
                lifetime: self.seconds
            )
        )
        guard case .mapped(let address, let port, let lifetime) = response else {
            throw self.refusal("PCP", response)
        }
        return self.mapping(.pcp, target, TransportAddress(address, port), seconds: lifetime, .nonce(nonce))
    }

    private func pcp(_ request: PCP.MapRequest) async throws -> PCP.MapResponse {
        try await DatagramExchange.run(
            with: self.server,
            isConnected: true,
            tries: self.configuration.tries,
            on: self.loop,
            requests: { _ in [request.encoded] },
            parse: { bytes, _ in PCP.MapResponse(bytes, to: request) }
        )
    }

    // MARK: NAT-PMP

    private func mapByNATPMP(_ target: TransportAddress, _ before: PortMapping?) async throws -> PortMapping {
        let answer = try await self.natPMP(.externalAddress)
        guard case .externalAddress(let address) = answer else { throw self.refusal("NAT-PMP", answer) }
        let request = NATPMP.Request.mapTCP(
            internalPort: target.port,
            externalPort: before?.externalAddress.port ?? target.port,
            lifetime: self.seconds
        )
        let response = try await self.natPMP(request)
        guard case .mapped(let port, let lifetime) = response else { throw self.refusal("NAT-PMP", response) }
        return self.mapping(.natPMP, target, TransportAddress(.v4(address), port), seconds: lifetime, .none)
    }

    private func natPMP(_ request: NATPMP.Request) async throws -> NATPMP.Response {
        try await DatagramExchange.run(
            with: self.server,
            isConnected: true,
            tries: self.configuration.tries,
            on: self.loop,
            requests: { _ in [request.encoded] },
            parse: { bytes, _ in request.response(bytes) }
        )
    }

    // MARK: UPnP

    private func mapByUPnP(_ target: TransportAddress, _ before: PortMapping?) async throws -> PortMapping {
        guard case .v4(let client) = target.address else {
            throw LibP2PRelayError(code: .mappingFailed, message: "UPnP maps ports of IPv4 only")
        }
        let service: UPnP.Service
        if case .service(let known)? = before?.handle {
            service = known
        } else {
            service = try await self.findService()
        }
        let answer = try await self.call(.externalAddress, of: service)
        guard let text = answer["NewExternalIPAddress"], let address = IPv4Address(text.filter { !$0.isWhitespace }),
            address != .any
        else { throw LibP2PRelayError(code: .mappingFailed, message: "the gateway \(self.gateway) is not connected") }
        var port = before?.externalAddress.port ?? target.port
        var lifetime = self.seconds
        for attempt in 0...Self.wildcardAttempts {
            do {
                _ = try await self.call(
                    .add(client: client, internalPort: target.port, externalPort: port, lifetime: lifetime),
                    of: service
                )
                break
            } catch {
                guard let fault = error as? Fault, attempt < Self.wildcardAttempts else { throw error }
                if fault.code == Self.onlyPermanent {
                    lifetime = 0
                } else if Self.conflicts.contains(fault.code) {
                    port = 1024 + UInt16(self.randomNumber() % 64_000)
                } else {
                    throw LibP2PRelayError(
                        code: .mappingFailed,
                        message: "the gateway \(self.gateway) refuses to map port \(port) (UPnP error \(fault.code))"
                    )
                }
            }
        }
        return self.mapping(.upnp, target, TransportAddress(.v4(address), port), seconds: lifetime, .service(service))
    }

    /// Looks for the gateway's description; others that answer are not believed.
    private func findService() async throws -> UPnP.Service {
        let multicast = TransportAddress(.v4(IPv4Address(239, 255, 255, 250)), 1900)
        let gateway = self.gateway
        let location = try await DatagramExchange.run(
            with: SocketAddress(self.configuration.searchAddress ?? multicast),
            isConnected: false,
            tries: self.configuration.tries,
            on: self.loop,
            requests: { _ in UPnP.searchTargets.map { ByteBuffer(string: UPnP.search(for: $0)) } },
            parse: { bytes, sender -> GatewayURL? in
                guard TransportAddress(sender)?.address == .v4(gateway),
                    let url = UPnP.location(in: String(buffer: bytes)), url.host == gateway
                else { return nil }
                return url
            }
        )
        let description = try await HTTPExchange.run(
            .GET,
            location,
            timeout: self.configuration.httpTimeout,
            on: self.loop
        )
        guard description.status == 200, let service = try UPnP.service(in: description.body, at: location) else {
            throw LibP2PRelayError(
                code: .mappingFailed,
                message: "the gateway \(gateway) has no service that maps ports"
            )
        }
        return service
    }

    /// The error code of a call that was refused.
    private struct Fault: Error {
        let code: Int
    }

    private func call(_ action: UPnP.Action, of service: UPnP.Service) async throws -> [String: String] {
        let response = try await HTTPExchange.run(
            .POST,
            service.control,
            headers: [
                ("Content-Type", "text/xml; charset=\"utf-8\""), ("SOAPAction", "\"\(service.type)#\(action.name)\""),
            ],
            body: action.body(for: service.type),
            timeout: self.configuration.httpTimeout,
            on: self.loop
        )
        let texts = try XMLScanner.texts(of: ["NewExternalIPAddress", "errorCode"], in: response.body)
        guard response.status == 200 else {
            throw Fault(code: texts["errorCode"].flatMap { Int($0) } ?? response.status)
        }
        return texts
    }

    // MARK: Results

    private func mapping(
        _ method: PortMappingConfiguration.Method,
        _ target: TransportAddress,
        _ external: TransportAddress,
        seconds: UInt32,
        _ handle: PortMapping.Handle
    ) -> PortMapping {
        PortMapping(
            method: method,
            internalAddress: target,
            externalAddress: external,
            gateway: self.gateway,
            lifetime: .seconds(Int64(seconds)),
            handle: handle
        )
    }

    private func refusal(_ name: String, _ answer: some Sendable) -> LibP2PRelayError {
        LibP2PRelayError(
            code: .mappingFailed,
            message: "the gateway \(self.gateway) maps no port by \(name): \(answer)"
        )
    }
}
