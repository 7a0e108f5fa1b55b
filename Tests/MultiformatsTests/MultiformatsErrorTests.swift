import Testing

@testable import Multiformats

@Suite struct MultiformatsErrorTests {
    @Test func theCauseIsTold() {
        let cause = MultiformatsError(code: .truncated, message: "inner")
        let error = MultiformatsError(code: .truncated, message: "outer", cause: cause)
        #expect("\(error)" == "outer: inner")
    }
}
