import HashTreeCollections
import KubeModel
import LoadBalancing
import MeshCore

/// Turns what a batch has touched into the next snapshot.
extension CatalogState {
    /// Returns the services that changed, or nil if the snapshot is as it was.
    mutating func commit() -> Set<ObjectName>? {
        self.fillZones()
        self.touchServicesOfRules()
        var changed: Set<ObjectName> = []
        for name in self.touchedServices where self.rebuild(name) {
            changed.insert(name)
        }
        for rule in self.touchedRules { self.updateWarning(of: rule) }
        self.pendingObjects.removeAll()
        self.touchedServices.removeAll()
        self.touchedRules.removeAll()
        guard self.isChanged || !changed.isEmpty else { return nil }
        self.isChanged = false
        self.snapshot.version += 1
        return changed
    }

    mutating func update(settings: CatalogSettings) -> Set<ObjectName>? {
        let former = self.settings
        self.settings = settings
        if settings.clusterDomain != former.clusterDomain || settings.ringLoadFactor != former.ringLoadFactor
            || settings.ringSize != former.ringSize
        {
            for rule in Array(self.snapshot.destinationRules.values) { self.putRule(rule) }
        }
        if settings.filterMode != former.filterMode {
            self.touchedServices.formUnion(self.snapshot.services.keys)
        }
        return self.commit()
    }

    /// Builds the service anew; returns whether it differs from the one in the snapshot.
    private mutating func rebuild(_ name: ObjectName) -> Bool {
        let former = self.snapshot.services[name]
        guard let object = self.serviceObject(name) else {
            guard let former else { return false }
            self.snapshot.services[name] = nil
            self.servicesWithSubsets.remove(name)
            self.updateIndexes(from: former, to: nil)
            return true
        }
        let record = self.records[name]
        let parts: [[EndpointGroup]]
        if let slices = record?.slices, !slices.isEmpty {
            // Slices mirror an Endpoints object of the same service, never the other way round.
            parts = slices.map { $0.groups.effective }
        } else {
            parts = record?.endpoints.map { [$0.effective] } ?? []
        }
        let rule = self.rule(for: name)
        let groups = EndpointMerging.merge(parts)
        let subsets = self.subsets(of: name, rule)
        let service = Service(
            object: object,
            groups: groups,
            policy: rule?.policy,
            portPolicies: rule?.portPolicies ?? [:],
            locality: rule?.locality,
            subsets: self.pods(of: subsets, of: name, groups),
            subsetNames: Set(subsets.keys),
            isProxied: self.settings.filterMode.admits(object.filterLabels),
            source: self.owners[ObjectKey(kind: .service, name: name)]?.source ?? .api
        )
        if let former, service == former {
            // The API confirms what the store had: nobody has to act on that.
            guard service.source != former.source else { return false }
            self.snapshot.services[name] = service
            self.isChanged = true
            return false
        }
        self.snapshot.services[name] = service
        self.updateIndexes(from: former, to: service)
        return true
    }

    // MARK: Indexes

    private mutating func updateIndexes(from former: Service?, to service: Service?) {
        guard let name = (service ?? former)?.name else { return }
        let formerIPs = Set(former?.object.clusterIPs ?? [])
        let clusterIPs = Set(service?.object.clusterIPs ?? [])
        for address in formerIPs.subtracting(clusterIPs) { self.releaseClusterIP(address, by: name) }
        for address in clusterIPs.subtracting(formerIPs) { self.claimClusterIP(address, by: name) }

        let formerEndpoints = Self.headlessAddresses(former)
        let endpoints = Self.headlessAddresses(service)
        for address in formerEndpoints.subtracting(endpoints) {
            var names = self.snapshot.headlessServicesByEndpoint[address] ?? []
            names.removeAll { $0 == name }
            self.snapshot.headlessServicesByEndpoint[address] = names.isEmpty ? nil : names
        }
        for address in endpoints.subtracting(formerEndpoints) {
            var names = self.snapshot.headlessServicesByEndpoint[address] ?? []
            names.insert(name, at: names.firstIndex { $0 > name } ?? names.count)
            self.snapshot.headlessServicesByEndpoint[address] = names
        }
    }

    private static func headlessAddresses(_ service: Service?) -> Set<IPAddress> {
        guard let service, service.object.isHeadless else { return [] }
        return Set(service.groups.lazy.flatMap { $0.endpoints.lazy.map(\.address) })
    }

    private mutating func claimClusterIP(_ address: IPAddress, by name: ObjectName) {
        guard let holder = self.snapshot.servicesByClusterIP[address] else {
            self.snapshot.servicesByClusterIP[address] = name
            return
        }
        self.contestedClusterIPs[address, default: [holder]].insert(name)
        self.snapshot.servicesByClusterIP[address] = min(holder, name)
    }

    private mutating func releaseClusterIP(_ address: IPAddress, by name: ObjectName) {
        var claimants = self.contestedClusterIPs[address] ?? [name]
        claimants.remove(name)
        self.snapshot.servicesByClusterIP[address] = claimants.min()
        self.contestedClusterIPs[address] = claimants.count > 1 ? claimants : nil
    }
}
