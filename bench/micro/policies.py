"""Requests with the policies of the benchmark, in memory: authentication, rate limit and CORS, with an access log."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.load.tokens import AUDIENCE, ISSUER, token, write_public_key
from bench.micro.exchange import configuration, room
from bench.micro.heads import ANSWERS, REQUESTS
from bench.micro.timing import Room

ORIGIN = "https://app.example"
CONSUMERS = 100
JWKS = "jwks.json"

CORS = {"origins": [ORIGIN]}
JWT = {"issuer": ISSUER, "audiences": [AUDIENCE], "algorithms": ["RS256"], "jwks_file": JWKS}
RATE_LIMIT = {"limit": 4_000_000, "window": "1h", "key": "consumer", "headers": "none"}


def rooms() -> Iterator[Room]:
    yield from _room("no policy", {})
    yield from _room("CORS", {"cors": CORS})
    yield from _room("JWT", {"jwt": JWT})
    yield from _room("JWT and limit", {"jwt": JWT, "rate_limit": RATE_LIMIT})
    yield from _room("JWT, limit and CORS", {"jwt": JWT, "rate_limit": RATE_LIMIT, "cors": CORS})
    yield from _room("rules of the firewall", {"waf": {}})


def _room(name: str, filters: dict[str, Any]) -> Iterator[Room]:
    requests = [_shown(request, shown) for request, shown in zip(REQUESTS, _tokens(), strict=True)]
    with TemporaryDirectory() as folder:
        write_public_key(Path(folder, "public.pem"), Path(folder, JWKS))
        configured = {**configuration([f"{folder}/access.log"]), "filters": filters}
        yield from room(name, list(zip(requests, ANSWERS, strict=True)), Path(folder), configured)


@cache
def _tokens() -> list[bytes]:
    """Return one token per request, ten for each consumer."""
    return [token(f"consumer-{number % CONSUMERS}", number).encode() for number in range(len(REQUESTS))]


def _shown(request: bytes, shown: bytes) -> bytes:
    origin = b"Origin: %b\r\n\r\n" % ORIGIN.encode()
    return re.sub(rb"Bearer [0-9a-f]+", b"Bearer " + shown, request)[:-2] + origin
