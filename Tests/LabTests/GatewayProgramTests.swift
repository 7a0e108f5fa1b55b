import Glibc
import Testing

@testable import NetLab

/// `edgemesh-gateway` as it is installed: a symbolic link, a configuration file, a folder of manifests, and curl.
@Suite struct GatewayProgramTests {
    /// Everything listens on addresses of loopback that nothing else here uses.
    private static let script = """
        set -e
        cd "$1"
        ln -s "$2" edgemesh-gateway
        mkdir www manifests
        echo "hello from the mesh" > www/index.html
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 2 \\
            -subj /CN=shop.example -addext subjectAltName=DNS:shop.example 2>/dev/null
        cat > gateway.yaml <<END
        apiVersion: gateway.edgemesh.config.kubeedge.io/v1alpha1
        kind: EdgeMeshGateway
        commonConfig: {nodeName: n1, stateDir: $1/state, adminSocket: $1/admin.sock}
        modules: {edgeGateway: {enable: true, nik: eth0}}
        END
        cat > manifests/all.yaml <<END
        {apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.10, ports: [{port: 80, targetPort: 8080}]}}
        ---
        {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{port: 8080}],
         metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}},
         endpoints: [{addresses: [127.89.0.2], conditions: {ready: true}}]}
        ---
        {apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: edge, namespace: shop}, spec: {servers: [
          {bind: 127.89.0.1, port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]},
          {bind: 127.89.0.1, port: {number: 8443, name: https, protocol: HTTPS}, hosts: [shop.example], tls: {mode: SIMPLE, credentialName: cert}}]}}
        ---
        {apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: shop},
         spec: {hosts: ["*"], gateways: [edge], http: [{route: [{destination: {host: web, port: {number: 80}}}]}]}}
        ---
        {apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {name: cert, namespace: shop},
         data: {tls.crt: $(base64 -w0 cert.pem), tls.key: $(base64 -w0 key.pem)}}
        END
        busybox httpd -f -p 127.89.0.2:8080 -h www & backend=$!
        ./edgemesh-gateway --config-file gateway.yaml --manifests manifests -v 2 2> log & gateway=$!
        trap 'kill $backend $gateway 2>/dev/null || true' EXIT
        call="curl -sS -m 60 --retry 60 --retry-delay 1 --retry-connrefused"
        $call http://127.89.0.1:8080/
        $call --cacert cert.pem --resolve shop.example:8443:127.89.0.1 https://shop.example:8443/
        ./edgemesh-gateway --version | grep -q EdgeMesh
        "$2" status --socket admin.sock | grep -E '^127.89.0.1:(8080|8443)/tcp +open'
        "$2" analyze --manifests manifests
        sed -i 's/host: web/host: wep/' manifests/all.yaml
        "$2" analyze --manifests manifests -o json | grep -c '"severity": "warning"'
        kill -TERM $gateway
        wait $gateway && echo "stopped as asked"
        kill $backend
        grep -c 'did you mean nic' log
        ! grep -rqE 'PRIVATE KEY|tls.key' state log && echo "no key on disk"
        """

    @Test func aFolderOfManifestsIsServedOverHTTPAndHTTPS() async throws {
        let folder = "/tmp/edgemesh-gateway-program-\(getpid())"
        mkdir(folder, 0o700)
        let output = try await Command.run(
            EdgemeshBinary.request(["bash", "-c", Self.script, "bash", folder, try EdgemeshBinary.path()]),
            input: "",
            deadline: .seconds(200)
        )
        _ = try await Command.runLocal(["rm", "-rf", folder])
        #expect(output.status.isSuccess, "\(output.standardError)")
        let words = output.lines.map { $0.split(separator: " ").joined(separator: " ") }
        #expect(
            words == [
                "hello from the mesh", "hello from the mesh",
                "127.89.0.1:8080/tcp open IstioGateway shop/edge", "127.89.0.1:8443/tcp open IstioGateway shop/edge",
                "0 errors, 0 warnings, 0 notes", "1", "stopped as asked", "1", "no key on disk",
            ]
        )
    }
}
