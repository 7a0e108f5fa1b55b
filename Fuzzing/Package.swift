// swift-tools-version:6.2
import PackageDescription

let package = Package(
    name: "edgemesh-fuzzing",
    dependencies: [.package(name: "edgemesh", path: "..")],
    targets: [
        .systemLibrary(name: "CLibFuzzer"),
        .executableTarget(
            name: "fuzz",
            dependencies: ["CLibFuzzer", .product(name: "FuzzedLibraries", package: "edgemesh")]
        ),
    ],
    swiftLanguageModes: [.v6]
)
