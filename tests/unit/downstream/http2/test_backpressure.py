"""Sources of responses over HTTP/2 are paused while the client does not read, and resumed once it does."""

from __future__ import annotations

import gc
from math import inf

import hpack
import pytest

from fastgw.downstream.http2.stream import MOST_HELD
from fastgw.exchange import Exchange, Reply
from fastgw.exchange.reply import ReplyBody
from fastgw.filters.api import Phase
from fastgw.http.http2.session import HeldBytes
from tests.support.http2 import frames
from tests.support.http2.frames import Code, Type
from tests.support.memory import Plane, Wire, probe
from tests.unit.downstream.http2.test_tunnels import HTTP2, asks, begins, data_on, resets, told

PIECE = b"x" * MOST_HELD
UPLOAD = 3 * frames.MAX_FRAME


@pytest.fixture(autouse=True)
def nothing_held() -> None:
    """What sessions of earlier tests hold counts until they are freed."""
    gc.collect()


class ThreePieces(ReplyBody):
    """Body whose third piece is sent when its source is resumed."""

    length = 3 * MOST_HELD

    def __init__(self) -> None:
        self.paused = self.resumed = 0
        self._exchange: Exchange | None = None

    def service(self, exchange: Exchange) -> ThreePieces:
        self._exchange = exchange
        return self

    def _feed(self) -> None:
        assert self._exchange is not None
        self._exchange.response_sink.feed(PIECE)

    def start_sending(self) -> None:
        self._feed()
        self._feed()

    def pause(self) -> None:
        self.paused += 1

    def resume(self) -> None:
        self.resumed += 1
        exchange = self._exchange
        assert exchange is not None
        self._feed()
        exchange.service = None
        exchange.response_sink.end(())

    def close(self) -> None: ...
    def cancel(self) -> None: ...
    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...


def test_a_window_that_takes_more_than_one_write_resumes_the_source() -> None:
    """The client sends nothing further: it has opened its window for the whole body."""
    body = ThreePieces()
    answers = probe("pieces", Phase.ADMIT, request=lambda exchange: Reply(200, body))
    plane = Plane(HTTP2, probes=(answers,))
    client = begins(plane, (frames.Setting.INITIAL_WINDOW_SIZE, 0))
    asks(client, 1)
    assert (body.paused, body.resumed) == (1, 0)
    client.sends(frames.window_update(len(PIECE) * 3, 0) + frames.window_update(len(PIECE) * 3, 1))
    assert body.resumed == 1
    assert data_on(client, 1) == 3 * PIECE


def test_a_connection_that_holds_much_of_what_the_process_may_hold_is_not_read_from() -> None:
    """Until there is room again, by its own bodies or by others; one that holds no more than a window is read from."""
    plane = Plane(HTTP2)
    much, little = begins(plane), begins(plane)
    upstreams = []
    for client, stream in ((much, 1), (much, 3), (little, 1)):
        client.sends(frames.post(stream=stream))
        upstreams.append(plane.connects())
        upstreams[-1].takes(0)
        for _ in range(3):
            client.sends(frames.data(PIECE[: frames.MAX_FRAME], stream, end=False))
    assert much.reading
    held = HeldBytes(64 << 20)
    much.sends(frames.data(b"x", 1, end=False))
    little.sends(frames.data(b"x", 1, end=False))
    assert (much.reading, little.reading) == (False, True)
    for upstream in upstreams[:2]:
        upstream.takes()
    assert much.reading
    upstreams[0].takes(0)
    upstreams[1].takes(0)
    for stream in (1, 3, 1, 3, 1, 3, 1, 3):
        much.sends(frames.data(PIECE[: frames.MAX_FRAME], stream, end=False))
    assert not much.reading
    del held
    looks(plane)
    assert much.reading
    assert not plane.worker_loop.crowded


def upload(plane: Plane, client: Wire, stream: int, room: float = 0) -> Wire:
    """Send what fits into a window of a request; return its upstream, which takes so many bytes."""
    client.sends(frames.post(stream=stream))
    upstream = plane.connects(room)
    for _ in range(3):
        client.sends(frames.data(PIECE[: frames.MAX_FRAME], stream, end=False))
    return upstream


def looks(plane: Plane) -> None:
    """Look at what is held, as the loop does with each tick of its timers."""
    plane.worker_loop.look_at_crowded()
    plane.settle()


def statuses(client: Wire) -> dict[int, bytes]:
    decoder = hpack.Decoder()
    heads = ((stream, decoder.decode(block, raw=True)) for kind, stream, block in told(client) if kind == Type.HEADERS)
    return {stream: dict(fields)[b":status"] for stream, fields in heads}


def test_stalled_uploads_are_broken_off_before_they_stop_others_for_long() -> None:
    """Those that have waited longest, and half of what their connection holds. It goes on with the others."""
    plane = Plane(HTTP2)
    client = begins(plane)
    for stream in (1, 3, 5):
        upload(plane, client, stream)
        plane.passes(0.4)
    going_on = upload(plane, client, 7, inf)
    held = HeldBytes(64 << 20)
    client.sends(frames.data(b"x", 5, end=False))
    assert not client.reading
    looks(plane)
    assert statuses(client) == {1: b"503"}
    plane.passes(0.3)
    looks(plane)
    assert statuses(client) == {1: b"503", 3: b"503"}
    assert client.reading
    assert [each.fault for each in plane.records] == ["overloaded"] * 2
    client.sends(frames.data(b"end", 7))
    going_on.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert statuses(client)[7] == b"200"
    plane.passes(3)
    looks(plane)
    assert 5 not in statuses(client)  # it is no more than a window
    del held


def test_an_upload_of_which_nothing_is_held_is_not_broken_off_for_others() -> None:
    """Its target takes nothing either, and it has waited longest, but it would give nothing back."""
    plane = Plane(HTTP2)
    client = begins(plane)
    client.sends(frames.post(stream=1))
    plane.connects(0)
    for stream in (3, 5):
        upload(plane, client, stream)
    plane.passes(2)
    held = HeldBytes(64 << 20)
    client.sends(frames.data(b"x", 5, end=False))
    looks(plane)
    assert statuses(client) == {3: b"503"}
    del held


def test_a_client_that_has_sent_all_that_it_may_gives_back_what_it_holds_too() -> None:
    """It is not read from anyway: nothing of it tells that the process holds too much by now."""
    plane = Plane(HTTP2)
    silent = begins(plane)
    for stream in range(1, 40, 2):
        upload(plane, silent, stream)
    held = HeldBytes((64 << 20) - 22 * UPLOAD)
    plane.passes(2)
    looks(plane)
    assert not statuses(silent)
    other = begins(plane)
    for stream in range(1, 26, 2):
        if other.reading:
            upload(plane, other, stream)
    assert not other.reading
    plane.passes(0.5)
    looks(plane)
    looks(plane)  # in any order
    broken_off = statuses(silent)
    assert len(broken_off) >= 10
    assert broken_off == dict.fromkeys(range(1, 2 * len(broken_off), 2), b"503")  # in the order in which they wait
    assert not statuses(other)
    assert other.reading
    del held


@pytest.mark.parametrize("how", ["resets", "leaves", "stalls"])
def test_bytes_that_the_client_did_not_get_are_not_counted(how: str) -> None:
    """As of a response that the upstream breaks off: what waits for the client's window is discarded."""
    plane = Plane({**HTTP2, "timeouts": {"response_idle": "5s"}})
    client = begins(plane, (frames.Setting.INITIAL_WINDOW_SIZE, 100))
    asks(client, 1)
    plane.connects().sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 80_000)
    if how == "resets":
        client.sends(frames.reset())
    elif how == "leaves":
        client.ends()
    else:
        plane.passes(6)
        assert resets(client) == {1: Code.CANCEL}
    plane.settle()
    assert data_on(client, 1) == b"x" * 100
    fault = "client_stalled" if how == "stalls" else "client_left"
    assert [(each.fault, each.response_bytes) for each in plane.records] == [(fault, 100)]
