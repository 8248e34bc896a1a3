"""Filters that change headers the same way for all messages: the fast path sends, answers and logs what the full path
does, without their steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from fastgw.exchange.chain import NO_SENT_FIELDS, Looks, ResponseLines, SentFields
from fastgw.filters.api import Exchange, Filter, Phase
from tests.support.counted_plane import played
from tests.support.memory import probe
from tests.unit.upstream.forwarding.test_both_paths import MEETING, PASSING, both, upstream
from tests.unit.upstream.forwarding.test_fast_path import (
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


@pytest.mark.parametrize("name", PLAYS)
def test_the_same_comes_of_both_paths_whatever_happens(name: str) -> None:
    steps, status = PLAYS[name]
    play = both(steps, {**upstream(), "filters": HEADERS})
    assert play.passed, "it would show nothing"
    assert play.plane.records[-1].status == status
    play.plane.assert_quiet()


def test_what_is_sent_and_answered() -> None:
    play = both([sends(GET), answers(FULL)], {**upstream(), "filters": HEADERS})
    assert play.passed
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


def own(name: str, phase: Phase, line: bytes, **hooks: Any) -> type[Filter]:
    def response(exchange: Exchange) -> None:
        assert exchange.response is not None
        exchange.response.added += line

    return probe(name, phase, response=response, **hooks)


LINES = own("lines", Phase.ADMIT, b"X-Lines: 1\r\n", response_lines=ResponseLines((b"x-lines",)))
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
    play = both(STEPS, {**upstream(), "filters": HEADERS, **settings}, probes)
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
    play = both([sends(GET), answers(answer)], {**upstream(), "filters": filters})
    assert values(play, b"x-a") == expected


def test_a_filter_that_looks_at_some_responses_looks_at_what_was_set() -> None:
    def see(exchange: Exchange) -> None:
        assert exchange.response is not None
        exchange.response.headers.set(b"X-Seen", exchange.response.headers.get(b"Location") or b"none")

    looking = probe("looking", Phase.VALIDATE, response=see, looks_at=Looks(names=(b"location",)))
    filters = {"headers": {"response": {"set": {"Location": "/b"}}}}
    play = both([sends(GET), answers(OK)], {**upstream(), "filters": filters}, (looking,))
    assert values(play, b"x-seen") == [b"/b"]


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
    play = both([sends(GET), answers(FULL)], {**upstream(), "filters": {**changes, **filters}})
    assert values(play, name.lower().encode()) == expected
    assert values(play, b"v") == [b"ours"]
