import KubeClient
import KubeModel

extension FuzzTarget {
    /// Lists and watches of an API server. The first byte chooses the kind and how the bytes are cut; the cut may not matter.
    static let watch = FuzzTarget(name: "watch") { data, count in
        let bytes = Array(UnsafeBufferPointer(start: data, count: count))
        guard let first = bytes.first else { return 0 }
        let kind = ObjectKind.allCases[Int(first) % ObjectKind.allCases.count]
        let chunk = Int(first) % 7 + 1
        let body = Array(bytes.dropFirst())
        guard
            decodeWatchStream(body, kind: kind, chunk: chunk) == decodeWatchStream(body, kind: kind, chunk: body.count),
            decodeListStream(body, kind: kind, chunk: chunk) == decodeListStream(body, kind: kind, chunk: body.count)
        else { fatalError("the cut of the stream matters") }
        return 0
    }
}
