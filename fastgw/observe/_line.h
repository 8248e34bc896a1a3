/* The values of a JSON line. Every `put_` writes at `to`, where the caller has made sure of the room, and returns the
 * end of what it wrote. */

#include <stdint.h>
#include <string.h>

#define EACH(byte) (0x0101010101010101u * (byte))

/* Eight bytes: the top bit of some is set when one of them is a control, `"`, `\` or not ASCII, else of none.
 * Subtracting `n` from each sets it where the byte was below `n`, and perhaps in those above such a byte. */
static inline uint64_t odd_ones(uint64_t bytes)
{
    const uint64_t quotes = bytes ^ EACH('"'), backslashes = bytes ^ EACH('\\');
    return bytes | ((bytes - EACH(0x20)) & ~bytes) | ((quotes - EACH(1)) & ~quotes)
           | ((backslashes - EACH(1)) & ~backslashes);
}

/* Copy what JSON shows as it is: ASCII but for controls, `"` and `\`. Anything else makes `odd` true. */
static inline char *put_plain(char *to, const char *from, Py_ssize_t length, int *odd)
{
    uint64_t found = 0, eight = 0;
    Py_ssize_t at = 0;
    for (; length - at >= 8; at += 8) {
        memcpy(&eight, from + at, 8);
        memcpy(to + at, &eight, 8);
        found |= odd_ones(eight);
    }
    if (at < length && length >= 8) { /* the last eight, some of them again */
        memcpy(&eight, from + length - 8, 8);
        memcpy(to + length - 8, &eight, 8);
        found |= odd_ones(eight);
        at = length;
    }
    for (; at < length; at++) {
        to[at] = from[at];
        found |= odd_ones(EACH((uint8_t)from[at]));
    }
    *odd |= (found & EACH(0x80)) != 0;
    return to + length;
}

/* The same in quotes; null for an empty text. */
static inline char *put_text(char *to, const char *from, Py_ssize_t length, int *odd)
{
    if (!length) {
        memcpy(to, "null", 4);
        return to + 4;
    }
    *to++ = '"';
    to = put_plain(to, from, length, odd);
    *to++ = '"';
    return to;
}

static inline char *put_digits(char *to, uint64_t number, int count)
{
    for (int each = count; each--; number /= 10)
        to[each] = (char)('0' + number % 10);
    return to + count;
}

static inline char *put_number(char *to, uint64_t number)
{
    int count = 1;
    for (uint64_t rest = number; rest >= 10; rest /= 10)
        count++;
    return put_digits(to, number, count);
}

/* Microseconds as seconds with six places. */
static inline char *put_micros(char *to, uint64_t micros)
{
    to = put_number(to, micros / 1000000);
    *to++ = '.';
    return put_digits(to, micros % 1000000, 6);
}

/* Seconds as the nearest microsecond; -1 where that is not clear: next to the middle between two, out of bounds, NaN. */
static inline int64_t nearest_micros(double seconds)
{
    if (!(seconds >= 0.0 && seconds < 1e6))
        return -1;
    const double micros = seconds * 1e6;
    const int64_t below = (int64_t)micros;
    const double rest = micros - (double)below;
    if (rest > 0.499 && rest < 0.501)
        return -1;
    return below + (rest > 0.5);
}

/* One aligned store of a whole word, so that no reader sees half of it. */
static inline void add_to_word(uint64_t *word, uint64_t more)
{
    __atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + more, __ATOMIC_RELAXED);
}

typedef struct {
    const char *start;
    Py_ssize_t length;
} Text;

/* Whether `name` is one of `secrets` (in lower case, nothing but ASCII), in whatever case and between spaces; or may be,
 * being encoded. */
static inline int may_be_secret(const char *name, const char *end, const Text *secrets, Py_ssize_t count)
{
    for (const char *at = name; at < end; at++)
        if (*at == '%' || *at == '+')
            return 1;
    while (name < end && *name == ' ')
        name++;
    while (end > name && end[-1] == ' ')
        end--;
    for (; count--; secrets++) {
        Py_ssize_t at = 0;
        if (end - name != secrets->length)
            continue;
        while (at < secrets->length
               && (name[at] >= 'A' && name[at] <= 'Z' ? name[at] + 32 : name[at]) == secrets->start[at])
            at++;
        if (at == secrets->length)
            return 1;
    }
    return 0;
}

static inline int begins_name(char byte)
{
    return byte == '&' || byte == '?' || byte == ';' || byte == '#';
}

/* Whether a query, or a URL with one, has no parameter that is a secret; 0 also where that is not clear. */
static inline int none_is_secret(Text query, const Text *secrets, Py_ssize_t count)
{
    const char *const end = query.start + query.length;
    const char *after = query.start; /* the last `=` that was seen */
    while (after < end) {
        const char *const equals = memchr(after, '=', (size_t)(end - after));
        const char *name = equals;
        if (!equals)
            break;
        while (name > after && !begins_name(name[-1]))
            name--;
        /* Without a beginning since the last `=` this one is part of its value. */
        if ((name > after || after == query.start) && may_be_secret(name, equals, secrets, count))
            return 0;
        after = equals + 1;
    }
    return 1;
}
