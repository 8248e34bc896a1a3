cdef enum:
    KNOWN_NAMES = 1024  # places for names that are remembered: peers choose them
    LONGEST_KNOWN = 62


cdef struct KnownName:
    unsigned char length  # 0: the place is free
    char is_secret
    char[LONGEST_KNOWN] name


cdef class SecretNames:
    cdef readonly frozenset names
    cdef KnownName* _known

    cpdef mask(self, bytes query)
    cdef bint hides_nothing(self, const char* text, Py_ssize_t length) except -1
    cdef Py_ssize_t _secret_at(self, const char* text, Py_ssize_t length, bint is_decoded) except -2
    cdef bint _is_secret(self, const char* name, Py_ssize_t length) except -1
    cdef bytes _masked(self, bytes part)
