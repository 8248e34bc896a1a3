# Send a sub-request as `direct_subrequest.send_direct` does. `most`: as there. None: it needs an exchange.
cdef object send_directly(parent, plan, listener, bytes target, fields, bytes body, Py_ssize_t most)
