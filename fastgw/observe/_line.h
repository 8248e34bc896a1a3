/* The values of a JSON line. Every `put_` writes at `to`, where the caller has made sure of the room, and returns the
 * end of what it wrote. */

#include <stdint.h>
#include <string.h>

/* Sixteen bytes of text at once; GCC and Clang make of it what the machine has. */
typedef int8_t Sixteen __attribute__((vector_size(16)));

/* Of a text, in some byte of each: is there one that JSON does not show as it is; one of `=`, `%` and `@`? */
typedef struct {
    Sixteen odd, marked;
} Seen;

static inline void see(Seen *seen, Sixteen bytes)
{
    /* What is not ASCII is below zero. */
    seen->odd |= (bytes < ' ') | (bytes == '"') | (bytes == '\\');
    seen->marked |= (bytes == '=') | (bytes == '%') | (bytes == '@');
}

static inline int any_of(Sixteen found)
{
    uint64_t halves[2];
    memcpy(halves, &found, 16);
    return (halves[0] | halves[1]) != 0;
}

/* Copy, and look at every byte. Nothing is read but the text. */
static inline char *put_seen(char *to, const char *from, Py_ssize_t length, Seen *seen)
{
    Sixteen bytes;
    Py_ssize_t at = 0;
    if (length >= 16) {
        for (; length - at >= 16; at += 16) {
            memcpy(&bytes, from + at, 16);
            memcpy(to + at, &bytes, 16);
            see(seen, bytes);
        }
        if (at < length) { /* the last sixteen, some of them again */
            memcpy(&bytes, from + length - 16, 16);
            memcpy(to + length - 16, &bytes, 16);
            see(seen, bytes);
        }
    } else if (length >= 8) { /* the first eight and the last, likewise */
        uint64_t eights[2];
        memcpy(&eights[0], from, 8);
        memcpy(&eights[1], from + length - 8, 8);
        memcpy(to, &eights[0], 8);
        memcpy(to + length - 8, &eights[1], 8);
        memcpy(&bytes, eights, 16);
        see(seen, bytes);
    } else if (length) {
        char few[16];
        memset(few, from[0], 16);
        for (; at < length; at++)
            few[at] = to[at] = from[at];
        memcpy(&bytes, few, 16);
        see(seen, bytes);
    }
    return to + length;
}

/* Copy what JSON shows as it is: ASCII but for controls, `"` and `\`. Anything else makes `odd` true. */
static inline char *put_plain(char *to, const char *from, Py_ssize_t length, int *odd)
{
    Seen seen = {{0}, {0}};
    to = put_seen(to, from, length, &seen);
    *odd |= any_of(seen.odd);
    return to;
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

/* The same. `marked`: whether a `=`, `%` or `@` is in it. */
static inline char *put_marked(char *to, const char *from, Py_ssize_t length, int *odd, int *marked)
{
    Seen seen = {{0}, {0}};
    *marked = 0;
    if (!length) {
        memcpy(to, "null", 4);
        return to + 4;
    }
    *to++ = '"';
    to = put_seen(to, from, length, &seen);
    *to++ = '"';
    *odd |= any_of(seen.odd);
    *marked = any_of(seen.marked);
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
