"""The `websocket` filter: frames of RFC 6455 through real sockets, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import signal
import socket
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import fastgw
from fastgw.http.websocket.frames import unmask
from tests.support.client import Client
from tests.support.extension import install
from tests.support.gateway import Gateway, wait_until, write_config
from tests.support.http2 import frames
from tests.support.http2.client import Http2Client
from tests.support.lanes import Kind, Lane, Lanes, running
from tests.support.origin import Origin, OriginConnection, Request, Step
from tests.support.origin import close as close_connection
from tests.support.peer import DEADLINE

LIMITS = {"message_bytes": 70_000, "close_timeout": "2s"}


def kind(timeouts: Any = None, **settings: Any) -> Kind:
    """`timeouts`: those of the upstream."""
    return Kind({"timeouts": timeouts or {}}, {"filters": {"websocket": {**LIMITS, **settings}}})


KINDS = {
    "plain": kind(),
    "small": kind(message_bytes=100),
    "rate": kind(rate="5/s"),
    "idle": kind(idle="300ms"),
    "cut": kind(idle="300ms", close_timeout="100ms"),
    "tunnel_idle": kind({"tunnel_idle": "300ms"}),
    "half_closed": kind({"idle": "300ms"}, close_timeout="100ms"),
    "total": kind(total="400ms"),
    "ping": kind(ping="200ms"),
    "ping_often": kind(ping="100ms", close_timeout="30s"),
    "one": kind(per_consumer=1),
    "shadow": kind(message_bytes=1, rate="1/s", shadow=True),
    "origins": kind(origins=["https://app.example", "https://*.wild.example", "https://Large.Example"]),
    "pass": kind(extensions="pass", message_bytes=1000),
    "idle_patient": kind(idle="300ms", close_timeout="60s"),
    "patient": kind(close_timeout="60s"),
    "short": kind(extensions="pass", message_bytes=1000, idle="300ms", close_timeout="1s"),
    "large": kind(extensions="pass", message_bytes=None),
    "told": kind(log_messages="1000/s", extensions="pass"),
    "few": kind(log_messages="2/h"),
}
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ASKING = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\n"
)
MASK = b"\x11\x22\x33\x44"


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    listeners: dict[str, Any] = {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}}
    yield from running(Lanes(tmp_path_factory.mktemp("ws"), KINDS, count=8, settings={"listeners": listeners}))


@pytest.fixture
def lane(lanes: Lanes, request: pytest.FixtureRequest) -> Iterator[Lane]:
    lane = lanes.take(getattr(request, "param", "plain"))
    yield lane
    lane.end()


def of_kind(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lane", names, indirect=True)


def accept_for(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def switched(key: bytes, fields: bytes = b"") -> bytes:
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
        + accept_for(key)
        + b"\r\n"
        + fields
        + b"\r\n"
    )


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    masked: bool = True,
    fin: bool = True,
    rsv: int = 0,
    length: int | None = None,
    form: int | None = None,
) -> bytes:
    """`form`: bytes that the length is written in, 0, 2 or 8; `length`: what is declared."""
    size = len(payload) if length is None else length
    form = (0 if size < 126 else 2 if size < 65536 else 8) if form is None else form
    short = size if not form else 126 if form == 2 else 127
    head = bytes((opcode | 128 * fin | rsv << 4, short | 128 * masked)) + (size.to_bytes(form, "big") if form else b"")
    return head + (MASK + unmask(payload, MASK, 0) if masked else payload)


def close(code: int, reason: bytes = b"", masked: bool = True) -> bytes:
    return frame(8, code.to_bytes(2, "big") + reason, masked=masked)


class Side:
    """One end of a WebSocket: bytes out, frames in."""

    def __init__(self, masked: bool) -> None:
        self.masked = masked

    def send(self, data: bytes) -> None:
        raise NotImplementedError

    def read(self, length: int) -> bytes:
        raise NotImplementedError

    def read_frame(self) -> tuple[int, bytes]:
        """First byte and payload. What comes to an upstream has to be masked, what comes to a client must not."""
        first, second = self.read(2)
        assert bool(second & 128) is not self.masked
        length = second & 127
        if length > 125:
            length = int.from_bytes(self.read(2 if length == 126 else 8), "big")
        key = b"" if self.masked else self.read(4)
        payload = self.read(length)
        return first, unmask(payload, key, 0) if key else payload

    def read_close(self) -> int:
        first, payload = self.read_frame()
        assert first == 0x88, (first, payload)
        return int.from_bytes(payload[:2], "big")

    def frame(self, opcode: int, payload: bytes = b"", **how: Any) -> None:
        self.send(frame(opcode, payload, masked=how.pop("masked", self.masked), **how))


class PlainSide(Side):
    def __init__(self, peer: Client | OriginConnection, masked: bool) -> None:
        super().__init__(masked)
        self.peer = peer

    def send(self, data: bytes) -> None:
        self.peer.send(data)

    def read(self, length: int) -> bytes:
        return self.peer.read_exactly(length) if length else b""

    def end(self) -> None:
        """Send no more, without a close frame."""
        self.peer.shutdown_write()

    def assert_ended(self) -> None:
        self.peer.assert_ended()


class StreamSide(Side):
    """A stream of HTTP/2."""

    def __init__(self, peer: Http2Client) -> None:
        super().__init__(masked=True)
        self.http2 = peer
        self.held = b""

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), 16_384):
            self.http2.send_piece(1, data[at : at + 16_384])

    def read(self, length: int) -> bytes:
        answer = self.http2.answer(1)
        self.http2.wait(lambda: len(self.held) + answer.length >= length, f"{length} bytes")
        self.held += answer.body
        answer.parts, answer.length = [], 0
        taken, self.held = self.held[:length], self.held[length:]
        return taken

    def end(self) -> None:
        """Send no more, without a close frame."""
        self.http2.send(frames.data(b"", 1))

    def assert_ended(self) -> None:
        self.http2.wait_for_end(1)
        assert self.http2.answer(1).over


Ends = tuple[Any, PlainSide]


def open_plain(lane: Lane, fields: bytes = b"", more: bytes = b"", answer: bytes = b"", path: bytes = b"/ws") -> Ends:
    client = lane.client()
    client.send(lane.get(path, ASKING + fields) + more)
    upstream = lane.accept()
    upstream.read_head()
    upstream.send(switched(KEY) + answer)
    assert client.read_response().status == 101
    return PlainSide(client, masked=True), PlainSide(upstream, masked=False)


def open_stream(lane: Lane, path: bytes = b"/ws", offer: bytes = b"", answer: bytes = b"") -> Ends:
    """`offer`: of extensions; `answer`: headers of the upstream's response."""
    client = Http2Client(lane.gateway.address("main"))
    lane._peers.append(client)
    client.begin()
    pseudo = [*frames.pseudo(b"CONNECT", path, lane.host), (b":protocol", b"websocket")]
    offers = [(b"sec-websocket-extensions", offer)] if offer else []
    client.send(frames.headers(frames.block(*pseudo, (b"sec-websocket-version", b"13"), *offers), 1, False))
    upstream = lane.accept()
    request = upstream.read_head()
    upstream.send(switched(request.get(b"sec-websocket-key") or b"", answer))
    client.wait(lambda: client.answer(1).heads, "an answer")
    assert client.answer(1).status == 200
    return StreamSide(client), PlainSide(upstream, masked=False)


VERSIONS = ["http1", "http2"]


@pytest.fixture(params=VERSIONS)
def ends(lane: Lane, request: pytest.FixtureRequest) -> Ends:
    return open_plain(lane) if request.param == "http1" else open_stream(lane)


# --- what passes ---


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("opcode", [1, 2])
def test_messages_of_any_length_pass_both_ways(ends: Ends, size: int, opcode: int) -> None:
    client, upstream = ends
    client.frame(opcode, b"a" * size)
    assert upstream.read_frame() == (0x80 | opcode, b"a" * size)
    upstream.frame(opcode, b"b" * size)
    assert client.read_frame() == (0x80 | opcode, b"b" * size)


def test_fragments_pass_with_control_frames_between(ends: Ends) -> None:
    client, upstream = ends
    for here, there in ((client, upstream), (upstream, client)):
        here.frame(1, "grü".encode()[:3], fin=False)
        here.frame(9, b"ping")
        here.frame(0, "grü".encode()[3:], fin=False)
        here.frame(10, b"pong")
        here.frame(0, b"", fin=True)
        assert [there.read_frame()[0] for _ in range(5)] == [0x01, 0x89, 0x00, 0x8A, 0x80]


def test_frames_may_come_byte_by_byte(ends: Ends) -> None:
    client, upstream = ends
    for byte in frame(1, "süß".encode()) + frame(9, b"x") + frame(2, b"z" * 200):
        client.send(bytes((byte,)))
    assert upstream.read_frame() == (0x81, "süß".encode())
    assert upstream.read_frame() == (0x89, b"x")
    assert upstream.read_frame() == (0x82, b"z" * 200)


def test_many_frames_in_one_piece_are_not_changed(ends: Ends) -> None:
    client, upstream = ends
    sent = b"".join(frame(1 + number % 2, b"%d" % number * number) for number in range(100))
    client.send(sent)
    assert upstream.read(len(sent)) == sent


def test_frames_beside_the_handshake_pass(lane: Lane) -> None:
    client, upstream = open_plain(lane, more=frame(1, b"early"), answer=frame(1, b"hello", masked=False))
    assert client.read_frame() == (0x81, b"hello")
    assert upstream.read_frame() == (0x81, b"early")


def test_a_violation_beside_the_handshake_is_met(lane: Lane) -> None:
    client, upstream = open_plain(lane, more=frame(3, b"early"))
    assert client.read_close() == 1002
    assert upstream.read_close() == 1002


@pytest.mark.parametrize("who", ["client", "upstream"])
@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
def test_close_handshakes_pass(ends: Ends, who: str, code: int) -> None:
    here, there = ends if who == "client" else ends[::-1]
    here.send(close(code, "grüße".encode(), here.masked))
    assert there.read_close() == code
    there.send(close(code, b"", there.masked))
    assert here.read_close() == code
    client, upstream = ends
    upstream.peer.close()
    client.assert_ended()


def test_what_is_behind_a_close_is_dropped(ends: Ends) -> None:
    client, upstream = ends
    client.send(close(1000) + frame(1, b"late"))
    assert upstream.read_close() == 1000
    upstream.frame(1, b"still here")
    assert client.read_frame() == (0x81, b"still here")
    upstream.send(close(1000, masked=False))
    assert client.read_close() == 1000
    upstream.peer.close()
    client.assert_ended()


def test_a_close_without_an_answer_ends_by_itself(ends: Ends) -> None:
    client, upstream = ends
    client.send(close(1000))
    assert upstream.read_close() == 1000
    client.assert_ended()


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_a_side_that_does_not_read_holds_the_other_back(lane: Lane, side: str) -> None:
    client, upstream = open_plain(lane)
    sender, receiver = (client, upstream) if side == "client" else (upstream, client)
    piece = frame(2, b"x" * 60_000, masked=sender.masked)
    sender.peer.sock.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 64 << 20:
            sent += sender.peer.sock.send(piece[sent % len(piece) :])
    assert sent < 64 << 20
    sender.peer.sock.settimeout(9)
    assert receiver.read(sent) == (piece * (sent // len(piece) + 1))[:sent]


# --- violations ---

BAD = {
    "reserved-1": frame(1, b"x", rsv=4),
    "reserved-2": frame(1, b"x", rsv=2),
    "reserved-3": frame(2, b"x", rsv=1),
    "reserved-of-a-ping": frame(9, b"x", rsv=4),
    **{f"opcode-{opcode}": frame(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "ping-of-126": frame(9, b"x" * 126),
    "ping-in-fragments": frame(9, b"x", fin=False),
    "close-in-fragments": frame(8, b"", fin=False),
    "continuation-alone": frame(0, b"x"),
    "message-within-a-message": frame(1, b"x", fin=False) + frame(1, b"y"),
    "length-125-in-2": frame(2, b"x" * 125, form=2),
    "length-125-in-8": frame(2, b"x" * 125, form=8),
    "length-65535-in-8": frame(2, b"x" * 65_535, form=8),
    "length-2-63": frame(2, b"", length=1 << 63, form=8),
    "close-of-1": frame(8, b"\x03"),
    **{f"close-code-{code}": close(code) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)},
}
TEXT = {
    "invalid": frame(1, b"\xff"),
    "overlong": frame(1, b"\xc0\xaf"),
    "surrogate": frame(1, b"\xed\xa0\x80"),
    "above-unicode": frame(1, b"\xf4\x90\x80\x80"),
    "cut-off": frame(1, b"gr\xc3"),
    "across-fragments": frame(1, b"\xc3", fin=False) + frame(0, b"x"),
    "cut-off-by-an-empty-fragment": frame(1, b"\xc3", fin=False) + frame(0, b""),
    "reason": close(1000, b"\xff"),
}


def assert_closes(ends: Ends, code: int, *, sent_before: int = 0) -> None:
    client, upstream = ends
    for _ in range(sent_before):
        upstream.read_frame()
    assert upstream.read_close() == code
    assert client.read_close() == code
    upstream.peer.close()
    client.end()
    client.assert_ended()


@pytest.mark.parametrize("name", BAD)
def test_a_violation_of_the_client_is_1002(ends: Ends, name: str) -> None:
    ends[0].send(BAD[name])
    assert_closes(ends, 1002, sent_before=int(name == "message-within-a-message"))


@pytest.mark.parametrize("name", TEXT)
def test_text_that_is_not_utf8_is_1007(ends: Ends, name: str) -> None:
    ends[0].send(TEXT[name])
    assert_closes(ends, 1007, sent_before=int("fragment" in name))


def test_frames_without_a_mask_are_1002(ends: Ends) -> None:
    ends[0].frame(1, b"x", masked=False)
    assert_closes(ends, 1002)


def test_frames_with_a_mask_from_the_upstream_are_1002(ends: Ends) -> None:
    ends[1].frame(1, b"x", masked=True)
    assert_closes(ends, 1002)


def test_what_was_sent_before_a_violation_passes(ends: Ends) -> None:
    client, _ = ends
    client.send(frame(1, b"one") + frame(2, b"two") + frame(3, b"three") + frame(1, b"four"))
    assert_closes(ends, 1002, sent_before=2)


def test_a_close_of_the_gateway_waits_for_the_end_of_a_frame(ends: Ends) -> None:
    """The client's close frame cannot stand within a frame that the upstream is still sending."""
    client, upstream = ends
    whole = frame(2, b"y" * 5000, masked=False)
    upstream.send(whole[:3000])
    assert client.read(3000) == whole[:3000]
    client.frame(3, b"x")
    assert upstream.read_close() == 1002
    upstream.send(whole[3000:] + frame(1, b"dropped", masked=False))
    assert client.read(len(whole) - 3000) == whole[3000:]
    assert client.read_close() == 1002


# --- limits ---


@of_kind("small")
@pytest.mark.parametrize("side", [0, 1])
def test_exactly_the_limit_passes_and_one_more_is_1009(ends: Ends, side: int) -> None:
    here, there = ends[side], ends[1 - side]
    here.frame(2, b"x" * 100)
    assert there.read_frame()[1] == b"x" * 100
    here.frame(2, b"x" * 60, fin=False)
    here.frame(0, b"x" * 40)
    assert [len(there.read_frame()[1]) for _ in range(2)] == [60, 40]
    here.send(frame(2, b"", length=101, masked=here.masked)[: 2 + 4 * here.masked])
    assert_closes(ends, 1009)


@of_kind("small")
@pytest.mark.parametrize("length", [126, 65_536, (1 << 63) - 1])
def test_a_declared_length_is_refused_at_once(ends: Ends, length: int) -> None:
    form = 2 if length < 65_536 else 8
    ends[0].send(frame(2, b"", length=length, form=form)[: 2 + form])
    assert_closes(ends, 1009)


@of_kind("small")
def test_fragments_count_together(lane: Lane, ends: Ends) -> None:
    ends[0].frame(1, b"x" * 99, fin=False)
    ends[0].frame(0, b"", fin=False)
    ends[0].frame(0, b"xx")
    assert_closes(ends, 1009, sent_before=2)


@of_kind("rate")
def test_more_messages_than_the_rate_are_1008(ends: Ends) -> None:
    client, _ = ends
    client.send(frame(1, b"x") * 3 + frame(9, b"") * 2 + frame(1, b"x") * 5)
    assert_closes(ends, 1008, sent_before=5)


@of_kind("shadow")
def test_messages_are_not_judged_in_shadow_and_the_log_says_so(lane: Lane) -> None:
    client, upstream = open_plain(lane, path=b"/shadowed")
    client.send(frame(1, b"long") * 3)
    assert [upstream.read_frame()[1] for _ in range(3)] == [b"long"] * 3
    client.peer.close()
    upstream.peer.close()
    record = lane.gateway.wait_for_record(path="/shadowed")
    assert record["shadow"] == "websocket: unknown: messages are not checked in shadow"


@of_kind("shadow")
def test_a_wrong_answer_would_be_refused_in_shadow(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.get(b"/accepted", ASKING))
    upstream = lane.accept()
    upstream.read_head()
    upstream.send(switched(b"another"))
    assert client.read_response().status == 101
    client.close()
    upstream.close()
    record = lane.gateway.wait_for_record(path="/accepted")
    assert record["shadow"].startswith("websocket: refuse 502 upgrade_failed")


@of_kind("idle", "tunnel_idle")
def test_idle_connections_are_1001(ends: Ends) -> None:
    assert_closes(ends, 1001)


@of_kind("tunnel_idle")
def test_the_timeout_of_the_upstream_is_a_close_of_the_gateway(lane: Lane) -> None:
    client, upstream = open_plain(lane, path=b"/silent")
    assert_closes((client, upstream), 1001)
    record = lane.gateway.wait_for_record(path="/silent")
    assert (record["fault"], record["fault_detail"]) == ("tunnel_idle", "the connection was idle")
    assert (record["websocket"]["closed_by"], record["websocket"]["close_code"]) == ("gateway", 1001)


@of_kind("idle")
def test_half_a_frame_is_idle(ends: Ends) -> None:
    ends[1].send(frame(1, b"abc", masked=False)[:1])
    assert_closes(ends, 1001)


@of_kind("total")
def test_the_duration_is_limited(ends: Ends) -> None:
    ends[0].frame(1, b"x")
    assert_closes(ends, 1001, sent_before=1)


@of_kind("ping")
def test_the_gateway_pings_and_takes_the_answer(ends: Ends) -> None:
    client, upstream = ends
    for _ in range(2):
        first, payload = client.read_frame()
        assert first == 0x89
        client.frame(10, payload)
    client.frame(10, b"unasked")
    assert upstream.read_frame() == (0x8A, b"unasked")


@of_kind("ping")
def test_a_client_that_does_not_answer_is_closed(ends: Ends) -> None:
    assert ends[0].read_frame()[0] == 0x89
    assert_closes(ends, 1001)


@of_kind("ping_often")
@pytest.mark.parametrize("who", ["client", "upstream"])
@pytest.mark.parametrize("version", VERSIONS)
def test_after_a_close_frame_no_ping_is_sent_or_missed(lane: Lane, who: str, version: str) -> None:
    """RFC 6455 section 5.5.2: a client need not answer one. The pings of another connection tell the time."""
    path = f"/closing-{who}-{version}".encode()
    client, upstream = open_plain(lane, path=path) if version == "http1" else open_stream(lane, path=path)
    first, second = (client, upstream) if who == "client" else (upstream, client)
    first.send(close(1000, b"", first.masked))
    assert second.read_close() == 1000
    other, _ = open_plain(lane)
    for _ in range(4):
        opcode, payload = other.read_frame()
        assert opcode == 0x89
        other.frame(10, payload)
    second.send(close(1000, b"", second.masked))
    assert first.read_close() == 1000
    upstream.peer.close()
    client.assert_ended()
    if version == "http1":
        client.peer.close()
    else:
        client.http2.send_data(1, b"", end=True)
    record = lane.gateway.wait_for_record(path=path.decode())
    assert (record["fault"], record["websocket"]["closed_by"]) == (None, who)


@of_kind("one")
def test_connections_of_a_consumer_are_counted(lane: Lane) -> None:
    client, upstream = open_plain(lane, path=b"/counted")
    with lane.gateway.connect("main") as other:
        other.send(lane.get(b"/ws", ASKING))
        assert other.read_response().status == 429
    client.peer.close()
    upstream.peer.assert_ended()
    upstream.peer.close()
    lane.gateway.wait_for_record(path="/counted")
    open_plain(lane)


# --- the handshake ---


@of_kind("origins")
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (b"https://app.example", 101),
        (b"https://APP.example", 101),
        (b"https://large.example", 101),
        (b"https://a.b.wild.example", 101),
        (b"https://wild.example", 403),
        (b"http://app.example", 403),
        (b"https://app.example.evil.test", 403),
        (b"https://app.example:444", 403),
        (b"null", 403),
        (b"", 403),
    ],
)
def test_origins(lane: Lane, origin: bytes, status: int) -> None:
    if status == 101:
        open_plain(lane, b"Origin: " + origin + b"\r\n")
        return
    assert lane.client().exchange(lane.get(b"/ws", ASKING + b"Origin: " + origin + b"\r\n")).status == status


@of_kind("origins")
def test_no_origin_passes(lane: Lane) -> None:
    open_plain(lane)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8"),
        (b"Sec-WebSocket-Version: 13", b"X: y"),
        (KEY, b"short"),
        (KEY, KEY + b"\r\nSec-WebSocket-Key: " + KEY),
        (b"Sec-WebSocket-Key: " + KEY, b"X: y"),
    ],
)
def test_a_wrong_handshake_is_400(lane: Lane, old: bytes, new: bytes) -> None:
    response = lane.client().exchange(lane.get(b"/ws", ASKING.replace(old, new)))
    assert response.status == 400
    assert b"Version" not in old or response.get(b"Sec-WebSocket-Version") == b"13"


@pytest.mark.parametrize(
    "answer",
    [
        switched(KEY).replace(accept_for(KEY), accept_for(b"another")),
        switched(KEY).replace(b"Sec-WebSocket-Accept", b"X-Accept"),
        switched(KEY, b"Sec-WebSocket-Extensions: permessage-deflate\r\n"),
    ],
)
def test_a_wrong_answer_is_502(lane: Lane, answer: bytes) -> None:
    client = lane.client()
    client.send(lane.get(b"/ws", ASKING + b"Sec-WebSocket-Extensions: permessage-deflate\r\n"))
    upstream = lane.accept()
    request = upstream.read_head()
    assert b"Sec-WebSocket-Extensions" not in request
    upstream.send(answer)
    assert client.read_response().status == 502
    upstream.assert_ended()


def test_other_requests_of_the_route_pass(lane: Lane) -> None:
    _, response = lane.forward(lane.get(b"/"))
    assert response.status == 200


# --- compressed ---


def deflated(text: bytes) -> bytes:
    made = zlib.compressobj(wbits=-15)
    return (made.compress(text) + made.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.fixture
def compressed(lane: Lane) -> Ends:
    client = lane.client()
    offer = b"Sec-WebSocket-Extensions: x-other, permessage-deflate; client_max_window_bits\r\n"
    client.send(lane.get(b"/ws", ASKING + offer))
    upstream = lane.accept()
    request = upstream.read_head()
    assert request.get(b"Sec-WebSocket-Extensions") == b"permessage-deflate; client_max_window_bits"
    upstream.send(switched(KEY, b"Sec-WebSocket-Extensions: " + DEFLATE + b"\r\n"))
    assert client.read_response().status == 101
    return PlainSide(client, masked=True), PlainSide(upstream, masked=False)


@of_kind("pass")
def test_compressed_messages_pass_up_to_the_limit(compressed: Ends) -> None:
    for here, there in (compressed, compressed[::-1]):
        for _ in range(2):
            here.frame(1, deflated(b"x" * 1000), rsv=4)
            assert there.read_frame() == (0xC1, deflated(b"x" * 1000))


@of_kind("pass")
@pytest.mark.parametrize(
    ("payload", "code"),
    [(deflated(b"x" * 1001), 1009), (deflated(b"x" * 9_000_000), 1009), (deflated(b"\xff"), 1007), (b"\xff\xff", 1007)],
)
def test_compressed_messages_are_inflated_to_be_checked(compressed: Ends, payload: bytes, code: int) -> None:
    compressed[0].frame(1, payload, rsv=4)
    assert_closes(compressed, code)


@of_kind("pass")
@pytest.mark.parametrize("side", ["client", "upstream"])
@pytest.mark.parametrize("broken", ["too big", "no text"])
def test_what_follows_a_violation_completes_no_frame(compressed: Ends, side: str, broken: str) -> None:
    """The frame has begun, so no close frame follows it. What was refused could be sent again as its rest."""
    here, there = compressed if side == "client" else compressed[::-1]
    payload = deflated(b"x" * 100_000) if broken == "too big" else deflated(Random(1).randbytes(60) + b"\xff")
    sent = frame(1, payload, rsv=4, masked=here.masked)
    begun = len(sent) - len(payload) + 4
    here.send(sent[:begun])
    assert there.read(begun) == sent[:begun]
    here.send(sent[begun:])
    assert here.read_close() == (1009 if broken == "too big" else 1007)
    here.send(sent[begun:])
    there.assert_ended()


@of_kind("patient")
def test_an_upstream_sees_the_end_of_a_frame_that_a_violation_has_broken(ends: Ends) -> None:
    client, upstream = ends
    sent = frame(1, b"half" + b"\xff")
    client.send(sent[:-1])
    assert upstream.read(len(sent) - 1) == sent[:-1]
    client.send(sent[-1:])
    assert client.read_close() == 1007
    upstream.peer.assert_ended()


@of_kind("patient")
def test_a_client_sees_the_end_of_a_frame_that_a_violation_has_broken(ends: Ends) -> None:
    client, upstream = ends
    sent = frame(1, b"half" + b"\xff", masked=False)
    upstream.send(sent[:-1])
    assert client.read(len(sent) - 1) == sent[:-1]
    upstream.send(sent[-1:])
    assert upstream.read_close() == 1007
    client.assert_ended()


@of_kind("idle_patient")
def test_a_client_sees_the_end_of_a_frame_that_the_upstream_never_completes(ends: Ends) -> None:
    """The upstream has had the gateway's close frame. No other one can follow."""
    client, upstream = ends
    sent = frame(1, b"half", masked=False)
    upstream.send(sent[:-1])
    assert client.read(len(sent) - 1) == sent[:-1]
    assert upstream.read_close() == 1001
    upstream.peer.close()
    client.assert_ended()


@of_kind("idle_patient")
@pytest.mark.parametrize("side", ["client", "upstream"])
def test_an_answer_in_one_piece_with_the_rest_of_a_frame_is_read(ends: Ends, side: str) -> None:
    here, there = ends if side == "client" else ends[::-1]
    sent = frame(1, b"half", masked=here.masked)
    here.send(sent[:-1])
    assert there.read(len(sent) - 1) == sent[:-1]
    assert here.read_close() == 1001
    here.send(sent[-1:] + close(1001, masked=here.masked))
    assert there.read(1) == sent[-1:]
    assert there.read_close() == 1001
    there.send(close(1001, masked=there.masked))
    ends[0].assert_ended()
    ends[1].assert_ended()


@of_kind("short")
@pytest.mark.parametrize("side", ["client", "upstream"])
def test_the_rest_of_a_frame_is_checked_after_the_gateway_has_closed(compressed: Ends, side: str) -> None:
    here, there = compressed if side == "client" else compressed[::-1]
    sent = frame(1, deflated(b"x" * 100_000), rsv=4, masked=here.masked)
    here.send(sent[:10])
    assert there.read(10) == sent[:10]
    assert here.read_close() == 1001
    here.send(sent[10:])
    there.assert_ended()


LARGE = deflated(bytes(9_000_000))
MANY = [deflated(b"%d" % number + bytes(200_000)) for number in range(40)]
DEFLATE = b"permessage-deflate; client_no_context_takeover; server_no_context_takeover"


@of_kind("large")
def test_large_compressed_messages_pass_in_order_to_the_end_of_their_side(compressed: Ends) -> None:
    """They are inflated a little at a time; what came meanwhile, and the end, follow them."""
    for here, there in (compressed, compressed[::-1]):
        here.send(
            frame(2, LARGE, rsv=4, masked=here.masked)
            + b"".join(frame(1, payload, rsv=4, masked=here.masked) for payload in MANY)
            + frame(9, b"behind", masked=here.masked)
        )
        here.frame(2, b"later")
        assert there.read_frame() == (0xC2, LARGE)
        assert [there.read_frame() for _ in MANY] == [(0xC1, payload) for payload in MANY]
        assert there.read_frame() == (0x89, b"behind")
        assert there.read_frame() == (0x82, b"later")
    client, upstream = compressed
    client.send(frame(2, LARGE, rsv=4) + close(1000))
    client.peer.sock.shutdown(socket.SHUT_WR)
    assert upstream.read_frame() == (0xC2, LARGE)
    assert upstream.read_close() == 1000
    upstream.assert_ended()


@of_kind("large")
def test_no_part_of_a_large_compressed_message_passes_before_it_is_checked(compressed: Ends) -> None:
    compressed[0].frame(1, deflated(b"x" * 9_000_000 + b"\xff"), rsv=4)
    assert_closes(compressed, 1007)


@of_kind("large")
def test_large_compressed_messages_pass_over_http2(lane: Lane) -> None:
    """Other pieces of the stream are in the same read, so they come while the first one is inflated."""
    client, upstream = open_stream(lane, offer=DEFLATE, answer=b"Sec-WebSocket-Extensions: " + DEFLATE + b"\r\n")
    for here, there in ((client, upstream), (upstream, client)):
        for payload in (LARGE, *MANY):
            here.send(frame(2, payload, rsv=4, masked=here.masked))
        assert [there.read_frame() for _ in (LARGE, *MANY)] == [(0xC2, payload) for payload in (LARGE, *MANY)]


@of_kind("large")
@pytest.mark.parametrize("side", ["client", "upstream"])
def test_a_side_that_does_not_read_holds_back_compressed_messages(compressed: Ends, side: str) -> None:
    sender, receiver = compressed if side == "client" else compressed[::-1]
    payload = deflated(Random(1).randbytes(8000) + bytes(100_000))
    piece = frame(2, payload, rsv=4, masked=sender.masked)
    sender.peer.sock.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 64 << 20:
            sent += sender.peer.sock.send(piece[sent % len(piece) :])
    assert sent < 64 << 20
    sender.peer.sock.settimeout(9)
    assert receiver.read_frame() == (0xC2, payload)


@of_kind("large")
def test_an_end_of_the_upstream_follows_its_large_messages(compressed: Ends) -> None:
    client, upstream = compressed
    upstream.frame(2, LARGE, rsv=4)
    upstream.peer.close()
    assert client.read_frame() == (0xC2, LARGE)
    assert client.read_close() == 1011


# --- ends ---


def test_an_upstream_that_is_lost_is_1011(ends: Ends) -> None:
    ends[1].peer.close()
    assert ends[0].read_close() == 1011


def test_an_upstream_that_resets_is_1011(ends: Ends) -> None:
    client, upstream = ends
    upstream.frame(1, b"last words")
    assert client.read_frame() == (0x81, b"last words")
    upstream.peer.reset()
    assert client.read_close() == 1011
    client.assert_ended()


@of_kind("half_closed")
def test_a_client_that_has_ended_its_side_does_not_hold_the_tunnel(lane: Lane) -> None:
    """No close frame can follow its end to the upstream, which stays silent. The client gets one."""
    client, upstream = open_plain(lane, path=b"/half-closed")
    client.peer.sock.shutdown(socket.SHUT_WR)
    upstream.peer.assert_ended()
    assert client.read_close() == 1001
    client.assert_ended()
    record = lane.gateway.wait_for_record(path="/half-closed")
    assert (record["fault"], record["websocket"]["close_code"]) == ("tunnel_idle", 1001)


def test_a_close_of_the_upstream_reaches_the_client_before_its_reset(ends: Ends) -> None:
    client, upstream = ends
    upstream.send(close(3001, masked=False))
    upstream.peer.reset()
    assert client.read_close() == 3001
    client.assert_ended()


def test_a_close_of_the_gateway_reaches_the_client_before_a_reset_of_the_upstream(ends: Ends) -> None:
    client, upstream = ends
    upstream.frame(3, b"x")
    upstream.peer.reset()
    assert client.read_close() == 1002
    client.assert_ended()


def test_a_reset_within_a_frame_is_no_close(ends: Ends) -> None:
    """A close frame cannot stand within another frame: the client sees that the connection is broken."""
    client, upstream = ends
    upstream.send(frame(1, b"half", masked=False)[:4])
    assert client.read(4) == frame(1, b"half", masked=False)[:4]
    upstream.peer.reset()
    client.assert_ended()


def test_the_log_of_an_upstream_that_ends_within_a_frame_has_no_close_frame(lane: Lane) -> None:
    client, upstream = open_plain(lane, path=b"/within")
    upstream.send(frame(1, b"half", masked=False)[:4])
    assert client.read(4) == frame(1, b"half", masked=False)[:4]
    upstream.peer.close()
    client.assert_ended()
    client.peer.close()
    said = lane.gateway.wait_for_record(path="/within")["websocket"]
    assert (said["closed_by"], said["close_code"]) == ("upstream", 1006)


@of_kind("cut")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sides", ["both", "client", "upstream"])
def test_the_log_of_a_close_has_its_code_if_a_frame_could_carry_it(lane: Lane, sides: str, version: str) -> None:
    """The gateway closes while frames are incomplete: a side within one gets no close frame."""
    path = f"/cut-{sides}-{version}".encode()
    client, upstream = open_plain(lane, path=path) if version == "http1" else open_stream(lane, path)
    if sides != "upstream":
        client.send(frame(1, b"half")[:8])
        assert upstream.read(8) == frame(1, b"half")[:8]
    if sides != "client":
        upstream.send(frame(1, b"half", masked=False)[:4])
        assert client.read(4) == frame(1, b"half", masked=False)[:4]
    if sides == "client":
        assert client.read_close() == 1001
    if sides == "upstream":
        assert upstream.read_close() == 1001
    upstream.assert_ended()
    record = lane.gateway.wait_for_record(path=path.decode())
    said = record["websocket"]
    assert (said["closed_by"], said["close_code"]) == ("gateway", 1006 if sides == "both" else 1001)
    assert record["fault"] == "tunnel_idle"


def test_the_log_does_not_count_messages_that_were_refused(lane: Lane) -> None:
    client, upstream = open_plain(lane, path=b"/refused")
    upstream.frame(1, b"good")
    assert client.read_frame() == (0x81, b"good")
    upstream.frame(1, b"\xff")
    assert client.read_close() == 1007
    client.send(close(1007))
    client.assert_ended()
    said = lane.gateway.wait_for_record(path="/refused")["websocket"]
    assert (said["upstream_messages"], said["closed_by"], said["close_code"]) == (1, "gateway", 1007)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_log_says_what_ended_a_half_closed_client_of_a_reset_upstream(lane: Lane, version: str) -> None:
    client, upstream = (
        open_plain(lane, path=b"/both-ended") if version == "http1" else open_stream(lane, b"/both-ended")
    )
    if isinstance(client, PlainSide):
        client.peer.sock.shutdown(socket.SHUT_WR)
    else:
        client.http2.send(frames.data(b"", 1, True))
    upstream.peer.assert_ended()
    upstream.peer.reset()
    assert client.read_close() == 1011
    client.assert_ended()
    record = lane.gateway.wait_for_record(path="/both-ended")
    assert (record["status"], record["fault"]) == (101, "connection_lost")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_ends_the_upstream(lane: Lane, how: str) -> None:
    client, upstream = open_plain(lane)
    getattr(client.peer, how)()
    upstream.peer.assert_ended()


def test_a_half_closed_client_gets_the_rest(lane: Lane) -> None:
    client, upstream = open_plain(lane)
    client.peer.sock.shutdown(socket.SHUT_WR)
    upstream.peer.assert_ended()
    upstream.frame(1, b"last words")
    assert client.read_frame() == (0x81, b"last words")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_ends_without_a_close_is_told_of_no_loss(lane: Lane, version: str) -> None:
    """The upstream ends because the client has: no code blames the upstream, and both see that no close was sent."""
    client, upstream = open_plain(lane, path=b"/left") if version == "http1" else open_stream(lane, b"/left")
    if isinstance(client, PlainSide):
        client.peer.sock.shutdown(socket.SHUT_WR)
    else:
        client.http2.send(frames.data(b"", 1, True))
    upstream.peer.assert_ended()
    upstream.peer.close()
    client.assert_ended()
    if not isinstance(client, PlainSide):
        assert client.http2.answer(1).body == b""
    record = lane.gateway.wait_for_record(path="/left")
    told = record["websocket"]
    assert (record["fault"], told["closed_by"], told["close_code"]) == (None, "client", 1006)


def test_the_log_counts_messages_and_says_who_closed(lane: Lane) -> None:
    client, upstream = open_plain(lane, path=b"/logged")
    client.frame(1, b"one")
    client.frame(1, b"two", fin=False)
    client.frame(0, b"three")
    for _ in range(3):
        upstream.read_frame()
    upstream.frame(2, b"x")
    client.read_frame()
    client.send(close(3001))
    assert upstream.read_close() == 3001
    upstream.send(close(3001, masked=False))
    upstream.peer.close()
    client.read_close()
    client.peer.close()
    record = lane.gateway.wait_for_record(path="/logged")
    assert record["websocket"] == {
        "client_messages": 2,
        "upstream_messages": 1,
        "close_code": 3001,
        "closed_by": "client",
    }
    assert (record["status"], record["fault"]) == (101, None)


def of_messages(lane: Lane) -> list[tuple[object, ...]]:
    """Sender, kind and bytes of each line of a message, and the bytes of the line itself."""
    told = [record for record in lane.gateway.records if record["route"] == lane.name]
    return [
        (*(record["websocket"][name] for name in ("sender", "kind", "bytes")), *map(record.get, BYTES))
        for record in told
        if "sender" in record["websocket"]
    ]


def wait_for_line(lane: Lane, path: str) -> Any:
    """The line of the connection: of those with this path, the one with a close code."""
    told = b'"path":"%b"' % path.encode()
    return json.loads(lane.gateway.stdout.wait_for(lambda line: told in line and b'"close_code"' in line))


BYTES = ("request_bytes", "response_bytes")


@of_kind("told")
def test_a_line_for_each_message(lane: Lane) -> None:
    """Control frames too. Over several frames a message has one line, with the bytes of all of them."""
    client, upstream = open_plain(lane, path=b"/told?token=secret", answer=frame(1, b"early", masked=False))
    assert client.read_frame() == (0x81, b"early")
    client.frame(1, b"one")
    client.frame(2, b"two", fin=False)
    client.frame(9, b"ping")
    client.frame(0, b"three")
    client.frame(1, b"")
    for _ in range(5):
        upstream.read_frame()
    upstream.frame(2, b"x" * 70_000)
    client.read_frame()
    client.send(close(3001))
    assert upstream.read_close() == 3001
    upstream.send(close(3001, masked=False))
    upstream.peer.close()
    client.read_close()
    client.peer.close()
    record = lane.gateway.wait_for_record(path="/told", request_bytes=3)
    assert (record["status"], record["method"], record["query"], record["fault"]) == (101, "GET", "token=***", None)
    whole = wait_for_line(lane, "/told")
    assert (whole["websocket"]["client_messages"], whole["websocket"]["unlogged"]) == (3, 0)
    assert of_messages(lane) == [
        ("upstream", "text", 5, 0, 5),
        ("client", "text", 3, 3, 0),
        ("client", "ping", 4, 4, 0),
        ("client", "binary", 8, 8, 0),
        ("client", "text", 0, 0, 0),
        ("upstream", "binary", 70_000, 0, 70_000),
        ("client", "close", 2, 2, 0),
        ("upstream", "close", 2, 0, 2),
    ]


@of_kind("few")
def test_lines_of_messages_are_bounded(lane: Lane) -> None:
    """`log_messages`: the others are counted in the line of the connection, and pass like these."""
    client, upstream = open_plain(lane, path=b"/few")
    for _ in range(5):
        client.frame(1, b"x")
        assert upstream.read_frame() == (0x81, b"x")
    client.peer.close()
    upstream.peer.close()
    whole = wait_for_line(lane, "/few")
    assert (whole["websocket"]["client_messages"], whole["websocket"]["unlogged"]) == (5, 4)
    assert of_messages(lane) == [("client", "text", 1, 1, 0)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_drain_begins_with_1001(tmp_path: Path, version: str) -> None:
    listeners = {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}}
    lanes = Lanes(tmp_path, {"plain": kind()}, count=1, settings={"listeners": listeners})
    for _ in running(lanes):
        lane = lanes.take()
        client, upstream = open_plain(lane) if version == "http1" else open_stream(lane)
        lane.gateway.signal(signal.SIGTERM)
        assert client.read_close() == 1001
        assert upstream.read_close() == 1001
        client.send(close(1001))
        upstream.send(close(1001, masked=False))
        client.assert_ended()
        upstream.assert_ended()
        if version == "http2":
            client.end()  # else the gateway waits 5 s for it
        assert lane.gateway.wait() == 0
        lane.end()


# --- authentication again ---

ALLOWED = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BEARER = b"Authorization: Bearer of-ann\r\n"
AGAIN = {"reauthenticate": "100ms"}
COOKIES = b"Cookie: a=1; key=key-of-ann\r\n"
FILTERS = """
from fastgw.filters.api import Env, Exchange, Fault, Filter, Hooks, Outcome, Phase


class FromProtocol(Filter, name="from_protocol", phase=Phase.INSPECT):
    \"""Take the token of a browser, which can set no other header.\"""

    def build(self, env: Env) -> Hooks:
        def request(exchange: Exchange) -> Outcome:
            token = exchange.field(b"sec-websocket-protocol")
            exchange.headers.remove(b"sec-websocket-protocol")
            exchange.headers.add(b"Authorization", b"Bearer " + token)
            exchange.request_added += b"X-From: protocol\\r\\n"
            return None

        return Hooks(request=request)


class Fails(Filter, name="fails", phase=Phase.AUTHORIZE):
    \"""Fail from the second time on.\"""

    def build(self, env: Env) -> Hooks:
        times = iter(range(1))

        def request(exchange: Exchange) -> Outcome:
            next(times)
            return None

        return Hooks(request=request)
"""


def environment(folder: Path) -> dict[str, str]:
    install(folder, "again", {"again.py": FILTERS}, {"from_protocol": "again:FromProtocol", "fails": "again:Fails"})
    return {"PYTHONPATH": f"{folder}:{Path(fastgw.__file__).parents[1]}"}


class Again:
    """A gateway whose routes authenticate the clients of WebSockets again, by a service with a path for each route."""

    def __init__(self, tmp_path: Path, routes: dict[str, dict[str, Any]], timeout: str = "30s") -> None:
        """`routes`: their settings, by name."""
        self.origin, self.service = Origin(), Origin().serve()
        config: dict[str, Any] = {
            "version": 1,
            "extensions": ["again"],
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "timeouts": {"filters": timeout},
            "consumers": [{"name": "ann", "key_auth": [{"key": "key-of-ann"}]}],
            "filter_sets": {
                name: {name: self._asking(name)} for each in routes.values() for name in each.get("shares", ())
            },
            "routes": [self._route(name, **settings) for name, settings in routes.items()],
        }
        self.gateway = Gateway(config, tmp_path, environment=environment(tmp_path))
        self._config, self._folder = config, tmp_path

    def reload(self, routes: dict[str, dict[str, Any]]) -> None:
        """Load these routes instead, with the filter sets that there are."""
        config = {**self._config, "routes": [self._route(name, **settings) for name, settings in routes.items()]}
        write_config(config, self._folder)
        self.gateway.signal(signal.SIGHUP)
        self.gateway.stderr.wait_for(lambda line: line.startswith(b"reloaded"))

    def _asking(self, name: str) -> dict[str, Any]:
        return {"type": "forward_auth", "url": f"{self.service.url}/{name}"}

    def _route(
        self, name: str, filters: dict[str, Any], shares: dict[str, int] | None = None, **settings: Any
    ) -> dict[str, Any]:
        """`shares`: of variants, by the name of the filter set that each has."""
        filters = {**filters, "service": self._asking(name), "websocket": AGAIN}
        route = {"name": name, "paths": [f"/{name}"], "filters": filters, **settings}
        if shares is None:
            return {**route, "upstream": self.origin.url}
        variants = [{"upstream": self.origin.url, "weight": share, "use": [each]} for each, share in shares.items()]
        return {**route, "variants": variants}

    @contextlib.contextmanager
    def opened(self, name: str, fields: bytes) -> Iterator[Ends]:
        with self.gateway.connect() as client:
            client.send(b"GET /%b?z=1 HTTP/1.1\r\nHost: a.test\r\n%b%b\r\n" % (name.encode(), fields, ASKING))
            upstream = self.origin.accept_next()
            upstream.read_head()
            upstream.send(switched(KEY))
            assert client.read_response().status == 101
            yield PlainSide(client, masked=True), PlainSide(upstream, masked=False)

    def answer(self, name: str, *steps: Step, times: int | None = None) -> None:
        self.service.answer(*steps, path=f"/{name}".encode(), times=times)

    def asked(self, name: str) -> list[Request]:
        return [each for each in self.service.requests if each.request_target == f"/{name}".encode()]

    def ended(self, name: str) -> Any:
        """The fault of the connection and its details, as logged."""
        of_route = b'"route":"%b"' % name.encode()
        record = json.loads(self.gateway.stdout.wait_for(lambda line: of_route in line and b'"close_code"' in line))
        return record["fault"], record["fault_detail"]

    def close(self) -> None:
        self.gateway.stop()
        self.origin.stop()
        self.service.stop()


CHANGES: dict[str, tuple[dict[str, Any], bytes]] = {
    "credentials": ({"credentials": {"basic": {"username": "gw", "password": "of-upstream"}}}, BEARER),
    "parameters": (
        {"request_parameters": {"headers": {"X-Secret": "of-upstream"}, "query": {"key": "of-upstream"}}},
        BEARER,
    ),
    "removed-header": ({"headers": {"request": {"remove": ["Authorization"]}}}, BEARER),
    "header-set": ({"headers": {"request": {"set": {"Authorization": "of-upstream"}}}}, BEARER),
    "hidden-cookie": ({"key_auth": {"key_in": ["cookie"], "key_names": ["key"], "hide_credentials": True}}, COOKIES),
    "header-set-as-key": (
        {
            "key_auth": {"hide_credentials": True},
            "headers": {"request": {"set": {"X-Api-Key": "of-upstream"}}},
        },
        b"X-Api-Key: key-of-ann\r\n",
    ),
    "several-methods": (
        {
            "auth": {
                "any_of": [
                    {"basic_auth": {}},
                    {"key_auth": {"key_in": ["header", "cookie"], "key_names": ["key"], "hide_credentials": True}},
                ]
            },
            "credentials": {"basic": {"username": "gw", "password": "of-upstream"}},
        },
        COOKIES,
    ),
    "filter-before": (
        {"from_protocol": {}, "credentials": {"basic": {"username": "gw", "password": "of-upstream"}}},
        b"Sec-WebSocket-Protocol: of-ann\r\n",
    ),
}


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Again]:
    routes: dict[str, dict[str, Any]] = {name: {"filters": filters} for name, (filters, _) in CHANGES.items()}
    routes["by-header"] = {"filters": {"headers": {"request": {"set": {"X-A": "b"}}}}, "headers": {"X-A": "a"}}
    for name in ("refused", "failed", "closed"):
        routes[name] = {"filters": {}}
    routes["raises"] = {"filters": {"fails": {}}}
    made = Again(tmp_path_factory.mktemp("again"), routes)
    yield made
    made.close()


@pytest.mark.parametrize("name", [*CHANGES, "by-header"])
def test_each_authentication_is_for_the_request_as_it_was_the_first_time(again: Again, name: str) -> None:
    """The authorization service gets the same bytes each time, and nothing of what is for the upstream only."""
    fields = BEARER + b"X-A: a\r\n" if name == "by-header" else CHANGES[name][1]
    third = threading.Event()
    again.answer(name, ALLOWED, times=2)
    again.answer(name, lambda connection: third.set(), ALLOWED)
    with again.opened(name, fields) as (client, upstream):
        assert third.wait(DEADLINE)
        client.frame(1, b"x")
        assert upstream.read_frame() == (0x81, b"x")
        upstream.frame(1, b"y")
        assert client.read_frame() == (0x81, b"y")
    first, *others = again.asked(name)
    assert b"of-upstream" not in first.head.raw
    assert {other.head.raw for other in others} == {first.head.raw}


def test_each_authentication_is_by_the_variant_that_has_admitted_the_connection(tmp_path: Path) -> None:
    """Also after a reload by which all new connections go to another one."""
    again = Again(tmp_path, {"varied": {"filters": {}, "shares": {"unused": 0, "used": 1}}})
    for name in ("varied", "unused", "used"):
        again.answer(name, ALLOWED)
    with again.opened("varied", BEARER):
        wait_until(lambda: len(again.asked("used")) >= 3, "two more authentications")
        again.reload({"varied": {"filters": {}, "shares": {"unused": 1, "used": 0}}})
        before = len(again.asked("used"))
        wait_until(lambda: len(again.asked("used")) >= before + 3, "authentications after the reload")
        assert again.asked("unused") == []
        with again.opened("varied", BEARER):
            assert again.asked("unused") != [], "a new connection"
    again.close()


def test_a_client_that_the_service_refuses_is_1008(again: Again) -> None:
    again.answer("refused", ALLOWED, times=1)
    again.answer("refused", b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    with again.opened("refused", BEARER) as ends:
        assert_closes(ends, 1008)
    assert again.ended("refused") == ("forbidden", "the authorization service answered 403")


@pytest.mark.parametrize(
    ("name", "answer", "detail"),
    [
        ("failed", b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "the authorization service answered 500"),
        ("closed", close_connection, ": connection_lost"),
    ],
    ids=["500", "closed"],
)
def test_a_client_whose_service_has_failed_is_1013(again: Again, name: str, answer: Step, detail: str) -> None:
    """It is not refused, so it may try again later; and its connection does not go on unauthenticated."""
    again.answer(name, ALLOWED, times=1)
    again.answer(name, answer)
    with again.opened(name, BEARER) as ends:
        assert_closes(ends, 1013)
    fault, why = again.ended(name)
    assert fault == "auth_unavailable"
    assert why.endswith(detail)


def test_a_filter_that_raises_at_the_next_authentication_is_1011(again: Again) -> None:
    again.answer("raises", ALLOWED)
    with again.opened("raises", BEARER) as ends:
        assert_closes(ends, 1011)
    why = "filter fails: its request step raised"
    assert again.ended("raises") == ("internal", why)
    again.gateway.stderr.wait_for(lambda line: why.encode() in line)


def test_a_client_whose_service_does_not_answer_is_1013(tmp_path: Path) -> None:
    again, over = Again(tmp_path, {"late": {"filters": {}}}, timeout="2s"), threading.Event()
    again.answer("late", ALLOWED, times=1)
    again.answer("late", over)
    with again.opened("late", BEARER) as ends:
        assert_closes(ends, 1013)
    assert again.ended("late") == ("filter_timeout", "filter service timed out")
    over.set()
    again.close()


def test_a_key_that_is_gone_is_1008_at_the_next_authentication(tmp_path: Path) -> None:
    with Origin() as origin:
        filters = {"key_auth": {}, "websocket": AGAIN}
        config: dict[str, Any] = {
            "version": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "consumers": [{"name": "ann", "key_auth": [{"key": "key-of-ann"}]}],
            "routes": [{"name": "all", "upstream": origin.url, "filters": filters}],
        }
        with Gateway(config, tmp_path) as gateway, gateway.connect() as client:
            key = b"X-Api-Key: key-of-ann\r\n"
            client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n" + key + ASKING + b"\r\n")
            upstream = origin.accept()
            upstream.read_head()
            upstream.send(switched(KEY))
            assert client.read_response().status == 101
            ends = PlainSide(client, masked=True), PlainSide(upstream, masked=False)
            ends[0].frame(1, b"x")
            assert ends[1].read_frame() == (0x81, b"x")
            write_config({**config, "consumers": [{"name": "bob", "key_auth": [{"key": "key-of-bob"}]}]}, tmp_path)
            gateway.signal(signal.SIGHUP)
            assert_closes(ends, 1008)
