import KubeModel
import LoadBalancing
import MeshCore
import ServiceCatalog

extension ServicePlanner {
    /// The endpoints that this node is to use, and their weights if those differ: by the service's DestinationRule if it says
    /// something about places, else by the service itself.
    func preferred(
        _ endpoints: [ResolvedEndpoint],
        _ service: Service
    ) -> (endpoints: [ResolvedEndpoint], weights: [TransportAddress: UInt32]) {
        guard let locality = service.locality else { return (self.nearest(endpoints, service.object), [:]) }
        let here = Place(region: self.region(of: self.zone), zone: self.zone, nodeName: self.reach.nodeName)
        let (chosen, weights) = locality.select(endpoints, from: here) { resolved in
            let endpoint = resolved.endpoint
            return Place(region: self.region(of: endpoint.zone), zone: endpoint.zone, nodeName: endpoint.nodeName)
        }
        let pairs = zip(chosen.map(\.transportAddress), weights ?? [])
        return (chosen, Dictionary(pairs, uniquingKeysWith: { first, _ in first }))
    }

    private func region(of zone: String?) -> String? { zone.flatMap { self.regions[$0] } }

    /// The endpoints that this node is to use if the service prefers near ones; all of them else.
    ///
    /// Hints of the control plane go first, as in kube-proxy: they count only if every endpoint has one and one of them is
    /// for this node's zone (Kubernetes, "Topology Aware Routing"). Where nobody gives hints, as with MetaServer or manifests,
    /// `trafficDistribution` is followed by what is known of nodes and zones; nearer endpoints are preferred, never required.
    func nearest(_ endpoints: [ResolvedEndpoint], _ service: ServiceObject) -> [ResolvedEndpoint] {
        guard endpoints.count > 1 else { return endpoints }
        if service.trafficDistribution == "PreferSameNode" {
            let local = endpoints.filter { self.reach.isLocal($0.endpoint) }
            if !local.isEmpty { return local }
        }
        guard let zone = self.zone else { return endpoints }
        if endpoints.allSatisfy({ !$0.endpoint.zoneHints.isEmpty }) {
            let hinted = endpoints.filter { $0.endpoint.zoneHints.contains(zone) }
            return hinted.isEmpty ? endpoints : hinted
        }
        switch service.trafficDistribution {
        case "PreferClose", "PreferSameZone", "PreferSameNode":
            let near = endpoints.filter { $0.endpoint.zone == zone }
            return near.isEmpty ? endpoints : near
        default:
            return endpoints
        }
    }
}
