"""Lanes in one gateway: each test has its own host, upstream and origin.

A gateway takes 0.15 s of processor time to start and stop, so tests share it; with a shared pool or origin, a test
would see another's connections. Lanes are used round robin.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.client import Client, Response
from tests.support.gateway import Gateway
from tests.support.http2.translation import TranslatedClient
from tests.support.origin import OK, Origin, OriginConnection, Request
from tests.support.peer import Peer

LANES = 24  # of each kind


@dataclass(frozen=True)
class Kind:
    """Common settings of the lanes of one kind: of upstream and route."""

    upstream: Mapping[str, Any] = field(default_factory=dict)
    route: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    """Path after the target's authority."""


VERSIONS = ["http1", "http2"]
"""Of HTTP that clients speak: parameters of a fixture of `Lanes` whose tests hold for both."""
PLAIN = {"plain": Kind()}


class Lane:
    """One test's view of the gateway: requests for `host` reach `origin`, and no other requests do."""

    def __init__(self, gateway: Gateway, name: str, origin: Origin, translated: bool = False) -> None:
        self.gateway, self.name, self.origin = gateway, name, origin
        self._translated = translated
        self.host = f"{name}.test".encode()
        self._peers: list[Peer] = []

    def client(self, listener: str = "main") -> Client:
        if self._translated:
            client: Client = TranslatedClient(self.gateway.address(listener))
        else:
            client = self.gateway.connect(listener)
        self._peers.append(client)
        return client

    def accept(self) -> OriginConnection:
        """Accept the gateway's next connection to this lane's origin, to be played by hand."""
        return self.origin.accept()

    def fill(self, template: bytes) -> bytes:
        """Return `template` with this lane's host for `$HOST`."""
        return template.replace(b"$HOST", self.host)

    def get(self, request_target: bytes = b"/", fields: bytes = b"", method: bytes = b"GET") -> bytes:
        """Return a request without a body for this lane; `fields` are whole header lines."""
        return method + b" " + request_target + b" HTTP/1.1\r\nHost: " + self.host + b"\r\n" + fields + b"\r\n"

    def post(self, body: bytes, fields: bytes = b"", request_target: bytes = b"/") -> bytes:
        return self.get(request_target, b"Content-Length: %d\r\n" % len(body) + fields, b"POST") + body

    def forward(self, request: bytes, response: bytes = OK) -> tuple[Request, Response]:
        """Send a request (a template) on a new client connection; return what the upstream and the client received."""
        client = self.client()
        client.send(self.fill(request))
        upstream = self.origin.accept_next()
        got = upstream.answer(response)
        return got, client.read_response(got.method)

    def end(self) -> None:
        for peer in self._peers:
            peer.close()
        self.origin.clear()


class Lanes:
    """A gateway with lanes of several kinds. `settings`: further top-level keys of its configuration; `environment`:
    variables to add; `version`: what its clients speak to it."""

    def __init__(
        self,
        directory: Path,
        kinds: Mapping[str, Kind] = PLAIN,
        count: int = LANES,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        version: str = "http1",
    ) -> None:
        self._origins: dict[str, Origin] = {}
        upstreams: dict[str, Any] = {}
        routes: list[dict[str, Any]] = []
        for kind_name, kind in kinds.items():
            for number in range(count):
                name = f"{kind_name}-{number}"
                origin = self._origins[name] = Origin()
                upstreams[name] = {"targets": [{"url": origin.url + kind.base}], **copy.deepcopy(dict(kind.upstream))}
                routes.append(
                    {"name": name, "hosts": [f"{name}.test"], "upstream": name, **copy.deepcopy(dict(kind.route))}
                )
        config: dict[str, Any] = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": upstreams,
            "routes": routes,
            **(settings or {}),
        }
        self._translated = version == "http2"
        if self._translated:
            listeners = config["listeners"].items()
            config["listeners"] = {name: {**each, "protocols": ["http2"]} for name, each in listeners}
        self._order = {kind: itertools.cycle(range(count)) for kind in kinds}
        self.gateway = Gateway(config, directory, environment=environment)

    def take(self, kind: str = "plain") -> Lane:
        name = f"{kind}-{next(self._order[kind])}"
        return Lane(self.gateway, name, self._origins[name], self._translated)

    def stop(self) -> None:
        for origin in self._origins.values():
            origin.stop()
        self.gateway.stop()


def running(lanes: Lanes) -> Iterator[Lanes]:
    """Yield from a fixture: start, and stop at the end."""
    try:
        yield lanes
    finally:
        lanes.stop()
