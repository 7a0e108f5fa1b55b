// Sockets for multicast on one interface.
#ifndef CLINUX_MULTICAST_H
#define CLINUX_MULTICAST_H

#include <stdint.h>

/// A UDP socket bound to a multicast group (4 or 16 bytes in network order) and port, shared with others, that hears the group
/// on one interface and sends there with a hop limit of 255. Returns the descriptor, or -1 with errno.
int clinux_multicast_socket(const uint8_t *group, int group_length, uint16_t port, unsigned int interface_index);

#endif
