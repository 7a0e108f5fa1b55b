import NIOSSL

extension CertificateMaterial {
    /// Whether it holds a certificate and a key that can be read and fit each other. Takes a millisecond or two.
    public var hasCertificate: Bool {
        guard !self.chain.isEmpty, !self.key.isEmpty else { return false }
        do {
            let chain = try NIOSSLCertificate.fromPEMBytes(self.chain)
            let key = try NIOSSLPrivateKey(bytes: self.key, format: .pem)
            let configuration = TLSConfiguration.makeServerConfiguration(
                certificateChain: chain.map { .certificate($0) },
                privateKey: .privateKey(key)
            )
            // Making the context is what compares the two.
            _ = try NIOSSLContext(configuration: configuration)
            return !chain.isEmpty
        } catch {
            return false
        }
    }

    /// Whether it holds at least one authority that can be read.
    public var hasAuthority: Bool {
        (try? NIOSSLCertificate.fromPEMBytes(self.authorities))?.isEmpty == false
    }
}
