"""Records of TLS, by the functions of the OpenSSL that `ssl` uses, called directly where its objects are as this module
knows them; otherwise through `ssl`.
"""

import ssl
from typing import Any

def decrypt(
    session: Any, incoming: ssl.MemoryBIO, sealed: bytes | memoryview, buffer: Any
) -> tuple[int, bool, ssl.SSLError | None]:
    """Decrypt received bytes into a buffer. Returns the number of bytes, whether the peer has ended its direction, and
    the error, if there was one. What does not fit stays in `incoming` or in OpenSSL. `session`: the object of `_ssl`.
    """

def pending_in(memory: ssl.MemoryBIO) -> int:
    """Return the number of bytes in it."""

def encrypt(session: Any, outgoing: ssl.MemoryBIO, message: bytes) -> bytes | None:
    """Return an encrypted message of at most one record. None: `ssl` has to do it, or to say why it fails."""

def calls_openssl() -> bool:
    """Whether the functions of OpenSSL are called directly."""

def go_through_ssl() -> None:
    """Call none of OpenSSL's functions directly, for the rest of this process; for tests."""

def call_openssl() -> None:
    """Undo `go_through_ssl`."""
