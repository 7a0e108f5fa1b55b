#ifndef CSALSA20_H
#define CSALSA20_H

#include <stddef.h>
#include <stdint.h>

// HSalsa20: the subkey of XSalsa20 from a 32-byte key and the first 16 bytes of the nonce (Bernstein, "Extending the
// Salsa20 nonce", 2011).
void csalsa20_hsalsa20(uint8_t subkey[32], const uint8_t key[32], const uint8_t nonce[16]);

#endif
