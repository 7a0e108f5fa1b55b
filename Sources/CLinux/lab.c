#define _GNU_SOURCE
#include "lab.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

enum step { STEP_FORK, STEP_NETNS, STEP_MOUNTNS, STEP_MOUNT, STEP_DESCRIPTORS, STEP_EXEC };
static const char *const step_names[] = {
    "fork", "enter the network namespace", "make a mount namespace", "mount its own /etc/resolv.conf and /run/edgemesh", "set descriptors up", "exec",
};

struct failure {
    int step;
    int error;
};

static void fail(int report, int step) {
    struct failure failure = {step, errno};
    ssize_t ignored = write(report, &failure, sizeof failure);
    (void)ignored;
    _exit(127);
}

static int give(int fd, int target) {
    if (fd == target) return fcntl(fd, F_SETFD, 0);
    return dup2(fd, target);
}

static void run_child(const struct clinux_lab_spawn *request, int report) {
    for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (request->new_session) setsid();

    if (request->netns >= 0) {
        if (setns(request->netns, CLONE_NEWNET) < 0) fail(report, STEP_NETNS);
        if (unshare(CLONE_NEWNS) < 0) fail(report, STEP_MOUNTNS);
        if (mount("", "/", NULL, MS_SLAVE | MS_REC, NULL) < 0) fail(report, STEP_MOUNTNS);
        // /sys shows the network devices of the namespace it was mounted in. Some hosts forbid mounting it; few care.
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
        for (unsigned i = 0; i < request->mount_count; i++)
            if (mount(request->mounts[i].source, request->mounts[i].target, NULL, MS_BIND, NULL) < 0)
                fail(report, STEP_MOUNT);
    }
    if (give(request->stdin_fd, 0) < 0 || give(request->stdout_fd, 1) < 0 || give(request->stderr_fd, 2) < 0)
        fail(report, STEP_DESCRIPTORS);
    syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
    execvpe(request->program, request->argv, request->envp);
    fail(report, STEP_EXEC);
}

pid_t clinux_lab_spawn(const struct clinux_lab_spawn *request, const char **step) {
    int report[2];
    *step = step_names[STEP_FORK];
    if (pipe2(report, O_CLOEXEC) < 0) return -1;

    // No handler of ours may run in the child before it has reset them.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0) run_child(request, report[1]);
    int error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(report[1]);
    if (pid < 0) {
        close(report[0]);
        errno = error;
        return -1;
    }

    struct failure failure;
    ssize_t count;
    do count = read(report[0], &failure, sizeof failure);
    while (count < 0 && errno == EINTR);
    close(report[0]);
    if (count != sizeof failure) return pid;
    kill(pid, SIGKILL);
    syscall(SYS_wait4, pid, NULL, 0, NULL);
    *step = step_names[failure.step];
    errno = failure.error;
    return -1;
}

int clinux_lab_enter_netns(int netns) {
    int previous = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (previous < 0) return -1;
    if (setns(netns, CLONE_NEWNET) < 0) {
        int error = errno;
        close(previous);
        errno = error;
        return -1;
    }
    return previous;
}

void clinux_lab_leave_netns(int previous) {
    if (setns(previous, CLONE_NEWNET) < 0) {
        perror("leave the network namespace");
        abort();
    }
    close(previous);
}

int clinux_lab_pidfd_open(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }
int clinux_lab_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC); }
int clinux_lab_memory_file(void) { return memfd_create("input", MFD_CLOEXEC); }
int clinux_lab_unmount(const char *path) { return umount2(path, MNT_DETACH); }
