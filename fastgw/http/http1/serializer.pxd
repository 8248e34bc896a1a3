from fastgw.http.messages cimport RequestHead, ResponseHead

cpdef bytes end_to_end(head, frozenset also=*)
cpdef bytes request(
    RequestHead head, bytes target=*, bytes host=*, frozenset also=*, bytes added=*, bytes payload=*, bytes request_id=*,
    long long length=*
)
cpdef bytes response(
    head, int status, frozenset also=*, bytes added=*, bytes payload=*, long long length=*, date_line=*, bytes last=*,
    bytes request_id=*
)
cpdef bytes whole(
    ResponseHead head, date_line, bytes last, frozenset also=*, bytes added=*, bytes request_id=*, bytes changed=*
)
