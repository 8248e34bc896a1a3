# cython: language_level=3
"""Compiled ordinary case of `compression.Compression.change_whole`: a response as it was received, of a type that is
compressed, which no other header exempts.

All other cases are left to the reference. Objects of other classes are used through their attributes (`_slots.read`).
"""

from cpython.bytes cimport PyBytes_GET_SIZE

from fastgw._slots cimport Slot, learn, read
from fastgw.http.http1._parser cimport Http1RequestHead, Http1ResponseHead, all_values, has_field

from fastgw.compiled import replace
from fastgw.exchange.reply import Response
from fastgw.filters.policies.content_coding.media_types import Kind, MediaTypes
from fastgw.http.content_coding.accept_encoding import negotiate
from fastgw.http.messages import AS_DECLARED
from fastgw.observe.metrics.families import CodingOperation

cdef struct OfCompression:
    Slot lines
    Slot min_bytes
    Slot offered
    Slot types
    Slot whole

cdef OfCompression of_compression
cdef Slot known_of_types

cdef object _change_whole  # the method of the reference
cdef object _COMPRESS = CodingOperation.COMPRESS
cdef dict _NUMBERS
cdef object DOCUMENT = Kind.DOCUMENT
cdef object OTHER = Kind.OTHER
cdef object _AS_DECLARED = AS_DECLARED
cdef frozenset _special_statuses
cdef Py_ssize_t _most
cdef bytes _VARY
cdef bytes _ACCEPT_ENCODING = b"accept-encoding"
cdef bytes _CACHE_CONTROL = b"cache-control"
cdef bytes _CONTENT_ENCODING = b"content-encoding"
cdef bytes _CONTENT_RANGE = b"content-range"
cdef bytes _CONTENT_TYPE = b"content-type"
cdef object _forbids, _varies

learn(&known_of_types, MediaTypes, "_known")


def adopt(type owner not None, *, bytes vary not None, frozenset special_statuses not None, Py_ssize_t most, forbids,
          varies, dict numbers not None):
    """Replace the method of `Compression`. `special_statuses`: of responses that are left to the reference, which has
    the other arguments, too. `most`: maximum bytes of a body that is compressed with the configured level.
    """
    global _change_whole, _VARY, _special_statuses, _most, _forbids, _varies, _NUMBERS
    _change_whole, _VARY, _special_statuses, _most = owner.change_whole, vary, special_statuses, most
    _forbids, _varies, _NUMBERS = forbids, varies, numbers
    learn(&of_compression.lines, owner, "_lines")
    learn(&of_compression.min_bytes, owner, "_min_bytes")
    learn(&of_compression.offered, owner, "_offered")
    learn(&of_compression.types, owner, "_types")
    learn(&of_compression.whole, owner, "_whole")
    replace(owner, change_whole)


def change_whole(self, request, response, bytes body not None):
    """Compiled `Compression.change_whole`."""
    cdef Http1RequestHead asked
    cdef Http1ResponseHead head
    cdef list types, values
    cdef bytes added
    cdef Py_ssize_t length = PyBytes_GET_SIZE(body)
    asked_head, response_head = request.head, response.head
    if (
        type(asked_head) is not Http1RequestHead
        or type(response_head) is not Http1ResponseHead
        or type(response) is not Response
        or response._fields is not None
        or response.encoded_forms is not None
        or response.body_length != _AS_DECLARED
        or response.status in _special_statuses
        or length > _most
    ):
        return _change_whole(self, request, response, body)
    asked, head = <Http1RequestHead>asked_head, <Http1ResponseHead>response_head
    if (
        asked._fields is not None
        or head._fields is not None
        or has_field(head, _CONTENT_ENCODING)
        or has_field(head, _CONTENT_RANGE)
    ):
        return _change_whole(self, request, response, body)
    types = all_values(head, _CONTENT_TYPE)
    if len(types) != 1:
        return _change_whole(self, request, response, body)
    kind = (<dict?>read(&known_of_types, read(&of_compression.types, self))).get(types[0])
    if kind is OTHER:
        return None
    if kind is not DOCUMENT:  # None: not known yet
        return _change_whole(self, request, response, body)
    if has_field(head, _CACHE_CONTROL) and _forbids(all_values(head, _CACHE_CONTROL)):
        return None
    added = b"" if has_field(head, b"vary") and _varies(all_values(head, b"vary")) else _VARY
    coding = None
    if not (has_field(asked, _CACHE_CONTROL) and _forbids(all_values(asked, _CACHE_CONTROL))):
        values = all_values(asked, _ACCEPT_ENCODING)
        coding, identity_refused = negotiate(values, read(&of_compression.offered, self))
        if length < read(&of_compression.min_bytes, self) and not identity_refused:
            coding = None
    if coding is None:
        if added:
            response.added = response.added + added
        return None
    response.added = response.added + added + read(&of_compression.lines, self)[coding]
    out = read(&of_compression.whole, self)[coding](body)
    request.client.counts.count_content_coding(request, _COMPRESS, _NUMBERS[coding], length, len(out))
    return out
