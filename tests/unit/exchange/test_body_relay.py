"""One direction of a body: no byte is lost, doubled or out of order, whoever comes and goes, and little is held."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.exchange import MAX_KEPT, Relay, Trailers
from fastgw.shm.held_body_budget import HeldBodyBudget


class Sink:
    """Takes everything; asks for a pause or an end of it when the test says so."""

    def __init__(self, relay: Relay) -> None:
        self.received = relay.attach(self)
        self.trailers: Trailers | None = None

    def feed(self, payload: bytes) -> None:
        self.received += payload

    def end(self, trailers: Trailers) -> None:
        self.trailers = trailers


class Source:
    def __init__(self) -> None:
        self.paused = False

    def pause(self) -> None:
        assert not self.paused, "paused twice"
        self.paused = True

    def resume(self) -> None:
        assert self.paused, "resumed though it was not paused"
        self.paused = False


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.integers(1, 40_000)),
        st.tuples(st.sampled_from(["attach", "detach", "pause", "resume"]), st.just(0)),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(ACTS, st.booleans())
def test_every_sink_gets_the_body_from_its_first_byte_and_in_order(acts: list[tuple[str, int]], together: bool) -> None:
    """A sink that comes anew (a retry) gets all from the beginning, or is not offered any more."""
    source = Source()
    relay = Relay(source)
    sent, sink, held = b"", None, 0
    for act, size in [*acts, ("attach", 0)]:
        if act == "feed" and not source.paused:
            piece = bytes((len(sent) + at) % 251 for at in range(size))
            sent += piece
            relay.bytes += size
            relay.feed(piece)
        elif act == "attach" and sink is None and relay.kept is not None:
            sink = Sink(relay)
        elif act == "detach" and sink is not None and relay.kept is not None:
            relay.detach()
            sink = None
        elif act in ("pause", "resume") and sink is not None:
            getattr(relay, act)()
        if sink is not None:
            assert sink.received == sent
        held = 0 if relay.kept is None else sum(map(len, relay.kept))
        assert held <= MAX_KEPT + 40_000
        if sink is not None and len(sent) > MAX_KEPT:
            assert relay.kept is None, "more is kept than may be sent again"
        if relay.kept is not None:
            assert b"".join(relay.kept) == sent
    if sink is not None:
        if together:
            relay.bytes += 4
            relay.last(b"last")
            sent += b"last"
        relay.end(((b"X-Sum", b"1"),))
        assert sink.received == sent
        assert sink.trailers == ((b"X-Sum", b"1"),)


def test_without_a_sink_one_piece_is_held_and_the_source_braked() -> None:
    source = Source()
    relay = Relay(source)
    relay.bytes += 3
    relay.feed(b"abc")
    assert source.paused
    assert Sink(relay).received == b"abc"
    assert not source.paused


def test_the_end_comes_before_the_sink() -> None:
    """A body that is here in one read: it is whole when the connection is lent."""
    source = Source()
    relay = Relay(source)
    relay.bytes += 3
    relay.last(b"abc")
    relay.end()
    assert not source.paused, "after its last piece there is nothing to brake"
    assert Sink(relay).received == b"abc"
    assert relay.ended


def fed(relay: Relay, *pieces: bytes) -> None:
    for piece in pieces:
        relay.bytes += len(piece)
        relay.feed(piece)


class Taking:
    def feed(self, payload: bytes) -> None: ...
    def end(self, trailers: Trailers) -> None: ...


def kept_relay(most: int, room: HeldBodyBudget) -> Relay:
    """With a sink, so that nothing is held back."""
    relay = Relay(Source())
    relay.most_kept = most
    if most > MAX_KEPT:
        relay.count_kept(room)
    relay.attach(Taking())
    return relay


PIECE = bytes(range(250)) * 131  # 32 KiB, nearly


def test_what_is_kept_beyond_the_usual_takes_room_until_nobody_holds_it() -> None:
    room = HeldBodyBudget.single_process(1 << 20)
    relay = kept_relay(1 << 20, room)
    fed(relay, PIECE)
    assert room.in_use == 0
    fed(relay, *[PIECE] * 5)
    assert room.in_use == 6 * len(PIECE) - MAX_KEPT
    relay.detach()
    assert relay.attach(Taking()) == PIECE * 6
    relay.kept = None
    assert room.in_use == 0


def test_where_there_is_no_room_a_body_is_not_kept() -> None:
    room = HeldBodyBudget.single_process(3 * len(PIECE))
    one, other = kept_relay(1 << 20, room), kept_relay(1 << 20, room)
    fed(one, *[PIECE] * 4)
    fed(other, *[PIECE] * 2)
    assert other.kept is not None
    fed(other, *[PIECE] * 4)
    assert other.kept is None
    assert room.in_use == 4 * len(PIECE) - MAX_KEPT
    del one
    assert room.in_use == 0


@pytest.mark.extended
@pytest.mark.parametrize("size", [1, 2, 100, 1023])
def test_a_body_of_small_pieces_takes_about_what_it_says(size: int) -> None:
    """Each piece by itself would take some fifty bytes more."""
    room = HeldBodyBudget.single_process(1 << 20)
    relay = kept_relay(1 << 20, room)
    body = PIECE * 16
    fed(relay, *(body[at : at + size] for at in range(0, len(body), size)))
    assert relay.kept is not None
    assert sum(map(sys.getsizeof, relay.kept)) < 1.3 * len(body) + 10_000
    relay.detach()
    assert relay.attach(Taking()) == body


def test_no_more_than_is_said_is_kept() -> None:
    room = HeldBodyBudget.single_process(1 << 20)
    relay = kept_relay(4 * len(PIECE), room)
    fed(relay, *[PIECE] * 5)
    assert relay.kept is None
    assert room.in_use == 0


class Thrice:
    """Stages that make three bytes of each."""

    holds = keeps_length = False
    changes = changed = True

    def feed(self, payload: bytes, is_last: bool) -> bytes:
        return payload * 3

    def end(self) -> bytes:
        return b""

    def release_held(self) -> None: ...
    def cancel(self) -> None: ...


def test_what_is_kept_to_be_sent_again_is_counted_as_it_came_out_of_the_stages() -> None:
    relay = Relay(Source(), 6)
    relay.most_kept = 10
    assert relay.begin_stages(Thrice(), lambda: None)
    assert relay.length is None
    first = Sink(relay)
    for count, kept in ((3, True), (6, False)):
        relay.bytes = count
        relay.feed(b"abc")
        assert (relay.kept is not None) is kept
    assert first.received == b"abcabcabc" * 2
    later = Relay(Source(), 4)
    later.most_kept = 10
    later.bytes = 4
    later.feed(b"abcd")
    assert later.begin_stages(Thrice(), lambda: None)
    assert Sink(later).received == b"abcdabcdabcd"
    assert later.kept is None


def test_a_held_body_has_time_for_its_bytes_and_one_pause() -> None:
    """30 s without a byte, and a second for each 500 bytes: neither a burst nor a crumb buys more than that."""
    relay = Relay(Source())
    assert relay.wait_until(0.0, 30.0, 500) == 30.0
    assert not relay.await_head(10**9, lambda: None, HeldBodyBudget.single_process(), lambda: None)
    steps = [(10.0, 0, 40.0), (12.0, 1, 40.002), (20.0, 4999, 50.0), (49.0, 1, 50.002), (50.0, 10**6, 80.0)]
    for now, more, until in steps:
        relay.bytes += more
        assert relay.wait_until(now, 30.0, 500) == pytest.approx(until)
    assert relay.wait_until(60.0, 30.0, 0) == 90.0
