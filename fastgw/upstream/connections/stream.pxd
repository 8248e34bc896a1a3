# The types of `stream.py`.

from fastgw.eventloop.timer_wheel cimport Timed


cdef class ResponseListener(Timed):
    cpdef on_head(self, head, bytes payload, bint ended)
    cpdef on_data(self, bytes payload)
    cpdef on_end(self, tuple trailers)
