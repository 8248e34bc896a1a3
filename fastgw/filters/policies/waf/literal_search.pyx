# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Search for many literals at once: the automaton of Aho and Corasick, as a table of states by classes of characters.

PERF: 0.25 us for 100 characters, RE2 takes 1.8. RE2 also releases the lock of the interpreter: threads of access logs
then run, and the event loop waits for them. A request that took 35 us with RE2 takes 25 (CPython 3.11, micro/policies).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free

cdef enum:
    FOUND = 0x7fffffff  # in place of a state: a literal ends here


cdef class LiteralSearch:
    """Callable that returns whether a text contains one of the literals. State 0 is the beginning.

    A transition is the place of a state in the table, or `FOUND`.
    """

    cdef uint16_t[256] class_of
    cdef uint32_t* table
    cdef uint32_t width

    def __cinit__(self, literals):
        cdef set characters = set()
        cdef list literal_list = sorted(set(literals), key=len)
        cdef Py_ssize_t most = 1, number
        cdef uint32_t state, following, kind
        cdef uint32_t states = 1
        cdef bytes literal
        cdef list waiting, fallbacks
        for literal in literal_list:
            if not literal:
                raise ValueError("an empty literal is in every text")
            characters.update(literal)
            most += len(literal)
        for number, character in enumerate(sorted(characters)):
            self.class_of[character] = number + 1
        self.width = len(characters) + 1
        if most * self.width >= FOUND:
            raise ValueError("too many literals")
        self.table = <uint32_t*>calloc(most * self.width, sizeof(uint32_t))
        if self.table is NULL:
            raise MemoryError
        # the tree of the literals; what follows a shorter one is left out
        for literal in literal_list:
            state = 0
            for number in range(len(literal)):
                kind = self.class_of[<uint8_t>literal[number]]
                following = self.table[state * self.width + kind]
                if following == FOUND:
                    break
                if number == len(literal) - 1:
                    self.table[state * self.width + kind] = FOUND
                elif following == 0:
                    self.table[state * self.width + kind] = states
                    states += 1
                state = self.table[state * self.width + kind]
        # transitions of each state that the tree has not: those of its fallback, its longest end that is in the tree
        fallbacks = [0] * states
        waiting = [self.table[kind] for kind in range(self.width) if 0 < self.table[kind] < FOUND]
        for state in waiting:
            for kind in range(self.width):
                following = self.table[state * self.width + kind]
                if following == FOUND:
                    continue
                number = self.table[<uint32_t>fallbacks[state] * self.width + kind]
                if following == 0 or number == FOUND:
                    self.table[state * self.width + kind] = number
                else:
                    fallbacks[following] = number
                    waiting.append(following)
        # states as places in the table
        for number in range(states * self.width):
            if self.table[number] != FOUND:
                self.table[number] *= self.width

    def __dealloc__(self):
        free(self.table)

    def __call__(self, bytes text not None):
        cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(text)
        cdef const uint8_t* end = at + PyBytes_GET_SIZE(text)
        cdef uint32_t place = 0
        while at < end:
            place = self.table[place + self.class_of[at[0]]]
            if place == FOUND:
                return True
            at += 1
        return False
