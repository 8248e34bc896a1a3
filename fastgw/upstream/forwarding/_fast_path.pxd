# Each does what the method of a `FastPath` does, whatever its class is; a call for those of the compiled methods.
cdef int send_request_on(path, head, route, params) except -1
cdef bytes begin_ready_on(path, head, route, answer)
cdef int forget_on(path) except -1

# Whether an ordinary request may take the fast path, as `FastPathPlan.accepts`.
cdef bint accepts_on(plan, head) except -1

# Whether a request passes without the request steps of a chain, as `Chain.lets_pass`.
cdef bint lets_pass_by(chain, head) except -1
