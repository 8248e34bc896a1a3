"""Debug tokens: a request with one in `X-Fastgw-Debug` is answered with its story.

A token has the form `fgd1.EXPIRES.NONCE.ROUTE.SIGNATURE`: epoch seconds, random, the name of a route as base64url ("" =
any request), and an HMAC with SHA-256 of all before it. Its key belongs to the node, and is kept over reloads and
upgrades; a token of another node is invalid.
"""

import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b, sha256
from typing import Final, NamedTuple

MOST_S: Final = 3600.0
"""Maximum lifetime of a token in seconds."""
MOST_BYTES: Final = 1024
"""Maximum length of a token that is looked at."""
_VERSION: Final = b"fgd1"


class DebugToken(NamedTuple):
    """Contents of a valid token."""

    expires_date: int
    """End of its lifetime, in epoch seconds."""
    route: str
    """The only route whose requests it is valid for; "": all requests."""


def debug_key(run_key: bytes) -> bytes:
    """Return the key for tokens. `run_key`: key of the node, which is kept as long as it runs."""
    return blake2b(run_key, digest_size=32, person=b"debug").digest()


def sign(key: bytes, token: DebugToken) -> str:
    """Return the text of a token."""
    nonce, route = secrets.token_hex(8).encode(), _encoded(token.route.encode())
    signed = b"%b.%d.%b.%b" % (_VERSION, token.expires_date, nonce, route)
    return (signed + b"." + _signature(key, signed)).decode()


def verify(key: bytes, text: bytes, date: float) -> DebugToken | None:
    """Return the contents of a token. None: it is invalid or has expired. `date`: epoch seconds."""
    if len(text) > MOST_BYTES:
        return None
    signed, _, signature = text.rpartition(b".")
    if not hmac.compare_digest(_signature(key, signed), signature):
        return None
    _, expires, _, route = signed.split(b".")  # its form is ours
    token = DebugToken(int(expires), urlsafe_b64decode(route + b"=" * (-len(route) % 4)).decode())
    return token if date < token.expires_date else None


def _signature(key: bytes, signed: bytes) -> bytes:
    return _encoded(hmac.digest(key, signed, sha256))


def _encoded(content: bytes) -> bytes:
    return urlsafe_b64encode(content).rstrip(b"=")
