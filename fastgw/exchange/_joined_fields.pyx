# cython: language_level=3
"""Compiled call of `sent_fields.JoinedFields`, and the choice between them and `SentFields` for other compiled modules."""

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
    cdef list found = []
    cdef tuple parts = <tuple?>read(&parts_of_joined, self)
    try:
        for part in parts:
            if type(part) is not _sent_class:
                part = part(head, peer)
                if part is None:
                    return None
            found.append(part)
        return _join(tuple(found))
    except Exception:  # the edge of a filter: its response step runs
        return None


def __call__(self, head, peer):
    """Compiled `JoinedFields.__call__`."""
    return _call(self, head, peer)


cdef object fields_for_request(fields, head, peer):
    if type(fields) is _sent_class:
        return fields
    return _call(fields, head, peer) if type(fields) is _joined_class else fields(head, peer)
