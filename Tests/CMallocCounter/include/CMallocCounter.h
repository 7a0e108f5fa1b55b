#ifndef CMALLOCCOUNTER_H
#define CMALLOCCOUNTER_H

#include <stdbool.h>
#include <stdint.h>

// Counts what a thread allocates, for tests that hold the library to a number. A program that this is linked into has these
// allocation functions instead of glibc's, which they call.

typedef struct {
    uint64_t allocations;  // calls that gave memory, realloc too
    int64_t live_bytes;    // given less freed, in bytes that malloc has set aside
} cmalloc_counts;

// Of the calling thread, since it began.
cmalloc_counts cmalloc_counter_read(void);

// False under a sanitizer, which has allocation functions of its own.
bool cmalloc_counter_works(void);

#endif
