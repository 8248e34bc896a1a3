"""First bytes of a connection: the protocol of its peer, to name it where another one is expected."""

import re
from typing import Final

HANDSHAKE: Final = 22
"""Content type of the first record of a TLS client."""
PROXY_V1: Final = b"PROXY "
PROXY_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
PROXY_PROTOCOL: Final = "the PROXY protocol"
HTTP: Final = "HTTP"
_BEGINNINGS: Final = (
    (PROXY_PROTOCOL, re.compile(b"%b|%b" % (re.escape(PROXY_V1), re.escape(PROXY_V2)))),
    ("TLS", re.compile(rb"%c\x03[\0-\4]" % HANDSHAKE)),
    ("HTTP/2", re.compile(rb"PRI \* HTTP/2\.0\r\n")),
    (HTTP, re.compile(rb"[A-Z]{3,32}+ (?:[/*]|https?:)")),
)


def spoken_protocol(received: bytes) -> str | None:
    """Return the name of the protocol with which a connection begins; None: unknown."""
    return next((name for name, beginning in _BEGINNINGS if beginning.match(received)), None)


def not_begun_with(expected: str, received: bytes) -> str:
    """Return a message for operators about a connection that does not begin as expected."""
    spoken = spoken_protocol(received)
    peer = "" if spoken is None else f"; the peer speaks {spoken}"
    return f"the first bytes are not {expected}{peer}"
