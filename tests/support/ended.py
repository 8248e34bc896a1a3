"""An exchange that is over, for the tests of what is told of it."""

from fastgw.observe import Record

ENDED = Record(
    ended_date=0.0,
    client="192.0.2.7",
    listener="public",
    method=b"GET",
    scheme=b"http",
    host=b"a",
    path=b"/",
    query=None,
    minor=1,
    status=200,
    request_bytes=0,
    response_bytes=0,
    duration_s=0.0,
)
