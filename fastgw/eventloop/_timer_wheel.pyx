# cython: language_level=3
"""Compiled methods of `timer_wheel.Wheel`: those that file an object and drop it, which is done per request."""

from fastgw._slots cimport Slot, learn, read, write

from math import inf

from fastgw.compiled import replace
from fastgw.eventloop.timer_wheel import TICK

cdef struct OfWheel:
    Slot slots
    Slot ticks

cdef OfWheel of_wheel
cdef Slot deadline_of_any  # of objects whose class is not known
cdef Slot filed_at_of_any
cdef object INF = inf
cdef double _INF = inf
cdef double _TICK = TICK


def adopt(type owner not None, type timed not None):
    """Replace the methods of `Wheel`. `timed`: the class of what it files."""
    learn(&of_wheel.slots, owner, "_slots")
    learn(&of_wheel.ticks, owner, "_ticks")
    learn(&deadline_of_any, timed, "deadline")
    learn(&filed_at_of_any, timed, "filed_at")
    replace(owner, watch, file, drop)


cdef int file_timed(wheel, timed, const Slot* filed_at, at) except -1:
    cdef long long tick, passed
    cdef double before = read(filed_at, timed)
    if before != _INF:
        _unfile(wheel, timed, before)
    write(filed_at, timed, at)
    tick, passed = <long long>(<double>at / _TICK) + 1, read(&of_wheel.ticks, wheel)
    if tick <= passed:
        tick = passed + 1
    slots = read(&of_wheel.slots, wheel)
    number = tick
    slot = slots.get(number)
    if slot is None:
        slots[number] = {timed}
    else:
        slot.add(timed)
    return 0


cdef int drop_timed(wheel, timed, const Slot* deadline, const Slot* filed_at) except -1:
    cdef double before
    write(deadline, timed, INF)
    before = read(filed_at, timed)
    if before != _INF:
        _unfile(wheel, timed, before)
        write(filed_at, timed, INF)
    return 0


cdef int _unfile(wheel, timed, double filed_at) except -1:
    slot = read(&of_wheel.slots, wheel).get(<long long>(filed_at / _TICK) + 1)
    if slot is not None:
        slot.discard(timed)
    return 0


def watch(self, timed, deadline):
    """Compiled `Wheel.watch`."""
    write(&deadline_of_any, timed, deadline)
    if <double>deadline < <double>read(&filed_at_of_any, timed):
        file_timed(self, timed, &filed_at_of_any, deadline)


def file(self, timed, at):
    """Compiled `Wheel.file`."""
    file_timed(self, timed, &filed_at_of_any, at)


def drop(self, timed):
    """Compiled `Wheel.drop`."""
    drop_timed(self, timed, &deadline_of_any, &filed_at_of_any)
