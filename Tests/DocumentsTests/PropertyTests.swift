import Documents
import MeshCore
import Testing

@Suite("Documents, at random")
struct DocumentPropertyTests {
    @Test("what is written reads back the same, as JSON and as YAML", arguments: 0..<8)
    func roundTrips(stream: UInt64) throws {
        var generator = SeededGenerator(seed: randomSeed &+ stream)
        for round in 0..<150 {
            let document = Document.random(&generator)
            for pretty in [false, true] {
                let text = document.jsonText(pretty: pretty)
                let read = try Document.parseJSON(text).withoutPositions
                #expect(read == document, "seed \(randomSeed &+ stream), round \(round): \(text)")
            }
            let text = document.yamlText()
            let read = try Document.parseYAML(text).map(\.withoutPositions)
            #expect(read == [document], "seed \(randomSeed &+ stream), round \(round): \(text)")
            // JSON is YAML, but for keys of more than 1024 characters.
            guard document.jsonText().utf8.count < 1024 else { continue }
            #expect(try Document.parseYAML(document.jsonText()).map(\.withoutPositions) == [document])
        }
    }

    @Test("mutated texts give a document or an error, never a trap", arguments: 0..<8)
    func mutations(stream: UInt64) {
        var generator = SeededGenerator(seed: randomSeed &+ 100 &+ stream)
        var accepted = 0
        for _ in 0..<400 {
            let document = Document.random(&generator)
            let isJSON = Bool.random(using: &generator)
            var bytes = Array((isJSON ? document.jsonText() : document.yamlText()).utf8)
            for _ in 0..<Int.random(in: 1...4, using: &generator) { mutate(&bytes, &generator) }
            if let read = try? Document.parseJSON(bytes) {
                accepted += 1
                #expect((try? Document.parseJSON(read.jsonBytes()))?.withoutPositions == read.withoutPositions)
            }
            if let read = try? Document.parseYAML(bytes) {
                accepted += 1
                for document in read { #expect((try? Document.parseYAML(document.yamlText()))?.count == 1) }
            }
        }
        #expect(accepted > 20, "seed \(randomSeed &+ 100 &+ stream): the mutations reach no valid text")
    }

    private func mutate(_ bytes: inout [UInt8], _ generator: inout SeededGenerator) {
        let index = Int.random(in: 0...bytes.count, using: &generator)
        let structural = Array("{}[]:,\"\\\n \t-&*!|>#?%@0eE.u\u{FF}".utf8)
        switch Int.random(in: 0..<6, using: &generator) {
        case 0: bytes.insert(UInt8(truncatingIfNeeded: generator.next()), at: index)
        case 1: bytes.insert(structural[Int.random(in: 0..<structural.count, using: &generator)], at: index)
        case 2: bytes.removeSubrange(index...)
        case 3 where index < bytes.count: bytes.remove(at: index)
        case 4 where index < bytes.count: bytes[index] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
        default: bytes.insert(contentsOf: bytes.prefix(index), at: index)
        }
    }
}
