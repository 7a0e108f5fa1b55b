#define _GNU_SOURCE
#include "CLinux.h"

#include <malloc.h>
#include <sched.h>

int clinux_setns(int fd, int nstype) { return setns(fd, nstype); }
int clinux_unshare(int flags) { return unshare(flags); }
const int clinux_clone_newnet = CLONE_NEWNET;
const int clinux_clone_newns = CLONE_NEWNS;
const int clinux_clone_newuser = CLONE_NEWUSER;
const int clinux_clone_newpid = CLONE_NEWPID;

void clinux_tune_malloc(void) {
    mallopt(M_ARENA_MAX, 2);
    mallopt(M_TRIM_THRESHOLD, 256 * 1024);
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
}

void clinux_trim_malloc(void) { malloc_trim(0); }
