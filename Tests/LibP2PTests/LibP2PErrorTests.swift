import Testing

@testable import LibP2P

@Suite struct LibP2PErrorTests {
    @Test func theCauseIsTold() {
        let cause = LibP2PError(code: .dialFailed, message: "inner")
        let error = LibP2PError(code: .dialFailed, message: "outer", cause: cause)
        #expect("\(error)" == "outer: inner")
    }
}
