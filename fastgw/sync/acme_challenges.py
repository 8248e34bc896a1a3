"""ACME challenges in progress (RFC 8555 section 8, RFC 8737): what workers answer an issuer.

Control sends them to the supervisor and to all workers, including later ones, as a feed. A worker records the number of
the last ones that it has, so that control knows when all of them can answer.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

FEED: Final = "acme challenges"
"""Key of this feed. No other source has it: keys of filters' feeds begin with a URL."""
PATH: Final = b"/.well-known/acme-challenge/"
PROTOCOL: Final = "acme-tls/1"
"""ALPN protocol of the challenge tls-alpn-01."""


class Challenges(Struct, frozen=True):
    """Challenges in progress. `turn`: increases with each change."""

    turn: int = 0
    http: Mapping[str, str] = {}
    """Response to a request for a token (http-01)."""
    tls: Mapping[str, str] = {}
    """Certificate and key in PEM for a server name (tls-alpn-01)."""


NO_CHALLENGES: Final = Challenges()


def written(challenges: Challenges) -> bytes:
    """Encode the challenges."""
    return msgspec.json.encode(challenges)


def read(value: bytes) -> Challenges:
    """Decode the challenges. b"": nothing was sent yet."""
    return msgspec.json.decode(value, type=Challenges) if value else NO_CHALLENGES
