#define _GNU_SOURCE
#include "datagram.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

// Linux 4.18; older C libraries have no names for them.
#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

static int set(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value);
}

static int prepare_v4(int fd, uint16_t port) {
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    if (set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)) return -1;
    return bind(fd, (struct sockaddr *)&address, sizeof address);
}

static int prepare_v6(int fd, uint16_t port) {
    struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
    if (set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) || set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE)) return -1;
    return bind(fd, (struct sockaddr *)&address, sizeof address);
}

int clinux_datagram_socket(int family, uint16_t port, int send_buffer, int receive_buffer) {
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    // Without the right to more, the kernel's own bound holds.
    if (set(fd, SOL_SOCKET, SO_SNDBUFFORCE, send_buffer)) (void)set(fd, SOL_SOCKET, SO_SNDBUF, send_buffer);
    if (set(fd, SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)) (void)set(fd, SOL_SOCKET, SO_RCVBUF, receive_buffer);
    if ((family == AF_INET ? prepare_v4 : prepare_v6)(fd, port)) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

int clinux_send_datagrams(
    int fd, const void *bytes, size_t length, uint16_t segment, const struct sockaddr *address, socklen_t address_length) {
    struct iovec vector = { .iov_base = (void *)bytes, .iov_len = length };
    struct msghdr message = {
        .msg_name = (void *)address, .msg_namelen = address_length, .msg_iov = &vector, .msg_iovlen = 1
    };
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(uint16_t))];
    } control;
    if (length > segment) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = sizeof control.space;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_UDP;
        header->cmsg_type = UDP_SEGMENT;
        header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        memcpy(CMSG_DATA(header), &segment, sizeof segment);
    }
    ssize_t sent;
    do sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? errno : 0;
}
