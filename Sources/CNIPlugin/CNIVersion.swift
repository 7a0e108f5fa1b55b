/// The versions of the CNI specification that are spoken here, oldest first.
public enum CNIVersion: String, Sendable, Hashable, CaseIterable, Comparable {
    case v010 = "0.1.0"
    case v020 = "0.2.0"
    case v030 = "0.3.0"
    case v031 = "0.3.1"
    case v040 = "0.4.0"
    case v100 = "1.0.0"
    case v110 = "1.1.0"

    public static let latest = CNIVersion.v110

    public static func < (lhs: CNIVersion, rhs: CNIVersion) -> Bool { lhs.age < rhs.age }

    private var age: Int { Self.allCases.firstIndex(of: self) ?? 0 }
}
