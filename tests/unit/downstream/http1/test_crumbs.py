"""Bodies in tiny chunks: what a turn of the loop does for them is bounded, whoever sends how many, and none is lost."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import inf

import pytest

from fastgw.eventloop.body_reads import (
    BODY_BYTES_PER_TURN,
    FRAMING_COST,
    MEDIUM_READ_BYTES,
    READERS_PER_TURN,
    SMALL_READ_BYTES,
)
from fastgw.http.http1.body import body_reader
from fastgw.http.http1.parser import parse_request
from tests.support import memory
from tests.support.memory import Wire
from tests.support.table import for_each

HOST = b"Host: a.test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED_OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
SHARE = BODY_BYTES_PER_TURN // (5 * FRAMING_COST + 1) + SMALL_READ_BYTES // 6 + 1
"""Chunks of one byte of which one connection reads at most in a turn: its last read goes beyond what it may cost."""
FIRST = MEDIUM_READ_BYTES // 6 + 1
"""Of the first read nobody knows beforehand how small its chunks are."""


class Plane(memory.Plane):
    """One that does nothing in later turns of the loop by itself: a test plays one after the other."""

    def settle(self) -> None:
        pass

    def turns(self) -> Iterator[None]:
        """Turn by turn, until nothing is left to do: what was put off to it, and what is read then."""
        while self.soon:
            due = self.soon[:]
            del self.soon[:]
            for call in due:
                call()
            while reading := [call for call in self.soon if getattr(call, "__name__", "") == "_deliver"]:
                self.soon.remove(reading[0])
                reading[0]()
            yield

    def play(self) -> int:
        return sum(1 for _ in self.turns())


def crumbs(count: int) -> tuple[bytes, bytes]:
    """So many chunks of one byte, and what is in them."""
    payload = bytes(97 + at * at % 26 for at in range(count))
    return b"".join(b"1\r\n%c\r\n" % byte for byte in payload), payload


def payload_of(sent: bytes, method: bytes = b"") -> bytes:
    """Of the last message, in chunks, as far as it has come."""
    payload, rest = b"", (method + sent.rpartition(method)[2] if method else sent).partition(b"\r\n\r\n")[2]
    while rest and rest != LAST:
        size, _, rest = rest.partition(b"\r\n")
        end = int(size, 16)
        assert rest[end : end + 2] == b"\r\n"[: max(0, len(rest) - end)]
        payload, rest = payload + rest[:end], rest[end + 2 :]
    return payload


def uploading(plane: Plane, count: int = 1) -> list[tuple[Wire, Wire]]:
    """So many clients that have sent the head of a request, and the targets that have got it."""
    pairs = []
    for _ in range(count):
        client = plane.client()
        client.sends(POST)
        pairs.append((client, plane.connects()))
        plane.play()
    return pairs


@pytest.mark.parametrize("count", [1, 5, 40])
def test_what_a_turn_does_for_uploads_in_crumbs_does_not_grow_with_their_number(count: int) -> None:
    plane = Plane()
    pairs = uploading(plane, count)
    sent, payload = crumbs(5_000)
    for client, upstream in pairs:
        client.sends(sent + LAST)
        assert len(payload_of(upstream.received)) <= FIRST
    taken = [len(payload_of(upstream.received)) for _, upstream in pairs]
    for _ in plane.turns():
        now = [len(payload_of(upstream.received)) for _, upstream in pairs]
        assert sum(now) - sum(taken) <= READERS_PER_TURN * SHARE
        assert max(now) - min(now) <= FIRST + 2 * SHARE, "one was preferred"
        taken = now
    for client, upstream in pairs:
        assert payload_of(upstream.received) == payload
        assert upstream.received.endswith(LAST)
        upstream.sends(OK)
        assert client.received == b"HTTP/1.1 200 OK\r\n" + client.received[17:]
        assert client.reading
    plane.assert_quiet()


def test_another_client_is_served_between_two_shares() -> None:
    plane = Plane()
    pairs = uploading(plane, 10)
    sent, payload = crumbs(3_000)
    for client, _ in pairs:
        client.sends(sent)
    other = plane.client()
    other.sends(GET)
    plane.connects().sends(OK)
    assert other.received.endswith(b"\r\n\r\nok")
    assert not any(payload_of(upstream.received) == payload for _, upstream in pairs)
    plane.play()
    assert all(payload_of(upstream.received) == payload for _, upstream in pairs)


@for_each("count", [10, 1_200, 4_000, 9_000])
@for_each("behind", [0, 3, 3_000])
@for_each("target", ["at hand", "slow", "late"])
def test_crumbs_that_were_sent_ahead_are_read_in_shares(count: int, behind: int, target: str) -> None:
    """They were read with what stands before them, while another request was under way."""
    plane = Plane()
    client = plane.client()
    sent, payload = crumbs(count)
    client.sends(GET)
    upstream = plane.connects()
    client.sends(POST + sent + LAST + GET * behind)
    if target == "late":
        plane.pool.try_lend = lambda *limits: None  # type: ignore[method-assign]
    upstream.sends(OK)  # from here on the body is read
    if target == "slow":
        upstream.takes(room=300)
    taken, most, late = 0, 0, target == "late"
    for _ in plane.turns():
        body = client.protocol.exchange.request_body
        most = max(most, body.bytes - taken)
        taken = body.bytes
        if late:
            upstream, late = plane.connects(), False
        if target == "slow":
            upstream.takes(room=300)
    assert most <= FIRST
    if late:
        upstream = plane.connects()
    upstream.takes()
    plane.play()
    assert payload_of(upstream.received, b"POST ") == payload
    assert upstream.received.endswith(LAST)
    for _ in range(1 + behind):
        upstream.sends(OK)
        plane.play()
        if plane.pool.waiting:
            upstream = plane.connects()
    assert client.received.count(b"HTTP/1.1 200 OK\r\n") == 2 + behind
    assert client.reading
    plane.assert_quiet()


def test_local_answers_to_requests_in_crumbs_share_the_loop() -> None:
    """Each body is below the share of a turn, all of them together are not."""
    plane = Plane({"routes": [{"name": "here", "respond": {"body": "here"}}]})
    client = plane.client()
    sent, _ = crumbs(300)
    client.sends(b"".join([POST + sent + LAST] * 12))
    answered = [client.received.count(b"HTTP/1.1 200 OK\r\n")]
    answered.extend(client.received.count(b"HTTP/1.1 200 OK\r\n") for _ in plane.turns())
    assert answered[-1] == 12
    assert max(after - before for before, after in pairwise([0, *answered])) <= 3
    plane.assert_quiet()


@pytest.mark.parametrize("room", [inf, 5_000])
def test_responses_in_crumbs_are_read_in_shares(room: float) -> None:
    plane = Plane()
    sent, payload = crumbs(5_000)
    pairs = []
    for _ in range(10):
        client = plane.client()
        client.sends(GET)
        upstream = plane.connects()
        upstream.sends(CHUNKED_OK + b"1\r\nx\r\n")
        client.takes(room)
        upstream.sends(sent + LAST)
        pairs.append((client, upstream))
    taken = sum(len(payload_of(client.received)) for client, _ in pairs)
    for _ in plane.turns():
        now = sum(len(payload_of(client.received)) for client, _ in pairs)
        assert now - taken <= READERS_PER_TURN * SHARE
        taken = now
    for client, upstream in pairs:
        client.takes()
        plane.play()
        assert payload_of(client.received) == b"x" + payload
        assert client.received.endswith(LAST)
        assert upstream.reading
    plane.assert_quiet()


def test_a_rest_does_not_end_because_the_brake_is_off() -> None:
    """The target has taken what it had, but it is others' turn."""
    plane = Plane()
    ((client, upstream),) = uploading(plane)
    sent, payload = crumbs(3_000)
    upstream.takes(room=10)
    client.sends(sent)
    assert client.protocol.resting
    assert client.protocol.paused
    upstream.takes()
    assert not client.protocol.paused
    assert not client.reading
    plane.play()
    assert client.reading
    assert payload_of(upstream.received) == payload


def test_the_brake_is_not_off_because_a_rest_ends() -> None:
    plane = Plane()
    ((client, upstream),) = uploading(plane)
    sent, payload = crumbs(3_000)
    upstream.takes(room=10)
    client.sends(sent)
    plane.play()
    assert not client.protocol.resting
    assert not client.reading
    upstream.takes()
    plane.play()
    assert payload_of(upstream.received) == payload


def test_clients_that_leave_while_they_rest_are_forgotten() -> None:
    plane = Plane()
    pairs = uploading(plane, 3 * READERS_PER_TURN)
    sent, _ = crumbs(3_000)
    for client, _ in pairs:
        client.sends(sent)
        assert client.protocol.resting
    for client, _ in pairs:
        client.resets()
    plane.play()
    plane.assert_quiet()


def test_what_follows_a_request_that_is_refused_while_it_rests_is_dropped() -> None:
    """It is read as everybody's is (RFC 9112 section 9.6): in turns."""
    plane = Plane({"limits": {"body_bytes": 2_000}})
    ((client, _),) = uploading(plane)
    sent, _ = crumbs(30_000)
    client.sends(sent)
    plane.play()
    assert client.received.startswith(b"HTTP/1.1 413 ")
    assert client.reading
    client.ends()
    plane.play()
    plane.assert_quiet()


def test_of_a_tunnel_a_turn_reads_so_much() -> None:
    plane = Plane()
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    raw = bytes(range(256)) * (3 * BODY_BYTES_PER_TURN // 256)
    for sender, receiver in ((client, upstream), (upstream, client)):
        before = len(receiver.received)
        sender.sends(raw)
        assert len(receiver.received) - before == BODY_BYTES_PER_TURN
        assert not sender.reading
        plane.play()
        assert receiver.received[before:] == raw
        assert sender.reading


def test_a_line_that_is_cut_in_two_is_read_on() -> None:
    """Also one with an extension: an end of a read cuts nearly each of them."""
    sent, payload = crumbs(2_000)
    sent = b"1;a=b\r\nx\r\n" + sent + LAST
    for size in range(1, 40):
        reader = body_reader(parse_request(POST))
        received = b"".join(reader.feed(sent[at : at + size * 50 + 1]) for at in range(0, len(sent), size * 50 + 1))
        assert (received, reader.done) == (b"x" + payload, True)
