"""Call of `idle_order.IdleOrder` by compiled modules, for each request.

PERF: 900 instructions less than by its method (CPython 3.11, callgrind, micro/exchange).
"""


cdef inline int put_last(order, connection) except -1:
    """Do what `IdleOrder.put_last` does."""
    try:
        order.move_to_end(connection)
    except KeyError:  # it was looked at during its request
        order.put_last(connection)
    return 0
