"""A plane whose upstream has several targets, and a listener for all attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastgw.errors import Fault
from fastgw.filters.api import Filter
from fastgw.observe.metrics.series_layout import UPSTREAM_HEDGES, UPSTREAM_RETRIES_DENIED, UPSTREAM_WORDS
from fastgw.upstream.connections.pool_limit import LocalLimit
from fastgw.upstream.policies.retry import SPARE_RETRIES
from fastgw.upstream.targets.attempt_listener import AttemptKind, AttemptRecord
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream
from tests.support.memory import Plane, Wire

HOST = b"Host: a.test\r\n"
GET = b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def asking(method: bytes, body: bytes = b"", *fields: bytes) -> bytes:
    """Return a request with its body."""
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return method + b" /a HTTP/1.1\r\n" + HOST + length + b"".join(each + b"\r\n" for each in fields) + b"\r\n" + body


def saying(status: int, body: bytes = b"", *fields: bytes) -> bytes:
    lines = b"".join(each + b"\r\n" for each in fields)
    return b"HTTP/1.1 %d Said\r\n%bContent-Length: %d\r\n\r\n%b" % (status, lines, len(body), body)


class Watch:
    """Records all events, and fails at once on an impossible order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, object]] = []
        self.under_way: dict[AttemptRecord, str] = {}
        self.records: list[AttemptRecord] = []  # one for each event

    def attempt_begun(self, attempt: AttemptRecord) -> None:
        assert attempt not in self.under_way
        assert (attempt.kind is AttemptKind.FIRST) == (attempt.number == 1)
        self.under_way[attempt] = "begun"
        self._tell("begun", attempt)

    def attempt_answered(self, attempt: AttemptRecord) -> None:
        assert self.under_way[attempt] == "begun"
        self.under_way[attempt] = "answered"
        assert attempt.head_at >= attempt.connected_at >= attempt.begun_at
        self._tell("answered", attempt, attempt.status)

    def attempt_ended(self, attempt: AttemptRecord) -> None:
        assert self.under_way.pop(attempt) == "answered"
        assert attempt.ended_at >= attempt.head_at
        self._tell("ended", attempt)

    def attempt_given_up(self, attempt: AttemptRecord, fault: Fault | None, why: str) -> None:
        del self.under_way[attempt]
        assert attempt.ended_at >= attempt.begun_at
        self._tell("given up", attempt, fault and fault.label)

    def _tell(self, what: str, attempt: AttemptRecord, how: object = None) -> None:
        self.told.append((what, attempt.target.label, how))
        self.records.append(attempt)

    def of(self, what: str) -> list[object]:
        """Return the events of this kind: targets, or results."""
        return [target if how is None else how for each, target, how in self.told if each == what]

    @property
    def faults(self) -> list[object]:
        """Faults of the failed attempts."""
        return [how for each, _, how in self.told if each == "given up" and how is not None]

    def assert_even(self) -> None:
        assert not self.under_way, self.told


def record(target: Target, seconds: float = 0.0, status: int = 0) -> AttemptRecord:
    """Return an attempt with this time until its head or end, for a listener that is called directly."""
    nothing: Any = None
    attempt = AttemptRecord(nothing, nothing, target, AttemptKind.FIRST, 1, 0.0)
    attempt.head_at = attempt.ended_at = seconds
    attempt.status = status
    return attempt


class Service:
    """A plane with an upstream `u` of this many targets. `settings`: of the upstream; `route`: of its only route."""

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
        self.watch = Watch()
        self.upstream.attempt_listeners = (self.watch,)
        self.wires: list[Wire] = []
        self.client = self.plane.client()
        self.rest_sent = False  # of a request sent in two pieces

    @property
    def waiting(self) -> list[str]:
        """Targets with a pending connect."""
        return [target.label for _, target in self.plane.pool.waiting]

    @property
    def waits(self) -> list[float]:
        """Seconds until each timer expires."""
        return [timer.at - self.plane.worker_loop.wheel.now for timer in self.plane.worker_loop.turns.timers]

    @property
    def denied(self) -> int:
        return int(self._counts[UPSTREAM_RETRIES_DENIED])

    @property
    def hedges(self) -> int:
        return int(self._counts[UPSTREAM_HEDGES])

    def asks(self, request: bytes = GET) -> None:
        self.client.sends(request)

    def connects(self) -> Wire:
        """Complete the next connect."""
        self.wires.append(self.plane.connects())
        return self.wires[-1]

    def passes(self, seconds: float) -> None:
        self.plane.passes(seconds)

    def received(self, method: bytes) -> int:
        """Return how many times targets have received the start of a request."""
        return sum(wire.received.count(method + b" /") for wire in self.wires)

    def assert_over(self, status: int, retries: int = 0) -> None:
        """Assert that one request was answered with this status, and that no resources are held."""
        (record,) = self.plane.records
        assert (record.status, record.retries) == (status, retries)
        self.watch.assert_even()
        self.plane.assert_quiet()
