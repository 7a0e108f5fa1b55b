import KubeModel
import MeshCore

/// Makes the plan of a gateway from the cluster's objects, and tells of each object what became of it.
///
/// Pure: equal input makes equal output. Of what conflicts, the older object is in force.
public struct GatewayCompiler {
    let input: GatewayInput
    let settings: CompilerSettings
    let index: ObjectIndex
    var result = GatewayCompilation()
    /// What listeners ask for, older objects first.
    var fragments: [Fragment] = []
    /// The Gateways to which routes are attached, as routes name them, but without a section.
    var gatewaysOfRoutes: [ObjectIndex.Key: [ParentReference]] = [:]
    private var rules = 0
    private var found: Set<GatewayFinding> = []

    private init(_ input: GatewayInput, _ settings: CompilerSettings) {
        self.input = input
        self.settings = settings
        self.index = ObjectIndex(input.resources, input.destinationRules) { rule in
            Self.service(named: rule.host, in: rule.name.namespace, clusterDomain: settings.clusterDomain)
        }
    }

    public static func compile(_ input: GatewayInput, settings: CompilerSettings) -> GatewayCompilation {
        var input = input
        input.resources.sort(by: GatewayResource.isOlder)
        var compiler = GatewayCompiler(input, settings)
        compiler.compileIstio()
        compiler.compileGatewayAPI()
        compiler.mergeFragments()
        return compiler.result
    }

    // MARK: What the parts share

    mutating func find(
        _ severity: GatewayFinding.Severity,
        _ resource: GatewayResource,
        _ field: String,
        _ message: String
    ) {
        let finding = GatewayFinding(
            severity: severity,
            kind: resource.kind,
            name: resource.name,
            field: field,
            message: message
        )
        // An object may be compiled for several listeners.
        if self.found.insert(finding).inserted { self.result.findings.append(finding) }
    }

    /// False once the plan is full.
    mutating func countRule(of resource: GatewayResource) -> Bool {
        self.rules += 1
        if self.rules == CompilerSettings.maximumRules + 1 {
            self.find(
                .error,
                resource,
                "",
                "the plan has \(CompilerSettings.maximumRules) rules already; this one and all after it are left out"
            )
        }
        return self.rules <= CompilerSettings.maximumRules
    }

    /// Nil, with a finding, if the pattern is none.
    mutating func regex(_ pattern: String, _ resource: GatewayResource, _ field: String) -> BoundedRegex? {
        do throws(RegexError) {
            return try BoundedRegex(pattern: pattern)
        } catch {
            self.find(.error, resource, field, error.description)
            return nil
        }
    }

    /// The edits without those that no header may have: a name that is no token, a value with a line break.
    mutating func edits(
        set: [(String, String)],
        add: [(String, String)],
        remove: [String],
        _ resource: GatewayResource,
        _ field: String
    ) -> HeaderEdits {
        func fields(_ pairs: [(String, String)], _ bad: inout [String]) -> [HeaderEdits.Field] {
            pairs.compactMap { name, value in
                guard HeaderEdits.isName(name), HeaderEdits.isValue(value) else {
                    bad.append(name)
                    return nil
                }
                return HeaderEdits.Field(name: name.lowercased(), value: value)
            }
        }
        var bad = remove.filter { !HeaderEdits.isName($0) }
        let edits = HeaderEdits(
            set: fields(set, &bad),
            add: fields(add, &bad),
            remove: remove.filter(HeaderEdits.isName).map { $0.lowercased() }
        )
        for name in bad {
            self.find(
                .error,
                resource,
                field,
                "the header \(name.debugDescription) is left out: a name is letters, digits and -, a value one line of text"
            )
        }
        return edits
    }
}

extension HeaderEdits {
    /// RFC 9110, section 5.1; without those that frame messages, which are the gateway's own.
    static func isName(_ name: String) -> Bool {
        let isToken = name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                true
            default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
            }
        }
        return isToken && !name.isEmpty && name.utf8.count <= 256
            && !["content-length", "transfer-encoding", "connection", "upgrade", "te"].contains(name.lowercased())
    }

    static func isValue(_ value: String) -> Bool {
        value.utf8.count <= 4_096 && value.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F || $0 == 0x09 }
    }
}
