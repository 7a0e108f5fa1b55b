import Documents

/// The configuration of a network as a plugin gets it, and what follows from it for the plugin that does the work.
struct NetworkConfiguration: Sendable {
    /// The plugin that attaches pods.
    struct Delegate: Sendable {
        let type: String
        let version: CNIVersion
        let document: Document
    }

    static let limits = DocumentLimits(bytes: 1 << 20, values: 65_536)
    /// Our own name among plugins.
    static let ownType = "edgemesh-cni"
    static let defaultDelegate = "bridge"
    static let defaultBridge = "edgebr0"
    static let defaultAddressPlugin = "spiderpool"

    /// What is handed on as the runtime gave it: what was attached, what it wants of this attachment, who is still there.
    private static let handedOn = [
        "prevResult", "runtimeConfig", "args", "dns", "cni.dev/valid-attachments", "cni.dev/attachments",
    ]

    let version: CNIVersion
    let name: String
    private let document: Document

    /// Whether the runtime tells what an attachment gave.
    var hasPreviousResult: Bool { self.document["prevResult"]?.isNull == false }

    init(_ input: [UInt8]) throws(CNIError) {
        let document = try Self.read(input)
        self.version = try Self.version(document["cniVersion"], of: "the network")
        guard let name = document["name"]?.string, CNIInvocation.isIdentifier(name) else {
            throw CNIError(
                .invalidConfiguration,
                "the network has no name, or one that is no identifier",
                details: "set \"name\": letters, digits, \"_\", \".\" and \"-\", the first a letter or a digit"
            )
        }
        self.name = name
        self.document = document
    }

    static func read(_ input: [UInt8]) throws(CNIError) -> Document {
        let document: Document
        do {
            document = try Document.parseJSON(input, limits: Self.limits)
        } catch {
            throw CNIError(.undecodable, "the configuration on the standard input cannot be read", details: "\(error)")
        }
        guard document.members != nil else {
            throw CNIError(.undecodable, "the configuration on the standard input is \(document.brief), not an object")
        }
        return document
    }

    /// Without one it is the first, as in the libraries of CNI.
    static func version(_ document: Document?, of what: String) throws(CNIError) -> CNIVersion {
        guard let document, !document.isNull, document.string != "" else { return .v010 }
        guard let version = document.string.flatMap({ CNIVersion(rawValue: $0) }) else {
            let known = CNIVersion.allCases.map(\.rawValue).joined(separator: ", ")
            throw CNIError(
                .incompatibleVersion,
                "cniVersion \(document.brief) of \(what) is not supported",
                details: "supported are \(known)"
            )
        }
        return version
    }

    /// The configuration of the plugin that does the work: the member `delegate`, with what it leaves out filled in.
    func delegate() throws(CNIError) -> Delegate {
        let given = self.document["delegate"]
        guard given == nil || given?.isNull == true || given?.members != nil else {
            throw CNIError(.invalidConfiguration, "\"delegate\" is \(given?.brief ?? ""), not an object")
        }
        var members = Members(given?.members ?? [])
        members.fill("cniVersion", self.version.rawValue)
        members.fill("name", self.name)
        members.fill("type", Self.defaultDelegate)
        guard let type = members["type"]?.string, !type.contains("/") else {
            throw CNIError(
                .invalidConfiguration,
                "\"delegate.type\" is no name of a plugin",
                details: "it is looked for in the directories of CNI_PATH, so it has no slash"
            )
        }
        guard type != Self.ownType else {
            throw CNIError(
                .invalidConfiguration,
                "\"delegate.type\" is \(type), which would hand on to itself for ever"
            )
        }
        if type == Self.defaultDelegate { members.fill("bridge", Self.defaultBridge) }
        members["ipam"] = try self.addressPlugin(members["ipam"])
        let version = try Self.version(members["cniVersion"], of: "the delegate")
        for key in Self.handedOn {
            guard let value = self.document[key], !value.isNull, key == "prevResult" || members[key] == nil else {
                continue
            }
            members[key] = key == "prevResult" ? try AttachmentResult.converted(value, to: version) : value
        }
        return Delegate(type: type, version: version, document: .object(members.all))
    }

    /// One of the network itself replaces the delegate's whole.
    private func addressPlugin(_ given: Document?) throws(CNIError) -> Document {
        if let own = self.document["ipam"], let type = own["type"]?.string, !type.isEmpty { return own }
        guard given == nil || given?.isNull == true || given?.members != nil else {
            throw CNIError(.invalidConfiguration, "\"delegate.ipam\" is \(given?.brief ?? ""), not an object")
        }
        var members = Members(given?.members ?? [])
        members.fill("type", Self.defaultAddressPlugin)
        return .object(members.all)
    }
}

/// The members of an object, to be changed in place; the order stays.
struct Members {
    private(set) var all: [Document.Member]

    init(_ members: [Document.Member]) {
        self.all = members
    }

    subscript(key: String) -> Document? {
        get { self.all.first { $0.key == key }?.value }
        set {
            let index = self.all.firstIndex { $0.key == key }
            switch (index, newValue) {
            case (let index?, let value?): self.all[index].value = value
            case (let index?, nil): self.all.remove(at: index)
            case (nil, let value?): self.all.append(.init(key, value))
            case (nil, nil): break
            }
        }
    }

    /// Sets what is missing, null or empty.
    mutating func fill(_ key: String, _ text: String) {
        if let value = self[key], !value.isNull, value.string != "" { return }
        self[key] = .string(text)
    }
}
