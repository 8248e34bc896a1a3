"""The library of OpenSSL that the module `ssl` uses, for compiled modules that call functions of it directly.

`ssl` keeps the objects of OpenSSL in structures of its own, which begin in the same way in the supported versions of
CPython. The modules compare the objects that they find with those that functions of OpenSSL return.
"""

cdef extern from *:
    """
    #include <dlfcn.h>
    typedef struct { PyObject_HEAD PyObject *socket; void *ssl; } SessionObject;
    """
    ctypedef struct SessionObject:
        void* ssl
    enum:
        RTLD_LAZY
        RTLD_NOLOAD
    void* dlopen(const char* file, int flags)
    void* dlsym(void* library, const char* name)


cdef inline void* session_of(session) noexcept:
    """Return the `SSL` of an object of the class `_ssl._SSLSocket`."""
    return (<SessionObject*><void*>session).ssl


cdef inline bint is_known_python() except -1:
    """Whether this is a supported version of CPython."""
    import sys
    return (3, 11) <= sys.version_info[:2] <= (3, 14) and sys.implementation.name == "cpython"


cdef inline void* library_of(session) except? NULL:
    """Return a handle of the library, for `dlsym`; NULL: it was not found. `session`: an object of `ssl`."""
    import _ssl
    place = getattr(_ssl, "__file__", None)
    if place is None or not is_known_python() or type(session).__basicsize__ < sizeof(SessionObject):
        return NULL
    return dlopen(place.encode(), RTLD_LAZY | RTLD_NOLOAD)
