import Testing

@testable import LoadBalancing

/// The examples are those of Istio's documents, in the words of this cluster.
@Suite struct LocalityPreferenceTests {
    private static let places = [
        "a": Place(region: "north", zone: "n1", nodeName: "node-a"),
        "b": Place(region: "north", zone: "n1", nodeName: "node-b"),
        "c": Place(region: "north", zone: "n2", nodeName: "node-c"),
        "d": Place(region: "south", zone: "s1", nodeName: "node-d"),
        "e": Place(region: "west", zone: "w1", nodeName: "node-e"),
        "x": Place(),
    ]
    private static let here = Place(region: "north", zone: "n1", nodeName: "node-a")

    private static func select(
        _ preference: LocalityPreference,
        of names: String,
        from here: Place = here
    ) -> (names: String, weights: [UInt32]?) {
        let (chosen, weights) = preference.select(names.map { String($0) }, from: here) { Self.places[$0] ?? Place() }
        return (chosen.joined(), weights)
    }

    @Test(
        "failover takes the nearest there are: zone, region, the region that stands in, all others",
        arguments: [
            ("abcdex", "ab"), ("cdex", "c"), ("dex", "e"), ("dx", "dx"), ("x", "x"), ("", ""),
        ]
    )
    func failover(names: String, chosen: String) {
        #expect(Self.select(.failover(["north": "west"]), of: names).names == chosen)
        // Where this node is unknown, all are alike.
        #expect(Self.select(.failover([:]), of: names, from: Place()).names == names)
    }

    @Test func aZoneWithoutRegionIsStillAZone() {
        let (chosen, _) = LocalityPreference.failover([:]).select(
            ["n1", "n2"],
            from: Place(zone: "n1")
        ) { Place(zone: $0) }
        #expect(chosen == ["n1"])
    }

    @Test(
        "failoverPriority counts the labels that agree, from the first",
        arguments: [
            ([(.region, nil), (.zone, nil), (.hostname, nil)], "abcde", "a"),
            ([(.region, nil), (.zone, nil), (.hostname, nil)], "bcde", "b"),
            ([(.region, nil), (.zone, nil)], "cde", "c"), ([(.hostname, nil), (.zone, nil)], "bc", "bc"),
            ([(.region, "south")], "abcde", "d"), ([(.zone, nil)], "dex", "dex"),
        ] as [([(LocalityPreference.Label, String?)], String, String)]
    )
    func priority(keys: [(LocalityPreference.Label, String?)], names: String, chosen: String) {
        let preference = LocalityPreference.priority(keys.map { .init(label: $0.0, value: $0.1) })
        #expect(Self.select(preference, of: names).names == chosen)
    }

    private static func distribution(_ from: String, _ to: [(String, UInt32)]) throws -> LocalityPreference {
        .distribute([
            .init(
                from: try #require(LocalityPattern(from)),
                to: try to.map { .init(to: try #require(LocalityPattern($0.0)), weight: $0.1) }
            )
        ])
    }

    @Test func sharesAreDividedAmongTheEndpointsOfTheirPlaces() throws {
        let preference = try Self.distribution("north/n1/*", [("north/n1/*", 80), ("north/*", 10), ("south/*", 10)])
        let (names, weights) = Self.select(preference, of: "abcdex")
        #expect(names == "abcd")
        // 80 for two, 10 for one, 10 for one.
        #expect(weights == [400_000, 400_000, 100_000, 100_000])
        // Equal weights are none.
        #expect(try Self.select(Self.distribution("*", [("north/n1", 100)]), of: "abc").weights == nil)
        // Somebody else's entry changes nothing, and nobody is left alone.
        #expect(try Self.select(Self.distribution("south/*", [("south/*", 100)]), of: "abc").names == "abc")
        #expect(try Self.select(Self.distribution("*", [("west", 100)]), of: "abc").names == "abc")
        #expect(try Self.select(Self.distribution("*", [("north", 100), ("south", 0)]), of: "cd").names == "c")
    }

    @Test(arguments: [
        ("*", "abcdex"), ("north", "abc"), ("north/*", "abc"), ("north/n1", "ab"), ("north/n1/*", "ab"),
        ("north/n1/rack", ""), ("*/*/*", "abcdex"),
    ])
    func patterns(text: String, covered: String) throws {
        let pattern = try #require(LocalityPattern(text))
        #expect("abcdex".filter { pattern.covers(Self.places[String($0)] ?? Place()) } == covered)
    }

    @Test(arguments: ["", "/", "north//", "*/n1", "a/b/c/d", "north/*/rack"])
    func noPatterns(text: String) { #expect(LocalityPattern(text) == nil) }
}
