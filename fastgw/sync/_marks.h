/* A hash of 128 bits under a secret key, by which credentials are remembered. What is asked of it: nobody who does not
 * know the key can find two texts with the same hash, and nothing can be told from a hash about its text.
 *
 * Each block of 1 KiB is compressed by NH (RFC 4418 section 5.2; Black, Halevi, Krawczyk, Krovetz, Rogaway: "UMAC: Fast
 * and Secure Message Authentication"), here in words of 64 bits and twice, with the key shifted by a pair of words the
 * second time: two blocks that differ give the same result under 1 key in 2^128, whoever chooses them. The results and
 * the length are hashed by SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF"). */
#ifndef FASTGW_MARKS_H
#define FASTGW_MARKS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { MARK_BLOCK = 1024, MARK_KEY = 2 + MARK_BLOCK / 8 + 2 }; /* bytes; words: of SipHash, of NH, of the shift */

typedef unsigned __int128 MarkSum;

typedef struct {
    uint64_t v0, v1, v2, v3;
} Sip;

static inline uint64_t sip_rotated(uint64_t word, int bits) { return word << bits | word >> (64 - bits); }

static inline void sip_round(Sip* s) {
    s->v0 += s->v1, s->v1 = sip_rotated(s->v1, 13) ^ s->v0, s->v0 = sip_rotated(s->v0, 32);
    s->v2 += s->v3, s->v3 = sip_rotated(s->v3, 16) ^ s->v2;
    s->v0 += s->v3, s->v3 = sip_rotated(s->v3, 21) ^ s->v0;
    s->v2 += s->v1, s->v1 = sip_rotated(s->v1, 17) ^ s->v2, s->v2 = sip_rotated(s->v2, 32);
}

static inline void sip_add(Sip* s, uint64_t word) {
    s->v3 ^= word;
    sip_round(s), sip_round(s);
    s->v0 ^= word;
}

static inline uint64_t sip_end(Sip* s) {
    for (int number = 0; number < 4; number++) sip_round(s);
    return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

static inline void mark_pair(const uint64_t* key, const char* text, MarkSum* one, MarkSum* two) {
    uint64_t left, right;
    memcpy(&left, text, 8);
    memcpy(&right, text + 8, 8);
    *one += (MarkSum)(left + key[0]) * (right + key[1]);
    *two += (MarkSum)(left + key[2]) * (right + key[3]);
}

/* At most `MARK_BLOCK` bytes; the last pair of words is filled up with zeros. */
static inline void mark_block(const uint64_t* key, const char* text, size_t length, Sip* s) {
    MarkSum one = 0, two = 0;
    for (; length >= 16; length -= 16, text += 16, key += 2) mark_pair(key, text, &one, &two);
    if (length) {
        char last[16] = {0};
        memcpy(last, text, length);
        mark_pair(key, last, &one, &two);
    }
    sip_add(s, (uint64_t)one), sip_add(s, (uint64_t)(one >> 64));
    sip_add(s, (uint64_t)two), sip_add(s, (uint64_t)(two >> 64));
}

static inline void mark_of(const uint64_t key[MARK_KEY], const char* text, size_t length, uint64_t mark[2]) {
    Sip s = {0x736f6d6570736575ull ^ key[0], 0x646f72616e646f6dull ^ key[1] ^ 0xee,
             0x6c7967656e657261ull ^ key[0], 0x7465646279746573ull ^ key[1]};
    size_t left = length;
    for (; left > MARK_BLOCK; left -= MARK_BLOCK, text += MARK_BLOCK) mark_block(key + 2, text, MARK_BLOCK, &s);
    mark_block(key + 2, text, left, &s);
    sip_add(&s, length);
    s.v2 ^= 0xee;
    mark[0] = sip_end(&s);
    s.v1 ^= 0xdd;
    mark[1] = sip_end(&s);
}

#endif
