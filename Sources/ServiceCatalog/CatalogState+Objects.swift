import HashTreeCollections
import KubeModel
import MeshCore

/// What each kind of object does to the working state when it comes into force or goes.
extension CatalogState {
    /// Puts an object in force. For an EndpointSlice, returns the name of its service.
    mutating func put(_ object: ClusterObject, formerServiceName: String?) -> String? {
        switch object {
        case .service(var service):
            service.selector = [:]
            service.name.namespace = self.interner.intern(service.name.namespace)
            self.pendingObjects[service.name] = .some(service)
            self.touchedServices.insert(service.name)
        case .endpointSlice(let slice):
            let serviceName = slice.serviceName
            if let formerServiceName, formerServiceName != serviceName {
                self.removeSlice(slice.name, of: formerServiceName)
            }
            self.putSlice(slice, of: serviceName)
            return serviceName
        case .endpoints(let endpoints):
            let groups = self.endpointGroups(endpoints.groups)
            guard self.records[endpoints.name]?.endpoints?.given != groups.given else { return nil }
            self.records[endpoints.name, default: ServiceRecord()].endpoints = groups
            self.endpointsChanged(of: endpoints.name)
        case .node(let node):
            let former = self.snapshot.nodes[node.name]
            guard former != node else { return nil }
            self.snapshot.nodes[node.name] = node
            self.isChanged = true
            if former?.zone != node.zone { self.touchedZones.insert(node.name) }
        case .destinationRule(let rule):
            self.putRule(rule)
        case .namespace(let namespace):
            guard self.snapshot.namespaceLabels[namespace.name] ?? [:] != namespace.labels else { return nil }
            self.snapshot.namespaceLabels[namespace.name] = namespace.labels.isEmpty ? nil : namespace.labels
            self.isChanged = true
        case .gateway(let resource):
            let key = ObjectKey(object)
            guard self.snapshot.gatewayResources[key] != resource else { return nil }
            self.snapshot.gatewayResources[key] = resource
            self.isChanged = true
        case .pod(let pod):
            self.setLabels(pod.labels, of: pod.name)
        case .credentials:
            // Never here, so that no snapshot and no store has them.
            break
        }
        return nil
    }

    /// Takes an object out of force.
    mutating func take(_ key: ObjectKey, serviceName: String) {
        switch key.kind {
        case .service:
            self.pendingObjects[key.name] = .some(nil)
            self.touchedServices.insert(key.name)
        case .endpointSlice:
            self.removeSlice(key.name, of: serviceName)
        case .endpoints:
            self.records[key.name]?.endpoints = nil
            self.endpointsChanged(of: key.name)
        case .node:
            if self.snapshot.nodes[key.name.name]?.zone != nil { self.touchedZones.insert(key.name.name) }
            self.snapshot.nodes[key.name.name] = nil
            self.isChanged = true
        case .destinationRule:
            self.removeRule(key.name)
        case .namespace:
            if self.snapshot.namespaceLabels.removeValue(forKey: key.name.name) != nil { self.isChanged = true }
        case .pod:
            self.setLabels(nil, of: key.name)
        case .manifest:
            break
        default:
            if self.snapshot.gatewayResources.removeValue(forKey: key) != nil { self.isChanged = true }
        }
    }

    /// The object as far as it is kept, to give it back to its source when another source hides it.
    func objectInForce(_ key: ObjectKey) -> ClusterObject? {
        let name = key.name
        switch key.kind {
        case .service:
            return self.serviceObject(name).map { .service($0) }
        case .endpointSlice:
            guard let serviceName = self.owners[key]?.serviceName,
                let record = self.records[ObjectName(namespace: name.namespace, name: serviceName)],
                let group = record.slices.first(where: { $0.name == name.name })?.groups.given.first
            else { return nil }
            return .endpointSlice(EndpointSliceObject(name: name, serviceName: serviceName, group: group))
        case .endpoints:
            return self.records[name]?.endpoints.map { .endpoints(EndpointsObject(name: name, groups: $0.given)) }
        case .node:
            return self.snapshot.nodes[name.name].map { .node($0) }
        case .destinationRule:
            return self.ruleInForce(name).map { .destinationRule($0) }
        case .namespace:
            var namespace = NamespaceObject(name: name.name)
            namespace.labels = self.snapshot.namespaceLabels[name.name] ?? [:]
            return .namespace(namespace)
        case .pod:
            var pod = PodObject(name: name)
            pod.labels = self.snapshot.podLabels[name] ?? [:]
            return .pod(pod)
        case .manifest:
            return nil
        default:
            return self.snapshot.gatewayResources[key].map { .gateway($0) }
        }
    }

    /// What else a pod has counts only where endpoints are made of it.
    private mutating func setLabels(_ labels: [String: String]?, of pod: ObjectName) {
        guard self.snapshot.podLabels[pod] != labels else { return }
        self.snapshot.podLabels[pod] = labels
        for name in self.servicesWithSubsets where name.namespace == pod.namespace {
            let groups = self.snapshot.services[name]?.groups ?? []
            if groups.contains(where: { $0.endpoints.contains { $0.podName == pod.name } }) {
                self.touchedServices.insert(name)
            }
        }
    }

    /// Of each subset of a rule, the pods behind `groups` that have its labels. Where nothing is known of any of these pods there
    /// are no subsets, so that all endpoints serve: nobody follows the labels, or may, or they have yet to be listed.
    mutating func pods(
        of subsets: [String: [String: String]],
        of service: ObjectName,
        _ groups: [EndpointGroup]
    ) -> [String: Set<String>] {
        guard self.settings.keepsPodNames, !subsets.isEmpty else {
            self.servicesWithSubsets.remove(service)
            return [:]
        }
        self.servicesWithSubsets.insert(service)
        let pods = Set(groups.lazy.flatMap(\.endpoints).compactMap(\.podName))
        let labels = Dictionary(
            uniqueKeysWithValues: pods.map { pod in
                (pod, self.snapshot.podLabels[ObjectName(namespace: service.namespace, name: pod)])
            }
        )
        guard labels.contains(where: { $0.value != nil }) else { return [:] }
        return subsets.mapValues { wanted in
            Set(labels.filter { pod in wanted.allSatisfy { pod.value?[$0.key] == $0.value } }.keys)
        }
    }

    /// The service's object as this batch leaves it.
    func serviceObject(_ name: ObjectName) -> ServiceObject? {
        if let pending = self.pendingObjects[name] { return pending }
        return self.snapshot.services[name]?.object
    }

    // MARK: Endpoints

    private mutating func putSlice(_ slice: EndpointSliceObject, of serviceName: String) {
        let service = ObjectName(namespace: self.interner.intern(slice.name.namespace), name: serviceName)
        let groups = self.endpointGroups([slice.group])
        let slices = self.records[service]?.slices ?? []
        let position = slices.firstIndex { $0.name >= slice.name.name } ?? slices.count
        if position < slices.count, slices[position].name == slice.name.name {
            guard slices[position].groups.given != groups.given else { return }
            self.records[service]?.slices[position].groups = groups
        } else {
            self.records[service, default: ServiceRecord()].slices.insert((slice.name.name, groups), at: position)
        }
        self.endpointsChanged(of: service)
    }

    private mutating func removeSlice(_ slice: ObjectName, of serviceName: String) {
        let service = ObjectName(namespace: slice.namespace, name: serviceName)
        self.records[service]?.slices.removeAll { $0.name == slice.name }
        self.endpointsChanged(of: service)
    }

    private mutating func endpointGroups(_ groups: [EndpointGroup]) -> EndpointGroups {
        let interned = self.interner.intern(groups, keepsPodNames: self.settings.keepsPodNames)
        return EndpointGroups(interned) { self.snapshot.nodes[$0]?.zone }
    }

    private mutating func endpointsChanged(of service: ObjectName) {
        self.touchedServices.insert(service)
        guard let record = self.records[service] else { return }
        if record.slices.isEmpty, record.endpoints == nil {
            self.records[service] = nil
        }
        if record.endpoints?.needsZones == true || record.slices.contains(where: { $0.groups.needsZones }) {
            self.servicesNeedingZones.insert(service)
        } else {
            self.servicesNeedingZones.remove(service)
        }
    }

    /// Fills zones in anew where a node that this batch touched has endpoints without one.
    mutating func fillZones() {
        guard !self.touchedZones.isEmpty else { return }
        let nodes = self.snapshot.nodes
        let touched = self.touchedZones
        self.touchedZones.removeAll()
        func isAffected(_ groups: EndpointGroups) -> Bool {
            groups.needsZones
                && groups.given.contains { group in
                    group.endpoints.contains { $0.zone == nil && $0.nodeName.map(touched.contains) == true }
                }
        }
        for service in self.servicesNeedingZones {
            guard var record = self.records[service] else { continue }
            var isTouched = false
            for index in record.slices.indices where isAffected(record.slices[index].groups) {
                record.slices[index].groups.fillZones { nodes[$0]?.zone }
                isTouched = true
            }
            if let endpoints = record.endpoints, isAffected(endpoints) {
                record.endpoints?.fillZones { nodes[$0]?.zone }
                isTouched = true
            }
            guard isTouched else { continue }
            self.records[service] = record
            self.touchedServices.insert(service)
        }
    }
}
