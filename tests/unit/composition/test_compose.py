"""Composed routes: which requests are sent when, what of the answers is used, and what the client gets."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest

from fastgw.composition import answers, helper_program, run
from fastgw.composition.freshness import cache_fields
from fastgw.composition.rules import MOST_AT_ONCE, AnswerRules, shaping
from fastgw.config import ConfigError
from fastgw.config.settings.compose import Part
from fastgw.errors import Fault
from fastgw.exchange.body_relay import MAX_KEPT
from fastgw.explain import as_text, explain
from fastgw.filters.api import Phase
from fastgw.gateway.compiler import compile
from fastgw.helper_processes.pool import HelperBusy, HelperDied, HelperError, HelperFailed, HelperLate
from fastgw.http.http1.parser import parse_response
from fastgw.observe.metrics.families import FilterEvent
from tests.support.commands import ended
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane, ProgramHere, Wire, probe
from tests.support.table import for_each

GET = b"GET /d/7?page=2&tag=a%26b HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer s\r\nX-A: 1\r\n\r\n"


def answer(body: bytes | str | Any, status: int = 200, *fields: str) -> bytes:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = "".join(f"{field}\r\n" for field in fields)
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(payload)}\r\n{lines}\r\n".encode() + payload


class Composed:
    """A gateway with one composed route; its upstreams answer by path."""

    def __init__(
        self,
        *parts: Mapping[str, Any],
        path: str = "/d/{id}",
        more: Mapping[str, Any] = {},
        also: Sequence[Any] = (),
        **compose: Any,
    ):
        whole = [{"upstream": "u", "path": f"/{part['name']}", **part} for part in parts]
        route = {"name": "all", "paths": [path], "compose": {"parts": whole, **compose}}
        self.plane = Plane({"routes": [route, *also], **more})
        self.client = self.plane.client()
        self.open: dict[str, Wire] = {}
        self.requests: list[bytes] = []

    def asks(self, request: bytes = GET) -> Composed:
        self.client.sends(request)
        self.connects()
        return self

    def connects(self) -> None:
        while self.plane.pool.waiting:
            wire = self.plane.connects()
            self.requests.append(wire.received)
            self.open[wire.received.split(b" ")[1].decode()] = wire

    def gets(self, path: str, response: bytes) -> None:
        """Answer the request for this path."""
        seen = len(self.requests)
        wire = self.open.pop(path)
        before = len(wire.received)
        wire.sends(response)
        self.plane.settle()
        if len(wire.received) > before:  # the connection is used again
            again = wire.received[before:]
            self.requests.append(again)
            self.open[again.split(b" ")[1].decode()] = wire
        self.connects()
        assert len(self.requests) >= seen

    @property
    def status(self) -> int:
        return int(self.client.received.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        return self.client.received.partition(b"\r\n\r\n")[2]

    def header(self, name: str) -> str | None:
        lines = self.client.received.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return next((line.partition(": ")[2] for line in lines if line.lower().startswith(f"{name.lower()}:")), None)

    def ended(self) -> None:
        self.plane.assert_quiet()
        assert self.plane.worker_loop.held_body_budget.in_use == 0


def composed(answers: Mapping[str, bytes], *parts: Mapping[str, Any], **compose: Any) -> Composed:
    made = Composed(*parts, **compose).asks()
    while made.open:
        path = next(iter(made.open))
        made.gets(path, answers[path])
    made.ended()
    return made


def test_parts_are_sent_together_and_merged_in_the_order_of_the_file() -> None:
    made = Composed({"name": "a"}, {"name": "b"}).asks()
    assert set(made.open) == {"/a", "/b"}
    made.gets("/b", answer({"x": "b", "y": 2}))
    made.gets("/a", answer({"x": "a"}))
    assert made.status == 200
    assert made.body == b'{"x":"b","y":2}'
    assert made.header("Fastgw-Completed") == "true"
    assert made.header("Content-Type") == "application/json"
    made.ended()


def test_what_is_not_opened_is_written_as_it_came() -> None:
    body = b'{"n": 12345678901234567890123, "p": 1.10, "e": 1E2, "s": "\\u00e4", "o": { "a" : [ 1.0 ] }}'
    made = composed({"/a": answer(body)}, {"name": "a"})
    assert made.body == b'{"n":12345678901234567890123,"p":1.10,"e":1E2,"s":"\\u00e4","o":{ "a" : [ 1.0 ] }}'


def test_nothing_of_the_client_is_sent_unless_it_is_named() -> None:
    made = Composed(
        {"name": "a"}, {"name": "b", "headers_to_pass": ["authorization"], "query_to_pass": ["page"]}
    ).asks()
    first, second = made.requests
    assert first.startswith(b"GET /a HTTP/1.1\r\n")
    assert b"Bearer" not in first
    assert b"X-A" not in first
    assert b"Accept-Encoding: identity\r\n" in first
    assert second.startswith(b"GET /b?page=2 HTTP/1.1\r\n")
    assert b"authorization: Bearer s\r\n" in second
    every = Composed({"name": "a"}, headers_to_pass=["X-A"], query_to_pass=["*"]).asks()
    assert every.requests[0].startswith(b"GET /a?page=2&tag=a%26b HTTP/1.1\r\n")
    assert b"x-a: 1\r\n" in every.requests[0]


@pytest.mark.parametrize("passed", [["*"], ["page", "tag"]])
def test_parameters_in_the_path_of_a_part_replace_those_of_the_client(passed: list[str]) -> None:
    """As its headers do: servers that take the last of two would let the client choose the value."""
    parts = {"name": "a", "path": "/a?page=1&x=3"}, {"name": "b", "path": "/b?p%61ge={query.tag}"}
    made = Composed(*parts, query_to_pass=passed).asks()
    assert [each.partition(b" HTTP/")[0] for each in made.requests] == [
        b"GET /a?page=1&x=3&tag=a%26b",
        b"GET /b?p%61ge=a%26b&tag=a%26b",
    ]


@pytest.mark.parametrize("status", [200, 201, 204])
def test_an_answer_without_a_body_is_an_object_without_members(status: int) -> None:
    """RFC 9110 section 15.3.1: also a 200 may say that its content has zero length."""
    empty = answer(b"", status) if status != 204 else b"HTTP/1.1 204 No Content\r\n\r\n"
    made = composed({"/a": empty, "/b": answer({"b": 1})}, {"name": "a", "group": "a"}, {"name": "b"})
    assert made.body == b'{"a":{},"b":1}'
    assert made.header("Fastgw-Completed") == "true"


# templates


def test_values_of_the_request_and_of_earlier_answers() -> None:
    made = Composed(
        {"name": "user", "path": "/users/{id}?p={query.page}"},
        {
            "name": "orders",
            "path": "/o/{part.user.u.id}?t={query.tag}",
            "after": ["user"],
            "headers": {"X-U": "u-{part.user.name}"},
        },
    ).asks()
    assert list(made.open) == ["/users/7?p=2"]
    made.gets("/users/7?p=2", answer({"u": {"id": 12345678901234567890123}, "name": "ann"}))
    assert list(made.open) == ["/o/12345678901234567890123?t=a%26b"]
    assert b"X-U: u-ann\r\n" in made.requests[1]


HOSTILE = ["a/b", "..", ".", "a?b", "a#b", "//h", "a\r\nX-Evil: 1", "%2f", "a%00b", "", "é", "a b", "\x00"]


@for_each("value", HOSTILE)
def test_no_value_leaves_its_position(value: str) -> None:
    """A value is one segment, one value of the query, one line and one JSON string; or nothing is sent."""
    for template in ("/x/{part.a.v}/y", "/x?v={part.a.v}&w"):
        made = Composed({"name": "a"}, {"name": "b", "path": template, "after": ["a"]}).asks()
        made.gets("/a", answer({"v": value}))
        if made.open:
            (target,) = made.open
            path, _, query = target.partition("?")
            assert path.count("/") == template.partition("?")[0].count("/")
            assert target.count("?") == template.count("?")
            assert not {"#", "\r", "\n", " "} & {*target}
            assert query.count("&") == template.count("&")
            assert made.requests[1].count(b"\r\n\r\n") == 1
            assert b"Evil:" not in made.requests[1].replace(b"%0D%0AX-Evil%3A", b"")
        else:
            assert (
                made.body == json.dumps({"v": value}, separators=(",", ":"), ensure_ascii=True).encode()
                or made.status == 200
            )
            assert made.header("Fastgw-Completed") == "false"
    made = Composed(
        {"name": "a"}, {"name": "b", "after": ["a"], "method": "POST", "body": {"v": "<{part.a.v}>"}}
    ).asks()
    made.gets("/a", answer({"v": value}))
    if made.open:
        assert json.loads(made.requests[1].partition(b"\r\n\r\n")[2]) == {"v": f"<{value}>"}


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
def test_a_value_without_a_text_is_missing(value: Any) -> None:
    made = Composed({"name": "a"}, {"name": "b", "path": "/x/{part.a.v}", "after": ["a"]}).asks()
    made.gets("/a", answer({"v": value}))
    assert not made.open
    assert made.header("Fastgw-Completed") == "false"


def test_a_body_of_json_keeps_the_values_of_others() -> None:
    body = {"user": "{part.a.id}", "list": "{part.a.l}", "text": "no {id}", "n": 1.5, "{id}": "{{x}}"}
    made = Composed({"name": "a"}, {"name": "b", "after": ["a"], "method": "POST", "body": body}).asks()
    made.gets("/a", answer(b'{"id": 1.10, "l": [1, {"a": 2}]}'))
    head, _, sent = made.requests[1].partition(b"\r\n\r\n")
    assert sent == b'{"user":1.10,"list":[1, {"a": 2}],"text":"no 7","n":1.5,"{id}":"{x}"}'
    assert b"Content-Type: application/json\r\n" in head + b"\r\n"


def test_a_body_of_json_is_as_deep_as_can_be_written() -> None:
    body = json.loads("[" * 254 + '"{id}"' + "]" * 254)
    made = Composed({"name": "a", "method": "POST", "body": body}).asks()
    assert made.requests[0].partition(b"\r\n\r\n")[2] == b"[" * 254 + b'"7"' + b"]" * 254


def test_the_body_of_the_client_is_passed_to_those_that_take_it() -> None:
    made = Composed(
        {"name": "a", "method": "POST", "body": "pass"}, {"name": "b"}, {"name": "c", "method": "PUT", "body": "pass"}
    )
    made.asks(b"POST /d/7 HTTP/1.1\r\nHost: a\r\nContent-Type: text/x\r\nContent-Length: 6\r\n\r\nabc")
    assert not made.open
    made.asks(b"def")
    assert [request.partition(b"\r\n\r\n")[2] for request in made.requests] == [b"abcdef", b"", b"abcdef"]
    assert [b"text/x" in request for request in made.requests] == [True, False, True]
    for path in ("/a", "/b", "/c"):
        made.gets(path, answer({path[1:]: 1}))
    assert made.body == b'{"a":1,"b":1,"c":1}'
    made.ended()
    long = Composed({"name": "a", "method": "POST", "body": "pass"}, max_bytes=5)
    long.asks(b"POST /d/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabcdef")
    assert long.status == 413
    assert long.plane.records[-1].fault_detail == "compose.max_bytes: the body has more than 5 bytes"
    assert long.plane.worker_loop.held_body_budget.in_use == 0


@for_each(
    ("part", "kind"),
    [
        ({"body": {"a": 1}}, b"application/json"),
        ({"body": {"a": 1}, "headers_to_pass": ["Content-Type"]}, b"application/json"),
        ({"body": {"a": 1}, "headers": {"content-type": "application/vnd.api+json"}}, b"application/vnd.api+json"),
        ({"body": {"a": 1}, "headers": {"Content-Type": "text/{header.X-Kind}"}}, b"text/y"),
        ({"body": "pass"}, b"text/x"),
        ({"body": "pass", "headers_to_pass": ["Content-Type"]}, b"text/x"),
        ({"body": "pass", "headers_to_pass": ["Content-Type"], "headers": {"Content-Type": "text/y"}}, b"text/y"),
    ],
)
@for_each("output", ["json", "no-op"])
def test_a_request_has_one_content_type(part: dict[str, Any], kind: bytes, output: str) -> None:
    """That of `headers` if there is one, else that of the body which is sent."""
    made = Composed({"name": "a", "method": "POST", **part}, output=output)
    made.asks(b"POST /d/7 HTTP/1.1\r\nHost: a\r\nContent-Type: text/x\r\nX-Kind: y\r\nContent-Length: 3\r\n\r\nabc")
    head, _, body = made.requests[0].partition(b"\r\n\r\n")
    assert body == (b"abc" if part["body"] == "pass" else b'{"a":1}')
    lines = [line.partition(b": ") for line in head.split(b"\r\n")]
    assert [value for name, _, value in lines if name.lower() == b"content-type"] == [kind]


def test_numbers_of_a_body_keep_their_digits() -> None:
    body = {"a": 12345678901234567890123, "b": [{"n": -9223372036854775809}], "c": ["{id}", 18446744073709551616]}
    made = Composed({"name": "a", "method": "POST", "body": body})
    made.asks()
    assert made.requests[0].partition(b"\r\n\r\n")[2] == (
        b'{"a":12345678901234567890123,"b":[{"n":-9223372036854775809}],"c":["7",18446744073709551616]}'
    )


# order


def test_a_graph_is_followed() -> None:
    made = Composed(
        {"name": "d", "after": ["b", "c"]}, {"name": "a"}, {"name": "b", "after": ["a"]}, {"name": "c", "after": ["a"]}
    ).asks()
    assert list(made.open) == ["/a"]
    made.gets("/a", answer({}))
    assert set(made.open) == {"/b", "/c"}
    made.gets("/c", answer({}))
    made.gets("/b", answer({}))
    assert list(made.open) == ["/d"]
    made.gets("/d", answer({"d": 1}))
    assert made.body == b'{"d":1}'


def test_sequential_chains_all() -> None:
    made = Composed({"name": "a"}, {"name": "b"}, {"name": "c"}, sequential=True).asks()
    for name in "abc":
        assert list(made.open) == [f"/{name}"]
        made.gets(f"/{name}", answer({name: 1}))
    assert made.body == b'{"a":1,"b":1,"c":1}'


def test_a_hundred_failures_in_a_row_do_not_nest() -> None:
    parts = [{"name": f"p{place}", "path": "/{query.none}"} for place in range(100)]
    made = Composed(*parts, sequential=True).asks()
    assert made.status == 502


# one request for each element


def test_for_each_keeps_the_order_and_its_bound() -> None:
    each = {
        "name": "b",
        "path": "/i/{item.id}",
        "after": ["a"],
        "for_each": "{part.a.items}",
        "concurrency": 2,
        "group": "bs",
    }
    made = Composed({"name": "a", "deny": ["items"]}, {**each, "allow": ["n"]}).asks()
    made.gets("/a", answer({"items": [{"id": 1}, {"id": 2}, {"id": 3}]}))
    assert set(made.open) == {"/i/1", "/i/2"}
    made.gets("/i/2", answer({"n": 2, "x": 0}))
    assert set(made.open) == {"/i/1", "/i/3"}
    made.gets("/i/3", answer({}, 500))
    made.gets("/i/1", answer({"n": 1.0}))
    assert made.body == b'{"bs":[{"n":1.0},{"n":2},null]}'
    assert made.header("Fastgw-Completed") == "false"
    made.ended()


def test_for_each_of_long_answers_is_joined_in_a_thread() -> None:
    text = "x" * (MOST_AT_ONCE // 2)
    each = {"name": "b", "after": ["a"], "for_each": "{part.a.items}", "path": "/b/{item}", "group": "b"}
    last = {"name": "c", "after": ["b"], "path": "/c/{part.b.1.n}"}
    made = Composed({"name": "a", "deny": ["items"]}, each, last).asks()
    made.gets("/a", answer({"items": [1, 2, 3]}))
    turns = made.plane.worker_loop.turns
    before = turns.offloaded
    for number in (3, 1, 2):
        made.gets(f"/b/{number}", answer({"n": number, "text": text}))
    assert turns.offloaded > before
    made.gets("/c/2", answer({"c": 1}))
    assert json.loads(made.body) == {"b": [{"n": number, "text": text} for number in (1, 2, 3)], "c": 1}
    made.ended()


def test_a_failure_is_described_with_the_beginning_of_its_body() -> None:
    failed = answer(b"y" * 100_000, 500, "Content-Type: text/plain")
    made = composed({"/a": failed, "/b": answer({"b": 1})}, {"name": "a", "error_as": "e"}, {"name": "b"})
    described = json.loads(made.body)["e"]
    assert (described["http_status_code"], described["http_body"]) == (500, "y" * 65_536)


@pytest.mark.parametrize("shift", range(4))
def test_the_beginning_in_the_description_of_a_failure_ends_with_a_character(shift: int) -> None:
    body = b"y" * shift + "\U0001f600".encode() * 20_000
    made = composed({"/a": answer(body, 500), "/b": answer({})}, {"name": "a", "error_as": "e"}, {"name": "b"})
    fit = (65_536 - shift) // 4
    assert json.loads(made.body)["e"]["http_body"] == "y" * shift + "\U0001f600" * fit
    short = composed({"/a": answer(b"y\xf0\x9f", 500), "/b": answer({})}, {"name": "a", "error_as": "e"}, {"name": "b"})
    assert json.loads(short.body)["e"]["http_body"] == "y\ufffd"  # sent like that


@pytest.mark.parametrize("text", [b'{"a":1,"b":2,"x":0,"*":3}', b'{"*":3,"x":0,"b":2,"a":1}'])
def test_of_two_names_that_become_one_the_last_stays(text: bytes) -> None:
    part = Part(name="p", upstream="u", path="/", mapping={"a": "x", "b": "x", "*": "y"})
    assert json.loads(shaping(AnswerRules.of(part))(text)) == {"x": 2, "y": 3}


@pytest.mark.parametrize(("items", "expected"), [([], b'{"collection":[]}'), ([1, 2, 3], b"{}"), ({"a": 1}, b"{}")])
def test_for_each_of_nothing_of_too_much_and_of_no_list(items: Any, expected: bytes) -> None:
    each = {"name": "b", "after": ["a"], "for_each": "{part.a}", "max": 2, "path": "/{item}"}
    made = Composed({"name": "a", "is_collection": isinstance(items, list), "deny": ["collection", "a"]}, each).asks()
    made.gets("/a", answer(items))
    assert not made.open
    assert made.body == expected


def test_for_each_may_send_more_than_other_sub_requests() -> None:
    each = {"name": "b", "after": ["a"], "for_each": "{part.a}", "path": "/{item}"}
    made = Composed({"name": "a", "is_collection": True, "deny": ["collection"]}, each).asks()
    made.gets("/a", answer(list(range(100))))
    while made.open:
        path = next(iter(made.open))
        made.gets(path, answer({"n": int(path[1:])}))
    assert json.loads(made.body) == {"collection": [{"n": place} for place in range(100)]}
    made.ended()


@pytest.mark.parametrize(
    ("part", "compose", "status"), [({}, {"all_or_nothing": True}, 502), ({"required": True}, {}, 503)]
)
@pytest.mark.parametrize("concurrency", [1, 2])
def test_the_first_element_that_fails_decides_and_no_other_is_sent(
    part: dict[str, Any], compose: dict[str, Any], status: int, concurrency: int
) -> None:
    """Requests that are in flight are cancelled; the response tells the first failure."""
    each = {"name": "e", "method": "POST", "after": ["l"], "for_each": "{part.l.items}", "path": "/e/{item}"}
    made = Composed({"name": "l"}, {**each, "concurrency": concurrency, **part}, {"name": "z"}, **compose).asks()
    made.gets("/l", answer({"items": list(range(1, 21))}))
    made.gets("/e/1", answer(b"broken", 503))
    assert made.status == status
    assert (b"broken" in made.body) is (status == 503)
    posts = [request.split(b" ")[1] for request in made.requests if request.startswith(b"POST ")]
    assert posts == [b"/e/1", b"/e/2"][:concurrency]
    assert set(made.open) == {"/z", *("/e/2",)[: concurrency - 1]}
    made.plane.settle()
    assert all(wire.aborted or wire.ended for wire in made.open.values())
    made.ended()


def test_an_element_without_a_value_decides_before_the_next_one_is_sent() -> None:
    """Also over idle connections, on which a request is sent at once."""
    each = {"name": "e", "method": "POST", "after": ["l"], "for_each": "{part.l.items}", "path": "/e/{item.id}"}
    made = Composed({"name": "l"}, {**each, "required": True}).asks()
    made.gets("/l", answer({"items": [{"id": place} for place in (1, 2, 3)]}))
    for path in ("/e/1", "/e/2", "/e/3"):
        made.gets(path, answer({}))
    wires: list[Any] = [connection.transport for connection in made.plane.pool.open]
    assert len(wires) == 3
    before = [len(wire.received) for wire in wires]
    made.client = made.plane.client()
    made.client.sends(GET)
    (asked,) = (wire for wire, length in zip(wires, before, strict=True) if len(wire.received) > length)
    asked.sends(answer({"items": [{"id": 1}, {}, {"id": 3}]}))
    made.plane.settle()
    assert made.status == 502
    sent = b"".join(wire.received[length:] for wire, length in zip(wires, before, strict=True))
    assert [line.split(b" ")[1] for line in sent.split(b"\r\n") if b" HTTP/1.1" in line] == [b"/l", b"/e/1"]
    made.ended()


def test_elements_that_fail_without_deciding_do_not_stop_the_others() -> None:
    each = {"name": "e", "after": ["l"], "for_each": "{part.l.items}", "path": "/e/{item}", "concurrency": 1}
    made = Composed({"name": "l", "deny": ["items"]}, each).asks()
    made.gets("/l", answer({"items": [1, 2, 3]}))
    for status, path in ((500, "/e/1"), (200, "/e/2"), (500, "/e/3")):
        made.gets(path, answer({"n": 1}, status))
    assert json.loads(made.body) == {"collection": [None, {"n": 1}, None]}
    made.ended()


# failures


def test_what_is_there_is_answered_and_what_is_not_is_said() -> None:
    fresh = answer({"a": 1}, 200, "Cache-Control: max-age=9")
    made = composed({"/a": fresh, "/b": answer({"e": 1}, 404)}, {"name": "a"}, {"name": "b"})
    assert (made.status, made.body) == (200, b'{"a":1}')
    assert made.header("Fastgw-Completed") == "false"
    assert made.header("Cache-Control") is None
    record = made.plane.records[-1]
    assert (record.status, record.fault, record.fault_detail) == (200, "composition_failed", "part b: 404")


@for_each(
    "bad",
    [
        b'{"a":1,"a":2}',
        b'{"o":{"a":1,"a":2}}',
        b'{"a":"\xff"}',
        b"{",
        b"[1]",
        b"7",
        b'{"a":NaN}',
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"a":' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"a":"' + b"x" * 2000 + b'"}',
    ],
)
def test_an_answer_that_is_not_one_object_is_a_failure(bad: bytes) -> None:
    made = composed({"/a": answer({"a": 1}), "/b": answer(bad)}, {"name": "a"}, {"name": "b"}, max_bytes=1500)
    assert made.body == b'{"a":1}'
    assert made.header("Fastgw-Completed") == "false"


def test_a_defect_with_an_answer_ends_the_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(text: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(answers, "check_text", raises)
    assert composed({"/a": answer({"a": 1})}, {"name": "a"}).status == 500


@pytest.mark.parametrize("length", [100, 20_000])
def test_a_defect_with_a_response_ends_the_composition(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(run, "time", raises)
    made = Composed({"name": "a"}, output="xml").asks()
    with suppress(RuntimeError, AssertionError):  # the loop of a worker logs it
        made.gets("/a", answer({"items": [1] * length}))
    made.plane.settle()
    assert made.status == 500


def test_none_there_is_a_failure_that_names_the_parts() -> None:
    made = composed({"/a": answer({}, 500), "/b": answer({}, 503)}, {"name": "a"}, {"name": "b"})
    assert made.status == 502
    said = json.loads(made.body)
    assert said["type"] == "urn:fastgw:fault:composition_failed"
    assert said["detail"] == "A part of the response is not available: a, b."
    assert "127.0.0.1" not in made.client.received.decode()


def test_all_late_is_504_and_nothing_is_left() -> None:
    made = Composed({"name": "a"}, {"name": "b"}, timeout="1s").asks()
    made.plane.passes(2)
    assert made.status == 504
    made.ended()


@pytest.mark.parametrize(
    ("more", "status", "body"),
    [({}, 504, None), ({"default": {"b": 0}}, 200, b'{"b":0}')],
)
def test_the_time_of_the_whole_passes_while_the_body_of_the_client_arrives(
    more: Mapping[str, Any], status: int, body: bytes | None
) -> None:
    made = Composed({"name": "a", "method": "POST", "body": "pass"}, {"name": "b", **more}, timeout="1s")
    made.asks(b"POST /d/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    made.plane.passes(0.5)
    assert not made.client.received
    made.plane.passes(1)
    assert made.status == status
    assert body is None or made.body == body
    made.asks(b"def")
    assert not made.requests
    assert made.client.received.count(b"HTTP/1.1 ") == 1
    made.ended()


def test_what_is_late_is_missing() -> None:
    made = Composed({"name": "a"}, {"name": "b"}, {"name": "c", "after": ["b"]}, timeout="1s").asks()
    made.gets("/a", answer({"a": 1}))
    made.plane.passes(2)
    assert (made.status, made.body) == (200, b'{"a":1}')
    made.ended()


def test_a_required_part_gives_its_status_and_body_and_the_others_are_cancelled() -> None:
    made = Composed({"name": "a", "required": True}, {"name": "b"}).asks()
    made.gets("/a", answer(b'{"no": 1.0}', 404, "Content-Type: application/x", "X-Secret: 1"))
    assert (made.status, made.body) == (404, b'{"no": 1.0}')
    assert made.header("Content-Type") == "application/x"
    assert made.header("X-Secret") is None
    assert made.open["/b"].aborted or made.open["/b"].ended
    made.plane.settle()
    made.ended()


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (401, ["WWW-Authenticate: Bearer realm=a", "WWW-Authenticate: Basic realm=b"]),
        (302, ["Location: /login?next=%2Fa"]),
        (405, ["Allow: POST, PUT"]),
        (429, ["Retry-After: 7"]),
        (503, ["Retry-After: Fri, 31 Dec 1999 23:59:59 GMT"]),
    ],
)
def test_the_headers_without_which_the_status_of_a_required_part_is_incomplete_are_passed_on(
    status: int, lines: list[str]
) -> None:
    """RFC 9110 sections 10.2, 11.6.1 and 15.5.6: 401 and 405 are invalid without theirs."""
    made = Composed({"name": "a", "required": True}).asks()
    made.gets("/a", answer(b"no", status, *lines, "X-Secret: 1"))
    assert (made.status, made.body) == (status, b"no")
    names = (b"WWW-Authenticate", b"Location", b"Allow", b"Retry-After", b"X-Secret")
    sent = [line.decode() for line in made.client.received.split(b"\r\n") if line.startswith(names)]
    assert sent == lines
    made.ended()


@pytest.mark.parametrize("condition", [b"", b'If-None-Match: "a"\r\n'])
def test_a_304_of_a_required_part_is_a_failure(condition: bytes) -> None:
    """It is about a stored response of the part, which neither the gateway nor the client has."""
    made = Composed({"name": "a", "required": True}, {"name": "b"}, headers_to_pass=["If-None-Match"])
    made.asks(GET[:-2] + condition + b"\r\n")
    made.gets("/a", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n')
    assert made.status == 502
    assert json.loads(made.body)["detail"] == "A part of the response is not available: a."
    (record,) = made.plane.records
    assert (record.fault, record.fault_detail) == ("composition_failed", "part a: 304")
    made.ended()


def test_all_or_nothing() -> None:
    made = Composed({"name": "a"}, {"name": "b"}, all_or_nothing=True).asks()
    made.gets("/a", answer({"a": 1}))
    made.gets("/b", answer({}, 500))
    assert made.status == 502
    assert json.loads(made.body)["detail"] == "A part of the response is not available: b."
    made.ended()


def test_a_default_takes_the_place_of_a_part() -> None:
    made = Composed(
        {"name": "a", "default": {"id": 3, "n": 1}, "group": "g"},
        {"name": "b", "path": "/b/{part.a.id}", "after": ["a"]},
    ).asks()
    made.gets("/a", answer({}, 500))
    made.gets("/b/3", answer({"b": 1}))
    assert made.body == b'{"g":{"id":3,"n":1},"b":1}'
    assert made.header("Fastgw-Completed") == "false"


def test_a_part_whose_part_before_it_failed_is_not_sent() -> None:
    made = composed(
        {"/a": answer({}, 500), "/c": answer({"c": 1})}, {"name": "a"}, {"name": "b", "after": ["a"]}, {"name": "c"}
    )
    assert made.body == b'{"c":1}'
    assert len(made.requests) == 2


def test_an_error_may_stand_in_the_response() -> None:
    made = composed(
        {"/a": answer(b"gone", 410, "Content-Type: text/plain"), "/b": answer({"b": 1})},
        {"name": "a", "error_as": "error_{name}"},
        {"name": "b"},
    )
    assert json.loads(made.body) == {
        "error_a": {"http_status_code": 410, "http_body": "gone", "http_body_encoding": "text/plain"},
        "b": 1,
    }


CUT_OFF = b"HTTP/1.1 %d X\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\ngo"


@pytest.mark.parametrize("status", [200, 410])
def test_the_description_of_an_answer_that_is_cut_off_has_the_status_that_was_received(status: int) -> None:
    made = Composed({"name": "a", "error_as": "e"}, {"name": "b"}).asks()
    a = made.open["/a"]
    made.gets("/b", answer({"b": 1}))
    a.sends(CUT_OFF % status)
    a.ends()
    made.plane.settle()
    assert json.loads(made.body) == {"e": {"http_status_code": status, "http_body_encoding": "text/plain"}, "b": 1}
    made.ended()


def test_the_description_of_an_answer_that_is_too_long_has_its_status() -> None:
    long = b"HTTP/1.1 410 X\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
    made = composed({"/a": long, "/b": answer({"b": 1})}, {"name": "a", "error_as": "e"}, {"name": "b"}, max_bytes=4096)
    assert json.loads(made.body) == {"e": {"http_status_code": 410}, "b": 1}


def test_the_description_of_a_failure_without_an_answer_is_empty() -> None:
    upstream = {"u": {"targets": ["http://127.0.0.1:9"], "retries": {"max": 0}}}
    made = Composed({"name": "a", "error_as": "e"}, {"name": "b"}, more={"upstreams": upstream})
    made.client.sends(GET)
    made.plane.cannot_connect(Fault.CONNECT_REFUSED)
    made.connects()
    made.gets("/b", answer({"b": 1}))
    assert made.body == b'{"e":{},"b":1}'
    made.ended()


def test_an_upstream_that_cannot_be_reached_is_a_part_that_failed() -> None:
    made = Composed(
        {"name": "a"},
        {"name": "b"},
        more={"upstreams": {"u": {"targets": ["http://127.0.0.1:9"], "retries": {"max": 0}}}},
    )
    made.client.sends(GET)
    made.plane.cannot_connect(Fault.CONNECT_REFUSED)
    made.connects()
    made.gets("/b", answer({"b": 1}))
    assert made.body == b'{"b":1}'
    made.ended()


def test_a_client_that_leaves_cancels_all() -> None:
    made = Composed({"name": "a"}, {"name": "b"}).asks()
    made.gets("/a", answer({"a": "x" * 100}))
    made.client.resets()
    made.plane.settle()
    assert made.open["/b"].aborted or made.open["/b"].ended
    made.ended()


# rules


@for_each(
    ("rules", "body", "expected"),
    [
        ({"is_collection": True}, [{"a": 1}], {"collection": [{"a": 1}]}),
        ({"is_collection": True, "wrap": "w", "mapping": {"w": "v"}}, [1], {"v": [1]}),
        ({"target": "data.inner"}, {"data": {"inner": {"a": 1}}, "b": 2}, {"a": 1}),
        ({"target": "data"}, {"b": 2}, {}),
        ({"target": "b"}, {"b": 2}, {}),
        ({"allow": ["a", "b.c"]}, {"a": {"x": 1}, "b": {"c": 1, "d": 2}, "e": 3}, {"a": {"x": 1}, "b": {"c": 1}}),
        ({"allow": ["b.c"]}, {"b": {"d": 2}}, {}),
        ({"allow": ["b", "b.c"]}, {"b": {"d": 2}}, {"b": {"d": 2}}),
        ({"allow": ["a"], "deny": ["a"]}, {"a": 1, "b": 2}, {"a": 1}),
        ({"deny": ["a", "b.c", "n.x"]}, {"a": 1, "b": {"c": 1, "d": 2}, "n": 1}, {"b": {"d": 2}, "n": 1}),
        ({"mapping": {"a": "b", "x": "y"}}, {"a": 1, "b": 2}, {"b": 1}),
        ({"group": "g"}, {"a": 1}, {"g": {"a": 1}}),
        (
            {"target": "d", "allow": ["a"], "mapping": {"a": "z"}, "group": "g"},
            {"d": {"a": 1, "b": 2}},
            {"g": {"z": 1}},
        ),
        ({"flatmap": [{"type": "move", "args": ["a.b", "c"]}], "allow": ["x"]}, {"a": {"b": 1}}, {"a": {}, "c": 1}),
        ({"flatmap": [{"type": "move", "args": ["a", "x.y"]}]}, {"a": 1}, {"x": {"y": 1}}),
        (
            {"flatmap": [{"type": "move", "args": ["l.*.a", "l.*.b"]}]},
            {"l": [{"a": 1}, {"a": 2, "c": 3}]},
            {"l": [{"b": 1}, {"c": 3, "b": 2}]},
        ),
        ({"flatmap": [{"type": "del", "args": ["l.*.a", "x"]}]}, {"l": [{"a": 1, "b": 2}], "x": 1}, {"l": [{"b": 2}]}),
        ({"flatmap": [{"type": "del", "args": ["l.0"]}]}, {"l": [1, 2]}, {"l": [2]}),
        ({"flatmap": [{"type": "append", "args": ["a", "b"]}]}, {"a": [1], "b": [2]}, {"b": [2, 1]}),
        ({"flatmap": [{"type": "append", "args": ["a", "b"]}]}, {"a": [1]}, {"b": [1]}),
        ({"flatmap": [{"type": "append", "args": ["z", "b"]}]}, {"b": [1]}, {"b": [1]}),
    ],
)
def test_rules(rules: dict[str, Any], body: Any, expected: Any) -> None:
    made = composed({"/a": answer(body)}, {"name": "a", **rules})
    assert json.loads(made.body) == expected
    assert made.header("Fastgw-Completed") == "true"


@pytest.mark.parametrize(
    ("source", "body", "expected"),
    [
        ("a.*.b", {"a": [{"b": [1]}, {"b": [2, 3]}, {"b": []}], "c": [0]}, {"a": [{}, {}, {}], "c": [0, 1, 2, 3]}),
        ("a.*", {"a": {"x": [1], "y": 2, "z": [[3]]}}, {"a": {}, "c": [1, 2, [3]]}),
        ("a.*.*", {"a": [[1, 2], [3]]}, {"a": [[], []], "c": [1, 2, 3]}),
    ],
)
def test_append_keeps_the_order_of_the_answer(source: str, body: Any, expected: Any) -> None:
    made = composed({"/a": answer(body)}, {"name": "a", "flatmap": [{"type": "append", "args": [source, "c"]}]})
    assert json.loads(made.body) == expected


@pytest.mark.parametrize("index", ["0", "1", "2", "9"])
def test_a_value_that_is_moved_into_an_array_is_its_last_element(index: str) -> None:
    """As in KrakenD, whichever index is named: no element is replaced."""
    made = composed(
        {"/a": answer({"a": 9, "b": [1, 2]})}, {"name": "a", "flatmap": [{"type": "move", "args": ["a", f"b.{index}"]}]}
    )
    assert json.loads(made.body) == {"b": [1, 2, 9]}


@pytest.mark.parametrize(
    ("args", "body", "expected"),
    [
        (["l.*.v", "b.*"], {"l": [{"v": 1}, {"v": 2}], "b": [0]}, {"l": [{}, {}], "b": [0, 1, 2]}),
        (["a", "b.0.x"], {"a": 9, "b": [{}]}, {"b": [{"x": 9}]}),
        (["a", "a.b"], {"a": 9}, {"a": {"b": 9}}),
        (
            ["l.*.v", "l.*.w.x"],
            {"l": [{"v": 1, "w": {}}, {"v": 2, "w": "s"}]},
            {"l": [{"w": {"x": 1}}, {"w": "s", "v": 2}]},
        ),
        (["l.*", "m.*.x"], {"l": [1, 2, 3], "m": [{}, "s", {}]}, {"l": [2], "m": [{"x": 1}, "s", {"x": 3}]}),
    ],
)
def test_values_are_moved_where_there_is_a_place_for_them(args: list[str], body: Any, expected: Any) -> None:
    made = composed({"/a": answer(body)}, {"name": "a", "flatmap": [{"type": "move", "args": args}]})
    assert json.loads(made.body) == expected


@for_each(
    ("args", "body"),
    [
        (["a", "s.x"], {"a": [9], "s": "str"}),
        (["a", "s.x.y"], {"a": [9], "s": "str"}),
        (["a", "b.x"], {"a": [9], "b": [1, 2]}),
        (["a", "b.7.x"], {"a": [9], "b": [1, 2]}),
        (["a", "b.0.x"], {"a": [9], "b": [1, 2]}),
        (["l.*", "s.x"], {"l": [1, 2, 3], "s": None}),
        (["l.*.v", "s.x"], {"l": [{"v": [1]}, {"v": [2]}], "s": 1.5}),
    ],
)
@for_each("kind", ["move", "append"])
def test_a_value_without_a_place_stays(kind: str, args: list[str], body: Any) -> None:
    """Its destination is below a text or number, or is a name in an array."""
    made = composed({"/a": answer(body)}, {"name": "a", "flatmap": [{"type": kind, "args": args}]})
    assert json.loads(made.body) == body


@pytest.mark.parametrize(
    ("index", "body", "expected"),
    [("0", [[1], [2]], [[1, 8, 9], [2]]), ("1", [[1], 2], [[1], [2, 8, 9]]), ("5", [[1]], [[1], [8, 9]])],
)
def test_append_to_an_array_in_an_array(index: str, body: Any, expected: Any) -> None:
    made = composed(
        {"/a": answer({"a": [8, 9], "b": body})},
        {"name": "a", "flatmap": [{"type": "append", "args": ["a", f"b.{index}"]}]},
    )
    assert json.loads(made.body) == {"b": expected}


def test_the_whole_may_be_moved_too() -> None:
    steps = [{"type": "append", "args": ["b", "a"]}]
    made = composed({"/a": answer({"a": [1]}), "/b": answer({"b": [2]})}, {"name": "a"}, {"name": "b"}, flatmap=steps)
    assert made.body == b'{"a":[1,2]}'


@for_each(
    ("strategy", "status", "added"),
    [
        *(("always", status, True) for status in (200, 500)),
        *((name, status, status == 200) for name in ("success", "complete") for status in (200, 500)),
        *((name, status, status == 500) for name in ("errored", "incomplete") for status in (200, 500)),
    ],
)
def test_static_data(strategy: str, status: int, added: bool) -> None:
    static = {"strategy": strategy, "data": {"s": 1, "a": "static"}}
    made = composed({"/a": answer({"a": 1}), "/b": answer({}, status)}, {"name": "a"}, {"name": "b"}, static=static)
    assert json.loads(made.body) == ({"a": "static", "s": 1} if added else {"a": 1})


def test_one_part_as_it_is() -> None:
    fields = "Content-Type: text/x", "X-A: 1", "Set-Cookie: a=b", 'ETag: "1"'
    made = composed({"/a": answer(b"no json \xff", 418, *fields)}, {"name": "a"}, output="no-op")
    assert (made.status, made.body) == (418, b"no json \xff")
    assert [made.header(name) for name in ("Content-Type", "X-A", "Set-Cookie", "ETag")] == [
        "text/x",
        "1",
        "a=b",
        '"1"',
    ]


def test_the_header_may_have_another_name() -> None:
    assert (
        composed({"/a": answer({})}, {"name": "a"}, completed_header="X-KrakenD-Completed").header(
            "X-KrakenD-Completed"
        )
        == "true"
    )


def test_head_has_the_head_only() -> None:
    made = Composed({"name": "a"}).asks(b"HEAD /d/7 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert made.requests[0].startswith(b"GET /a ")
    made.gets("/a", answer({"a": 1}))
    assert (made.status, made.body) == (200, b"")
    assert made.header("Content-Length") == "7"


_DAY = "Thu, 01 Jan 1970 00:00"


@for_each(
    ("first", "second", "expected"),
    [
        ("max-age=60", "max-age=30, public", "max-age=30"),
        ("max-age=60", None, None),
        ("no-store", "max-age=30", "no-store"),
        ("private, max-age=5", "max-age=30", "private, max-age=5"),
        ("no-cache", None, "no-cache"),
        ("max-age=abc", "max-age=1", None),
        ("max-age=60, s-maxage=600", "max-age=30", "max-age=30"),
        ("max-age=60, s-maxage=10", "max-age=30", "max-age=10"),
        ("max-age=60, s-maxage=600", "max-age=30, public", "max-age=30, s-maxage=30"),
        ("s-maxage=600", "max-age=30", None),
        ('private="set-cookie, x", max-age=9', "max-age=30, must-revalidate", "private, must-revalidate, max-age=9"),
        ("max-age=60", "max-age=90\r\nAge: 50", "max-age=40"),
        (
            "max-age=60",
            "public\r\nExpires: Thu, 01 Jan 1970 00:00:10 GMT\r\nDate: Thu, 01 Jan 1970 00:00:03 GMT",
            "max-age=7",
        ),
        ("max-age=60", "public\r\nExpires: 0", "max-age=0"),
    ],
)
def test_cache_fields(first: str, second: str | None, expected: str | None) -> None:
    other = () if second is None else (f"Cache-Control: {second}", "Vary: X-B")
    made = composed(
        {"/a": answer({}, 200, f"Cache-Control: {first}", "Vary: X-A", "ETag: x"), "/b": answer({}, 200, *other)},
        {"name": "a"},
        {"name": "b"},
    )
    assert made.header("Cache-Control") == expected
    assert made.header("Vary") == ("X-A" if second is None else "X-A, X-B")
    assert made.header("ETag") != "x"


@pytest.mark.parametrize("lines", [b"", b"Vary: %b\r\n" % b",".join([b"x"] * 1000)])
def test_cache_fields_are_remembered_by_all_that_they_depend_on(lines: bytes) -> None:
    def control(*fields: bytes, now: float = 0.0) -> bytes | None:
        heads = [parse_response(b"HTTP/1.1 200 OK\r\n%b\r\n%b\r\n" % (each, lines), b"GET", 100) for each in fields]
        return dict(cache_fields(heads, now)).get(b"Cache-Control")

    for _ in range(2):
        assert control(b"Cache-Control: max-age=9") == b"max-age=9"
        assert control(b"Cache-Control: max-age=9\r\nAge: 2") == b"max-age=7"
        assert control(b"Cache-Control: max-age=9", b"Cache-Control: max-age=5") == b"max-age=5"
        assert control(b"Expires: Thu, 01 Jan 1970 00:00:10 GMT") == b"max-age=10"
        assert control(b"Expires: Thu, 01 Jan 1970 00:00:10 GMT", now=4.0) == b"max-age=6"


def test_parts_in_groups_of_their_own_are_joined() -> None:
    parts = ({"name": "a", "group": 'x"'}, {"name": "b", "group": "y", "default": {}}, {"name": "c", "group": "z"})
    made = composed({"/a": answer(b' {"n" : 1.10}\n'), "/b": answer({}, 500), "/c": answer({})}, *parts)
    assert made.body == b'{"x\\"":{"n" : 1.10},"y":{},"z":{}}'
    assert made.header("Fastgw-Completed") == "false"
    static = {"strategy": "always", "data": {"z": 0}}
    made = composed({f"/{name}": answer({}) for name in "abc"}, *parts, static=static)
    assert made.body == b'{"x\\"":{},"y":{},"z":0}'


def test_the_entity_tag_is_that_of_the_whole() -> None:
    made = composed({"/a": answer({"a": 1}, 200, "Vary: X-A", "Cache-Control: max-age=5")}, {"name": "a"})
    tag = made.header("ETag")
    assert tag is not None
    for request, status in (
        (f"GET /d/7 HTTP/1.1\r\nHost: a\r\nIf-None-Match: {tag}\r\n\r\n", 304),
        (f"HEAD /d/7 HTTP/1.1\r\nHost: a\r\nIf-None-Match: W/{tag}\r\n\r\n", 304),
        ('GET /d/7 HTTP/1.1\r\nHost: a\r\nIf-Match: "x"\r\n\r\n', 412),
        (f"GET /d/7 HTTP/1.1\r\nHost: a\r\nIf-Match: {tag}\r\n\r\n", 200),
        (f"POST /d/7 HTTP/1.1\r\nHost: a\r\nIf-None-Match: {tag}\r\n\r\n", 200),
    ):
        again = Composed({"name": "a"}).asks(request.encode())
        again.gets("/a", answer({"a": 1}, 200, "Vary: X-A", "Cache-Control: max-age=5"))
        assert again.status == status
        if status == 304:
            assert again.body == b""
            got = [again.header(name) for name in ("ETag", "Vary", "Cache-Control", "Content-Type", "Fastgw-Completed")]
            assert got == [tag, "X-A", "max-age=5", None, "true"]
    incomplete = composed({"/a": answer({"a": 1}), "/b": answer({}, 500)}, {"name": "a"}, {"name": "b"})
    assert incomplete.header("ETag") is None


# outputs

RICH = (
    b'{"b": {"x y": "<&>\\u0001", "1": null, "e": {}, "n": []}, "a": [1.10, "z", [2, 3]], '
    b'"k:y": 12345678901234567890123, "t": true, "": "]]>"}'
)


def test_xml_is_escaped_and_has_valid_names() -> None:
    made = composed({"/a": answer(RICH)}, {"name": "a"}, output="xml")
    assert made.header("Content-Type") == "application/xml; charset=utf-8"
    assert made.body.decode() == (
        "<doc><_>]]&gt;</_><a>1.10</a><a>z</a><a>2</a><a>3</a>"
        "<b><_1/><e/><n/><x_y>&lt;&amp;&gt;\ufffd</x_y></b><k_y>12345678901234567890123</k_y><t>true</t></doc>"
    )
    root = ElementTree.fromstring(made.body)
    assert [each.text for each in root.findall("a")] == ["1.10", "z", "2", "3"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"a": {"content": "supu & tupu"}, "content": "tupu", "foo": 42}, None),
        ({"only": {"x": 1}}, "<only><x>1</x></only>"),
        ({"only": [1, 2]}, "<doc><only>1</only><only>2</only></doc>"),
        ({}, "<doc/>"),
    ],
)
def test_xml_is_krakends(body: Any, expected: str | None) -> None:
    """The first case is that of krakend-xml's own test."""
    first = "<doc><a><content>supu &amp; tupu</content></a><content>tupu</content><foo>42</foo></doc>"
    assert composed({"/a": answer(body)}, {"name": "a"}, output="xml").body.decode() == (expected or first)


def test_xml_has_a_bound_for_its_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """No helper process tries it once more."""
    asked: list[bytes] = []
    monkeypatch.setattr(ProgramHere, "run_request", lambda self, request: asked.append(request))
    made = composed({"/a": answer(b'{"a":' * 230 + b"1" + b"}" * 230)}, {"name": "a"}, output="xml")
    assert (made.status, asked) == (502, [])


@pytest.mark.parametrize("max_bytes", [10_000, 200_000])
@pytest.mark.parametrize("length", [30, 3000])
@pytest.mark.parametrize("count", [100, 1500])
def test_xml_has_a_bound_for_its_size(max_bytes: int, length: int, count: int) -> None:
    """An array repeats the name of its member for each value: short JSON could become XML of any length."""
    name = "a" * length
    expected = f"<{name}>1</{name}>" * count
    made = Composed({"name": "a"}, output="xml", max_bytes=max_bytes).asks()
    made.gets("/a", answer({name: [1] * count}))
    if len(expected) + len("<doc></doc>") <= 8 * max_bytes:
        assert made.body.decode() == f"<doc>{expected}</doc>"
    else:
        assert made.status == 502
    made.ended()


@pytest.mark.parametrize(
    ("error", "status", "label", "event"),
    [
        (HelperLate("no result after 10 s"), 504, "filter_timeout", FilterEvent.HELPER_LATE),
        (HelperDied("killed by signal 9"), 504, "filter_timeout", FilterEvent.HELPER_FAILED),
        (HelperFailed("MemoryError"), 500, "internal", FilterEvent.HELPER_FAILED),
    ],
)
def test_a_helper_process_has_no_result(
    error: HelperError, status: int, label: str, event: FilterEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(self: ProgramHere, request: bytes) -> bytes:
        raise error

    monkeypatch.setattr(ProgramHere, "run_request", fails)
    long = answer({"items": [1] * 20_000})
    whole = composed({"/a": long}, {"name": "a"}, output="xml")
    assert (whole.status, whole.header("Fastgw-Completed")) == (status, "false")
    assert label in whole.body.decode()
    assert whole.plane.observer.filters == [("(compose)", event)]
    steps = [{"type": "del", "args": ["items.0"]}]
    part = composed({"/a": long, "/b": answer({"b": 1})}, {"name": "a", "flatmap": steps}, {"name": "b"})
    assert (part.status, part.body, part.header("Fastgw-Completed")) == (200, b'{"b":1}', "false")
    assert part.plane.observer.filters == [("(compose)", event)]
    part.ended()


def test_where_no_helper_process_can_start_a_thread_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: ProgramHere, request: bytes) -> bytes:
        raise HelperBusy("there is no process, and none could be started")

    monkeypatch.setattr(ProgramHere, "run_request", fails)
    long = answer({"items": [1] * 20_000})
    whole = composed({"/a": long}, {"name": "a"}, output="xml")
    assert (whole.status, whole.body) == (200, b"<doc>%b</doc>" % (b"<items>1</items>" * 20_000))
    assert whole.plane.observer.filters == [("(compose)", FilterEvent.HELPER_BUSY)]
    part = composed({"/a": long}, {"name": "a", "flatmap": [{"type": "move", "args": ["items", "moved"]}]})
    assert json.loads(part.body) == {"moved": [1] * 20_000}


@pytest.mark.parametrize("beyond", ["memory", "length"])
def test_what_is_too_long_for_a_helper_process_is_a_failure(beyond: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bytes:
        raise MemoryError

    if beyond == "memory":
        monkeypatch.setattr(helper_program, "write_response", fails)
        monkeypatch.setattr(helper_program, "use_body", fails)
    else:
        monkeypatch.setattr(helper_program, "MOST_BYTES", 100_000)
    long = answer({"items": [1] * 40_000})
    whole = composed({"/a": long}, {"name": "a"}, output="xml")
    assert whole.status == 502
    assert whole.plane.records[-1].fault_detail.endswith("the response is too long to be processed")
    steps = [{"type": "del", "args": ["items.0"]}]
    part = composed({"/a": long, "/b": answer({"b": 1})}, {"name": "a", "flatmap": steps}, {"name": "b"})
    assert (part.body, part.header("Fastgw-Completed")) == (b'{"b":1}', "false")
    assert "part a: the answer is too long to be processed" in part.plane.records[-1].fault_detail


def test_a_client_that_leaves_ends_the_wait_for_a_helper_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    async def waits(self: ProgramHere, request: bytes) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request)
        raise AssertionError

    monkeypatch.setattr(ProgramHere, "run_request", waits)
    made = Composed({"name": "a"}, output="xml").asks()
    made.gets("/a", answer({"items": [1] * 20_000}))
    assert not ended
    made.client.resets()
    made.plane.settle()
    assert len(ended) == 1
    made.ended()


@pytest.mark.parametrize(
    "more",
    [
        {"path": "/b/{part.a.last}"},
        {"path": "/b/7", "headers": {"X-Id": "{part.a.last}"}},
        {"path": "/b/7", "method": "POST", "body": {"id": "{part.a.last}"}},
        {"path": "/b/{item.id}", "for_each": "{part.a.list}", "group": "b"},
    ],
)
@pytest.mark.parametrize("is_long", [False, True])
def test_values_of_long_answers_are_searched_in_a_thread(more: dict[str, Any], is_long: bool) -> None:
    text = "x" * (MOST_AT_ONCE if is_long else 1)
    made = Composed({"name": "a", "allow": ["last"]}, {"name": "b", "after": ["a"], **more}).asks()
    turns = made.plane.worker_loop.turns
    made.gets("/a", answer({"text": text, "list": [{"id": 7}], "last": 7}))
    assert turns.offloaded == (2 if is_long else 0)  # its check, and the search
    made.gets("/b/7", answer({"b": 1}))
    assert made.status == 200
    made.ended()


@pytest.mark.parametrize("max_bytes", [10_000, 1_000_000])  # decoded in the event loop, and in a thread
@pytest.mark.parametrize("count", [1, 3])
def test_a_decoded_answer_holds_its_size_only(max_bytes: int, count: int) -> None:
    coded = answer(gzip.compress(b'{"x":"' + b"y" * 300 + b'"}'), 200, "Content-Encoding: gzip")
    names = [f"p{index}" for index in range(count)]
    made = Composed(*({"name": name, "group": name} for name in names), {"name": "b"}, max_bytes=max_bytes).asks()
    for name in names:
        made.gets(f"/{name}", coded)
    budget = made.plane.worker_loop.held_body_budget
    assert budget.in_use == 0  # within the free allowance
    assert budget.try_take(budget.limit)
    made.gets("/b", answer({"b": 1}))
    assert json.loads(made.body) == {**{name: {"x": "y" * 300} for name in names}, "b": 1}
    budget.give_back(budget.limit)
    made.ended()


@pytest.mark.parametrize("status", [404, 500])
def test_failures_are_decoded(status: int) -> None:
    kind = "Content-Type: application/json"
    coded = answer(gzip.compress(b'{"error":"no such user"}'), status, "Content-Encoding: gzip", kind)
    whole = composed({"/a": coded}, {"name": "a", "required": True})
    assert (whole.status, whole.body) == (status, b'{"error":"no such user"}')
    described = composed(
        {"/a": coded, "/b": answer({"b": 1})}, {"name": "a", "error_as": "error_{name}"}, {"name": "b"}
    )
    assert json.loads(described.body)["error_a"]["http_body"] == '{"error":"no such user"}'
    broken = answer(b"no gzip", status, "Content-Encoding: gzip", kind)
    assert composed({"/a": broken}, {"name": "a", "required": True}).status == 502


def test_xml_counts_towards_the_memory_of_the_node() -> None:
    made = Composed({"name": "a"}, output="xml").asks()
    budget = made.plane.worker_loop.held_body_budget
    assert budget.try_take(budget.limit)
    made.gets("/a", answer({"a" * 1000: [1] * 100}))
    assert made.status == 502
    budget.give_back(budget.limit)
    made.ended()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("text/html", "application/json"),
        ("*/*", "application/json"),
        ("application/xml", "application/xml; charset=utf-8"),
        ("application/json;q=0.1, text/xml", "application/xml; charset=utf-8"),
        ("application/json, application/xml", "application/json"),
    ],
)
def test_the_client_may_choose(accept: str | None, kind: str) -> None:
    line = "" if accept is None else f"Accept: {accept}\r\n"
    made = Composed({"name": "a"}, output="negotiate").asks(f"GET /d/7 HTTP/1.1\r\nHost: a\r\n{line}\r\n".encode())
    made.gets("/a", answer({"a": 1}, 200, "Vary: X-A"))
    assert made.header("Content-Type") == kind
    assert made.header("Vary") == "Accept, X-A"


@pytest.mark.parametrize(
    ("body", "expected"), [({"content": "t\u00e4xt"}, "t\u00e4xt"), ({"content": 1}, ""), ({"other": "x"}, "")]
)
def test_a_text(body: Any, expected: str) -> None:
    made = composed({"/a": answer(body)}, {"name": "a"}, output="string")
    assert (made.header("Content-Type"), made.body.decode()) == ("text/plain; charset=utf-8", expected)


EACH = {"name": "a", "path": "/a/{item}", "after": ["l"], "for_each": "{part.l.items}"}


@pytest.mark.parametrize("part", [{"name": "a"}, {"name": "a", "deny": ["other"]}, {"name": "a", "group": "g"}, EACH])
def test_an_answer_is_held_once(part: dict[str, Any]) -> None:
    body = json.dumps({"items": [1, 2], "text": "x" * 500_000, "other": 1}).encode()
    made = Composed({"name": "l", "deny": ["items"]}, {"name": "b"}, part).asks()
    made.gets("/l", answer({"items": [1, 2]}))
    paths = ["/a/1", "/a/2"] if part is EACH else ["/a"]
    tracemalloc.start()
    try:
        for path in paths:
            made.gets(path, answer(body))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < len(body) * len(paths) * 1.2
    made.gets("/b", answer({}))
    assert made.status == 200
    assert b"x" * 500_000 in made.body
    made.ended()


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("length", [4 * 4096, 16 * 4096])
def test_a_long_text_is_one_value(length: int, shift: int) -> None:
    text = "y" * shift + '"\U0001f600\n\u00e4' * (length // 8) + "z"
    text = text.encode()[:length].decode(errors="ignore")
    made = composed({"/a": answer(text.encode())}, {"name": "a", "encoding": "string"})
    assert made.body == orjson.dumps({"content": text})
    broken = {"/a": answer(text.encode() + b"\xf0\x9f"), "/b": answer({"b": 1})}
    whole = composed(broken, {"name": "a", "encoding": "string"}, {"name": "b"})
    assert (whole.body, whole.header("Fastgw-Completed")) == (b'{"b":1}', "false")
    assert whole.plane.records[-1].fault_detail.endswith("not UTF-8")


def test_a_part_may_be_a_text() -> None:
    made = composed({"/a": answer("\u00e4\n".encode())}, {"name": "a", "encoding": "string", "group": "a"})
    assert json.loads(made.body) == {"a": {"content": "\u00e4\n"}}
    assert composed({"/a": answer(b"\xff")}, {"name": "a", "encoding": "string"}).status == 502


# one part as it arrives


def test_the_only_part_is_streamed_in_both_directions() -> None:
    made = Composed({"name": "a", "method": "POST", "body": "pass"}, output="no-op")
    made.asks(b"POST /d/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    wire = made.open["/a"]
    assert made.requests[0].endswith(b"abc")
    made.client.sends(b"def")
    assert wire.received.endswith(b"abcdef")
    wire.sends(b"HTTP/1.1 206 X\r\nContent-Length: 6\r\nX-A: 1\r\n\r\nabc")
    made.plane.settle()
    assert (made.status, made.body, made.header("X-A")) == (206, b"abc", "1")
    assert made.header("Fastgw-Completed") == "true"
    wire.sends(b"def")
    made.plane.settle()
    assert made.body == b"abcdef"
    made.ended()


def test_a_client_that_does_not_read_stops_the_part() -> None:
    made = Composed({"name": "a"}, output="no-op").asks()
    wire = made.open["/a"]
    made.client.room = len(made.client.received) + 200
    wire.sends(b"HTTP/1.1 200 X\r\nContent-Length: 2000\r\n\r\n" + b"x" * 1000)
    made.plane.settle()
    assert not wire.reading
    made.client.resets()
    made.plane.settle()
    assert wire.aborted or wire.ended
    made.ended()


def test_a_part_that_breaks_off_is_noticed() -> None:
    made = Composed({"name": "a"}, output="no-op").asks()
    wire = made.open["/a"]
    wire.sends(b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nabc")
    made.plane.settle()
    wire.resets()
    made.plane.settle()
    assert made.client.aborted or made.client.ended
    made.ended()


def test_head_of_the_only_part() -> None:
    made = Composed({"name": "a"}, output="no-op").asks(b"HEAD /d/7 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert made.requests[0].startswith(b"HEAD /a ")
    made.gets("/a", b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\n")
    assert (made.status, made.body, made.header("Content-Length")) == (200, b"", "10")
    made.ended()


HEAD_AND_GET = b"HEAD /d/7 HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /own HTTP/1.1\r\nHost: a\r\n\r\n"
OWN = {"name": "own", "paths": ["/own"], "respond": {"body": "own"}}
CONTENT = b'HTTP/1.1 200 X\r\nContent-Type: application/json\r\nETag: "1"\r\n'
OF_BODIES: dict[str, dict[str, Any]] = {
    "no filter": {},
    "compress": {"compress": {"min_bytes": 1}},
    "transform": {"transform": {"response": {"json": {"set": {"b": 2}}}}},
}


@pytest.mark.parametrize("filters", OF_BODIES.values(), ids=OF_BODIES)
@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
@pytest.mark.parametrize(
    "part", [{"method": "POST"}, {"method": "DELETE"}, {"method": "POST", "body": "pass"}, {"body": {"a": 1}}]
)
def test_head_of_a_part_that_is_no_get_has_the_head_only(
    part: dict[str, Any], framing: str, filters: dict[str, Any]
) -> None:
    """The body of the part is read and dropped: whatever follows on the connection is the next response."""
    made = Composed({"name": "a", "method": "PUT", **part}, output="no-op", more={"filters": filters}, also=[OWN])
    made.asks(HEAD_AND_GET[0])
    assert made.requests[0].split(b" ")[0].decode() == part.get("method", "PUT")
    wire = made.open["/a"]
    body = b'{"a":"HTTP/1.1 200 X"}'
    if framing == "length":
        wire.sends(CONTENT + b"Content-Length: %d\r\n\r\n" % len(body) + body[:5])
        wire.sends(body[5:])
    elif framing == "chunks":
        wire.sends(CONTENT + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body))
        wire.sends(b"0\r\nX-Trailer: 1\r\n\r\n")
    else:
        wire.sends(CONTENT + b"\r\n" + body)
        wire.ends()
    made.plane.settle()
    assert (made.status, made.body) == (200, b"")
    assert made.header("Content-Type") == "application/json"
    assert made.header("Transfer-Encoding") is None
    if framing == "length" and not {"compress", "transform"}.intersection(filters):
        assert made.header("Content-Length") == str(len(body))
    made.client.sends(HEAD_AND_GET[1])
    assert made.body.startswith(b"HTTP/1.1 200 OK\r\n")
    assert made.body.endswith(b"\r\n\r\nown")
    assert [record.response_bytes for record in made.plane.records] == [0, 3]
    made.ended()


def test_head_of_a_part_that_breaks_off_has_no_head_either() -> None:
    made = Composed({"name": "a", "method": "POST"}, output="no-op").asks(HEAD_AND_GET[0])
    wire = made.open["/a"]
    wire.sends(b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nabc")
    wire.resets()
    made.plane.settle()
    assert made.status == 502
    made.ended()


@pytest.mark.parametrize("filters", OF_BODIES.values(), ids=OF_BODIES)
@pytest.mark.parametrize("length", [b"Content-Length: 11\r\n", b""])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_part_that_is_a_head_gives_other_clients_an_empty_body(
    method: bytes, length: bytes, filters: dict[str, Any]
) -> None:
    """What the part says about its body would be wrong: its length, its digest and its content coding."""
    made = Composed({"name": "a", "method": "HEAD"}, output="no-op", more={"filters": filters}, also=[OWN])
    made.asks(b"%b /d/7 HTTP/1.1\r\nHost: a\r\n\r\n" % method)
    described = b"Content-Encoding: gzip\r\nContent-Digest: sha-256=:AA==:\r\nX-A: 1\r\n"
    made.gets("/a", CONTENT + described + length + b"\r\n")
    assert (made.status, made.body) == (200, b"")
    assert made.header("Content-Length") == "0"
    assert made.header("X-A") == "1"
    assert made.header("Content-Encoding") is made.header("Content-Digest") is None
    made.client.sends(HEAD_AND_GET[1])
    assert made.body.endswith(b"\r\n\r\nown")
    made.ended()


@pytest.mark.parametrize(("status", "length"), [(204, b""), (304, b"Content-Length: 11\r\n")])
def test_a_status_without_a_body_of_a_part_that_is_a_head_stays_as_it_is(status: int, length: bytes) -> None:
    made = Composed({"name": "a", "method": "HEAD"}, output="no-op").asks()
    made.gets("/a", b"HTTP/1.1 %d X\r\n%b\r\n" % (status, length))
    assert (made.status, made.body, made.header("Content-Length")) == (status, b"", "11" if length else None)
    made.ended()


def test_an_only_part_without_a_response() -> None:
    late = Composed({"name": "a"}, output="no-op", timeout="1s").asks()
    late.plane.passes(1.5)
    assert late.status == 504
    late.ended()
    missing = Composed({"name": "a", "path": "/{query.none}"}, output="no-op").asks()
    assert (missing.status, missing.header("Fastgw-Completed")) == (502, "false")
    missing.ended()


def test_a_part_may_have_less_time_than_the_whole() -> None:
    made = Composed({"name": "a", "timeout": "1s"}, {"name": "b"}, timeout="30s").asks()
    made.plane.passes(1.5)
    made.gets("/b", answer({"b": 1}))
    assert (made.body, made.header("Fastgw-Completed")) == (b'{"b":1}', "false")
    made.ended()


def test_what_a_filter_hides_is_not_passed_on() -> None:
    made = Composed(
        {"name": "a", "headers_to_pass": ["X-Key", "X-User"]},
        more={
            "consumers": [{"name": "ann", "key_auth": [{"key": "k1"}]}],
            "filters": {
                "key_auth": {"key_names": ["X-Key"], "hide_credentials": True},
                "headers": {"request": {"set": {"X-User": "{consumer.name}"}}},
            },
        },
    ).asks(b"GET /d/7 HTTP/1.1\r\nHost: a\r\nX-Key: k1\r\nX-User: root\r\n\r\n")
    assert b"k1" not in made.requests[0]
    assert b"root" not in made.requests[0]
    assert b"x-user: ann\r\n" in made.requests[0]


# check and explain


@for_each(
    ("parts", "compose", "wrong"),
    [
        ([{"name": "a"}, {"name": "a"}], {}, "is the name of another part"),
        ([{"name": "a", "body": json.loads("[" * 255 + "]" * 255)}], {}, r"body: nested too deep; .* most 254 levels"),
        ([{"name": "a", "after": ["b"]}], {}, 'unknown part "b"'),
        ([{"name": "a"}, {"name": "b", "after": ["c"]}], {}, r"parts\[1\].after\[0\]: unknown part"),
        ([{"name": "a", "after": ["b"]}, {"name": "b", "after": ["a"]}], {}, "expected parts without a cycle"),
        ([{"name": "a", "after": ["a"]}], {}, "waits for itself; expected the name of another part"),
        ([{"name": "a", "path": "a"}], {}, 'expected a string such as "/users/{id}"'),
        ([{"name": "a", "upstream": "v"}], {}, 'unknown upstream "v"'),
        ([{"name": "a"}, {"name": "b", "path": "/{part.a.x}"}], {}, "does not wait for"),
        ([{"name": "a", "path": "/{item}"}], {}, "element of a list"),
        ([{"name": "a", "path": "/{nr}"}], {}, 'has the parameter "nr"'),
        ([{"name": "a", "path": "/a b"}], {}, "no URL has"),
        ([{"name": "a", "path": "/a/../b"}], {}, "normal form"),
        ([{"name": "a", "path": "/{a b}"}], {}, "unknown variable"),
        ([{"name": "a", "headers": {"Host": "x"}}], {}, "set by the gateway"),
        ([{"name": "a", "headers_to_pass": ["Connection"]}], {}, "set by the gateway"),
        (
            [{"name": "a", "headers_to_pass": ["X-A", "*"]}],
            {},
            r"parts\[0\].headers_to_pass\[1\]: `\*` is not a header; ",
        ),
        (
            [{"name": "a"}],
            {"headers_to_pass": ["*"]},
            r"compose.headers_to_pass\[0\]: `\*` is not a header; expected the",
        ),
        *(
            ([{"name": "a"}], {"completed_header": name}, f'completed_header: "{name}" is set by the gateway; expected')
            for name in (
                *("Content-Length", "transfer-encoding", "Connection", "Trailer", "Content-Type", "Content-Encoding"),
                *("ETag", "Cache-Control", "Vary", "Date", "Age", "Expires", "Surrogate-Key", "Cache-Tag"),
                "X-Request-Id",
            )
        ),
        ([{"name": "a"}], {"completed_header": "Date", "output": "no-op"}, "completed_header: .* set by the gateway"),
        ([{"name": "a", "default": [1]}], {}, "no object"),
        ([{"name": "a", "for_each": "{id}"}], {}, "is no list"),
        ([{"name": "a"}, {"name": "b"}], {"output": "no-op"}, "single part"),
        ([{"name": "a", "group": "g"}], {"output": "no-op"}, r"parts\[0\].group: .*as it is"),
        ([{"name": "a"}], {"static": {"data": []}}, "no object"),
        ([{"name": "a", "flatmap": [{"type": "move", "args": ["a"]}]}], {}, "expected two"),
        ([{"name": "a", "error_as": "e_{nam}"}], {}, r"error_as: unknown variable \{nam\}; expected \{name\}"),
        ([{"name": "a", "error_as": "{name}_{}"}], {}, r"error_as: unknown variable \{\}; expected \{name\}"),
        ([], {}, "an empty list"),
    ],
)
def test_compositions_that_cannot_be_meant(parts: list[dict[str, Any]], compose: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Composed(*parts, **compose)


def test_filters_that_do_not_run_for_a_part_are_noted(tmp_path: Path) -> None:
    """Those that are for the upstream itself do run."""
    target = {"targets": ["http://127.0.0.1:9"]}
    document = {
        "version": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "upstreams": {
            "u": {**target, "filters": {"key_auth": {}, "credentials": {"bearer": "t"}}},
            "v": {**target, "filters": {"credentials": {"bearer": "t"}}},
        },
        "routes": [{"name": "all", "compose": {"parts": [{"name": n, "upstream": n, "path": "/"} for n in "uv"]}}],
    }
    file = tmp_path / "gw.json"
    file.write_text(json.dumps(document))
    said = ended("check", str(file), directory=tmp_path)
    assert said.exit_code == 0
    assert said.output.count("do not run for a part: key_auth; use them on the route") == 1
    assert "credentials" not in said.output


def test_it_is_explained_without_a_request() -> None:
    parts = [
        {"name": "a", "upstream": "u", "path": "/a/{id}"},
        {"name": "b", "upstream": "http://h:1", "path": "/b", "after": ["a"], "for_each": "{part.a}"},
    ]
    loaded = load_document({**SERVICE, "routes": [{"name": "all", "paths": ["/{id}"], "compose": {"parts": parts}}]})
    text = as_text(explain(compile(loaded, 1), "GET", "http://a/7"))
    assert "parts     a: GET /a/{id} of u\n" in text
    assert "b: GET /b of http://h:1 after a for each of {part.a}" in text


# parts over idle connections


def direct(path: str = "/a", more: Mapping[str, Any] = {}, **part: Any) -> Composed:
    """Return a gateway with a composition whose part is sent over an idle connection, by the same request as before."""
    upstream = {"targets": [{"url": "http://127.0.0.1:9"}], **more}
    made = Composed({"name": "a", **part}, more={"upstreams": {"u": upstream}}).asks()
    made.gets(path, answer({"a": 1}))
    (connection,) = made.plane.pool.open
    wire: Any = connection.transport
    before = len(wire.received)
    made.client = made.plane.client()
    made.client.sends(GET)
    assert not made.plane.pool.waiting
    assert wire.received[before:] == made.requests[0]
    made.open[path] = wire
    return made


@for_each(
    ("path", "more"),
    [
        ("/a", {}),
        ("/a", {"host_header": "preserve"}),
        ("/base/a", {"targets": [{"url": "http://127.0.0.1:9/base"}]}),
        ("/a", {"load_balancing": {"algorithm": "least_connections"}, "circuit_breaker": {}}),
    ],
)
@for_each("part", [{}, {"method": "PUT", "body": {"x": 1}}, {"headers": {"X-Id": "{id}"}}])
def test_a_request_on_an_idle_connection_is_the_same(path: str, more: dict[str, Any], part: dict[str, Any]) -> None:
    made = direct(path, more, **part)
    made.gets(path, answer({"a": 2}))
    assert made.body == b'{"a":2}'
    ends = [record.subrequests.split(" ")[:3] for record in made.plane.records]
    assert ends == [["u", "127.0.0.1:9", "200"]] * 2
    made.ended()


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 103 E\r\nLink: x\r\n\r\n", answer({"a": 2})),
        (answer({"a": 2})[:20], answer({"a": 2})[20:]),
        (answer({"a": 2})[:-2], answer({"a": 2})[-2:]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b'7\r\n{"a":2}\r\n0\r\n\r\n'),
    ],
)
def test_a_response_in_pieces_is_received_by_an_exchange(pieces: tuple[bytes, ...]) -> None:
    made = direct()
    for piece in pieces:
        made.open["/a"].sends(piece)
        made.plane.settle()
    assert json.loads(made.body) == {"a": 2}
    made.ended()


def test_a_connection_that_was_just_closed_is_replaced() -> None:
    made = direct()
    made.open.pop("/a").ends()
    made.connects()
    made.gets("/a", answer({"a": 3}))
    assert made.body == b'{"a":3}'
    assert made.plane.records[-1].subrequests.startswith("u 127.0.0.1:9 200 ")
    made.ended()


@pytest.mark.parametrize(("method", "requests"), [("PUT", 2), ("POST", 1), ("PATCH", 1)])
def test_a_part_that_is_not_idempotent_is_sent_once(method: str, requests: int) -> None:
    made = direct(method=method, body={"x": 1})
    made.open.pop("/a").ends()
    made.connects()
    assert len(made.requests) == requests
    if requests == 2:
        made.gets("/a", answer({"a": 3}))
        assert made.body == b'{"a":3}'
    else:
        assert made.status == 502
    made.ended()


def test_a_client_that_leaves_cancels_it() -> None:
    made = direct()
    made.client.resets()
    assert made.open["/a"].aborted
    made.ended()


def test_one_that_is_late_is_cancelled() -> None:
    made = direct()
    made.plane.passes(6)
    assert made.status == 504
    assert made.open["/a"].aborted
    made.ended()


# answers over idle connections


def both_parts(request: bytes, a: bytes, b: bytes, *parts: Mapping[str, Any], **compose: Any) -> Composed:
    """Return a composition of the parts a and b, both over idle connections, with these answers."""
    of_a, of_b = parts or ({}, {})
    made = Composed({"name": "a", **of_a}, {"name": "b", **of_b}, **compose).asks()
    made.gets("/a", answer({"a": 1}))
    made.gets("/b", answer({"b": 1}))
    first, second = (connection.transport for connection in made.plane.pool.open)
    made.client = made.plane.client()
    made.client.sends(request)
    assert not made.plane.pool.waiting
    wires: list[Any] = [first, second]
    made.open = {wire.received.rsplit(b"GET ", 1)[1].split(b" ")[0].decode(): wire for wire in wires}
    made.gets("/b", b)
    made.gets("/a", a)
    return made


GOOD, EMPTY = answer({"a": [1, {}], "x": "a"}), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CACHED = answer({"x": "b"}, 200, "Cache-Control: private", "Vary: Origin")
ENCODED = answer({"x": "b"}, 200, "Content-Encoding: x-none")
IN_CHUNKS = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{"x":"b"}\r\n0\r\n\r\n'


@pytest.mark.parametrize(
    "request_",
    [
        GET,
        GET.replace(b"GET", b"HEAD", 1),
        GET[:-2] + b"If-None-Match: *\r\n\r\n",
        GET[:-2] + b'If-None-Match: W/"1", "x"\r\nIf-None-Match: "2"\r\n\r\n',
    ],
)
@pytest.mark.parametrize(
    ("b", "merged"),
    [
        (answer({"x": "b"}), b'{"a":[1, {}],"x":"b"}'),
        (answer(b' {"x":"b"}\r\n'), b'{"a":[1, {}],"x":"b"}'),
        (CACHED, b'{"a":[1, {}],"x":"b"}'),
        (IN_CHUNKS, b'{"a":[1, {}],"x":"b"}'),
        (EMPTY, b'{"a":[1, {}],"x":"a"}'),
        (answer(b"  "), b'{"a":[1, {}],"x":"a"}'),
        (ENCODED, None),
        (answer({"x": 1}, 503), None),
        (answer(b"[1]"), None),
        (answer(b'{"x":1,"x":2}'), None),
        (answer(b"{"), None),
    ],
)
def test_answers_over_idle_connections(request_: bytes, b: bytes, merged: bytes | None) -> None:
    made = both_parts(request_, GOOD, b, {}, {"allow": ["x"]}, max_bytes=4096)
    complete = merged is not None
    conditional = complete and b"If-None-Match: *" in request_
    assert made.status == (304 if conditional else 200)
    assert f"Fastgw-Completed: {str(complete).lower()}\r\n".encode() in made.client.received
    assert (b"Cache-Control: private\r\nVary: Origin\r\n" in made.client.received) is (b is CACHED)
    if request_.startswith(b"GET") and not conditional:
        body = made.client.received.partition(b"\r\n\r\n")[2]
        assert json.loads(body) == json.loads(merged or b'{"a":[1,{}],"x":"a"}')
    assert (b"ETag: " in made.client.received) is complete
    asked = made.plane.records[-1].subrequests.split(", ")
    assert [each.split(" ")[0] for each in asked] == ["u", "u"]
    made.ended()


@pytest.mark.parametrize("weak", [b"", b"W/"])
@pytest.mark.parametrize("other", [b"", b'"x", '])
def test_an_entity_tag_in_a_list_matches_over_idle_connections(weak: bytes, other: bytes) -> None:
    tag = both_parts(GET, GOOD, CACHED).client.received.partition(b"ETag: ")[2].partition(b"\r\n")[0]
    made = both_parts(GET[:-2] + b"If-None-Match: " + other + weak + tag + b"\r\n\r\n", GOOD, CACHED)
    assert made.status == 304
    assert (made.header("ETag"), made.header("Cache-Control")) == (tag.decode(), "private")


@pytest.mark.parametrize(
    ("a", "b", "control", "vary"),
    [
        (["Cache-Control: max-age=9"], ["Cache-Control: max-age=9"], "max-age=9", None),
        (["Cache-Control: max-age=9"], [], None, None),
        (["Cache-Control: max-age=9", "Age: 4"], ["Cache-Control: max-age=9"], "max-age=5", None),
        (["Cache-Control: max-age=9", "Cache-Control: private"], ["Expires: 0"], "private, max-age=0", None),
        (["Vary: X-A"], ["Vary: X-B, x-a"], None, "X-B, X-A"),
        (["Vary: X-A", "Vary: X-C"], ["Expires: 0"], None, "X-A, X-C"),
    ],
)
def test_cache_headers_over_idle_connections(a: list[str], b: list[str], control: str | None, vary: str | None) -> None:
    for _ in range(2):  # the second one as the first one was remembered
        made = both_parts(GET, answer({"a": 1}, 200, *a), answer({"b": 1}, 200, *b))
        assert (made.header("Cache-Control"), made.header("Vary")) == (control, vary)
        made.ended()


def test_parts_in_groups_over_idle_connections() -> None:
    made = both_parts(GET, answer({"a": 1}), answer({}), {"group": "a"}, {"group": "b", "after": []})
    assert made.body == b'{"a":{"a": 1},"b":{}}'
    made.ended()


def test_what_exceeds_the_free_allowance_counts_towards_the_memory_of_the_node() -> None:
    large = answer({"a": "x" * MAX_KEPT})
    made = Composed({"name": "a"}, {"name": "b"}).asks()
    made.gets("/a", answer({"a": 1}))
    assert made.plane.worker_loop.held_body_budget.in_use == 0
    made.gets("/b", large)
    made.ended()
    held = Composed({"name": "a"}, {"name": "b"}).asks()
    held.gets("/a", large)
    assert 0 < held.plane.worker_loop.held_body_budget.in_use < 2048
    held.gets("/b", answer({"b": 1}))
    assert held.plane.worker_loop.held_body_budget.in_use == 0
    held.ended()


OF_HELD_BODIES: dict[str, dict[str, Any]] = {
    "no filter": {},
    "validate": {"validate": {"body": {"inline": {}, "max_bytes": "8MiB"}}},
    "decompress": {"decompress": {}},
}


@pytest.mark.parametrize("filters", OF_HELD_BODIES.values(), ids=OF_HELD_BODIES)
def test_the_body_of_the_client_counts_while_the_parts_are_asked(filters: dict[str, Any]) -> None:
    """Also if a filter has held or inflated it, and all of it comes in one read."""
    text = orjson.dumps([number * 7_919_999 for number in range(9000)])
    sent = gzip.compress(text) if "decompress" in filters else text
    parts = {"name": "a", "method": "POST", "body": "pass"}, {"name": "b"}
    made = Composed(*parts, more={"filters": filters} if filters else {}, max_bytes="4MiB")
    coding = b"Content-Encoding: gzip\r\n" if "decompress" in filters else b""
    made.client.sends(b"POST /d/7 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + coding)
    made.client.sends(b"Content-Length: %d\r\n\r\n" % len(sent))
    for at in range(0, len(sent), 30_000):
        made.client.sends(sent[at : at + 30_000])
    made.plane.settle()
    made.connects()
    assert len(text) - MAX_KEPT <= made.plane.worker_loop.held_body_budget.in_use <= len(text)
    made.gets("/a", answer({"a": 1}))
    made.gets("/b", answer({"b": 1}))
    assert made.status == 200
    made.ended()


def joined(size: int, **settings: Any) -> tuple[Composed, bytes]:
    """Return a composition of two parts, whose client reads nothing, and the body of its response."""
    made = Composed({"name": "a"}, {"name": "b"}, **settings).asks()
    made.client.room = 0
    made.gets("/a", answer(b'{"a":"%b"}' % (b"x" * (size // 2))))
    made.gets("/b", answer(b'{"b":"%b"}' % (b"y" * (size // 2))))
    return made, b'{"a":"%b","b":"%b"}' % (b"x" * (size // 2), b"y" * (size // 2))


LONG = [100_000, 4 * MAX_KEPT]
"""Bytes of responses that exceed the free allowance: merged by the compiled module, and by the reference."""


@pytest.mark.parametrize("size", LONG)
def test_what_the_client_has_not_read_counts_towards_the_memory_of_the_node(size: int) -> None:
    made, body = joined(size)
    budget = made.plane.worker_loop.held_body_budget
    assert budget.in_use == len(body) - MAX_KEPT
    assert made.client.get_write_buffer_size() < MAX_KEPT + 1024  # the rest is not copied to the connection
    while budget.in_use:
        assert budget.in_use == len(body) - MAX_KEPT
        made.client.takes(0)
    made.client.takes()
    assert made.header("Content-Length") == str(len(body))
    assert made.body == body
    [record] = made.plane.records
    assert record.response_bytes == len(body)
    made.ended()


@pytest.mark.parametrize("size", LONG)
def test_the_memory_is_given_back_when_the_client_leaves(size: int) -> None:
    made, _ = joined(size)
    assert made.plane.worker_loop.held_body_budget.in_use
    made.client.resets()
    [record] = made.plane.records
    assert record.fault == Fault.CLIENT_LEFT.label
    made.ended()


def test_the_memory_is_given_back_when_the_client_does_not_read() -> None:
    made, _ = joined(LONG[1])
    made.plane.passes(61)
    [record] = made.plane.records
    assert record.fault == Fault.CLIENT_STALLED.label
    assert made.client.lost
    made.ended()


@pytest.mark.parametrize("size", LONG)
def test_a_response_without_memory_is_a_fault(size: int) -> None:
    made = Composed({"name": "a"}, {"name": "b", "group": "b"}).asks()
    budget = made.plane.worker_loop.held_body_budget
    budget.try_take(budget.limit - size + MAX_KEPT)  # enough for the answers, and not for the longer response
    for path in ("/a", "/b"):
        made.gets(path, answer(b'{"%b":"%b"}' % (path[1:].encode(), b"x" * (size // 2 - 8))))
    assert made.status == 503
    assert made.header("Retry-After") == "1"
    assert b"overloaded" in made.body
    [record] = made.plane.records
    assert record.fault == Fault.OVERLOADED.label
    budget.give_back(budget.limit - size + MAX_KEPT)
    made.ended()


def test_a_response_within_the_free_allowance_is_sent_at_once() -> None:
    made, body = joined(MAX_KEPT - 100)
    budget = made.plane.worker_loop.held_body_budget
    assert budget.in_use == 0
    assert made.client.get_write_buffer_size() > len(body)
    made.client.takes()
    assert made.body == body
    made.ended()


def test_a_list_that_has_no_text_says_so_where_there_is_no_header() -> None:
    def identify(exchange: Any) -> None:
        exchange.claims = {"roles": ["a", "b,c"]}

    part = {"name": "a", "upstream": "u", "path": "/a", "method": "POST", "body": {"roles": "{claim.roles}"}}
    route = {"name": "all", "paths": ["/d"], "compose": {"parts": [part], "all_or_nothing": True}}
    plane = Plane({"routes": [route]}, probes=[probe("identify", Phase.AUTHENTICATE, request=identify)])
    plane.client().sends(b"GET /d HTTP/1.1\r\nHost: a\r\n\r\n")
    why = "{claim.roles} is a list, and a value in it has a comma, a quote, or space at its beginning or end"
    assert plane.records[-1].fault_detail == f"part a: {why}"


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        (b"1e308", True),
        (b"1e400", False),
        (b"[" * 250 + b"]" * 250, True),
        (b"[" * 260 + b"]" * 260, False),
    ],
    ids=["1e308", "1e400", "250 levels", "260 levels"],
)
def test_numbers_beyond_a_double_and_deep_answers_are_failures(text: bytes, passes: bool) -> None:
    made = Composed({"name": "a"}).asks()
    made.gets("/a", answer(b'{"v":' + text + b"}"))
    assert made.header("Fastgw-Completed") == ("true" if passes else "false")
