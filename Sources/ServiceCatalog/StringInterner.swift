import KubeModel
import MeshCore

/// Makes equal texts share one allocation: node names, zones and port names come again with every endpoint.
///
/// Bounded: when it is full it starts anew, which costs some sharing between old and new texts and nothing else.
struct StringInterner {
    static let capacity = 16_384
    /// Swift keeps texts of up to 15 bytes inside the `String`: there is nothing to share.
    private static let inlineLength = 15

    private var texts: Set<String> = []

    mutating func intern(_ text: String) -> String {
        guard text.utf8.count > Self.inlineLength else { return text }
        if self.texts.count >= Self.capacity { self.texts.removeAll() }
        return self.texts.insert(text).memberAfterInsert
    }

    mutating func intern(_ text: String?) -> String? {
        text.map { self.intern($0) }
    }

    /// The same groups with shared texts.
    /// - Parameter keepsPodNames: the names of pods are the one text of an endpoint that cannot be shared, and only subsets look
    ///   endpoints up by them.
    mutating func intern(_ groups: [EndpointGroup], keepsPodNames: Bool) -> [EndpointGroup] {
        groups.map { group in
            let ports = group.ports.map { port in
                var port = port
                port.name = self.intern(port.name)
                port.appProtocol = self.intern(port.appProtocol)
                return port
            }
            let endpoints = group.endpoints.map { endpoint in
                var endpoint = endpoint
                endpoint.nodeName = self.intern(endpoint.nodeName)
                endpoint.zone = self.intern(endpoint.zone)
                if !keepsPodNames { endpoint.podName = nil }
                endpoint.zoneHints = endpoint.zoneHints.map { self.intern($0) }
                return endpoint
            }
            return EndpointGroup(ports: ports, endpoints: endpoints)
        }
    }
}
