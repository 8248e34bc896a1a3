from libc.stdint cimport int64_t

from fastgw.http.http1.parser cimport Http1ResponseHead


cdef struct Encoded:
    # A record as `records.encode_record` writes it. `text` is valid until the next call.
    const char* text
    Py_ssize_t length
    int64_t lifetime
    int64_t age
    bint has_no_vary_search


# Decide as `storing.decide_storing_for`: return a reason not to store the response, or the names of its `Vary`, with
# the record in `encoded`. None: this is not an ordinary case.
cdef object decide_on(
    Http1ResponseHead head, storing, int identity, bint cookies, double request_date, double response_date,
    Encoded* encoded,
)

# Encode the record of a resource with one variant, as `records.encode_record`. `key`: 16 bytes. False: it is too long.
cdef bint encode_variant(tuple names, const void* key, Encoded* encoded) except -1
