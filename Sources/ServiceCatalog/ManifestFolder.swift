import Documents
import KubeModel
import MeshCore

/// What a folder of manifests says, file by file; gives the difference to what was told before. No I/O.
struct ManifestFolder {
    private struct Entry {
        var object: ClusterObject
        var line: Int
    }

    private struct File {
        var entries: [Entry] = []
        var rejections: [RejectedObject] = []
        /// Some version of it told, in this process, which objects it holds.
        var isUnderstood = false
    }

    /// Whether Secrets and ConfigMaps are read, too.
    var readsCredentials = false
    private var files: [String: File] = [:]
    private var toldObjects: [ObjectKey: ClusterObject] = [:]
    private var toldRejections: [ObjectKey: RejectedObject] = [:]
    private var hasBegun = false
    private var hasListed = false

    /// Files that hold up the end of the first listing: it is not known what they hold, so nothing that the store has of
    /// the folder may go. Sorted.
    var unclear: [String] {
        self.hasListed ? [] : self.files.filter { !$0.value.isUnderstood }.keys.sorted()
    }

    /// Takes in a new or changed file. Broken documents keep their last good objects; if it cannot be told which objects
    /// those were, everything stays that the file had before and has not redefined.
    mutating func update(_ name: String, bytes: [UInt8]) {
        let former = self.files[name]?.entries ?? []
        var file = File(isUnderstood: self.files[name]?.isUnderstood ?? false)
        do throws(DocumentError) {
            let documents = name.hasSuffix(".json") ? [try Document.parseJSON(bytes)] : try Document.parseYAML(bytes)
            var keepsAll = false
            // The store has services with their endpoints, not the pods and slices that those came from.
            var lacksEndpoints = false
            for document in documents where !document.isNull {
                for result in ClusterObject.decodeEach(document) {
                    switch result {
                    case .success(.credentials) where !self.readsCredentials: continue
                    case .success(let object):
                        file.entries.append(Entry(object: object, line: document.position.line))
                    case .failure(let error)
                    where error.code == .unsupportedKind
                        || error.kind?.isCredential == true && !self.readsCredentials:
                        // Deployments, ConfigMaps and so on stand in most manifests.
                        continue
                    case .failure(let error):
                        if var rejection = error.rejectedObject {
                            if rejection.kind.isNamespaced, rejection.name.namespace.isEmpty {
                                rejection.name.namespace = "default"
                            }
                            rejection.reason = error.describe(in: name)
                            file.rejections.append(rejection)
                            lacksEndpoints = lacksEndpoints || [.pod, .endpointSlice].contains(rejection.kind)
                        } else {
                            keepsAll = true
                            let line = error.position == .none ? document.position.line : error.position.line
                            file.rejections.append(Self.rejection(name, line: line, error.describe(in: name)))
                        }
                    }
                }
            }
            let current = Set(file.entries.map { ObjectKey($0.object) })
            let rejected = Set(file.rejections.map { ObjectKey(kind: $0.kind, name: $0.name) })
            file.entries += former.filter { entry in
                let key = ObjectKey(entry.object)
                return !current.contains(key) && (keepsAll || rejected.contains(key))
            }
            if !keepsAll, !lacksEndpoints { file.isUnderstood = true }
        } catch {
            file.entries = former
            file.rejections = [Self.rejection(name, line: error.position.line, error.describe(in: name))]
        }
        self.files[name] = file
    }

    /// The file cannot be read; its last good objects stay.
    mutating func fail(_ name: String, reason: String) {
        self.files[name, default: File()].rejections = [Self.rejection(name, line: 0, "\(name): \(reason)")]
    }

    mutating func remove(_ name: String) {
        self.files[name] = nil
    }

    /// What to tell the catalog since the last call; the first time a listing of every kind, which
    /// ends when every file has been understood.
    mutating func events() -> [SourceEvent] {
        var (objects, rejections) = self.merged()
        self.synthesiseEndpoints(&objects)

        var events: [SourceEvent] = []
        for (key, object) in objects where self.toldObjects[key] != object {
            events.append(.upsert(object))
        }
        for key in self.toldObjects.keys where objects[key] == nil {
            events.append(.deleted(key.kind, key.name))
        }
        for key in self.toldRejections.keys where rejections[key] == nil {
            // Mended to what it was before: telling it again clears the rejection.
            if let object = objects[key] {
                if self.toldObjects[key] == object { events.append(.upsert(object)) }
            } else if self.toldObjects[key] == nil {
                events.append(.deleted(key.kind, key.name))
            }
        }
        // After the objects, because a good object clears its rejection.
        for (key, rejection) in rejections
        where self.toldRejections[key] != rejection || self.toldObjects[key] != objects[key] {
            events.append(.rejected(rejection))
        }
        self.toldObjects = objects
        self.toldRejections = rejections
        if !self.hasBegun {
            self.hasBegun = true
            events = ObjectKind.allCases.map { .syncBegan($0) } + events
        }
        if !self.hasListed, self.unclear.isEmpty {
            self.hasListed = true
            events += ObjectKind.allCases.map { .syncEnded($0) }
        }
        return events
    }

    /// The objects of all files. Of two equal ones the first by file name, then by place, is in force.
    private func merged() -> ([ObjectKey: ClusterObject], [ObjectKey: RejectedObject]) {
        var objects: [ObjectKey: ClusterObject] = [:]
        var origins: [ObjectKey: String] = [:]
        var rejections: [ObjectKey: RejectedObject] = [:]
        for (name, file) in self.files.sorted(by: { $0.key < $1.key }) {
            for rejection in file.rejections {
                rejections[ObjectKey(kind: rejection.kind, name: rejection.name)] = rejection
            }
            for entry in file.entries {
                let key = ObjectKey(entry.object)
                guard let origin = origins[key] else {
                    origins[key] = name
                    objects[key] = entry.object
                    continue
                }
                let reason =
                    "\(name):\(entry.line): \(key.kind.rawValue) \(key.name) is already in \(origin), which counts"
                let rejection = Self.rejection(name, line: entry.line, reason)
                rejections[ObjectKey(kind: rejection.kind, name: rejection.name)] = rejection
            }
        }
        return (objects, rejections)
    }

    private func synthesiseEndpoints(_ objects: inout [ObjectKey: ClusterObject]) {
        var services: [ServiceObject] = []
        var pods: [PodObject] = []
        var given: Set<ObjectName> = []
        for object in objects.values {
            switch object {
            case .service(let service): services.append(service)
            case .pod(let pod): pods.append(pod)
            case .endpoints(let endpoints): given.insert(endpoints.name)
            case .endpointSlice(let slice):
                given.insert(ObjectName(namespace: slice.name.namespace, name: slice.serviceName))
            case .node, .namespace, .destinationRule, .gateway, .credentials: break
            }
        }
        guard !pods.isEmpty else { return }
        for slice in EndpointSynthesis.slices(services: services, pods: pods, given: given) {
            let object = ClusterObject.endpointSlice(slice)
            if objects[ObjectKey(object)] == nil { objects[ObjectKey(object)] = object }
        }
    }

    private static func rejection(_ file: String, line: Int, _ reason: String) -> RejectedObject {
        let place = line > 0 ? "\(file):\(line)" : file
        return RejectedObject(
            kind: .manifest,
            name: ObjectName(namespace: "", name: place),
            field: "",
            reason: reason
        )
    }
}
