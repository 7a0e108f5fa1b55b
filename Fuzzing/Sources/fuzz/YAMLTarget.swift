import Documents
import KubeModel

extension FuzzTarget {
    /// Manifests: YAML, then the objects in it. What is written reads back the same.
    static let yaml = FuzzTarget(name: "yaml") { data, count in
        let bytes = Array(UnsafeBufferPointer(start: data, count: count))
        guard let documents = try? Document.parseYAML(bytes) else { return 0 }
        for document in documents {
            let text = document.yamlText()
            guard (try? Document.parseYAML(Array(text.utf8)))?.map({ $0.yamlText() }) == [text] else {
                fatalError("YAML does not read back: \(text)")
            }
            checkObjects(document)
        }
        return 0
    }
}
