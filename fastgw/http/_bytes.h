/* Searches that compare many bytes at a time. Nothing is read at `end` or after it. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Return the first byte that is not a letter, digit or hyphen, as usual field names are; `end` if none. */
static inline const uint8_t *word_end(const uint8_t *at, const uint8_t *end)
{
#ifdef __SSE2__
    const __m128i to_lower = _mm_set1_epi8(0x20), a = _mm_set1_epi8('a'), zero = _mm_set1_epi8('0');
    const __m128i last_letter = _mm_set1_epi8(25), last_digit = _mm_set1_epi8(9), hyphen = _mm_set1_epi8('-');
    for (; end - at >= 16; at += 16) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)at);
        const __m128i letters = _mm_sub_epi8(_mm_or_si128(bytes, to_lower), a), digits = _mm_sub_epi8(bytes, zero);
        const __m128i fit = _mm_or_si128(
            _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(letters, last_letter), letters), _mm_cmpeq_epi8(bytes, hyphen)),
            _mm_cmpeq_epi8(_mm_min_epu8(digits, last_digit), digits));
        const int others = _mm_movemask_epi8(fit) ^ 0xffff;
        if (others)
            return at + __builtin_ctz((unsigned)others);
    }
#endif
    while (at < end
           && ((uint8_t)((*at | 0x20) - 'a') <= 25 || (uint8_t)(*at - '0') <= 9 || *at == '-'))
        at++;
    return at;
}

/* Return the first byte that is not a letter, digit, hyphen or underscore, nor a slash that follows another byte than a
 * slash; `end` if none. There is a byte before `at`. */
static inline const uint8_t *segments_end(const uint8_t *at, const uint8_t *end)
{
#ifdef __SSE2__
    const __m128i to_lower = _mm_set1_epi8(0x20), a = _mm_set1_epi8('a'), zero = _mm_set1_epi8('0');
    const __m128i last_letter = _mm_set1_epi8(25), last_digit = _mm_set1_epi8(9), hyphen = _mm_set1_epi8('-');
    const __m128i underscore = _mm_set1_epi8('_'), slash = _mm_set1_epi8('/');
    unsigned before = at[-1] == '/';
    for (; end - at >= 16; at += 16) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)at);
        const __m128i letters = _mm_sub_epi8(_mm_or_si128(bytes, to_lower), a), digits = _mm_sub_epi8(bytes, zero);
        const __m128i signs = _mm_or_si128(_mm_cmpeq_epi8(bytes, hyphen), _mm_cmpeq_epi8(bytes, underscore));
        const __m128i fit = _mm_or_si128(
            _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(letters, last_letter), letters), signs),
            _mm_cmpeq_epi8(_mm_min_epu8(digits, last_digit), digits));
        const unsigned slashes = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, slash));
        const unsigned single = slashes & ~(slashes << 1 | before);
        const unsigned others = ((unsigned)_mm_movemask_epi8(fit) | single) ^ 0xffff;
        if (others)
            return at + __builtin_ctz(others);
        before = slashes >> 15;
    }
#endif
    while (at < end
           && ((uint8_t)((*at | 0x20) - 'a') <= 25 || (uint8_t)(*at - '0') <= 9 || *at == '-' || *at == '_'
               || (*at == '/' && at[-1] != '/')))
        at++;
    return at;
}

/* Return the first byte that is not allowed in a request target: not visible ASCII, or `#`; `end` if none. */
static inline const uint8_t *target_end(const uint8_t *at, const uint8_t *end)
{
#ifdef __SSE2__
    const __m128i first = _mm_set1_epi8(0x21), last = _mm_set1_epi8(0x7e - 0x21), number = _mm_set1_epi8('#');
    for (; end - at >= 16; at += 16) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)at), above = _mm_sub_epi8(bytes, first);
        const __m128i fit = _mm_andnot_si128(
            _mm_cmpeq_epi8(bytes, number), _mm_cmpeq_epi8(_mm_min_epu8(above, last), above));
        const int others = _mm_movemask_epi8(fit) ^ 0xffff;
        if (others)
            return at + __builtin_ctz((unsigned)others);
    }
#endif
    while (at < end && *at > 0x20 && *at < 0x7f && *at != '#')
        at++;
    return at;
}

/* Whether a token equals this name of lower-case letters, digits and hyphens, ignoring case. With 0x20 set, another
 * byte becomes such a character only if it is a control character, which tokens do not contain. */
static inline int is_name(const uint8_t *token, const uint8_t *name, size_t length)
{
    const uint64_t to_lower = 0x2020202020202020u;
    uint64_t eight, wanted;
    for (; length >= 8; token += 8, name += 8, length -= 8) {
        memcpy(&eight, token, 8);
        memcpy(&wanted, name, 8);
        if ((eight | to_lower) != wanted)
            return 0;
    }
    for (; length; token++, name++, length--)
        if ((*token | 0x20) != *name)
            return 0;
    return 1;
}

/* Return the first byte not allowed in a field value (RFC 9110 section 5.5), a control except HTAB; `end` if none. */
static inline const uint8_t *value_end(const uint8_t *at, const uint8_t *end)
{
#ifdef __SSE2__
    const __m128i last_control = _mm_set1_epi8(0x1f), tab = _mm_set1_epi8('\t'), del = _mm_set1_epi8(0x7f);
    for (; end - at >= 16; at += 16) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)at);
        const __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, last_control), bytes);
        const __m128i refused = _mm_or_si128(
            _mm_andnot_si128(_mm_cmpeq_epi8(bytes, tab), control), _mm_cmpeq_epi8(bytes, del));
        const int places = _mm_movemask_epi8(refused);
        if (places)
            return at + __builtin_ctz((unsigned)places);
    }
#endif
    while (at < end && (*at >= 0x20 ? *at != 0x7f : *at == '\t'))
        at++;
    return at;
}

/* Return the position after the first CRLF CRLF, or NULL. */
static inline const uint8_t *empty_line_end(const uint8_t *at, const uint8_t *end)
{
#ifdef __SSE2__
    /* LF, and another one two bytes later: only these positions are checked further. */
    const __m128i lf = _mm_set1_epi8('\n');
    for (; end - at >= 20; at += 16) {
        const __m128i first = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(at + 1)), lf);
        const __m128i second = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(at + 3)), lf);
        int places = _mm_movemask_epi8(_mm_and_si128(first, second));
        for (; places; places &= places - 1) {
            const uint8_t *found = at + __builtin_ctz((unsigned)places);
            if (found[0] == '\r' && found[2] == '\r')
                return found + 4;
        }
    }
#endif
    for (; end - at >= 4; at++)
        if (at[0] == '\r' && at[1] == '\n' && at[2] == '\r' && at[3] == '\n')
            return at + 4;
    return NULL;
}
