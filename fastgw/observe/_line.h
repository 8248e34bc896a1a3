/* The values of a JSON line. Every `put_` writes at `to`, where the caller has made sure of the room, and returns the
 * end of what it wrote. */

#include <stdint.h>
#include <string.h>

/* Sixteen bytes of text at once; GCC and Clang make of it what the machine has. */
typedef int8_t Sixteen __attribute__((vector_size(16)));

/* Of a text, in some byte of each: is there one that JSON does not show as it is; a `=`, a `%`, a `@`? */
typedef struct {
    Sixteen odd, equals, percent, at;
} Seen;

enum { EQUALS = 1, PERCENT = 2, AT = 4 };

static inline void see(Seen *seen, Sixteen bytes)
{
    /* What is not ASCII is below zero. */
    seen->odd |= (bytes < ' ') | (bytes == '"') | (bytes == '\\');
    seen->equals |= bytes == '=';
    seen->percent |= bytes == '%';
    seen->at |= bytes == '@';
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
    Seen seen = {{0}, {0}, {0}, {0}};
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

/* The same. `marks`: which of `EQUALS`, `PERCENT` and `AT` are in it. */
static inline char *put_marked(char *to, const char *from, Py_ssize_t length, int *odd, int *marks)
{
    Seen seen = {{0}, {0}, {0}, {0}};
    *marks = 0;
    if (!length) {
        memcpy(to, "null", 4);
        return to + 4;
    }
    *to++ = '"';
    to = put_seen(to, from, length, &seen);
    *to++ = '"';
    *odd |= any_of(seen.odd);
    *marks = (any_of(seen.equals) ? EQUALS : 0) | (any_of(seen.percent) ? PERCENT : 0) | (any_of(seen.at) ? AT : 0);
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

enum { MOST_HINTS = 64 };

/* Names whose values are secret, in lower case and nothing but ASCII. */
typedef struct {
    const Text *names;
    Py_ssize_t count;
    const Text *hints; /* parts of further names, of at least three bytes */
    Py_ssize_t hint_count;
    Py_ssize_t any_hint_count; /* with those of names that have a hyphen, which come last */
    uint64_t slots[4]; /* a bit for each `slot_of_name` */
    uint8_t hint_at[256];         /* by `slot_of_pair` of its beginning: the number of a hint, plus one; 0: none */
    uint8_t hint_after[MOST_HINTS]; /* the number of the next one of this slot, plus one */
    int simple;        /* whether all are of letters, digits, `-` and `_`, and short */
    int nameless;      /* whether one of them is empty */
} Secrets;

enum { LONGEST_SIMPLE = 60 };

static inline unsigned char lowered(char byte)
{
    return (unsigned char)(byte >= 'A' && byte <= 'Z' ? byte + 32 : byte);
}

static inline uint8_t slot_of_name(const char *name, Py_ssize_t length)
{
    return (uint8_t)(31 * lowered(name[0]) + 7 * lowered(name[length - 1]) + 13 * length);
}

static inline uint8_t slot_of_pair(const char *pair)
{
    return (uint8_t)(31 * lowered(pair[0]) + lowered(pair[1]));
}

static inline int is_word(char byte)
{
    const unsigned char small = (unsigned char)(byte | 0x20);
    return (small >= 'a' && small <= 'z') || (byte >= '0' && byte <= '9') || byte == '_' || byte == '-';
}

/* `secrets->names` and `hints` are there, with their counts. */
static inline void prepare(Secrets *secrets)
{
    memset(secrets->slots, 0, sizeof secrets->slots);
    memset(secrets->hint_at, 0, sizeof secrets->hint_at);
    for (Py_ssize_t number = secrets->any_hint_count; number--;) {
        const uint8_t slot = slot_of_pair(secrets->hints[number].start);
        secrets->hint_after[number] = secrets->hint_at[slot];
        secrets->hint_at[slot] = (uint8_t)(number + 1);
    }
    secrets->simple = 1;
    secrets->nameless = 0;
    for (Py_ssize_t number = 0; number < secrets->count; number++) {
        const Text name = secrets->names[number];
        if (name.length > LONGEST_SIMPLE)
            secrets->simple = 0;
        if (!name.length)
            secrets->nameless = 1;
        for (Py_ssize_t at = 0; at < name.length; at++)
            if (!is_word(name.start[at]))
                secrets->simple = 0;
        if (name.length) {
            const uint8_t slot = slot_of_name(name.start, name.length);
            secrets->slots[slot >> 6] |= (uint64_t)1 << (slot & 63);
        }
    }
}

static inline int is_secret(const char *name, const char *end, const Secrets *secrets)
{
    const Py_ssize_t length = end - name;
    uint8_t slot;
    if (!length)
        return secrets->nameless;
    slot = slot_of_name(name, length);
    if (!(secrets->slots[slot >> 6] >> (slot & 63) & 1))
        return 0;
    for (Py_ssize_t number = 0; number < secrets->count; number++) {
        const Text secret = secrets->names[number];
        Py_ssize_t at = 0;
        if (length != secret.length)
            continue;
        while (at < length && lowered(name[at]) == (unsigned char)secret.start[at])
            at++;
        if (at == length)
            return 1;
    }
    return 0;
}

/* Whether one of the first `count` hints is in a name. */
static inline int has_hint(const char *name, const char *end, Py_ssize_t count, const Secrets *secrets)
{
    for (; end - name >= 3; name++) {
        uint8_t number = secrets->hint_at[slot_of_pair(name)];
        for (; number && number <= count; number = secrets->hint_after[number - 1]) {
            const Text hint = secrets->hints[number - 1];
            Py_ssize_t at = 0;
            if (hint.length > end - name)
                continue;
            while (at < hint.length && lowered(name[at]) == (unsigned char)hint.start[at])
                at++;
            if (at == hint.length)
                return 1;
        }
    }
    return 0;
}

/* Whether a word at the beginning of a name is no secret. */
static inline int is_harmless(const char *word, const char *end, const Secrets *secrets)
{
    return !is_secret(word, end, secrets) && !has_hint(word, end, secrets->any_hint_count, secrets);
}

/* Whether `name` is one of `secrets`, in whatever case and between spaces; or may be, being encoded or in brackets. */
static inline int may_be_secret(const char *name, const char *end, const Secrets *secrets)
{
    Py_ssize_t hints = secrets->hint_count;
    for (const char *at = name; at < end; at++) {
        if (*at == '%' || *at == '+' || *at == '[' || *at == '/')
            return 1;
        if (*at == '-')
            hints = secrets->any_hint_count;
    }
    while (name < end && *name == ' ')
        name++;
    while (end > name && end[-1] == ' ')
        end--;
    return is_secret(name, end, secrets) || has_hint(name, end, hints, secrets);
}

static inline int begins_name(char byte)
{
    return byte == '&' || byte == '?' || byte == ';' || byte == '#';
}

/* Whether a query, or a URL with one, has no parameter that is a secret; 0 also where that is not clear. */
static inline int no_value_is_secret(Text query, const Secrets *secrets)
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
        if ((name > after || after == query.start) && may_be_secret(name, equals, secrets))
            return 0;
        after = equals + 1;
    }
    return 1;
}

/* Put a query in quotes, with `***` in place of the values of secrets; it is no longer than what it stands for. `odd`: it
   is not clear which values these are. */
static inline char *put_masked(char *to, Text query, const Secrets *secrets, int *odd)
{
    const char *at = query.start, *const end = query.start + query.length;
    *to++ = '"';
    for (;;) {
        const char *const found = memchr(at, '&', (size_t)(end - at));
        const char *const stop = found ? found : end;
        const Text part = {at, stop - at};
        const char *shown = stop;
        if (!no_value_is_secret(part, secrets)) {
            shown = at;
            while (shown < stop && is_word(*shown))
                shown++;
            if (stop - shown < 4 || *shown != '=' || !is_secret(at, shown, secrets)) {
                *odd = 1;
                return to;
            }
            shown++;
        }
        memcpy(to, at, (size_t)(shown - at));
        to += shown - at;
        if (shown < stop) {
            memcpy(to, "***", 3);
            to += 3;
        }
        if (!found)
            break;
        *to++ = '&';
        at = found + 1;
    }
    *to++ = '"';
    return to;
}

/* Whether a bracket may open in it, encoded or not: the name that counts then may stand before other words. */
static inline int may_open_bracket(const char *at, const char *end)
{
    for (; at < end; at++)
        if (*at == '[' || (*at == '5' && end - at > 1 && (at[1] | 0x20) == 'b'))
            return 1;
    return 0;
}

/* Whether what stands before an encoded `=`, at `end`, is no name of a secret; 0 also where that is not clear. */
static inline int word_is_harmless(const char *start, const char *end, const Secrets *secrets)
{
    const char *word = end;
    if (!secrets->simple || may_open_bracket(start, end))
        return 0;
    while (word > start && end - word <= LONGEST_SIMPLE + 16 && is_word(word[-1]))
        word--;
    if (word == start)
        return is_harmless(word, end, secrets);
    if (word[-1] == '%') { /* it begins with what another byte is encoded by, perhaps more than once */
        while (end - word >= 2 && word[0] == '2' && word[1] == '5')
            word += 2;
        if (end - word < 2)
            return 0;
        if (word[0] == '3' && (word[1] | 0x20) == 'd') /* `=`, of which encodings of bytes end in two */
            return is_harmless(word + 2, end, secrets);
        const int ends_name = (word[0] == '2' && (word[1] == '6' || word[1] == '3' || (word[1] | 0x20) == 'f'))
                              || (word[0] == '3' && ((word[1] | 0x20) == 'b' || (word[1] | 0x20) == 'f'));
        return ends_name && end - word > 2 && is_harmless(word + 2, end, secrets);
    }
    if (word[-1] == '+' || word[-1] == ' ' || word[-1] == ']' || end - word > LONGEST_SIMPLE)
        return 0;
    if (is_secret(word, end, secrets))
        return 0;
    for (; word > start && !begins_name(word[-1]) && word[-1] != '=' && word[-1] != '/'; word--)
        if (word[-1] == '%' || word[-1] == '+') /* a letter of the name may be encoded */
            return 0;
    return !has_hint(word, end, secrets->any_hint_count, secrets);
}

static inline int has_two_slashes(Text text)
{
    const char *at = text.start, *const end = text.start + text.length;
    while ((at = memchr(at, '/', (size_t)(end - at))) != NULL && end - ++at > 0)
        if (*at == '/')
            return 1;
    return 0;
}

/* Whether nothing is hidden in what is encoded: a URL with such a parameter, or with a password. 0: it is not clear. */
static inline int nothing_encoded_is_secret(Text text, const Secrets *secrets)
{
    const char *const end = text.start + text.length;
    const char *at = text.start;
    const char *slash_end = NULL;
    int slashes = 0, ats = 0;
    while ((at = memchr(at, '%', (size_t)(end - at))) != NULL) {
        const char *const begin = at++;
        while (end - at >= 4 && at[0] == '2' && at[1] == '5')
            at += 2;
        if (end - at < 2)
            break;
        if (at[0] == '3' && (at[1] | 0x20) == 'd' && !word_is_harmless(text.start, begin, secrets))
            return 0;
        if (at[0] == '2' && (at[1] | 0x20) == 'f') {
            slashes |= begin == slash_end || (begin > text.start && begin[-1] == '/') || (end - at > 2 && at[2] == '/');
            slash_end = at + 2;
        }
        ats |= at[0] == '4' && at[1] == '0';
    }
    return !(ats && (slashes || has_two_slashes(text))) && !(slashes && memchr(text.start, '@', (size_t)text.length));
}

/* Whether a text of these `marks` is shown as it is; 0 also where that is not clear. */
static inline int is_shown(Text text, int marks, const Secrets *secrets)
{
    if (marks & EQUALS && !no_value_is_secret(text, secrets))
        return 0;
    if (marks & PERCENT && !nothing_encoded_is_secret(text, secrets))
        return 0;
    return !(marks & AT) || !has_two_slashes(text);
}
