"""Filters that change headers: what is sent, whatever happens and whoever is beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from fastgw.exchange.hooks import ResponseLines
from fastgw.exchange.sent_fields import NO_SENT_FIELDS, SentFields
from fastgw.filters.api import Exchange, Filter, Phase, ResponseHook
from fastgw.http.field_names import FORWARDING
from fastgw.http.fields import folded
from tests.support.counted_plane import played
from tests.support.memory import probe
from tests.support.table import for_each
from tests.unit.upstream.forwarding.test_counted_plays import MEETING, PASSING, acted, upstream
from tests.unit.upstream.forwarding.test_plays import (
    CHUNKED,
    GET,
    OK,
    PLAYS,
    POST,
    Step,
    answers,
    asking,
    connects,
    hangs_up,
    saying,
    sends,
)

TO_UPSTREAM = {"remove": ["Referer"], "set": {"User-Agent": "gateway", "X-New": "n"}, "add": {"X-More": "m"}}
TO_CLIENT = {
    "remove": ["Server", "X_Gone"],
    "set": {"X-Frame-Options": "DENY", "V": "ours"},
    "add": {"Link": "</b>"},
}
HEADERS: dict[str, Any] = {"headers": {"request": TO_UPSTREAM, "response": TO_CLIENT}}
FULL = saying(
    b"200 OK",
    b"Server: s",
    b"X-Gone: 1",
    b"x.gone: 2",
    b"V: w",
    b"v: x",
    b"Link: </a>",
    b"x-frame_options: ALLOW",
    b"Content-Length: 2",
    body=b"ok",
)


@pytest.fixture(autouse=True)
def _played() -> Iterator[None]:
    with played():
        yield


@for_each("name", PLAYS)
def test_what_comes_of_it_whatever_happens(name: str) -> None:
    steps, status = PLAYS[name]
    play = acted(steps, {**upstream(), "filters": HEADERS})
    assert play.plane.records[-1].status == status
    play.plane.assert_quiet()


def test_what_is_sent_and_answered() -> None:
    play = acted([sends(GET), answers(FULL)], {**upstream(), "filters": HEADERS})
    sent = play.upstream.received.partition(b"GET /a?b=c")[2]
    assert b"\r\nUser-Agent: gateway\r\nX-New: n\r\nX-More: m\r\n" in sent
    assert b"User-Agent: u\r\n" not in sent
    assert b"Referer" not in sent
    assert b"X-Request-Id: i\r\n" in sent
    answer = play.client.received.rpartition(b"HTTP/1.1 ")[2]
    assert answer == (
        b"200 OK\r\nLink: </a>\r\nX-Frame-Options: DENY\r\nV: ours\r\nLink: </b>\r\n"
        b"Via: 1.1 fastgw\r\nContent-Length: 2\r\nDate: now\r\n\r\nok"
    )


def own(name: str, phase: Phase, line: bytes, lines: ResponseLines | None = None) -> type[Filter]:
    def response(exchange: Exchange) -> None:
        assert exchange.response is not None
        exchange.response.added += line

    return probe(name, phase, response=ResponseHook(response, lines=lines))


LINES = own("lines", Phase.ADMIT, b"X-Lines: 1\r\n", ResponseLines((b"x-lines",)))
STEPS: Sequence[Step] = [
    *(sends(GET), answers(FULL), sends(POST), answers(OK), sends(asking(b"HEAD /a")), answers(FULL[:-2])),
    *(sends(GET), answers(CHUNKED), sends(GET), answers(saying(b"404 No", b"V: w", b"Content-Length: 0"))),
    *(sends(GET), hangs_up, connects, answers(FULL[:-1]), answers(FULL[-1:]), sends(GET), answers(b"?")),
]


@pytest.mark.parametrize(
    ("settings", "probes", "expected"),
    [
        ({}, (), b"V: ours\r\n"),
        ({}, (PASSING,), b"V: ours\r\n"),
        ({}, (MEETING,), b"V: ours\r\n"),
        ({}, (LINES,), b"V: ours\r\nLink: </b>\r\nX-Lines: 1\r\n"),
        ({"filters": {"headers": {"response": TO_CLIENT}, "request_id": {}}}, (), b"V: ours\r\n"),
        (
            {"filters": {"headers": {"response": TO_CLIENT}, "request_id": {"trust_client": True}}},
            (),
            b"X-Request-Id: ",
        ),
        ({"filters": {**HEADERS, "cors": {"origins": ["*"]}}}, (), b"V: ours\r\nLink: </b>\r\nAccess-Control-Allow-"),
        ({"filters": {**HEADERS, "security_headers": {}}}, (), b"V: ours\r\n"),
        ({"filters": {**HEADERS, "compress": {}}}, (), b"V: ours\r\n"),
        (upstream(load_balancing={"sticky": {"cookie": "at", "key": "k" * 32}}), (), b"V: ours\r\n"),
        ({"filters": {"headers": {"response": {"remove": ["Set-Cookie"]}}}}, (), b"Via: 1.1 fastgw\r\n"),
        ({"filters": {"headers": {"response": {"set": {"Date": "then"}}}}}, (), b"Date: then\r\n"),
        ({"filters": {"headers": {"response": {"remove": ["Date"]}}}}, (), b"Date: now\r\n"),
        (
            {"filters": {"headers": {"response": {"set": {"X-Request-Id": "x"}}}, "request_id": {}}},
            (),
            b"X-Request-Id: ",
        ),
        ({"filters": {"headers": {"response": {"set": {"V": "{response_header.link}"}}}}}, (), b"V: </a>\r\n"),
        ({"filters": {"headers": {"response": {"set": {"V": "{header.absent}"}}}}}, (), b"Link: </a>\r\n"),
        (
            {"filters": {**HEADERS, "again": {"type": "headers", "response": {"set": {"V": "theirs"}}}}},
            (),
            b"X-Frame-Options: DENY\r\n",
        ),
        (
            {"filters": {**HEADERS, "again": {"type": "headers", "response": {"set": {"V": "{response_header.v}!"}}}}},
            (),
            b"X-Frame-Options: DENY\r\n",
        ),
    ],
    ids=[
        *("alone", "behind a step", "met", "with lines", "ids", "ids sent", "cors", "security", "compress", "sticky"),
        *("cookies", "date", "no date", "id", "computed", "missing", "twice", "twice, computed"),
    ],
)
def test_headers_change_alike_beside_others(settings: dict[str, Any], probes: Any, expected: bytes) -> None:
    play = acted(STEPS, {**upstream(), "filters": HEADERS, **settings}, probes)
    assert expected in play.client.received.partition(b"HTTP/1.1 200 OK")[2].partition(b"HTTP/1.1 200 OK")[2]
    assert [record.status for record in play.plane.records][1:] == [200, 200, 200, 200, 404, 200, 502]
    assert play.client.received.count(b"Date: ") == len(play.plane.records)


def values(play: Any, name: bytes) -> list[bytes]:
    head = play.client.received.rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")[0]
    return [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.lower().startswith(name + b":")]


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ({"set": {"X-A": "1"}}, {"set": {"X-A": "2"}}, [b"2"]),
        ({"add": {"X-A": "1"}}, {"add": {"X-A": "2"}}, [b"0", b"1", b"2"]),
        ({"add": {"X-A": "1"}}, {"remove": ["x_a"]}, []),
        ({"remove": ["X-A"]}, {"add": {"X-A": "2"}}, [b"2"]),
        ({"set": {"X-A": "1"}}, {"set": {"X-A": "{response_header.X-A}!"}}, [b"1!"]),
        ({"set": {"X-A": "{response_header.X-A}!"}}, {"add": {"X-A": "2"}}, [b"0!", b"2"]),
    ],
)
def test_two_of_them_act_one_after_the_other(
    inner: dict[str, Any], outer: dict[str, Any], expected: list[bytes]
) -> None:
    """The one that is nearer to the upstream first."""
    filters = {"first": {"type": "headers", "response": outer}, "second": {"type": "headers", "response": inner}}
    answer = saying(b"200 OK", b"X-A: 0", b"Content-Length: 2", body=b"ok")
    play = acted([sends(GET), answers(answer)], {**upstream(), "filters": filters})
    assert values(play, b"x-a") == expected


def test_later_changes_include_what_earlier_ones_add() -> None:
    first = SentFields(frozenset((b"x-a",)), b"X-A: 1\r\nX-B: 2\r\n")
    assert NO_SENT_FIELDS.then(first) == first
    later = SentFields(frozenset((b"x_b",)), b"X-C: 3\r\n")
    assert first.then(later) == SentFields(frozenset((b"x-a", b"x_b")), b"X-A: 1\r\nX-C: 3\r\n")


@pytest.mark.parametrize(
    ("filters", "name", "expected"),
    [
        ({"cors": {"origins": ["*"]}}, "Access-Control-Allow-Origin", [b"*"]),
        ({"cors": {"origins": ["https://a.test"]}}, "Vary", [b"theirs", b"Origin"]),
        ({"security_headers": {}}, "X-Frame-Options", [b"SAMEORIGIN"]),
        ({"request_id": {"header": "X-Trace"}}, "X-Gone", [b"theirs"]),
    ],
    ids=["cors", "vary", "security", "id"],
)
def test_a_later_filter_replaces_what_they_set(filters: dict[str, Any], name: str, expected: list[bytes]) -> None:
    """Once: browsers refuse a response with two values of `Access-Control-Allow-Origin`."""
    changes = {"headers": {"response": {"set": {name: "theirs", "V": "ours"}}}}
    play = acted([sends(GET), answers(FULL)], {**upstream(), "filters": {**changes, **filters}})
    assert values(play, name.lower().encode()) == expected
    assert values(play, b"v") == [b"ours"]


ORIGINS = {
    "absent": (),
    "listed": (b"Origin: https://a.test",),
    "by a pattern": (b"Origin: https://x.b.test",),
    "another": (b"Origin: https://c.test",),
    "twice": (b"Origin: https://a.test", b"Origin: https://c.test"),
    "empty": (b"Origin:",),
}
CORS: dict[str, dict[str, Any]] = {
    "any": {"origins": ["*"]},
    "listed": {"origins": ["https://a.test", "https://*.b.test"], "expose": ["X-A"]},
    "with credentials": {"origins": ["https://a.test", "null"], "credentials": True},
    "reflected": {"origins": ["*"], "reflect": True, "credentials": True},
    "forwarded": {"origins": ["https://a.test"], "preflight": "forward"},
}
THEIRS = saying(
    b"200 OK",
    *(b"Access-Control-Allow-Origin: theirs", b"access_control_max_age: 1", b"Vary: X-A", b"Content-Length: 2"),
    body=b"ok",
)


@pytest.mark.parametrize("probes", [(), (PASSING,), (MEETING,)], ids=["alone", "behind a step", "met"])
@pytest.mark.parametrize("name", CORS)
def test_cors_answers_each_origin_alike(name: str, probes: Any) -> None:
    """Also preflights, on a route that has OPTIONS among its methods."""
    steps: list[Step] = [
        answer for fields in ORIGINS.values() for answer in (sends(asking(b"GET /a", *fields)), answers(THEIRS))
    ]
    for fields in ORIGINS.values():
        asked = asking(b"OPTIONS /a", b"Access-Control-Request-Method: PUT", *fields)
        steps += [sends(asked), answers(THEIRS), sends(asking(b"OPTIONS /a", *fields)), answers(THEIRS)]
    routes = [{"name": "all", "upstream": "u", "methods": ["GET", "OPTIONS"]}]
    play = acted(steps, {**upstream(), "routes": routes, "filters": {"cors": CORS[name]}}, probes)
    allowed = b"*" if name == "any" else b"https://a.test"
    assert b"\r\nAccess-Control-Allow-Origin: %b\r\n" % allowed in play.client.received
    assert (b"https://x.b.test" in play.client.received) is (name in ("listed", "reflected"))
    assert play.client.received.count(b"theirs") == (name == "forwarded")


@for_each("ip", ["127.0.0.1", "127.0.0.9"])
@for_each("existing", ["replace", "keep"])
@for_each("preset", ["basic", "strict", "api"])
def test_security_headers_go_by_the_scheme(preset: str, existing: str, ip: str) -> None:
    """That of the client, which a trusted proxy tells."""
    secure = asking(b"GET /a", b"X-Forwarded-Proto: https")
    theirs = saying(
        b"200 OK", b"X-Frame-Options: theirs", b"strict_transport_security: 1", b"Content-Length: 2", body=b"ok"
    )
    filters = {"security_headers": {"preset": preset, "existing": existing}}
    steps = [step for asked in (GET, secure, GET) for step in (sends(asked), answers(theirs))]
    listeners = {"main": {"address": "127.0.0.1:0", "trusted_proxies": ["127.0.0.9"]}}
    play = acted(steps, {**upstream(), "listeners": listeners, "filters": filters}, ip=ip)
    told = play.client.received.count(b"Strict-Transport-Security: max-age")
    assert told == (ip == "127.0.0.9")
    assert play.client.received.count(b"theirs") == (3 if existing == "keep" else 0)


def test_a_step_that_two_filters_share_runs_for_both() -> None:
    def step(exchange: Exchange) -> None:
        assert exchange.response is not None
        exchange.response.added += b"X-Own: 1\r\n"

    fields = SentFields(frozenset((b"x-own",)), b"X-Own: 1\r\n")
    hook = ResponseHook(step, lines=ResponseLines((b"x-own",)), fields=fields)
    probes = [probe(name, Phase.ADMIT, response=hook) for name in ("one", "two")]
    play = acted([sends(GET), answers(OK)], upstream(), probes)
    assert play.client.received.count(b"X-Own") == 2 * len(play.plane.records)


def test_fixed_headers_stand_for_a_step_that_changes_lines() -> None:
    with pytest.raises(ValueError, match="expected lines, too"):
        ResponseHook(lambda exchange: None, fields=SentFields(frozenset(), b"X-A: 1\r\n"))


@pytest.mark.parametrize("policy", ["append", "set", "strip", "pass"])
def test_forwarding_headers_that_a_filter_changes_replace_the_gateways_own(policy: str) -> None:
    """As those that the filter `headers` sets or removes: two lines that contradict each other would be sent."""

    def step(exchange: Exchange) -> None:
        exchange.headers.set(b"X-Forwarded-Proto", b"https")
        exchange.headers.set(b"X_Forwarded_For", b"1.2.3.4")
        exchange.headers.set(b"Forwarded", b"for=1.2.3.4")
        exchange.headers.remove(b"X-Real-IP")

    lines = [b"X-Forwarded-For: 6.6.6.6", b"X-Real-IP: 6.6.6.6", b"Forwarded: for=6.6.6.6"]
    routes = [{"name": "all", "upstream": "u", "forwarded": policy}]
    probes = [probe("edits", Phase.TRANSFORM, request=step)]
    play = acted([sends(asking(b"GET /a", *lines)), answers(OK)], {**upstream(), "routes": routes}, probes)
    sent = play.upstream.received.rpartition(b"GET /a")[2].split(b"\r\n")
    values = {name: [line for line in sent if line.lower().startswith(name)] for name in (b"forwarded:", b"x-real-ip:")}
    assert values == {b"forwarded:": [b"Forwarded: for=1.2.3.4"], b"x-real-ip:": []}
    assert [line for line in sent if line.startswith(b"X-Forwarded-Proto")] == [b"X-Forwarded-Proto: https"]
    clients = [line for line in sent if line[:15].replace(b"_", b"-") == b"X-Forwarded-For"]
    assert clients == [b"X_Forwarded_For: 1.2.3.4"]
    hosts = [line for line in sent if line.startswith(b"X-Forwarded-Host")]
    assert bool(hosts) is (policy in ("append", "set"))  # the others are the gateway's


@pytest.mark.parametrize("lines", [[], [b"X-Real-IP: 6.6.6.6"]], ids=["not sent", "sent"])
@pytest.mark.parametrize("policy", ["append", "set", "strip", "pass"])
def test_forwarding_headers_that_a_filter_removes_are_not_sent_whether_the_client_sends_them_or_not(
    policy: str, lines: list[bytes]
) -> None:
    """Otherwise the client would decide whether the upstream gets the gateway's own."""

    def step(exchange: Exchange) -> None:
        exchange.headers.remove(b"X-Real-IP")
        exchange.headers.remove(b"X_Forwarded_For")

    play = acted([sends(asking(b"GET /a", *lines)), answers(OK)], _forwarding(policy), [_probe(step)])
    names = _forwarding_names(play.upstream.received)
    assert names.isdisjoint({b"x-real-ip", b"x-forwarded-for"})
    assert (b"x-forwarded-host" in names) is (policy in ("append", "set"))  # the others are the gateway's


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X_Forwarded_For", "x.real-ip"])
@pytest.mark.parametrize("policy", ["append", "set", "strip", "pass"])
@pytest.mark.parametrize("is_edited", [False, True], ids=["lines", "step"])
def test_the_filter_headers_sets_forwarding_headers_and_twins_of_them(name: str, policy: str, is_edited: bool) -> None:
    """By lines, or by a step, if another filter has changed the headers."""

    def step(exchange: Exchange) -> None:
        exchange.headers.set(b"X-Mine", b"1")

    lines = [b"X-Forwarded-For: 6.6.6.6", b"X-Real-IP: 6.6.6.6"]
    filters = {"headers": {"request": {"set": {name: "1.2.3.4"}}}}
    probes = [_probe(step, Phase.ADMIT)] if is_edited else []
    config = {**_forwarding(policy), "filters": filters}
    play = acted([sends(asking(b"GET /a", *lines)), answers(OK)], config, probes)
    alike = [line for line in _lines_sent(play.upstream.received) if folded(line[0]) == folded(name.encode())]
    assert alike == [(name.encode(), b"1.2.3.4")]


def _forwarding(policy: str) -> dict[str, Any]:
    return {**upstream(), "routes": [{"name": "all", "upstream": "u", "forwarded": policy}]}


def _probe(step: Any, phase: Phase = Phase.TRANSFORM) -> type[Filter]:
    return probe("edits", phase, request=step)


def _lines_sent(received: bytes) -> list[tuple[bytes, bytes]]:
    sent = received.rpartition(b"GET /a")[2].partition(b"\r\n\r\n")[0]
    return [(name, value.strip()) for name, _, value in (line.partition(b":") for line in sent.split(b"\r\n")[1:])]


def _forwarding_names(received: bytes) -> set[bytes]:
    return {folded(name) for name, _ in _lines_sent(received)} & FORWARDING
