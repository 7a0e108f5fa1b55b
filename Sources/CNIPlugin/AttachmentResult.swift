import Documents

/// What an attachment gave a container, as `ADD` prints it and later commands get it back (CNI specification, section 5).
enum AttachmentResult {
    /// The result in the form of another version.
    ///
    /// From 0.3.0 on the forms differ in one member; before, they are of another kind.
    static func converted(_ result: Document, to version: CNIVersion) throws(CNIError) -> Document {
        guard let members = result.members else {
            throw CNIError(.undecodable, "the result of an attachment is \(result.brief), not an object")
        }
        let present = try NetworkConfiguration.version(result["cniVersion"], of: "a result")
        guard present != version else { return result }
        guard min(present, version) >= .v030 else {
            throw CNIError(
                .incompatibleVersion,
                "a result of version \(present.rawValue) has no form in version \(version.rawValue)",
                details: "give the network and its delegate the same cniVersion"
            )
        }
        var changed = Members(members)
        changed["cniVersion"] = .string(version.rawValue)
        if let addresses = result["ips"]?.array {
            changed["ips"] = .array(addresses.map { Self.address($0, version) })
        }
        return .object(changed.all)
    }

    /// Before 1.0.0 an address said of which family it is.
    private static func address(_ address: Document, _ version: CNIVersion) -> Document {
        guard let members = address.members else { return address }
        var changed = Members(members)
        if version >= .v100 {
            changed["version"] = nil
        } else {
            changed.fill("version", address["address"]?.string?.contains(":") == true ? "6" : "4")
        }
        return .object(changed.all)
    }
}
