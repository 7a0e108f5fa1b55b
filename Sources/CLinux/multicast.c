#define _GNU_SOURCE
#include "multicast.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// Linux 4.20; older C libraries have no name for it.
#ifndef IPV6_MULTICAST_ALL
#define IPV6_MULTICAST_ALL 29
#endif

static int set(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value);
}

static int prepare_v4(int fd, const uint8_t *group, uint16_t port, unsigned int interface_index) {
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    memcpy(&address.sin_addr, group, sizeof address.sin_addr);
    struct ip_mreqn membership = { .imr_multiaddr = address.sin_addr, .imr_ifindex = (int)interface_index };
    // Without IP_MULTICAST_ALL = 0 a socket hears every group that any socket of the machine has joined.
    if (set(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0) || set(fd, IPPROTO_IP, IP_MULTICAST_TTL, 255)
        || set(fd, IPPROTO_IP, IP_TTL, 255)
        || setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &membership, sizeof membership)
        || setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &membership, sizeof membership))
        return -1;
    return bind(fd, (struct sockaddr *)&address, sizeof address);
}

static int prepare_v6(int fd, const uint8_t *group, uint16_t port, unsigned int interface_index) {
    struct sockaddr_in6 address = {
        .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_scope_id = interface_index
    };
    memcpy(&address.sin6_addr, group, sizeof address.sin6_addr);
    struct ipv6_mreq membership = { .ipv6mr_multiaddr = address.sin6_addr, .ipv6mr_interface = interface_index };
    // A kernel without IPV6_MULTICAST_ALL hears more, which is harmless: the address binds the socket to the interface.
    (void)set(fd, IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0);
    if (set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) || set(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 255)
        || set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 255)
        || set(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, (int)interface_index)
        || setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &membership, sizeof membership))
        return -1;
    return bind(fd, (struct sockaddr *)&address, sizeof address);
}

int clinux_multicast_socket(const uint8_t *group, int group_length, uint16_t port, unsigned int interface_index) {
    int is_v4 = group_length == 4;
    int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    int failed = set(fd, SOL_SOCKET, SO_REUSEADDR, 1) || set(fd, SOL_SOCKET, SO_REUSEPORT, 1)
        || (is_v4 ? prepare_v4 : prepare_v6)(fd, group, port, interface_index);
    if (failed) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}
