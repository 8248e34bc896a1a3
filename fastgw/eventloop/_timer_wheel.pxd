from fastgw._slots cimport Slot

# As `Wheel.file` and `Wheel.drop`, for an object of a class whose attributes were learned.
cdef int file_timed(wheel, timed, const Slot* filed_at, at) except -1
cdef int drop_timed(wheel, timed, const Slot* deadline, const Slot* filed_at) except -1
