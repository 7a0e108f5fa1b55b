import Documents
import KubeModel
import MeshCore

/// One line of a watch.
enum WatchEvent {
    case changed(SourceEvent, resourceVersion: String?)
    case bookmark(resourceVersion: String?)
    case failed(ReflectorStateMachine.Failure)
    /// Not a watch event at all: the stream cannot be trusted from here on.
    case malformed(String)
}

/// Makes events out of the JSON of list items and watch lines. An object that cannot be used is an event too.
struct ObjectDecoding {
    let kind: ObjectKind

    func event(item: ListScanner.Item) -> SourceEvent {
        switch item {
        case .oversized(let prefix):
            return self.oversized(prefix)
        case .complete(let bytes):
            do {
                return self.event(object: try Document.parseJSON(bytes))
            } catch {
                return self.rejected(Self.sniffName(bytes), "the object is no valid JSON: \(error)")
            }
        }
    }

    func watchEvent(line: LineCutter.Line) -> WatchEvent {
        switch line {
        case .oversized(let prefix):
            return .changed(self.oversized(prefix), resourceVersion: nil)
        case .complete(let bytes):
            do {
                return self.watchEvent(document: try Document.parseJSON(bytes))
            } catch {
                return .malformed("the watch sent a line that is no JSON: \(error)")
            }
        }
    }

    private func watchEvent(document: Document) -> WatchEvent {
        guard let type = document["type"]?.string, let object = document["object"] else {
            return .malformed("the watch sent a line that is no event")
        }
        let version = object.resourceVersion
        switch type {
        case "ADDED", "MODIFIED":
            return .changed(self.event(object: object), resourceVersion: version)
        case "DELETED":
            guard let name = object.objectName else {
                return .changed(self.rejected(nil, "a deletion names no object"), resourceVersion: version)
            }
            return .changed(.deleted(self.kind, name), resourceVersion: version)
        case "BOOKMARK":
            return .bookmark(resourceVersion: version)
        case "ERROR":
            let status = ServerStatus(object)
            return .failed(status.failure(code: status.code ?? 500, retryAfter: nil))
        default:
            return .malformed("the watch sent an event of unknown type '\(type.prefix(40))'")
        }
    }

    private func event(object: Document) -> SourceEvent {
        do {
            if let decoded = try ClusterObject.decodeItem(kind: self.kind, document: object) { return .upsert(decoded) }
            // It means nothing to the mesh, such as a slice that lost its service: what was known of it goes.
            guard let name = object.objectName else { return self.rejected(nil, "the object has no name") }
            return .deleted(self.kind, name)
        } catch {
            return error.rejectedObject.map { .rejected($0) } ?? self.rejected(object.objectName, error.message)
        }
    }

    private func oversized(_ prefix: [UInt8]) -> SourceEvent {
        self.rejected(
            Self.sniffName(prefix),
            "the object is longer than \(ListScanner.itemLimit) bytes; make it smaller"
        )
    }

    private func rejected(_ name: ObjectName?, _ reason: String) -> SourceEvent {
        .rejected(
            RejectedObject(
                kind: self.kind,
                name: name ?? ObjectName(namespace: "", name: "(unnamed)"),
                field: "",
                reason: reason
            )
        )
    }

    /// The name in an object that cannot be parsed, if it stands near its start as API servers write it.
    private static func sniffName(_ bytes: [UInt8]) -> ObjectName? {
        let text = String(decoding: bytes.prefix(ListScanner.oversizedPrefix), as: UTF8.self)
        guard let metadata = text.firstRange(of: "\"metadata\"") else { return nil }
        func value(of key: String) -> String? {
            guard let found = text[metadata.upperBound...].firstRange(of: "\"\(key)\"") else { return nil }
            let rest = text[found.upperBound...].drop { $0 == ":" || $0 == " " }
            guard rest.first == "\"" else { return nil }
            return String(rest.dropFirst().prefix { $0 != "\"" && $0 != "\\" })
        }
        return value(of: "name").map { ObjectName(namespace: value(of: "namespace") ?? "", name: $0) }
    }
}

/// A `Status` object, which servers send in place of what was asked for.
struct ServerStatus {
    var code: Int?
    var message: String

    init(_ document: Document) {
        self.code = document["code"]?.integer.map { Int(clamping: $0) }
        let message = document["message"]?.string ?? document["reason"]?.string ?? "no message"
        self.message = message.utf8.count > 500 ? "\(message.prefix(500))…" : message
    }

    /// Reads the body of an error answer, which may be anything.
    init(body: [UInt8]) {
        if let document = try? Document.parseJSON(body), document.members != nil {
            self.init(document)
        } else {
            self.init(["message": .string(String(decoding: body.prefix(200), as: UTF8.self))])
        }
    }

    func failure(code: Int, retryAfter: Duration?) -> ReflectorStateMachine.Failure {
        switch code {
        case 401: .unauthorized(self.message)
        case 403: .forbidden(self.message)
        case 404: .notFound
        case 410: .gone
        case 429, 500...: .throttled(retryAfter: retryAfter, "answers \(code): \(self.message)")
        default: .malformed("answers \(code): \(self.message)")
        }
    }
}

/// What a list says beside its items.
struct ListEnvelope {
    var resourceVersion: String?
    var continueToken: String?

    init(_ bytes: [UInt8]) throws(KubeError) {
        do {
            let metadata = try Document.parseJSON(bytes)["metadata"]
            self.resourceVersion = metadata?["resourceVersion"]?.string
            self.continueToken = metadata?["continue"]?.string
        } catch {
            throw KubeError(.malformedResponse, "the server's list is no valid JSON", cause: error)
        }
    }
}
