import Documents
import KubeModel

extension FuzzTarget {
    /// API responses: JSON, then the objects in it. What is written reads back the same.
    static let json = FuzzTarget(name: "json") { data, count in
        let bytes = UnsafeBufferPointer(start: data, count: count)
        guard let document = try? Document.parseJSON(bytes) else { return 0 }
        let text = document.jsonBytes()
        guard (try? Document.parseJSON(text))?.jsonBytes() == text else { fatalError("JSON does not read back") }
        checkObjects(document)
        return 0
    }
}

/// Decodes the objects of a document, and each again from what it is written as.
func checkObjects(_ document: Document) {
    for case .success(let object) in ClusterObject.decodeEach(document) {
        guard (try? ClusterObject.decode(object.document)) == [object] else {
            fatalError("\(object) does not read back")
        }
    }
}
