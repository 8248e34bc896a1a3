# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, cdivision=True
"""Compiled checks of JSON texts against a schema: in one pass and without objects for their values.

A text is left to the reference (None) if it is invalid. Single values are judged by the reference where the plan says so,
and where a number or string is unusual; with many of them the whole text is.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Copy
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from libc.math cimport floor
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from fastgw.http.json.scan cimport (
    JsonScan, Name, begin_scan, check_number, check_string, check_value, end_scan, enter, go_on, hash_name, is_over,
    names_differ, note_name, past_string, read_name, unescaped,
)

from os import urandom

import orjson

from fastgw.filters.policies.content import schema_plan

cdef extern from "Python.h":
    double PyOS_string_to_double(const char* text, char** end, PyObject* overflow) except? -1.0

cdef enum Kind:
    NULL_KIND = 1
    BOOLEAN_KIND = 2
    STRING_KIND = 4
    NUMBER_KIND = 8
    INTEGER_KIND = 16
    ARRAY_KIND = 32
    OBJECT_KIND = 64
    FALSE_VALUE = 128
    TRUE_VALUE = 256

cdef enum Keyword:  # numbers in `schema_plan.KEYWORDS`
    TYPE = 0
    PATTERN = 3
    MULTIPLE_OF = 4
    MINIMUM = 5
    MAXIMUM = 6
    EXCLUSIVE_MINIMUM = 7
    EXCLUSIVE_MAXIMUM = 8
    MIN_LENGTH = 9
    MAX_LENGTH = 10
    MIN_ITEMS = 11
    MAX_ITEMS = 12
    MIN_PROPERTIES = 13
    MAX_PROPERTIES = 14
    ADDITIONAL_PROPERTIES = 16
    FALSE_SCHEMA = 17
    KEYWORDS = 18
    # and the first error of a required member

cdef enum:
    LEFT = 0  # to the reference
    PASSED = 1
    ANY = -1
    AS_OTHERS = -2
    IN_BITS = 64
    EXACT_DIGITS = 15
    EXPONENT_COST = 80  # these two as in `number_comparisons`
    CHARACTERS_PER_COST = 8
    # PERF: one takes 1.7 to 3 us, as a part of its whole text 0.4 (addresses of mail, CPython 3.11).
    MOST_JUDGED = 256  # values of a text that the reference judges one by one

cdef struct Text:
    uint64_t hash
    const char* begin
    Py_ssize_t length

cdef struct Table:  # of texts, by their hashes
    Py_ssize_t count
    Text* texts
    uint32_t* slots  # numbers of texts, from 1 on
    uint64_t mask

cdef struct Choices:
    int keyword
    Table strings
    Py_ssize_t integer_count
    double* integers
    int constants

cdef struct Limit:
    int keyword
    double value

cdef struct Node:
    int types
    int delegated
    bint is_false
    bint checks_text
    bint checks_number
    int choice_count
    Choices* choices
    int limit_count
    Limit limits[4]
    int64_t multiple_of
    Py_ssize_t counts[6]  # of MIN_LENGTH to MAX_PROPERTIES; -1: none
    const uint8_t* classes  # of the pattern; NULL: there is none
    const uint8_t* steps
    const uint8_t* accepts
    int class_count
    int start
    Table names
    int* members  # numbers of their nodes
    uint64_t required
    int additional
    bint is_closed
    int items

cdef struct Step:  # of a path to a value
    const Step* before
    Name name  # without a beginning: an element
    Py_ssize_t index

cdef struct Buffer:
    uint8_t* begin
    Py_ssize_t capacity

cdef uint64_t SEED = int.from_bytes(urandom(8), "little")
cdef tuple NAMES = schema_plan.KEYWORDS


cdef int _fill_table(Table* table, list texts, list held) except -1:
    cdef Py_ssize_t index, size = 4
    cdef uint64_t slot
    cdef bytes text
    cdef Text* entry
    table.count = len(texts)
    while size < 2 * table.count:
        size *= 2
    table.mask = size - 1
    table.texts = <Text*> PyMem_Calloc(table.count + 1, sizeof(Text))
    table.slots = <uint32_t*> PyMem_Calloc(size, sizeof(uint32_t))
    if table.texts == NULL or table.slots == NULL:
        raise MemoryError
    for index in range(table.count):
        text = texts[index].encode()
        held.append(text)
        entry = &table.texts[index]
        entry.begin = PyBytes_AS_STRING(text)
        entry.length = PyBytes_GET_SIZE(text)
        entry.hash = hash_name(SEED, <const uint8_t*> entry.begin, <const uint8_t*> entry.begin + entry.length, False)
        slot = (entry.hash ^ (entry.hash >> 29)) & table.mask
        while table.slots[slot] != 0:
            slot = (slot + 1) & table.mask
        table.slots[slot] = <uint32_t> index + 1
    return 0


cdef inline Py_ssize_t _find(const Table* table, uint64_t made, const uint8_t* begin, Py_ssize_t length) noexcept nogil:
    """Return the number of a text; -1: the table does not have it."""
    cdef uint64_t slot = (made ^ (made >> 29)) & table.mask
    cdef const Text* entry
    while table.slots[slot] != 0:
        entry = &table.texts[table.slots[slot] - 1]
        if entry.hash == made and entry.length == length and memcmp(entry.begin, begin, length) == 0:
            return table.slots[slot] - 1
        slot = (slot + 1) & table.mask
    return -1


cdef void _free_table(Table* table) noexcept:
    PyMem_Free(table.texts)
    PyMem_Free(table.slots)


cdef inline Py_ssize_t _code_points(const uint8_t* at, const uint8_t* end) noexcept nogil:
    cdef Py_ssize_t count = 0
    while at < end:
        count += (at[0] & 0xC0) != 0x80
        at += 1
    return count


@cython.final
cdef class CompiledChecks:
    """Checks of a plan. `delegate_of`: returns for a sub-schema the function that returns the errors of a text."""

    cdef Node* _nodes
    cdef int _count
    cdef list _held  # bytes that the nodes point into
    cdef list _templates  # of each node: its errors, by keyword and then by member
    cdef list _schemas
    cdef list _delegates
    cdef object _delegate_of
    cdef Buffer _buffer

    # of the text that is checked
    cdef JsonScan _scan
    cdef list _found
    cdef Py_ssize_t _most
    cdef int _judged  # values that the reference has judged

    def __cinit__(self, list plan, delegate_of):
        cdef int index
        self._held, self._templates, self._schemas = [], [], []
        self._delegates = [None] * len(plan)
        self._delegate_of = delegate_of
        self._nodes = <Node*> PyMem_Calloc(len(plan), sizeof(Node))
        if self._nodes == NULL:
            raise MemoryError
        self._count = len(plan)
        for index in range(self._count):
            self._fill(&self._nodes[index], plan[index])
            if self._nodes[index].delegated:
                self._delegates[index] = delegate_of(plan[index].schema)

    def __dealloc__(self):
        cdef int index, choice
        cdef Node* node
        if self._nodes != NULL:
            for index in range(self._count):
                node = &self._nodes[index]
                _free_table(&node.names)
                PyMem_Free(node.members)
                for choice in range(node.choice_count):
                    _free_table(&node.choices[choice].strings)
                    PyMem_Free(node.choices[choice].integers)
                PyMem_Free(node.choices)
        PyMem_Free(self._nodes)
        PyMem_Free(self._buffer.begin)

    cdef int _fill(self, Node* node, plan) except -1:
        cdef int index, keyword
        cdef Choices* choices
        cdef bytes table
        cdef list templates = [None] * KEYWORDS
        node.types, node.delegated, node.is_false = plan.types, plan.delegated, plan.is_false
        node.multiple_of = plan.multiple_of
        node.limit_count = len(plan.limits)
        for index in range(node.limit_count):
            name, limit = plan.limits[index]
            node.limits[index].keyword = NAMES.index(name)
            node.limits[index].value = limit
        for index in range(6):
            node.counts[index] = plan.counts.get(NAMES[MIN_LENGTH + index], -1)
        if plan.choices:
            node.choices = <Choices*> PyMem_Calloc(len(plan.choices), sizeof(Choices))
            if node.choices == NULL:
                raise MemoryError
            node.choice_count = len(plan.choices)
            for index in range(node.choice_count):
                self._fill_choices(&node.choices[index], plan.choices[index])
        if plan.pattern is not None:
            for table in (plan.pattern.classes, plan.pattern.steps, plan.pattern.accepts):
                self._held.append(table)
            node.classes = <const uint8_t*> PyBytes_AS_STRING(plan.pattern.classes)
            node.steps = <const uint8_t*> PyBytes_AS_STRING(plan.pattern.steps)
            node.accepts = <const uint8_t*> PyBytes_AS_STRING(plan.pattern.accepts)
            node.class_count, node.start = plan.pattern.class_count, plan.pattern.start
        node.checks_text = node.choice_count > 0 or node.classes != NULL or node.counts[0] >= 0 or node.counts[1] >= 0
        node.checks_number = node.choice_count > 0 or node.limit_count > 0 or node.multiple_of > 0
        _fill_table(&node.names, [name for name, _, _ in plan.members], self._held)
        node.members = <int*> PyMem_Calloc(len(plan.members) + 1, sizeof(int))
        if node.members == NULL:
            raise MemoryError
        for keyword in range(<int>KEYWORDS):
            if NAMES[keyword] in plan.details:
                templates[keyword] = _template(plan.details[NAMES[keyword]])
        for index in range(len(plan.members)):
            name, member, is_required = plan.members[index]
            node.members[index] = member
            if is_required:
                node.required |= (<uint64_t> 1) << index
                templates.append(_template(plan.details["required " + name]))
            else:
                templates.append(None)
        node.additional, node.is_closed, node.items = plan.additional, plan.is_closed, plan.items
        self._templates.append(templates)
        self._schemas.append(plan.schema)
        return 0

    cdef int _fill_choices(self, Choices* choices, plan) except -1:
        cdef Py_ssize_t index
        choices.keyword = NAMES.index(plan.keyword)
        choices.constants = plan.constants
        _fill_table(&choices.strings, list(plan.strings), self._held)
        choices.integers = <double*> PyMem_Calloc(len(plan.integers) + 1, sizeof(double))
        if choices.integers == NULL:
            raise MemoryError
        choices.integer_count = len(plan.integers)
        for index in range(choices.integer_count):
            choices.integers[index] = plan.integers[index]
        return 0

    def errors(self, bytes text, Py_ssize_t most):
        """Return the first errors of a text, at most so many; None: it is left to the reference."""
        cdef int result
        cdef list found
        if not begin_scan(&self._scan, <const uint8_t*> PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), SEED):
            raise MemoryError
        try:
            found = self._found = []
            self._most = most
            self._judged = 0
            result = self._check(0, 1, NULL)
            if result == LEFT or not is_over(&self._scan):
                return None
            return found
        finally:
            self._found = None
            end_scan(&self._scan)

    cdef int _check(self, int number, int depth, const Step* path) except -1:
        """Go past a value, and note its errors. LEFT: the text is left to the reference."""
        cdef JsonScan* scan = &self._scan
        cdef const Node* node
        cdef uint8_t byte
        cdef int kind
        if number < 0 or len(self._found) >= self._most:
            return check_value(scan, depth)
        node = &self._nodes[number]
        if scan.at >= scan.end:
            return LEFT
        if node.is_false:
            if not check_value(scan, depth):
                return LEFT
            return self._add(number, FALSE_SCHEMA, path)
        byte = scan.at[0]
        if byte == 34:
            if node.delegated & STRING_KIND:
                return self._delegate(number, depth, path)
            return self._check_string(node, number, path)
        if byte == 123:
            if node.delegated & OBJECT_KIND:
                return self._delegate(number, depth, path)
            if not node.types & OBJECT_KIND:
                self._add(number, TYPE, path)
            return self._check_object(node, number, depth, path)
        if byte == 91:
            if node.delegated & ARRAY_KIND:
                return self._delegate(number, depth, path)
            if not node.types & ARRAY_KIND:
                self._add(number, TYPE, path)
            return self._check_array(node, number, depth, path)
        if byte == 116 or byte == 102:
            if node.delegated & BOOLEAN_KIND:
                return self._delegate(number, depth, path)
            if not check_value(scan, depth):
                return LEFT
            if not node.types & BOOLEAN_KIND:
                self._add(number, TYPE, path)
            return self._check_constant(node, number, TRUE_VALUE if byte == 116 else FALSE_VALUE, path)
        if byte == 110:
            if node.delegated & NULL_KIND:
                return self._delegate(number, depth, path)
            if not check_value(scan, depth):
                return LEFT
            if not node.types & NULL_KIND:
                self._add(number, TYPE, path)
            return self._check_constant(node, number, NULL_KIND, path)
        if node.delegated & NUMBER_KIND:
            return self._delegate(number, depth, path)
        return self._check_number(node, number, depth, path)

    cdef int _check_constant(self, const Node* node, int number, int constant, const Step* path) except -1:
        """Compare a value with choices: a constant, or as 0 an object or array."""
        cdef int index
        for index in range(node.choice_count):
            if not node.choices[index].constants & constant:
                self._add(number, node.choices[index].keyword, path)
        return PASSED

    cdef int _check_string(self, const Node* node, int number, const Step* path) except -1:
        cdef JsonScan* scan = &self._scan
        cdef const uint8_t* begin = scan.at
        cdef const uint8_t* at = begin + 1
        cdef const uint8_t* end
        cdef bint escaped, matches = True
        cdef Py_ssize_t length
        cdef int index, state, character_class
        cdef uint64_t made = 0
        if not check_string(scan, &escaped):
            return LEFT
        if not node.checks_text:
            return PASSED if node.types & STRING_KIND else self._add(number, TYPE, path)
        end = scan.at - 1
        if escaped:
            length = self._unescape(at, end)
            at = self._buffer.begin
            end = at + length
        length = end - at
        if node.classes != NULL:
            state = node.start
            while at < end and state > 1:
                character_class = node.classes[at[0]]
                if character_class == 255:
                    return self._ask_reference(number, begin, path)
                state = node.steps[state * node.class_count + character_class]
                at += 1
            at = end - length
            matches = node.accepts[state]
        if not node.types & STRING_KIND:
            self._add(number, TYPE, path)
        if not matches:
            self._add(number, PATTERN, path)
        if node.counts[0] > 0 and length < 4 * node.counts[0]:
            if _code_points(at, end) < node.counts[0]:
                self._add(number, MIN_LENGTH, path)
        if node.counts[1] >= 0 and length > node.counts[1]:
            if _code_points(at, end) > node.counts[1]:
                self._add(number, MAX_LENGTH, path)
        if node.choice_count > 0:
            made = hash_name(SEED, at, end, False)
            for index in range(node.choice_count):
                if _find(&node.choices[index].strings, made, at, length) < 0:
                    self._add(number, node.choices[index].keyword, path)
        return PASSED

    cdef int _check_number(self, const Node* node, int number, int depth, const Step* path) except -1:
        cdef JsonScan* scan = &self._scan
        cdef const uint8_t* begin = scan.at
        cdef const uint8_t* at = begin
        cdef Py_ssize_t each
        cdef int index
        cdef bint is_digits = True, holds
        cdef double value = 0, limit
        cdef int64_t whole = 0
        if not check_number(scan):
            return LEFT
        if not node.checks_number and node.types & NUMBER_KIND:
            return PASSED
        if at[0] == 45:
            at += 1
        while at < scan.at:
            if not 48 <= at[0] <= 57:
                is_digits = False
                break
            if at - begin < EXACT_DIGITS:
                whole = whole * 10 + (at[0] - 48)
            at += 1
        if is_digits and scan.at - begin <= EXACT_DIGITS:
            if begin[0] == 45:
                whole = -whole
            value = <double> whole
        elif node.checks_number or not is_digits:
            value = _double_of(begin)
        if node.multiple_of > 0 and not (is_digits and scan.at - begin <= EXACT_DIGITS):
            return self._ask_reference(number, begin, path)
        if not node.types & NUMBER_KIND:
            if not node.types & INTEGER_KIND or (not is_digits and floor(value) != value):
                self._add(number, TYPE, path)
        for index in range(node.limit_count):
            limit = node.limits[index].value
            if node.limits[index].keyword == MINIMUM:
                holds = value >= limit
            elif node.limits[index].keyword == MAXIMUM:
                holds = value <= limit
            elif node.limits[index].keyword == EXCLUSIVE_MINIMUM:
                holds = value > limit
            else:
                holds = value < limit
            if not holds:
                self._add(number, node.limits[index].keyword, path)
        if node.multiple_of > 0 and whole % node.multiple_of != 0:
            self._add(number, MULTIPLE_OF, path)
        for index in range(node.choice_count):
            for each in range(node.choices[index].integer_count):
                if node.choices[index].integers[each] == value:
                    break
            else:
                self._add(number, node.choices[index].keyword, path)
        return PASSED

    cdef int _check_array(self, const Node* node, int number, int depth, const Step* path) except -1:
        cdef JsonScan* scan = &self._scan
        cdef Step step
        cdef Py_ssize_t count = 0
        cdef bint over
        if not enter(scan, depth, &over):
            return LEFT
        step.before, step.name.begin = path, NULL
        while not over:
            step.index = count
            if self._check(node.items, depth + 1, &step) == LEFT or not go_on(scan, 93, &over):
                return LEFT
            count += 1
        if count < node.counts[2]:
            self._add(number, MIN_ITEMS, path)
        if node.counts[3] >= 0 and count > node.counts[3]:
            self._add(number, MAX_ITEMS, path)
        return self._check_constant(node, number, 0, path)

    cdef int _check_object(self, const Node* node, int number, int depth, const Step* path) except -1:
        cdef JsonScan* scan = &self._scan
        cdef Step step
        cdef Py_ssize_t count = 0, since = scan.names_used, length, found, expected = 0
        cdef const uint8_t* name
        cdef const Text* text
        cdef uint64_t made, seen = 0, missing
        cdef bint over, is_other, has_unexpected = False
        cdef int member, index
        if not enter(scan, depth, &over):
            return LEFT
        step.before = path
        while not over:
            if not read_name(scan, &step.name):
                return LEFT
            name, length = step.name.begin, step.name.length
            found = -1
            if expected < node.names.count and not step.name.escaped:  # mostly members are in the order of the schema
                text = &node.names.texts[expected]
                if text.length == length and memcmp(text.begin, name, length) == 0:
                    found = expected
                    made = text.hash
            if found < 0:
                made = hash_name(SEED, name, name + length, step.name.escaped)
                if step.name.escaped:
                    length = self._unescape(name, name + length)
                    name = self._buffer.begin
                found = _find(&node.names, made, name, length)
            if 0 <= found < IN_BITS:
                if seen >> found & 1:
                    return LEFT
                seen |= (<uint64_t> 1) << found
            elif not note_name(scan, made):
                return LEFT
            is_other = True
            member = node.additional
            if found >= 0:
                expected = found + 1
                if node.members[found] != AS_OTHERS:
                    member = node.members[found]
                    is_other = False
            if is_other and node.is_closed:
                has_unexpected = True
            if self._check(member, depth + 1, &step) == LEFT or not go_on(scan, 125, &over):
                return LEFT
            count += 1
        if not names_differ(scan, since):
            return LEFT
        missing = node.required & ~seen
        index = 0
        while missing != 0:
            if missing & 1:
                self._add(number, KEYWORDS + index, path)
            missing >>= 1
            index += 1
        if has_unexpected:
            self._add(number, ADDITIONAL_PROPERTIES, path)
        if count < node.counts[4]:
            self._add(number, MIN_PROPERTIES, path)
        if node.counts[5] >= 0 and count > node.counts[5]:
            self._add(number, MAX_PROPERTIES, path)
        return self._check_constant(node, number, 0, path)

    # errors

    cdef int _add(self, int number, int keyword, const Step* path) except -1:
        cdef dict error
        if len(self._found) < self._most:
            error = PyDict_Copy((<list> self._templates[number])[keyword])
            error["pointer"] = self._pointer(path)
            self._found.append(error)
        return PASSED

    cdef str _pointer(self, const Step* path):
        """Return the JSON Pointer (RFC 6901) of a value."""
        cdef str step
        cdef list steps = []
        while path != NULL:
            if path.name.begin == NULL:
                step = str(path.index)
            else:
                step = path.name.begin[:path.name.length].decode("utf-8")
                if path.name.escaped:
                    step = orjson.loads(f'"{step}"')
                if "~" in step or "/" in step:
                    step = step.replace("~", "~0").replace("/", "~1")
            steps.append(step)
            path = path.before
        if not steps:
            return ""
        steps.append("")
        steps.reverse()
        return "/".join(steps)

    # the reference

    cdef int _delegate(self, int number, int depth, const Step* path) except -1:
        cdef const uint8_t* begin = self._scan.at
        if not check_value(&self._scan, depth):
            return LEFT
        return self._ask_reference(number, begin, path)

    cdef int _ask_reference(self, int number, const uint8_t* begin, const Step* path) except -1:
        """Let the reference check the value that ends here."""
        cdef str pointer
        self._judged += 1
        if self._judged > MOST_JUDGED:
            return LEFT
        delegate = self._delegates[number]
        if delegate is None:
            delegate = self._delegates[number] = self._delegate_of(self._schemas[number])
        errors = delegate(PyBytes_FromStringAndSize(<const char*> begin, self._scan.at - begin))
        if errors:
            pointer = self._pointer(path)
            for error in errors:
                if len(self._found) < self._most:
                    error["pointer"] = pointer + error["pointer"]
                    self._found.append(error)
        return PASSED

    cdef Py_ssize_t _unescape(self, const uint8_t* at, const uint8_t* end) except -1:
        """Write a valid string without its escape sequences to the buffer. Returns its length."""
        cdef uint8_t* out
        cdef uint8_t piece[4]
        cdef Py_ssize_t index, count
        if self._buffer.capacity < end - at:
            out = <uint8_t*> PyMem_Realloc(self._buffer.begin, end - at)
            if out == NULL:
                raise MemoryError
            self._buffer.begin, self._buffer.capacity = out, end - at
        out = self._buffer.begin
        while at < end:
            if at[0] == 92:
                count = unescaped(&at, end, piece)
                for index in range(count):
                    out[index] = piece[index]
                out += count
            else:
                out[0] = at[0]
                out += 1
                at += 1
        return out - self._buffer.begin


cdef inline bint _is_digit(uint8_t byte) noexcept nogil:
    return c"0" <= byte <= c"9"


def count_comparisons(bytes text not None, Py_ssize_t listed, Py_ssize_t most):
    """Return the comparisons of the numbers outside of strings in a JSON text, or another number above `most`."""
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(text)  # NUL follows the text
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(text)
    cdef const uint8_t* begin
    cdef Py_ssize_t cost, count = 0
    while at < end:
        if at[0] > c"9":
            at += 1
        elif at[0] == c'"':
            at = past_string(at + 1, end)
        elif at[0] >= c"0":
            begin = at
            while _is_digit(at[0]) or at[0] == c".":
                at += 1
            cost = listed * (1 + (at - begin) // CHARACTERS_PER_COST)
            if (at[0] | 32) == c"e":
                at += 1
                if at[0] == c"+" or at[0] == c"-":
                    at += 1
                if _is_digit(at[0]) and _is_digit(at[1]):
                    cost = EXPONENT_COST * max(listed, 1)
                while _is_digit(at[0]):
                    at += 1
            count += cost
            if count > most:
                break
        else:
            at += 1
    return count


cdef double _double_of(const uint8_t* begin) except? -1.0:
    """Return a number as the nearest double. The text ends with a zero byte."""
    cdef char* end
    return PyOS_string_to_double(<const char*> begin, &end, NULL)


cdef dict _template(tuple error):
    return {"in": "body", "pointer": "", "keyword": error[0], "detail": error[1]}
