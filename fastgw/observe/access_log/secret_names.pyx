# cython: language_level=3, boundscheck=False, wraparound=False
"""See `secret_names.pyi`."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memchr, memcmp, memcpy

import re
from urllib.parse import unquote_to_bytes

from fastgw.observe.access_log.credential_names import WORDS, is_credential_header, is_credential_member

cdef enum:
    MOST_TEXT = 4096  # bytes of a text that is shown, as of a line
    MOST_DECODED = 4  # encodings that are decoded
    PROBES = 4  # places that a known name may have, one behind the other
    LONGEST_NAME = 512  # bytes of a name that are decoded

_BETWEEN = re.compile("[-_]+")
# A URL inside a parameter of another URL, percent-encoded once or several times.
_ENCODED_EQUALS = re.compile(rb"%(?>(?:25)*)3[dD]")
_USERINFO = re.compile(
    rb"((?::|%(?>(?:25)*)3[aA])(?:/|%(?>(?:25)*)2[fF]){2})"
    rb"(?:[^/?#&\s%]|%(?!(?>(?:25)*)(?:2[fF36]|3[fF])))+(@|%(?>(?:25)*)40)"
)


cdef inline bint _begins_name(char byte) noexcept nogil:
    return byte == c"&" or byte == c"?" or byte == c";" or byte == c"#"


cdef inline int _digit(char byte) noexcept nogil:
    """Return the value of a hexadecimal digit; -1: it is none."""
    if c"0" <= byte <= c"9":
        return byte - c"0"
    if c"a" <= (byte | 0x20) <= c"f":
        return (byte | 0x20) - c"a" + 10
    return -1


cdef Py_ssize_t _decode(char* text, Py_ssize_t length) noexcept nogil:
    """Decode percent-encoded bytes in place, once, and return the length of what is left."""
    cdef Py_ssize_t at = 0, end = 0
    while at < length:
        text[end] = text[at]
        if text[at] == c"%" and length - at > 2 and _digit(text[at + 1]) >= 0 and _digit(text[at + 2]) >= 0:
            text[end] = <char>(_digit(text[at + 1]) << 4 | _digit(text[at + 2]))
            at += 2
        at += 1
        end += 1
    return end


cdef bint _may_hide(const char* text, Py_ssize_t length) noexcept nogil:
    """Whether it has a `@`, or one of the encoded bytes `=`, `%` and `@`."""
    cdef const char* end = text + length
    cdef const char* at = text
    if memchr(text, c"@", length) is not NULL:
        return True
    while True:
        at = <const char*>memchr(at, c"%", end - at)
        if at is NULL or end - at < 3:
            return False
        if at[1] == c"3" and (at[2] | 0x20) == c"d" or at[1] == c"2" and at[2] == c"5" or at[1] == c"4" and at[2] == c"0":
            return True
        at += 1


def may_hide(bytes text not None):
    return _may_hide(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


def masker(redact):
    return SecretNames(redact).mask


@cython.final
cdef class SecretNames:
    def __init__(self, redact=()):
        names = [name.casefold() for name in (*WORDS, *redact)]
        spelt = [_BETWEEN.sub(sign, name) for name in names for sign in ("_", "-", "")]
        self.names = frozenset((*names, *filter(None, spelt)))

    def __cinit__(self, redact=()):
        self._known = <KnownName*>PyMem_Calloc(KNOWN_NAMES, sizeof(KnownName))
        if self._known is NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self._known)

    def has_header(self, bytes name not None):
        return is_credential_header(name) or self.has_member(name)

    def has_member(self, bytes name not None):
        cdef bytes parameter = name + b"="
        return self._is_masked(name) or self._secret_at(parameter, len(parameter), False) >= 0

    cpdef mask(self, bytes query):
        if query is None:
            return None
        if PyBytes_GET_SIZE(query) > MOST_TEXT:
            query = query[:MOST_TEXT] + b"..."
        if self.hides_nothing(query, PyBytes_GET_SIZE(query)):
            return query
        # PERF: 2,000 instructions more than a query without secrets; by patterns alone 40,000 (CPython 3.11, by hand).
        shown = b"&".join([self._masked(part) for part in query.split(b"&")])
        return _USERINFO.sub(rb"\1***\2", shown) if may_hide(shown) else shown

    cdef bint hides_nothing(self, const char* text, Py_ssize_t length) except -1:
        """Whether all of it is shown. False also where it is not clear."""
        cdef char[MOST_TEXT + 8] decoded
        cdef Py_ssize_t longer
        cdef int _
        if self._secret_at(text, length, False) >= 0:
            return False
        if not _may_hide(text, length):
            return True
        memcpy(decoded, text, length)
        for _ in range(MOST_DECODED):
            longer, length = length, _decode(decoded, length)
            if length == longer:
                return memchr(decoded, c"@", length) is NULL or not _has_two_slashes(decoded, length)
            if self._secret_at(decoded, length, True) >= 0:
                return False
        return False

    cdef Py_ssize_t _secret_at(self, const char* text, Py_ssize_t length, bint is_decoded) except -2:
        """Return where the value of the first secret parameter begins; -1: there is none. `is_decoded`: it was encoded:
        any of its `=` may be the first one of a parameter.
        """
        cdef const char* end = text + length
        cdef const char* after = text  # the last `=` that was seen
        cdef const char* equals
        cdef const char* name
        while True:
            equals = <const char*>memchr(after, c"=", end - after)
            if equals is NULL:
                return -1
            name = equals
            while name > after and not _begins_name(name[-1]):
                name -= 1
            # Without a beginning since the last `=` this one is part of its value.
            if (name > after or after == text or is_decoded) and self._is_secret(name, equals - name):
                return equals + 1 - text
            after = equals + 1

    cdef bint _is_secret(self, const char* name, Py_ssize_t length) except -1:
        """Whether a parameter with this name, as it was received, is secret. Short ones are remembered."""
        # PERF: 100 instructions for a known name; 450 by a dictionary, 4,000 by patterns (CPython 3.11, micro/observe).
        cdef KnownName* known = NULL
        cdef unsigned int mixed = <unsigned int>length
        cdef Py_ssize_t at
        cdef unsigned int probe
        cdef bint is_secret
        if not 0 < length <= LONGEST_KNOWN:
            return self._has_secret_name(PyBytes_FromStringAndSize(name, length))
        for at in range(length):
            mixed = (mixed ^ <unsigned char>name[at]) * 0x01000193
        mixed ^= mixed >> 15
        for probe in range(PROBES):
            known = &self._known[(mixed + probe) % KNOWN_NAMES]
            if known.length == length and not memcmp(known.name, name, length):
                return known.is_secret
            if not known.length:
                break  # the first free place
        else:
            known = &self._known[mixed % KNOWN_NAMES]  # of those in the way the first goes
        is_secret = self._has_secret_name(PyBytes_FromStringAndSize(name, length))
        known.length, known.is_secret = <unsigned char>length, is_secret
        memcpy(known.name, name, length)
        return is_secret

    def _has_secret_name(self, bytes name):
        if b"%" in name or b"+" in name:
            name = _decoded_name(name[max(0, len(name) - LONGEST_NAME) :].replace(b"+", b" "))
        if b"[" not in name:
            return self._is_masked(name)
        return any([self._is_masked(each.rstrip(b" ]")) for each in name.split(b"[") if each.strip(b" ]")])

    def _is_masked(self, bytes name):
        text = name.rpartition(b"/")[2].decode(errors="replace").strip().casefold()
        return text in self.names or is_credential_member(text.encode())

    cdef bytes _masked(self, bytes part):
        cdef Py_ssize_t shown = self._secret_at(part, PyBytes_GET_SIZE(part), False)
        if memchr(PyBytes_AS_STRING(part), c"%", PyBytes_GET_SIZE(part)) is not NULL:
            encoded = _ENCODED_EQUALS.search(part)
            if encoded is not None and self._hides_secret(part):
                shown = encoded.end() if shown < 0 else min(shown, encoded.end())
        return part if shown < 0 else part[:shown] + b"***"

    def _hides_secret(self, bytes part):
        """Whether decoding reveals a secret parameter, however often it was encoded."""
        cdef bytes name
        for _ in range(MOST_DECODED):
            # Names before a literal `=` were checked before.
            before, part = part, unquote_to_bytes(part.replace(b"=", b"&"))
            for text in part.split(b"=")[:-1]:
                name = _last_name(text)
                if self._is_secret(name, len(name)):
                    return True
            if part == before:
                break
        return False


cdef bint _has_two_slashes(const char* text, Py_ssize_t length) noexcept nogil:
    cdef const char* end = text + length
    cdef const char* at = <const char*>memchr(text, c"/", length)
    while at is not NULL and end - at > 1:
        if at[1] == c"/":
            return True
        at = <const char*>memchr(at + 1, c"/", end - at - 1)
    return False


def _decoded_name(bytes text):
    """Return the text after the last possible start of a parameter, percent-decoded."""
    for _ in range(MOST_DECODED):
        before, text = text, unquote_to_bytes(text)
        if text == before:
            break
    return _last_name(text)


def _last_name(bytes text):
    """Return the text after the last possible start of a parameter."""
    return text[max([text.rfind(sign) for sign in (b"&", b";", b"?", b"#", b"=")]) + 1 :]
