"""Request and response heads for the tests of caching, parsed from bytes as the gateway does."""

from collections.abc import Iterable

from fastgw.http.http1.parser import parse_request, parse_response
from fastgw.http.messages import RequestHead, ResponseHead

NOW = 1_790_000_000.0
"""Mon, 21 Sep 2026 14:13:20 GMT"""
DATE = b"Mon, 21 Sep 2026 14:13:20 GMT"
EARLIER = b"Mon, 21 Sep 2026 14:11:40 GMT"
"""100 seconds before."""
LATER = b"Mon, 21 Sep 2026 14:15:00 GMT"
"""100 seconds after."""


def response(*lines: bytes, status: int = 200) -> ResponseHead:
    return parse_response(b"HTTP/1.1 %d -\r\n%b\r\n" % (status, join(lines)), b"GET")


def request(*lines: bytes, method: bytes = b"GET", target: bytes = b"/a") -> RequestHead:
    return parse_request(b"%b %b HTTP/1.1\r\nHost: a.test\r\n%b\r\n" % (method, target, join(lines)))


def join(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\r\n" for line in lines)
