cpdef put_last(order, connection)
