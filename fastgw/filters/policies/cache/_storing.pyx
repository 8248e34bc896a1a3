# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled ordinary cases of `storing.decide_storing_for` and `records.encode_record`: a response that `_parser` has
read, with one short `Cache-Control` or none.

All other cases, such as targeted fields, `Expires`, heuristics and `no-cache`, are left to the reference.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport rint
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from fastgw.http.http1.parser cimport Http1ResponseHead

from fastgw.http.caching.directives import LONGEST, TARGETS, parse_short
from fastgw.http.caching.freshness import HEURISTIC
from fastgw.http.caching.records import StoredHead, VariantsRecord
from fastgw.http.caching.storing import NOT_STORED, RequestIdentity, Unstorable
from fastgw.http.caching.vary import find_varying
from fastgw.http.dates import format_date, parse_date
from fastgw.http.http1.serializer import end_to_end

cdef enum:
    MOST_ENCODED = 48 * 1024  # bytes of a record
    OVERHEAD = 256  # bytes of a record at most, but for its texts
    LONGEST_LINE = 256  # bytes of a line whose meaning is kept
    LONGEST_TAG = 1024
    MOST_KEPT = 1024
    FIXDATE = 29  # bytes
    MOST_DIGITS = 9  # of an age; longer ones are left to Python
    NONE = -1  # in place of a number that is not stated

cdef object _AUTHORIZATION = Unstorable.AUTHORIZATION
cdef object _COOKIE = Unstorable.COOKIE
cdef object _NO_FRESHNESS = Unstorable.NO_FRESHNESS
cdef object _NO_STORE = Unstorable.NO_STORE
cdef object _PRIVATE = Unstorable.PRIVATE
cdef object _SET_COOKIE = Unstorable.SET_COOKIE
cdef int _BY_AUTHORIZATION = RequestIdentity.AUTHORIZATION
cdef int64_t _LONGEST = LONGEST
if set(TARGETS) != {b"cdn-cache-control", b"fastgw-cache-control"}:
    raise ImportError("the compiled module knows other targeted fields")
if HEURISTIC != {200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501}:
    raise ImportError("the compiled module knows other statuses with a heuristic freshness")
cdef frozenset _NOT_STORED = NOT_STORED
cdef int64_t _HEAD_TAG = StoredHead.__struct_config__.tag
cdef int64_t _VARIANTS_TAG = VariantsRecord.__struct_config__.tag
cdef int _HEAD_PARTS = 1 + len(StoredHead.__struct_fields__)
cdef int _VARIANTS_PARTS = 1 + len(VariantsRecord.__struct_fields__)
cdef tuple _NO_NAMES = ()
cdef dict _policies = {}  # id of a `StorePolicy` -> `_Policy`
cdef dict _stated = {}  # value of `Cache-Control` -> `_Stated`
cdef dict _varying = {}  # value of `Vary` -> its names, or None
cdef _Policy _last_policy = None
cdef bytes _last_line = b""  # `Cache-Control`
cdef _Stated _last_stated = None  # of `_last_line`
cdef char _last_date[FIXDATE]
cdef int64_t _last_seconds = 0  # of `_last_date`
cdef char _buffer[MOST_ENCODED]


@cython.final
cdef class _Stated:
    """The directives of a response. `is_ordinary`: False: they are left to the reference."""

    cdef bint is_ordinary
    cdef object refusal  # why it is not stored for anyone
    cdef int64_t max_age, s_maxage, stale_while_revalidate, stale_if_error
    cdef bint public, must_revalidate, proxy_revalidate


cdef inline int64_t _number(value) except? -2:
    return NONE if value is None else value


cdef _Stated _made(stated):
    cdef _Stated made = _Stated.__new__(_Stated)
    made.is_ordinary = not (stated.must_understand or stated.no_cache or stated.no_cache_fields or stated.targeted)
    made.refusal = _NO_STORE if stated.no_store else _PRIVATE if stated.private else None
    if made.refusal is not None:
        made.is_ordinary = not stated.must_understand
    made.max_age, made.s_maxage = _number(stated.max_age), _number(stated.s_maxage)
    made.stale_while_revalidate = _number(stated.stale_while_revalidate)
    made.stale_if_error = _number(stated.stale_if_error)
    made.public, made.must_revalidate = stated.public, stated.must_revalidate
    made.proxy_revalidate = stated.proxy_revalidate
    return made


@cython.final
cdef class _Policy:
    """A `StorePolicy`, as numbers."""

    cdef object source
    cdef bint is_ordinary
    cdef bint store_set_cookie
    cdef int64_t override_ttl, ttl, stale_while_revalidate, stale_if_error, stale_when_unreachable
    cdef dict ttl_by_status  # None: it is empty


cdef _Policy _policy_of(source):
    global _last_policy
    cdef _Policy made
    if _last_policy is not None and _last_policy.source is source:
        return _last_policy
    found = _policies.get(id(source))
    if found is not None:
        _last_policy = <_Policy>found
        return _last_policy
    if len(_policies) >= MOST_KEPT:
        _policies.clear()
    made = _Policy.__new__(_Policy)
    made.source = source  # whose id is that of no other one then
    made.is_ordinary = source.targets == TARGETS and not (
        source.content_types or source.storage_ttl is not None or source.ignores_cache_control
    )
    made.store_set_cookie = source.store_set_cookie
    made.override_ttl, made.ttl = _number(source.override_ttl), _number(source.ttl)
    made.stale_while_revalidate, made.stale_if_error = source.stale_while_revalidate, source.stale_if_error
    made.stale_when_unreachable = source.stale_when_unreachable
    made.ttl_by_status = dict(source.ttl_by_status) or None
    _policies[id(source)] = made
    return made


cdef _Stated _nothing_stated = _made(parse_short(b""))


# --- the fields of a response ---

cdef struct Value:
    # The first value of a field, and how many lines it has.
    const char* text
    Py_ssize_t length
    int lines


cdef struct Fields:
    Value age
    Value cache_control
    Value date
    Value etag
    Value expires
    Value last_modified
    Value no_vary_search
    Value set_cookie
    Value targeted  # `CDN-Cache-Control` and its kin (RFC 9213)
    Value vary


cdef inline void _take(Value* value, const char* name, Py_ssize_t length, const char* at, const char* stop) noexcept:
    """Take the value of a line that begins with this name, in lower case, of letters and hyphens, and a colon."""
    cdef Py_ssize_t place
    if stop - at <= length or at[length] != c":":
        return
    for place in range(length):
        if (at[place] | 0x20) != name[place]:  # nothing else that may be in a name becomes a letter or hyphen by this
            return
    value.lines += 1
    if value.lines > 1:
        return
    at += length + 1
    while at < stop and (at[0] == c" " or at[0] == c"\t"):
        at += 1
    while stop > at and ((stop - 1)[0] == c" " or (stop - 1)[0] == c"\t" or (stop - 1)[0] == c"\r"):
        stop -= 1
    value.text, value.length = at, stop - at


cdef void _find_fields(Http1ResponseHead head, Fields* found) noexcept:
    """Find what decides whether a response is stored.

    PERF: one pass over the lines takes 3,500 instructions less than a search for each name (CPython 3.11, callgrind,
    micro/response_cache).
    """
    cdef const char* at = PyBytes_AS_STRING(head.source) + head.first_line
    cdef const char* end = PyBytes_AS_STRING(head.source) + head.head_length
    cdef const char* stop
    cdef char first
    memset(found, 0, sizeof(Fields))
    while at < end:
        stop = <const char*>memchr(at, c"\n", end - at)
        if stop is NULL:
            return
        first = at[0] | 0x20
        if first == c"a":
            _take(&found.age, b"age", 3, at, stop)
        elif first == c"c":
            _take(&found.cache_control, b"cache-control", 13, at, stop)
            _take(&found.targeted, b"cdn-cache-control", 17, at, stop)
        elif first == c"d":
            _take(&found.date, b"date", 4, at, stop)
        elif first == c"e":
            _take(&found.etag, b"etag", 4, at, stop)
            _take(&found.expires, b"expires", 7, at, stop)
        elif first == c"f":
            _take(&found.targeted, b"fastgw-cache-control", 20, at, stop)
        elif first == c"l":
            _take(&found.last_modified, b"last-modified", 13, at, stop)
        elif first == c"n":
            _take(&found.no_vary_search, b"no-vary-search", 14, at, stop)
        elif first == c"s":
            _take(&found.set_cookie, b"set-cookie", 10, at, stop)
        elif first == c"v":
            _take(&found.vary, b"vary", 4, at, stop)
        at = stop + 1


cdef inline bytes _bytes_of(const Value* value):
    return PyBytes_FromStringAndSize(value.text, value.length)


cdef object _keep(dict kept, bytes line, meaning):
    if len(kept) >= MOST_KEPT:
        kept.clear()
    kept[line] = meaning
    return meaning


cdef _Stated _stated_by(const Value* value):
    """Return the directives; None: they are not in one short line."""
    global _last_line, _last_stated
    cdef bytes line
    if not value.lines:
        return _nothing_stated
    if value.lines > 1 or value.length > LONGEST_LINE:
        return None
    if (
        _last_stated is not None
        and PyBytes_GET_SIZE(_last_line) == value.length
        and not memcmp(PyBytes_AS_STRING(_last_line), value.text, value.length)
    ):
        return _last_stated
    line = _bytes_of(value)
    found = _stated.get(line)
    _last_stated = <_Stated?>(_keep(_stated, line, _made(parse_short(line))) if found is None else found)
    _last_line = line
    return _last_stated


cdef tuple _varying_by(const Value* value):
    """Return the names of `Vary`; None: they are not in one short line, or every request gets another response."""
    cdef bytes line
    if not value.lines:
        return _NO_NAMES
    if value.lines > 1 or value.length > LONGEST_LINE:
        return None
    line = _bytes_of(value)
    found = _varying.get(line, _varying)
    return <tuple>(_keep(_varying, line, find_varying([line])) if found is _varying else found)


# --- dates and entity tags ---


cdef inline int _digits(const char* text, int count) noexcept:
    """Return a decimal number of so many digits; -1: it is none."""
    cdef int place, value = 0
    for place in range(count):
        if not c"0" <= text[place] <= c"9":
            return -1
        value = 10 * value + text[place] - c"0"
    return value


cdef inline int64_t _age(const Value* value) noexcept:
    """Return the value of `Age`; NONE: it is not a single short number, see `freshness.corrected_age`."""
    if not value.lines:
        return 0
    if value.lines > 1 or not 0 < value.length <= MOST_DIGITS or (value.text[0] == c"0" and value.length > 1):
        return NONE
    return _digits(value.text, <int>value.length)


cdef inline int _name(const char* text, const char* names, int count) noexcept:
    """Return the place of three letters, in any case, among lower-case names of three letters; -1: it is none."""
    cdef int place
    cdef char first = text[0] | 0x20, second = text[1] | 0x20, third = text[2] | 0x20
    for place in range(count):
        if names[3 * place] == first and names[3 * place + 1] == second and names[3 * place + 2] == third:
            return place
    return -1


cdef bint _fixdate(const char* text, int64_t* seconds) noexcept:
    """Read an IMF-fixdate of `FIXDATE` bytes. False: it is none."""
    cdef int day, month, year, hour, minute, second, most, era, of_era
    if (
        _name(text, b"montuewedthufrisatsun", 7) < 0 or text[3] != c"," or text[4] != c" " or text[7] != c" "
        or text[11] != c" " or text[16] != c" " or text[19] != c":" or text[22] != c":" or text[25] != c" "
        or _name(text + 26, b"gmt", 1) < 0
    ):
        return False
    day, month, year = _digits(text + 5, 2), _name(text + 8, b"janfebmaraprmayjunjulaugsepoctnovdec", 12), _digits(text + 12, 4)
    hour, minute, second = _digits(text + 17, 2), _digits(text + 20, 2), _digits(text + 23, 2)
    if month < 0 or year < 1 or not 0 <= hour <= 23 or not 0 <= minute <= 59 or not 0 <= second <= 60:
        return False
    month += 1
    most = 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31
    if month == 2:
        most = 29 if year % 4 == 0 and (year % 100 or year % 400 == 0) else 28
    if not 1 <= day <= most:
        return False
    # Days since the epoch; the year begins in March, so that a leap day is its last one.
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    seconds[0] = (
        <int64_t> era * 146097 + of_era * 365 + of_era // 4 - of_era // 100
        + (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1 - 719468
    ) * 86400 + hour * 3600 + minute * 60 + second
    return True


cdef bint _date(const Value* value, double now, int64_t* seconds) except -1:
    """Read a date, as `dates.parse_date`. False: it is none."""
    if value.length == FIXDATE and _fixdate(value.text, seconds):
        return True
    found = parse_date(_bytes_of(value), now)
    if found is None:
        return False
    seconds[0] = found
    return True


cdef bint _is_entity_tag(const Value* value) noexcept:
    """Whether a text is one entity tag. False also for some that are."""
    cdef const uint8_t* text = <const uint8_t*>value.text
    cdef Py_ssize_t length = value.length, place
    if length > LONGEST_TAG:
        return False
    if length > 2 and text[0] == c"W" and text[1] == c"/":
        text += 2
        length -= 2
    if length < 2 or text[0] != c'"' or text[length - 1] != c'"':
        return False
    for place in range(1, length - 1):
        if text[place] <= 0x20 or text[place] == c'"' or text[place] == 0x7F:
            return False
    return True


# --- MessagePack, with the shortest form of each number ---


cdef inline char* _put_big(char* out, uint64_t value, int count) noexcept:
    cdef int place
    for place in range(count):
        out[place] = <char>(value >> 8 * (count - 1 - place))
    return out + count


cdef char* _put_int(char* out, int64_t value) noexcept:
    cdef uint64_t bits = <uint64_t>value
    if -32 <= value <= 127:
        out[0] = <char>value
        return out + 1
    if value >= 0:
        if value <= 0xFF:
            out[0] = <char>0xCC
            return _put_big(out + 1, bits, 1)
        if value <= 0xFFFF:
            out[0] = <char>0xCD
            return _put_big(out + 1, bits, 2)
        if value <= 0xFFFFFFFFLL:
            out[0] = <char>0xCE
            return _put_big(out + 1, bits, 4)
        out[0] = <char>0xCF
        return _put_big(out + 1, bits, 8)
    if value >= -0x80:
        out[0] = <char>0xD0
        return _put_big(out + 1, bits, 1)
    if value >= -0x8000:
        out[0] = <char>0xD1
        return _put_big(out + 1, bits, 2)
    if value >= -<int64_t>0x80000000:
        out[0] = <char>0xD2
        return _put_big(out + 1, bits, 4)
    out[0] = <char>0xD3
    return _put_big(out + 1, bits, 8)


cdef inline char* _put_bool(char* out, bint value) noexcept:
    out[0] = <char>(0xC3 if value else 0xC2)
    return out + 1


cdef inline char* _put_none(char* out) noexcept:
    out[0] = <char>0xC0
    return out + 1


cdef char* _put_float(char* out, double value) noexcept:
    cdef uint64_t bits
    memcpy(&bits, &value, 8)
    out[0] = <char>0xCB
    return _put_big(out + 1, bits, 8)


cdef char* _put_length(char* out, Py_ssize_t length) noexcept:
    """Begin a byte string."""
    if length <= 0xFF:
        out[0] = <char>0xC4
        return _put_big(out + 1, length, 1)
    if length <= 0xFFFF:
        out[0] = <char>0xC5
        return _put_big(out + 1, length, 2)
    out[0] = <char>0xC6
    return _put_big(out + 1, length, 4)


cdef inline char* _put_text(char* out, const char* text, Py_ssize_t length) noexcept:
    out = _put_length(out, length)
    memcpy(out, text, length)
    return out + length


cdef char* _put_array(char* out, int count) noexcept:
    """Begin an array of less than 65,536 parts."""
    if count < 16:
        out[0] = <char>(0x90 | count)
        return out + 1
    out[0] = <char>0xDC
    return _put_big(out + 1, count, 2)


cdef char* _put_names(char* out, tuple names) except NULL:
    cdef bytes name
    out = _put_array(out, len(names))
    for name in names:
        out = _put_text(out, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
    return out


cdef bint encode_variant(tuple names, const void* key, Encoded* encoded) except -1:
    cdef char* out = _buffer
    if len(names) * (LONGEST_LINE + 5) + OVERHEAD > MOST_ENCODED:  # a name is a part of a short line
        return False
    out = _put_names(_put_int(_put_array(out, _VARIANTS_PARTS), _VARIANTS_TAG), names)
    out = _put_text(_put_array(out, 1), <const char*>key, 16)
    encoded.text, encoded.length = _buffer, out - _buffer
    return True


# --- the decision ---


cdef inline bint _may_have_default(int status, _Stated stated) noexcept:
    """Compiled `freshness.may_have_default`."""
    return status in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501) or stated.public


cdef inline int64_t _extended(int64_t stated, int64_t configured, bint never, bint only_stated) noexcept:
    return 0 if never else stated if stated >= 0 else 0 if only_stated else configured


cdef object decide_on(
    Http1ResponseHead head, storing, int identity, bint cookies, double request_date, double response_date,
    Encoded* encoded,
):
    global _last_seconds
    cdef _Policy policy = _policy_of(storing)
    cdef _Stated stated
    cdef Fields fields
    cdef tuple vary
    cdef bytes lines, date_line
    cdef int64_t lifetime, age, date = 0, last_modified = 0, arrived = <int64_t>response_date
    cdef int64_t waited = <int64_t>rint(response_date - request_date)
    cdef bint date_is_valid = True, has_etag, was_modified, never, only_stated, may_default
    cdef char* out = _buffer
    if not policy.is_ordinary or head._fields is not None:
        return None
    if head.status < 200 or head.status == 206 or head.status == 304:
        return None
    _find_fields(head, &fields)
    age = _age(&fields.age)
    if fields.targeted.lines or age < 0:
        return None
    stated = _stated_by(&fields.cache_control)
    if stated is None or not stated.is_ordinary:
        return None
    if stated.refusal is not None:
        return stated.refusal
    vary = _varying_by(&fields.vary)
    if vary is None:
        return None
    if identity and not stated.public and stated.s_maxage < 0 and not (
        identity == _BY_AUTHORIZATION and stated.must_revalidate
    ):
        return _AUTHORIZATION
    if fields.set_cookie.lines and not policy.store_set_cookie:
        return _SET_COOKIE
    may_default = _may_have_default(head.status, stated)
    lifetime = policy.override_ttl if may_default else NONE
    if lifetime < 0:
        lifetime = stated.s_maxage if stated.s_maxage >= 0 else stated.max_age
        if 0 <= policy.override_ttl < lifetime:
            lifetime = policy.override_ttl
    if lifetime < 0:
        if fields.expires.lines:
            return None
        if cookies and b"cookie" not in vary:
            return _COOKIE
        lifetime = policy.ttl if may_default else NONE
        if policy.ttl_by_status is not None:
            lifetime = policy.ttl_by_status.get(head.status, lifetime)
        if lifetime < 0:
            return None if fields.last_modified.lines else _NO_FRESHNESS
    if fields.date.lines:
        if fields.date.length == FIXDATE and not memcmp(fields.date.text, _last_date, FIXDATE):
            date = _last_seconds
        else:
            date_is_valid = _date(&fields.date, response_date, &date)
            if date_is_valid and fields.date.length == FIXDATE:
                memcpy(_last_date, fields.date.text, FIXDATE)
                _last_seconds = date
    else:
        date = arrived
    age += max(waited, 0)
    if date_is_valid:
        age = max(age, arrived - date)
    age = min(age, _LONGEST)
    has_etag = fields.etag.lines == 1
    if has_etag and not _is_entity_tag(&fields.etag):
        return None
    was_modified = fields.last_modified.lines == 1 and _date(&fields.last_modified, response_date, &last_modified)
    if lifetime <= age and not has_etag and not was_modified:
        return None  # stale from the beginning
    never = stated.must_revalidate or stated.proxy_revalidate
    only_stated = never or lifetime <= age or stated.s_maxage >= 0
    lines = end_to_end(head, _NOT_STORED)
    date_line = None if fields.date.lines else format_date(arrived)
    if (
        PyBytes_GET_SIZE(lines) + head.reason_at.length + fields.etag.length + len(vary) * 5 + LONGEST_LINE + OVERHEAD
    ) > MOST_ENCODED:
        return None
    out = _put_int(_put_int(_put_array(out, _HEAD_PARTS), _HEAD_TAG), head.status)
    out = _put_text(out, PyBytes_AS_STRING(head.source) + head.reason_at.start, head.reason_at.length)
    if date_line is None:
        out = _put_text(out, PyBytes_AS_STRING(lines), PyBytes_GET_SIZE(lines))
    else:
        out = _put_length(out, PyBytes_GET_SIZE(lines) + 6 + FIXDATE + 2)
        memcpy(out, PyBytes_AS_STRING(lines), PyBytes_GET_SIZE(lines))
        out += PyBytes_GET_SIZE(lines)
        memcpy(out, b"Date: ", 6)
        memcpy(out + 6, PyBytes_AS_STRING(date_line), FIXDATE)
        memcpy(out + 6 + FIXDATE, b"\r\n", 2)
        out += 6 + FIXDATE + 2
    out = _put_int(_put_int(_put_float(out, response_date), age), lifetime)
    out = _put_int(
        out, _extended(stated.stale_while_revalidate, policy.stale_while_revalidate, never, only_stated)
    )
    out = _put_int(out, _extended(stated.stale_if_error, policy.stale_if_error, never, only_stated))
    out = _put_int(out, 0 if only_stated else policy.stale_when_unreachable)
    out = _put_bool(_put_bool(out, False), only_stated)
    out = _put_text(out, fields.etag.text, fields.etag.length) if has_etag else _put_none(out)
    out = _put_int(out, last_modified) if was_modified else _put_none(out)
    out = _put_int(out, date) if date_is_valid else _put_none(out)
    out = _put_names(out, vary)
    out = _put_bool(_put_int(out, identity), cookies)
    encoded.text, encoded.length = _buffer, out - _buffer
    encoded.lifetime, encoded.age, encoded.has_no_vary_search = lifetime, age, fields.no_vary_search.lines
    return vary


# --- for tests ---


def decide(head not None, storing not None, int identity, bint cookies, double request_date, double response_date):
    """Return the record as bytes, or why the response is not stored; None: this is not an ordinary case."""
    cdef Encoded encoded
    if type(head) is not Http1ResponseHead:
        return None
    found = decide_on(<Http1ResponseHead>head, storing, identity, cookies, request_date, response_date, &encoded)
    return encoded.text[:encoded.length] if type(found) is tuple else found


def fixdate(bytes value not None):
    """Return the seconds since the epoch of an IMF-fixdate; None: it is none."""
    cdef int64_t seconds = 0
    if PyBytes_GET_SIZE(value) != FIXDATE or not _fixdate(PyBytes_AS_STRING(value), &seconds):
        return None
    return seconds


def variant(tuple names not None, bytes key not None):
    """Return the record of a resource with one variant. `key`: 16 bytes."""
    cdef Encoded encoded
    if PyBytes_GET_SIZE(key) != 16 or not encode_variant(names, PyBytes_AS_STRING(key), &encoded):
        return None
    return encoded.text[:encoded.length]
