import Testing

@testable import LibP2PSecurity

@Suite struct LibP2PSecurityErrorTests {
    @Test func theCauseIsTold() {
        let cause = LibP2PSecurityError(code: .wrongPreSharedKey, message: "inner")
        let error = LibP2PSecurityError(code: .wrongPreSharedKey, message: "outer", cause: cause)
        #expect("\(error)" == "outer: inner")
    }
}
