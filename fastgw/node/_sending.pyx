# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled twin of `sending`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cdef extern from "sys/socket.h" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
    ssize_t send(int fd, const void* bytes, size_t length, int flags)


def send_at_once(int fd, bytes message not None):
    """As `sending.send_at_once`."""
    cdef ssize_t sent = send(fd, PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), MSG_DONTWAIT | MSG_NOSIGNAL)
    return sent if sent > 0 else 0
