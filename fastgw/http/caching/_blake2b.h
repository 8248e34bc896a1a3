/* BLAKE2b (RFC 7693): `hashlib.blake2b(text, digest_size=16, person=…).digest()`. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static const uint64_t fastgw_blake2b_iv[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

static inline uint64_t fastgw_blake2b_word(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static inline uint64_t fastgw_blake2b_turn(uint64_t word, int bits)
{
    return word >> bits | word << (64 - bits);
}

#define FASTGW_MIX(a, b, c, d, x, y) \
    v[a] += v[b] + m[x]; v[d] = fastgw_blake2b_turn(v[d] ^ v[a], 32); \
    v[c] += v[d];        v[b] = fastgw_blake2b_turn(v[b] ^ v[c], 24); \
    v[a] += v[b] + m[y]; v[d] = fastgw_blake2b_turn(v[d] ^ v[a], 16); \
    v[c] += v[d];        v[b] = fastgw_blake2b_turn(v[b] ^ v[c], 63);

/* One round, with the words of the message in this order. */
#define FASTGW_ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15) \
    FASTGW_MIX(0, 4, 8, 12, s0, s1) FASTGW_MIX(1, 5, 9, 13, s2, s3) \
    FASTGW_MIX(2, 6, 10, 14, s4, s5) FASTGW_MIX(3, 7, 11, 15, s6, s7) \
    FASTGW_MIX(0, 5, 10, 15, s8, s9) FASTGW_MIX(1, 6, 11, 12, s10, s11) \
    FASTGW_MIX(2, 7, 8, 13, s12, s13) FASTGW_MIX(3, 4, 9, 14, s14, s15)

/* Take a block of 128 bytes. `count`: number of bytes up to its end; `last`: whether it is the last one. */
static void fastgw_blake2b_block(uint64_t *h, const uint8_t *block, uint64_t count, int last)
{
    uint64_t v[16], m[16];
    int place;
    for (place = 0; place < 16; place++)
        m[place] = fastgw_blake2b_word(block + 8 * place);
    for (place = 0; place < 8; place++) {
        v[place] = h[place];
        v[place + 8] = fastgw_blake2b_iv[place];
    }
    v[12] ^= count;
    if (last)
        v[14] = ~v[14];
    FASTGW_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    FASTGW_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)
    FASTGW_ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4)
    FASTGW_ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8)
    FASTGW_ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13)
    FASTGW_ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9)
    FASTGW_ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11)
    FASTGW_ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10)
    FASTGW_ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5)
    FASTGW_ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0)
    FASTGW_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    FASTGW_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)
    for (place = 0; place < 8; place++)
        h[place] ^= v[place] ^ v[place + 8];
}

/* Write the digest of a text, 16 bytes. `person`: 16 bytes. */
static void fastgw_blake2b_16(uint8_t *digest, const uint8_t *text, size_t length, const uint8_t *person)
{
    uint64_t h[8];
    uint8_t block[128];
    size_t at = 0;
    int place;
    memcpy(h, fastgw_blake2b_iv, sizeof h);
    h[0] ^= 0x01010000 ^ 16;
    h[6] ^= fastgw_blake2b_word(person);
    h[7] ^= fastgw_blake2b_word(person + 8);
    for (; length - at > 128; at += 128)
        fastgw_blake2b_block(h, text + at, at + 128, 0);
    memset(block, 0, sizeof block);
    memcpy(block, text + at, length - at);
    fastgw_blake2b_block(h, block, length, 1);
    for (place = 0; place < 2; place++) {
        uint64_t word = fastgw_blake2b_word((const uint8_t *)&h[place]);
        memcpy(digest + 8 * place, &word, 8);
    }
}

#undef FASTGW_MIX
#undef FASTGW_ROUND
