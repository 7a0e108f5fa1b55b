// Starting processes inside other network namespaces, for the lab. Everything between fork and exec must be
// async-signal-safe, which Swift code is not: hence C.
#ifndef CLINUX_LAB_H
#define CLINUX_LAB_H

#include <sys/types.h>

/// What a process sees in place of `target`, which exists.
struct clinux_lab_mount {
    const char *source;
    const char *target;
};

struct clinux_lab_spawn {
    /// Searched in PATH if it has no slash.
    const char *program;
    char *const *argv;
    char *const *envp;
    /// Network namespace to enter, or -1 to stay. Entering one also gives the process a mount namespace of its own.
    int netns;
    /// Files and directories that the process sees in other places. Needs `netns`.
    const struct clinux_lab_mount *mounts;
    unsigned mount_count;
    int stdin_fd;
    int stdout_fd;
    int stderr_fd;
    /// Nonzero: a new session, so that a terminal's Ctrl-C does not reach it and its group can be killed.
    int new_session;
};

/// Returns the child's process ID after it has called exec, or -1 with errno; *step then names the call that failed.
pid_t clinux_lab_spawn(const struct clinux_lab_spawn *request, const char **step);

/// Moves the calling thread into the network namespace `netns` and gives a descriptor of the one it left; -1 on error.
int clinux_lab_enter_netns(int netns);
/// Moves the calling thread back and closes `previous`. A thread that cannot go back would do later work in the
/// wrong network, so failing here ends the process.
void clinux_lab_leave_netns(int previous);

/// pidfd_open(2), without flags.
int clinux_lab_pidfd_open(pid_t pid);
/// pipe2(2) and memfd_create(2) with close-on-exec.
int clinux_lab_pipe(int ends[2]);
int clinux_lab_memory_file(void);
/// umount2(2) with MNT_DETACH.
int clinux_lab_unmount(const char *path);

#endif
