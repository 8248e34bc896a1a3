"""API calls by routes of the egress role, in memory, compared with the same requests on a plain route."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.micro.exchange import Messages, configuration, room
from bench.micro.heads import ANSWERS, REQUESTS
from bench.micro.timing import Room

APP, URL = "svc0", "http://127.0.0.1:9"
OAUTH2 = {"type": "oauth2", "token_url": "http://127.0.0.1:8/token", "client_id": "a", "client_secret": "b"}
CALLED: dict[str, Any] = {"url": URL, "credentials": OAUTH2}


def rooms() -> Iterator[Room]:
    gets = [
        (re.sub(rb"^GET /svc[0-9]+/", b"GET /svc0/", request), answer)
        for request, answer in zip(REQUESTS, ANSWERS, strict=True)
    ]
    plain = configuration()
    yield from _room("a plain route", gets, plain)
    yield from _room("a plain route, 1 filter", gets, configuration(filters=1))
    yield from _room("a call with a token", gets, _calling(CALLED))
    yield from _room("a call with a token, forwarded: set", gets, _calling({**CALLED, "forwarded": "set"}))
    yield from _room("a call without credentials", gets, _calling({"url": URL}))


def _room(name: str, messages: Messages, configured: Mapping[str, Any]) -> Iterator[Room]:
    cut = f"/{APP}/v1".encode() if "egress" in configured else b""
    with TemporaryDirectory() as folder:
        yield from room(name, messages, Path(folder), configured, cut)


def _calling(service: Mapping[str, Any]) -> dict[str, Any]:
    made = configuration()
    del made["upstreams"], made["routes"]
    return {**made, "egress": {"apps": {APP: {"v1": service}}}}
