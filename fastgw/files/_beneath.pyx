# cython: language_level=3
"""Compiled `beneath`: openat2(2) in place of a walk, and reads of the page cache without a second copy."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, errno
from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <unistd.h>
    #ifndef SYS_openat2
    #define SYS_openat2 437
    #endif
    #ifndef RWF_NOWAIT
    #define RWF_NOWAIT 0x00000008
    #endif
    static int open_resolved(int folder, const char *path, uint64_t flags, uint64_t resolve) {
        struct { uint64_t flags, mode, resolve; } how = { flags, 0, resolve };
        return (int)syscall(SYS_openat2, folder, path, &how, sizeof(how));
    }
    static ssize_t read_cached(int fd, char *into, size_t length, int64_t offset) {
        struct iovec piece = { into, length };
        return preadv2(fd, &piece, 1, offset, RWF_NOWAIT);
    }
    """
    int open_resolved(int folder, const char* path, uint64_t flags, uint64_t resolve) nogil
    ssize_t read_cached(int fd, char* into, size_t length, int64_t offset) nogil

cdef enum:
    RESOLVE_NO_MAGICLINKS = 0x02
    RESOLVE_BENEATH = 0x08
    ATTEMPTS = 128  # the kernel gives up a path with `..` if anything is renamed meanwhile


def open_beneath(int folder, bytes path not None, int flags):
    """Compiled `beneath.open_beneath`. Raises `OSError` with ENOSYS or EPERM where the kernel does not allow openat2."""
    cdef const char* name = path  # raises `ValueError` for a NUL, as the reference does
    cdef int opened = -1, attempt
    if b"\0" in path:
        raise ValueError("embedded null byte")
    with nogil:
        for attempt in range(ATTEMPTS):
            opened = open_resolved(folder, name, <uint64_t>flags, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
            if opened >= 0 or errno != EAGAIN:
                break
    if opened < 0:
        PyErr_SetFromErrno(OSError)
    return opened


def read_at_once(int fd, Py_ssize_t length, int64_t offset):
    """Compiled `beneath.read_at_once`."""
    cdef object made = PyBytes_FromStringAndSize(NULL, length)
    cdef ssize_t count = read_cached(fd, PyBytes_AS_STRING(made), length, offset)
    if count < 0:
        return None
    if count == length:
        return made
    return made[:count]
