import CLinux
public import Configuration
import Documents
import Glibc
import Logging

/// `edgemesh-agent` and `edgemesh-gateway`, from their options to their exit codes.
public enum AgentProgram {
    /// Runs until it is stopped by a signal. 0: stopped as asked; 1: the configuration or environment is wrong.
    public static func run(_ options: AgentOptions) async -> Int32 {
        KlogHandler.bootstrap(verbosity: options.verbosity)
        let logger = Logger(label: "edgemesh")
        // A peer that goes away is an error of one write, not the end of the process.
        signal(SIGPIPE, SIG_IGN)
        let source = ConfigSource(options: options)
        let reading: ConfigSource.Reading
        do {
            reading = try source.read()
        } catch {
            for line in error.lines { logger.critical("\(line)") }
            return 1
        }
        for warning in reading.warnings { logger.warning("\(warning)") }
        clinux_tune_malloc()
        do {
            try await Agent(source: source, reading: reading, platform: .live(logger), logger: logger).run()
            return 0
        } catch {
            logger.critical("The \(options.role.rawValue) ended", metadata: ["error": "\(error)"])
            return 1
        }
    }
}

/// The texts of `--defaultconfig` and `--minconfig`.
public enum AgentConfigurationText {
    public static func full(_ role: AgentConfiguration.Role) -> String {
        let source = ConfigSource(options: AgentOptions(configFile: ""))
        return AgentConfiguration.defaultDocument(source.environment, role: role).yamlText()
    }

    public static func minimal(_ role: AgentConfiguration.Role) -> String {
        AgentConfiguration.minimalDocument(role: role).yamlText()
    }
}
