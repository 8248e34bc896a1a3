# The types of `dates.py`.

cdef dict _parsed

cpdef parse_date(bytes value, double now)
cdef _parse_fixdate(bytes value)
