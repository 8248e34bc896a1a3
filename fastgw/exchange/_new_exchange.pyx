# cython: language_level=3, boundscheck=False, wraparound=False
"""Compiled `exchange.new_exchange`: most initial attributes of an exchange are the same for all, and are copied.

They are taken from the first exchange, which the class itself creates. An attribute of `__slots__` is a pointer in the
instance, NULL as long as it is not set; its offset is a property of the class.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastgw._slots cimport member_offset
from fastgw.exchange._request_ids cimport RequestIds, is_as_read, is_replaced, line_for
from fastgw.http.http1._parser cimport Http1RequestHead, method_of

from fastgw.exchange.reply import NO_NAMES
from fastgw.http.http1.serializer_reference import REQUEST_IDS
from types import MemberDescriptorType

cdef extern from "Python.h":
    object PyType_GenericAlloc(type of, Py_ssize_t items)

cdef enum:
    MOST_SLOTS = 64

cdef enum:
    # Attributes with a different value in each exchange, in the order of `_OWN`.
    HEAD
    METHOD
    PATH
    CLIENT
    LISTENER
    PEER
    SCHEME
    CLIENT_IP
    CHAIN
    BEGUN_AT
    REQUEST_ID
    ID_SHOWN
    REQUEST_ADDED
    REQUEST_DROPPED
    RESPONSE_SINK
    OWN_COUNT

cdef tuple _OWN = (
    "head", "method", "path", "client", "listener", "peer", "scheme", "client_ip", "chain", "begun_at", "request_id",
    "id_shown", "request_added", "request_dropped", "response_sink",
)
cdef bytes _NO_BYTES = b""


cdef Py_ssize_t _offset(type owner, str name) except -1:
    """Return the offset of this attribute in instances; 0: it is not in the `__slots__` of the class itself."""
    descriptor = owner.__dict__.get(name)
    return member_offset(descriptor) if type(descriptor) is MemberDescriptorType else 0


cdef inline void _put(object owner, Py_ssize_t offset, object value) noexcept:
    """Store into a slot that has never been set."""
    Py_INCREF(value)
    (<PyObject**>(<char*><PyObject*>owner + offset))[0] = <PyObject*>value


cdef inline object _read(object owner, Py_ssize_t offset, str name):
    cdef PyObject* value = (<PyObject**>(<char*><PyObject*>owner + offset))[0] if offset else NULL
    return <object>value if value is not NULL else getattr(owner, name)


@cython.final
cdef class Maker:
    """Creates exchanges of exactly this class, as calling the class does."""

    cdef type _class
    cdef tuple _names  # attributes that are not in `_OWN`
    cdef tuple _alike  # their initial values; None: no exchange was created yet
    cdef Py_ssize_t _alike_count
    cdef PyObject* _alike_held[MOST_SLOTS]  # by `_alike`
    cdef Py_ssize_t _alike_at[MOST_SLOTS]
    cdef Py_ssize_t _own_at[OWN_COUNT]
    cdef type _peer_class  # the first peer's
    cdef Py_ssize_t _peer_scheme_at
    cdef Py_ssize_t _peer_ip_at
    cdef type _chain_class  # the first chain's
    cdef Py_ssize_t _chain_ids_at

    def __init__(self, type exchange_class not None):
        cdef Py_ssize_t number
        slots = exchange_class.__slots__
        size = object.__basicsize__ + len(slots) * sizeof(PyObject*)
        offsets = {name: _offset(exchange_class, name) for name in slots}
        if exchange_class.__basicsize__ != size or len(slots) > MOST_SLOTS or not all(offsets.values()):
            raise TypeError("an exchange has slots and nothing else")
        self._class = exchange_class
        self._names = tuple([name for name in slots if name not in _OWN])
        self._alike_count = len(self._names)
        for number in range(self._alike_count):
            self._alike_at[number] = offsets[self._names[number]]
        for number in range(OWN_COUNT):
            self._own_at[number] = offsets[_OWN[number]]

    cdef object _first(self, head, client, listener, peer, chain):
        made = self._class(head, client, listener, peer, chain)
        self._peer_class = type(peer)
        self._peer_scheme_at, self._peer_ip_at = _offset(type(peer), "scheme"), _offset(type(peer), "ip")
        self._chain_class, self._chain_ids_at = type(chain), _offset(type(chain), "request_ids")
        self._alike = tuple([getattr(made, name) for name in self._names])
        for index in range(len(self._alike)):
            self._alike_held[<int>index] = <PyObject*>self._alike[index]
        return made

    def create_exchange(self, head, client, listener, peer, chain):
        """Create an exchange, as `exchange.new_exchange` does."""
        cdef timespec now
        cdef Py_ssize_t number
        cdef bytes name = _NO_BYTES, line = _NO_BYTES
        if self._alike is None:
            return self._first(head, client, listener, peer, chain)
        if type(peer) is self._peer_class:
            scheme, ip = _read(peer, self._peer_scheme_at, "scheme"), _read(peer, self._peer_ip_at, "ip")
        else:
            scheme, ip = peer.scheme, peer.ip
        if type(head) is Http1RequestHead:
            method, path = method_of(<Http1RequestHead>head), (<Http1RequestHead>head)._path
        else:
            method, path = head.method, head.path
        dropped = NO_NAMES
        ids = _read(chain, self._chain_ids_at, "request_ids") if type(chain) is self._chain_class else chain.request_ids
        if type(ids) is RequestIds and type(head) is Http1RequestHead and is_as_read(<Http1RequestHead>head):
            name = (<RequestIds>ids).made_for(<Http1RequestHead>head)
            line = line_for(<Http1RequestHead>head, name)
            if is_replaced(<Http1RequestHead>head, line):
                dropped = REQUEST_IDS
            ids = None
        clock_gettime(CLOCK_MONOTONIC, &now)
        begun_at = <double>(<int64_t>now.tv_sec * 1000000000 + now.tv_nsec) / 1e9  # as `time.monotonic` returns it
        made = PyType_GenericAlloc(self._class, 0)
        for number in range(self._alike_count):
            _put(made, self._alike_at[number], <object>self._alike_held[number])
        _put(made, self._own_at[HEAD], head)
        _put(made, self._own_at[METHOD], method)
        _put(made, self._own_at[PATH], path)
        _put(made, self._own_at[CLIENT], client)
        _put(made, self._own_at[LISTENER], listener)
        _put(made, self._own_at[PEER], peer)
        _put(made, self._own_at[SCHEME], scheme)
        _put(made, self._own_at[CLIENT_IP], ip)
        _put(made, self._own_at[CHAIN], chain)
        _put(made, self._own_at[BEGUN_AT], begun_at)
        _put(made, self._own_at[REQUEST_ID], name)
        _put(made, self._own_at[ID_SHOWN], name)
        _put(made, self._own_at[REQUEST_ADDED], line)
        _put(made, self._own_at[REQUEST_DROPPED], dropped)
        _put(made, self._own_at[RESPONSE_SINK], client)
        if ids is not None:
            ids.identify(made)
        return made
