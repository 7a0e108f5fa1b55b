// Ethernet frames in batches (packet(7), recvmmsg(2), sendmmsg(2)), for the links of labs.
#ifndef CLINUX_PACKET_H
#define CLINUX_PACKET_H

#include <stddef.h>
#include <stdint.h>

/// The most frames that one call takes or gives.
#define CLINUX_PACKET_BATCH 64

/// A socket that takes every frame which arrives at the interface, and puts frames on its cable past all queues. Never blocks.
/// -1 with errno on error.
int clinux_packet_socket(const char *interface);

/// Reads up to `count` frames into slots of `slot` bytes each, which lie one after the other, and tells their lengths. A frame
/// that does not fit has length 0. Returns how many came, 0 if none is there, -1 with errno on error.
int clinux_packet_receive(int fd, uint8_t *slots, size_t slot, uint16_t *lengths, unsigned count);

/// Sends the frames of `count` slots in order, those with length 0 left out. Returns how many slots are done with, which may be
/// fewer; -1 with errno if it failed with the first.
int clinux_packet_send(int fd, uint8_t *slots, size_t slot, const uint16_t *lengths, unsigned count);

/// Waits until one of up to 8 descriptors can be read, or for `nanoseconds` (negative: for ever). Returns a bit for each that can.
unsigned clinux_packet_wait(const int *fds, unsigned count, int64_t nanoseconds);

/// Whether the interface may leave checksums and the cutting of large segments to its hardware, which a cable (veth) has not.
/// Switched off, frames have the form that a wire would carry. -1 with errno on error.
int clinux_interface_set_offloads(const char *interface, int on);

#endif
