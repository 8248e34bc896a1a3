"""Whole requests of a route with `compress`, whose responses of 1 KB are compressed, or are of another type."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from bench.micro.exchange import Plane, configuration
from bench.micro.timing import Room

REQUEST = (
    b"GET /svc1/v1/items/7 HTTP/1.1\r\nHost: api.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"
    b"Accept-Language: en-GB,en;q=0.9\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\n\r\n"
)
MADE = [{"id": n, "name": f"Product {n}", "price": n * 1.5, "tags": ["a", "b"], "text": f"{n:x}" * 9} for n in range(9)]
BODY = orjson.dumps(MADE)[:1024].ljust(1024)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 06 Jul 2026 12:00:00 GMT\r\nContent-Type: %%b\r\n"
    b'Content-Length: %d\r\nConnection: keep-alive\r\nETag: "0123456789abcdef"\r\n\r\n%b'
) % (len(BODY), BODY.replace(b"%", b"%%"))


def rooms() -> Iterator[Room]:
    json = ANSWER % b"application/json"
    yield from _room("without compress", json, {})
    for encoding in ("zstd", "gzip", "br"):
        yield from _room(f"1 KB with {encoding}", json, {"compress": {"encodings": [encoding]}})
    yield from _room("another type", ANSWER % b"image/png", {"compress": {}})


def _room(name: str, answer: bytes, filters: dict[str, Any]) -> Iterator[Room]:
    configured = configuration()
    for route in configured["routes"]:
        route["filters"] = filters
    with TemporaryDirectory() as folder, closing(Plane(Path(folder), configured)) as plane:
        plane.connect(REQUEST, answer)
        yield Room(name, plane.exchange, [(REQUEST, answer)], plane.turn)
