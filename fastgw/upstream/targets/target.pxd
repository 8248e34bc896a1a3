# The types of the fields of `target.py`.

cimport cython


@cython.final
cdef class Target:
    cdef public object _literal
    cdef public object _name
    cdef public object _own_host
    cdef public dict _parts
    cdef public object _whole
    cdef public bint accepted
    cdef public bytes authority
    cdef public bytes base_path
    cdef public int capacity
    cdef public int counted
    cdef public bint follows_host
    cdef public object host
    cdef public bint http1_only
    cdef public bytes host_header
    cdef public dict idle
    cdef public str label
    cdef public double logged_at
    cdef public int minor
    cdef public bint negotiates
    cdef public int opening
    cdef public int places
    cdef public object port
    cdef public object response_rules
    cdef public object scheme
    cdef public object server_name
    cdef public dict shared
    cdef public int slot
    cdef public object timeouts
    cdef public object tls
    cdef public object waiting
    cdef public object willing
    cdef object __weakref__
