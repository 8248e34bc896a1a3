"""One direction of a body: no byte is lost, doubled or out of order, whoever comes and goes, and little is held."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.exchange import MAX_KEPT, Relay, Trailers


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
