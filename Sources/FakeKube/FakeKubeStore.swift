import Documents

/// The objects of a fake cluster as its API server keeps them: as JSON with a resource version, and a bounded history
/// from which watches are served.
struct FakeKubeStore {
    /// A collection as it stands in paths, such as `services`.
    typealias Plural = String

    struct Object {
        var version: UInt64
        var json: [UInt8]
        /// The octets after the first brace that hold the type, which list items of built-in kinds come without.
        var typeLength = 0

        var listItem: [UInt8] {
            self.typeLength == 0 ? self.json : Array(self.json.prefix(1) + self.json.dropFirst(1 + self.typeLength))
        }
    }

    struct Event {
        var version: UInt64
        /// `namespace/name`.
        var key: String
        var type: String
        var json: [UInt8]
    }

    enum Events {
        case events([Event])
        /// The history does not reach back so far.
        case tooOld
    }

    /// A list that is being read page by page.
    private struct Listing {
        var version: UInt64
        var rest: ArraySlice<[UInt8]>
    }

    struct Page {
        var items: [[UInt8]]
        var version: UInt64
        var continueToken: String?
        var remaining: Int
    }

    private let historyLimit: Int
    /// Open listings beyond this number expire, the oldest first.
    private let listingLimit = 64
    private(set) var version: UInt64 = 1
    private var objects: [Plural: [String: Object]] = [:]
    private var history: [Plural: [Event]] = [:]
    /// Watches from before this version are refused.
    private var compactedVersion: [Plural: UInt64] = [:]
    private var listings: [UInt64: Listing] = [:]
    private var nextListing: UInt64 = 1

    init(historyLimit: Int) {
        self.historyLimit = historyLimit
    }

    /// Creates or replaces; the new resource version is written into the object.
    mutating func apply(_ document: Document, to plural: Plural, isBuiltIn: Bool, key: String) -> UInt64 {
        self.version += 1
        var members = Self.withVersion(self.version, document).members ?? []
        let type = members.filter { ["apiVersion", "kind"].contains($0.key) }
        members.removeAll { ["apiVersion", "kind"].contains($0.key) }
        let json = Document.object(type + members).jsonBytes()
        // Without its braces, and with the comma that follows it.
        let hasType = isBuiltIn && !type.isEmpty && !members.isEmpty
        let typeLength = hasType ? Document.object(type).jsonBytes().count - 1 : 0
        let known = self.objects[plural]?[key] != nil
        self.objects[plural, default: [:]][key] = Object(version: self.version, json: json, typeLength: typeLength)
        self.record(Event(version: self.version, key: key, type: known ? "MODIFIED" : "ADDED", json: json), of: plural)
        return self.version
    }

    /// As the API server does, the deletion event carries the object at the version of its deletion.
    mutating func delete(_ plural: Plural, key: String) -> Bool {
        guard let object = self.objects[plural]?.removeValue(forKey: key) else { return false }
        self.version += 1
        var json = object.json
        if let document = try? Document.parseJSON(object.json) {
            json = Self.withVersion(self.version, document).jsonBytes()
        }
        self.record(Event(version: self.version, key: key, type: "DELETED", json: json), of: plural)
        return true
    }

    /// Puts bytes in place of an object, valid or not.
    mutating func applyRaw(_ json: [UInt8], to plural: Plural, key: String) {
        self.version += 1
        self.objects[plural, default: [:]][key] = Object(version: self.version, json: json)
        self.record(Event(version: self.version, key: key, type: "MODIFIED", json: json), of: plural)
    }

    func object(_ plural: Plural, key: String) -> [UInt8]? { self.objects[plural]?[key]?.json }

    func keys(of plural: Plural) -> [String] { (self.objects[plural] ?? [:]).keys.sorted() }

    /// The first page of a list in the order of keys; the rest is kept as it is now until it is asked for.
    mutating func list(_ plural: Plural, limit: Int?, where isMeant: (_ key: String) -> Bool) -> Page {
        let all = (self.objects[plural] ?? [:]).sorted { $0.key < $1.key }
            .filter { isMeant($0.key) }.map(\.value.listItem)
        return self.page(of: Listing(version: self.version, rest: all[...]), limit: limit)
    }

    /// A later page; nil if the token has expired.
    mutating func list(continueToken: String, limit: Int?) -> Page? {
        guard let id = UInt64(continueToken.split(separator: ":").first ?? ""),
            let listing = self.listings.removeValue(forKey: id)
        else { return nil }
        return self.page(of: listing, limit: limit)
    }

    mutating func expireListings() {
        self.listings = [:]
    }

    func events(of plural: Plural, after version: UInt64) -> Events {
        guard version >= self.compactedVersion[plural] ?? 0 else { return .tooOld }
        let history = self.history[plural] ?? []
        // Versions rise, so the wanted events are a suffix.
        var start = history.count
        while start > 0, history[start - 1].version > version { start -= 1 }
        return .events(Array(history[start...]))
    }

    /// The version up to which a watcher of this collection that saw `seen` has seen everything: what a bookmark says.
    func version(of plural: Plural, seen: UInt64) -> UInt64 {
        guard let last = self.history[plural]?.last, last.version > seen else { return self.version }
        return seen
    }

    /// What a watch from version 0 begins with.
    func asEvents(_ plural: Plural) -> [Event] {
        (self.objects[plural] ?? [:]).sorted { $0.key < $1.key }.map {
            Event(version: $0.value.version, key: $0.key, type: "ADDED", json: $0.value.json)
        }
    }

    /// Forgets all history, as etcd's compaction does.
    mutating func compact() {
        self.version += 1
        for plural in Set(self.history.keys).union(self.objects.keys) {
            self.history[plural] = []
            self.compactedVersion[plural] = self.version
        }
    }

    private mutating func page(of listing: Listing, limit: Int?) -> Page {
        let items = listing.rest.prefix(limit ?? .max)
        let rest = listing.rest.dropFirst(items.count)
        var token: String?
        if !rest.isEmpty {
            let id = self.nextListing
            self.nextListing += 1
            self.listings[id] = Listing(version: listing.version, rest: rest)
            if id > UInt64(self.listingLimit) { self.listings[id - UInt64(self.listingLimit)] = nil }
            // With characters that must be escaped in a URL, as real tokens may have them.
            token = "\(id):+/=&"
        }
        return Page(items: Array(items), version: listing.version, continueToken: token, remaining: rest.count)
    }

    private mutating func record(_ event: Event, of plural: Plural) {
        self.history[plural, default: []].append(event)
        // Trimmed in halves, so that the cost per event stays constant.
        guard let count = self.history[plural]?.count, count > self.historyLimit * 2 else { return }
        let dropped = count - self.historyLimit
        self.compactedVersion[plural] = self.history[plural]?[dropped - 1].version
        self.history[plural]?.removeFirst(dropped)
    }

    private static func withVersion(_ version: UInt64, _ document: Document) -> Document {
        var members = document.members ?? []
        var metadata = document["metadata"]?.members ?? []
        metadata.removeAll { $0.key == "resourceVersion" }
        metadata.append(.init("resourceVersion", .string("\(version)")))
        if let index = members.firstIndex(where: { $0.key == "metadata" }) {
            members[index].value = .object(metadata)
        } else {
            members.append(.init("metadata", .object(metadata)))
        }
        return .object(members)
    }
}
