# cython: language_level=3
"""Compiled call of `sent_fields.JoinedFields`, and the choice between them and `SentFields` for other compiled modules."""

from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM

from fastgw._slots cimport Slot, learn, read

from fastgw.compiled import replace

cdef type _joined_class, _sent_class
cdef object _join
cdef Slot parts_of_joined


def adopt(type joined not None, type sent not None, join not None):
    """Replace the method of `JoinedFields`. `sent`: `SentFields`. `join`: the function `join_found`."""
    global _joined_class, _sent_class, _join
    _joined_class, _sent_class, _join = joined, sent, join
    learn(&parts_of_joined, joined, "parts")
    replace(joined, __call__)


cdef object _call(self, head, peer):
    cdef tuple parts = <tuple?>read(&parts_of_joined, self)
    cdef tuple found = PyTuple_New(PyTuple_GET_SIZE(parts))
    cdef Py_ssize_t index
    try:
        for index in range(PyTuple_GET_SIZE(parts)):
            part = parts[index]
            if type(part) is not _sent_class:
                part = part(head, peer)
                if part is None:
                    return None
            Py_INCREF(part)
            PyTuple_SET_ITEM(found, index, part)
        return _join(found)
    except Exception:  # the edge of a filter: its response step runs
        return None


def __call__(self, head, peer):
    """Compiled `JoinedFields.__call__`."""
    return _call(self, head, peer)


cdef object fields_for_request(fields, head, peer):
    if type(fields) is _sent_class:
        return fields
    return _call(fields, head, peer) if type(fields) is _joined_class else fields(head, peer)
