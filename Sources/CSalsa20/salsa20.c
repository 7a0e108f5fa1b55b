#include "CSalsa20.h"

static uint32_t load32(const uint8_t *bytes) {
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static void store32(uint8_t *bytes, uint32_t value) {
    for (int i = 0; i < 4; i++) bytes[i] = (uint8_t)(value >> (8 * i));
}

#define ROTATE(value, bits) (((value) << (bits)) | ((value) >> (32 - (bits))))
#define QUARTER(a, b, c, d)          \
    do {                             \
        b ^= ROTATE(a + d, 7);       \
        c ^= ROTATE(b + a, 9);       \
        d ^= ROTATE(c + b, 13);      \
        a ^= ROTATE(d + c, 18);      \
    } while (0)

void csalsa20_hsalsa20(uint8_t subkey[32], const uint8_t key[32], const uint8_t nonce[16]) {
    uint32_t x[16] = {
        0x61707865, load32(key), load32(key + 4), load32(key + 8),
        load32(key + 12), 0x3320646e, load32(nonce), load32(nonce + 4),
        load32(nonce + 8), load32(nonce + 12), 0x79622d32, load32(key + 16),
        load32(key + 20), load32(key + 24), load32(key + 28), 0x6b206574,
    };
    for (int round = 0; round < 20; round += 2) {
        QUARTER(x[0], x[4], x[8], x[12]);
        QUARTER(x[5], x[9], x[13], x[1]);
        QUARTER(x[10], x[14], x[2], x[6]);
        QUARTER(x[15], x[3], x[7], x[11]);
        QUARTER(x[0], x[1], x[2], x[3]);
        QUARTER(x[5], x[6], x[7], x[4]);
        QUARTER(x[10], x[11], x[8], x[9]);
        QUARTER(x[15], x[12], x[13], x[14]);
    }
    static const int words[8] = {0, 5, 10, 15, 6, 7, 8, 9};
    for (int i = 0; i < 8; i++) store32(subkey + 4 * i, x[words[i]]);
}
