import CLinux
import Glibc
import HashTreeCollections
import KubeModel
import MeshCore
import ServiceCatalog
import Testing

@Suite("Catalog at 10,000 services", .serialized)
struct CatalogScaleTests {
    private static let serviceCount = 10_000
    private static let endpointsPerService = 10

    /// As a parser makes it: interpolation leaves room for more, which would count as the catalog's.
    private static func text(_ text: String) -> String { String(decoding: Array(text.utf8), as: UTF8.self) }

    private static func objects(_ index: Int) -> [ClusterObject] {
        let own = "team-\(index % 50)/application-\(index)"
        let endpoints = (0..<self.endpointsPerService).map { position in
            Endpoint(
                address: .v4(IPv4Address(rawValue: 0x0AF4_0000 + UInt32(index * self.endpointsPerService + position))),
                nodeName: "edge-node-in-the-field-\((index + position) % 500)",
                zone: "region-1-zone-\(position % 3)",
                podName: self.text("application-\(index)-7d4b9c6f5-x\(position)x4z")
            )
        }
        let group = EndpointGroup(ports: [EndpointPort(name: "http", port: 8080)], endpoints: endpoints)
        let slice = EndpointSliceObject(name: name("\(own)-abcde"), serviceName: "application-\(index)", group: group)
        let object = service(own, clusterIP: .v4(IPv4Address(rawValue: 0x0A60_0000 + UInt32(index)))) {
            $0.ports = [ServiceObject.Port(name: "http", port: 80, targetPort: .number(8080))]
            $0.selector = ["app": "application-\(index)"]
        }
        return [object, .endpointSlice(slice)]
    }

    private static func filledCatalog() -> ClusterCatalog {
        let catalog = ClusterCatalog()
        for page in stride(from: 0, to: self.serviceCount, by: 500) {
            catalog.apply((page..<page + 500).flatMap(self.objects).map(\.upsert), from: .api)
        }
        return catalog
    }

    private static func residentBytes() -> Int {
        clinux_release_memory()
        guard let file = fopen("/proc/self/statm", "r") else { return 0 }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        guard fgets(&line, Int32(line.count), file) != nil else { return 0 }
        let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let fields = text.split(separator: " ")
        return fields.count > 1 ? (Int(fields[1]) ?? 0) * 4_096 : 0
    }

    @Test("memory and time")
    func memoryAndTime() throws {
        let before = Self.residentBytes()
        let started = MonotonicTime.now()
        let catalog = Self.filledCatalog()
        let filled = MonotonicTime.now() - started
        let endpoints = Self.serviceCount * Self.endpointsPerService
        let perEndpoint = (Self.residentBytes() - before) / endpoints
        #expect(catalog.snapshot.services.count == Self.serviceCount)

        let log = UpdateLog()
        let subscription = catalog.subscribe { log.record($0) }
        _ = log.take()
        var best = Duration.seconds(1)
        for round in 0..<50 {
            let index = round * 191
            guard case .endpointSlice(var slice) = Self.objects(index)[1] else { return }
            slice.group.endpoints.removeLast()
            let began = MonotonicTime.now()
            catalog.apply([.upsert(.endpointSlice(slice))], from: .api)
            best = min(best, MonotonicTime.now() - began)
            #expect(log.take().map(\.changedServices) == [[name("team-\(index % 50)/application-\(index)")]])
        }
        subscription.cancel()
        print(
            "10,000 services x 10 endpoints: filled in \(filled), \(perEndpoint) bytes of RSS per endpoint;",
            "one slice change published in \(best)"
        )
        // Of the whole process: `make test` runs this suite by itself, as other tests would allocate meanwhile.
        #expect(perEndpoint < 500)
        // A change costs what it changes: as a ratio, because times depend on the machine.
        #expect(best < filled / 500)
    }
}
