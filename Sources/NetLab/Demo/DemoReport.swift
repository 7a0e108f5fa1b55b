import Documents
import Glibc
import MeshCore
import Synchronization

/// One step of the demo and how it went.
struct DemoStep: Sendable {
    var title: String
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
            "title": .string(self.title), "passed": .init(.bool(self.isPassed)),
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
    func step(_ title: String, _ body: () async throws -> Void) async -> Bool {
        guard !Task.isCancelled else { return false }
        let number = self.state.withLock { steps in
            steps.append(DemoStep(title: title))
            return steps.count
        }
        self.console.heading("\(number). \(title)")
        let started = MonotonicTime.now()
        do {
            try await body()
        } catch {
            self.fail("\(error)")
        }
        return self.state.withLock { steps in
            steps[steps.count - 1].elapsed = MonotonicTime.now() - started
            return steps[steps.count - 1].isPassed
        }
    }

    func command(_ text: String, on host: String) {
        self.state.withLock { $0[$0.count - 1].commands.append("\(host)$ \(text)") }
        self.console.command(text, host: host)
    }

    func fact(_ text: String) {
        self.state.withLock { $0[$0.count - 1].facts.append(text) }
        self.console.text(text)
    }

    func fail(_ text: String) {
        // Interrupted: what fails now fails because its lab has gone.
        guard !Task.isCancelled else { return }
        self.state.withLock { $0[$0.count - 1].failures.append(text) }
        self.console.failure(text)
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

/// Where the demo is shown: coloured on a terminal, plain elsewhere, silent for JSON.
struct DemoConsole: Sendable {
    private let isSilent: Bool
    private let isColoured: Bool

    init(isSilent: Bool) {
        self.isSilent = isSilent
        self.isColoured = isatty(STDOUT_FILENO) == 1 && getenv("NO_COLOR") == nil
    }

    func heading(_ text: String) { self.write("\n" + self.paint("1", text) + "\n") }
    func command(_ text: String, host: String) { self.write("  " + self.paint("36", "\(host)$ ") + text + "\n") }
    func text(_ text: String) { self.write(self.indented(text)) }
    func success(_ text: String) { self.write("  " + self.paint("32", "ok ") + " " + text + "\n") }
    func failure(_ text: String) { self.write("  " + self.paint("31", "FAIL") + " " + text + "\n") }
    func plain(_ text: String) { self.write(text + "\n") }

    func summary(_ steps: [DemoStep]) {
        let width = steps.map(\.title.count).max() ?? 0
        var lines = ["", self.paint("1", "Summary")]
        for (index, step) in steps.enumerated() {
            let verdict = step.isPassed ? self.paint("32", "pass") : self.paint("31", "FAIL")
            let number = (index < 9 ? " " : "") + "\(index + 1)"
            let title = step.title + String(repeating: " ", count: width - step.title.count)
            let seconds = LoadReport.fixed(step.elapsed.inSeconds, 2)
            let last = step.isPassed ? step.facts.last ?? "" : step.failures[0]
            lines.append("  \(number). \(title)  \(verdict)  \(seconds) s  \(last.split(separator: "\n").first ?? "")")
        }
        let failed = steps.count { !$0.isPassed }
        lines.append(
            failed == 0
                ? self.paint("32", "All \(steps.count) steps passed.")
                : self.paint("31", "\(failed) of \(steps.count) steps failed.")
        )
        self.write(lines.joined(separator: "\n") + "\n")
    }

    private func indented(_ text: String) -> String {
        text.split(whereSeparator: \.isNewline).map { "     \($0)\n" }.joined()
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
