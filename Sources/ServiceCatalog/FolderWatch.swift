import Dispatch
import Glibc

/// Calls back when something in a folder changes (inotify(7)). Ends when released.
final class FolderWatch {
    private let path: String
    private let source: any DispatchSourceRead
    private let device: dev_t
    private let inode: ino_t

    /// Nil if the folder cannot be watched: then only rescans see changes. `onChange` runs on a queue of Dispatch.
    init?(_ path: String, onChange: @escaping @Sendable () -> Void) {
        guard let (device, inode) = Self.identity(of: path) else { return nil }
        let descriptor = inotify_init1(O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { return nil }
        // IN_CREATE for symbolic links, which are never written; IN_MOVED_TO for editors and the kubelet, who rename.
        let mask =
            IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
        guard inotify_add_watch(descriptor, path, UInt32(mask)) >= 0 else {
            close(descriptor)
            return nil
        }
        self.path = path
        self.device = device
        self.inode = inode
        self.source = DispatchSource.makeReadSource(fileDescriptor: descriptor, queue: .global())
        self.source.setEventHandler {
            // What happened does not matter: every file is looked at.
            var events = [UInt8](repeating: 0, count: 4_096)
            while read(descriptor, &events, events.count) > 0 {}
            onChange()
        }
        self.source.setCancelHandler { close(descriptor) }
        self.source.resume()
    }

    deinit {
        self.source.cancel()
    }

    /// Whether the path still leads to the folder that is watched.
    var isCurrent: Bool {
        guard let (device, inode) = Self.identity(of: self.path) else { return false }
        return device == self.device && inode == self.inode
    }

    private static func identity(of path: String) -> (dev_t, ino_t)? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        return (status.st_dev, status.st_ino)
    }
}
