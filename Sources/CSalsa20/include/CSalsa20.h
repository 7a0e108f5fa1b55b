#ifndef CSALSA20_H
#define CSALSA20_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Salsa20 and XSalsa20 (Bernstein, "The Salsa20 family of stream ciphers", 2007; "Extending the Salsa20 nonce", 2011).

// How the keystream is computed. All ways give the same bytes.
typedef enum {
    csalsa20_scalar = 0,
    csalsa20_vector128 = 1,  // 4 blocks at once: SSE2 or NEON, part of every x86-64 and arm64
    csalsa20_avx2 = 2,       // 8 blocks at once
    csalsa20_avx512 = 3,     // 16 blocks at once; rotations are instructions and nothing spills
} csalsa20_path;

// The keystream is made in groups of 8 blocks of 64 bytes; what is left of a group serves the next call.
#define CSALSA20_GROUP 512

// A position in a keystream. Plain data: a copy of it is an independent stream at the same position.
typedef struct {
    uint32_t state[16];
    uint32_t used;  // bytes of `keystream` that are used up
    uint32_t path;  // a csalsa20_path
    uint8_t keystream[CSALSA20_GROUP];
} csalsa20_stream;

// The fastest way that this processor has.
csalsa20_path csalsa20_best_path(void);
bool csalsa20_path_supported(csalsa20_path path);

// The subkey of XSalsa20: from a 32-byte key and the first 16 bytes of the nonce.
void csalsa20_hsalsa20(uint8_t subkey[32], const uint8_t key[32], const uint8_t nonce[16]);

// Begins a Salsa20/20 keystream at its first byte.
void csalsa20_init(csalsa20_stream *stream, const uint8_t key[32], const uint8_t nonce[8]);

// Begins an XSalsa20 keystream at its first byte.
void csalsa20_xsalsa20_init(csalsa20_stream *stream, const uint8_t key[32], const uint8_t nonce[24]);

// Writes `count` bytes of input XOR keystream to `output`, which is `input` itself or does not overlap it, and moves the
// stream on. How the bytes are divided among calls makes no difference.
void csalsa20_xor(csalsa20_stream *stream, uint8_t *output, const uint8_t *input, size_t count);

#endif
