# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Header values that a firewall has to search: not those of names that are skipped, and not those that are known."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memchr

from fastgw.http.messages cimport Line, RequestHead, cut


cdef enum:
    LONGEST_NAME = 64

cdef bytes _COOKIE = b"cookie"
cdef bytes UNSKIPPED = b"${"
"""Text with which a value is searched whatever its name is: services log any header (Log4Shell)."""
FILENAME = b"filename=%b"
"""A file name as a part of a multipart body has it."""


def unknown_values(headers, frozenset skipped not None, frozenset of_files not None, known, known_cookies):
    """Return the names and values of the headers that have to be searched, and the lines of cookies.

    `headers`: a head, or a copy of one. `skipped`: lower-case names, `cookie` among them. `of_files`: names whose values
    are names of files; these are returned as `FILENAME`, even if they are known. `known`, `known_cookies`: values that
    need no search.
    """
    cdef list values = []
    if type(headers) is RequestHead and (<RequestHead>headers)._fields is None:
        found = _values_of_lines(<RequestHead>headers, skipped, of_files, known, known_cookies)
        if found is not None:
            return found
    for name, value in headers.fields():
        folded = name.lower()
        if folded in of_files:
            values.append((name, FILENAME % value))
        elif value not in known and (folded not in skipped or UNSKIPPED in value):
            values.append((name, value))
    return values, [line for line in headers.values(b"cookie") if line not in known_cookies]


cdef tuple _values_of_lines(
    RequestHead head, frozenset skipped, frozenset of_files, known, known_cookies
):
    """Read a head as it was received. None: a name is long, or a value has `$`.

    PERF: without `Fields` for the whole head a GET takes 12,000 instructions less (CPython 3.11, micro/waf).
    """
    cdef const char* text = PyBytes_AS_STRING(head.source)
    cdef const Line* line = head.lines
    cdef const Line* end = line + head.line_count
    cdef const char* sent
    cdef char[LONGEST_NAME] folded
    cdef Py_ssize_t length, place
    cdef bytes name, value
    cdef list values = [], cookies = []
    if memchr(text + head.first_line, c"$", head.head_length - head.first_line) is not NULL:
        return None
    while line < end:
        sent = text + line.start
        length = <const char*>memchr(sent, c":", line.value.start - line.start) - sent
        if length > LONGEST_NAME:
            return None
        for place in range(length):
            folded[place] = sent[place] + 32 if c"A" <= sent[place] <= c"Z" else sent[place]
        name = PyBytes_FromStringAndSize(folded, length)
        if name not in skipped or name == _COOKIE:
            value = cut(head, line.value)
            if name in of_files:
                values.append((PyBytes_FromStringAndSize(sent, length), FILENAME % value))
            elif name != _COOKIE:
                if value not in known:
                    values.append((PyBytes_FromStringAndSize(sent, length), value))
            elif value not in known_cookies:
                cookies.append(value)
        line += 1
    return values, cookies
