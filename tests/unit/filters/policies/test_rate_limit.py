"""rate_limit: who is counted, what is refused, what clients are told; bytes in and out, with a clock that is set."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw import config
from fastgw.config.base.value_types import Trait
from fastgw.consumers.index import Consumer
from fastgw.exchange import Chain, Hooks
from fastgw.exchange.shadow_exchange import Nobody
from fastgw.explain import as_text, explain
from fastgw.filters import TYPES
from fastgw.filters.api import Env, Exchange, FilterResources, Phase, Reply
from fastgw.filters.limiting import counter_store, response_headers
from fastgw.filters.limiting.counter_store import Left, LimitDecision, LimitSpec
from fastgw.filters.policies import rate_limit
from fastgw.filters.policies.rate_limit import RateLimit
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.parser import parse_request
from fastgw.shm.rate_limit_table import Cells, own_table
from tests.support.memory import Plane, probe
from tests.support.table import for_each

START = 7200 * 10**9  # a multiple of the windows below
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HOUR = {"limit": 2, "window": "1h"}


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(rate_limit, "monotonic_ns", made)
    monkeypatch.setattr(counter_store, "monotonic_ns", made)
    return made


class Services:
    def __init__(self, cells: Cells) -> None:
        self.cells = cells


class Limited(Plane):
    """Whose filters are started, all with one table."""

    def __init__(self, *given: Any, **more: Any) -> None:
        self.cells = own_table()
        super().__init__(*given, **more)

    def _start(self) -> None:
        super()._start()
        for link in self.gateway.live:
            if link.hooks.start is not None:
                link.hooks.start(Services(self.cells))

    def asks(
        self, path: str = "/", method: str = "GET", ip: str = "192.0.2.1", fields: str = "", answer: bytes = OK
    ) -> bytes:
        """The head of the answer to a request on a connection of its own."""
        client = self.client(ip)
        client.sends(f"{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n".encode())
        if self.pool.waiting:
            self.connects().sends(answer)
        elif not client.received:
            for connection in self.pool.open:
                connection.data_received(answer) if connection.exchange else None
        client.ends()
        for connection in tuple(self.pool.open):
            connection.close()
            self.pool.discard(connection)
        return client.received.partition(b"\r\n\r\n")[0]

    def statuses(self, count: int, **how: Any) -> list[int]:
        return [int(self.asks(**how)[9:12]) for _ in range(count)]


def route(name: str, *filters: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A route at the path of its name, with these limits."""
    named = {f"limit_{number}": {"type": "rate_limit", **each} for number, each in enumerate(filters)}
    return {"name": name, "paths": [f"/{name}"], "respond": {"status": 200}, "filters": named, **more}


def plane(*routes: Mapping[str, Any], probes: Any = (), **settings: Any) -> Limited:
    return Limited({"routes": list(routes), **settings}, probes=probes)


def field(head: bytes, name: str) -> list[str]:
    return re.findall(rf"(?im)^{name}: (.*?)\r?$", head.decode())


@pytest.mark.parametrize("algorithm", ["token_bucket", "fixed_window", "sliding_window"])
def test_the_limit_passes_and_what_is_above_it_is_answered_429(algorithm: str) -> None:
    limited = plane(route("a", {**HOUR, "algorithm": algorithm}))
    assert limited.statuses(4, path="/a") == [200, 200, 429, 429]
    assert limited.statuses(3, path="/a", ip="192.0.2.2") == [200, 200, 429]


def told_seconds(head: bytes) -> list[int]:
    return [int(each) for each in re.findall(rb"(?:Retry-After: |;t=)(\d+)", head)]


@pytest.mark.parametrize(
    "terms",
    [{}, {"algorithm": "token_bucket"}, {"algorithm": "fixed_window"}, {"algorithm": "sliding_window"}],
    ids=str,
)
@pytest.mark.parametrize("limit", [7, 10])
def test_who_always_asks_for_more_is_told_no_more_than_the_window(
    terms: dict[str, str], limit: int, clock: Clock
) -> None:
    """And unless another algorithm is named, no minute holds more than the limit, wherever it begins."""
    limited = plane(route("a", {"limit": limit, "window": "1m", **terms}))
    admitted, told = [], set()
    for tenth in range(3000):
        head = limited.asks("/a")
        told.update(told_seconds(head))
        if head[9:12] == b"200":
            admitted.append(tenth)
        clock.passes(0.1)
    assert max(told) == 60
    most = max(sum(begin <= each < begin + 600 for each in admitted) for begin in admitted)
    assert most == {"token_bucket": 2 * limit - 1, "fixed_window": limit}.get(terms.get("algorithm", ""), limit)
    assert len(admitted) >= 4 * limit


@pytest.mark.parametrize("pauses", [[0.0] * 9, [0.003] * 9, [1.0] * 9, [6.0] * 9, [0.0] * 8 + [59.0]], ids=str)
def test_who_waits_as_long_as_told_is_admitted(pauses: list[float], clock: Clock) -> None:
    limited = plane(route("a", {"limit": 10, "window": "1m"}))
    for pause in [*pauses, 0.0]:
        assert limited.asks("/a")[9:12] == b"200"
        clock.passes(pause)
    refused = limited.asks("/a")
    assert refused[9:12] == b"429"
    clock.passes(float(field(refused, "retry-after")[0]) + 1e-4)  # the least that an answer takes
    assert limited.asks("/a")[9:12] == b"200"


def test_the_answers_byte_for_byte(clock: Clock) -> None:
    limited = plane(route("a", {"limit": 2, "window": "1m", "algorithm": "token_bucket"}))
    told = [b"".join(re.findall(rb"(?m)^(?:RateLimit|Retry).*\n?", limited.asks("/a") + b"\r\n")) for _ in range(3)]
    policy = b'RateLimit-Policy: "limit_0";q=2;w=60\r\n'
    assert told == [
        policy + b'RateLimit: "limit_0";r=1;t=30\r\n',
        policy + b'RateLimit: "limit_0";r=0;t=60\r\n',
        b"Retry-After: 30\r\n" + policy + b'RateLimit: "limit_0";r=0;t=60\r\n',
    ]
    clock.passes(29.2)
    refused = limited.asks("/a")
    assert field(refused, "retry-after") == ["1"]
    assert b'"limit_0";r=0;t=31' in refused


def test_a_refusal_is_a_problem_and_stands_in_the_log() -> None:
    limited = plane(route("a", {"limit": 1, "window": "1h"}))
    limited.asks("/a")
    client = limited.client("192.0.2.1")
    client.sends(b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert b"Content-Type: application/problem+json\r\n" in client.received
    assert b'"type":"urn:fastgw:fault:rate_limited"' in client.received
    assert (limited.records[-1].fault, limited.records[-1].fault_detail) == ("rate_limited", "limit_0: 1 per 1h by ip")


def test_the_fields_that_came_before_the_draft() -> None:
    limited = plane(route("a", {"limit": 2, "window": "1m", "headers": "legacy"}))
    head = limited.asks("/a")
    assert [field(head, f"x-ratelimit-{each}") for each in ("limit", "remaining", "reset")] == [["2"], ["1"], ["60"]]
    assert not field(head, "ratelimit")


def test_the_fields_replace_what_another_filter_sets() -> None:
    set_ = {"type": "headers", "response": {"set": {"X-RateLimit_Limit": "theirs", "X-A": "a"}}}
    limit = {"type": "rate_limit", "limit": 2, "window": "1m", "headers": "legacy"}
    limited = plane({"name": "a", "paths": ["/a"], "upstream": "u", "filters": {"limit": limit, "set": set_}})
    head = limited.asks("/a")
    assert (field(head, "x-ratelimit-limit"), field(head, "x-ratelimit_limit"), field(head, "x-a")) == (
        ["2"],
        [],
        ["a"],
    )


@pytest.mark.parametrize(("now", "reset"), [(1_000_000.0, "1000060"), (1_000_000.25, "1000061")])
def test_the_reset_may_be_a_unix_time(monkeypatch: pytest.MonkeyPatch, now: float, reset: str) -> None:
    """Rounded up."""
    monkeypatch.setattr(response_headers, "time", lambda: now)
    limited = plane(route("a", {"limit": 2, "window": "1m", "headers": "legacy_epoch"}))
    assert field(limited.asks("/a"), "x-ratelimit-reset") == [reset]


def test_none_are_told_and_then_no_answer_is_met() -> None:
    hour = {"type": "rate_limit", **HOUR}
    limited = plane(
        {"name": "quiet", "paths": ["/quiet"], "upstream": "u", "filters": {"a": {**hour, "headers": "none"}}},
        {"name": "told", "paths": ["/told"], "upstream": "u", "filters": {"a": hour}},
    )
    quiet, told = (each.rules[0][0].route for each in limited.gateway.routes)
    assert not quiet.chain.response_steps
    assert told.chain.response_steps
    assert not field(limited.asks("/quiet"), "ratelimit.*")
    assert limited.statuses(2, path="/quiet") == [200, 429]


def test_a_window_of_part_of_a_second_is_not_told_in_seconds() -> None:
    head = plane(route("a", {"limit": 2, "window": "250ms"})).asks("/a")
    assert field(head, "ratelimit-policy") == ['"limit_0";q=2']
    assert field(head, "ratelimit") == ['"limit_0";r=1;t=1']


def test_what_the_upstream_says_in_these_fields_is_replaced() -> None:
    limited = plane(
        {"name": "a", "paths": ["/a"], "upstream": "u", "filters": {"own": {"type": "rate_limit", **HOUR}}},
    )
    theirs = b"RateLimit: theirs\r\nratelimit-policy: theirs\r\nX-RateLimit-Limit: theirs\r\n"
    head = limited.asks("/a", answer=OK.replace(b"\r\n\r\n", b"\r\n" + theirs + b"\r\n"))
    assert field(head, "ratelimit") == ['"own";r=1;t=3600']
    assert field(head, "ratelimit-policy") == ['"own";q=2;w=3600']
    assert field(head, "x-ratelimit-limit") == ["theirs"]


def test_of_several_limits_the_tightest_is_told_in_one_set_of_fields() -> None:
    limited = plane(
        route("a", {"limit": 9, "window": "1h"}, {"limit": 3, "window": "1m"}, {"limit": 5, "window": "2m"})
    )
    head = limited.asks("/a")
    assert field(head, "ratelimit") == ['"limit_1";r=2;t=60']
    assert field(head, "ratelimit-policy") == ['"limit_1";q=3;w=60']


@pytest.mark.parametrize("algorithm", ["token_bucket", "fixed_window", "sliding_window"])
def test_one_refusal_costs_nothing_in_the_other_limits(algorithm: str) -> None:
    wide = {"limit": 5, "window": "1h", "algorithm": algorithm}
    narrow = {"limit": 1, "window": "1h", "key": "header:x-k"}
    limited = plane(
        {
            **route("a", narrow),
            "filters": {"wide": {"type": "rate_limit", **wide}, "z": {"type": "rate_limit", **narrow}},
        }
    )
    assert limited.statuses(50, path="/a", fields="X-K: 1\r\n") == [200] + [429] * 49
    others = [limited.asks("/a", fields=f"X-K: {number}\r\n") for number in range(2, 8)]
    assert [head[9:12] for head in others] == [b"200"] * 4 + [b"429"] * 2
    assert field(others[-1], "ratelimit-policy")[0].startswith('"wide"')


def test_an_early_limit_gets_back_what_a_later_one_refuses() -> None:
    limited = plane(
        route("a", {"limit": 1, "window": "1h"}),
        route("b"),
        filters={"all": {"type": "rate_limit", "limit": 4, "window": "1h"}},
    )
    assert limited.statuses(20, path="/a") == [200] + [429] * 19
    assert limited.statuses(5, path="/b") == [200] * 3 + [429] * 2


def test_a_page_may_read_that_it_was_refused_and_preflights_are_not_counted() -> None:
    cors = {"origins": ["https://app.example"], "expose": ["RateLimit"]}
    limited = plane(route("a", {"limit": 1, "window": "1h"}), filters={"cors": cors})
    origin = "Origin: https://app.example\r\n"
    preflight = origin + "Access-Control-Request-Method: GET\r\n"
    assert limited.statuses(3, path="/a", method="OPTIONS", fields=preflight) == [204] * 3
    answers = [limited.asks("/a", fields=origin) for _ in range(2)]
    assert [head[9:12] for head in answers] == [b"200", b"429"]
    assert all(field(head, "access-control-allow-origin") == ["https://app.example"] for head in answers)


# whom it counts


def test_ipv6_clients_by_their_network() -> None:
    limited = plane(route("a", HOUR), route("b", {**HOUR, "ipv6_prefix": 128}))
    same = [f"2001:db8:1:2::{number}" for number in range(4)]
    assert [limited.statuses(1, path="/a", ip=ip)[0] for ip in same] == [200, 200, 429, 429]
    assert limited.statuses(1, path="/a", ip="2001:db8:1:3::1") == [200]
    assert [limited.statuses(1, path="/b", ip=ip)[0] for ip in same] == [200] * 4
    assert limited.statuses(1, path="/a", ip="::ffff:192.0.2.7") == [200]
    assert limited.statuses(2, path="/a", ip="192.0.2.7") == [200, 429]


def identified(exchange: Exchange) -> None:
    name, _, groups = (exchange.field(b"x-who") or b"").decode().partition(" ")
    if name:
        exchange.consumer = Consumer(name, frozenset(groups.split()))
        exchange.claims = {"org": {"id": name[0]}, "list": [1], "number": 10**30 + ord(name[0])}


WHO = probe("who", Phase.AUTHENTICATE, request=identified)


def test_consumers_wherever_they_are_and_the_address_of_nobody() -> None:
    limited = plane(route("a", {**HOUR, "key": "consumer"}), probes=[WHO])
    alice = {"path": "/a", "fields": "X-Who: alice\r\n"}
    assert limited.statuses(1, ip="192.0.2.1", **alice) + limited.statuses(2, ip="192.0.2.2", **alice) == [
        200,
        200,
        429,
    ]
    assert limited.statuses(1, path="/a", fields="X-Who: bob\r\n") == [200]
    assert limited.statuses(3, path="/a") == [200, 200, 429]
    assert limited.statuses(1, path="/a", fields="X-Who: 192.0.2.1\r\n") == [200]


@pytest.mark.parametrize(
    ("key", "one", "same", "other"),
    [
        ("header:X-K", "X-K: 1\r\n", "X-K: 1\r\nX-L: 1\r\n", "X-K: 2\r\n"),
        ("cookie:s", "Cookie: s=1; t=2\r\n", "Cookie: t=3; s=1\r\n", "Cookie: s=2\r\n"),
        ("claim:org.id", "X-Who: alice\r\n", "X-Who: anne\r\n", "X-Who: bob\r\n"),
        ("claim:number", "X-Who: alice\r\n", "X-Who: anne\r\n", "X-Who: bob\r\n"),
        ("header:x-k", "", "X-K: 1\r\nX-K: 2\r\n", "X-K: 1\r\n"),  # none, or more than one
        (["header:x-k", "header:x-l"], "X-K: 1\r\nX-L: 1\r\n", "X-L: 1\r\nX-K: 1\r\n", "X-K: 1\r\n"),
        (["header:x-k", "header:x-l"], "X-K: a\r\n", "X-K: a\r\n", "X-L: a\r\n"),
    ],
)
def test_by_what_the_request_says(key: Any, one: str, same: str, other: str) -> None:
    limited = plane(route("a", {**HOUR, "key": key}), probes=[WHO])
    ask = {"path": "/a"}
    assert limited.statuses(1, fields=one, **ask) + limited.statuses(2, fields=same, **ask) == [200, 200, 429]
    assert limited.statuses(1, fields=other, **ask) == [200]


def test_by_route_and_by_host() -> None:
    both = {"per_route": {"type": "rate_limit", **HOUR, "key": "route"}}
    limited = plane(route("a"), route("b"), filters=both)
    assert limited.statuses(3, path="/a") == [200, 200, 429]
    assert limited.statuses(1, path="/b") == [200]


def test_a_use_counts_for_all_routes_that_have_it_and_one_on_a_route_for_that_alone() -> None:
    shared = {"set": {"limit": {"type": "rate_limit", **HOUR}}}
    limited = plane(
        route("a", use=["set"]), route("b", use=["set"]), route("c", HOUR), route("d", HOUR), filter_sets=shared
    )
    assert [limited.statuses(1, path=path)[0] for path in ("/a", "/b", "/a", "/b")] == [200, 200, 429, 429]
    assert limited.statuses(3, path="/c") == limited.statuses(3, path="/d") == [200, 200, 429]


def test_networks_that_are_exempt_are_neither_counted_nor_told() -> None:
    limited = plane(route("a", {**HOUR, "exempt": ["192.0.2.0/28"]}))
    assert limited.statuses(5, path="/a") == [200] * 5
    assert not field(limited.asks("/a"), "ratelimit")
    assert limited.statuses(3, path="/a", ip="192.0.2.99") == [200, 200, 429]


def test_groups_have_limits_of_their_own() -> None:
    groups = {"gold": {"limit": 4}, "silver": {"limit": 3, "window": "1m"}}
    limited = plane(route("a", {**HOUR, "key": "consumer", "groups": groups}), probes=[WHO])
    for who, most in (("anne", 2), ("bob gold", 4), ("cyd silver", 3), ("dan silver gold", 4), ("eve brass", 2)):
        got = limited.statuses(6, path="/a", fields=f"X-Who: {who}\r\n")
        assert got == [200] * most + [429] * (6 - most), who


# what it counts


def test_methods_cost_what_they_are_said_to() -> None:
    limited = plane(route("a", {"limit": 6, "window": "1h", "cost": {"methods": {"POST": 5, "HEAD": 0}}}))
    assert limited.statuses(2, path="/a", method="POST", fields="Content-Length: 0\r\n") == [200, 429]
    assert limited.statuses(3, path="/a", method="HEAD") == [200] * 3
    assert limited.statuses(2, path="/a") == [200, 429]


@pytest.mark.parametrize(
    ("told", "left"), [("7", 3), ("1", 9), ("0", 10), ("25", 0), ("", 9), ("many", 9), ("-1", 9), ("9" * 30, 9)]
)
def test_the_upstream_tells_what_a_request_has_cost(told: str, left: int, clock: Clock) -> None:
    limit = {"type": "rate_limit", "limit": 10, "window": "10s", "cost": {"response_header": "X-Cost"}}
    limited = plane({"name": "a", "paths": ["/a"], "upstream": "u", "filters": {"rate_limit": limit}})
    cost = f"X-Cost: {told}\r\n" if told else ""
    head = limited.asks("/a", answer=OK.replace(b"\r\n\r\n", f"\r\n{cost}\r\n".encode()))
    assert field(head, "ratelimit")[0].startswith(f'"rate_limit";r={left};')
    assert field(head, "x-cost") == ([told] if told else [])
    if told == "25":  # it is in debt, by no more than the limit
        assert field(limited.asks("/a"), "retry-after") == ["10"]


def test_paths_that_no_upstream_serves_are_limited_too() -> None:
    limited = plane(
        {
            "name": "r",
            "paths": ["/r"],
            "redirect": {"status": 308, "to": "/x"},
            "filters": {"l": {"type": "rate_limit", **HOUR}},
        }
    )
    assert limited.statuses(3, path="/r") == [308, 308, 429]


def test_a_quiet_client_gets_exactly_the_burst_and_then_what_comes_in(clock: Clock) -> None:
    limited = plane(route("a", {"limit": 60, "window": "1m", "algorithm": "token_bucket", "burst": 3}))
    assert limited.statuses(5, path="/a") == [200] * 3 + [429] * 2
    clock.passes(2.0)
    assert limited.statuses(4, path="/a") == [200, 200, 429, 429]


# where it runs


def test_on_the_gateway_it_runs_before_a_route_is_found() -> None:
    limited = plane(route("a"), filters={"all": {"type": "rate_limit", **HOUR}})
    assert limited.statuses(2, path="/nowhere") == [404, 404]
    assert limited.statuses(2, path="/a") == [429, 429]
    assert limited.gateway.tables["main"].early.links


@pytest.mark.parametrize("more", [{"key": "route"}, {"key": ["ip", "consumer"]}, {"groups": {"g": {"limit": 1}}}])
def test_not_where_it_has_to_know_more(more: Mapping[str, Any]) -> None:
    limited = plane(route("a"), filters={"all": {"type": "rate_limit", **HOUR, **more}})
    assert not limited.gateway.tables["main"].early.links
    assert limited.statuses(3, path="/nowhere") == [404] * 3
    assert limited.statuses(3, path="/a") == [200, 200, 429]


# waiting for one's turn, and for a counter store that has to ask


def hooks_of(settings: RateLimit, cells: Cells) -> Hooks:
    made = settings.build(Env("limit", "r", settings, FilterResources(), {}))
    assert made.start is not None
    made.start(Services(cells))  # type: ignore[arg-type]
    return made


def exchange(ip: str = "192.0.2.1") -> Exchange:
    nobody: Any = None
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    return Exchange(head, Nobody(), nobody, Peer(ip, 1, 80, trusted=False), Chain(()))


def test_in_a_queue_requests_wait_for_their_turn_and_no_longer(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two a second, two waiting places."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 3))

    monkeypatch.setattr(rate_limit, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    settings = RateLimit(limit=2, window=1.0, burst=2, algorithm="leaky_bucket")
    hook = hooks_of(settings, own_table()).request
    assert hook is not None
    ask = hook.step
    assert ask(exchange()) is None
    for _ in range(2):
        assert asyncio.run(ask(exchange())) is None  # type: ignore[arg-type]
    assert slept == [0.5, 1.0]
    refused = ask(exchange())
    assert isinstance(refused, Reply)
    assert (b"Retry-After", b"1") in refused.fields
    clock.passes(1.5)
    assert ask(exchange()) is None


def test_nobody_waits_long_where_no_places_are_named() -> None:
    assert LimitSpec("leaky_bucket", 600, 60.0).queue_size == 100
    assert LimitSpec("leaky_bucket", 2, 60.0).queue_size == 0
    assert LimitSpec("leaky_bucket", 5, 1.0).queue_size == 5
    assert LimitSpec("leaky_bucket", 5, 1.0, 0).depth == 1


class Elsewhere:
    """A counter store that is asked, and answers in a later turn."""

    def __init__(self, *verdicts: LimitDecision) -> None:
        self.verdicts = list(verdicts)
        self.asked: list[tuple[Any, ...]] = []

    async def spend(self, key: bytes, cost: int, /) -> LimitDecision:
        self.asked.append(("spend", key, cost))
        await asyncio.sleep(0)
        return self.verdicts.pop(0)

    def refund(self, key: bytes, cost: int, mark: Any, /) -> None:
        self.asked.append(("refund", key, cost, mark))

    def charge(self, key: bytes, cost: int, mark: Any, /) -> None:
        self.asked.append(("charge", key, cost))

    def left(self, key: bytes, mark: Any, /) -> Left:
        return 7, 1.5


def test_a_counter_store_that_has_to_ask_is_waited_for() -> None:
    settings = RateLimit(limit=2, window=5.0, key=Trait("host"))
    counts = rate_limit._Counts(settings, "name", "limit")
    held = counts._everybody.counter_store = Elsewhere(
        LimitDecision(0.0, "mark"), LimitDecision(2.5), LimitDecision(0.0, "mark", 0.001)
    )
    ask, asked = counts.asking_step(), exchange()
    assert asyncio.run(ask(asked)) is None  # type: ignore[arg-type]
    assert asked.limits[1:] == (held, b"a.test", 1, "mark", None)
    refused = asyncio.run(ask(asked))  # type: ignore[arg-type]
    assert (refused.status, held.asked[-1]) == (429, ("refund", b"a.test", 1, "mark"))
    assert (b"Retry-After", b"3") in refused.fields
    assert asyncio.run(ask(exchange())) is None  # type: ignore[arg-type]


# reloads


def test_a_limit_that_is_changed_keeps_what_was_spent() -> None:
    limited = plane(route("a", {"limit": 5, "window": "1h", "algorithm": "fixed_window"}))
    limited.statuses(4, path="/a")
    limited.adopts(
        {"routes": [route("a", {"limit": 6, "window": "1h", "algorithm": "fixed_window", "headers": "none"})]}
    )
    assert limited.statuses(3, path="/a") == [200, 200, 429]


# trying it out


def test_in_shadow_it_counts_and_refuses_nobody() -> None:
    limited = plane(
        {
            **route("a"),
            "filters": {
                "real": {"type": "rate_limit", "limit": 5, "window": "1h"},
                "tried": {"type": "rate_limit", "limit": 2, "window": "1h", "shadow": True},
            },
        }
    )
    assert limited.statuses(6, path="/a") == [200] * 5 + [429]
    assert [record.shadowed.count("refuse 429") for record in limited.records] == [0, 0, 1, 1, 1, 0]


def test_explain_tells_what_it_counts_and_spends_nothing() -> None:
    limited = plane(route("a", HOUR), filters={"all": {"type": "rate_limit", **HOUR, "key": "host"}})
    for _ in range(4):
        told = as_text(explain(limited.gateway, "GET", "http://a.test/a"))
    assert "all (rate_limit) → pass (counts 1 of 2 per 1h by host; 2 remaining)" in told
    assert "limit_0 (rate_limit) → pass (counts 1 of 2 per 1h by ip; 2 remaining)" in told
    limited.statuses(2, path="/a", ip="127.0.0.1")
    assert "0 remaining" in as_text(explain(limited.gateway, "GET", "http://a.test/a"))


# what is refused in a file


def problems_of(text: str) -> Sequence[config.Problem]:
    with pytest.raises(config.ConfigError) as refused:
        config.load_text(text.encode(), "gateway.yaml", TYPES)
    return refused.value.problems


@for_each(
    ("settings", "told"),
    [
        ("limit: 0, window: 1s", "expected a whole number from 1 to 1000000000"),
        ("limit: 1", "expected a duration"),
        ("limit: 1, window: 1s, key: nobody", "nobody"),
        ("limit: 1, window: 1s, key: []", "list"),
        ("limit: 1, window: 1s, key: 'header:'", "header:"),
        (
            "limit: 1, window: 1s, algorithm: token_bucket, burst: 0",
            "`burst` is 0, so every request would be refused; expected 1 or more",
        ),
        (
            "limit: 1, window: 100ms, algorithm: fixed_window",
            "`window` is too short for fixed_window; expected 200ms",
        ),
        ("limit: 16777216, window: 1s, algorithm: fixed_window", "`limit` is too high for fixed_window"),
        (
            "limit: 4194304, window: 1s",
            "`limit` is too high for sliding_window; expected 4194303 or less, or `algorithm",
        ),
        (
            "limit: 1, window: 100ms",
            "`window` is too short for sliding_window; expected 200ms or more, or `algorithm: t",
        ),
        ("limit: 1, window: 1s, burst: 2", "no effect with sliding_window; leave it out, or set `algorithm: token_bu"),
        ("limit: 4, window: 1s, cost: {methods: {POST: 5}}", "POST costs 5, more than the bucket can ever hold: 4"),
        ("limit: 4, window: 1s, cost: {methods: {post: 1}}", "is not in upper case"),
        (
            "limit: 9, window: 1s, cost: {methods: {POST: 5}}, groups: {g: {limit: 2}}",
            "more than the bucket can ever hold of the group g: 2",
        ),
        ("limit: 1, window: 1s, ipv6_prefix: 0", "from 1 to 128"),
        (
            "limit: 1, window: 8760h, algorithm: token_bucket, burst: 1000",
            "would take years to refill; expected less, or a shorter `window`",
        ),
        ("limit: 1, window: 1s, headers: all", '"draft", "legacy", "legacy_epoch" or "none"'),
        ("limit: 1, window: 1s, exempt: [10.0.0.1/8]", "host bits"),
    ],
)
def test_nonsense_is_refused_at_its_place(settings: str, told: str) -> None:
    text = f"""version: 1
listeners: {{main: {{address: "127.0.0.1:0"}}}}
routes:
  - name: a
    respond: {{status: 200}}
    filters:
      rate_limit: {{{settings}}}
"""
    problems = problems_of(text)
    lines = [f"{problem.line}: {str(problem).partition(': ')[2]}" for problem in problems]
    assert any(told in line for line in lines), lines
    assert all(line.startswith(("7: routes[0].filters.rate_limit", "4: ")) for line in lines), lines


def test_an_enforced_limit_stays_and_a_route_adds_its_own() -> None:
    text = """version: 1
listeners: {main: {address: "127.0.0.1:0"}}
filters: {all: {type: rate_limit, limit: 9, window: 1s, enforced: true}}
routes:
  - {name: a, respond: {status: 200}, filters: {all: null}}
  - {name: b, respond: {status: 200}, filters: {rate_limit: {limit: 1, window: 1h}}}
"""
    (problem,) = problems_of(text)
    assert (problem.line, "enforced by the gateway" in problem.wrong) == (5, True)


def test_without_enforced_a_route_cannot_replace_one_that_has_run_by_then() -> None:
    text = """version: 1
listeners: {main: {address: "127.0.0.1:0"}}
filters: {rate_limit: {limit: 9, window: 1s}, other: {type: rate_limit, limit: 9, window: 1s, key: consumer}}
routes:
  - {name: a, respond: {status: 200}, filters: {rate_limit: {limit: 1, window: 1h}, other: null}}
"""
    (problem,) = problems_of(text)
    assert "runs before routing, by the gateway" in problem.wrong


@pytest.mark.parametrize("added", [b"", b"X-K: real\r\n"])
@pytest.mark.parametrize("key", ["header:X-K", "cookie:k"])
def test_a_client_cannot_choose_its_key_by_a_header_that_authentication_writes(key: str, added: bytes) -> None:
    def owns(exchange: Exchange) -> None:
        exchange.request_dropped |= {b"x-k", b"cookie"}
        exchange.request_added += added

    limited = plane(route("a", {**HOUR, "key": key}), probes=[probe("owns", Phase.AUTHENTICATE, request=owns)])
    codes = [limited.statuses(1, path="/a", fields=f"X-K: {n}\r\nCookie: k={n}\r\n")[0] for n in range(3)]
    assert codes == [200, 200, 429]
