// What carries bytes from socket to socket without copying them: pipes, splice(2), epoll(7) and eventfd(2).
#ifndef CLINUX_SPLICE_H
#define CLINUX_SPLICE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// A pipe that does not block and is closed by exec, with room for `bytes` if the kernel grants it. -1 with errno.
int clinux_splice_pipe(int ends[2], int bytes);
/// splice(2) without blocking. Never SPLICE_F_MORE: the last bytes of a message would wait for more.
ssize_t clinux_splice(int from, int to, size_t length);
/// Nonzero for a TCP socket.
int clinux_is_tcp(int fd);

struct clinux_event {
    uint64_t key;
    uint32_t events;
};

enum {
    CLINUX_READABLE = 1,
    CLINUX_WRITABLE = 2,
    CLINUX_URGENT = 4,
    /// The peer sends no more.
    CLINUX_ENDED = 8,
    CLINUX_FAILED = 16,
};

int clinux_epoll_create(void);
/// Edge-triggered, for everything that the events above tell.
int clinux_epoll_add(int epoll, int fd, uint64_t key);
int clinux_epoll_remove(int epoll, int fd);
/// The number of events, 0 after `milliseconds` (-1: never) or a signal, -1 with errno.
int clinux_epoll_wait(int epoll, struct clinux_event *events, int capacity, int milliseconds);

/// A descriptor that `clinux_wake` makes readable until `clinux_woken`.
int clinux_wakeup_create(void);
void clinux_wake(int wakeup);
void clinux_woken(int wakeup);

#endif
