/// Gateways and their routes, as Istio has them.
enum GatewayManifests {
    /// HTTPS for a name, by a service's port 80; who comes without TLS is sent there.
    static func secureSite(_ host: String, service: String, secret: String) -> String {
        """
        apiVersion: networking.istio.io/v1
        kind: Gateway
        metadata: {name: \(service)-site, namespace: default}
        spec:
          selector: {kubeedge: edgemesh-gateway}
          servers:
            - port: {number: 443, name: https, protocol: HTTPS}
              hosts: [\(host)]
              tls: {mode: SIMPLE, credentialName: \(secret)}
            - port: {number: 80, name: http, protocol: HTTP}
              hosts: [\(host)]
              tls: {httpsRedirect: true}
        ---
        apiVersion: networking.istio.io/v1
        kind: VirtualService
        metadata: {name: \(service)-site, namespace: default}
        spec:
          gateways: [\(service)-site]
          hosts: [\(host)]
          http:
            - route:
                - destination: {host: \(service), port: {number: 80}}

        """
    }
}
