"""Exchanges that have ended, and what is counted and logged of them. The content of a case is JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from random import Random
from typing import Any

from fastgw.http.http1.parser import parse_request
from fastgw.http.malformed import Malformed
from fastgw.observe.access_log.finished_exchange import record_of
from fastgw.observe.access_log.record import Record
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.observe.metrics.series_layout import WORDS, Series
from fastgw.observe.observer import Observer
from fastgw.shm.slot_assignment import SlotNames, first
from tests.fuzz import messages
from tests.fuzz.comparison import Difference
from tests.fuzz.routes import as_bytes
from tests.support.counted import assert_line, count_record

LISTENERS, ROUTES, UPSTREAMS = ["public", "\u00f6"], ["users", 'quo"te', "back\\slash", "\u20ac" * 40], ["api", "cart"]
FAULTS = ["connect_refused", "route_not_found"]
TEXTS = [
    "",
    "",
    "",
    "a",
    "10.0.0.1:8080",
    "[::1]:81",
    "\u00e9",
    '"',
    "\\",
    "\n",
    "\u2028",
    "\x7f",
    "x" * 500,
    "\u20ac" * 900,
]
ADDRESSES = ["192.0.2.7", "::1", "fe80::1%eth0", "", "unix:", "1" * 45]
IDS = ["", "0af7651916cd43dd8448eb211c80319c", "i" * 300, "\u00ff", '"', "\t", "\x1f", "\x80", "i" * 4096]
SECONDS = [
    0.0,
    1e-9,
    4.9999949e-4,
    5e-4,
    5.000005e-4,
    0.0000005,
    0.0000015,
    0.1,
    0.3,
    1.0,
    29.9999995,
    30.0,
    3600.5,
    1e7,
]
DATES = [
    0.0,
    0.9999,
    1763632800.0,
    1763632800.9995,
    1763632800.0004,
    1763632860.25,
    4102444800.123456,
    253402300799.999,
]
COUNTS = [0, 0, 0, 1, 9, 10, 1012, 65_536, 2**31, 2**32, 10**12, 2**50]
SCHEMES = {"http": b"http", "https": b"https", "": b""}
FORMATS = ["json", "json", "ecs", "combined"]


def write(random: Random) -> bytes:
    logs = [
        {"format": random.choice(FORMATS), "redact": random.choice([[], ["a"], ["Q", "\u00e9"], ["x"] * 3])}
        for _ in range(random.choice((0, 1, 1, 1, 2)))
    ]
    return json.dumps({"logs": logs, "exchanges": [_exchange(random) for _ in range(30)]}).encode()


def _exchange(random: Random) -> dict[str, Any]:
    def seldom(ordinary: Any, *others: Any) -> Any:
        return ordinary if random.random() < 0.92 else random.choice(others)

    return {
        "head": messages.request(random).partition(b"\r\n\r\n")[0].decode("latin-1") + "\r\n\r\n",
        "user_agent": seldom(None, *TEXTS[2:]),
        "scheme": seldom("http", "https", ""),
        "client_ip": seldom("192.0.2.7", *ADDRESSES),
        "consumer": random.choice((None, "alice", "a@b.test/c", 'ü "x"', "c" * 300)),
        "listener": seldom("public", *LISTENERS, "?"),
        "route": seldom("users", None, *ROUTES, "?"),
        "request_body": seldom(None, *COUNTS),
        "request_bytes": seldom(0, *COUNTS),
        "status": seldom(200, None, 0, 99, 101, 204, 404, 499, 503, 599, 999),
        "response_bytes": random.choice(COUNTS),
        "lasted": seldom(random.random() * random.choice((0.001, 1.0, 100.0)), *SECONDS),
        "date": seldom(1763632800 + random.random() * 100, *DATES),
        "upstream": seldom("api", *UPSTREAMS, "", "?", *TEXTS),
        "target": seldom("10.0.0.1:8080", *TEXTS),
        "upstream_s": seldom(random.random() * random.choice((0.001, 1.0)), -1.0, *SECONDS),
        "retries": seldom(0, 1, 2, 7),
        "fault": seldom(None, *FAULTS, "?"),
        "why": seldom("", *TEXTS),
        "cache": seldom("", "hit", "collapsed"),
        "grpc_status": seldom("", "OK", "UNAVAILABLE"),
        "shadowed": seldom("", *TEXTS),
        "subrequests": seldom("", *TEXTS),
        "request_id": seldom("0af7651916cd43dd8448eb211c80319c", *IDS),
    }


@dataclass(slots=True)
class Named:
    name: str


@dataclass(slots=True)
class Counted:
    bytes: int


@dataclass(slots=True)
class Answer:
    status: int


@dataclass(slots=True)
class Failure:
    label: str


@dataclass(slots=True)
class Ended:
    head: Any
    scheme: bytes
    client_ip: str
    consumer: Named | None
    listener: Named
    route: Named | None
    request_body: Counted | None
    request_bytes: int
    response: Answer | None
    response_bytes: int
    begun_at: float
    upstream: str
    target: str
    upstream_s: float
    retries: int
    fault: Failure | None
    why: str
    request_id: bytes
    cache_result: str
    grpc_status: str
    shadowed: str
    subrequests: str | None
    trace: None = None
    tunnel: None = None


@dataclass(frozen=True)
class Log:
    format: str
    redact: list[str]
    fields: tuple[str, ...] = ()
    only: None = None
    always: None = None
    sample: float = 1.0
    sample_routes: None = None
    sink: str = "stdout"  # never opened: the lines are taken before a thread would write them


NOW = 1e6


def judge(content: bytes, seed: int) -> bool:
    """Whether anything was recorded. The lines are taken one by one, or when there are many. Raises `Difference`."""
    case = json.loads(content, object_hook=_with_one_of_each_text)
    recorded = Recorded(case["logs"])
    at_once = seed % 4 == 0
    for exchange in case["exchanges"] * (8 if at_once else 1):
        recorded.finish(exchange)
        if not at_once:
            recorded.judge(f"of {exchange}")
    recorded.judge("in the end")
    return any(recorded.column)


def _with_one_of_each_text(told: dict[str, Any]) -> dict[str, Any]:
    """As in a running gateway: the name of a route is one object, by which the recorder knows it again."""
    return {name: sys.intern(value) if isinstance(value, str) else value for name, value in told.items()}


class Recorded:
    """Counters and logs of a recorder, and of the model: what the records of the exchanges tell."""

    def __init__(self, logs: list[dict[str, Any]]) -> None:
        series = Series(first(SlotNames(LISTENERS, ROUTES, dict.fromkeys(UPSTREAMS, ()))), FAULTS)
        self.column, self._expected = (memoryview(bytearray(8 * WORDS)).cast("Q") for _ in range(2))
        self._counters = ExchangeCounters(series, self._expected)
        self._settings = [Log(**log) for log in logs]
        self._observer = Observer(logs=self._settings, column=self.column, series=series)
        self._recorder: Any = self._observer.finish.__self__  # type: ignore[attr-defined]
        self._records: list[Record] = []

    def judge(self, when: str) -> None:
        """Each exchange since the last call has a line in each log, and is counted. Raises `Difference`."""
        for settings, log in zip(self._settings, self._observer._logs, strict=True):
            written = b"".join(iter(log.held.pop_lines, b""))
            lines = written.splitlines(keepends=True)
            try:
                assert len(lines) == len(self._records)
                for line, record in zip(lines, self._records, strict=True):
                    if settings.format == "json":
                        assert_line(line, record, settings.redact)
            except (AssertionError, ValueError) as error:
                raise Difference(f"lines {when}: {error}\n{written[-2000:]!r}") from error
        self._records.clear()
        if self.column != self._expected:
            words = zip(self.column, self._expected, strict=True)
            differing = [(place, *pair) for place, pair in enumerate(words) if pair[0] != pair[1]]
            raise Difference(f"words of the column, and those that were expected {when}: {differing}")

    def finish(self, told: dict[str, Any]) -> None:
        """An exchange has ended; it has not even begun if its head is refused."""
        try:
            head = parse_request(as_bytes(told["head"]))
        except Malformed:
            return
        if told["user_agent"] is not None:
            head.fields().set(b"User-Agent", told["user_agent"].replace("\n", " ").replace("\x7f", " ").encode())
        ended = Ended(
            head=head,
            scheme=SCHEMES[told["scheme"]],
            client_ip=told["client_ip"],
            consumer=Named(told["consumer"]) if told.get("consumer") else None,
            listener=Named(told["listener"]),
            route=None if told["route"] is None else Named(told["route"]),
            request_body=None if told["request_body"] is None else Counted(told["request_body"]),
            request_bytes=told["request_bytes"],
            response=None if told["status"] is None else Answer(told["status"]),
            response_bytes=told["response_bytes"],
            begun_at=NOW - told["lasted"],
            upstream=told["upstream"],
            target=told["target"],
            upstream_s=told["upstream_s"],
            retries=told["retries"],
            fault=None if told["fault"] is None else Failure(told["fault"]),
            why=told["why"],
            request_id=as_bytes(told["request_id"]),
            cache_result=told.get("cache", ""),
            grpc_status=told.get("grpc_status", ""),
            shadowed=told.get("shadowed", ""),
            subrequests=told.get("subrequests", "") or None,
        )
        self._recorder.finish_at(ended, NOW, told["date"])
        record = record_of(ended, NOW, told["date"])  # type: ignore[arg-type]
        count_record(self._counters, record)
        self._records.append(record)
