"""Flow-control windows of received bodies: they grow to what the path needs, and are bounded by what is held."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Final

import h2.config
import h2.connection
import h2.events

from fastgw.http.http2.session import CLOSED, DATA, FULL, HeldBytes, Session
from tests.support.http2 import frames
from tests.support.http2.frames import MAX_FRAME, Code, data, post
from tests.support.table import for_each

FIRST: Final = 65_535
MIB: Final = 1 << 20
BODY: Final = 5_000_000
REQUEST: Final = b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n"
POST: Final = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/")]
Takes = Callable[["Path", int], float | None]


def at_once(path: Path, stream: int) -> float | None:
    return 0.0


class Path:
    """A session, and a peer by h2 at a distance of `round_trip` seconds, which sends bodies as its windows allow.

    `takes`: seconds after which the receiver of a stream takes what came on it; None: it does not.
    """

    def __init__(self, round_trip: float, *, client: bool = False, takes: Takes = at_once, **bounds: int) -> None:
        clock = self._clock = [100.0]  # not the path itself: sessions are freed with it, and what they hold
        self.round_trip, self._takes = round_trip, takes
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        options = {"max_streams": 100, "stream_window": 16 * MIB, "connection_window": 100 * 65_536 + 16 * MIB}
        self.session = Session(
            client, False, 0.0, header_bytes=32_768, header_count=200, clock=lambda: clock[0], **(options | bounds)
        )
        self.peer = h2.connection.H2Connection(h2.config.H2Configuration(not client, header_encoding=False))
        self._client, self._left = client, dict[int, int]()
        self.held, self.received, self.widest = Counter[int](), Counter[int](), 0
        self.most_held = self.pings = 0
        self.peer.initiate_connection()
        self._send()
        self._answer(self.peer.data_to_send())

    def connected(self) -> Path:
        """Wait until both have acknowledged the SETTINGS of the other."""
        self.run()
        return self

    def upload(self, *streams: int, length: int = BODY) -> Path:
        """Send bodies to the session; of requests, or as responses to requests that it sends."""
        for stream in streams:
            self._left[stream] = length
            if self._client:
                assert self.session.request(REQUEST, True) == stream
            else:
                self.peer.send_headers(stream, POST)
        if self._client:
            self._send()
        else:
            self._push()
        return self

    def take(self, stream: int) -> None:
        held = self.held.pop(stream, 0)
        self.session.consume(stream, held)
        self._send()

    def run(self) -> float:
        """Go on until nothing is in transit; return the number of round trips that it has taken."""
        begun_at = self.now
        while self._due:
            self.step()
        return round((self.now - begun_at) / self.round_trip, 6)

    @property
    def now(self) -> float:
        return self._clock[0]

    def step(self) -> None:
        self._clock[0], _, step = heapq.heappop(self._due)
        step()

    def _after(self, seconds: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._order), step))

    def _send(self) -> None:
        sent = b"".join(iter(self.session.to_send, b""))
        if sent:
            self._after(self.round_trip / 2, lambda: self._arrive(sent))

    def _arrive(self, sent: bytes) -> None:
        for event in self.peer.receive_data(sent):
            self.pings += isinstance(event, h2.events.PingReceived)
            if isinstance(event, h2.events.RequestReceived):
                assert event.stream_id is not None
                self.peer.send_headers(event.stream_id, [(b":status", b"200")])
        self._push()

    def _push(self) -> None:
        for stream in [stream for stream in self._left if stream in self.peer.streams]:
            left = self._left[stream]
            self.widest = max(self.widest, self.peer.streams[stream].outbound_flow_control_window)
            while window := min(self.peer.local_flow_control_window(stream), MAX_FRAME, left):
                left -= window
                self.peer.send_data(stream, bytes(window), end_stream=not left)
            self._left[stream] = left
            if not left:
                del self._left[stream]
        self._answer(self.peer.data_to_send())

    def _answer(self, sent: bytes) -> None:
        if sent:
            self._after(self.round_trip / 2, lambda: self._receive(sent))

    def _receive(self, sent: bytes) -> None:
        for at in range(0, len(sent), 32_768):
            piece = sent[at : at + 32_768]
            for kind, stream, value in self.session.feed(piece, len(piece), self.now):
                if kind == DATA:
                    self.held[stream] += len(value)
                    self.received[stream] += len(value)
                    self._note(stream)
            self.most_held = max(self.most_held, self.held.total())
            assert self.session.error is None
        self._send()

    def _note(self, stream: int) -> None:
        after = self._takes(self, stream)
        if after == 0:
            self.take(stream)
        elif after is not None:
            self._after(after, lambda: self.take(stream))


@for_each("client, round_trip", [(client, each) for client in (False, True) for each in (0.02, 0.08, 0.2)])
def test_a_body_of_5_mb_takes_a_round_trip_beside_that_of_its_first_window(client: bool, round_trip: float) -> None:
    """And two more, which are few milliseconds, where the path holds less at the pace that is assumed at first."""
    path = Path(round_trip, client=client).connected().upload(1)
    assert path.run() <= (2.5 if round_trip > 0.02 else 4)
    assert path.received == {1: BODY}
    path.upload(3)
    path.run()
    assert path.received[3] == BODY


@for_each("client, round_trip", [(client, each) for client in (False, True) for each in (0.08, 0.2)])
def test_a_body_of_50_mb_takes_no_more_round_trips_where_there_is_room(client: bool, round_trip: float) -> None:
    """Its first growth is to all that the path holds at 655 MB/s: no round trip is spent on further growth."""
    path = Path(round_trip, client=client, stream_window=64 * MIB, connection_window=256 * MIB).connected()
    assert path.upload(1, length=10 * BODY).run() <= 2.5
    assert path.received == {1: 10 * BODY}


def test_an_upload_that_begins_with_its_connection_does_not_wait_for_its_path_to_be_known() -> None:
    path = Path(0.08).upload(1)
    assert path.run() <= 2
    assert path.received == {1: BODY}


@for_each("client", [True, False])
def test_on_a_short_path_no_window_grows(client: bool) -> None:
    path = Path(0.0005, client=client).connected().upload(1)
    path.run()
    assert path.received == {1: BODY}
    assert path.widest <= FIRST
    assert path.pings <= BODY // (16 * FIRST // 2)


@for_each("client", [True, False])
def test_a_path_that_becomes_longer_is_measured_again(client: bool) -> None:
    path = Path(0.0005, client=client).connected()
    path.round_trip = 0.08
    assert path.upload(1).run() <= 13
    assert path.received == {1: BODY}
    assert path.upload(3).run() <= 3
    assert path.received[3] == BODY


def slowly(path: Path, stream: int) -> float | None:
    return 0.5


def test_the_window_of_a_stream_that_moves_slower_than_its_path_does_not_grow() -> None:
    path = Path(0.02, takes=slowly).connected().upload(1)
    path.run()
    assert path.received == {1: BODY}
    assert path.widest <= FIRST
    assert path.most_held <= FIRST


def until_a_mebibyte(path: Path, stream: int) -> float | None:
    return 0.0 if stream == 199 or path.received[stream] <= MIB else None


def never(path: Path, stream: int) -> float | None:
    return 0.0 if stream == 199 else None


@for_each("takes", [never, until_a_mebibyte])
@for_each("client", [True, False])
def test_99_bodies_that_stall_stop_no_other_of_the_connection(takes: Takes, client: bool) -> None:
    """At once, or after their windows have grown: all windows together are that of the connection."""
    path = Path(0.08, client=client, takes=takes).connected()
    path.upload(*range(1, 199, 2), length=10 * BODY)
    path.run()
    path.upload(199)
    path.run()
    assert path.received[199] == BODY
    assert all(path.received[stream] >= FIRST for stream in range(1, 199, 2))
    assert path.most_held <= 100 * 65_536 + 16 * MIB
    for stream in range(1, 199, 2):  # and none has lost what it was promised
        path.take(stream)
    path.run()
    assert min(path.received.values()) > FIRST


def test_windows_of_bodies_that_have_ended_are_for_others() -> None:
    path = Path(0.08, connection_window=100 * 65_536 + 4 * MIB).connected()
    for stream in range(1, 101, 2):
        assert path.upload(stream).run() <= 5, stream
        assert path.received[stream] == BODY


@for_each(
    "beyond",
    [data(b"x" * 2, end=False), data(b"", end=False, padding=1), data(b"x", end=False, padding=0)],
)
@for_each("acknowledged", [b"", frames.SETTINGS_ACK])
def test_a_stream_that_sends_more_than_its_window_is_reset(acknowledged: bytes, beyond: bytes) -> None:
    """RFC 9113 section 6.9.1: padding counts as well."""
    session = Session(False, False, 0.0, 100, 16 * MIB, 100 * MIB, 32_768, 200)
    sent = frames.BEGINNING + acknowledged + post()
    sent += b"".join(data(bytes(min(MAX_FRAME, FIRST - 1 - at)), end=False) for at in range(0, FIRST - 1, MAX_FRAME))
    session.feed(sent, len(sent), 0.0)
    b"".join(iter(session.to_send, b""))
    session.feed(beyond, len(beyond), 0.0)
    assert session.to_send() in (
        frames.reset(1, Code.FLOW_CONTROL_ERROR),
        frames.goaway(1, Code.FLOW_CONTROL_ERROR),  # since libnghttp2 1.6x
    )


@for_each("bound, most", [("stream_window", MIB), ("connection_window", 100 * 65_536 + 2 * MIB)])
def test_settings_bound_the_window_of_a_stream(bound: str, most: int) -> None:
    path = Path(0.08, **{bound: most}).connected().upload(1)
    path.run()
    assert path.received == {1: BODY}
    assert FIRST < path.widest <= MIB + 100


def test_while_the_process_holds_much_no_window_grows_and_grown_ones_shrink() -> None:
    path = Path(0.08).connected().upload(1)
    path.run()
    assert path.widest > FIRST
    held = HeldBytes(33 * MIB)
    path.widest = 0
    path.upload(3)
    path.run()
    assert path.received[3] == BODY
    assert path.widest <= FIRST
    del held
    path.upload(5)
    path.run()
    assert path.widest > FIRST


def stalled(streams: int) -> Session:
    """Return a session with uploads of which nothing is taken."""
    session = Session(False, False, 0.0, streams, FIRST, streams * FIRST, 32_768, 200)
    session.feed(opened := frames.BEGINNING + frames.SETTINGS_ACK, len(opened), 0.0)
    window = b"".join(frames.frame(0, bytes(min(MAX_FRAME, FIRST - at)), 0, 1) for at in range(0, FIRST, MAX_FRAME))
    for stream in range(1, 2 * streams, 2):
        head = post(stream=stream)
        session.feed(head, len(head), 0.0)
        sent = b"".join(data(bytes(min(MAX_FRAME, FIRST - at)), stream, end=False) for at in range(0, FIRST, MAX_FRAME))
        assert len(sent) == len(window)
        session.feed(sent, len(sent), 0.0)
    assert session.unconsumed == streams * FIRST
    return session


def test_a_session_that_holds_more_than_its_share_of_what_a_process_may_hold_is_full() -> None:
    """1,000 stalled uploads are within the budget; beyond it those with most of them are not read from."""
    much, little = stalled(800), stalled(200)
    assert not (much.state() | little.state()) & FULL
    further = stalled(100)
    assert much.state() & FULL
    assert not (little.state() | further.state()) & FULL
    del further  # its connection is closed
    assert not much.state() & FULL
    held = HeldBytes(8 * MIB)
    assert much.state() & FULL
    for stream in range(1, 1600, 2):
        much.consume(stream, FIRST)
    assert not much.state() & FULL
    del held


def test_what_was_in_transit_in_a_grown_window_is_no_flood() -> None:
    path = Path(0.08).connected().upload(1, length=50_000_000)
    while path.widest < 2 * MIB:
        path.step()
    path.session.reset(1, Code.CANCEL)
    path.run()
    assert path.session.error is None
    path.upload(3)
    path.run()
    assert path.received[3] == BODY


def test_a_whole_request_and_a_closed_stream_hold_nothing() -> None:
    session = stalled(1)
    reset = frames.reset(1)
    assert [kind for kind, _, _ in session.feed(reset, len(reset), 0.0)] == [CLOSED]
    assert session.unconsumed == 0
    whole = post(stream=3) + data(b"x" * 1000, 3)
    session.feed(whole, len(whole), 0.0)
    assert session.unconsumed == 0
    session.consume(3, 1000)
    assert session.unconsumed == 0
