"""A head that stands for a request which could not be read: its refusal is answered and logged like any other."""

from typing import Final

from fastgw.wire.framing import RequestHead


def _unreadable() -> RequestHead:
    head = RequestHead()
    head.raw = b"\r\n\r\n"
    head._fields = head._judge = None
    head.method = head.request_target = head.authority = head.host = head.scheme = head.raw_path = head.path = b""
    head.minor = 1
    head.fields_start = 2
    head.query = None
    head.length = 0
    head.chunked = head.expects_continue = head.te_trailers = False
    head.close = True
    head.upgrade = head.connection_named = ()
    head.known = {}
    return head


UNREADABLE: Final = _unreadable()
