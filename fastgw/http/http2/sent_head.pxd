from libc.stdint cimport uint8_t
from libc.stdlib cimport free

from fastgw.http.http2.nghttp2 cimport nghttp2_nv


cdef enum:
    FIELDS_ON_STACK = 256  # fields of a sent head; more of them are in memory of their own


cdef struct SentHead:
    # Fields of a head that is sent, and the memory of their names.
    uint8_t* names
    uint8_t* more_names  # further ones; NULL: there are none
    nghttp2_nv* fields
    nghttp2_nv* many  # their memory, if there are too many for the stack
    int date  # place of the last Date; 0: there is none


cdef inline void begin_sent_head(SentHead* head, nghttp2_nv* fields) noexcept nogil:
    head.names = head.more_names = NULL
    head.fields, head.many = fields, NULL


cdef inline void end_sent_head(SentHead* head) noexcept nogil:
    free(head.names)
    free(head.more_names)
    free(head.many)


# Split a head as HTTP/1.1 text into fields. `head`: memory for them and their names. Returns their number. `end_at`: start
# of the body. Raises `ValueError`: it is no complete head. Nothing behind its end is read.
cdef int take_apart(bytes message, SentHead* head, bint is_request, bint secure, Py_ssize_t* end_at) except -1
