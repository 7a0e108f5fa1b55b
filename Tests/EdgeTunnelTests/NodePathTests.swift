import MeshCore
import MeshInterfaces
import Testing

@Suite
struct NodePathTests {
    @Test
    func aNodePathBeginsWithoutFlowsAndLoss() {
        let path = NodePath(state: .idle, peer: "12D3KooW", since: .now())
        #expect(path.flows == 0 && path.loss == 0 && path.agent == .unknown && path.kind == nil)
    }
}
