import Testing

@testable import Yamux

@Suite struct YamuxErrorTests {
    @Test func theCauseIsTold() {
        let cause = YamuxError(code: .protocolViolation, message: "inner")
        let error = YamuxError(code: .protocolViolation, message: "outer", cause: cause)
        #expect("\(error)" == "outer: inner")
    }
}
