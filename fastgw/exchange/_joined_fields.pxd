# Return the changes to the headers of the response to a request: `Chain.response_fields_for` of these fields.
cdef object fields_for_request(object fields, object head, object peer)
