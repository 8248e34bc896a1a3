"""Heads of answers that the gateway makes itself, and the length of answers that have no body."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.downstream.http1.response_framing import own_answer
from fastgw.exchange.reply import Reply, own_response
from fastgw.filters.api import BodyHook, Exchange, Hooks
from fastgw.http.http1 import serializer
from fastgw.testing import run
from tests.support.table import for_each
from tests.unit.pipeline.test_body_hooks import filter_of, get


def answer(reply: Reply, length: int, request_id: bytes = b"") -> list[bytes]:
    made = own_answer(
        own_response(reply), reply.body, length, lambda: b"Date: d\r\n", b"Connection: close\r\n", request_id
    )
    head, _, body = made.partition(b"\r\n\r\n")
    assert body == reply.body
    return head.split(b"\r\n")


def test_an_empty_answer_has_its_length() -> None:
    assert answer(Reply(200), 0) == [b"HTTP/1.1 200 OK", b"Content-Length: 0", b"Date: d", b"Connection: close"]


def test_an_answer_without_framing_has_none() -> None:
    assert answer(Reply(204), serializer.UNFRAMED) == [b"HTTP/1.1 204 No Content", b"Date: d", b"Connection: close"]


def test_the_date_of_an_answer_is_its_own_where_it_has_one() -> None:
    assert answer(Reply(204, b"", [(b"Date", b"x")]), serializer.UNFRAMED)[1:] == [b"Date: x", b"Connection: close"]


@pytest.mark.parametrize("name", [b"X-Request-Id", b"x-request-id", b"X_Request_Id", b"x.request-id"])
def test_the_id_that_is_shown_is_the_only_one(name: bytes) -> None:
    lines = answer(Reply(200, b"a", [(name, b"forged"), (b"X-A", b"b")]), 1, b"id")
    assert [line for line in lines if b"equest" in line] == [b"X-Request-Id: id"]
    assert b"X-A: b" in lines


@pytest.mark.parametrize("name", [b"X-Request-Id", b"X-A"])
def test_without_an_id_what_a_filter_says_stands(name: bytes) -> None:
    assert name + b": mine" in answer(Reply(200, b"a", [(name, b"mine")]), 1)


@for_each(
    ("method", "response", "length"),
    [
        (b"HEAD", b"200 OK\r\n", None),
        (b"HEAD", b"200 OK\r\nContent-Length: 7\r\n", b"7"),
        (b"GET", b"304 Not Modified\r\n", None),
        (b"GET", b"304 Not Modified\r\nContent-Length: 7\r\n", b"7"),
        (b"GET", b"204 No Content\r\n", None),
        (b"GET", b"205 Reset Content\r\nContent-Length: 0\r\n", b"0"),
        (b"GET", b"200 OK\r\nContent-Length: 0\r\n", b"0"),
    ],
)
def test_an_answer_without_a_body_says_what_the_upstream_says_of_its_length(
    method: bytes, response: bytes, length: bytes | None
) -> None:
    ran = run(
        filter_of(Hooks(response=lambda exchange: None)), get(method=method), response=b"HTTP/1.1 " + response + b"\r\n"
    )
    assert ran.fields.get(b"Content-Length") == length
    assert ran.received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "status", "length"),
    [(b"GET", 200, b"0"), (b"GET", 404, b"0"), (b"GET", 204, None), (b"HEAD", 200, None)],
)
def test_a_status_that_a_filter_sets_in_place_of_one_without_a_body(
    method: bytes, status: int, length: bytes | None
) -> None:
    def sets(exchange: Exchange) -> None:
        response: Any = exchange.response
        response.status = status

    answered = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"
    ran = run(filter_of(Hooks(response=sets)), get(method=method), response=answered)
    assert ran.status == status
    assert ran.fields.get(b"Content-Length") == (b"7" if method == b"HEAD" else length)


def test_an_empty_response_has_its_length_though_a_filter_takes_that_away() -> None:
    def removes(exchange: Exchange) -> None:
        assert exchange.response is not None
        exchange.response.headers.remove(b"Content-Length")

    ran = run(filter_of(Hooks(response=removes)), get(), response=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert ran.fields.get_all(b"Content-Length") == [b"0"]


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
)
def test_a_body_that_is_changed_as_it_passes_has_one_etag_and_a_weak_one(framing: bytes) -> None:
    ran = run(
        filter_of(Hooks(response_body=BodyHook(lambda exchange, payload: payload.upper(), changes=True))),
        get(),
        response=b'HTTP/1.1 200 OK\r\nETag: "a"\r\n' + framing,
    )
    assert ran.received.endswith((b"ABC", b"ABC\r\n0\r\n\r\n"))
    assert ran.fields.get_all(b"ETag") == [b'W/"a"']
