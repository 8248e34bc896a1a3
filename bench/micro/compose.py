"""Whole requests of a composed route, in memory, beside a proxied one: three parts of 1 KB.

Requests and answers have the headers of the benchmark `compose`, and both kinds of requests are logged as in it.
"""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from bench.micro.exchange import Plane, Transport, configuration
from bench.micro.heads import REQUESTS, RESPONSES
from bench.micro.timing import Room
from bench.origin import BODY
from fastgw.upstream.connections import pool

TARGET = b"/svc1/v1/items/12345678"
REQUEST = re.sub(rb"^GET \S+", b"GET " + TARGET, REQUESTS[0])
ANSWER = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(BODY), RESPONSES[0]) + BODY.encode()
NAMES = "abc"
PARTS = [{"name": name, "upstream": "origin", "path": f"/part/{name}/{{id}}"} for name in NAMES]
GROUPED = [{**part, "group": part["name"]} for part in PARTS]


class ComposePlane(Plane):
    """A data plane with an upstream connection for each part."""

    def connect_all(self) -> None:
        opened: list[Transport] = []
        self.upstreams = opened

        async def connect(target: Any, protocol: Any, *timeouts: float | None) -> Any:
            opened.append(Transport(protocol))
            return protocol, (await target.addresses())[0]

        with patch.object(pool, "connect", connect):
            self.turn(lambda: self.client.receive(REQUEST))
            for _ in range(10):
                self.turn(lambda: None)
        assert len(opened) == len(NAMES), opened
        self.turn(self._answer)
        assert b"200 OK" in b"".join(self.client.written), self.client.written
        assert b"Completed: true" in b"".join(self.client.written), self.client.written
        self.client.written.clear()

    def _answer(self) -> None:
        for upstream in self.upstreams:
            upstream.receive(ANSWER)
            upstream.written.clear()

    def compose(self, request: bytes) -> None:
        self.client.receive(request)
        self._answer()
        self.client.written.clear()


def rooms() -> Iterator[Room]:
    with TemporaryDirectory() as folder, closing(Plane(Path(folder), _configuration(folder))) as plane:
        plane.connect(REQUEST, ANSWER)
        yield Room("one proxied request", plane.exchange, [(REQUEST, ANSWER)], plane.turn)
    yield from _composed("composed of three, each in a group", GROUPED)
    yield from _composed("composed of three, merged", PARTS)
    allowed = [{**part, "allow": ["items.id", "total"]} for part in PARTS]
    yield from _composed("composed of three, with allow", allowed)


def _configuration(folder: str) -> dict[str, Any]:
    return configuration([f"{folder}/access.log"])


def _composed(name: str, parts: list[dict[str, Any]]) -> Iterator[Room]:
    with TemporaryDirectory() as folder:
        made = _configuration(folder)
        for route in made["routes"]:
            del route["upstream"]
            route["paths"] = [route["paths"][0].replace("/*", "/v1/items/{id}")]
            route["compose"] = {"parts": parts}
        with closing(ComposePlane(Path(folder), made)) as plane:
            plane.connect_all()
            yield Room(name, plane.compose, [REQUEST], plane.turn)
