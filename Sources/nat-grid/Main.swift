import Glibc
import NetLab

/// Prints which NATs peers can cross: real ones, in network namespaces of this machine. Ends with 1 if theory says otherwise.
@main
enum Main {
    static func main() async {
        do {
            let directory = try LabPrivileges.executable().split(separator: "/").dropLast().joined(separator: "/")
            let report = try await Grid(program: "/\(directory)/p2p-peer", name: "natgrid").run()
            print(report.table, terminator: "")
            exit(report.isAsExpected ? 0 : 1)
        } catch {
            let text = "nat-grid: \(error)\n"
            _ = write(2, text, text.utf8.count)
            exit(1)
        }
    }
}
