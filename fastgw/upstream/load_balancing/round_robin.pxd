cimport cython

from fastgw.upstream.targets.target cimport Target


@cython.final
cdef class SingleTarget:
    cdef readonly Target target
