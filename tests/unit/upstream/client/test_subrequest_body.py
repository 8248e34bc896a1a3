"""Request bodies of sub-requests: whole, in pieces, or the client's own; and what is logged and counted of them."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Relay
from fastgw.exchange.body_relay import whole_body
from fastgw.filters.api import Phase, Pieces, Reply
from fastgw.upstream.client.subrequest import MOST_PER_EXCHANGE, Subrequest, SubrequestFailed, send_subrequest
from tests.support.attempts import Watch
from tests.support.memory import Plane, Wire, probe
from tests.support.table import for_each
from tests.unit.upstream.client.test_subrequest import GET, OK, Heard

POST = b"POST /a HTTP/1.1\r\nHost: a.test\r\n"
PIECE = b"x" * 20_000


class Answering:
    """A gateway in which a filter asks `v`, and answers the request with what comes of it."""

    def __init__(
        self,
        request: bytes = GET,
        *,
        settings: Mapping[str, Any] = MappingProxyType({}),
        ask: Callable[[Answering, Exchange], Any] | None = None,
        **asked: Any,
    ) -> None:
        self.heard = Heard()
        self.asked = asked
        self.parent: Exchange
        self.sent: Any = None
        self.done: Any = None

        async def wait(exchange: Exchange) -> Reply:
            self.done = asyncio.get_running_loop().create_future()
            await self.done
            return Reply(200, b"own")

        def step(exchange: Exchange) -> Any:
            self.parent = exchange
            self.sent = self.ask() if ask is None else ask(self, exchange)
            return wait(exchange)

        self.plane = Plane(
            {
                "upstreams": {
                    "u": {"targets": [{"url": "http://127.0.0.1:9"}]},
                    "v": {"targets": [{"url": "http://127.0.0.2:9"}], "retries": {"max": 0}, **settings},
                },
                "routes": [{"name": "all", "upstream": "u"}],
            },
            probes=[probe("asks", Phase.AUTHORIZE, request=step)],
        )
        self.upstream = self.plane.gateway.upstreams["v"]
        self.watch = Watch()
        self.upstream.attempt_listeners = (self.watch,)
        self.client = self.plane.client()
        self.client.sends(request)
        self.plane.settle()

    def ask(self, heard: Heard | None = None, **other: Any) -> Any:
        asked: Any = {"target": b"/ask", "method": b"POST", **self.asked, **other}
        body = asked.get("body")
        if callable(body):
            asked["body"] = body(self.parent)
        return send_subrequest(self.parent, self.upstream, heard or self.heard, **asked)

    def connects(self) -> Wire:
        wire = self.plane.connects()
        self.plane.settle()
        return wire

    def answers(self) -> None:
        """The parent is answered, and nothing is left of either."""
        if not self.done.done():
            self.done.set_result(None)
        self.plane.settle()
        assert self.client.received.endswith(b"\r\n\r\nown"), self.client.received
        self.watch.assert_even()
        self.plane.assert_quiet()
        assert self.plane.worker_loop.turns.timers == []


class Made:
    """An async iterator that tells how far it has come, and that it was closed."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces, self.made, self.closed = pieces, 0, False

    async def __call__(self) -> AsyncIterator[bytes]:
        try:
            for piece in self.pieces:
                self.made += 1
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed = True


@pytest.mark.parametrize(
    ("length", "head", "sent"),
    [
        (4, b"Content-Length: 4\r\n", b"abcd"),
        (None, b"Transfer-Encoding: chunked\r\n", b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"),
    ],
)
def test_a_body_in_pieces_is_sent_as_it_is_made(length: int | None, head: bytes, sent: bytes) -> None:
    made = Made(b"ab", b"", b"cd")
    asking = Answering(body=made(), body_length=length)
    assert made.made <= 1, "nobody takes it yet"
    wire = asking.connects()
    before, _, body = wire.received.partition(b"\r\n\r\n")
    assert head in before + b"\r\n"
    assert body == sent
    assert made.closed
    wire.sends(OK)
    assert asking.heard.told == [(200, b"1"), b"ok", ()]
    asking.answers()


def test_no_more_pieces_are_made_than_the_upstream_takes() -> None:
    made = Made(*[PIECE] * 100)
    asking = Answering(body=made(), body_length=100 * len(PIECE))
    wire = asking.plane.connects(room=2 * len(PIECE))
    assert made.made in (2, 3)
    wire.takes(2 * len(PIECE))
    assert made.made in (4, 5)
    wire.takes()
    assert made.made == 100
    assert wire.received.partition(b"\r\n\r\n")[2] == 100 * PIECE
    wire.sends(OK)
    assert asking.heard.told[-1] == ()
    asking.answers()


@pytest.mark.parametrize(
    ("pieces", "length", "why"),
    [
        ((b"abc",), 4, "the body of the sub-request has 3 bytes, and should have 4"),
        ((b"abc", b"de"), 4, "the body of the sub-request has more than the 4 bytes that it should have"),
        ((b"abc", RuntimeError("x")), None, "the body of the sub-request raised RuntimeError"),
        ((b"abc", "de"), None, "the body of the sub-request raised TypeError"),
    ],
)
def test_a_body_that_is_not_what_it_should_be_is_a_failure(pieces: Any, length: int | None, why: str) -> None:
    made = Made(*pieces)
    asking = Answering(body=made(), body_length=length)
    wire = asking.connects()
    assert asking.heard.told == [(Fault.INTERNAL, why)]
    assert wire.aborted or wire.lost or wire.ended
    assert made.closed
    asking.answers()


@pytest.mark.parametrize("end", ["cancelled", "parent", "answered", "late", "reset"])
def test_a_body_is_made_no_further_when_it_is_over(end: str) -> None:
    made = Made(*[PIECE] * 1000)
    asking = Answering(body=made(), timeout=2.0)
    wire = asking.plane.connects(room=2 * len(PIECE))
    assert not made.closed
    if end == "cancelled":
        asking.sent.cancel()
    elif end == "parent":
        asking.client.resets()
    elif end == "answered":
        wire.sends(OK)
        assert asking.heard.told[-1] == ()
    elif end == "late":
        asking.plane.passes(2.2)
        assert asking.heard.told[-1].fault is Fault.UPSTREAM_TIMEOUT
    else:
        wire.resets()
        assert asking.heard.told[-1].fault is Fault.CONNECTION_LOST
    asking.plane.settle()
    assert made.closed
    assert made.made < 1000
    if end == "parent":
        asking.watch.assert_even()
        asking.plane.assert_quiet()
    else:
        asking.answers()


def test_what_has_been_sent_of_it_is_sent_again() -> None:
    made = Made(b"ab", b"cd")
    asking = Answering(
        body=made(), method=b"PUT", settings={"retries": {"max": 1, "conditions": ["503"], "backoff": {"base": "1ms"}}}
    )
    wire = asking.connects()
    wire.sends(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    asking.plane.passes(0.2)
    assert wire.received.count(b"PUT /ask ") == 2
    assert wire.received.endswith(b"abcd\r\n0\r\n\r\n")
    wire.sends(OK)
    assert asking.heard.told == [(200, b"1"), b"ok", ()]
    asking.answers()
    assert asking.plane.observer.subrequests == [("v", "127.0.0.2:9", 200, 1)]


@pytest.mark.parametrize("wrong", [5, "text", [b"a"]])
def test_what_is_no_body_is_refused(wrong: Any) -> None:
    asking = Answering(ask=lambda asking, exchange: None)
    with pytest.raises(TypeError, match="expected bytes or an async iterator of bytes"):
        asking.ask(body=wrong)
    asking.answers()


# --- the client's own body ---


def own(exchange: Exchange) -> Relay | None:
    return exchange.request_body


@pytest.mark.parametrize(
    ("head", "pieces", "sent"),
    [
        (b"Content-Length: 4\r\n\r\n", [b"ab", b"cd"], b"Content-Length: 4\r\n"),
        (
            b"Transfer-Encoding: chunked\r\n\r\n",
            [b"2\r\nab\r\n", b"2\r\ncd\r\n0\r\n\r\n"],
            b"Transfer-Encoding: chunked",
        ),
    ],
)
@pytest.mark.parametrize("connected", ["before", "behind"])
def test_the_clients_body_goes_on_as_it_comes(head: bytes, pieces: list[bytes], sent: bytes, connected: str) -> None:
    asking = Answering(POST + head + pieces[0], body=own)
    if connected == "before":
        wire = asking.connects()
        assert wire.received.endswith((b"ab", b"ab\r\n")), wire.received
        asking.client.sends(pieces[1])
    else:
        asking.client.sends(pieces[1])
        wire = asking.connects()
    assert sent in wire.received
    assert b"".join(re.findall(rb"[a-d]+", wire.received.partition(b"\r\n\r\n")[2])) == b"abcd"
    wire.sends(OK)
    assert asking.heard.told == [(200, b"1"), b"ok", ()]
    asking.answers()
    assert asking.client.received.startswith(b"HTTP/1.1 200 "), "nobody has asked for a 100"
    assert asking.plane.records[0].request_bytes == 4


def test_who_sends_the_body_without_waiting_for_a_100_is_sent_none() -> None:
    asking = Answering(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\nab", body=own)
    asking.connects().sends(OK)
    asking.answers()
    assert asking.client.received.startswith(b"HTTP/1.1 200 ")


def test_who_waits_for_a_100_is_asked_for_the_body() -> None:
    asking = Answering(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n", body=own)
    assert asking.client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire = asking.connects()
    assert b"Expect" not in wire.received
    asking.client.sends(b"ab")
    assert wire.received.endswith(b"\r\n\r\nab")
    wire.sends(OK)
    asking.answers()


def test_the_clients_body_is_braked_by_the_upstream() -> None:
    asking = Answering(POST + b"Content-Length: 1000000\r\n\r\n" + PIECE, body=own)
    wire = asking.plane.connects(room=100)
    asking.client.sends(PIECE)
    assert not asking.client.reading
    wire.takes()
    assert asking.client.reading
    asking.client.resets()
    asking.plane.settle()
    assert wire.aborted or wire.lost
    asking.watch.assert_even()
    asking.plane.assert_quiet()


def test_after_a_failure_another_one_has_the_body() -> None:
    asking = Answering(POST + b"Content-Length: 4\r\n\r\nab", body=own)
    asking.plane.cannot_connect()
    assert [each.fault for each in asking.heard.told] == [Fault.CONNECT_REFUSED]
    second = Heard()
    asking.ask(second)
    wire = asking.connects()
    asking.client.sends(b"cd")
    assert wire.received.endswith(b"\r\n\r\nabcd")
    wire.sends(OK)
    assert second.told == [(200, b"1"), b"ok", ()]
    asking.answers()


def test_only_one_has_the_body_at_a_time_and_none_gets_it_later() -> None:
    asking = Answering(POST + b"Content-Length: 2\r\n\r\nab", body=own)
    wire = asking.connects()
    refused = asking.ask()
    assert refused == (Fault.INTERNAL, "the body of the request is sent elsewhere")
    wire.sends(OK)
    assert asking.ask() == (Fault.INTERNAL, "the body of the request is sent elsewhere")
    asking.answers()


def test_the_body_of_another_exchange_is_refused() -> None:
    asking = Answering(POST + b"Content-Length: 2\r\n\r\nab", ask=lambda asking, exchange: None)
    with pytest.raises(ValueError, match=r"expected `exchange\.request_body`"):
        asking.ask(body=whole_body(b"x", 1))
    asking.answers()


def test_a_request_without_a_body_has_none_to_pass_on() -> None:
    asking = Answering(body=own, method=b"GET")
    wire = asking.connects()
    assert b"Content-Length" not in wire.received
    wire.sends(OK)
    asking.answers()


# --- what is seen ---


def test_the_log_and_the_metrics_have_each_of_them() -> None:
    def ask(asking: Answering, exchange: Exchange) -> list[Any]:
        return [asking.ask(Heard(), method=b"GET") for _ in range(4)]

    asking = Answering(ask=ask)
    asking.connects().sends(OK)
    asking.connects().resets()
    asking.connects()
    asking.plane.cannot_connect()
    asking.answers()
    (record,) = asking.plane.records
    assert [each.rsplit(" ", 1)[0] for each in record.subrequests.split(", ")] == [
        "v 127.0.0.2:9 200",
        "v 127.0.0.2:9 connection_lost",
        "v 127.0.0.2:9 connect_refused",
        "v 127.0.0.2:9 cancelled",
    ]
    assert all(float(each.rsplit(" ", 1)[1]) >= 0.0 for each in record.subrequests.split(", "))
    assert (record.upstream, record.retries) == ("", 0)
    statuses = [status for _, _, status, _ in asking.plane.observer.subrequests]
    assert statuses == [200, 0, 0, 0]


def test_without_any_the_log_says_nothing() -> None:
    asking = Answering(ask=lambda asking, exchange: None)
    asking.answers()
    assert asking.plane.records[0].subrequests == ""


# --- many ---


@pytest.mark.parametrize("end", ["whole", "reset", "cancelled", "late", "unconnected"])
def test_nothing_of_one_that_is_over_waits_for_the_collector(end: str) -> None:
    asking = Answering(method=b"GET", timeout=1.0)
    kept = weakref.ref(asking.sent)
    gc.collect()
    gc.disable()
    try:
        if end == "unconnected":
            asking.plane.cannot_connect()
        else:
            wire = asking.connects()
            wire.sends(OK if end == "whole" else OK[:-1])
            if end == "reset":
                wire.resets()
            elif end == "cancelled":
                asking.sent.cancel()
            elif end == "late":
                asking.plane.passes(1.2)
        asking.sent = None
        asking.plane.settle()
        assert kept() is None, gc.get_referrers(kept())
    finally:
        gc.enable()
    asking.answers()


def test_as_many_as_may_be_at_once() -> None:
    heard = [Heard() for _ in range(MOST_PER_EXCHANGE)]

    def ask(asking: Answering, exchange: Exchange) -> list[Any]:
        return [asking.ask(each, method=b"GET") for each in heard]

    asking = Answering(ask=ask)
    assert isinstance(asking.ask(), SubrequestFailed)
    wires = [asking.connects() for _ in heard]
    for wire in wires[1::2]:
        wire.sends(OK[:-1])
    for wire in wires[::2]:
        wire.sends(OK)
    for wire in wires[1::2]:
        wire.sends(OK[-1:])
    assert all(each.told[-1] == () for each in heard)
    assert asking.upstream.active == 0
    asking.answers()


@for_each("when", ["unconnected", "sent", "head", "body"])
@for_each("how", ["resets", "ends", "answered"])
def test_all_of_them_end_with_their_parent(when: str, how: str) -> None:
    heard = [Heard() for _ in range(8)]

    def ask(asking: Answering, exchange: Exchange) -> list[Any]:
        return [asking.ask(each, method=b"GET") for each in heard]

    asking = Answering(ask=ask)
    wires = [] if when == "unconnected" else [asking.connects() for _ in heard]
    for wire in wires:
        wire.sends({"sent": b"", "head": OK[:-2], "body": OK[:-1]}[when])
    told = [list(each.told) for each in heard]
    if how == "answered":
        asking.answers()
    else:
        (asking.client.resets if how == "resets" else asking.client.ends)()
        asking.plane.settle()
    if how == "ends" and asking.parent.state.name != "ENDED":  # a client may half-close and wait
        asking.answers()
    assert [each.told for each in heard] == told
    assert all(sent.is_over for sent in asking.sent)
    asking.watch.assert_even()
    asking.plane.assert_quiet()
    assert asking.plane.worker_loop.turns.timers == []


@for_each("which", ["on_response", "on_data", "on_end", "on_failure"])
@for_each("what", ["cancel", "cancel all", "ask again", "answer", "pause"])
def test_a_listener_may_do_anything_in_each_callback(which: str, what: str) -> None:
    asking = Answering(ask=lambda asking, exchange: [asking.ask(method=b"GET"), asking.ask(Heard(), method=b"GET")])
    heard, calls = asking.heard, []
    plain = getattr(heard, which)
    again = Heard()

    def does(told: Any) -> None:
        plain(told)
        calls.append(told)
        if len(calls) > 1:
            return
        if what == "cancel":
            asking.sent[0].cancel()
        elif what == "cancel all":
            for each in asking.sent:
                each.cancel()
        elif what == "ask again":
            asking.ask(again, method=b"GET")
        elif what == "answer":
            asking.done.set_result(None)
        else:
            asking.sent[0].pause()

    setattr(heard, which, does)
    wire = asking.connects()
    wire.sends(OK[:-2])
    if which == "on_failure":
        wire.resets()
    else:
        wire.sends(OK[-2:])
    if what == "pause" and not asking.sent[0].is_over:
        asking.sent[0].resume()
        asking.plane.settle()
    assert len(calls) == 1
    ends = [each for each in heard.told if each == () or isinstance(each, SubrequestFailed)]
    assert len(ends) <= 1
    if what not in ("cancel", "cancel all", "answer"):
        assert len(ends) == 1
    while asking.plane.pool.waiting:
        asking.connects().sends(OK)
    if what == "ask again":
        if not again.told:  # it was sent on the connection of the first
            wire.sends(OK)
        assert again.told == [(200, b"1"), b"ok", ()]
    asking.answers()
    assert all(isinstance(each, Subrequest) and each.is_over for each in asking.sent)


# --- iterators that do not let themselves be closed ---


class Unclosable:
    """Has pieces, and an `aclose` that comes to nothing."""

    def __init__(self, how: str, *pieces: bytes) -> None:
        self.how, self.left, self.closings = how, list(pieces), 0

    def __aiter__(self) -> Unclosable:
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)

    async def aclose(self) -> None:
        self.closings += 1
        if self.how == "raises":
            raise RuntimeError("of a filter")
        await asyncio.get_running_loop().create_future()


TOLD = {
    "raises": "closing an iterator of body pieces raised",
    "never returns": "an iterator of body pieces was not closed within 10 s",
}


@pytest.mark.parametrize("how", TOLD)
@pytest.mark.parametrize("end", ["whole", "too long", "cancelled"])
def test_a_sub_request_does_not_wait_for_its_body_to_be_closed(
    how: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    pieces = Unclosable(how, b"ab", b"cd")
    asking = Answering(body=pieces, body_length=3 if end == "too long" else 4)
    wire = asking.connects()
    if end == "whole":
        assert wire.received.endswith(b"\r\n\r\nabcd")
        wire.sends(OK)
        assert asking.heard.told == [(200, b"1"), b"ok", ()]
    elif end == "too long":
        assert [each.fault for each in asking.heard.told] == [Fault.INTERNAL]
    else:
        asking.sent.cancel()
    asking.plane.passes(11)
    assert pieces.closings == 1
    assert caplog.text.count(TOLD[how]) == 1
    asking.answers()


@pytest.mark.parametrize("how", TOLD)
@pytest.mark.parametrize("length", [4, 3, 5, None])
def test_a_reply_does_not_wait_for_its_pieces_to_be_closed(
    how: str, length: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets its end at once, and its connection serves again where the body was what it should be."""
    made: list[Unclosable] = []

    async def serve(exchange: Exchange) -> Reply:
        made.append(Unclosable(how, b"ab", b"cd"))
        return Reply(200, Pieces(made[-1], length))

    plane = Plane(probes=[probe("serves", Phase.AUTHORIZE, request=serve)])
    client = plane.client()
    client.sends(GET)
    plane.settle()
    if length in (4, None):
        assert client.received.endswith(b"\r\n\r\nabcd" if length else b"\r\n2\r\ncd\r\n0\r\n\r\n")
        client.sends(GET)
        plane.settle()
        assert client.received.count(b"HTTP/1.1 200 OK\r\n") == 2
    else:
        assert client.aborted or client.ended
    assert len(plane.records) == len(made)
    plane.passes(11)
    assert [each.closings for each in made] == [1] * len(made)
    assert caplog.text.count(TOLD[how]) == len(made)
    plane.assert_quiet()
