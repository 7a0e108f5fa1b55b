import Testing

@testable import EdgeGateway

@Suite struct GatewaySettingsTests {
    @Test func unconfiguredItUsesEveryInterface() {
        #expect(GatewaySettings().interfaces.isEmpty && GatewaySettings().includedBlocks.isEmpty)
    }
}
