/// The version of this build.
public enum Version {
    public static let number = "0.1.0"

    /// As `--version` prints it.
    public static var line: String { "EdgeMesh v\(self.number)" }

    /// As `--version=raw` prints it.
    public static var raw: String {
        "version.Info{Version:\"v\(self.number)\", Platform:\"linux/\(self.architecture)\", Language:\"Swift\"}"
    }

    private static var architecture: String {
        #if arch(x86_64)
        "amd64"
        #elseif arch(arm64)
        "arm64"
        #else
        "unknown"
        #endif
    }
}
