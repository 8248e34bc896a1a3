# cython: language_level=3, boundscheck=False, wraparound=False
"""Compiled `table`: finds the route of an ordinary request, and says when to ask the reference.

All hosts share one tree in C memory, which is built once and then only read: workers that were forked share its pages.
It is built and freed in steps of at most 50 us, while the previous table serves requests. Nodes are numbers. A hash
table maps a node and the text of a segment to the child; each node has its parent, so a search needs no stack. The path
of an exact pattern is a single text at the root of its host: it never equals a segment, which has no slash.

With 10,000 routes the next one is not in a near cache, so the number of cache lines that a lookup reads decides: a node
is one cache line, including its text and its first entry. PERF: a prefix reads 2 lines; with separate entries and
matches 4.2, with separate texts 6.4 (simulated for 1 MiB by valgrind, micro/routes).

Clients cannot add texts, so the longest probe sequence depends on the configuration only. A segment longer than all
child texts of a node is not hashed, and a path is not split deeper than the patterns of its host.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

from fastgw.http.http1.parser cimport Http1RequestHead

from fastgw.config.base.route_patterns import MixedSegment, PathKind

cdef enum:
    DEPTH = 32  # segments; hosts with longer patterns use the reference
    METHODS = 64  # bits of an entry; routes with further methods use the reference
    LENGTH_MAX = 0x7FFFFFFF  # bytes of a path, a host, or all texts
    NOTHING = -1
    ASK = -2  # call the reference
    EXACT_HOSTS = 1  # nodes whose children are host names
    WILDCARD_HOSTS = 2
    SHORT = 20  # bytes of text that are stored in the node
    MIXED = 1  # `length` of the node of a parameter: patterns have text with parameters in its place
    PIECE = 1024  # slots, texts or matches per step
    FEWEST_SLOTS = 128  # more than the number of steps of the longest pattern

cdef struct Text:
    const char* at
    uint32_t length
    uint32_t hash  # 0: not computed yet

cdef struct Entry:
    uint64_t methods  # bits of the methods; 0: any
    PyObject* routed  # borrowed from `_routed`; NULL: no entry
    uint32_t following  # next entry of the same node, in match order
    char asks  # it has conditions for the reference
    char parameters
    char takes_rest

cdef union Leading:
    char[SHORT] short_text
    uint32_t text  # offset in `_texts`, if it is longer than `SHORT`

cdef struct Place:  # one cache line, including the 32 bytes that `memcmp` reads at once
    Leading leading
    uint32_t length  # length of the node's text; of a parameter: 0 or MIXED
    Entry ends  # first entry of patterns that end here: a prefix, if the node is reached by text only
    int32_t above
    uint32_t longest  # longest child text + 1; 0: no child
    int32_t parameter  # child for any segment; 0: none
    uint32_t rest  # first entry whose `:path` parameter matches the remaining path; for a host's name, the host

cdef struct Step:
    uint32_t key
    int32_t below  # child; 0: the slot is free

cdef struct Host:
    Entry any_path  # first entry without a path
    int32_t root
    int32_t beyond  # next less specific host
    int32_t depth  # segments of the longest pattern in the tree; 0: none
    uint32_t longest  # length of the longest exact path, + 1
    bint turns  # it has patterns with parameters
    bint regexes
    bint asks  # its patterns are too long for this module


cdef inline uint32_t _hash(const char* at, uint32_t length) noexcept:
    cdef uint64_t mixed = length, word
    while length >= 8:
        memcpy(&word, at, 8)
        mixed = (mixed ^ word) * <uint64_t>0x9E3779B97F4A7C15
        mixed ^= mixed >> 29
        at += 8
        length -= 8
    word = 0
    memcpy(&word, at, length)
    mixed = (mixed ^ word) * <uint64_t>0x9E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 32)) * <uint64_t>0xD6E8FEB86659FD93
    return <uint32_t>(mixed >> 32) or 1


cdef inline uint32_t _key(int32_t place, Text* text) noexcept:
    if not text.hash:
        text.hash = _hash(text.at, text.length)
    return text.hash ^ <uint32_t>place * <uint32_t>0x9E3779B1


cdef inline Text _text(const char* at, Py_ssize_t length) noexcept:
    cdef Text text
    text.at = at
    text.length = <uint32_t>length
    text.hash = 0
    return text


cdef Text _text_of(bytes text):
    if PyBytes_GET_SIZE(text) > LENGTH_MAX:
        raise OverflowError("a text in a route is too long")
    return _text(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef void* _with_room(void* array, size_t count, size_t size) except NULL:
    """`array`, moved if it is full: its capacity doubles when `count` is a power of 2."""
    if count & (count - 1):
        return array
    return _resized(array, 2 * count or 1, size)


cdef Step* _new_steps(size_t count) except NULL:
    """Return this many free slots."""
    cdef Step* steps = <Step*>PyMem_Calloc(count, sizeof(Step))
    if steps is NULL:
        raise MemoryError
    return steps


cdef void* _resized(void* array, size_t count, size_t size) except NULL:
    array = PyMem_Realloc(array, count * size or 1)
    if array is NULL:
        raise MemoryError
    return array


@cython.final
@cython.no_gc_clear  # `find` relies on its lists even during a garbage collection
cdef class Tables:
    """Tables of one router."""

    cdef Host* _hosts
    cdef Place* _places
    cdef char* _place_room  # allocation that contains the nodes
    cdef Step* _steps
    cdef Step* _wider  # `_steps` from `_moved` on are still to be moved there; NULL: no growth in progress
    cdef Entry* _entries  # entries that follow others, and of `rest`; 0: none
    cdef Entry _asking  # marker: call the reference
    cdef char* _texts
    cdef uint32_t _place_count
    cdef uint32_t _entry_count
    cdef uint32_t _step_count
    cdef uint32_t _host_count
    cdef uint32_t _mask  # slots of `_steps` - 1
    cdef uint32_t _moved
    cdef size_t _text_length
    cdef size_t _text_room
    cdef size_t _method_count
    cdef int32_t _any_host
    cdef bint _by_host
    cdef Text[METHODS] _methods
    cdef list _method_names
    cdef list _routed  # routes of the entries; with parameters: with names and positions
    cdef dict _known  # text -> offset: the same `v1` below 10,000 nodes is stored once
    cdef object _no_parameters

    def __cinit__(self, no_parameters):
        cdef Entry none
        self._no_parameters = no_parameters
        self._method_names = []
        self._routed = []
        self._known = {}
        self._any_host = NOTHING
        self._mask = FEWEST_SLOTS - 1
        self._steps = _new_steps(FEWEST_SLOTS)
        self._text_room = 64
        self._texts = <char*>_resized(NULL, self._text_room, 1)
        self._asking.asks = True
        memset(&none, 0, sizeof(Entry))
        self._keep(none)
        for _ in range(WILDCARD_HOSTS + 1):  # the host nodes, and node 0, which means none
            self._new_place(0)

    def __dealloc__(self):
        self._free()

    # --- finding

    def find(self, request):
        """Return the result of `Router.find`, or NotImplemented: call the reference."""
        return self._find(request)

    cdef object _find(self, request):
        cdef Http1RequestHead head
        cdef const char* source
        cdef bytes host, path, method
        if type(request) is Http1RequestHead and (<Http1RequestHead>request)._path is not None:
            # PERF: without objects for host and method: 600 instructions less for a GET (CPython 3.11, callgrind,
            # micro/routes).
            head = <Http1RequestHead>request
            source = PyBytes_AS_STRING(head.source)
            host_at = head.host_at
            return self._found(
                source + host_at.start, host_at.length, head._path, source, head.method_length
            )
        host, path, method = request.host, request.path, request.method
        if host is None or path is None or method is None:
            raise TypeError("expected bytes")
        return self._found(
            PyBytes_AS_STRING(host), PyBytes_GET_SIZE(host), path, PyBytes_AS_STRING(method), PyBytes_GET_SIZE(method)
        )

    cdef object _found(
        self, const char* host, Py_ssize_t host_length, bytes path, const char* method, Py_ssize_t method_length
    ):
        cdef Text[DEPTH + 1] segments
        cdef const char* at = PyBytes_AS_STRING(path)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(path)
        cdef int32_t number = self._any_host
        cdef Entry* entry
        cdef uint64_t bit
        if length == 0 or length > LENGTH_MAX or at[0] != c"/":
            return NotImplemented
        if self._by_host:
            number = self._host_of(host, host_length)
        bit = self._bit_of(method, method_length)
        while number >= 0:
            entry = self._first(&self._hosts[number], at, <uint32_t>length, bit, segments)
            if entry is not NULL:
                return NotImplemented if entry.asks else self._matched(entry, segments, at + length)
            number = self._hosts[number].beyond
        return NotImplemented if number == ASK else None

    cdef object _matched(self, Entry* entry, Text* segments, const char* end):
        """Return the match of an entry; `segments` are those of the path, which ends at `end`."""
        cdef Text* segment
        cdef dict params
        cdef tuple places
        routed = <object>entry.routed
        if not entry.parameters:
            return routed, self._no_parameters
        route, places = <tuple>routed
        params = {}
        for name, number in places:
            segment = &segments[<int32_t>number - 1]
            if entry.takes_rest and len(params) + 1 == len(places):  # the last parameter
                segment.length = <uint32_t>(end - segment.at)
            params[name] = PyBytes_FromStringAndSize(segment.at, segment.length)
        return route, params

    cdef int32_t _host_of(self, const char* name, Py_ssize_t length) noexcept:
        """Return the most specific host for a name; NOTHING; ASK for another spelling of an IPv6 address."""
        cdef Text text
        cdef int32_t place
        cdef Py_ssize_t longest = self._places[WILDCARD_HOSTS].longest
        cdef const char* end = name + length
        if length > LENGTH_MAX:
            return ASK
        text = _text(name, length)
        place = self._below(EXACT_HOSTS, &text)
        if place:
            return <int32_t>self._places[place].rest
        if length and name[0] == c"[":
            return ASK
        # Start no further left than a wildcard reaches: a host of 30,000 dots must not cost 30,000 lookups.
        name = end - longest + 1 if longest <= length else name + 1
        while name < end:
            name = <const char*>memchr(name, c".", end - name)
            if name is NULL:
                break
            text = _text(name, end - name)
            place = self._below(WILDCARD_HOSTS, &text)
            if place:
                return <int32_t>self._places[place].rest
            name += 1
        return self._any_host

    cdef uint64_t _bit_of(self, const char* method, Py_ssize_t length) noexcept:
        """Return the bit of a method; 0: no route names it."""
        cdef size_t number
        for number in range(self._method_count):
            if self._methods[number].length == length and not memcmp(self._methods[number].at, method, length):
                return <uint64_t>1 << number
        return 0

    cdef Entry* _first(self, Host* host, const char* path, uint32_t length, uint64_t bit, Text* segments) noexcept:
        """Return the first entry of a host that accepts a path and a method; NULL: none does. Fills in `segments`."""
        cdef Text text
        cdef Entry* found
        cdef int32_t place, deepest
        cdef int32_t count, level = 0
        if host.asks:
            return &self._asking
        if length < host.longest:
            text = _text(path, length)
            found = self._fitting(&self._places[self._slot(host.root, &text).below].ends, bit)
            if found is not NULL:
                return found
        if host.depth:
            count = _cut(path, length, host.depth, segments)
            deepest = self._descend(host.root, segments, &level, count)
            found = self._turning(host.root, deepest, segments, level, count, bit) if host.turns else NULL
            if found is not NULL:
                return found
            place = deepest
            while place:
                found = self._fitting(&self._places[place].ends, bit)
                if found is not NULL:
                    return found
                place = self._places[place].above
        return &self._asking if host.regexes else self._fitting(&host.any_path, bit)

    cdef Entry* _turning(
        self, int32_t root, int32_t place, Text* segments, int32_t level, int32_t count, uint64_t bit
    ) noexcept:
        """Return the first entry with parameters, from the last node reached by text only, upwards to the root."""
        cdef Entry* found
        cdef int32_t below
        cdef bint parameter_tried = False
        while True:
            if level < count:
                if not parameter_tried and self._places[place].parameter and segments[level].length:
                    level += 1
                    place = self._places[place].parameter
                    if self._places[place].length == MIXED:
                        return &self._asking
                    place = self._descend(place, segments, &level, count)
                    if level == count:
                        found = self._fitting(&self._places[place].ends, bit)
                        if found is not NULL:
                            return found
                    continue
                found = self._fitting(&self._entries[self._places[place].rest], bit)
                if found is not NULL:
                    return found
            if place == root:
                return NULL
            below, place = place, self._places[place].above
            parameter_tried = self._places[place].parameter == below
            level -= 1

    cdef int32_t _descend(self, int32_t place, Text* segments, int32_t* level, int32_t count) noexcept:
        """Return the last node that is reached from `place` by text only."""
        cdef int32_t below
        while level[0] < count:
            below = self._below(place, &segments[level[0]])
            if not below:
                break
            place = below
            level[0] += 1
        return place

    cdef int32_t _below(self, int32_t place, Text* text) noexcept:
        """Return the child of `place` with this text; 0: none."""
        return self._slot(place, text).below if text.length < self._places[place].longest else 0

    cdef Step* _slot(self, int32_t place, Text* text) noexcept:
        """Return the slot of this step, or the slot for it. A third of the slots are free, so there is one."""
        cdef Step* step
        cdef uint32_t key = _key(place, text)
        cdef uint32_t slot = key & self._mask
        while True:
            step = &self._steps[slot]
            if not step.below or (step.key == key and self._leads(&self._places[step.below], place, text)):
                return step
            slot = (slot + 1) & self._mask

    cdef bint _leads(self, Place* to, int32_t above, Text* text) noexcept:
        """Whether this text leads from `above` to this node."""
        if to.above != above or to.length != text.length:
            return False
        if to.length <= SHORT:
            return not memcmp(to.leading.short_text, text.at, to.length)
        return not memcmp(self._texts + to.leading.text, text.at, to.length)

    cdef Entry* _fitting(self, Entry* entry, uint64_t bit) noexcept:
        """Return the first entry, from `entry` on, that accepts the method with this bit; NULL: none does."""
        while entry.routed is not NULL:
            if not entry.methods or entry.methods & bit:
                return entry
            entry = &self._entries[entry.following]
        return NULL

    # --- making

    def add_host(self, bytes name not None, bint wildcard, int32_t beyond):
        """Add a host and return its number. `beyond`: number of the next less specific host, or -1."""
        cdef Host* host
        cdef int32_t number = <int32_t>self._host_count
        if not NOTHING <= beyond < number:
            raise ValueError("a host has to come after the less specific ones")
        while self.widen():
            pass
        self._hosts = <Host*>_with_room(self._hosts, self._host_count, sizeof(Host))
        host = &self._hosts[number]
        memset(host, 0, sizeof(Host))
        host.root = self._new_place(0)
        host.beyond = beyond
        if name:
            self._by_host = True
            place = WILDCARD_HOSTS if wildcard else EXACT_HOSTS
            self._longer(place, name)
            self._places[self._grown(place, name)].rest = number
        else:
            self._any_host = number
        self._host_count += 1
        return number

    def add(self, uint32_t number, entry):
        """Add an entry of the reference to a host, before entries that end at the same node."""
        cdef Host* host
        cdef int32_t place
        if number >= self._host_count:
            raise ValueError("there is no such host")
        while self.widen():
            pass
        host = &self._hosts[number]
        path = entry.path
        if path is None:
            self._end(&host.any_path, entry)
        elif path.kind is PathKind.REGEX:
            host.regexes = True
        elif path.kind is PathKind.EXACT:
            text = path.literal
            host.longest = max(host.longest, <uint32_t>len(text) + 1)
            place = self._grown(host.root, text)
            self._end(&self._places[place].ends, entry)
        elif len(path.segments) > DEPTH:
            host.asks = True
        else:
            host.depth = max(host.depth, <int32_t>len(path.segments), 1)  # `/*` has no segment but is looked up
            host.turns = host.turns or path.kind is PathKind.PARAMETERS
            place = host.root
            for segment in path.segments:
                if type(segment) is bytes:
                    self._longer(place, segment)
                    place = self._grown(place, segment)
                elif type(segment) is MixedSegment:
                    self._places[self._parameter(place)].length = MIXED
                    return
                elif segment.rest:
                    self._places[place].rest = self._keep(self._new_entry(entry, self._places[place].rest))
                    return
                else:
                    place = self._parameter(place)
            self._end(&self._places[place].ends, entry)

    def widen(self):
        """Grow the tables for the next entries, in one step. False: nothing is left to do."""
        cdef size_t slots = <size_t>self._mask + 1
        cdef uint32_t mask = <uint32_t>(2 * slots - 1)
        cdef uint32_t slot, until
        cdef Step* step
        if self._wider is NULL:
            if 3 * (<size_t>self._step_count + DEPTH + 1) <= 2 * slots:  # no pattern has more steps
                return False
            self._wider = _new_steps(2 * slots)
            self._moved = 0
        until = min(self._moved + <uint32_t>PIECE, <uint32_t>slots)
        while self._moved < until:
            step = &self._steps[self._moved]
            if step.below:
                slot = step.key & mask
                while self._wider[slot].below:
                    slot = (slot + 1) & mask
                self._wider[slot] = step[0]
            self._moved += 1
        if until == slots:
            PyMem_Free(self._steps)
            self._steps, self._wider = self._wider, NULL
            self._mask = mask
        return True

    def seal(self):
        """Complete the table in steps, and free what only building needs. False: nothing is left to do."""
        cdef int left = PIECE
        if self._known is None:
            return False
        while self._known and left:
            self._known.popitem()
            left -= 1
        if not self._known:
            self._known = None
            self._texts = <char*>_resized(self._texts, self._text_length, 1)
            self._make_room(self._place_count)
            self._entries = <Entry*>_resized(self._entries, self._entry_count, sizeof(Entry))
        return True

    def release(self):
        """Free a part of the memory; lookups use the reference from then on. False: nothing is left to free."""
        self._by_host, self._any_host = False, ASK
        if self._routed:
            del self._routed[-PIECE:]
            return True
        self._free()
        return False

    cdef void _free(self) noexcept:
        PyMem_Free(self._hosts)
        PyMem_Free(self._place_room)
        PyMem_Free(self._steps)
        PyMem_Free(self._wider)
        PyMem_Free(self._entries)
        PyMem_Free(self._texts)
        self._hosts, self._places, self._place_room, self._entries, self._texts = NULL, NULL, NULL, NULL, NULL
        self._steps, self._wider = NULL, NULL

    cdef void _longer(self, int32_t place, bytes text) noexcept:
        self._places[place].longest = max(self._places[place].longest, <uint32_t>PyBytes_GET_SIZE(text) + 1)

    cdef int _end(self, Entry* first, entry) except -1:
        """Add an entry before those that begin with `first`."""
        cdef uint32_t following = 0 if first.routed is NULL else self._keep(first[0])
        first[0] = self._new_entry(entry, following)
        return 0

    cdef uint32_t _keep(self, Entry entry) except? 0:
        """Store an entry and return its number."""
        self._entries = <Entry*>_with_room(self._entries, self._entry_count, sizeof(Entry))
        self._entries[self._entry_count] = entry
        self._entry_count += 1
        return self._entry_count - 1

    cdef Entry _new_entry(self, entry, uint32_t following) except *:
        cdef Entry made
        cdef int bit
        made.methods = 0
        made.following = following
        made.asks = not entry.only_method
        made.parameters = entry.ready is None
        for method in entry.methods:
            bit = self._new_method(method)
            if bit == NOTHING:
                made.methods, made.asks = 0, True
                break
            made.methods |= <uint64_t>1 << bit
        made.takes_rest = entry.takes_rest
        routed = (entry.route, entry.places) if made.parameters else entry.route
        self._routed.append(routed)
        made.routed = <PyObject*>routed
        return made

    cdef int _new_method(self, bytes method) except ASK:
        """Return the bit number of a method, or NOTHING when there are no more."""
        if method not in self._method_names:
            if self._method_count == METHODS:
                return NOTHING
            self._methods[self._method_count] = _text_of(method)
            self._method_names.append(method)
            self._method_count += 1
        return self._method_names.index(method)

    cdef int32_t _new_place(self, int32_t above) except NOTHING:
        cdef Place* made
        if not self._place_count & (self._place_count - 1):
            self._make_room(2 * <size_t>self._place_count or 1)
        made = &self._places[self._place_count]
        memset(made, 0, sizeof(Place))
        made.above = above
        self._place_count += 1
        return <int32_t>self._place_count - 1

    cdef int _make_room(self, size_t count) except -1:
        """Allocate this many nodes, aligned on cache lines."""
        cdef size_t began = <char*>self._places - self._place_room
        cdef size_t begin
        self._place_room = <char*>_resized(self._place_room, count + 1, sizeof(Place))
        begin = sizeof(Place) - <uintptr_t>self._place_room % sizeof(Place)
        if begin != began:
            memmove(self._place_room + begin, self._place_room + began, self._place_count * sizeof(Place))
        self._places = <Place*>(self._place_room + begin)
        return 0

    cdef int32_t _parameter(self, int32_t above) except NOTHING:
        cdef int32_t place = self._places[above].parameter
        if not place:
            place = self._new_place(above)
            self._places[above].parameter = place
        return place

    cdef int32_t _grown(self, int32_t above, bytes text) except NOTHING:
        """Return the child with this text, and create it if it is missing."""
        cdef Text key = _text_of(text)
        cdef Step* step = self._slot(above, &key)
        cdef Place* made
        if not step.below:
            step.below = self._new_place(above)
            step.key = _key(above, &key)
            self._step_count += 1
            made = &self._places[step.below]
            made.length = key.length
            if key.length <= SHORT:
                memcpy(made.leading.short_text, key.at, key.length)
            else:
                if text not in self._known:
                    self._known[text] = self._new_text(key)
                made.leading.text = self._known[text]
        return step.below

    cdef size_t _new_text(self, Text text) except? 0:
        cdef size_t begin = self._text_length
        if begin + text.length > LENGTH_MAX:
            raise OverflowError("the texts in the routes are too long")
        while begin + text.length > self._text_room:
            self._text_room *= 2
            self._texts = <char*>_resized(self._texts, self._text_room, 1)
        memcpy(self._texts + begin, text.at, text.length)
        self._text_length += text.length
        return begin


cdef int32_t _cut(const char* path, uint32_t length, int32_t depth, Text* segments) noexcept:
    """Split off the first `depth` segments of a path; the remaining path is one more. Return the number of all
    segments.
    """
    cdef const char* at = path + 1
    cdef const char* end = path + length
    cdef const char* slash
    cdef int32_t count
    for count in range(depth):
        slash = <const char*>memchr(at, c"/", end - at)
        if slash is NULL:
            slash = end
        segments[count] = _text(at, slash - at)
        if slash == end:
            return count + 1
        at = slash + 1
    segments[depth] = _text(at, end - at)
    return depth + 1


cdef class Finder:
    """Lookup part of a `Router`: uses the compiled tables, and `find_in_turn` for the rest."""

    def find(self, request):
        """Compiled `Router.find`."""
        return match_of(self, request)


cpdef match_of(Finder router, request):
    # PERF: 300 instructions less than by the method (CPython 3.11, callgrind, micro/exchange).
    if type(router.compiled) is Tables:
        found = (<Tables>router.compiled)._find(request)
        if found is not NotImplemented:
            return found
    return router.find_in_turn(request)
