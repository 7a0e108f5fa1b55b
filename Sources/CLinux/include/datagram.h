// Datagrams of UDP that the kernel cuts (UDP_SEGMENT, Linux 4.18), and sockets for them.
#ifndef CLINUX_DATAGRAM_H
#define CLINUX_DATAGRAM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/// A UDP socket of a family (AF_INET, AF_INET6 without IPv4) on a port of all addresses, 0 for any. What it sends is not cut on the way,
/// whatever the kernel has heard of it. The buffers have these sizes if the kernel grants them. Returns the descriptor, or -1 with errno.
int clinux_datagram_socket(int family, uint16_t port, int send_buffer, int receive_buffer);

/// Sends bytes to an address without waiting, as datagrams of `segment` bytes, of which the last may be shorter. Returns 0, or errno.
int clinux_send_datagrams(
    int fd, const void *bytes, size_t length, uint16_t segment, const struct sockaddr *address, socklen_t address_length);

#endif
