"""The client's side of an exchange: bodies that come in pieces, clients that leave, answers that end a connection."""

import asyncio
from collections.abc import Awaitable

import pytest

from fastgw.downstream.http1.connection import LINGER_IDLE_S
from fastgw.eventloop import body_reads
from fastgw.eventloop.body_reads import (
    BODY_BYTES_PER_TURN,
    BODY_READ_BYTES,
    MEDIUM_READ_BYTES,
    READ_BYTES,
    SMALL_READ_BYTES,
)
from fastgw.filters.api import BodyHook, Bounded, Exchange, Phase, Reply
from tests.support import memory
from tests.support.memory import Plane, probe
from tests.support.table import for_each

HOST = b"Host: a.test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SIZE = {"routes": [{"name": "all", "upstream": "u", "filters": {"size": {"body": 10}}}]}


@pytest.mark.parametrize(
    "pieces", [[b"b\r\nelevenbytes\r\n0\r\n\r\n"], [b"5\r\nhello\r\n", b"6\r\nworld!\r\n0\r\n\r\n"]]
)
@pytest.mark.parametrize("with_head", [True, False])
def test_a_body_that_grows_too_large_is_refused_in_whichever_pieces_it_comes(
    pieces: list[bytes], with_head: bool
) -> None:
    """`size`: 11 bytes are more than 10, also when the eleventh comes with the last piece."""
    plane = Plane(SIZE)
    client = plane.client()
    if with_head:
        pieces = [CHUNKED + pieces[0], *pieces[1:]]
    else:
        client.sends(CHUNKED)
    for piece in pieces:
        client.sends(piece)
        if plane.pool.waiting:
            plane.connects()
    assert client.received.startswith(b"HTTP/1.1 413 ")
    assert plane.records[0].fault == "body_too_large"


def test_a_body_of_just_the_size_passes() -> None:
    plane = Plane(SIZE)
    client = plane.client()
    client.sends(CHUNKED + b"4\r\nfour\r\n")
    upstream = plane.connects()
    client.sends(b"6\r\nsixsix\r\n0\r\n\r\n")
    upstream.sends(OK)
    assert client.received.endswith(b"ok")
    assert plane.records[0].request_bytes == 10


def test_a_client_that_half_closes_while_its_answer_is_on_the_way_gets_it_and_is_gone() -> None:
    """Nothing more can come from it, so the connection does not wait for a next request."""
    plane = Plane()
    client = plane.client()
    client.sends(GET)
    upstream = plane.connects()
    client.takes(room=5)
    upstream.sends(OK)
    client.ends()
    client.takes()
    assert client.received.endswith(b"ok")
    assert client.ended
    assert plane.limit.taken == 0


@for_each("state", ["connecting", "waiting for the response", "receiving", "held back", "uploading"])
@for_each("how", ["ends", "resets"])
def test_a_client_that_leaves_takes_its_request_with_it(state: str, how: str) -> None:
    """In every state: the upstream's work stops, nothing is held, the log says 499 or cut short."""
    plane = Plane()
    client = plane.client()
    client.sends(CHUNKED + b"1\r\na\r\n" if state == "uploading" else GET)
    upstream = None if state == "connecting" else plane.connects()
    if state in ("receiving", "held back"):
        assert upstream is not None
        client.takes(room=0 if state == "held back" else 10_000)
        upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
    getattr(client, how)()
    assert upstream is None or upstream.lost
    assert [(record.status, record.fault) for record in plane.records] == [
        (200 if state in ("receiving", "held back") else 499, "client_left")
    ]
    assert plane.limit.taken == 0
    plane.assert_quiet()


def test_an_early_answer_is_sent_whole_and_the_rest_of_the_upload_dropped() -> None:
    """Promise 9: 413 after the first bytes; what the client still sends is read, bounded in time, never answered."""
    plane = Plane()
    client = plane.client()
    client.sends(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 15000000\r\n\r\nabc")
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge")
    assert client.received.endswith(b"\r\nConnection: close\r\n\r\nlarge")
    assert client.ended
    assert not client.aborted
    for _ in range(20):
        client.sends(b"x" * 65_536)
    assert not client.aborted
    client.ends()
    assert client.lost
    assert plane.limit.taken == 0
    plane.assert_quiet()


def test_a_body_is_shown_once_and_only_to_filters_whose_request_step_is_done() -> None:
    """Pieces that come while a step of the route waits are held; the body steps see them afterwards, in order."""
    seen: list[bytes] = []

    async def live() -> None:
        answer: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

        def wait(exchange: Exchange) -> Awaitable[Reply | None]:
            return answer

        def body(exchange: Exchange, payload: bytes) -> None:
            seen.append(payload)

        plane = Plane(
            probes=[probe("waits", Phase.AUTHENTICATE, request=wait), probe("sees", Phase.VALIDATE, request_body=body)]
        )
        client = plane.client()
        client.sends(CHUNKED)
        client.sends(b"3\r\nabc\r\n")
        assert seen == []
        answer.set_result(None)
        for _ in range(3):
            await asyncio.sleep(0)
        upstream = plane.connects()
        client.sends(b"3\r\ndef\r\n0\r\n\r\n")
        upstream.sends(OK)
        assert client.received.endswith(b"ok")
        plane.assert_quiet()

    asyncio.run(live())
    assert b"".join(seen) == b"abcdef"


def test_a_step_whose_wait_is_cancelled_from_elsewhere_is_a_500() -> None:
    """Such as a fetch that several exchanges share: the client must not wait for ever."""

    async def live() -> bytes:
        shared: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        plane = Plane(probes=[probe("waits", Phase.AUTHENTICATE, request=lambda exchange: shared)])
        client = plane.client()
        client.sends(GET)
        shared.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        plane.assert_quiet()
        return client.received

    assert asyncio.run(live()).startswith(b"HTTP/1.1 500 ")


def test_a_client_that_leaves_while_a_step_waits_cancels_the_wait() -> None:
    """And nothing of it is answered, or logged twice."""

    async def live() -> None:
        cancelled = []

        async def wait() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        plane = Plane(probes=[probe("waits", Phase.AUTHENTICATE, request=lambda exchange: wait())])
        client = plane.client()
        client.sends(GET)
        await asyncio.sleep(0)
        client.ends()
        for _ in range(3):
            await asyncio.sleep(0)
        assert cancelled == [True]
        assert [record.fault for record in plane.records] == ["client_left"]
        plane.assert_quiet()

    asyncio.run(live())


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Connection"])
def test_framing_of_an_own_answer_is_the_gateways(name: str) -> None:
    """A filter's reply that names framing fields would give a message with two meanings."""

    def refuse(exchange: Exchange) -> Reply:
        return Reply(200, b"body", [(name.encode(), b"9")])

    plane = Plane(probes=[probe("answers", Phase.AUTHORIZE, request=refuse)])
    client = plane.client()
    client.sends(GET)
    head, _, body = client.received.partition(b"\r\n\r\n")
    assert body == b"body"
    assert head.lower().count(b"content-length:") == 1
    assert b"Content-Length: 4" in head
    assert b": 9" not in head


def test_a_connection_too_many_is_told_so_and_gives_nothing_back() -> None:
    """What it never took it cannot give back."""
    plane = Plane(most=1)
    first = plane.client()
    first.sends(GET)
    second = plane.client()
    assert second.received.startswith(b"HTTP/1.1 503 ")
    assert second.lost
    assert plane.limit.taken == 1
    first.ends()
    assert plane.limit.taken == 0
    assert plane.client().received == b""


def test_a_body_in_crumbs_is_read_in_small_pieces() -> None:
    """Tiny chunks cost much more to take apart than their bytes suggest."""
    plane = Plane()
    client = plane.client()
    client.sends(CHUNKED)
    plane.connects()
    downstream = client.protocol
    assert len(downstream.buffer) == MEDIUM_READ_BYTES  # nobody knows yet
    client.sends(b"1\r\nx\r\n" * 100)
    assert len(downstream.buffer) == SMALL_READ_BYTES
    client.sends((b"10\r\n" + b"x" * 16 + b"\r\n") * 50)
    assert len(downstream.buffer) == MEDIUM_READ_BYTES
    client.sends(b"400\r\n" + b"x" * 1024 + b"\r\n")
    assert len(downstream.buffer) == READ_BYTES


class Rooms(dict[int, int]):
    """What the sockets of a plane have room for, by their descriptors; they take nothing without their transport."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(body_reads, "room", self.__getitem__)


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Rooms:
    return Rooms(monkeypatch)


pause_reading = memory.Wire.pause_reading
PIECE = b"x" * READ_BYTES
BODY = PIECE * 100


def upload_begun() -> tuple[memory.Wire, memory.Wire]:
    """A client that has announced `BODY`, and the target that waits for it."""
    plane = Plane()
    client = plane.client()
    client.sends(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(BODY))
    return client, plane.connects()


def test_of_a_request_body_as_much_is_read_as_the_target_has_room_for(rooms: Rooms) -> None:
    client, upstream = upload_begun()
    reads = []
    for room in (4_000_000, 80_000, 4_000_000):
        rooms[upstream.plain_fd] = room
        client.sends(PIECE)
        reads.append(len(client.protocol.buffer))
    client.sends(BODY[3 * READ_BYTES :])
    assert reads == [262144, 64_000, 262144]
    assert len(client.protocol.buffer) == READ_BYTES  # the next head
    assert upstream.received.endswith(b"\r\n\r\n" + BODY)


def test_what_comes_of_a_body_whose_answer_is_out_is_read_as_usual(rooms: Rooms) -> None:
    client, upstream = upload_begun()
    rooms[upstream.plain_fd] = 4_000_000
    client.sends(PIECE)
    assert len(client.protocol.buffer) == BODY_READ_BYTES
    upstream.sends(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert client.ended
    assert len(client.protocol.buffer) == READ_BYTES
    client.sends(BODY[: 4 * READ_BYTES])
    assert len(client.protocol.buffer) == READ_BYTES


def test_of_a_response_body_as_much_is_read_as_the_client_has_room_for(rooms: Rooms) -> None:
    plane = Plane()
    client = plane.client()
    client.sends(GET)
    upstream = plane.connects()
    reads = []
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    for room in (4_000_000, 80_000, 4_000_000):
        rooms[client.plain_fd] = room
        upstream.sends(PIECE)
        reads.append(len(upstream.protocol.buffer))
    upstream.sends(BODY[3 * READ_BYTES :])
    assert reads == [262144, 64_000, 262144]
    assert len(upstream.protocol.buffer) == READ_BYTES
    assert client.received.endswith(b"\r\n\r\n" + BODY)


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[memory.Wire]:
    """Whose reading was paused."""
    paused: list[memory.Wire] = []

    def pause(wire: memory.Wire) -> None:
        paused.append(wire)
        pause_reading(wire)

    monkeypatch.setattr(memory.Wire, "pause_reading", pause)
    return paused


def test_of_one_body_a_turn_reads_so_much_and_the_next_goes_on(rests: list[memory.Wire]) -> None:
    client, upstream = upload_begun()
    del rests[:]  # until there was a target
    client.sends(BODY)
    assert rests == [client] * (len(BODY) // BODY_BYTES_PER_TURN)
    assert upstream.received.endswith(b"\r\n\r\n" + BODY)
    del rests[:]
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
    assert rests == [upstream] * (len(BODY) // BODY_BYTES_PER_TURN)
    assert client.received.endswith(b"\r\n\r\n" + BODY)


def test_a_turn_for_others_does_not_take_the_brake_off() -> None:
    client, upstream = upload_begun()
    upstream.takes(room=BODY_BYTES_PER_TURN - 1)  # it is full when the client has to rest
    client.sends(BODY)
    assert not client.reading
    taken = len(upstream.received) + upstream.get_write_buffer_size()
    assert taken < BODY_BYTES_PER_TURN + READ_BYTES
    upstream.takes()
    assert upstream.received.endswith(b"\r\n\r\n" + BODY)


def test_reading_goes_on_where_a_target_is_at_hand_and_pauses_where_none_is() -> None:
    plane = Plane()
    first, second = plane.client(), plane.client()
    first.sends(GET)
    upstream = plane.connects()
    upstream.sends(OK)
    for client in (first, second):
        client.sends(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 8\r\n\r\nfour")
    assert (first.reading, second.reading) == (True, False)
    assert upstream.received.endswith(b"\r\n\r\nfour")
    upstream = plane.connects()
    for client in (first, second):
        client.sends(b"more")
    assert upstream.received.endswith(b"\r\n\r\nfourmore")
    assert second.reading


def test_what_is_pipelined_behind_a_body_is_not_read_with_it(rooms: Rooms) -> None:
    """It would be held until the answer is out: more than `READ_BYTES` for each connection."""
    client, upstream = upload_begun()
    rooms[upstream.plain_fd] = 4_000_000
    client.sends(BODY + GET * 10_000)
    assert upstream.received.endswith(b"\r\n\r\n" + BODY)
    assert len(client.protocol._ahead) <= 65_536


def test_a_body_in_crumbs_behind_a_large_chunk_is_read_in_small_pieces(rooms: Rooms) -> None:
    plane = Plane()
    client = plane.client()
    client.sends(CHUNKED)
    rooms[plane.connects().plain_fd] = 4_000_000
    client.sends(b"c000\r\n" + b"x" * 0x8000)
    assert len(client.protocol.buffer) == READ_BYTES


def test_a_slow_client_gets_the_end_of_its_last_answer_whatever_it_sends_behind() -> None:
    """It has `response_idle` for what it is sent; how long it is listened to for the rest counts from then on."""
    plane = Plane({"timeouts": {"response_idle": "60s"}})
    client = plane.client()
    client.takes(room=20)
    client.sends(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET)
    plane.connects().sends(OK)
    plane.passes(40)
    client.sends(GET)
    plane.passes(10)
    client.takes()
    assert client.received.endswith(b"\r\n\r\nok")
    assert client.ended
    assert not client.aborted
    plane.passes(LINGER_IDLE_S + 1)
    assert client.aborted
    plane.assert_quiet()


@pytest.mark.parametrize("rest", [b"3\r\nabc\r\n", b"0\r\n\r\n"])
def test_a_client_that_takes_no_more_of_its_answer_is_cut_also_when_it_has_gone_on_sending(rest: bytes) -> None:
    plane = Plane({"timeouts": {"response_idle": "60s"}})
    client = plane.client()
    client.sends(CHUNKED)
    upstream = plane.connects()
    client.takes(room=20)
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
    client.sends(rest)
    plane.passes(61)
    assert client.aborted
    assert [(record.status, record.fault) for record in plane.records] == [(200, "client_stalled")]
    plane.assert_quiet()


@pytest.mark.parametrize("held", [False, True], ids=["as it comes", "held by a filter"])
def test_a_client_that_has_its_response_may_be_silent_with_its_request(held: bool) -> None:
    """From the response on the upstream's timeouts apply, as nothing waits for the rest of the request: a client of a
    bidirectional stream may send once, and only listen from then on.
    """
    holding = probe("holding", Phase.TRANSFORM, response_body=BodyHook(lambda exchange, body: None, needs=Bounded(100)))
    plane = Plane({"timeouts": {"request_body_idle": "5s"}}, probes=[holding] if held else [])
    client = plane.client()
    client.sends(CHUNKED + b"3\r\nsub\r\n")
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(4):
        plane.passes(4)
        upstream.sends(b"3\r\nnew\r\n")
    upstream.sends(b"0\r\n\r\n")
    assert client.received.count(b"new") == 4
    assert [(record.status, record.fault) for record in plane.records] == [(200, "")]
    assert not client.aborted
    plane.passes(LINGER_IDLE_S + 1)
    assert client.aborted  # the request never ends
    plane.assert_quiet()


def test_a_silent_client_does_not_spare_the_upstream_its_timeout() -> None:
    upstreams = {"u": {"targets": [{"url": "http://127.0.0.1:9"}], "timeouts": {"idle": "20s"}}}
    plane = Plane({"timeouts": {"request_body_idle": "5s"}, "upstreams": upstreams})
    client = plane.client()
    client.sends(CHUNKED + b"3\r\nsub\r\n")
    plane.connects().sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    plane.passes(19)
    assert not client.ended
    plane.passes(2)
    assert client.ended
    assert [record.fault for record in plane.records] == ["upstream_stalled"]
