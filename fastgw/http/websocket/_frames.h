/* Payload of frames: taken out of its mask, and text looked at for UTF-8 while it is masked. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define HIGH_BITS UINT64_C(0x8080808080808080)

/* Text so far: how many bytes of a character are to come, and between what the next one lies. */
typedef struct {
    uint8_t missing, low, high;
} Text;

/* A key three times over: eight bytes from any of its four places on are the mask of eight bytes of payload. */
typedef struct {
    uint8_t bytes[12];
} Key;

static inline Key key_of(const uint8_t *four)
{
    Key key;
    for (int at = 0; at < 12; at += 4)
        memcpy(key.bytes + at, four, 4);
    return key;
}

static inline void unmask(uint8_t *to, const uint8_t *from, size_t length, const Key *key, unsigned key_at)
{
    uint64_t mask, word;
    memcpy(&mask, key->bytes + key_at, 8);
    size_t at = 0;
    for (; length - at >= 8; at += 8) {
        memcpy(&word, from + at, 8);
        word ^= mask;
        memcpy(to + at, &word, 8);
    }
    for (; at < length; at++)
        to[at] = from[at] ^ key->bytes[(key_at + at) & 3];
}

/* Whether the text goes on as UTF-8 (RFC 3629). The decoder of Python, which is the reference, sees a surrogate only
 * with the byte behind ED A0..BF: so does this. */
static inline int takes_text(Text *text, const uint8_t *from, size_t length, const Key *key, unsigned key_at)
{
    uint64_t mask, word;
    size_t at = 0;
    while (at < length) {
        if (!text->missing && length - at >= 8) {
            memcpy(&mask, key->bytes + ((key_at + at) & 3), 8);
            for (; length - at >= 8; at += 8) {
                memcpy(&word, from + at, 8);
                if ((word ^ mask) & HIGH_BITS)
                    break;
            }
            if (at == length)
                break;
        }
        const uint8_t byte = from[at] ^ key->bytes[(key_at + at) & 3];
        at++;
        if (text->missing) {
            if (byte < text->low || byte > text->high) {
                if (!(text->missing == 2 && text->low == 0x80 && text->high == 0x9f && byte >= 0xa0 && byte <= 0xbf))
                    return 0;
                text->missing = 1; /* a surrogate: whatever comes next is wrong */
                text->low = 1;
                text->high = 0;
                continue;
            }
            text->missing--;
            text->low = 0x80;
            text->high = 0xbf;
        } else if (byte >= 0x80) {
            if (byte < 0xc2 || byte > 0xf4)
                return 0;
            text->missing = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
            text->low = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;
            text->high = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf;
        }
    }
    return 1;
}
