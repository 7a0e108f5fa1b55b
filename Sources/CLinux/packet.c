#define _GNU_SOURCE
#include "packet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// Linux 4.20.
#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

static int close_with_error(int fd) {
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

int clinux_packet_socket(const char *interface) {
    // Protocol 0: nothing arrives before it is bound.
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    int one = 1, buffer = 16 << 20;
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(interface)
    };
    // A smaller buffer is a smaller link, no reason to have none.
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    if (!address.sll_ifindex || setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) < 0
        || setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) < 0
        || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return close_with_error(fd);
    return fd;
}

int clinux_packet_receive(int fd, uint8_t *slots, size_t slot, uint16_t *lengths, unsigned count) {
    struct mmsghdr messages[CLINUX_PACKET_BATCH];
    struct iovec parts[CLINUX_PACKET_BATCH];
    if (count > CLINUX_PACKET_BATCH) count = CLINUX_PACKET_BATCH;
    memset(messages, 0, count * sizeof messages[0]);
    for (unsigned i = 0; i < count; i++) {
        parts[i] = (struct iovec){slots + i * slot, slot};
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    int received = recvmmsg(fd, messages, count, MSG_DONTWAIT, NULL);
    if (received < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
    for (int i = 0; i < received; i++)
        lengths[i] = messages[i].msg_hdr.msg_flags & MSG_TRUNC ? 0 : (uint16_t)messages[i].msg_len;
    return received;
}

int clinux_packet_send(int fd, uint8_t *slots, size_t slot, const uint16_t *lengths, unsigned count) {
    struct mmsghdr messages[CLINUX_PACKET_BATCH];
    struct iovec parts[CLINUX_PACKET_BATCH];
    unsigned slot_of[CLINUX_PACKET_BATCH];
    if (count > CLINUX_PACKET_BATCH) count = CLINUX_PACKET_BATCH;
    memset(messages, 0, count * sizeof messages[0]);
    unsigned used = 0;
    for (unsigned i = 0; i < count; i++) {
        if (lengths[i] == 0) continue;
        parts[used] = (struct iovec){slots + i * slot, lengths[i]};
        messages[used].msg_hdr.msg_iov = &parts[used];
        messages[used].msg_hdr.msg_iovlen = 1;
        slot_of[used++] = i;
    }
    if (used == 0) return (int)count;
    int sent = sendmmsg(fd, messages, used, MSG_DONTWAIT);
    if (sent < 0 && slot_of[0] > 0) return (int)slot_of[0];
    if (sent < 0) return -1;
    return (unsigned)sent == used ? (int)count : (int)slot_of[sent];
}

unsigned clinux_packet_wait(const int *fds, unsigned count, int64_t nanoseconds) {
    struct pollfd polled[8];
    if (count > 8) count = 8;
    for (unsigned i = 0; i < count; i++) polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    struct timespec time = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    unsigned ready = 0;
    if (ppoll(polled, count, nanoseconds < 0 ? NULL : &time, NULL) <= 0) return 0;
    for (unsigned i = 0; i < count; i++)
        if (polled[i].revents) ready |= 1u << i;
    return ready;
}

int clinux_interface_set_offloads(const char *interface, int on) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    // Off: what depends on another goes first.
    const uint32_t features[] = {ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SSG, ETHTOOL_STXCSUM};
    for (unsigned i = 0; i < 4; i++) {
        struct ethtool_value value = {features[on ? 3 - i : i], on ? 1 : 0};
        struct ifreq request = {0};
        strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
        request.ifr_data = (char *)&value;
        if (ioctl(fd, SIOCETHTOOL, &request) < 0) return close_with_error(fd);
    }
    close(fd);
    return 0;
}
