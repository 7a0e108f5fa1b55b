// TUN devices (Documentation/networking/tuntap.rst), whose ioctl numbers and flags are macros.
#ifndef CLINUX_TUN_H
#define CLINUX_TUN_H

#include <stddef.h>
#include <stdint.h>

/// Opens one queue of the layer-3 device `name`, which is made if there is none and goes with its last queue. Each packet has a
/// `struct virtio_net_hdr` of ten bytes before it. Never blocks. -1 with errno on error.
int clinux_tun_open(const char *name);

/// Lets the kernel hand over large packets and leave checksums undone. Returns a bit 0 for TCP and a bit 1 for UDP (Linux 6.2).
int clinux_tun_set_offloads(int fd);

/// Writes a header and a packet as one. Returns 0, or -1 with errno on error.
int clinux_tun_write(int fd, const void *header, size_t header_length, const void *packet, size_t length);

#endif
