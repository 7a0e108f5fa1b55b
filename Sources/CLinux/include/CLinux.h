// What Swift cannot see of glibc and of the kernel's headers: function-like macros, GNU extensions, ioctl numbers.
// No logic lives here.
#ifndef CLINUX_H
#define CLINUX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "datagram.h"
#include "lab.h"
#include "multicast.h"
#include "packet.h"
#include "splice.h"
#include "tun.h"

/// setns(2), unshare(2), mount(2) flags by their names.
int clinux_setns(int fd, int nstype);
int clinux_unshare(int flags);
extern const int clinux_clone_newnet;
extern const int clinux_clone_newns;
extern const int clinux_clone_newuser;
extern const int clinux_clone_newpid;

/// Bounds the number of malloc arenas and returns freed memory early: an agent is idle most of the time.
void clinux_tune_malloc(void);
/// Gives back to the kernel what was needed once: freed memory, and the pages of code and constants that are mapped from
/// the program's file. Those that are used again come back from the page cache at the first touch.
void clinux_release_memory(void);
/// Bytes that were asked of malloc and not given back.
size_t clinux_allocated_bytes(void);

#endif
