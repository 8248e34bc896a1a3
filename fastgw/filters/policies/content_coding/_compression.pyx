# cython: language_level=3
"""Compiled ordinary case of `compression.Compression.change_whole`: a response as it was received, of a type that is
compressed, which no other header exempts.

All other cases are left to the reference. Objects of other classes are used through their attributes (`_slots.read`).
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE

from fastgw._slots cimport Slot, learn, read
from fastgw.http.http1.parser cimport Http1RequestHead, Http1ResponseHead, all_values, has_field

from fastgw.compiled import replace
from fastgw.exchange.reply import Response
from fastgw.filters.policies.content_coding.media_types import Kind, MediaTypes
from fastgw.http.content_coding.accept_encoding import CACHED, negotiate
from fastgw.http.content_coding.compressors import WholeCompressor
from fastgw.http.messages import AS_DECLARED
from fastgw.observe.metrics.families import CodingOperation

cdef struct OfCompression:
    Slot lines
    Slot min_bytes
    Slot offered
    Slot plans
    Slot types
    Slot whole

cdef struct OfResponse:
    Slot added
    Slot body_length
    Slot encoded_forms
    Slot fields
    Slot head
    Slot status

cdef enum:
    MOST_PLANS = 256  # values of Accept-Encoding whose plan is kept

cdef OfCompression of_compression
cdef OfResponse of_response
cdef Slot known_of_types

cdef object _change_whole  # the method of the reference
cdef object _COMPRESS = CodingOperation.COMPRESS
cdef dict _NUMBERS
cdef object DOCUMENT = Kind.DOCUMENT
cdef object OTHER = Kind.OTHER
cdef object _AS_DECLARED = AS_DECLARED
cdef Py_ssize_t _CACHED = CACHED
cdef frozenset _special_statuses
cdef Py_ssize_t _most
cdef bytes _VARY
cdef bytes _ACCEPT_ENCODING = b"accept-encoding"
cdef bytes _CACHE_CONTROL = b"cache-control"
cdef bytes _CONTENT_ENCODING = b"content-encoding"
cdef bytes _CONTENT_RANGE = b"content-range"
cdef bytes _CONTENT_TYPE = b"content-type"
cdef bytes _VARY_NAME = b"vary"
cdef object _forbids, _varies

learn(&known_of_types, MediaTypes, "_known")
learn(&of_response.added, <type>Response, "added")  # the cast: it has a metaclass
learn(&of_response.body_length, <type>Response, "body_length")
learn(&of_response.encoded_forms, <type>Response, "encoded_forms")
learn(&of_response.fields, <type>Response, "_fields")
learn(&of_response.head, <type>Response, "head")
learn(&of_response.status, <type>Response, "status")


@cython.final
@cython.no_gc  # nothing it holds leads back to it
cdef class Plan:
    """Compression for clients with one value of `Accept-Encoding`.

    PERF: 6,600 instructions less for a response of 1 KB than to negotiate, to look up each part by the coding, to call
    the compressor through an object in Python, and to merge the dropped names by `lru_cache` (CPython 3.11, callgrind, micro/content_coding).
    """

    cdef Py_ssize_t min_bytes  # -1: nothing is compressed
    cdef object number  # of the coding
    cdef bytes lines
    cdef object compress
    cdef tuple arguments  # of `compress`, after the body


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
    learn(&of_compression.plans, owner, "_plans")
    learn(&of_compression.types, owner, "_types")
    learn(&of_compression.whole, owner, "_whole")
    replace(owner, change_whole)


cdef Plan _plan_for(self, bytes accepted):
    """Return the plan for this value of `Accept-Encoding`. None: the request has none."""
    cdef Plan plan
    coding, identity_refused = negotiate([] if accepted is None else [accepted], read(&of_compression.offered, self))
    plan = Plan.__new__(Plan)
    plan.min_bytes = -1
    if coding is not None:
        plan.min_bytes = 1 if identity_refused else read(&of_compression.min_bytes, self)
        plan.number = _NUMBERS[coding]
        plan.lines = read(&of_compression.lines, self)[coding]
        plan.compress, plan.arguments = read(&of_compression.whole, self)[coding], ()
        if type(plan.compress) is WholeCompressor:
            plan.compress, plan.arguments = plan.compress.function, plan.compress.arguments
    known = <dict?>read(&of_compression.plans, self)
    if len(known) < MOST_PLANS and (accepted is None or len(accepted) <= _CACHED):
        known[accepted] = plan
    return plan


cdef inline object _compressed(Plan plan, bytes body):
    cdef Py_ssize_t count = len(plan.arguments)
    if count == 1:
        return plan.compress(body, plan.arguments[0])
    if count == 2:
        return plan.compress(body, plan.arguments[0], plan.arguments[1])
    return plan.compress(body, *plan.arguments)


def change_whole(self, exchange, response, bytes body not None):
    """Compiled `Compression.change_whole`."""
    cdef Http1RequestHead asked
    cdef Http1ResponseHead head
    cdef list types, values
    cdef bytes added
    cdef Plan plan
    cdef Py_ssize_t length = PyBytes_GET_SIZE(body)
    asked_head, response_head = exchange.head, read(&of_response.head, response)
    if (
        type(asked_head) is not Http1RequestHead
        or type(response_head) is not Http1ResponseHead
        or type(response) is not Response
        or read(&of_response.fields, response) is not None
        or read(&of_response.encoded_forms, response) is not None
        or read(&of_response.body_length, response) != _AS_DECLARED
        or read(&of_response.status, response) in _special_statuses
        or length > _most
    ):
        return _change_whole(self, exchange, response, body)
    asked, head = <Http1RequestHead>asked_head, <Http1ResponseHead>response_head
    if (
        asked._fields is not None
        or head._fields is not None
        or has_field(head, _CONTENT_ENCODING)
        or has_field(head, _CONTENT_RANGE)
    ):
        return _change_whole(self, exchange, response, body)
    types = all_values(head, _CONTENT_TYPE)
    if len(types) != 1:
        return _change_whole(self, exchange, response, body)
    kind = (<dict?>read(&known_of_types, read(&of_compression.types, self))).get(types[0])
    if kind is OTHER:
        return None
    if kind is not DOCUMENT:  # None: not known yet
        return _change_whole(self, exchange, response, body)
    if has_field(head, _CACHE_CONTROL) and _forbids(all_values(head, _CACHE_CONTROL)):
        return None
    added = read(&of_response.added, response)
    if not has_field(head, _VARY_NAME) or not _varies(all_values(head, _VARY_NAME)):
        added = added + _VARY if added else _VARY
    if not (has_field(asked, _CACHE_CONTROL) and _forbids(all_values(asked, _CACHE_CONTROL))):
        values = all_values(asked, _ACCEPT_ENCODING)
        if len(values) > 1:
            return _change_whole(self, exchange, response, body)
        accepted = values[0] if values else None
        known = (<dict?>read(&of_compression.plans, self)).get(accepted)
        plan = _plan_for(self, accepted) if known is None else <Plan>known
        if 0 <= plan.min_bytes <= length:
            response.added = added + plan.lines
            out = _compressed(plan, body)
            exchange.client.counts.count_content_coding(exchange, _COMPRESS, plan.number, length, len(out))
            return out
    response.added = added
    return None
