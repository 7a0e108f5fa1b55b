import Documents
import Glibc
import MeshCore
import Synchronization

/// One step of the demo and how it went.
struct DemoStep: Sendable {
    var title: String
    /// The command that matters, shortened to fit its line.
    var headline: String
    /// What it is about, in numbers.
    var numbers = ""
    /// The commands as a user would type them, with the host they run on.
    var commands: [String] = []
    /// What was seen, one fact a line.
    var facts: [String] = []
    /// What should have been and was not; empty if the step passed.
    var failures: [String] = []
    var elapsed: Duration = .zero

    var isPassed: Bool { self.failures.isEmpty }

    var document: Document {
        [
            "title": .string(self.title), "numbers": .string(self.numbers), "passed": .init(.bool(self.isPassed)),
            "seconds": .init(.number((self.elapsed.inSeconds * 1e3).rounded() / 1e3)),
            "commands": .array(self.commands.map { Document.string($0) }),
            "facts": .array(self.facts.map { Document.string($0) }),
            "failures": .array(self.failures.map { Document.string($0) }),
        ]
    }
}

/// Takes down what a step does, and shows it while it happens.
final class DemoJournal: Sendable {
    private let console: DemoConsole
    private let state = Mutex<[DemoStep]>([])

    init(console: DemoConsole) {
        self.console = console
    }

    var steps: [DemoStep] { self.state.withLock { $0 } }
    var isPassed: Bool { self.steps.allSatisfy(\.isPassed) }

    /// Runs one step. An error it throws is its failure.
    /// - Returns: Whether it passed.
    @discardableResult
    func step(_ title: String, _ headline: String, _ body: () async throws -> Void) async -> Bool {
        guard !Task.isCancelled else { return false }
        let number = self.state.withLock { steps in
            steps.append(DemoStep(title: title, headline: headline))
            return steps.count
        }
        self.console.begin(number, title)
        let started = MonotonicTime.now()
        do {
            try await body()
        } catch {
            self.fail("\(error)")
        }
        let step = self.state.withLock { steps in
            steps[steps.count - 1].elapsed = MonotonicTime.now() - started
            return steps[steps.count - 1]
        }
        if !Task.isCancelled { self.console.end(number, step) }
        return step.isPassed
    }

    /// What stands in the step's line.
    func numbers(_ text: String) {
        self.state.withLock { $0[$0.count - 1].numbers = text }
    }

    func command(_ text: String, on host: String) {
        self.state.withLock { $0[$0.count - 1].commands.append("\(host)$ \(text)") }
        self.console.command(text, host: host)
    }

    func fact(_ text: String) {
        self.state.withLock { $0[$0.count - 1].facts.append(text) }
        self.console.fact(text)
    }

    func fail(_ text: String) {
        // Interrupted: what fails now fails because its lab has gone.
        guard !Task.isCancelled else { return }
        self.state.withLock { $0[$0.count - 1].failures.append(text) }
        self.console.problem(text)
    }

    /// States `text`, as a fact if it holds and as a failure if not.
    func check(_ holds: Bool, _ text: String) {
        if holds {
            self.state.withLock { $0[$0.count - 1].facts.append(text) }
            self.console.success(text)
        } else {
            self.fail("not so: " + text)
        }
    }

    func summary() {
        self.console.summary(self.steps)
    }
}

/// Where the demo is shown: one line a step, with everything it did if that is asked for or went wrong. Coloured on a
/// terminal, plain elsewhere, silent for JSON.
struct DemoConsole: Sendable {
    private static let titleWidth = 26
    private static let commandWidth = 46

    private let isSilent: Bool
    private let isVerbose: Bool
    private let isTerminal: Bool
    private let isColoured: Bool

    init(isSilent: Bool, isVerbose: Bool) {
        self.isSilent = isSilent
        self.isVerbose = isVerbose
        self.isTerminal = isatty(STDOUT_FILENO) == 1
        self.isColoured = self.isTerminal && getenv("NO_COLOR") == nil
    }

    /// Shows that a step is under way, where the line can be written over at its end.
    func begin(_ number: Int, _ title: String) {
        if self.isVerbose {
            self.write("\n" + self.paint("1", "\(number). \(title)") + "\n")
        } else if self.isTerminal {
            self.write(" …  \(Self.padded("\(number)", 4))\(title)")
        }
    }

    func end(_ number: Int, _ step: DemoStep) {
        let tick = step.isPassed ? self.paint("32", "✓") : self.paint("31", "✗")
        let line =
            " \(tick)  \(Self.padded("\(number)", 4))\(Self.padded(step.title, Self.titleWidth))"
            + self.paint("36", Self.padded(step.headline, Self.commandWidth))
            + (step.numbers.isEmpty ? "" : step.numbers + "  ")
            + self.paint("2", LoadReport.fixed(step.elapsed.inSeconds, 1) + " s")
        self.write((self.isTerminal && !self.isVerbose ? "\r\u{1B}[K" : "") + line + "\n")
        guard !step.isPassed, !self.isVerbose else { return }
        for command in step.commands { self.write("        \(self.paint("36", command))\n") }
        for fact in step.facts { self.text(fact) }
        for failure in step.failures { self.failure(failure) }
    }

    func command(_ text: String, host: String) {
        if self.isVerbose { self.write("    " + self.paint("36", "\(host)$ ") + text + "\n") }
    }

    func fact(_ text: String) { if self.isVerbose { self.text(text) } }
    func success(_ text: String) { if self.isVerbose { self.write("    " + self.paint("32", "✓ ") + text + "\n") } }
    func problem(_ text: String) { if self.isVerbose { self.failure(text) } }
    func plain(_ text: String) { self.write(text + "\n") }

    func failure(_ text: String) { self.write("        " + self.paint("31", "✗ ") + text + "\n") }

    func summary(_ steps: [DemoStep]) {
        let failed = steps.count { !$0.isPassed }
        let seconds = LoadReport.fixed(steps.reduce(0) { $0 + $1.elapsed.inSeconds }, 1)
        self.write(
            "\n"
                + (failed == 0
                    ? self.paint("32", "All \(steps.count) steps passed in \(seconds) s.")
                    : self.paint("31", "\(failed) of \(steps.count) steps failed.")) + "\n"
        )
    }

    private static func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(1, width - text.count))
    }

    private func text(_ text: String) {
        self.write(text.split(whereSeparator: \.isNewline).map { "        \($0)\n" }.joined())
    }

    private func paint(_ code: String, _ text: String) -> String {
        self.isColoured ? "\u{1B}[\(code)m\(text)\u{1B}[0m" : text
    }

    private func write(_ text: String) {
        guard !self.isSilent else { return }
        writeToStandardOutput(text)
    }
}

/// Without stdio's buffer, which a pipe would hold back.
func writeToStandardOutput(_ text: String) {
    var bytes = Array(text.utf8)[...]
    while !bytes.isEmpty {
        let count = bytes.withUnsafeBytes { Glibc.write(STDOUT_FILENO, $0.baseAddress, $0.count) }
        guard count > 0 else { return }
        bytes = bytes.dropFirst(count)
    }
}
