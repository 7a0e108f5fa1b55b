import Testing

@testable import MeshApp

@Suite struct ProcessorsTests {
    @Test(
        "the processors that a process is bound to, as the kernel writes them",
        arguments: [
            ("Name:\tedgemesh\nCpus_allowed:\t1\nCpus_allowed_list:\t0\n", 1), ("Cpus_allowed:\tff\n", 8),
            ("Cpus_allowed:\tffffffff,00000003\n", 34), ("Name:\tedgemesh\n", nil),
        ]
    )
    func allowed(_ status: String, _ count: Int?) { #expect(Processors.allowed(status) == count) }

    @Test func thereIsAlwaysOne() { #expect(Processors.usable() >= 1) }
}
