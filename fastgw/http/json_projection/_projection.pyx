# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""Compiled `projection`: checks a JSON text and copies what is kept, in one pass and without objects.

A text is left to the reference (None) if it is invalid for `_json_text`, or has an escaped name or a member with the new
name of another one where members are chosen.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

from fastgw.http._json_text cimport (
    DEEPEST, HIGHS, JsonScan, ONES, begin_scan, check_string, check_value, end_scan, hash_name, note_name, names_differ,
    past_space,
)

from os import urandom

cdef enum Action:
    DROP = 0
    KEEP = 1
    DESCEND = 2

cdef enum Result:
    LEFT = -1  # to the reference
    NONE_LEFT = 0
    WRITTEN = 1
    WRITTEN_EMPTY = 2

cdef struct Rule:
    uint64_t hash
    const char* name
    Py_ssize_t length
    int action
    Node* node
    const char* written  # new name with its quotation marks; NULL: it keeps its name
    Py_ssize_t written_length

cdef struct Node:
    bint prunes
    bint has_elements
    Py_ssize_t count
    Rule* rules
    Rule others
    Rule elements
    Py_ssize_t new_count
    uint64_t* new_names  # hashes

cdef struct Projecting:
    JsonScan text
    uint8_t* out
    Py_ssize_t used
    Py_ssize_t capacity

cdef enum:
    LONG = 4096  # bytes of a text from which on other threads go on meanwhile

cdef uint64_t SEED = int.from_bytes(urandom(8), "little")


cdef bint _read_name(JsonScan* scan, const uint8_t** name, Py_ssize_t* length, uint64_t* made) noexcept nogil:
    """Read the name of a member with the colon, up to its value."""
    cdef bint escaped
    if scan.at >= scan.end or scan.at[0] != 34:
        return False
    name[0] = scan.at + 1
    if not check_string(scan, &escaped) or escaped:
        return False
    length[0] = scan.at - name[0] - 1
    made[0] = hash_name(SEED, name[0], name[0] + length[0], False)
    if not note_name(scan, made[0]):
        return False
    scan.at = past_space(scan.at, scan.end)
    if scan.at >= scan.end or scan.at[0] != 58:
        return False
    scan.at = past_space(scan.at + 1, scan.end)
    return True


cdef bint _goes_on(JsonScan* scan, uint8_t closing, bint* over) noexcept nogil:
    """Go past the comma or the closing bracket behind a member or element."""
    scan.at = past_space(scan.at, scan.end)
    if scan.at >= scan.end:
        return False
    over[0] = scan.at[0] == closing
    if not over[0] and scan.at[0] != 44:
        return False
    scan.at += 1
    if not over[0]:
        scan.at = past_space(scan.at, scan.end)
    return True


cdef bint _write(Projecting* work, const void* piece, Py_ssize_t length) noexcept nogil:
    cdef uint8_t* grown
    if work.used + length > work.capacity:
        grown = <uint8_t*> realloc(work.out, 2 * (work.used + length))
        if grown == NULL:
            return False
        work.out = grown
        work.capacity = 2 * (work.used + length)
    memcpy(work.out + work.used, piece, length)
    work.used += length
    return True


cdef int _put_by(Projecting* work, const Rule* rule, int depth) noexcept nogil:
    """Copy a value as a rule says. It may be dropped."""
    cdef JsonScan* text = &work.text
    cdef const uint8_t* begin = text.at
    if rule.action == DESCEND:
        return _put_inside(work, rule.node, depth)
    if not check_value(text, depth):
        return LEFT
    if rule.action == DROP:
        return NONE_LEFT
    return WRITTEN if _write(work, begin, text.at - begin) else LEFT


cdef const Rule* _rule_for(const Node* node, const uint8_t* name, Py_ssize_t length, uint64_t made) noexcept nogil:
    cdef Py_ssize_t index
    for index in range(node.count):
        if node.rules[index].hash == made and node.rules[index].length == length:
            if memcmp(node.rules[index].name, name, length) == 0:
                return &node.rules[index]
    return &node.others


cdef int _put_inside(Projecting* work, const Node* node, int depth) noexcept nogil:
    cdef JsonScan* text = &work.text
    cdef const uint8_t* begin = text.at
    if text.at >= text.end or depth > DEEPEST:
        return LEFT
    if text.at[0] == 123:
        return _put_object(work, node, depth)
    if text.at[0] == 91:
        if node.has_elements:
            return _put_array(work, node, depth)
        return NONE_LEFT if check_value(text, depth) else LEFT
    if not check_value(text, depth):
        return LEFT
    if node.prunes:
        return NONE_LEFT
    return WRITTEN if _write(work, begin, text.at - begin) else LEFT


cdef int _put_object(Projecting* work, const Node* node, int depth) noexcept nogil:
    cdef JsonScan* text = &work.text
    cdef const uint8_t* name
    cdef Py_ssize_t length, index, before, since = text.names_used
    cdef uint64_t made
    cdef const Rule* rule
    cdef int result
    cdef bint over = False, is_empty = True
    text.at += 1
    if not _write(work, b"{", 1):
        return LEFT
    text.at = past_space(text.at, text.end)
    if text.at < text.end and text.at[0] == 125:
        text.at += 1
        return WRITTEN_EMPTY if _write(work, b"}", 1) else LEFT
    while not over:
        if not _read_name(text, &name, &length, &made):
            return LEFT
        rule = _rule_for(node, name, length, made)
        if rule.action == DROP:
            if not check_value(text, depth + 1):
                return LEFT
        else:
            for index in range(node.new_count):
                if node.new_names[index] == made:
                    return LEFT  # which one stays depends on all members
            before = work.used
            if not is_empty and not _write(work, b",", 1):
                return LEFT
            if rule.written != NULL:
                if not _write(work, rule.written, rule.written_length):
                    return LEFT
            elif not _write(work, name - 1, length + 2):
                return LEFT
            if not _write(work, b":", 1):
                return LEFT
            result = _put_by(work, rule, depth + 1)
            if result == LEFT:
                return LEFT
            if result == NONE_LEFT or (result == WRITTEN_EMPTY and rule.action == DESCEND and rule.node.prunes):
                work.used = before
            else:
                is_empty = False
        if not _goes_on(text, 125, &over):
            return LEFT
    if not names_differ(text, since) or not _write(work, b"}", 1):
        return LEFT
    return WRITTEN_EMPTY if is_empty else WRITTEN


cdef int _put_array(Projecting* work, const Node* node, int depth) noexcept nogil:
    cdef JsonScan* text = &work.text
    cdef Py_ssize_t before
    cdef int result
    cdef bint over = False, is_empty = True
    text.at += 1
    if not _write(work, b"[", 1):
        return LEFT
    text.at = past_space(text.at, text.end)
    if text.at < text.end and text.at[0] == 93:
        text.at += 1
        return WRITTEN_EMPTY if _write(work, b"]", 1) else LEFT
    while not over:
        before = work.used
        if not is_empty and not _write(work, b",", 1):
            return LEFT
        result = _put_by(work, &node.elements, depth + 1)
        if result == LEFT:
            return LEFT
        if result == NONE_LEFT:
            work.used = before
        else:
            is_empty = False
        if not _goes_on(text, 93, &over):
            return LEFT
    if not _write(work, b"]", 1):
        return LEFT
    return WRITTEN_EMPTY if is_empty else WRITTEN


@cython.final
cdef class CompiledProjection:
    """Compiled plan of a `Projection`."""

    cdef Node* _root
    cdef list _held  # names, which the rules point into
    cdef bint _keeps_all

    def __cinit__(self, plan, whole):
        self._held = []
        self._root = <Node*> calloc(1, sizeof(Node))
        if self._root == NULL:
            raise MemoryError
        self._fill(self._root, plan, whole)
        self._keeps_all = not (plan.prunes or plan.members) and plan.others is whole.KEEP

    def __dealloc__(self):
        _free(self._root)

    cdef int _fill(self, Node* node, plan, whole) except -1:
        cdef Py_ssize_t index = 0
        cdef bytes text
        node.prunes = plan.prunes
        node.has_elements = plan.elements is not None
        self._set(&node.others, plan.others, whole)
        if plan.elements is not None:
            self._set(&node.elements, plan.elements, whole)
        if plan.members:
            node.rules = <Rule*> calloc(len(plan.members), sizeof(Rule))
            if node.rules == NULL:
                raise MemoryError
            for name, rule in plan.members.items():
                text = name.encode()
                self._held.append(text)
                node.count = index + 1
                node.rules[index].name = PyBytes_AS_STRING(text)
                node.rules[index].length = PyBytes_GET_SIZE(text)
                node.rules[index].hash = _hash_of(text)
                if name in plan.renamed:
                    from fastgw.http.json_projection.projection import written_name
                    text = written_name(plan.renamed[name])
                    self._held.append(text)
                    node.rules[index].written = PyBytes_AS_STRING(text)
                    node.rules[index].written_length = PyBytes_GET_SIZE(text)
                self._set(&node.rules[index], rule, whole)
                index += 1
        if plan.renamed:
            node.new_names = <uint64_t*> malloc(len(plan.renamed) * sizeof(uint64_t))
            if node.new_names == NULL:
                raise MemoryError
            for name in plan.renamed.values():
                text = name.encode()
                node.new_names[node.new_count] = _hash_of(text)
                node.new_count += 1
        return 0

    cdef int _set(self, Rule* rule, treatment, whole) except -1:
        if treatment is whole.KEEP:
            rule.action = KEEP
        elif treatment is whole.DROP:
            rule.action = DROP
        else:
            rule.action = DESCEND
            rule.node = <Node*> calloc(1, sizeof(Node))
            if rule.node == NULL:
                raise MemoryError
            self._fill(rule.node, treatment, whole)
        return 0

    def project(self, bytes text):
        """Return the projection of a text; None: it is left to the reference."""
        cdef Projecting work
        cdef JsonScan* scan = &work.text
        cdef int result
        cdef bytes made
        cdef const uint8_t* begin
        cdef Node* root
        work.used = 0
        work.capacity = 1 if self._keeps_all else PyBytes_GET_SIZE(text) + 64
        work.out = <uint8_t*> malloc(work.capacity)
        try:
            if not begin_scan(scan, <const uint8_t*> PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), SEED):
                raise MemoryError
            if work.out == NULL:
                raise MemoryError
            begin = scan.at
            if begin >= scan.end:
                return None
            if self._keeps_all:
                if PyBytes_GET_SIZE(text) > LONG:
                    with nogil:
                        result = check_value(scan, 1)
                else:
                    result = check_value(scan, 1)
                if not result:
                    return None
                made = PyBytes_FromStringAndSize(<const char*> begin, scan.at - begin)
            else:
                root = self._root
                if PyBytes_GET_SIZE(text) > LONG:
                    with nogil:
                        result = _put_inside(&work, root, 1)
                else:
                    result = _put_inside(&work, root, 1)
                if result == LEFT:
                    return None
                if result == NONE_LEFT:
                    made = b"[]" if begin[0] == 91 else b"{}" if begin[0] == 123 else b"null"
                else:
                    made = PyBytes_FromStringAndSize(<const char*> work.out, work.used)
            return made if past_space(scan.at, scan.end) == scan.end else None
        finally:
            free(work.out)
            end_scan(scan)


def count_separators(bytes text):
    """Return the number of commas and opening brackets, eight bytes at a time.

    PERF: a mapping of 100 KB with `set` takes 4.3 million instructions, 5.2 with three counts (callgrind, micro/mapping).
    """
    cdef const uint8_t* at = <const uint8_t*> PyBytes_AS_STRING(text)
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(text)
    cdef uint64_t word
    cdef Py_ssize_t found = 0
    while end - at >= 8:
        memcpy(&word, at, 8)
        found += ((_zeros(word ^ ONES * 44) | _zeros((word | ONES * 32) ^ ONES * 123)) >> 7) * ONES >> 56
        at += 8
    while at < end:
        found += at[0] == 44 or at[0] | 32 == 123  # `,`, `[` and `{`
        at += 1
    return found


cdef inline uint64_t _zeros(uint64_t word) noexcept nogil:
    """Return the highest bit of each byte that is zero, and nothing else."""
    return ~(((word & ~HIGHS) + ~HIGHS) | word) & HIGHS


cdef uint64_t _hash_of(bytes name) noexcept:
    cdef const uint8_t* begin = <const uint8_t*> PyBytes_AS_STRING(name)
    return hash_name(SEED, begin, begin + PyBytes_GET_SIZE(name), False)


cdef void _free(Node* node) noexcept:
    cdef Py_ssize_t index
    if node == NULL:
        return
    for index in range(node.count):
        _free(node.rules[index].node)
    _free(node.others.node)
    _free(node.elements.node)
    free(node.rules)
    free(node.new_names)
    free(node)
