cimport cython
from libc.stdint cimport uint8_t


cdef struct Block:
    # Growing byte buffer.
    uint8_t* bytes
    size_t length
    size_t room


cdef struct Span:
    size_t start
    size_t length


@cython.final
cdef class ReceivedHead:
    # Text of a head while it is received: its lines, the value of its Cookie, and pseudo-headers one after the other.
    cdef Block fields
    cdef Block cookies
    cdef Block pseudo
    cdef Span method
    cdef Span path
    cdef Span authority
    cdef Span scheme
    cdef Span protocol
    cdef Span host
    cdef int status  # -1: there is none
    cdef bint is_client
    cdef bint too_long
    cdef bint has_length
    cdef bint has_host
    cdef str refusal
    cdef size_t _bytes
    cdef size_t _most_bytes
    cdef int _count
    cdef int _most_fields

    cdef void begin(self, bint is_client, size_t most_bytes, int most_fields) noexcept
    cdef bint _keep_pseudo(self, Span* span, const uint8_t* value, size_t length) noexcept
    cdef bint add_field(self, const uint8_t* name, size_t namelen, const uint8_t* value, size_t length) noexcept
    cdef bytes lines(self)
    cdef bytes text_of(self, Span span)
    cdef bint _says(self, Span span, const char* word, size_t length) noexcept
    cdef str request_refusal(self, bint secure)
    cdef str _host_refusal(self)
    cdef bytes request_text(self, bint ended)


# Return a head to begin.
cdef ReceivedHead take_head()
# Keep the memory of a head for the next one, or free it.
cdef void give_back(ReceivedHead head)
# Return the text of a request whose body has turned out to be empty, as if its head had ended the stream.
cdef bytes without_body(bytes text)
