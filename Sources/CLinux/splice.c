#define _GNU_SOURCE
#include "splice.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

int clinux_splice_pipe(int ends[2], int bytes) {
    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0) return -1;
    // Without the right to a larger one the default of 64 KiB serves.
    (void)fcntl(ends[1], F_SETPIPE_SZ, bytes);
    return 0;
}

ssize_t clinux_splice(int from, int to, size_t length) {
    return splice(from, NULL, to, NULL, length, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
}

int clinux_is_tcp(int fd) {
    int protocol = 0;
    socklen_t length = sizeof protocol;
    return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) == 0 && protocol == IPPROTO_TCP;
}

int clinux_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }

int clinux_epoll_add(int epoll, int fd, uint64_t key) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET, .data.u64 = key};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

int clinux_epoll_remove(int epoll, int fd) { return epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL); }

int clinux_epoll_wait(int epoll, struct clinux_event *events, int capacity, int milliseconds) {
    struct epoll_event raised[64];
    if (capacity > 64) capacity = 64;
    int count = epoll_wait(epoll, raised, capacity, milliseconds);
    if (count < 0) return errno == EINTR ? 0 : -1;
    for (int i = 0; i < count; i++) {
        const uint32_t bits = raised[i].events;
        events[i].key = raised[i].data.u64;
        events[i].events = (bits & EPOLLIN ? CLINUX_READABLE : 0) | (bits & EPOLLOUT ? CLINUX_WRITABLE : 0)
            | (bits & EPOLLPRI ? CLINUX_URGENT : 0) | (bits & (EPOLLRDHUP | EPOLLHUP) ? CLINUX_ENDED : 0)
            | (bits & EPOLLERR ? CLINUX_FAILED : 0);
    }
    return count;
}

int clinux_wakeup_create(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }

void clinux_wake(int wakeup) {
    const uint64_t one = 1;
    ssize_t ignored = write(wakeup, &one, sizeof one);
    (void)ignored;
}

void clinux_woken(int wakeup) {
    uint64_t count;
    ssize_t ignored = read(wakeup, &count, sizeof count);
    (void)ignored;
}
