#define _GNU_SOURCE
#include "CLinux.h"

#include <link.h>
#include <malloc.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

int clinux_setns(int fd, int nstype) { return setns(fd, nstype); }
int clinux_unshare(int flags) { return unshare(flags); }
const int clinux_clone_newnet = CLONE_NEWNET;
const int clinux_clone_newns = CLONE_NEWNS;
const int clinux_clone_newuser = CLONE_NEWUSER;
const int clinux_clone_newpid = CLONE_NEWPID;

void clinux_tune_malloc(void) {
    mallopt(M_ARENA_MAX, 2);
    // Above two of the largest receive buffers: allocating those costs no system call and no page fault.
    mallopt(M_TRIM_THRESHOLD, 1024 * 1024);
    mallopt(M_MMAP_THRESHOLD, 512 * 1024);
}

static int release_read_only_segments(struct dl_phdr_info *info, size_t size, void *context) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        // A page of a writable segment may differ from the file: it would be lost.
        if (segment->p_type != PT_LOAD || (segment->p_flags & PF_W)) continue;
        const uintptr_t start = (info->dlpi_addr + segment->p_vaddr) & ~(page - 1);
        const uintptr_t end = info->dlpi_addr + segment->p_vaddr + segment->p_memsz;
        madvise((void *)start, end - start, MADV_DONTNEED);
    }
    // The program itself comes first; the others are the kernel's.
    return 1;
}

void clinux_release_memory(void) {
    malloc_trim(0);
    dl_iterate_phdr(release_read_only_segments, NULL);
}

size_t clinux_allocated_bytes(void) {
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}
