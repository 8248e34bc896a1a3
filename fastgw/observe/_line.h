/* The values of a JSON line. Every `put_` writes at `to`, where the caller has made sure of the room, and returns the
 * end of what it wrote. */

#include <stdint.h>
#include <string.h>

/* Sixteen bytes of text at once; GCC and Clang make of it what the machine has. */
typedef int8_t Sixteen __attribute__((vector_size(16)));

/* Of texts that were put, in some byte of each: is there one that JSON does not show as it is; one of `=`, `%`, `@`? */
typedef struct {
    Sixteen odd, marked;
} Seen;

static inline int any_of(Sixteen found)
{
    uint64_t halves[2];
    memcpy(halves, &found, 16);
    return (halves[0] | halves[1]) != 0;
}

/* Fewer than sixteen bytes of text, and others that JSON shows as they are. */
static inline Sixteen few(const char *from, Py_ssize_t length)
{
    char text[16];
    Sixteen bytes;
    memset(text, 'a', 16);
    if (length >= 8) { /* the first eight and the last, some of them again */
        memcpy(text, from, 8);
        memcpy(text + length - 8, from + length - 8, 8);
    } else {
        for (Py_ssize_t at = 0; at < length; at++)
            text[at] = from[at];
    }
    memcpy(&bytes, text, 16);
    return bytes;
}

/* Put a text in quotes, null if it is empty, and look at every byte. Nothing is read but the text; up to 15 bytes
 * behind it are written. JSON shows ASCII as it is, but for controls, `"` and `\`. */
static inline char *put_text(char *to, const char *from, Py_ssize_t length, Seen *seen)
{
    if (!length) {
        memcpy(to, "null", 4);
        return to + 4;
    }
    Sixteen odd = seen->odd, marked = seen->marked;
    *to++ = '"';
    for (Py_ssize_t at = 0; at < length; at += 16) {
        Sixteen bytes;
        if (length < 16) {
            bytes = few(from, length);
        } else {
            if (length - at < 16)
                at = length - 16; /* the last sixteen, some of them again */
            memcpy(&bytes, from + at, 16);
        }
        memcpy(to + at, &bytes, 16);
        odd |= (bytes < ' ') | (bytes == '"') | (bytes == '\\'); /* what is not ASCII is below zero */
        marked |= (bytes == '=') | (bytes == '%') | (bytes == '@');
    }
    seen->odd = odd;
    seen->marked = marked;
    to[length] = '"';
    return to + length + 1;
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
