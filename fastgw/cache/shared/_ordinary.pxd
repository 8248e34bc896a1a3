# As `Store.is_unchanged`, whatever the class of the store is; a call for that of the compiled method.
cdef bint is_unchanged_in(store, stamp) except -1
