"""A plane whose upstream has several targets, and somebody who is told of every attempt at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastgw.errors import Fault
from fastgw.filters.api import Filter
from fastgw.observe.metrics.series_layout import UPSTREAM_HEDGES, UPSTREAM_RETRIES_DENIED, UPSTREAM_WORDS
from fastgw.upstream.connections.pool import LocalLimit
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import SPARE_RETRIES, Upstream
from tests.support.memory import Plane, Wire

HOST = b"Host: a.test\r\n"
GET = b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def asking(method: bytes, body: bytes = b"", *fields: bytes) -> bytes:
    """A request, with its body."""
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return method + b" /a HTTP/1.1\r\n" + HOST + length + b"".join(each + b"\r\n" for each in fields) + b"\r\n" + body


def saying(status: int, body: bytes = b"", *fields: bytes) -> bytes:
    lines = b"".join(each + b"\r\n" for each in fields)
    return b"HTTP/1.1 %d Said\r\n%bContent-Length: %d\r\n\r\n%b" % (status, lines, len(body), body)


class Watch:
    """Keeps what it is told, and finds out at once when that cannot be."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, object]] = []
        self.under_way: dict[Target, int] = {}

    def began(self, target: Target) -> None:
        self.under_way[target] = self.under_way.get(target, 0) + 1
        self._tell("began", target)

    def answered(self, target: Target, status: int, seconds: float) -> None:
        self._tell("answered", target, status)

    def failed(self, target: Target, fault: Fault, seconds: float) -> None:
        self._tell("failed", target, fault.label)

    def ended(self, target: Target) -> None:
        self._tell("ended", target)
        self.under_way[target] -= 1

    def _tell(self, what: str, target: Target, how: object = None) -> None:
        assert self.under_way.get(target, 0) > 0, f"{what}, and no attempt is under way"
        self.told.append((what, target.label, how))

    def of(self, what: str) -> list[object]:
        """All that it was told of this kind: targets, or what came of them."""
        return [target if how is None else how for each, target, how in self.told if each == what]

    def assert_even(self) -> None:
        assert not any(self.under_way.values()), self.told


class Service:
    """A plane with an upstream `u` of so many targets. `settings`: of the upstream; `route`: of its only route."""

    def __init__(
        self,
        settings: Mapping[str, Any] | None = None,
        targets: int = 2,
        route: Mapping[str, Any] | None = None,
        probes: Sequence[type[Filter]] = (),
    ) -> None:
        urls = [{"url": f"http://127.0.0.{number + 1}:9"} for number in range(targets)]
        self.plane = Plane(
            {
                "upstreams": {"u": {"targets": urls, **(settings or {})}},
                "routes": [{"name": "all", "upstream": "u", **(route or {})}],
            },
            probes=probes,
        )
        self.upstream: Upstream = self.plane.gateway.upstreams["u"]
        self._counts = memoryview(bytearray(8 * UPSTREAM_WORDS)).cast("Q")
        self.upstream.count_in(LocalLimit(SPARE_RETRIES), self._counts, 0)
        self.watch = self.upstream.watch = Watch()
        self.wires: list[Wire] = []
        self.client = self.plane.client()
        self.rest_sent = False  # of a request that is sent in two pieces

    @property
    def waiting(self) -> list[str]:
        """The targets that connections are waited for."""
        return [target.label for _, target in self.plane.pool.waiting]

    @property
    def waits(self) -> list[float]:
        """How long from now on timers run."""
        return [timer.at - self.plane.ground.wheel.now for timer in self.plane.ground.turns.timers]

    @property
    def denied(self) -> int:
        return int(self._counts[UPSTREAM_RETRIES_DENIED])

    @property
    def hedges(self) -> int:
        return int(self._counts[UPSTREAM_HEDGES])

    def asks(self, request: bytes = GET) -> None:
        self.client.sends(request)

    def connects(self) -> Wire:
        """The next connection is made."""
        self.wires.append(self.plane.connects())
        return self.wires[-1]

    def passes(self, seconds: float) -> None:
        self.plane.passes(seconds)

    def received(self, method: bytes) -> int:
        """How often targets have got the beginning of a request."""
        return sum(wire.received.count(method + b" /") for wire in self.wires)

    def assert_over(self, status: int, retries: int = 0) -> None:
        """One request was answered with this status, and nothing is held any more."""
        (record,) = self.plane.records
        assert (record.status, record.retries) == (status, retries)
        self.watch.assert_even()
        self.plane.assert_quiet()
