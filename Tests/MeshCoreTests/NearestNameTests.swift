import MeshCore
import Testing

@Suite struct NearestNameTests {
    @Test func distancesAreSmallOnlyForTypingErrors() {
        #expect(nearestName(to: "minconfg", among: ["minconfig", "defaultconfig"]) == "minconfig")
        #expect(nearestName(to: "nrth-1", among: ["south-1", "north-2", "north-1"]) == "north-1")
        #expect(nearestName(to: "", among: ["help"]) == nil)
        #expect(nearestName(to: "completely-different", among: ["help"]) == nil)
    }
}
