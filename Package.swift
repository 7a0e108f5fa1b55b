// swift-tools-version:6.2
import PackageDescription

/// Every target of ours is compiled with the same strict set; a warning is an error.
let strictSettings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
    .enableUpcomingFeature("InferIsolatedConformances"),
    .enableUpcomingFeature("ImmutableWeakCaptures"),
    .treatAllWarnings(as: .error),
]

// Products of other packages, by the name under which targets ask for them.
let nioCore: Target.Dependency = .product(name: "NIOCore", package: "swift-nio")
let nioPosix: Target.Dependency = .product(name: "NIOPosix", package: "swift-nio")
let nioHTTP1: Target.Dependency = .product(name: "NIOHTTP1", package: "swift-nio")
let nioWebSocket: Target.Dependency = .product(name: "NIOWebSocket", package: "swift-nio")
let nioEmbedded: Target.Dependency = .product(name: "NIOEmbedded", package: "swift-nio")
let nioTestUtils: Target.Dependency = .product(name: "NIOTestUtils", package: "swift-nio")
let nioSSL: Target.Dependency = .product(name: "NIOSSL", package: "swift-nio-ssl")
let nioHTTP2: Target.Dependency = .product(name: "NIOHTTP2", package: "swift-nio-http2")
let nioHPACK: Target.Dependency = .product(name: "NIOHPACK", package: "swift-nio-http2")
let nioCompression: Target.Dependency = .product(name: "NIOHTTPCompression", package: "swift-nio-extras")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let inMemoryLogging: Target.Dependency = .product(name: "InMemoryLogging", package: "swift-log")
let hashTrees: Target.Dependency = .product(name: "HashTreeCollections", package: "swift-collections")
let deques: Target.Dependency = .product(name: "DequeModule", package: "swift-collections")
let heaps: Target.Dependency = .product(name: "HeapModule", package: "swift-collections")
let lifecycle: Target.Dependency = .product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let unixSignals: Target.Dependency = .product(name: "UnixSignals", package: "swift-service-lifecycle")
let argumentParser: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
let x509: Target.Dependency = .product(name: "X509", package: "swift-certificates")
let asn1: Target.Dependency = .product(name: "SwiftASN1", package: "swift-asn1")
let crypto: Target.Dependency = .product(name: "Crypto", package: "swift-crypto")
let cryptoExtras: Target.Dependency = .product(name: "CryptoExtras", package: "swift-crypto")
let nioTLS: Target.Dependency = .product(name: "NIOTLS", package: "swift-nio")

/// A library target of ours. Its layer is declared in `scripts/layers.json`, which the layering test enforces.
func library(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: strictSettings)
}

/// The test target that belongs to a target of ours.
func tests(_ name: String, _ dependencies: [Target.Dependency] = [], resources: [Resource] = []) -> Target {
    .testTarget(name: name, dependencies: dependencies, resources: resources, swiftSettings: strictSettings)
}

let package = Package(
    name: "edgemesh",
    products: [
        .executable(name: "edgemesh", targets: ["edgemesh"]),
        // What the targets of the package Fuzzing test.
        .library(
            name: "FuzzedLibraries",
            targets: [
                "Documents", "KubeModel", "Configuration", "DNSWire", "KubeClient", "Multiformats", "PeerIdentity",
                "LibP2PSecurity", "Yamux", "LibP2P", "LibP2PRelay", "LibP2PDiscovery", "EdgeTunnel", "GatewayRouting",
                "EdgeGateway", "PacketWire", "EdgeCNI", "PacketDatagrams",
            ]
        ),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio.git", exact: "2.101.2"),
        .package(url: "https://github.com/apple/swift-nio-ssl.git", exact: "2.37.6"),
        .package(url: "https://github.com/apple/swift-nio-extras.git", exact: "1.35.2"),
        .package(url: "https://github.com/apple/swift-nio-http2.git", exact: "1.46.0"),
        .package(url: "https://github.com/apple/swift-log.git", exact: "1.16.2"),
        .package(url: "https://github.com/apple/swift-collections.git", exact: "1.6.0"),
        .package(url: "https://github.com/apple/swift-argument-parser.git", exact: "1.8.2"),
        .package(url: "https://github.com/apple/swift-certificates.git", exact: "1.21.1"),
        .package(url: "https://github.com/apple/swift-asn1.git", exact: "1.7.4"),
        .package(url: "https://github.com/apple/swift-crypto.git", exact: "4.5.2"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle.git", exact: "2.13.0"),
    ],
    targets: [
        // 0: values and text, no NIO
        .target(name: "CLinux"),
        .target(name: "CSalsa20"),
        .systemLibrary(name: "CLibYAML", pkgConfig: "yaml-0.1", providers: [.apt(["libyaml-dev"])]),
        library("MeshCore"),
        library("Documents", ["CLibYAML"]),
        // 1: codecs and models; typed throws, never a trap
        library("DNSWire", ["MeshCore", nioCore]),
        library("KubeModel", ["MeshCore", "Documents"]),
        library("Multiformats", ["MeshCore", nioCore]),
        library("PacketWire", ["MeshCore"]),
        // 2: what touches the machine and the cluster
        library("ByteStreams", ["CLinux", "MeshCore", nioCore, nioPosix]),
        library("LinuxNetwork", ["CLinux", "MeshCore", nioCore, nioPosix, logging]),
        library(
            "KubeClient",
            [
                "MeshCore", "Documents", "KubeModel", nioCore, nioPosix, nioHTTP1, nioSSL, nioCompression, logging,
            ]
        ),
        library("PeerIdentity", ["MeshCore", "Multiformats", nioCore, crypto, cryptoExtras]),
        library("Yamux", ["MeshCore", nioCore, deques]),
        // 3: pure decisions
        library("LoadBalancing", ["MeshCore"]),
        library("GatewayRouting", ["MeshCore", "Documents", "KubeModel"]),
        library(
            "LibP2PSecurity",
            [
                "CSalsa20", "MeshCore", "Multiformats", "PeerIdentity", nioCore, nioTLS, nioSSL, asn1, crypto,
            ]
        ),
        library("PacketDatagrams", ["MeshCore", "Multiformats", nioCore, crypto]),
        // 4: the state of the cluster, and the libp2p host
        library("ServiceCatalog", ["MeshCore", "Documents", "KubeModel", "LoadBalancing", hashTrees, logging]),
        library(
            "LibP2P",
            [
                "MeshCore", "Multiformats", "DNSWire", "PeerIdentity", "ByteStreams", "LibP2PSecurity", "Yamux",
                nioCore, nioPosix, nioHTTP1, nioWebSocket, nioSSL, deques, logging,
            ]
        ),
        // 5: the seams where features meet, and the protocols upon the libp2p host
        library("EndpointBalancing", ["MeshCore", "KubeModel", "LoadBalancing", "ServiceCatalog"]),
        library("MeshInterfaces", ["MeshCore", "Documents", "ServiceCatalog", nioCore]),
        library(
            "LibP2PRelay",
            [
                "MeshCore", "Multiformats", "PeerIdentity", "ByteStreams", "LibP2PSecurity", "LibP2P", nioCore,
                nioPosix,
                nioHTTP1, deques, logging,
            ]
        ),
        library(
            "LibP2PDiscovery",
            [
                "CLinux", "MeshCore", "Multiformats", "PeerIdentity", "DNSWire", "ByteStreams", "LibP2P", nioCore,
                nioPosix, deques, logging,
            ]
        ),
        // 6: features, named as in the config file
        library(
            "EdgeDNS",
            [
                "MeshCore", "Documents", "DNSWire", "KubeModel", "ByteStreams", "ServiceCatalog", "MeshInterfaces",
                nioCore, nioPosix, hashTrees, logging, lifecycle,
            ]
        ),
        library(
            "EdgeProxy",
            [
                "MeshCore", "Documents", "KubeModel", "ByteStreams", "LinuxNetwork", "LoadBalancing", "ServiceCatalog",
                "EndpointBalancing", "MeshInterfaces", nioCore, nioPosix, hashTrees, logging, lifecycle,
            ]
        ),
        library(
            "EdgeGateway",
            [
                "CLinux", "MeshCore", "Documents", "KubeModel", "ByteStreams", "LinuxNetwork", "LoadBalancing",
                "GatewayRouting", "ServiceCatalog", "EndpointBalancing", "MeshInterfaces", nioCore, nioPosix, nioTLS,
                nioHTTP2, nioHPACK, nioSSL, hashTrees, logging, lifecycle,
            ]
        ),
        library(
            "EdgeTunnel",
            [
                "CLinux", "MeshCore", "Documents", "Multiformats", "KubeModel", "ByteStreams", "LinuxNetwork",
                "PeerIdentity", "LibP2PSecurity", "Yamux", "ServiceCatalog", "LibP2P", "MeshInterfaces", "LibP2PRelay",
                "LibP2PDiscovery", "PacketWire", "PacketDatagrams", nioCore, nioPosix, hashTrees, deques, logging,
                lifecycle,
            ]
        ),
        library(
            "EdgeCNI",
            [
                "MeshCore", "Documents", "PacketWire", "KubeModel", "LinuxNetwork", "ServiceCatalog", "MeshInterfaces",
                nioCore, nioPosix, hashTrees, deques, logging, lifecycle,
            ]
        ),
        library("CNIPlugin", ["MeshCore", "Documents", "LinuxNetwork"]),
        library(
            "Admin",
            [
                "MeshCore", "Documents", "KubeModel", "ByteStreams", "LinuxNetwork", "LoadBalancing", "ServiceCatalog",
                "MeshInterfaces", nioCore, nioPosix, nioHTTP1, hashTrees, logging, lifecycle,
            ]
        ),
        // 7: configuration and composition
        library("Configuration", ["MeshCore", "Documents"]),
        library(
            "MeshApp",
            [
                "CLinux", "MeshCore", "Documents", "KubeModel", "KubeClient", "LinuxNetwork", "ByteStreams",
                "LoadBalancing", "GatewayRouting", "ServiceCatalog", "MeshInterfaces", "EdgeCNI", "EdgeDNS",
                "EdgeProxy", "EdgeTunnel",
                "EdgeGateway", "Admin", "Configuration", "PeerIdentity", "Multiformats", "LibP2PSecurity",
                hashTrees, nioCore, nioPosix, logging, lifecycle, unixSignals,
            ]
        ),
        // network-namespace lab: part of the product (`edgemesh lab`), used by demo, tests and benchmarks
        library(
            "NetLab",
            [
                "CLinux", "MeshCore", "Documents", nioCore, nioPosix, nioHTTP1,
                nioWebSocket, nioSSL, logging, unixSignals,
            ]
        ),
        // 8: the executable
        .executableTarget(
            name: "edgemesh",
            dependencies: [
                "MeshCore", "Documents", "Configuration", "MeshApp", "CNIPlugin", "Admin", "NetLab", argumentParser,
            ],
            swiftSettings: strictSettings
        ),
        // test support
        library("MeshTesting", ["MeshCore", "Documents", nioCore, nioPosix, logging]),
        library(
            "FakeKube",
            ["MeshCore", "Documents", nioCore, nioPosix, nioHTTP1, nioSSL, nioCompression, x509, crypto, asn1]
        ),
        // The suites that implementations of the library's seams must pass.
        library("LibP2PTesting", ["MeshCore", "Multiformats", "LibP2P", nioCore]),
        library(
            "PeerTesting",
            [
                "MeshCore", "Multiformats", "PeerIdentity", "LibP2P", "LibP2PSecurity", nioCore, nioPosix, crypto,
                logging,
            ]
        ),
        .executableTarget(
            name: "p2p-peer",
            dependencies: [
                "CLinux", "Documents", "PeerTesting", "LibP2P", "LibP2PRelay", "Multiformats", nioCore, nioPosix,
                logging,
            ],
            swiftSettings: strictSettings
        ),
        .executableTarget(
            name: "nat-grid",
            dependencies: ["MeshCore", "Documents", "NetLab"],
            swiftSettings: strictSettings
        ),
        library(
            "NetSim",
            [
                "MeshCore", "Multiformats", "PeerIdentity", "ByteStreams", "LibP2P", "LibP2PRelay", nioCore, deques,
                heaps, logging,
            ]
        ),
        .executableTarget(
            name: "nat-grid-sim",
            dependencies: ["NetSim", nioCore, logging],
            swiftSettings: strictSettings
        ),
        .executableTarget(
            name: "mesh-scale-sim",
            dependencies: [
                "CLinux", "NetSim", "EdgeTunnel", "MeshCore", "MeshInterfaces", "Multiformats", "KubeModel",
                "PeerIdentity", "ServiceCatalog", "LibP2P", nioCore,
            ],
            swiftSettings: strictSettings
        ),
        .executableTarget(
            name: "meshbench",
            dependencies: [
                "CLinux", "MeshCore", "Documents", "NetLab", "FakeKube", "PeerIdentity", "LibP2PSecurity", "LibP2P",
                "PeerTesting", "Multiformats", nioCore, nioPosix, logging,
            ],
            path: "Benchmarks/meshbench",
            swiftSettings: strictSettings
        ),
        // tests
        tests(
            "KubeClientTests",
            [
                "KubeClient", "FakeKube", "KubeModel", "Documents", "MeshCore", "MeshTesting", nioCore, nioPosix,
                nioHTTP1, nioEmbedded, logging,
            ]
        ),
        tests("MultiformatsTests", ["Multiformats", "MeshCore", nioCore]),
        tests("PeerIdentityTests", ["PeerIdentity", "Multiformats", "MeshCore", nioCore, crypto]),
        tests(
            "LibP2PSecurityTests",
            [
                "LibP2PSecurity", "CSalsa20", "PeerIdentity", "Multiformats", "MeshCore", "MeshTesting", nioCore,
                nioPosix, nioEmbedded, nioSSL, crypto,
            ]
        ),
        .target(name: "CMallocCounter", path: "Tests/CMallocCounter"),
        tests(
            "YamuxTests",
            [
                "CMallocCounter", "Yamux", "ByteStreams", "LibP2PSecurity", "PeerIdentity", "MeshCore", "MeshTesting",
                nioCore, nioPosix, nioEmbedded, nioHTTP1,
            ]
        ),
        tests(
            "LibP2PTests",
            [
                "LibP2P", "LibP2PTesting", "LibP2PSecurity", "Yamux", "PeerIdentity", "Multiformats", "DNSWire",
                "ByteStreams", "MeshCore", "MeshTesting", "FakeKube", nioCore, nioPosix, nioEmbedded, nioWebSocket,
                nioSSL, logging,
            ]
        ),
        .testTarget(
            name: "LibP2PInteropTests",
            dependencies: [
                "PeerTesting", "LibP2P", "LibP2PRelay", "LibP2PDiscovery", "LibP2PSecurity", "PeerIdentity",
                "Multiformats",
                "ByteStreams", "LinuxNetwork", "NetLab", "MeshCore", "MeshTesting", nioCore, nioPosix, logging,
            ],
            exclude: ["Peers"],
            swiftSettings: strictSettings
        ),
        tests(
            "NetSimTests",
            [
                "NetSim", "LibP2P", "LibP2PTesting", "PeerIdentity", "Multiformats", "ByteStreams", "MeshCore", nioCore,
                logging,
            ]
        ),
        tests(
            "LibP2PRelayTests",
            [
                "LibP2PRelay", "LibP2P", "PeerIdentity", "LibP2PSecurity", "Yamux", "Multiformats", "ByteStreams",
                "MeshCore", "MeshTesting", nioCore, nioPosix, nioHTTP1, nioEmbedded, logging,
            ]
        ),
        tests(
            "LibP2PDiscoveryTests",
            [
                "LibP2PDiscovery", "LibP2PRelay", "LibP2P", "Yamux", "PeerIdentity", "Multiformats", "DNSWire",
                "ByteStreams", "LinuxNetwork", "MeshCore", "MeshTesting", nioCore, nioPosix, nioEmbedded, logging,
            ]
        ),
        tests("MeshCoreTests", ["MeshCore", "MeshTesting"]),
        tests(
            "AdminTests",
            [
                "Admin", "LinuxNetwork", "MeshCore", "Documents", "MeshInterfaces", "KubeModel", "ServiceCatalog",
                nioPosix,
                nioCore, logging,
            ]
        ),
        tests(
            "MeshAppTests",
            [
                "EdgeCNI", "EdgeTunnel", "FakeKube", "GatewayRouting", "KubeClient", "LibP2P", "MeshTesting",
                "Multiformats", "MeshApp", "Admin", "EdgeDNS", "EdgeGateway", "EdgeProxy", "MeshInterfaces",
                "ServiceCatalog", "Configuration",
                "MeshCore", "Documents", "KubeModel", "LinuxNetwork", nioCore, nioHTTP1, nioPosix, hashTrees, logging,
                lifecycle,
            ]
        ),
        tests("DeploymentTests", ["Configuration", "Documents", "MeshCore", "MeshTesting"]),
        tests("EdgemeshTests", ["edgemesh", "Configuration", "Documents", argumentParser]),
        tests("LayeringTests"),
        tests("LoadBalancingTests", ["MeshCore", "LoadBalancing"]),
        tests("GatewayRoutingTests", ["MeshCore", "Documents", "KubeModel", "GatewayRouting"]),
        tests(
            "EdgeGatewayTests",
            [
                "MeshCore", "Documents", "KubeModel", "GatewayRouting", "ServiceCatalog", "MeshInterfaces",
                "EdgeGateway", "EndpointBalancing", "ByteStreams", "LinuxNetwork", "LoadBalancing", "MeshTesting",
                nioCore, nioPosix, nioEmbedded, nioHTTP1, nioHTTP2, nioHPACK, nioSSL, hashTrees, logging,
            ]
        ),
        tests(
            "ServiceCatalogTests",
            ["CLinux", "MeshCore", "Documents", "KubeModel", "LoadBalancing", "ServiceCatalog", hashTrees, logging]
        ),
        tests("DocumentsTests", ["Documents", "MeshCore"]),
        tests("KubeModelTests", ["KubeModel", "Documents", "MeshCore"]),
        tests("NetLabTests", ["NetLab", "MeshCore", "Documents", nioCore, nioPosix]),
        tests("LabTests", ["edgemesh", "nat-grid", "NetLab", "FakeKube", "MeshCore", "Documents"]),
        tests("ConfigurationTests", ["Configuration", "KubeModel", "Documents", "MeshCore"]),
        tests("ByteStreamsTests", ["ByteStreams", "MeshCore", "MeshTesting", nioCore, nioPosix, nioEmbedded, logging]),
        tests(
            "EdgeProxyTests",
            [
                "EdgeProxy", "MeshCore", "Documents", "KubeModel", "ByteStreams", "LinuxNetwork", "LoadBalancing",
                "ServiceCatalog", "EndpointBalancing", "MeshInterfaces", nioCore, nioPosix, hashTrees, logging,
                lifecycle,
                .product(name: "ServiceLifecycleTestKit", package: "swift-service-lifecycle"),
            ]
        ),
        tests("DNSWireTests", ["DNSWire", "MeshCore", nioCore]),
        tests(
            "EdgeDNSTests",
            [
                "EdgeDNS", "DNSWire", "MeshCore", "Documents", "KubeModel", "ByteStreams", "ServiceCatalog",
                "MeshInterfaces", nioCore, nioPosix, nioEmbedded, hashTrees, logging, lifecycle,
            ]
        ),
        tests("LinuxNetworkTests", ["LinuxNetwork", "MeshCore", "MeshTesting", nioCore, nioPosix, logging]),
        tests(
            "EdgeCNITests",
            [
                "EdgeCNI", "CNIPlugin", "PacketWire", "MeshCore", "MeshTesting", "Documents", "KubeModel",
                "LinuxNetwork", "LoadBalancing", "ServiceCatalog", "MeshInterfaces", nioCore, nioPosix, nioEmbedded,
                hashTrees, logging,
            ]
        ),
        tests("PacketDatagramsTests", ["PacketDatagrams", "Multiformats", "MeshCore", nioCore, crypto]),
        tests(
            "EdgeTunnelTests",
            [
                "EdgeTunnel", "MeshInterfaces", "MeshCore", "MeshTesting", "Documents", "Multiformats", "KubeModel",
                "ByteStreams", "PeerIdentity", "LibP2PSecurity", "Yamux", "ServiceCatalog", "LibP2P", "LibP2PRelay",
                "LibP2PDiscovery", "FakeKube", "PeerTesting", nioCore, nioPosix, nioEmbedded, hashTrees,
                logging, lifecycle,
            ]
        ),
        // Apart, as addresses are literals where NetSim is imported.
        tests(
            "EdgeTunnelSimulatedTests",
            [
                "EdgeTunnel", "MeshInterfaces", "MeshCore", "Multiformats", "KubeModel", "PeerIdentity",
                "ServiceCatalog", "LibP2P", "LibP2PRelay", "NetSim", "mesh-scale-sim", nioCore, hashTrees, logging,
            ]
        ),
    ],
    swiftLanguageModes: [.v6]
)

// `EDGEMESH_TEST_TARGETS=YamuxTests,LibP2PTests swift build --build-tests` builds these alone: all of them are one program.
if let wanted = Context.environment["EDGEMESH_TEST_TARGETS"] {
    let names = Set(wanted.split(separator: ",").map(String.init))
    package.targets.removeAll { $0.type == .test && !names.contains($0.name) }
}
