# cython: binding=False, language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""See `recorder.pyi`.

A line is put together here, and no object is made, where the head has a host and a path, or is that of a connection or
session without requests, and where the line needs no escapes and no cuts. All others are made from a record by
`json_line`. Secrets are masked by `SecretNames` in both.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.route cimport Route
from fastgw.http.messages cimport REFERER, USER_AGENT, RequestHead, Span, bit_of, bits_of, line_of
from fastgw.observe.access_log.line_queue cimport LineQueue
from fastgw.observe.access_log.secret_names cimport SecretNames

import re
from math import inf

from fastgw.observe import series_kinds
from fastgw.observe.access_log import formats as lines, record
from fastgw.observe.access_log.finished_exchange import CLIENT_LEFT, record_of
from fastgw.observe.metrics import families, series_layout as series

cdef extern from "_line.h" nogil:
    ctypedef struct Sixteen:
        pass
    ctypedef struct Seen:
        Sixteen odd
        Sixteen marked
    bint any_of(Sixteen found)
    char* put_text(char* to, const char* start, Py_ssize_t length, Seen* seen)
    char* put_digits(char* to, uint64_t number, int count)
    char* put_number(char* to, uint64_t number)
    char* put_micros(char* to, uint64_t micros)
    int64_t nearest_micros(double seconds)
    void add_to_word(uint64_t* word, uint64_t more)
    ctypedef struct Text:
        const char* start
        Py_ssize_t length

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* length) except NULL
    void* PyUnicode_DATA(object text)


# --- reading an exchange ---

cdef tuple _OF_OTHERS = (
    "head", "scheme", "client_ip", "consumer", "listener", "route", "request_body", "request_bytes", "response",
    "response_bytes", "begun_at", "upstream", "target", "upstream_s", "retries", "fault", "why", "shadowed",
    "subrequests", "request_id", "cache_result", "grpc_status", "trace",
)


cdef Exchange _exchange_of(ended):
    """Return the exchange that has ended, or one with the attributes of a connection or session that is none."""
    cdef Exchange made
    if isinstance(ended, Exchange):
        return <Exchange>ended
    made = Exchange.__new__(Exchange)
    for name in _OF_OTHERS:
        setattr(made, name, getattr(ended, name))
    return made


# --- kinds of exchanges ---

cdef enum:
    KINDS = 32768  # places for those that are found at once
    SWEPT = 64  # of them that are looked at whenever a kind is learned
    PROBES = 4  # places that a kind may have, one behind the other
    MAX_LINE = 4096
    MOST_SECONDS = 1000000  # of those that are counted here, as of `nearest_micros`
    SLOTS = 16  # of a line, see `lines.JSON_SLOTS`
    NO_STATUS = 1000
    ERRORS = 500  # statuses from here on are errors of the gateway or an upstream
    MOST_TARGETS = 4096  # of sub-requests whose rows are remembered: names from DNS and discovery change
    NO_LINE = -1  # it has to be made from a record
    MOST_BOUNDS = 32
    SHORT = 31  # bytes of a name that its entry has room for
    CODING_OPERATIONS = 2
    CODINGS = 3

cdef str _NO_NAME = ""
cdef uint32_t _UPGRADE = bits_of((b"upgrade",))
if lines.MAX_LINE != MAX_LINE or len(lines.JSON_SLOTS) != SLOTS:
    raise ImportError("lines of another form")

if len(families.CodingOperation) != CODING_OPERATIONS or len(families.ContentCoding) != CODINGS:
    raise ImportError("other content codings")

cdef object _CACHE = series.CellKind.CACHE
cdef object _CACHE_MISS = series.CellKind.CACHE_MISS
cdef object _GRPC = series.CellKind.GRPC
cdef object _CODING_INPUT = series.CellKind.CODING_INPUT
cdef object _CODING_OUTPUT = series.CellKind.CODING_OUTPUT
cdef object _PLAIN = re.compile(r'[ !#-\[\]-~]*')  # what JSON shows as it is
cdef enum:
    MOST_METHODS = 16

cdef tuple _METHODS = families.METHODS
cdef Text _METHOD_TEXTS[MOST_METHODS]
cdef int _METHOD_COUNT = len(_METHODS)
if _METHOD_COUNT > MOST_METHODS:
    raise ImportError("no room for so many methods")
cdef short _TCP = record.TCP
cdef short _UDP = record.UDP
cdef Py_ssize_t _SUM = series.SUM
cdef Py_ssize_t _ROUTE_REQUEST_BYTES = series.ROUTE_REQUEST_BYTES
cdef Py_ssize_t _ROUTE_RESPONSE_BYTES = series.ROUTE_RESPONSE_BYTES
cdef Py_ssize_t _TARGET_SERVER_ERRORS = series.TARGET_SERVER_ERRORS
cdef Py_ssize_t _UPSTREAM_RETRIES = series.UPSTREAM_RETRIES
cdef Py_ssize_t _CONSUMERS_AT = series.CONSUMERS_AT
cdef Py_ssize_t _CONSUMER_ROWS = series.CONSUMER_ROWS
cdef Py_ssize_t _CONSUMER_WORDS = series.CONSUMER_WORDS
cdef Py_ssize_t _CONSUMER_CLASSES = series.CONSUMER_CLASSES
cdef Py_ssize_t _CONSUMER_REQUEST_BYTES = series.CONSUMER_REQUEST_BYTES
cdef Py_ssize_t _CONSUMER_RESPONSE_BYTES = series.CONSUMER_RESPONSE_BYTES
cdef Py_ssize_t _CONSUMER_CACHE = series.CONSUMER_CACHE
cdef Py_ssize_t _LAST_CLASS = series.STATUS_CLASSES - 1
cdef tuple _CACHE_HITS = families.CACHE_HITS
cdef double _BOUNDS[MOST_BOUNDS]
cdef int _BOUND_COUNT = len(families.BOUNDS_S)
if _BOUND_COUNT > MOST_BOUNDS:
    raise ImportError("no room for so many buckets")
for _index, _bound in enumerate(families.BOUNDS_S):
    _BOUNDS[<int>_index] = _bound


@cython.final
@cython.no_gc  # no cycle: it knows texts alone
cdef class Sort:
    """Common part of `SeriesKey`s without a fault that differ in the route alone, told by its texts' identity.

    There are few of them, and what is known of one stays in the processor's near caches. With targets that come and
    go there are more: up to one for each of the `KINDS`. Equal pieces of several are one object.
    """

    cdef str target
    cdef str upstream
    cdef str listener
    cdef object scheme
    cdef str fault
    cdef int status
    cdef short method  # its place in `_METHODS`
    cdef short version
    cdef unsigned int length  # of the pieces
    cdef unsigned int upstream_row
    cdef unsigned int target_row
    cdef unsigned int server_error
    cdef unsigned int fault_word
    cdef tuple pieces


cdef struct Entry:
    # A `SeriesKey`, told by its sort and the identity of its route's name, and what is known of it. There are as
    # many as routes that are asked, and the next one is in no near cache of the processor's. So it is a single line of
    # memory. PERF: with 10,000 routes 1 line is fetched for an exchange; with an object for each kind, and names that
    # are looked at where they lie, 5 (simulated for 1 MiB by valgrind, CPython 3.11, micro/routes).
    PyObject* route  # its name
    PyObject* sort
    unsigned int generation  # of what the recorder has adopted; the places are good for that alone
    unsigned int request
    unsigned int row
    unsigned int length  # of the name
    char is_odd  # it is not shown as it is
    char[SHORT] name  # if it has room


cdef inline bint _is_given(value) except -1:
    """Whether it is true; nearly always it is the one empty text, or None."""
    return value is not _NO_NAME and value is not None and bool(value)


cdef inline Text _value(RequestHead head, uint32_t bit) noexcept:
    """Return the value of the first line of the numbered name of this bit."""
    return _span(head, line_of(head, bit).value if head.names & bit else Span(0, 0))


cdef inline Text _span(RequestHead head, Span at) noexcept:
    cdef Text text
    text.start = PyBytes_AS_STRING(head.source) + at.start
    text.length = at.length if at.start else 0
    return text


cdef inline Text _text(bytes value) noexcept:
    """`value` has to outlive the text."""
    cdef Text text
    text.start = NULL
    text.length = 0
    if value is not None:
        text.start = PyBytes_AS_STRING(value)
        text.length = PyBytes_GET_SIZE(value)
    return text


cdef inline int _find_utf8(text, Text* utf8) except -1:
    """Set `utf8` to the bytes of a text, which has to outlive it; None: to none."""
    utf8[0] = _text(None)
    if text is not None:
        utf8.start = PyUnicode_AsUTF8AndSize(text, &utf8.length)
    return 0


for _index, _known in enumerate(_METHODS):
    _METHOD_TEXTS[<int>_index] = _text(_known)


cdef inline int _method(RequestHead head) noexcept:
    """The index in `_METHODS`; 0, that of `other`: it is not there."""
    cdef const char* method = PyBytes_AS_STRING(head.source)
    cdef Py_ssize_t length = head.method_length
    cdef int index
    for index in range(_METHOD_COUNT):
        if _METHOD_TEXTS[index].length == length and not memcmp(_METHOD_TEXTS[index].start, method, length):
            return index
    return 0


cdef inline int _bucket(double seconds) noexcept nogil:
    """Return the bucket, as `bisect_left` of the bounds does."""
    cdef int bucket = 0, above = _BOUND_COUNT, middle
    while bucket < above:
        middle = (bucket + above) // 2
        if _BOUNDS[middle] < seconds:
            bucket = middle + 1
        else:
            above = middle
    return bucket


@cython.final
@cython.no_gc  # nothing it holds leads back to it; and CPython 3.11 crashes if it collects a memoryview that is held
cdef class Recorder:
    cdef object _counters  # the column's, which looks up the words
    cdef object _take_bodies
    cdef tuple _json_logs
    cdef tuple _held
    cdef tuple _other_logs  # and the meters
    cdef Py_buffer _column
    cdef uint64_t* _words
    cdef Py_ssize_t _word_count
    cdef unsigned int _generation
    cdef dict _sorts
    cdef dict _pieces  # of the sorts, by themselves
    cdef Entry* _entries
    cdef unsigned int _swept  # up to where entries of generations before were let go of last
    cdef void* _room  # where the entries lie
    cdef tuple _secrets  # of each JSON log; one for those that mask the same names
    cdef object _keep_story
    cdef int _story_status  # stories are kept of requests with this status and above,
    cdef double _slower_than  # and of those that take longer
    cdef int64_t _second
    cdef bytes _second_text
    cdef dict _target_rows  # of sub-requests, by upstream and target
    cdef dict _consumers  # as `ExchangeCounters.consumers`
    cdef dict _label_words  # by kind of cell, route and label, or its index

    def __cinit__(self, counters, logs, meters=(), take_bodies=None):
        PyObject_GetBuffer(counters.column, &self._column, PyBUF_WRITABLE | PyBUF_FORMAT | PyBUF_ND)
        if self._column.itemsize != 8 or self._column.format[0] != c"Q":
            raise ValueError("a column is of 64-bit words")
        self._words = <uint64_t*>self._column.buf
        self._word_count = self._column.len // 8
        self._room = PyMem_Calloc(KINDS + 1, sizeof(Entry))
        if self._room is NULL:
            raise MemoryError
        # They are as long as a line of memory, and begin where one does.
        self._entries = <Entry*>(<uintptr_t>self._room + sizeof(Entry) - <uintptr_t>self._room % sizeof(Entry))

    def __init__(self, counters, logs, meters=(), take_bodies=None):
        self._counters, self._take_bodies = counters, take_bodies
        self._second = -1
        self.keep_stories(None, inf)
        self.adopt(logs, meters)

    def keep_stories(self, keep, double slower_than):
        self._keep_story = keep
        self._story_status, self._slower_than = (NO_STATUS, inf) if keep is None else (ERRORS, slower_than)

    def adopt(self, logs, meters=()):
        by_names = {}
        json_logs = tuple([log for log in logs if log.is_plain_json])
        held = tuple([<LineQueue?>log.held for log in json_logs])
        secrets = tuple([<SecretNames?>by_names.setdefault(log.secrets.names, log.secrets) for log in json_logs])
        other_logs = (*[log for log in logs if not log.is_plain_json], *meters)
        consumers = <dict?>self._counters.consumers
        # All or nothing: the tuples are read by the index of one of them, which is not checked.
        self._json_logs, self._held, self._secrets, self._other_logs = json_logs, held, secrets, other_logs
        self._consumers = consumers
        self._sorts, self._pieces, self._target_rows, self._label_words = {}, {}, {}, {}
        self._generation += 1

    def __dealloc__(self):
        cdef int index
        if self._room is not NULL:
            for index in range(KINDS):
                Py_XDECREF(self._entries[index].route)
                Py_XDECREF(self._entries[index].sort)
        PyMem_Free(self._room)
        PyBuffer_Release(&self._column)

    def count_subrequest(self, ended, int status):
        cdef Exchange exchange = _exchange_of(ended)
        cdef Py_ssize_t upstream_row, target_row
        key = (exchange.upstream, exchange.target)
        rows = self._target_rows.get(key)
        if rows is None:
            if len(self._target_rows) >= MOST_TARGETS:
                self._target_rows.clear()
            rows = self._target_rows[key] = self._counters.upstream_rows(*key)
        upstream_row, target_row = rows
        self._check_rows(upstream_row, target_row)
        server_error = target_row + _TARGET_SERVER_ERRORS if status >= ERRORS else 0
        self._count_upstream(upstream_row, target_row, server_error, exchange.upstream_s, exchange.retries)

    cdef int _check_rows(self, Py_ssize_t upstream_row, Py_ssize_t target_row) except -1:
        """Check that the rows of an upstream and of a target are in the column."""
        self._at(upstream_row)
        self._at(upstream_row + _UPSTREAM_RETRIES)
        self._at(target_row)
        self._at(target_row + _TARGET_SERVER_ERRORS)
        return 0

    cdef void _count_upstream(
        self, Py_ssize_t upstream_row, Py_ssize_t target_row, Py_ssize_t server_error, double seconds, uint64_t retries
    ) noexcept:
        """Count a response of a target, in rows that were checked. `server_error`: 0 = it is none. `seconds`: negative,
        or NaN: there was no response.
        """
        cdef uint64_t* words = self._words
        cdef int bucket
        if retries:
            add_to_word(&words[upstream_row + _UPSTREAM_RETRIES], retries)
        if seconds >= 0.0:
            bucket = _bucket(seconds)
            add_to_word(&words[upstream_row + bucket], 1)
            add_to_word(&words[upstream_row + _SUM], <uint64_t>(seconds * 1e6))
            add_to_word(&words[target_row + bucket], 1)
            add_to_word(&words[target_row + _SUM], <uint64_t>(seconds * 1e6))
            if server_error:
                add_to_word(&words[server_error], 1)

    def count_content_coding(self, ended, int operation, int coding, uint64_t bytes_in, uint64_t bytes_out):
        # PERF: 4,100 instructions less than in three functions in Python, of which one was a property of the connection
        # (CPython 3.11, callgrind, micro/content_coding).
        if not (0 <= coding < CODINGS and 0 <= operation < CODING_OPERATIONS):
            raise ValueError("an unknown operation or coding")
        route = ended.route
        name = _NO_NAME if route is None else route.name
        self._count_label(_CODING_INPUT, name, coding * CODING_OPERATIONS + operation, bytes_in)
        self._count_label(_CODING_OUTPUT, name, coding * CODING_OPERATIONS + operation, bytes_out)

    def count_cache_miss(self, route, reason):
        self._count_label(_CACHE_MISS, route, reason, 1)

    cdef uint64_t* _at(self, Py_ssize_t word) except NULL:
        """Return the word of this number, which exists."""
        if not 0 <= word < self._word_count:
            raise IndexError("a word outside of the column")
        return &self._words[word]

    def finish(self, ended):
        cdef timespec now, date
        clock_gettime(CLOCK_MONOTONIC, &now)
        clock_gettime(CLOCK_REALTIME, &date)
        self._finish(ended, _seconds(now), _seconds(date))

    def finish_at(self, ended, double now, double date):
        self._finish(ended, now, date)

    cdef int _finish(self, object ended, double now, double date) except -1:
        cdef Exchange exchange = _exchange_of(ended)
        cdef RequestHead head = exchange.head
        cdef SecretNames secrets, before = None
        cdef Entry* entry
        cdef Sort sort
        cdef short method = _method(head), version = head.version
        cdef char line[MAX_LINE]
        cdef double duration_s, upstream_s, received_s = head.received_s
        cdef uint64_t request_bytes, response_bytes, retries
        cdef Py_ssize_t consumer_row, index, length = NO_LINE
        cdef uint64_t* words = self._words
        cdef uint64_t* consumer_words
        told = None

        entry = self._entry_of(exchange, method, version)
        sort = <Sort>entry.sort
        # As `first_byte_at` and `upstream_s_of`.
        duration_s = max(0.0, now - (<double>exchange.begun_at - received_s))
        upstream_s = exchange.upstream_s
        if upstream_s >= 0.0:
            upstream_s += received_s
        body = exchange.request_body
        request_bytes = exchange.request_bytes if body is None else body.bytes
        response_bytes, retries = exchange.response_bytes, exchange.retries
        cache_result = exchange.cache_result
        grpc_status = exchange.grpc_status
        trace = exchange.trace
        known = exchange.consumer
        known_as = None if known is None else known.name

        if known_as is not None:
            # PERF: 120 instructions for all counts of a consumer, by a function in Python 3,500 (CPython 3.11, callgrind).
            consumer_row = self._consumers.get(known_as, 0)
            if not 0 <= consumer_row < _CONSUMER_ROWS:
                raise ValueError("a consumer's index outside of the column")
            consumer_words = &words[_CONSUMERS_AT + consumer_row * _CONSUMER_WORDS]
            add_to_word(&consumer_words[_bucket(duration_s)], 1)
            add_to_word(&consumer_words[_CONSUMER_REQUEST_BYTES], request_bytes)
            add_to_word(&consumer_words[_CONSUMER_RESPONSE_BYTES], response_bytes)
            add_to_word(&consumer_words[_CONSUMER_CLASSES + min(sort.status // 100, _LAST_CLASS)], 1)
            if _is_given(cache_result):
                add_to_word(&consumer_words[_CONSUMER_CACHE + (1 if cache_result in _CACHE_HITS else 0)], 1)
        add_to_word(&words[entry.request], 1)
        if _is_given(cache_result):
            self._count_label(_CACHE, <object>entry.route, cache_result, 1)
        if _is_given(grpc_status):
            self._count_label(_GRPC, <object>entry.route, grpc_status, 1)
        add_to_word(&words[entry.row + _bucket(duration_s)], 1)
        add_to_word(&words[entry.row + _SUM], <uint64_t>(duration_s * 1e6))
        if request_bytes:
            add_to_word(&words[entry.row + _ROUTE_REQUEST_BYTES], request_bytes)
        if response_bytes:
            add_to_word(&words[entry.row + _ROUTE_RESPONSE_BYTES], response_bytes)
        self._count_upstream(sort.upstream_row, sort.target_row, sort.server_error, upstream_s, retries)
        if sort.fault_word:
            add_to_word(&words[sort.fault_word], 1)
            if sort.status >= ERRORS and entry.length:
                self._remember(ended)
        if trace is not None and trace.is_kept(sort.status, duration_s):
            trace.record(ended, now, date)
        if (sort.status >= self._story_status or duration_s > self._slower_than) and self._keep_story is not None:
            self._keep_story(ended, now, date)
        if self._other_logs:
            self._log_others(ended, now, date)
        for index in range(len(self._held)):
            secrets = <SecretNames>self._secrets[index]
            if secrets is not before:
                before, length = secrets, NO_LINE
                if sort.method and not entry.is_odd:
                    length = self._put_line(
                        line, exchange, entry, head, known_as, secrets, date, duration_s, upstream_s,
                        request_bytes, response_bytes, retries,
                    )
            if length == NO_LINE:
                if told is None:
                    told = record_of(ended, now, date)
                self._json_logs[index].add(lines.json_line(told, secrets.mask))
            elif not (<LineQueue>self._held[index]).append_line(line, length):
                self._json_logs[index].drop()
        return 0

    def _remember(self, ended):
        """Record a fault that the client did not cause."""
        self._counters.remember(ended.route.name, ended.target, ended.fault.label, ended.why)

    def _log_others(self, ended, double now, double date):
        """Log an exchange in the formats other than JSON, with chosen fields, and in logs of some exchanges; and tell
        the meters.
        """
        told = record_of(ended, now, date)
        told.exchange = ended
        if self._take_bodies is not None:
            told.bodies = self._take_bodies(ended)
        for log in self._other_logs:
            log.add_record(told)

    cdef Py_ssize_t _put_line(
        self, char* line, Exchange exchange, Entry* entry, RequestHead head, object known_as,
        SecretNames secrets, double date, double duration_s, double upstream_s, uint64_t request_bytes,
        uint64_t response_bytes, uint64_t retries,
    ) except -2:
        """Put the JSON line in place, and return its length; or `NO_LINE`."""
        cdef Sort sort = <Sort>entry.sort
        cdef Text host, path, query, user_agent, referer, request_id, client, consumer, detail
        cdef char* to = line
        cdef Seen seen
        cdef int64_t date_ms, duration_us = nearest_micros(duration_s)
        cdef int64_t upstream_us = nearest_micros(upstream_s) if upstream_s >= 0.0 else 0
        cdef Py_ssize_t length
        if duration_us < 0 or upstream_us < 0 or _is_given(exchange.shadowed):
            return NO_LINE
        cache_result = exchange.cache_result
        grpc_status = exchange.grpc_status
        trace = exchange.trace
        why = exchange.why
        asked = exchange.subrequests
        subrequests = None if asked is None else str(asked).encode(errors="backslashreplace") or None
        if not 0.0 <= date < 1e11:
            return NO_LINE
        if head.names & _UPGRADE and head.upgrade:
            return NO_LINE  # tunnels have more attributes
        host, path, query = _span(head, head.host_at), _span(head, head.path_at), _span(head, head.query_at)
        if not (host.length and path.length) and head.version != _TCP and head.version != _UDP:
            return NO_LINE
        if head._fields is None:
            user_agent, referer = _value(head, bit_of(USER_AGENT)), _value(head, bit_of(REFERER))
        else:
            edited_user_agent, edited_referer = head.first(b"user-agent"), head.first(b"referer")
            user_agent, referer = _text(edited_user_agent), _text(edited_referer)
        id_given = exchange.request_id
        request_id = _text(id_given)
        address = exchange.client_ip
        _find_utf8(address, &client)
        _find_utf8(known_as, &consumer)
        _find_utf8(why, &detail)
        length = (
            sort.length + entry.length + client.length + host.length + path.length + query.length
            + request_id.length + user_agent.length + referer.length + consumer.length + detail.length
        )
        if subrequests is not None:
            length += len(subrequests)
        if length > MAX_LINE - 448:  # the rest is numbers, quotes, and ids of a trace
            return NO_LINE
        if not client.length:
            return NO_LINE
        date_ms = <int64_t>(date * 1000)
        if date_ms // 1000 != self._second:
            self._second_text = lines.second_text(date_ms // 1000)
            self._second = date_ms // 1000
        memset(&seen, 0, sizeof(seen))
        to = _put_piece(to, sort, 0)
        to = put_text(to, PyBytes_AS_STRING(self._second_text), PyBytes_GET_SIZE(self._second_text), &seen)
        to[-1] = c"."
        to = put_digits(to, date_ms % 1000, 3)
        to[0] = c"Z"
        to[1] = c'"'
        to = _put_piece(to + 2, sort, 1)
        to = put_text(to, client.start, client.length, &seen)
        to = _put_piece(to, sort, 2)
        to = put_text(to, consumer.start, consumer.length, &seen)
        to = _put_piece(to, sort, 3)
        to = _put_name(to, entry)
        to = _put_piece(to, sort, 4)
        to = put_text(to, host.start, host.length, &seen)
        to = _put_piece(to, sort, 5)
        to = _put_masked(to, path, secrets, False, &seen)
        to = _put_piece(to, sort, 6)
        to = _put_masked(to, query, secrets, False, &seen)
        to = _put_piece(to, sort, 7)
        to = put_text(to, detail.start, detail.length, &seen)
        to = _put_piece(to, sort, 8)
        to = put_number(to, request_bytes)
        to = _put_piece(to, sort, 9)
        to = put_number(to, response_bytes)
        to = _put_piece(to, sort, 10)
        to = put_micros(to, duration_us)
        to = _put_piece(to, sort, 11)
        to = put_micros(to, upstream_us) if upstream_s >= 0.0 else put_text(to, NULL, 0, &seen)
        to = _put_piece(to, sort, 12)
        to = put_number(to, retries)
        to = _put_piece(to, sort, 13)
        to = put_text(to, request_id.start, request_id.length, &seen)
        to = _put_piece(to, sort, 14)
        to = _put_masked(to, user_agent, secrets, True, &seen)
        to = _put_piece(to, sort, 15)
        to = _put_masked(to, referer, secrets, False, &seen)
        to = _put_piece(to, sort, 16)
        if _is_given(cache_result):
            _find_utf8(cache_result, &client)
            to = _put_member(to, b',"cache":', client, &seen)
        if _is_given(grpc_status):
            _find_utf8(grpc_status, &client)
            to = _put_member(to, b',"grpc_status":', client, &seen)
        if trace is not None:
            trace_id, span_id = trace.trace_id, trace.span_id
            to = _put_member(to, b',"trace_id":', _text(trace_id), &seen)
            to = _put_member(to, b',"span_id":', _text(span_id), &seen)
        if subrequests is not None:
            to = _put_member(to, b',"subrequests":', _text(subrequests), &seen)
        return NO_LINE if any_of(seen.odd) else to - line

    cdef int _count_label(self, kind, route, label, uint64_t count) except -1:
        """Count by route and label. Not counted if the column has no free cell. PERF: 300 instructions, by a function
        in Python 2,500 (CPython 3.11, callgrind, micro/response_cache)."""
        key = kind, route, label
        known = self._label_words.get(key)
        if known is None:
            known = self._counters.label_word(kind, route, label)
            if known is None:
                return 0
            self._label_words[key] = known
        add_to_word(self._at(known), count)
        return 0

    cdef Entry* _entry_of(self, Exchange exchange, short method, short version) except NULL:
        cdef Entry* entry
        cdef Sort sort
        cdef int status
        cdef uintptr_t mixed
        cdef int probe
        cdef PyObject* route_name = <PyObject*>_NO_NAME
        route = exchange.route
        response = exchange.response
        fault = exchange.fault
        scheme = exchange.scheme
        upstream, target = exchange.upstream, exchange.target
        listener_name = exchange.listener.name
        if route is not None:
            read_name = (<Route>route).name if type(route) is Route else route.name
            route_name = <PyObject*>read_name
        label = "" if fault is None else fault.label
        status = CLIENT_LEFT if response is None else response.status
        mixed = <uintptr_t>route_name ^ <uintptr_t><PyObject*>target << 9 ^ <uintptr_t>status << 20
        mixed = (mixed ^ <uintptr_t>method << 32) * <uintptr_t>0x9E3779B97F4A7C15 >> 40
        for probe in range(PROBES):
            entry = &self._entries[(mixed + probe) % KINDS]
            if entry.generation != self._generation:
                break  # the first free place
            sort = <Sort>entry.sort
            if (
                entry.route is route_name and sort.target is target and sort.status == status
                and sort.method == method and sort.upstream is upstream and sort.listener is listener_name
                and sort.scheme is scheme and sort.fault is label and sort.version == version
            ):
                return entry
        else:
            entry = &self._entries[mixed % KINDS]  # of those in the way the first goes
        names = listener_name, <object>route_name, upstream, target, _METHODS[method], scheme, status, label, version
        self._learn(entry, series_kinds.SeriesKey(*names), method)
        return entry

    cdef void _sweep(self) noexcept:
        """Let go of entries of generations before, in a part of the table: else each holds its texts until another
        kind happens to come to the same index. One is added for each part, so few of them are ever left."""
        cdef Entry* entry
        cdef PyObject* route
        cdef PyObject* sort
        cdef int _
        for _ in range(SWEPT):
            entry = &self._entries[self._swept]
            self._swept = (self._swept + 1) % KINDS
            if entry.generation != self._generation and entry.sort is not NULL:
                route, sort = entry.route, entry.sort
                entry.route = entry.sort = NULL
                Py_XDECREF(route)
                Py_XDECREF(sort)

    cdef int _learn(self, Entry* entry, kind, short method) except -1:
        """Make it an entry of this kind."""
        cdef Sort sort
        cdef str route = kind.route
        self._sweep()
        words = self._counters.series_words(
            kind.listener, kind.route, kind.upstream, kind.method, kind.status, kind.fault, kind.target
        )
        request, row, upstream_row, target_row, server_error, fault_word = words
        if min(words) < 0 or max(row + _ROUTE_RESPONSE_BYTES, *words) >= self._word_count:
            raise ValueError("a word outside of the column")
        self._check_rows(upstream_row, target_row)
        alike = kind if kind.fault else kind._replace(route="")  # faults are counted by route
        sort = self._sorts.get(alike)
        if sort is None or not (
            sort.target is kind.target and sort.upstream is kind.upstream and sort.listener is kind.listener
            and sort.scheme is kind.scheme and sort.fault is kind.fault
        ):
            if len(self._sorts) >= series_kinds.MOST_SORTS:
                self._sorts, self._pieces = {}, {}
            pieces = tuple([self._pieces.setdefault(piece, piece) for piece in series_kinds.pieces_of(kind)])
            if len(pieces) != SLOTS + 1:
                raise ValueError("a line of another form")
            sort = Sort()
            sort.target, sort.upstream, sort.listener = kind.target, kind.upstream, kind.listener
            sort.scheme, sort.fault, sort.status = kind.scheme, kind.fault, kind.status
            sort.method, sort.version = method, kind.version
            sort.pieces, sort.length = pieces, sum(map(len, pieces))
            sort.upstream_row, sort.target_row = upstream_row, target_row
            sort.server_error, sort.fault_word = server_error, fault_word
            self._sorts[alike] = sort
        before = entry[0]
        Py_INCREF(route)
        Py_INCREF(sort)
        entry.route, entry.sort, entry.generation = <PyObject*>route, <PyObject*>sort, self._generation
        entry.request, entry.row, entry.length = request, row, <unsigned int>len(route)
        entry.is_odd = _PLAIN.fullmatch(route) is None
        if entry.length <= SHORT and not entry.is_odd:
            memcpy(entry.name, PyUnicode_DATA(route), entry.length)
        Py_XDECREF(before.route)
        Py_XDECREF(before.sort)
        return 0


cdef inline double _seconds(timespec at) noexcept nogil:
    """Return seconds, as `time.time` and `time.monotonic` do."""
    return <double>(<int64_t>at.tv_sec * 1000000000 + at.tv_nsec) / 1e9


cdef inline char* _put_piece(char* to, Sort sort, int index) noexcept:
    cdef PyObject* piece = PyTuple_GET_ITEM(sort.pieces, index)
    memcpy(to, PyBytes_AS_STRING(<bytes>piece), PyBytes_GET_SIZE(<bytes>piece))
    return to + PyBytes_GET_SIZE(<bytes>piece)


cdef inline char* _put_member(char* to, bytes key, Text text, Seen* seen):
    """Put another member in front of the end of the line. `key`: with its comma and colon."""
    memcpy(to - 2, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
    to = put_text(to - 2 + PyBytes_GET_SIZE(key), text.start, text.length, seen)
    memcpy(to, b"}\n", 2)
    return to + 2


cdef char* _put_masked(char* to, Text text, SecretNames secrets, bint has_words, Seen* seen) except NULL:
    """Put a text with its secrets masked. `has_words`: it is no URL, but may have some."""
    cdef char* end
    cdef bytes whole, shown
    memset(&seen.marked, 0, sizeof(seen.marked))
    end = put_text(to, text.start, text.length, seen)
    if not any_of(seen.marked) or (not has_words and secrets.hides_nothing(text.start, text.length)):
        return end
    whole = PyBytes_FromStringAndSize(text.start, text.length)
    shown = lines.masked_words(whole, secrets.mask) if has_words else secrets.mask(whole)
    if shown is whole:
        return end
    if PyBytes_GET_SIZE(shown) > text.length:  # there may be no room for it
        memset(&seen.odd, 0xFF, sizeof(seen.odd))
        return end
    return put_text(to, PyBytes_AS_STRING(shown), PyBytes_GET_SIZE(shown), seen)


cdef inline char* _put_name(char* to, Entry* entry) noexcept:
    """Put the route's name, which is known to be plain, as `put_text` does."""
    cdef unsigned int length = entry.length
    if not length:
        memcpy(to, b"null", 4)
        return to + 4
    to[0] = c'"'
    memcpy(to + 1, entry.name if length <= SHORT else PyUnicode_DATA(<object>entry.route), length)
    to[length + 1] = c'"'
    return to + length + 2
