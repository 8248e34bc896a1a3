"""Whole requests of a route with `cache`: hits, misses that are stored and that are not; and without a cache."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.micro.exchange import Plane, configuration
from bench.micro.timing import Room
from fastgw.cache.shared.layout import CacheMemory
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.filters.api import Services

MEMORY = 64 * 1024**2
BODY = bytes(1024)
NUMBER = b"00000000"
_TEMPLATE = (
    b"GET /svc1/v1/items/%b HTTP/1.1\r\nHost: api.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"
    b"Accept-Language: en-GB,en;q=0.9\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\n"
    b"Referer: https://www.example.com/catalogue/list\r\nX-Request-Id: 0123456789abcdef0123456789abcdef\r\n%b\r\n"
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 06 Jul 2026 12:00:00 GMT\r\nContent-Type: application/json\r\n"
    b'Content-Length: %d\r\nConnection: keep-alive\r\nCache-Control: %%b\r\nETag: "0123456789abcdef"\r\n'
    b"X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n%%b\r\n%b"
) % (len(BODY), BODY)
PUBLIC = b"public, max-age=86400000"
VARY = b"Vary: Accept-Encoding\r\n"
CACHED: Mapping[str, Any] = {"cache": {}}
LANGUAGE: Mapping[str, Any] = {"cache": {"key": {"headers": ["Accept-Language"]}}}
KEY = "0123456789abcdef"
USUAL: Mapping[str, Any] = {
    "key_auth": {"key_names": ["apikey"]},
    "rate_limit": {"limit": 4_000_000, "window": "1s", "key": "consumer"},
}
"""Filters that a cache usually stands behind."""
HEADERS: Mapping[str, Any] = {"headers": {"response": {"set": {"X-A": "b"}}}}
COMPUTED: Mapping[str, Any] = {"headers": {"response": {"set": {"X-A": "{method}"}}}}
"""A filter whose response step runs for each response."""
ORIGIN = "https://app.example"
BROWSER: Mapping[str, Any] = {"cors": {"origins": [ORIGIN]}, "security_headers": {}}
"""Filters whose only effect are headers of responses, which depend on the request."""


class CachePlane(Plane):
    """A data plane with a store that no other process has."""

    def services(self, worker_loop: WorkerLoop) -> Services:
        store = SharedStore(CacheMemory(MEMORY), 1, worker_loop.loop, {}, MEMORY)
        return super().services(worker_loop)._replace(caches=lambda name: store)


def rooms() -> Iterator[Room]:
    stored = ANSWER % (PUBLIC, b"")
    yield from _misses("without a cache", stored, {})
    yield from _misses("a miss that is stored", stored, CACHED)
    yield from _misses("without a cache, routes in turn", stored, {}, routes=4)
    yield from _misses("a miss that is stored, routes in turn", stored, CACHED, routes=4)
    yield from _misses("a miss that is stored, Vary", ANSWER % (PUBLIC, VARY), CACHED)
    yield from _misses("a miss that is not stored", ANSWER % (b"private", b""), CACHED)
    yield from _misses("a miss that is not stored, Vary", ANSWER % (b"private", VARY), CACHED)
    yield from _misses("a miss that is stored, header in the key", stored, LANGUAGE)
    yield from _misses("headers without a cache", stored, HEADERS)
    yield from _misses("computed headers without a cache", stored, COMPUTED)
    yield from _misses("cors and security_headers without a cache", stored, BROWSER)
    yield from _misses("a miss behind cors and security_headers that is stored", stored, {**CACHED, **BROWSER})
    yield from _misses("a miss behind headers that is stored", stored, {**CACHED, **HEADERS})
    yield from _misses("a miss behind headers that is not stored", ANSWER % (b"private", b""), {**CACHED, **HEADERS})
    yield from _misses("a miss behind computed headers that is stored", stored, {**CACHED, **COMPUTED})
    yield from _misses("a bypass", stored, {"cache": {"bypass": {"header": "X-Request-Id"}}})
    yield from _hits("a hit", stored, CACHED)
    yield from _hits("a hit, Vary", ANSWER % (PUBLIC, VARY), CACHED)
    yield from _hits("a hit, header in the key", stored, LANGUAGE)
    yield from _hits("a hit behind headers", stored, {**CACHED, **HEADERS})
    yield from _hits("a hit behind cors and security_headers", stored, {**CACHED, **BROWSER})
    yield from _hits("a hit behind computed headers", stored, {**CACHED, **COMPUTED})
    yield from _misses("key_auth and rate_limit without a cache", stored, USUAL)
    yield from _misses("a miss behind key_auth and rate_limit that is stored", stored, {**CACHED, **USUAL})
    yield from _hits("a hit behind key_auth and rate_limit", stored, {**CACHED, **USUAL})


def _misses(name: str, answer: bytes, filters: Mapping[str, Any], routes: int = 1) -> Iterator[Room]:
    """Return a microbenchmark whose requests are for another URL each, on up to ten routes in turn."""
    numbers, request = count(1), bytearray(_request(filters))
    at, route_at = request.index(NUMBER), request.index(b"svc1") + 3
    with TemporaryDirectory() as folder, closing(CachePlane(Path(folder), _configuration(filters))) as plane:

        def miss(response: bytes) -> None:
            number = next(numbers)
            request[at : at + len(NUMBER)] = b"%08d" % number
            request[route_at] = ord("0") + number % routes
            plane.exchange((bytes(request), response))

        plane.connect(bytes(request), answer)
        yield Room(name, miss, [answer], plane.turn)


def _hits(name: str, answer: bytes, filters: Mapping[str, Any]) -> Iterator[Room]:
    request = _request(filters)
    with TemporaryDirectory() as folder, closing(CachePlane(Path(folder), _configuration(filters))) as plane:

        def hit(request: bytes) -> None:
            plane.client.receive(request)
            plane.client.written.clear()

        plane.connect(request, answer)
        yield Room(name, hit, [request], plane.turn)
        assert not plane.upstream.written


def _request(filters: Mapping[str, Any]) -> bytes:
    more = b"apikey: %b\r\n" % KEY.encode() if "key_auth" in filters else b""
    return _TEMPLATE % (NUMBER, more + (b"Origin: %b\r\n" % ORIGIN.encode() if "cors" in filters else b""))


def _configuration(filters: Mapping[str, Any]) -> dict[str, Any]:
    made = configuration()
    if "key_auth" in filters:
        made["consumers"] = [{"name": "alice", "key_auth": [{"key": KEY}]}]
    for route in made["routes"]:
        route["filters"] = filters
    return made
