"""OCSP responses that workers staple, as control sends them in a feed."""

from collections.abc import Mapping
from typing import Final

import msgspec

from fastgw.net.ocsp_stapling import Staple

FEED: Final = "ocsp responses"
"""Key of this feed. No other source has it: keys of filters' feeds begin with a URL."""
_DECODE: Final = msgspec.msgpack.Decoder(dict[bytes, Staple]).decode
NO_RESPONSES: Final[Mapping[bytes, Staple]] = {}


def written(responses: Mapping[bytes, Staple]) -> bytes:
    """Encode the responses, which are by the SHA-256 digest of their certificate."""
    return msgspec.msgpack.encode(responses)


def read(value: bytes) -> Mapping[bytes, Staple]:
    """Decode the responses. b"": nothing was sent yet."""
    return _DECODE(value) if value else NO_RESPONSES
