import CLinux
import Glibc
import MeshCore

/// Removes labs: also those of processes that were killed.
public enum LabCleaner {
    /// Removes every lab whose process is gone, and returns their names.
    @discardableResult
    public static func cleanAbandoned() throws -> [String] {
        var cleaned: [String] = []
        for name in LabState.names where try Self.clean(name) { cleaned.append(name) }
        return cleaned
    }

    /// Removes the lab `name`. False if a living process runs it.
    @discardableResult
    public static func clean(_ name: String) throws -> Bool {
        try LabPlan.checkName(name, of: "lab")
        guard let lock = try LabLock.take(name) else { return false }
        if let state = LabState.load(name) { try Self.remove(state) }
        _ = consume lock
        return true
    }

    /// The caller holds the lab's lock. Blocks while processes die: milliseconds.
    static func remove(_ state: LabState) throws(LabError) {
        let found = Files.names(in: LabState.namespaceRoot).filter { $0.hasPrefix("emlab-\(state.name)-") }
        let namespaces = Set(state.namespaces).union(found.filter { !Self.isOfAnotherLab($0, than: state) })
        try Self.killProcesses(of: state.name, in: namespaces)
        for namespace in namespaces {
            let path = "\(LabState.namespaceRoot)/\(namespace)"
            // The mount exists only in the mount namespace that made it; the file is there for all.
            _ = clinux_lab_unmount(path)
            unlink(path)
        }
        Files.removeTree(state.directory)
        unlink(LabState.path(of: state.name))
    }

    /// The prefix of lab `a` is also that of lab `a-b`.
    private static func isOfAnotherLab(_ namespace: String, than state: LabState) -> Bool {
        LabState.names.contains { $0.hasPrefix(state.name + "-") && namespace.hasPrefix("emlab-\($0)-") }
    }

    private static func killProcesses(of lab: String, in namespaces: Set<String>) throws(LabError) {
        let identities = Set(namespaces.compactMap { FileIdentity("\(LabState.namespaceRoot)/\($0)") })
        let end = MonotonicTime.now() + .seconds(3)
        while true {
            let processes = Self.processes(of: lab, in: identities)
            if processes.isEmpty { return }
            guard MonotonicTime.now() < end else {
                throw LabError(
                    .deadlineExceeded,
                    "processes \(processes) of lab '\(lab)' do not die; look at them with ps and try again"
                )
            }
            for process in processes { kill(process, SIGKILL) }
            usleep(2000)
        }
    }

    /// Processes inside the namespaces, and those that carry the lab's mark: in the mount namespace of somebody else
    /// a network namespace has no name to find it by. Zombies are not among them.
    private static func processes(of lab: String, in identities: Set<FileIdentity>) -> [Int32] {
        let mark = Array("\(LabState.environmentMark)=\(lab)".utf8)[...]
        return Files.names(in: "/proc").compactMap { Int32($0) }.filter { process in
            guard process != getpid() else { return false }
            if let identity = FileIdentity("/proc/\(process)/ns/net"), identities.contains(identity) { return true }
            let environment = (try? Files.read("/proc/\(process)/environ")) ?? []
            return environment.split(separator: 0).contains(mark)
        }
    }
}

/// What tells two files apart, whatever their names are.
private struct FileIdentity: Hashable {
    var device: UInt
    var inode: UInt

    /// Nil if the file is missing or no namespace is mounted there.
    init?(_ path: String) {
        var status = stat()
        var own = stat()
        // A name in /run/netns without its mount is an ordinary empty file of another filesystem.
        guard stat(path, &status) == 0, stat("/proc/self/ns/net", &own) == 0, status.st_dev == own.st_dev else {
            return nil
        }
        self.device = UInt(status.st_dev)
        self.inode = UInt(status.st_ino)
    }
}
