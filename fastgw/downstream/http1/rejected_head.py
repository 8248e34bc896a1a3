"""Rejected head: stand-in for a request that could not be parsed, so that its rejection is answered and logged like any
other.

Its content is for the log only: the request is rejected in any case.
"""

import re
from typing import Final

from fastgw.http.http1.parser import Http1RequestHead

MOST: Final = 8192
"""Maximum bytes of the request that are inspected."""
_LINE: Final = re.compile(rb"([!-~]{1,32}) ([^ \r\n]*)")
# Up to the last `@`: the end of the authority is unknown here, and a password may contain any character.
_USERINFO: Final = re.compile(rb"\A((?:[^/@]*:)?//|(?!/))[^ ]*@")


def unreadable(received: bytes) -> Http1RequestHead:
    """Return the stand-in for the received bytes, which may be empty."""
    head = Http1RequestHead()
    head.raw = received[:MOST] + b"\r\n"
    line = _LINE.match(head.raw)
    head.method, target = line.groups() if line else (b"", b"")
    head.raw_path, asked, query = _USERINFO.sub(rb"\1***@", target).partition(b"?")
    head.query = query if asked else None
    head.fields_start = head.raw.find(b"\n") + 1
    head._fields = head._second_parser = None
    head.request_target = head.authority = head.host = head.host_as_sent = head.scheme = head.path = b""
    head.minor = 1
    head.length = 0
    head.received_s = 0.0
    head.chunked = head.expects_continue = head.accepts_trailers = head.ordinary = head.http2 = False
    head.connect_protocol = b""
    head.close = True
    head.upgrade = head.connection_named = ()
    head.known = {}
    return head
