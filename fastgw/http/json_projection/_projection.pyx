# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""Compiled `projection`: checks a JSON text and copies what is kept, in one pass and without objects.

A text is left to the reference (None) if it is invalid, nested deeper than 200 levels, or has an escaped name, equal
hashes of two names in one object, a number that may exceed a double, or a member with the new name of another one.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy

cdef enum:
    DEEPEST = 200
    LONGEST_NUMBER = 200
    FEW_NAMES = 16

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

cdef struct Scan:
    const uint8_t* at
    const uint8_t* end
    uint8_t* out
    Py_ssize_t used
    Py_ssize_t capacity
    uint64_t* names  # hashes of the names in the open objects
    Py_ssize_t names_used
    Py_ssize_t names_capacity
    bint beyond_ascii

cdef uint64_t ONES = 0x0101010101010101ULL
cdef uint64_t HIGHS = 0x8080808080808080ULL


cdef inline uint64_t _hash(const uint8_t* at, Py_ssize_t length) noexcept nogil:
    cdef uint64_t made = 14695981039346656037ULL
    cdef Py_ssize_t index
    for index in range(length):
        made = (made ^ at[index]) * 1099511628211ULL
    return made


cdef int _compare(const void* one, const void* other) noexcept nogil:
    cdef uint64_t a = (<const uint64_t*> one)[0]
    cdef uint64_t b = (<const uint64_t*> other)[0]
    return -1 if a < b else 1 if a > b else 0


cdef inline void _skip_space(Scan* scan) noexcept nogil:
    while scan.at < scan.end and (scan.at[0] == 32 or scan.at[0] == 10 or scan.at[0] == 13 or scan.at[0] == 9):
        scan.at += 1


cdef inline int _digit_of(uint8_t byte) noexcept nogil:
    """Return the value of a hexadecimal digit; -1: it is none."""
    if 48 <= byte <= 57:
        return byte - 48
    if 65 <= byte <= 70:
        return byte - 55
    if 97 <= byte <= 102:
        return byte - 87
    return -1


cdef int _code_unit(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Return the code unit of four hexadecimal digits; -1: there are none."""
    cdef int index, digit, made = 0
    if end - at < 4:
        return -1
    for index in range(4):
        digit = _digit_of(at[index])
        if digit < 0:
            return -1
        made = made * 16 + digit
    return made


cdef bint _skip_string(Scan* scan, bint* escaped) noexcept nogil:
    """Skip a string, from its first quotation mark on. False: it is invalid."""
    cdef const uint8_t* at = scan.at + 1
    cdef const uint8_t* end = scan.end
    cdef uint64_t word, quotes, slashes
    cdef uint8_t byte
    cdef int unit
    while True:
        while end - at >= 8:
            memcpy(&word, at, 8)
            quotes = word ^ (ONES * 34)
            slashes = word ^ (ONES * 92)
            # a byte that is special: below 0x20, `"`, `\`, or above 0x7f
            if (
                ((word - ONES * 32) | ((quotes - ONES) & ~quotes) | ((slashes - ONES) & ~slashes) | word) & HIGHS
            ) != 0:
                break
            at += 8
        if at >= end:
            return False
        byte = at[0]
        if byte == 34:
            scan.at = at + 1
            return True
        if byte < 32:
            return False
        if byte == 92:
            escaped[0] = True
            if end - at < 2:
                return False
            byte = at[1]
            if byte == 117:  # u
                unit = _code_unit(at + 2, end)
                if unit < 0:
                    return False
                at += 6
                if 0xD800 <= unit <= 0xDFFF:
                    if unit >= 0xDC00 or end - at < 6 or at[0] != 92 or at[1] != 117:
                        return False
                    unit = _code_unit(at + 2, end)
                    if not 0xDC00 <= unit <= 0xDFFF:
                        return False
                    at += 6
            elif byte in (34, 92, 47, 98, 102, 110, 114, 116):
                at += 2
            else:
                return False
        else:
            if byte >= 128:
                scan.beyond_ascii = True
            at += 1


cdef bint _skip_number(Scan* scan) noexcept nogil:
    cdef const uint8_t* at = scan.at
    cdef const uint8_t* end = scan.end
    cdef const uint8_t* begin
    if at[0] == 45:
        at += 1
    if at >= end or not 48 <= at[0] <= 57:
        return False
    if at[0] == 48:
        at += 1
    else:
        while at < end and 48 <= at[0] <= 57:
            at += 1
    if at < end and at[0] == 46:
        at += 1
        begin = at
        while at < end and 48 <= at[0] <= 57:
            at += 1
        if at == begin:
            return False
    if at < end and (at[0] == 101 or at[0] == 69):
        at += 1
        if at < end and (at[0] == 43 or at[0] == 45):
            at += 1
        begin = at
        while at < end and 48 <= at[0] <= 57:
            at += 1
        if at == begin or at - begin > 2:
            return False  # 1e400 is more than a double holds
    if at - scan.at > LONGEST_NUMBER:
        return False
    scan.at = at
    return True


cdef inline bint _skip_word(Scan* scan, const char* word, Py_ssize_t length) noexcept nogil:
    if scan.end - scan.at < length or memcmp(scan.at, word, length) != 0:
        return False
    scan.at += length
    return True


cdef bint _note_name(Scan* scan, uint64_t made) noexcept nogil:
    cdef uint64_t* grown
    if scan.names_used == scan.names_capacity:
        grown = <uint64_t*> realloc(scan.names, 2 * scan.names_capacity * sizeof(uint64_t))
        if grown == NULL:
            return False
        scan.names = grown
        scan.names_capacity *= 2
    scan.names[scan.names_used] = made
    scan.names_used += 1
    return True


cdef bint _names_differ(Scan* scan, Py_ssize_t since) noexcept nogil:
    """Whether the names of an object have different hashes. Forgets them."""
    cdef Py_ssize_t count = scan.names_used - since
    cdef uint64_t* names = scan.names + since
    cdef Py_ssize_t one, other
    scan.names_used = since
    if count <= FEW_NAMES:
        for one in range(1, count):
            for other in range(one):
                if names[one] == names[other]:
                    return False
        return True
    qsort(names, count, sizeof(uint64_t), _compare)
    for one in range(1, count):
        if names[one] == names[one - 1]:
            return False
    return True


cdef bint _read_name(Scan* scan, const uint8_t** name, Py_ssize_t* length, uint64_t* made) noexcept nogil:
    """Read the name of a member with the colon, up to its value."""
    cdef bint escaped = False
    if scan.at >= scan.end or scan.at[0] != 34:
        return False
    name[0] = scan.at + 1
    if not _skip_string(scan, &escaped) or escaped:
        return False
    length[0] = scan.at - name[0] - 1
    made[0] = _hash(name[0], length[0])
    if not _note_name(scan, made[0]):
        return False
    _skip_space(scan)
    if scan.at >= scan.end or scan.at[0] != 58:
        return False
    scan.at += 1
    _skip_space(scan)
    return True


cdef bint _goes_on(Scan* scan, uint8_t closing, bint* over) noexcept nogil:
    """Skip the comma or the closing bracket behind a member or element."""
    _skip_space(scan)
    if scan.at >= scan.end:
        return False
    over[0] = scan.at[0] == closing
    if not over[0] and scan.at[0] != 44:
        return False
    scan.at += 1
    if not over[0]:
        _skip_space(scan)
    return True


cdef bint _skip_value(Scan* scan, int depth) noexcept nogil:
    cdef uint8_t byte
    cdef bint escaped, over = False
    cdef const uint8_t* name
    cdef Py_ssize_t length, since
    cdef uint64_t made
    if scan.at >= scan.end or depth > DEEPEST:
        return False
    byte = scan.at[0]
    if byte == 34:
        return _skip_string(scan, &escaped)
    if byte == 123:
        scan.at += 1
        since = scan.names_used
        _skip_space(scan)
        if scan.at < scan.end and scan.at[0] == 125:
            scan.at += 1
            return True
        while not over:
            if not _read_name(scan, &name, &length, &made) or not _skip_value(scan, depth + 1):
                return False
            if not _goes_on(scan, 125, &over):
                return False
        return _names_differ(scan, since)
    if byte == 91:
        scan.at += 1
        _skip_space(scan)
        if scan.at < scan.end and scan.at[0] == 93:
            scan.at += 1
            return True
        while not over:
            if not _skip_value(scan, depth + 1) or not _goes_on(scan, 93, &over):
                return False
        return True
    if byte == 116:
        return _skip_word(scan, "true", 4)
    if byte == 102:
        return _skip_word(scan, "false", 5)
    if byte == 110:
        return _skip_word(scan, "null", 4)
    return _skip_number(scan)


cdef bint _write(Scan* scan, const void* piece, Py_ssize_t length) noexcept nogil:
    cdef uint8_t* grown
    if scan.used + length > scan.capacity:
        grown = <uint8_t*> realloc(scan.out, 2 * (scan.used + length))
        if grown == NULL:
            return False
        scan.out = grown
        scan.capacity = 2 * (scan.used + length)
    memcpy(scan.out + scan.used, piece, length)
    scan.used += length
    return True


cdef int _put_by(Scan* scan, const Rule* rule, int depth) noexcept nogil:
    """Copy a value as a rule says. It may be dropped."""
    cdef const uint8_t* begin = scan.at
    if rule.action == DESCEND:
        return _put_inside(scan, rule.node, depth)
    if not _skip_value(scan, depth):
        return LEFT
    if rule.action == DROP:
        return NONE_LEFT
    return WRITTEN if _write(scan, begin, scan.at - begin) else LEFT


cdef const Rule* _rule_for(const Node* node, const uint8_t* name, Py_ssize_t length, uint64_t made) noexcept nogil:
    cdef Py_ssize_t index
    for index in range(node.count):
        if node.rules[index].hash == made and node.rules[index].length == length:
            if memcmp(node.rules[index].name, name, length) == 0:
                return &node.rules[index]
    return &node.others


cdef int _put_inside(Scan* scan, const Node* node, int depth) noexcept nogil:
    cdef const uint8_t* begin = scan.at
    if scan.at >= scan.end or depth > DEEPEST:
        return LEFT
    if scan.at[0] == 123:
        return _put_object(scan, node, depth)
    if scan.at[0] == 91:
        if node.has_elements:
            return _put_array(scan, node, depth)
        return NONE_LEFT if _skip_value(scan, depth) else LEFT
    if not _skip_value(scan, depth):
        return LEFT
    if node.prunes:
        return NONE_LEFT
    return WRITTEN if _write(scan, begin, scan.at - begin) else LEFT


cdef int _put_object(Scan* scan, const Node* node, int depth) noexcept nogil:
    cdef const uint8_t* name
    cdef Py_ssize_t length, index, before, since = scan.names_used
    cdef uint64_t made
    cdef const Rule* rule
    cdef int result
    cdef bint over = False, is_empty = True
    scan.at += 1
    if not _write(scan, b"{", 1):
        return LEFT
    _skip_space(scan)
    if scan.at < scan.end and scan.at[0] == 125:
        scan.at += 1
        return WRITTEN_EMPTY if _write(scan, b"}", 1) else LEFT
    while not over:
        if not _read_name(scan, &name, &length, &made):
            return LEFT
        rule = _rule_for(node, name, length, made)
        if rule.action == DROP:
            if not _skip_value(scan, depth + 1):
                return LEFT
        else:
            for index in range(node.new_count):
                if node.new_names[index] == made:
                    return LEFT  # which one stays depends on all members
            before = scan.used
            if not is_empty and not _write(scan, b",", 1):
                return LEFT
            if rule.written != NULL:
                if not _write(scan, rule.written, rule.written_length):
                    return LEFT
            elif not _write(scan, name - 1, length + 2):
                return LEFT
            if not _write(scan, b":", 1):
                return LEFT
            result = _put_by(scan, rule, depth + 1)
            if result == LEFT:
                return LEFT
            if result == NONE_LEFT or (result == WRITTEN_EMPTY and rule.action == DESCEND and rule.node.prunes):
                scan.used = before
            else:
                is_empty = False
        if not _goes_on(scan, 125, &over):
            return LEFT
    if not _names_differ(scan, since) or not _write(scan, b"}", 1):
        return LEFT
    return WRITTEN_EMPTY if is_empty else WRITTEN


cdef int _put_array(Scan* scan, const Node* node, int depth) noexcept nogil:
    cdef Py_ssize_t before
    cdef int result
    cdef bint over = False, is_empty = True
    scan.at += 1
    if not _write(scan, b"[", 1):
        return LEFT
    _skip_space(scan)
    if scan.at < scan.end and scan.at[0] == 93:
        scan.at += 1
        return WRITTEN_EMPTY if _write(scan, b"]", 1) else LEFT
    while not over:
        before = scan.used
        if not is_empty and not _write(scan, b",", 1):
            return LEFT
        result = _put_by(scan, &node.elements, depth + 1)
        if result == LEFT:
            return LEFT
        if result == NONE_LEFT:
            scan.used = before
        else:
            is_empty = False
        if not _goes_on(scan, 93, &over):
            return LEFT
    if not _write(scan, b"]", 1):
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
                node.rules[index].hash = _hash(<const uint8_t*> node.rules[index].name, node.rules[index].length)
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
                node.new_names[node.new_count] = _hash(<const uint8_t*> PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
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
        cdef Scan scan
        cdef int result
        cdef bytes made = None
        cdef const uint8_t* begin
        scan.at = <const uint8_t*> PyBytes_AS_STRING(text)
        scan.end = scan.at + PyBytes_GET_SIZE(text)
        scan.used = scan.names_used = 0
        scan.capacity = 1 if self._keeps_all else PyBytes_GET_SIZE(text) + 64
        scan.names_capacity = 256
        scan.beyond_ascii = False
        scan.out = <uint8_t*> malloc(scan.capacity)
        scan.names = <uint64_t*> malloc(scan.names_capacity * sizeof(uint64_t))
        try:
            if scan.out == NULL or scan.names == NULL:
                raise MemoryError
            _skip_space(&scan)
            if scan.at >= scan.end or (scan.at[0] != 123 and scan.at[0] != 91):
                return None
            begin = scan.at
            if self._keeps_all:
                if not _skip_value(&scan, 1):
                    return None
                made = PyBytes_FromStringAndSize(<const char*> begin, scan.at - begin)
            else:
                result = _put_inside(&scan, self._root, 1)
                if result == LEFT:
                    return None
                if result == NONE_LEFT:
                    made = b"[]" if begin[0] == 91 else b"{}"
                else:
                    made = PyBytes_FromStringAndSize(<const char*> scan.out, scan.used)
            _skip_space(&scan)
            if scan.at != scan.end:
                return None
        finally:
            free(scan.out)
            free(scan.names)
        if scan.beyond_ascii:
            try:
                text.decode()
            except UnicodeDecodeError:
                return None
        return made


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
