# The types of `node_limits.py`.

cimport cython


@cython.final
cdef class MemoryFence:
    cdef public object acquire
    cdef public object release


@cython.final
cdef class NodeLimit:
    cdef MemoryFence _fence
    cdef object _views
    cdef Py_ssize_t _word
    cdef unsigned long long[::1] _words
    cdef public object counter
    cdef public object most

    cpdef bint try_take(self, long long beyond=*) except -1
    cpdef give_back(self)


@cython.final
cdef class KeyCounts:
    cdef MemoryFence _fence
    cdef bytes _secret
    cdef object _sketch
    cdef object _views
    cdef unsigned long long[::1] _words

    cpdef bint try_take(self, tuple cells, long long most) except -1
    cpdef give_back(self, tuple cells)
    cpdef add_permits(self, tuple cells, long long permits)
    cdef bint _has_at_most(self, tuple cells, long long most) except -1


@cython.final
cdef class AddressLimit:
    cdef object _cells
    cdef KeyCounts _counts
    cdef long long _few
    cdef dict _held
    cdef object _most

    cpdef bint try_take(self, str ip) except -1
    cpdef give_back(self, str ip)
