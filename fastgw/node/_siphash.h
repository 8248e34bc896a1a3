/* SipHash-1-3 with a result of 128 bits (Aumasson, Bernstein: "SipHash: a fast short-input PRF"). With one round a word,
 * the likeliest way known to make two messages collide under an unknown key succeeds with 2^-167 (Dobraunig, Mendel,
 * Schlaeffer: "Differential Cryptanalysis of SipHash"). */
#ifndef FASTGW_SIPHASH_H
#define FASTGW_SIPHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t sip_rotated(uint64_t word, int bits) { return word << bits | word >> (64 - bits); }

#define SIP128_ROUND                                                                                       \
    (v0 += v1, v1 = sip_rotated(v1, 13) ^ v0, v0 = sip_rotated(v0, 32), v2 += v3,                          \
     v3 = sip_rotated(v3, 16) ^ v2, v0 += v3, v3 = sip_rotated(v3, 21) ^ v0, v2 += v1,                     \
     v1 = sip_rotated(v1, 17) ^ v2, v2 = sip_rotated(v2, 32))

static inline void siphash128(const uint64_t key[2], const char* text, size_t length, uint64_t hash[2]) {
    uint64_t v0 = 0x736f6d6570736575ull ^ key[0], v1 = 0x646f72616e646f6dull ^ key[1] ^ 0xee;
    uint64_t v2 = 0x6c7967656e657261ull ^ key[0], v3 = 0x7465646279746573ull ^ key[1], word;
    const char* end = text + (length & ~(size_t)7);
    for (; text < end; text += 8) {
        memcpy(&word, text, 8);
        v3 ^= word, SIP128_ROUND, v0 ^= word;
    }
    word = 0;
    memcpy(&word, text, length & 7);
    word |= (uint64_t)length << 56;
    v3 ^= word, SIP128_ROUND, v0 ^= word;
    v2 ^= 0xee, SIP128_ROUND, SIP128_ROUND, SIP128_ROUND;
    hash[0] = v0 ^ v1 ^ v2 ^ v3;
    v1 ^= 0xdd, SIP128_ROUND, SIP128_ROUND, SIP128_ROUND;
    hash[1] = v0 ^ v1 ^ v2 ^ v3;
}

#endif
