import Testing

@testable import PeerIdentity

@Suite struct PeerIdentityErrorTests {
    @Test func theCauseIsTold() {
        let cause = PeerIdentityError(code: .malformedKey, message: "inner")
        let error = PeerIdentityError(code: .malformedKey, message: "outer", cause: cause)
        #expect("\(error)" == "outer: inner")
    }
}
