"""Filters that check or change content, in requests that follow one another on a connection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support.counted_plane import played
from tests.unit.upstream.forwarding.test_counted_plays import acted, upstream
from tests.unit.upstream.forwarding.test_plays import (
    GET,
    Step,
    answers,
    asking,
    connects,
    hangs_up,
    saying,
    sends,
)

JSON = b"Content-Type: application/json"
SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}}
VALIDATE = {"validate": {"body": {"inline": SCHEMA, "max_bytes": "200B"}, "query": {"inline": {"maxProperties": 1}}}}
TRANSFORM = {"transform": {"response": {"json": {"deny": ["secret"]}, "content_type": "application/vnd.a+json"}}}


@pytest.fixture(autouse=True)
def _played() -> Iterator[None]:
    with played():
        yield


def post(body: bytes, *fields: bytes, line: bytes = b"POST /a") -> bytes:
    return asking(line, *(fields or (JSON,)), b"Content-Length: %d" % len(body)) + body


def document(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    return saying(status, *(fields or (JSON,)), b"Content-Length: %d" % len(body), body=body)


def statuses(steps: Sequence[Step], filters: dict[str, Any]) -> list[int]:
    """Act the steps on an open connection; the statuses of the answers."""
    opening = [sends(GOOD), connects, answers(document(b"{}"))]
    play = acted([*opening, *steps], {**upstream(), "filters": filters}, warm=False)
    play.plane.assert_quiet()
    return [record.status for record in play.plane.records][1:]  # the first one has opened the connection


GOOD = post(b'{"n":1}')


def test_a_body_that_conforms_is_sent_at_once() -> None:
    assert statuses([sends(GOOD), answers(document(b"{}"))], VALIDATE) == [200]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(b'{"n":0}'), 400),
        (post(b'{"n":1,"n":1}'), 400),
        (post(b'{"n":1}', b"Content-Type: text/plain"), 415),
        (post(b'{"n":1}', JSON, JSON), 415),
        (post(b'{"n":1,"a":"%b"}' % (b"a" * 200)), 413),
        (post(b'{"n":1}', line=b"POST /a?b=1&c=2"), 400),
        (post(b""), 400),
        (GET, 400),
        (post(b'{"n":0}', line=b"HEAD /a"), 400),
    ],
    ids=["schema", "duplicate", "type", "types", "long", "query", "empty", "none", "HEAD"],
)
def test_what_does_not_conform_is_refused(request_: bytes, status: int) -> None:
    """And the connection goes on."""
    steps = [sends(request_), sends(request_), sends(GOOD), answers(document(b"{}"))]
    assert statuses(steps, VALIDATE) == [status, status, 200]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"listeners": {"main": {"address": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]}}},
        {"filters": {"request_id": {}, **VALIDATE}},
        {"filters": {"headers": {"response": {"set": {"X-A": "1"}}}, **VALIDATE}},
        {"filters": {**VALIDATE, "request_parameters": {"query": {"tenant": "acme"}}}},
        {"error_pages": {"4xx": {"html": "<p>{status}</p>"}}},
    ],
    ids=["alone", "trusted", "ids", "headers", "parameters", "pages"],
)
def test_a_body_is_refused_whatever_others_see_it(settings: dict[str, Any]) -> None:
    wrong = post(b'{"n":0,"a":"b"}', JSON, b"X-Forwarded-For: 192.0.2.9", b"X-Request-Id: i")
    last = post(b'{"n":[]}', JSON, b"Connection: close")
    steps = [sends(GOOD), connects, answers(document(b"{}")), sends(wrong + wrong), sends(last)]
    play = acted(steps, {**upstream(), "filters": VALIDATE, **settings}, warm=False)
    assert [record.status for record in play.plane.records][1:] == [400, 400, 400]
    assert [record.fault_detail for record in play.plane.records][1:] == ["body /n: minimum"] * 2 + ["body /n: type"]


def test_a_body_in_pieces_is_checked_as_one_that_comes_whole() -> None:
    steps = [sends(GOOD[:-1]), sends(GOOD[-1:]), answers(document(b"{}"))]
    wrong = post(b'{"n":0}')
    assert statuses([*steps, sends(wrong[:-1]), sends(wrong[-1:])], VALIDATE) == [200, 400]


def test_a_checked_request_is_sent_again_when_its_connection_breaks() -> None:
    put = post(b'{"n":1}', line=b"PUT /a")
    assert statuses([sends(put), hangs_up, connects, answers(document(b"{}"))], VALIDATE) == [200]


ATTACK = asking(b"GET /a?b=%27%20or%201=1--%20", b"User-Agent: u")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (GET, 200),
        (post(b'{"a":"b"}'), 200),
        (ATTACK, 403),
        (asking(b"GET /a?b=../../etc/passwd"), 403),
        (asking(b"GET /a", b"X-A: ${jndi:ldap://a/b}"), 403),
        (asking(b"GET /a", b"Cookie: a=%27%20or%201=1--%20"), 403),
        (post(b'{"a":"\' or 1=1-- "}'), 403),
        (post(b"a=<script>alert(1)</script>", b"Content-Type: application/x-www-form-urlencoded"), 403),
    ],
    ids=["plain", "body", "query", "path", "header", "cookie", "json", "form"],
)
def test_the_firewall_decides(request_: bytes, status: int) -> None:
    one = [sends(request_), *([answers(document(b"{}"))] if status == 200 else [])]
    steps = [*one, *one, sends(GET), answers(document(b"{}"))]
    assert statuses(steps, {"waf": {}}) == [status, status, 200]


def test_firewall_and_validation_stand_together() -> None:
    steps = [sends(GOOD), answers(document(b"{}")), sends(post(b'{"n":0}')), sends(ATTACK)]
    assert statuses(steps, {"waf": {}, **VALIDATE}) == [200, 400, 403]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (document(b'{"a":1.10,"secret":2}', JSON, b'ETag: "a"', b"Accept-Ranges: bytes"), 200),
        (document(b'{"a":1}'), 200),
        (document(b'{"secret":1}', status=b"404 Not Found"), 404),
        (document(b"text", b"Content-Type: text/plain"), 200),
        (document(b'{"a":1,"a":2}'), 502),
        (document(b'{"a":1}', JSON, b"Content-Encoding: gzip"), 502),
        (document(b'{"a":1}', JSON, b"Content-Range: bytes 0-6/9", status=b"206 Partial Content"), 502),
        (saying(b"204 No Content"), 204),
    ],
    ids=["changed", "same", "status", "type", "duplicate", "coded", "partial", "empty"],
)
def test_a_response_is_transformed_whole_and_in_pieces(answer: bytes, status: int) -> None:
    steps = [sends(GET), answers(answer), sends(GET), answers(answer[:-1]), answers(answer[-1:])]
    if status == 204:
        steps = steps[:2]
    assert set(statuses(steps, TRANSFORM)) == {status}


def test_a_request_for_a_range_is_sent_without_it() -> None:
    steps = [sends(asking(b"GET /a", b"Range: bytes=0-1")), answers(document(b'{"a":1}'))]
    assert statuses(steps, TRANSFORM) == [200]


def test_headers_for_the_upstream_are_sent_again_when_a_connection_breaks() -> None:
    assert statuses([sends(GET), hangs_up, connects, answers(document(b"{}"))], TRANSFORM) == [200]
