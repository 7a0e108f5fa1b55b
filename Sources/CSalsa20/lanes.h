// LANES blocks at once: vector i holds word i of every block. Included once for each width and instruction set; defines the
// function NAME, compiled for TARGET, over whole groups of 8 blocks; with 16 lanes over an even number of groups.

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define VECTOR JOIN(NAME, _t)
#define SHUFFLE __builtin_shufflevector
// The same choice in every quarter of 16 lanes, and a quarter as it is.
#define QUARTERS(a, b, c, d) a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12
#define WHOLE(first) first, first + 1, first + 2, first + 3

typedef uint32_t VECTOR __attribute__((vector_size(LANES * 4)));

TARGET static void NAME(uint32_t state[16], uint8_t *output, const uint8_t *input, size_t groups) {
    for (size_t step = 0; step < groups * BLOCKS_PER_GROUP / LANES; step++) {
        VECTOR start[16], x[16];
        for (int i = 0; i < 16; i++) start[i] = state[i] - (VECTOR){0};
#if LANES == 16
        start[8] += (VECTOR){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif LANES == 8
        start[8] += (VECTOR){0, 1, 2, 3, 4, 5, 6, 7};
#else
        start[8] += (VECTOR){0, 1, 2, 3};
#endif
        // A comparison that holds is -1 in its lane: the carry into the upper half of the block's number.
        start[9] -= (VECTOR)(start[8] < state[8]);
        for (int i = 0; i < 16; i++) x[i] = start[i];
        TWENTY_ROUNDS(x)
        for (int i = 0; i < 16; i++) x[i] += start[i];

        // From a word of every block to four words of a block: quarter q of x[4g + j] then holds words 4g to 4g + 3 of block
        // 4q + j, for as many quarters of 16 bytes as a vector has.
        for (int g = 0; g < 16; g += 4) {
#if LANES == 16
            VECTOR low01 = SHUFFLE(x[g], x[g + 1], QUARTERS(0, 16, 1, 17));
            VECTOR high01 = SHUFFLE(x[g], x[g + 1], QUARTERS(2, 18, 3, 19));
            VECTOR low23 = SHUFFLE(x[g + 2], x[g + 3], QUARTERS(0, 16, 1, 17));
            VECTOR high23 = SHUFFLE(x[g + 2], x[g + 3], QUARTERS(2, 18, 3, 19));
            x[g] = SHUFFLE(low01, low23, QUARTERS(0, 1, 16, 17));
            x[g + 1] = SHUFFLE(low01, low23, QUARTERS(2, 3, 18, 19));
            x[g + 2] = SHUFFLE(high01, high23, QUARTERS(0, 1, 16, 17));
            x[g + 3] = SHUFFLE(high01, high23, QUARTERS(2, 3, 18, 19));
#elif LANES == 8
            VECTOR low01 = SHUFFLE(x[g], x[g + 1], 0, 8, 1, 9, 4, 12, 5, 13);
            VECTOR high01 = SHUFFLE(x[g], x[g + 1], 2, 10, 3, 11, 6, 14, 7, 15);
            VECTOR low23 = SHUFFLE(x[g + 2], x[g + 3], 0, 8, 1, 9, 4, 12, 5, 13);
            VECTOR high23 = SHUFFLE(x[g + 2], x[g + 3], 2, 10, 3, 11, 6, 14, 7, 15);
            x[g] = SHUFFLE(low01, low23, 0, 1, 8, 9, 4, 5, 12, 13);
            x[g + 1] = SHUFFLE(low01, low23, 2, 3, 10, 11, 6, 7, 14, 15);
            x[g + 2] = SHUFFLE(high01, high23, 0, 1, 8, 9, 4, 5, 12, 13);
            x[g + 3] = SHUFFLE(high01, high23, 2, 3, 10, 11, 6, 7, 14, 15);
#else
            VECTOR low01 = SHUFFLE(x[g], x[g + 1], 0, 4, 1, 5);
            VECTOR high01 = SHUFFLE(x[g], x[g + 1], 2, 6, 3, 7);
            VECTOR low23 = SHUFFLE(x[g + 2], x[g + 3], 0, 4, 1, 5);
            VECTOR high23 = SHUFFLE(x[g + 2], x[g + 3], 2, 6, 3, 7);
            x[g] = SHUFFLE(low01, low23, 0, 1, 4, 5);
            x[g + 1] = SHUFFLE(low01, low23, 2, 3, 6, 7);
            x[g + 2] = SHUFFLE(high01, high23, 0, 1, 4, 5);
            x[g + 3] = SHUFFLE(high01, high23, 2, 3, 6, 7);
#endif
        }
        for (int j = 0; j < 4; j++) {
#if LANES == 16
            VECTOR even01 = SHUFFLE(x[j], x[4 + j], WHOLE(0), WHOLE(8), WHOLE(16), WHOLE(24));
            VECTOR odd01 = SHUFFLE(x[j], x[4 + j], WHOLE(4), WHOLE(12), WHOLE(20), WHOLE(28));
            VECTOR even23 = SHUFFLE(x[8 + j], x[12 + j], WHOLE(0), WHOLE(8), WHOLE(16), WHOLE(24));
            VECTOR odd23 = SHUFFLE(x[8 + j], x[12 + j], WHOLE(4), WHOLE(12), WHOLE(20), WHOLE(28));
            VECTOR rows[4] = {
                SHUFFLE(even01, even23, WHOLE(0), WHOLE(8), WHOLE(16), WHOLE(24)),
                SHUFFLE(odd01, odd23, WHOLE(0), WHOLE(8), WHOLE(16), WHOLE(24)),
                SHUFFLE(even01, even23, WHOLE(4), WHOLE(12), WHOLE(20), WHOLE(28)),
                SHUFFLE(odd01, odd23, WHOLE(4), WHOLE(12), WHOLE(20), WHOLE(28)),
            };
            static const int offsets[4] = {0, 256, 512, 768};
#elif LANES == 8
            VECTOR rows[4] = {
                SHUFFLE(x[j], x[4 + j], 0, 1, 2, 3, 8, 9, 10, 11),
                SHUFFLE(x[8 + j], x[12 + j], 0, 1, 2, 3, 8, 9, 10, 11),
                SHUFFLE(x[j], x[4 + j], 4, 5, 6, 7, 12, 13, 14, 15),
                SHUFFLE(x[8 + j], x[12 + j], 4, 5, 6, 7, 12, 13, 14, 15),
            };
            static const int offsets[4] = {0, 32, 256, 288};
#else
            VECTOR rows[4] = {x[j], x[4 + j], x[8 + j], x[12 + j]};
            static const int offsets[4] = {0, 16, 32, 48};
#endif
            for (int row = 0; row < 4; row++) {
                int offset = BLOCK * j + offsets[row];
                VECTOR bytes;
                memcpy(&bytes, input + offset, sizeof bytes);
                bytes ^= rows[row];
                memcpy(output + offset, &bytes, sizeof bytes);
            }
        }
        advance(state, LANES);
        output += LANES * BLOCK;
        input += LANES * BLOCK;
    }
}

#undef JOIN_
#undef JOIN
#undef VECTOR
#undef SHUFFLE
#undef QUARTERS
#undef WHOLE
