# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""See `otlp_encoder.pyi`. A span is written into one buffer, which grows as needed."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastgw.http.grpc.protobuf import field, key_value, varint

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* length) except NULL

cdef enum:
    HEADROOM = 8  # tag of the span, and the bytes of its length
    FIXED = 128  # ids, times and flags with their tags
    PAIR = 32  # tags and lengths of an attribute or event

cdef uint32_t _HAS_IS_REMOTE = 0x100
cdef uint32_t _IS_REMOTE = 0x200
cdef bytes _ERROR = b"\x7a\x02\x18\x02"  # Span.status = 15: {code = 3: STATUS_CODE_ERROR}


cdef inline uint8_t* _put(uint8_t* out, const void* piece, Py_ssize_t length) noexcept nogil:
    memcpy(out, piece, length)
    return out + length


cdef inline uint8_t* _put_varint(uint8_t* out, uint64_t number) noexcept nogil:
    while number > 127:
        out[0] = <uint8_t>(number & 127 | 128)
        number >>= 7
        out += 1
    out[0] = <uint8_t>number
    return out + 1


cdef inline int _varint_length(uint64_t number) noexcept nogil:
    cdef int length = 1
    while number > 127:
        number >>= 7
        length += 1
    return length


cdef inline uint8_t _nibble(char letter) noexcept nogil:
    return <uint8_t>(letter - c"0" if letter <= c"9" else letter - c"a" + 10)


cdef uint8_t* _put_id(uint8_t* out, uint8_t tag, bytes digits) noexcept:
    """Write a field with the bytes of lower-case hexadecimal digits."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(digits) // 2
    cdef const char* text = PyBytes_AS_STRING(digits)
    cdef Py_ssize_t index
    out[0], out[1] = tag, <uint8_t>length
    out += 2
    for index in range(length):
        out[index] = <uint8_t>(_nibble(text[2 * index]) << 4 | _nibble(text[2 * index + 1]))
    return out + length


cdef inline uint8_t* _put_fixed64(uint8_t* out, uint8_t tag, uint64_t number) noexcept nogil:
    cdef int index
    out[0] = tag
    for index in range(8):
        out[1 + index] = <uint8_t>(number >> (8 * index))
    return out + 9


@cython.final
cdef class OtlpEncoder:
    cdef dict _keys  # encoded names of attributes, with what precedes the value
    cdef uint8_t* _buffer
    cdef Py_ssize_t _size

    def __init__(self):
        self._keys = {}

    def __dealloc__(self):
        PyMem_Free(self._buffer)

    cdef uint8_t* _with_room(self, uint8_t* out, Py_ssize_t wanted) except NULL:
        """Return where the text ends, with room for so many bytes more, and for those of `FIXED`. `out`: NULL: begin."""
        cdef Py_ssize_t used = HEADROOM if out is NULL else out - self._buffer
        cdef Py_ssize_t size = used + wanted + FIXED
        cdef void* grown
        if size > self._size:
            size = max(size, 2 * self._size)
            grown = PyMem_Realloc(self._buffer, size)
            if grown is NULL:
                raise MemoryError
            self._buffer, self._size = <uint8_t*>grown, size
        return self._buffer + used

    cdef bytes _key_of(self, str name):
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = field(b"\x0a", name.encode()) + b"\x12"
        return key

    def _encode_common(self, common):
        """Encode the attributes that many spans share, once."""
        attributes = b"".join([field(b"\x4a", key_value(*each)) for each in common.attributes])
        name = field(b"\x2a", common.name.encode())
        common.encoded = name + b"\x30" + varint(common.kind) + attributes + (_ERROR if common.is_error else b"")
        return common.encoded

    def encode(self, span):
        cdef uint8_t* start
        cdef uint8_t* out
        cdef const char* text = NULL
        cdef Py_ssize_t length = 0, given, pair
        cdef uint64_t number = 0
        cdef uint32_t flags
        cdef bytes fixed, key, state, parent_id
        trace, span_id, parent, is_remote, begun_ns, ended_ns, common, own, events = <tuple>span
        fixed = common.encoded or self._encode_common(common)
        state, parent_id = trace.state, parent
        out = self._with_room(NULL, PyBytes_GET_SIZE(fixed) + PyBytes_GET_SIZE(state) + PAIR)
        flags = <uint32_t>(<int>trace.flags) | _HAS_IS_REMOTE | (_IS_REMOTE if is_remote else 0)
        out = _put_id(out, 0x0A, trace.trace_id)
        out = _put_id(out, 0x12, span_id)
        if PyBytes_GET_SIZE(state):
            out[0] = 0x1A
            out = _put_varint(out + 1, PyBytes_GET_SIZE(state))
            out = _put(out, PyBytes_AS_STRING(state), PyBytes_GET_SIZE(state))
        if PyBytes_GET_SIZE(parent_id):
            out = _put_id(out, 0x22, parent_id)
        out = _put(out, PyBytes_AS_STRING(fixed), PyBytes_GET_SIZE(fixed))
        out = _put_fixed64(out, 0x39, begun_ns)
        out = _put_fixed64(out, 0x41, ended_ns)
        for name, value in own:
            key = self._key_of(name)
            if type(value) is str:
                text = PyUnicode_AsUTF8AndSize(value, &length)
                out = self._with_room(out, PyBytes_GET_SIZE(key) + length + PAIR)
                given = 1 + _varint_length(length) + length
            else:
                number = value
                out = self._with_room(out, PyBytes_GET_SIZE(key) + PAIR)
                given = 1 + _varint_length(number)
            pair = PyBytes_GET_SIZE(key) + _varint_length(given) + given
            out[0] = 0x4A
            out = _put_varint(out + 1, pair)
            out = _put(out, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
            out = _put_varint(out, given)
            if type(value) is str:
                out[0] = 0x0A
                out = _put_varint(out + 1, length)
                out = _put(out, text, length)
            else:
                out[0] = 0x18
                out = _put_varint(out + 1, number)
        for at, name in events:
            text = PyUnicode_AsUTF8AndSize(name, &length)
            out = self._with_room(out, length + PAIR)
            given = 9 + 1 + _varint_length(length) + length
            out[0] = 0x5A
            out = _put_varint(out + 1, given)
            out = _put_fixed64(out, 0x09, at)
            out[0] = 0x12
            out = _put_varint(out + 1, length)
            out = _put(out, text, length)
        out[0], out[1] = 0x85, 0x01
        out[2], out[3] = <uint8_t>flags, <uint8_t>(flags >> 8)
        out[4] = out[5] = 0
        out += 6
        start = self._buffer + HEADROOM
        length = out - start
        given = 1 + _varint_length(length)
        start -= given
        start[0] = 0x12
        _put_varint(start + 1, length)
        return PyBytes_FromStringAndSize(<char*>start, given + length)
