#include "CSalsa20.h"

#include <string.h>

#define BLOCK 64
#define BLOCKS_PER_GROUP (CSALSA20_GROUP / BLOCK)

static uint32_t load32(const uint8_t *bytes) {
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static void store32(uint8_t *bytes, uint32_t value) {
    for (int i = 0; i < 4; i++) bytes[i] = (uint8_t)(value >> (8 * i));
}

// The rounds work on words and on vectors of words alike.
#define ROTATE(value, bits) (((value) << (bits)) | ((value) >> (32 - (bits))))
#define QUARTER(a, b, c, d)          \
    do {                             \
        b ^= ROTATE(a + d, 7);       \
        c ^= ROTATE(b + a, 9);       \
        d ^= ROTATE(c + b, 13);      \
        a ^= ROTATE(d + c, 18);      \
    } while (0)
#define TWENTY_ROUNDS(x)                            \
    for (int round = 0; round < 20; round += 2) {   \
        QUARTER(x[0], x[4], x[8], x[12]);           \
        QUARTER(x[5], x[9], x[13], x[1]);           \
        QUARTER(x[10], x[14], x[2], x[6]);          \
        QUARTER(x[15], x[3], x[7], x[11]);          \
        QUARTER(x[0], x[1], x[2], x[3]);            \
        QUARTER(x[5], x[6], x[7], x[4]);            \
        QUARTER(x[10], x[11], x[8], x[9]);          \
        QUARTER(x[15], x[12], x[13], x[14]);        \
    }

static void set_state(uint32_t state[16], const uint8_t key[32], const uint8_t input[16]) {
    static const uint32_t constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    for (int i = 0; i < 4; i++) {
        state[5 * i] = constants[i];
        state[1 + i] = load32(key + 4 * i);
        state[6 + i] = load32(input + 4 * i);
        state[11 + i] = load32(key + 16 + 4 * i);
    }
}

void csalsa20_hsalsa20(uint8_t subkey[32], const uint8_t key[32], const uint8_t nonce[16]) {
    uint32_t x[16];
    set_state(x, key, nonce);
    TWENTY_ROUNDS(x)
    static const int words[8] = {0, 5, 10, 15, 6, 7, 8, 9};
    for (int i = 0; i < 8; i++) store32(subkey + 4 * i, x[words[i]]);
}

static void xor_bytes(uint8_t *output, const uint8_t *input, const uint8_t *keystream, size_t count) {
    for (size_t i = 0; i < count; i++) output[i] = input[i] ^ keystream[i];
}

// Words 8 and 9 of the state are the number of the next block.
static void advance(uint32_t state[16], uint32_t blocks) {
    uint32_t low = state[8] + blocks;
    state[9] += low < blocks;
    state[8] = low;
}

static void xor_groups_scalar(uint32_t state[16], uint8_t *output, const uint8_t *input, size_t groups) {
    for (size_t block = 0; block < groups * BLOCKS_PER_GROUP; block++) {
        uint32_t x[16];
        uint8_t keystream[BLOCK];
        memcpy(x, state, sizeof x);
        TWENTY_ROUNDS(x)
        for (int i = 0; i < 16; i++) store32(keystream + 4 * i, x[i] + state[i]);
        xor_bytes(output, input, keystream, BLOCK);
        advance(state, 1);
        output += BLOCK;
        input += BLOCK;
    }
}

// The vectors are written as bytes, first word first.
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && (defined(__x86_64__) || defined(__aarch64__))
#define HAS_VECTORS 1
#define LANES 4
#define NAME xor_groups_vector128
#define TARGET
#include "lanes.h"
#undef LANES
#undef NAME
#undef TARGET
#endif

#if defined(__x86_64__)
#define LANES 8
#define NAME xor_groups_avx2
#define TARGET __attribute__((target("avx2")))
#include "lanes.h"
#undef NAME
#undef TARGET
#define NAME xor_groups_avx512vl
#define TARGET __attribute__((target("avx2,avx512f,avx512vl")))
#include "lanes.h"
#undef LANES
#undef NAME
#define LANES 16
#define NAME xor_pairs_avx512
#include "lanes.h"

static void xor_groups_avx512(uint32_t state[16], uint8_t *output, const uint8_t *input, size_t groups) {
    size_t even = groups & ~(size_t)1;
    xor_pairs_avx512(state, output, input, even);
    if (even < groups) xor_groups_avx512vl(state, output + even * CSALSA20_GROUP, input + even * CSALSA20_GROUP, 1);
}
#endif

bool csalsa20_path_supported(csalsa20_path path) {
    switch (path) {
        case csalsa20_scalar: return true;
#if HAS_VECTORS
        case csalsa20_vector128: return true;
#endif
#if defined(__x86_64__)
        case csalsa20_avx2: return __builtin_cpu_supports("avx2");
        case csalsa20_avx512: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avx512vl");
#endif
        default: return false;
    }
}

csalsa20_path csalsa20_best_path(void) {
    csalsa20_path path = csalsa20_avx512;
    while (!csalsa20_path_supported(path)) path--;
    return path;
}

static void xor_groups(csalsa20_stream *stream, uint8_t *output, const uint8_t *input, size_t groups) {
    switch (stream->path) {
#if HAS_VECTORS
        case csalsa20_vector128: return xor_groups_vector128(stream->state, output, input, groups);
#endif
#if defined(__x86_64__)
        case csalsa20_avx2: return xor_groups_avx2(stream->state, output, input, groups);
        case csalsa20_avx512: return xor_groups_avx512(stream->state, output, input, groups);
#endif
        default: return xor_groups_scalar(stream->state, output, input, groups);
    }
}

void csalsa20_init(csalsa20_stream *stream, const uint8_t key[32], const uint8_t nonce[8]) {
    uint8_t input[16] = {0};
    memcpy(input, nonce, 8);
    set_state(stream->state, key, input);
    stream->used = CSALSA20_GROUP;
    stream->path = csalsa20_best_path();
}

void csalsa20_xsalsa20_init(csalsa20_stream *stream, const uint8_t key[32], const uint8_t nonce[24]) {
    uint8_t subkey[32];
    csalsa20_hsalsa20(subkey, key, nonce);
    csalsa20_init(stream, subkey, nonce + 16);
}

void csalsa20_xor(csalsa20_stream *stream, uint8_t *output, const uint8_t *input, size_t count) {
    size_t left = CSALSA20_GROUP - stream->used;
    size_t first = count < left ? count : left;
    xor_bytes(output, input, stream->keystream + stream->used, first);
    stream->used += (uint32_t)first;
    output += first;
    input += first;
    count -= first;
    if (count == 0) return;

    size_t groups = count / CSALSA20_GROUP;
    size_t rest = count % CSALSA20_GROUP;
    xor_groups(stream, output, input, groups);
    if (rest == 0) return;
    memset(stream->keystream, 0, CSALSA20_GROUP);
    xor_groups(stream, stream->keystream, stream->keystream, 1);
    xor_bytes(output + groups * CSALSA20_GROUP, input + groups * CSALSA20_GROUP, stream->keystream, rest);
    stream->used = (uint32_t)rest;
}
