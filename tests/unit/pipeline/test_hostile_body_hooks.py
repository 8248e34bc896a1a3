"""Body hooks and replies in pieces that do what they should not, at each point where they can."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fastgw.exchange.reply import ReplyBody
from fastgw.filters.api import (
    BodyHook,
    BodyStage,
    Bounded,
    Exchange,
    FileRange,
    Hooks,
    Phase,
    Pieces,
    Reply,
    Services,
    StageFactory,
)
from fastgw.shm.node_limits import own_counts
from fastgw.testing import run
from tests.support.memory import Plane, probe
from tests.support.table import for_each
from tests.unit.pipeline.test_body_hooks import Doubling, answer_of, filter_of, get, ok, post


class Body(ReplyBody):
    """A body of some bytes that notes what becomes of it, and is never sent."""

    length = 3

    def __init__(self) -> None:
        self.told: list[str] = []

    def close(self) -> None:
        self.told.append("closed")


async def pieces_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def plane_of(**hooks: Any) -> Plane:
    return Plane(probes=[probe("hooked", Phase.TRANSFORM, **hooks)])


@contextmanager
def running(plane: Plane) -> Iterator[None]:
    """Whoever asks for the loop gets the plane's turns."""
    turns: Any = plane.worker_loop.turns
    asyncio._set_running_loop(turns)
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


def makes(status: int) -> Any:
    def response(exchange: Exchange) -> None:
        assert exchange.response is not None
        exchange.response.status = status

    return response


# statuses


@pytest.mark.parametrize("status", [204, 304])
def test_a_reply_in_pieces_is_not_made_one_without_a_body(status: int) -> None:
    plane = plane_of(request=lambda exchange: Reply(200, Pieces(pieces_of(b"abc"), 3)), response=makes(status))
    client = plane.client()
    client.sends(get())
    assert client.received.startswith(b"HTTP/1.1 500 ")
    client.sends(get())
    assert client.received.count(b"HTTP/1.1 500 ") == 2
    assert b"abc" not in client.received
    plane.assert_quiet()


@pytest.mark.parametrize("status", [204, 304])
def test_a_reply_without_a_body_that_gets_another_status_has_no_length_of_one(status: int) -> None:
    hooks = Hooks(request=lambda exchange: Reply(status, Body()), response=makes(200))
    told, fields, body = answer_of(run(filter_of(hooks), get()))
    assert (told, fields[b"content-length"], body) == (200, b"0", b"")


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_reply_with_status_205_has_no_body(in_pieces: bool) -> None:
    """RFC 9110 section 15.3.6. It has a length, unlike those with 204 and 304."""
    body = Body()
    ran = run(filter_of(Hooks(request=lambda exchange: Reply(205, body if in_pieces else b"abc"))), get())
    told, fields, sent = answer_of(ran)
    assert (told, fields[b"content-length"], sent) == (205, b"0", b"")
    assert body.told == (["closed"] if in_pieces else [])


def test_a_response_to_head_may_become_a_304_whoever_has_made_it() -> None:
    hooks = Hooks(request=lambda exchange: Reply(200, Body()), response=makes(304))
    ran = run(filter_of(hooks), get(method=b"HEAD"))
    assert answer_of(ran, b"HEAD")[0] == 304


# what is let go


def test_a_fault_that_is_answered_in_pieces_in_place_of_a_response_has_no_length_of_what_does_not_come() -> None:
    page = Body()

    def fail(exchange: Exchange) -> None:
        raise ZeroDivisionError

    hooks = Hooks(response=fail, reply=lambda exchange, reply: Reply(500, page))
    ran = run(filter_of(hooks, Phase.OBSERVE), get())
    status, fields, body = answer_of(ran)
    assert (status, fields[b"content-length"], body) == (500, b"0", b"")
    assert set(page.told) == {"closed"}


@pytest.mark.parametrize("outcome", [None, "text", ZeroDivisionError])
def test_a_body_of_which_a_reply_hook_makes_nothing_is_let_go(outcome: Any) -> None:
    body = Body()

    def reply(exchange: Exchange, reply: Reply) -> Any:
        if outcome is ZeroDivisionError:
            raise ZeroDivisionError
        return outcome

    ran = run(filter_of(Hooks(request=lambda exchange: Reply(200, body), reply=reply)), get())
    assert ran.status == 500
    assert body.told == ["closed"]


def test_a_reply_that_nobody_waits_for_any_more_is_let_go() -> None:
    body = Body()
    given: list[asyncio.Future[None]] = []

    async def late(exchange: Exchange) -> Reply:
        loop: Any = asyncio.get_running_loop()
        given.append(loop.create_future())
        with suppress(asyncio.CancelledError):
            await given[0]
        return Reply(200, body)

    plane = plane_of(request=late)
    client = plane.client()
    client.sends(get())
    client.resets()
    assert body.told == ["closed"]
    assert [record.fault for record in plane.records] == ["client_left"]
    plane.assert_quiet()


def test_a_request_that_is_refused_with_a_file_after_its_answer_has_begun_lets_it_go() -> None:
    body = Body()
    plane = plane_of(request_body=lambda exchange, piece: Reply(403, body) if b"bad" in piece else None)
    client = plane.client()
    client.sends(post(b"good bad")[:-3])
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
    client.sends(b"bad")
    assert client.received.endswith(b"\r\n\r\nab")
    assert body.told == ["closed"]
    plane.assert_quiet()


def descriptors(path: Path) -> int:
    gc.collect()
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += os.readlink(entry) == str(path)
        except OSError:
            continue
    return found


def test_a_file_that_nobody_sends_is_closed_with_whoever_has_opened_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")

    async def opens() -> None:
        opened = await FileRange.open(file)
        assert descriptors(file) == 1
        del opened

    asyncio.run(opens())
    assert descriptors(file) == 0

    async def closes() -> None:
        opened = await FileRange.open(file)
        opened.close()
        opened.close()  # a descriptor that is closed twice may be somebody else's

    asyncio.run(closes())


@pytest.mark.parametrize(("offset", "length"), [(0, "5"), (-1, 1), (0, -1), (5, 6), (11, None), (None, 1)])
def test_a_range_that_a_file_does_not_have_keeps_nothing_open(tmp_path: Path, offset: Any, length: Any) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    with pytest.raises((ValueError, TypeError)):
        asyncio.run(FileRange.open(file, offset, length))  # type: ignore[arg-type]
    assert descriptors(file) == 0


@pytest.mark.parametrize(("pieces", "length"), [([b"a"], None), (b"abc", 3), (pieces_of(), -1), (7, 1)])
def test_what_cannot_be_pieces_fails_where_it_is_made(pieces: Any, length: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Pieces(pieces, length)


# a fault of a body hook


@pytest.mark.parametrize("bound", [Bounded(3), None])
def test_a_page_for_faults_does_not_go_through_the_hook_that_has_failed(bound: Bounded | None) -> None:
    calls: list[bytes] = []

    def fail(exchange: Exchange, payload: bytes) -> None:
        calls.append(payload)
        raise ZeroDivisionError

    hooks = Hooks(
        response_body=BodyHook(fail, needs=bound),
        reply=lambda exchange, reply: Reply(reply.status, b"<h1>sorry</h1>"),
    )
    for response in (ok(b"abc"), ok(b"abcd")):
        calls.clear()
        ran = run(filter_of(hooks), get(b"X: 1"), response=response)
        assert len(calls) <= 2  # of two runs
        status, _, body = answer_of(ran)
        assert status in (500, 502)
        assert body == b"<h1>sorry</h1>"


# stages that raise


class Raising(BodyStage):
    def __init__(self, told: list[str], name: str, at: str, error: type[BaseException]) -> None:
        self._told, self._name, self._at, self._error = told, name, at, error

    def _do(self, what: str) -> None:
        self._told.append(f"{self._name} {what}")
        if self._at == what:
            raise self._error

    def feed(self, payload: bytes) -> bytes:
        self._do("feed")
        return payload

    def end(self) -> bytes:
        self._do("end")
        return b""

    def cancel(self) -> None:
        self._do("cancel")


ERRORS = [ZeroDivisionError, asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration]


def three(told: list[str], side: str, at: str, error: type[BaseException]) -> list[type]:
    """Three filters in the order in which bodies of this side pass them; the second one raises."""
    names = ["first", "second", "third"]

    def stage(name: str) -> StageFactory:
        return StageFactory(lambda exchange: Raising(told, name, at if name == "second" else "", error))

    orders = names if side == "request_body" else names[::-1]
    return [
        probe(name, Phase.TRANSFORM, order=place, **{side: stage(name)})  # type: ignore[arg-type]
        for place, name in enumerate(orders)
    ]


@for_each("error", ERRORS)
@for_each("at", ["feed", "end"])
@for_each("side", ["request_body", "response_body"])
def test_each_stage_is_ended_or_cancelled_once_whichever_raises(side: str, at: str, error: type[BaseException]) -> None:
    told: list[str] = []
    plane = Plane(probes=three(told, side, at, error))
    client = plane.client()
    client.sends(post(b"abc") if side == "request_body" else get())
    if side == "response_body":
        plane.connects().sends(ok(b"abc"))
    assert client.received.startswith(b"HTTP/1.1 500 ")
    for name in ("first", "second", "third"):
        assert sum(f"{name} {what}" in told for what in ("end", "cancel")) == 1, told
    assert len(told) == len(set(told))
    assert [record.fault for record in plane.records] == ["internal"]
    plane.assert_quiet()


@for_each("error", ERRORS)
@for_each("side", ["request_body", "response_body"])
def test_a_stage_that_raises_as_it_is_cancelled_harms_nobody(side: str, error: type[BaseException]) -> None:
    told: list[str] = []
    plane = Plane(probes=three(told, side, "cancel", error))
    client = plane.client()
    if side == "request_body":
        client.sends(post(b"abc")[:-1])
    else:
        client.sends(get())
        plane.connects().sends(ok(b"abc")[:-1])
    client.resets()
    assert [each for each in told if "cancel" in each] == ["first cancel", "second cancel", "third cancel"]
    assert [record.fault for record in plane.records] == ["client_left"]
    assert [name for name, _ in plane.observer.filters] == ["second"]
    for waiting in list(plane.pool.waiting):
        plane.pool.withdraw(waiting[0])
    plane.assert_quiet()


# empty bodies


@pytest.mark.parametrize("whole", [True, False])
def test_an_empty_response_passes_no_stage_however_it_comes(whole: bool) -> None:
    seen: list[bytes] = []
    empty = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    response = [empty] if whole else [empty[:-5], empty[-5:]]
    made = Hooks(response_body=BodyHook(lambda exchange, body: seen.append(body) or b"made up", needs=Bounded(99)))
    doubled = Hooks(response_body=StageFactory(lambda exchange: Doubling()))
    for hooks in (made, doubled):
        assert answer_of(run(filter_of(hooks), get(), response=response))[2] == b""
    assert seen == []


@pytest.mark.parametrize("whole", [True, False])
def test_an_empty_request_passes_no_stage_however_it_comes(whole: bool) -> None:
    seen: list[bytes] = []
    empty = b"POST /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    request = [empty] if whole else [empty[:-5], empty[-5:]]
    made = Hooks(request_body=BodyHook(lambda exchange, body: seen.append(body) or b"made up", needs=Bounded(99)))
    doubled = Hooks(request_body=StageFactory(lambda exchange: Doubling()))
    for hooks in (made, doubled):
        ran = run(filter_of(hooks), request)
        assert ran.status == 200
        assert ran.sent_body == b""
    assert seen == []


# lengths


class Lying(BodyStage):
    keeps_length = True

    def __init__(self, more: bytes, cut: int) -> None:
        self._more, self._cut = more, cut

    def feed(self, payload: bytes) -> bytes:
        return payload[self._cut :] + self._more


@pytest.mark.parametrize(("more", "cut"), [(b"xy", 0), (b"", 1)])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_stage_that_does_not_keep_the_length_as_it_said_sends_no_more_than_was_told(
    more: bytes, cut: int, pieces: int
) -> None:
    factory = StageFactory(lambda exchange: Lying(more, cut))
    request, response = post(b"abcdef"), ok(b"abcdef")
    ran = run(filter_of(Hooks(request_body=factory)), [request] if pieces == 1 else [request[:-3], request[-3:]])
    assert ran.status == 500
    assert len(ran.sent.partition(b"\r\n\r\n")[2]) <= 6
    ran = run(
        filter_of(Hooks(response_body=factory)),
        get(),
        response=[response] if pieces == 1 else [response[:-3], response[-3:]],
    )
    assert ran.record.fault == "internal"
    assert ran.status == 500 or len(ran.received.partition(b"\r\n\r\n")[2]) < 6


def test_bytes_that_a_hook_did_not_let_out_are_not_told_as_sent() -> None:
    def fail(exchange: Exchange, payload: bytes) -> bytes:
        if b"bad" in payload:
            raise ZeroDivisionError
        return payload * 2

    response = ok(b"good bad")
    ran = run(
        filter_of(Hooks(response_body=BodyHook(fail, changes=True))), get(), response=[response[:-3], response[-3:]]
    )
    assert (ran.status, ran.record.fault, ran.record.response_bytes) == (200, "internal", 10)


# trailers


@pytest.mark.parametrize("needs", [None, Bounded(99)])
def test_trailers_of_a_request_that_was_there_before_its_filters_were_done_go_on(needs: Bounded | None) -> None:
    given: list[Any] = []

    async def waits(exchange: Exchange) -> None:
        loop: Any = asyncio.get_running_loop()
        given.append(loop.create_future())
        await given[-1]

    upper = BodyHook(lambda exchange, body: body.upper(), needs=needs, changes=True)
    plane = plane_of(request=waits, request_body=upper)
    client = plane.client()
    client.sends(b"POST /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
    client.sends(b"3\r\nabc\r\n0\r\nX-End: 1\r\n\r\n")
    given[0].set_result(None)
    plane.settle()
    upstream = plane.connects()
    assert upstream.received.endswith(b"3\r\nABC\r\n0\r\nX-End: 1\r\n\r\n")


@pytest.mark.parametrize("needs", [None, Bounded(99)])
@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_trailers_of_a_hook_go_to_who_takes_them_alone(needs: Bounded | None, pieces: int, version: bytes) -> None:
    hooks = Hooks(
        trailers=lambda exchange, trailers: [*trailers, (b"X-End", b"1")],
        response_body=None if needs is None else BodyHook(lambda exchange, body: body, needs=needs),
    )
    response = ok(b"ok")
    ran = run(filter_of(hooks), get(version=version), response=[response] if pieces == 1 else [response[:-1], b"k"])
    status, fields, body = answer_of(ran)
    assert (status, fields[b"content-length"], body) == (200, b"2", b"ok")


# pipelining


@pytest.mark.parametrize("needs", [None, Bounded(99)])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_request_behind_a_refused_body_is_answered(needs: Bounded | None, chunked: bool) -> None:
    plane = plane_of(request_body=BodyHook(lambda exchange, body: Reply(403) if b"bad" in body else None, needs=needs))
    client = plane.client()
    request = post(b"good bad", chunked=chunked)
    at = 3 if not chunked else 5 if needs is not None else 8
    client.sends(request[:-at])
    if needs is None:
        plane.connects()
    client.sends(request[-at:] + get())
    if chunked and needs is None:
        return  # refused before its end, which nobody reads
    assert client.received.startswith(b"HTTP/1.1 403 ")
    assert b"Connection: close" not in client.received
    plane.connects().sends(ok(b"ok"))
    assert client.received.endswith(b"\r\n\r\nok")
    assert [record.status for record in plane.records] == [403, 200]
    plane.assert_quiet()


# replies in pieces


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, GeneratorExit, ZeroDivisionError])
@pytest.mark.parametrize("needs", [None, Bounded(99)])
def test_pieces_that_end_by_any_error_are_cut_off(error: type[BaseException], needs: Bounded | None) -> None:
    async def fails() -> AsyncIterator[bytes]:
        yield b"abc"
        raise error

    held = None if needs is None else BodyHook(lambda exchange, body: body, needs=needs)
    plane = plane_of(request=lambda exchange: Reply(200, Pieces(fails())), response_body=held)
    client = plane.client()
    with running(plane):
        client.sends(get())
    assert [record.fault for record in plane.records] == ["internal"]
    assert b"0\r\n\r\n" not in client.received
    assert client.received.startswith(b"HTTP/1.1 200 " if needs is None else b"HTTP/1.1 500 ")
    plane.assert_quiet()


def test_an_iterator_that_never_waits_leaves_the_loop_to_others_and_ends_with_its_answer() -> None:
    made = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 1
            assert made < 1000
            yield b"" if made % 2 else b"abc"

    def fail(exchange: Exchange, payload: bytes) -> bytes:
        if made > 9:
            raise ZeroDivisionError
        return payload

    plane = plane_of(request=lambda exchange: Reply(200, Pieces(endless())), response_body=BodyHook(fail, changes=True))
    client = plane.client()
    with running(plane):
        client.sends(get())
    assert made < 20
    assert [record.fault for record in plane.records] == ["internal"]
    plane.assert_quiet()


def test_a_body_in_pieces_waits_for_a_client_that_took_nothing_before_it() -> None:
    made = 0

    async def many() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(100):
            made += 1
            yield b"abc"

    plane = Plane(
        probes=[
            probe(
                "needs",
                Phase.VALIDATE,
                request_body=BodyHook(lambda exchange, body: Reply(200, Pieces(many())), needs=Bounded(99)),
            )
        ]
    )
    client = plane.client()
    request = post(b"abc", b"Expect: 100-continue")
    client.takes(0)  # not even the 100
    with running(plane):
        client.sends(request[:-3])
        client.sends(b"abc")
    assert made <= 2
    client.takes()
    assert client.received.endswith(b"0\r\n\r\n")
    assert made == 100
    plane.assert_quiet()


# other upstreams


def test_a_fallback_is_not_asked_for_a_range_of_what_a_filter_changes() -> None:
    def shows(exchange: Exchange) -> None:
        exchange.keep_from_others()
        exchange.request_added += b"Authorization: secret\r\n"

    fallback = {"conditions": ["unreachable"], "upstream": "other"}
    shown = probe("shows", Phase.CREDENTIALS, request=shows)
    shown.for_its_upstream = True
    plane = Plane(
        {
            "upstreams": {
                "u": {"targets": [{"url": "http://127.0.0.1:9"}]},
                "other": {"targets": [{"url": "http://127.0.0.1:10"}]},
            },
            "routes": [{"name": "all", "upstream": "u", "fallback": fallback, "filters": {"shows": {}}}],
        },
        probes=[
            shown,
            probe("changes", Phase.TRANSFORM, response_body=BodyHook(lambda e, body: body.upper(), changes=True)),
        ],
    )
    client = plane.client()
    client.sends(get(b"Range: bytes=0-1"))
    while plane.pool.waiting and b"10" not in repr(plane.pool.waiting[0][1]).encode():
        plane.cannot_connect()
        plane.passes(1)
    upstream = plane.connects()
    assert b"secret" not in upstream.received
    assert b"Range" not in upstream.received


def mirrored(**hooks: Any) -> Plane:
    """A plane whose requests are copied, behind a filter with these hooks."""
    plane = Plane(
        {
            "upstreams": {
                "u": {"targets": [{"url": "http://127.0.0.1:9"}]},
                "copies": {"targets": [{"url": "http://127.0.0.1:10"}]},
            },
            "filters": {"mirror": {"upstream": "copies"}},
        },
        probes=[probe("hooked", Phase.VALIDATE, **hooks)],
    )
    nothing: Any = None
    services = Services(nothing, nothing, nothing, nothing, own_counts(), upstreams=plane.gateway.upstreams.get)
    for link in plane.gateway.live:
        assert link.hooks.start is not None
        link.hooks.start(services)
    return plane


def test_a_copy_of_a_body_that_a_filter_has_changed_has_no_digest_of_what_came() -> None:
    plane = mirrored(request_body=BodyHook(lambda exchange, body: body.upper(), changes=True))
    client = plane.client()
    client.sends(post(b"abc", b"Content-Digest: sha-256=:eA==:"))
    plane.connects().sends(ok(b"ok"))
    copy = plane.connects()
    assert copy.received.endswith(b"\r\n\r\nABC")
    assert b"Digest" not in copy.received


def test_a_request_that_is_refused_for_its_body_is_not_copied() -> None:
    plane = mirrored(request_body=BodyHook(lambda exchange, body: Reply(403), needs=Bounded(9)))
    client = plane.client()
    client.sends(post(b"abc"))
    client.sends(post(b"abc")[:-1])
    client.sends(b"c")
    assert client.received.count(b"HTTP/1.1 403 ") == 2
    assert plane.pool.waiting == []


def test_a_renewal_that_comes_to_nothing_passes_on_what_a_filter_needs_as_a_whole() -> None:
    given: list[Any] = []

    def renew(exchange: Exchange, head: Any) -> Any:
        given.append(plane.worker_loop.turns.create_future())
        return given[0]

    plane = plane_of(renew=renew, response_body=BodyHook(lambda exchange, body: body.upper(), needs=Bounded(99)))
    client = plane.client()
    client.sends(get())
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\nX-End: 1\r\n\r\n")
    given[0].set_result(False)
    plane.settle()
    assert client.received.startswith(b"HTTP/1.1 401 ")
    assert b"NO" in client.received
    plane.assert_quiet()


@pytest.mark.parametrize("needs", [None, Bounded(9)])
@pytest.mark.parametrize("side", ["request_body", "response_body"])
def test_an_exchange_whose_body_has_passed_hooks_leaves_nothing_to_the_collector(
    side: str, needs: Bounded | None
) -> None:
    plane = plane_of(**{side: BodyHook(lambda exchange, body: None, needs=needs)})
    client = plane.client()
    gc.collect()
    before = [each for each in gc.get_objects() if type(each) is Exchange]  # of other tests
    gc.disable()
    try:
        client.sends(post(b"abc")[:-1])
        client.sends(b"c")
        plane.connects().sends(ok(b"ok"))
        assert [record.status for record in plane.records] == [200]
        assert [each for each in gc.get_objects() if type(each) is Exchange and each not in before] == []
    finally:
        gc.enable()


def test_no_step_runs_behind_one_that_does_not_heed_that_it_is_cancelled() -> None:
    ran: list[Exchange] = []

    async def heedless(exchange: Exchange) -> None:
        loop: Any = asyncio.get_running_loop()
        with suppress(asyncio.CancelledError):
            await loop.create_future()

    plane = Plane(
        probes=[
            probe("heedless", Phase.VALIDATE, request=heedless),
            probe("later", Phase.CREDENTIALS, request=lambda exchange: ran.append(exchange)),
        ]
    )
    client = plane.client()
    client.sends(get())
    client.resets()
    assert ran == []
    assert [record.fault for record in plane.records] == ["client_left"]
    plane.assert_quiet()


def test_a_body_in_pieces_that_is_sent_twice_is_a_500() -> None:
    body = Pieces(pieces_of(b"abc"), 3)
    plane = plane_of(request=lambda exchange: Reply(200, body))
    client = plane.client()
    with running(plane):
        client.sends(get())
    assert client.received.endswith(b"\r\n\r\nabc")
    client.sends(get())
    assert client.received.count(b"HTTP/1.1 500 ") == 1
    assert [(record.status, record.fault) for record in plane.records] == [(200, ""), (500, "internal")]
    plane.assert_quiet()


def test_a_stage_that_raises_for_a_body_that_was_held_for_it_is_cancelled() -> None:
    told: list[str] = []
    factory = StageFactory(lambda exchange: Raising(told, "held", "feed", ZeroDivisionError))
    ran = run(
        filter_of(Hooks(response_body=BodyHook(factory, needs=Bounded(9)))), get(), response=[ok(b"abc")[:-1], b"c"]
    )
    assert (ran.status, ran.record.fault) == (500, "internal")
    assert told[:2] == ["held feed", "held cancel"]
