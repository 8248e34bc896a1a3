"""Frames on streams that are not open: a budget for what was in transit, and the end of the connection beyond it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastgw.http.http2.session import CLOSED, WHOLE, Session
from tests.support.http2 import frames
from tests.support.http2.frames import MAX_FRAME, Code, block, data, get, headers, post, reset, settings
from tests.support.table import for_each

if Session is not None:
    from tests.unit.http.http2.sessions import server

WINDOW: Final = 65_536
STREAMS: Final = range(1, 201, 2)
HINTS: Final = block((b":status", b"103"))
OK: Final = block((b":status", b"200"))
TRAILERS: Final = block((b"x-t", b"1"))
ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
REQUEST: Final = b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n"


def feed(session: Session, late: bytes) -> list[tuple[int, int, object]]:
    events = session.feed(late, len(late), 0.0)
    sent(session)  # returns the connection's window
    return events


def client() -> Session:
    """The side of a gateway that is connected to an upstream."""
    return Session(True, False, 0.0, 0, WINDOW, 1 << 20, 32_768, 200)


def begun(is_client: bool, beginning: bytes = b"") -> Session:
    session = client() if is_client else server(connection_window=1 << 23)
    feed(session, (settings() if is_client else frames.BEGINNING) + frames.SETTINGS_ACK + beginning)
    if is_client:
        assert session.request(REQUEST, True) == 1
    sent(session)
    return session


def sent(session: Session) -> bytes:
    return b"".join(iter(session.to_send, b""))


def reset_here() -> Session:
    session = begun(False, post())
    session.reset(1, Code.CANCEL)
    sent(session)
    return session


def reset_unsent() -> Session:
    """As of a client that reads nothing, for which RST_STREAM waits."""
    session = begun(False, post())
    session.reset(1, Code.CANCEL)
    return session


def reset_by_peer() -> Session:
    return begun(False, post() + reset())


def answered() -> Session:
    session = begun(False, get())
    session.respond(1, ANSWER, True)
    sent(session)
    return session


def left() -> Session:
    """One stream goes on after GOAWAY."""
    session = begun(False, get(end=False))
    session.goaway()
    sent(session)
    return session


def cancelled() -> Session:
    session = begun(True)
    session.reset(1, Code.CANCEL)
    sent(session)
    return session


def cancelled_unsent() -> Session:
    session = begun(True)
    session.reset(1, Code.CANCEL)
    return session


def received() -> Session:
    session = begun(True)
    feed(session, headers(OK))
    return session


CLIENTS: Final = [reset_here, reset_unsent, reset_by_peer, answered]
SERVERS: Final = [cancelled, cancelled_unsent, received]
FLOODS: Final = {
    "bytes": (data(b"x", end=False), 1),
    "empty DATA": (data(b"", end=False), 1),
    "frames of DATA": (data(bytes(MAX_FRAME), end=False), MAX_FRAME),
    "padding": (data(b"", end=False, padding=255), 256),
    "trailers": (headers(TRAILERS), 0),
    "long trailers": (headers(TRAILERS, whole=False) + frames.continuation(block((b"x-t", b"x" * 16_000))), 0),
    "resets": (reset(), 0),
    "interim responses": (headers(HINTS, end=False), 0),
}
"""Frames, and bytes that each of them counts as DATA; 0: as one of the others."""


@for_each("closed, flood", [(closed, flood) for closed in (*CLIENTS, *SERVERS) for flood in FLOODS])
def test_a_flood_on_a_closed_stream_ends_the_connection(closed: Callable[[], Session], flood: str) -> None:
    """After two windows of DATA, or some dozens of other frames."""
    unit, size = FLOODS[flood]
    session = closed()
    for _ in range(2 * WINDOW // size + 2 if size else 100):
        assert {kind for kind, _, _ in session.feed(unit, len(unit), 0.0)} <= {CLOSED}
        if session.error is not None:
            break
    ending = sent(session)[-17:]
    assert ending[3] == frames.Type.GOAWAY
    assert int.from_bytes(ending[-4:], "big") in (Code.ENHANCE_YOUR_CALM, Code.STREAM_CLOSED)
    assert session.done


def test_a_flood_in_one_read_ends_the_connection() -> None:
    """However the bytes are cut; what came before it in the same read is not begun."""
    flood = get(stream=3) + FLOODS["frames of DATA"][0] * 100 + get(stream=5)
    for cut in range(len(get(stream=3)), len(get(stream=3)) + 9):
        session = reset_here()
        feed(session, flood[:cut])
        assert feed(session, flood[cut:]) == []
        assert session.error == "too many frames on closed streams"


def test_a_client_that_goes_on_opening_streams_after_goaway_is_closed() -> None:
    session = left()
    for stream in range(3, 2003, 2):
        assert feed(session, get(stream=stream)) == []
        if session.error is not None:
            break
    assert session.error == "too many frames on closed streams"


def in_flight(stream: int, window: int = 65_535) -> bytes:
    pieces = [bytes(min(MAX_FRAME, window - at)) for at in range(0, window, MAX_FRAME)]
    return b"".join(data(piece, stream, end=False) for piece in pieces)


def test_what_was_in_transit_on_streams_that_were_reset_is_no_flood() -> None:
    """On as many as there may be: each has a window of DATA, and other frames."""
    session = begun(False, b"".join(post(stream=stream) for stream in STREAMS))
    for stream in STREAMS:
        session.reset(stream, Code.CANCEL)
    sent(session)
    for stream in STREAMS:
        feed(session, in_flight(stream, WINDOW) + headers(TRAILERS, stream) + reset(stream))
    assert [event[:2] for event in feed(session, get(stream=201))] == [(WHOLE, 201)]
    assert session.error is None


def test_what_was_in_transit_from_a_server_on_cancelled_streams_is_no_flood() -> None:
    session = client()
    feed(session, settings() + frames.SETTINGS_ACK)
    for round_ in range(10):  # a connection is used for long
        streams = [session.request(REQUEST, True) for _ in STREAMS]
        sent(session)
        for stream in streams:
            session.reset(stream, Code.CANCEL)
        sent(session)
        for stream in streams:
            feed(session, headers(HINTS, stream, end=False) + headers(OK, stream, end=False) + in_flight(stream))
            feed(session, headers(TRAILERS, stream) + reset(stream))
        assert session.error is None, round_


def test_a_reset_that_crosses_the_end_of_its_stream_is_no_flood() -> None:
    """RFC 9113 section 8.1: a server that does not need the rest of a request resets the stream after its response."""
    session = client()
    feed(session, settings())
    for _ in range(5000):
        stream = session.request(REQUEST, True)
        sent(session)
        feed(session, headers(OK, stream) + reset(stream, Code.NO_ERROR))
    assert session.error is None


def test_a_client_that_has_not_read_goaway_yet_is_heard_out() -> None:
    """RFC 9113 section 6.8: with as many requests as it may have in flight, and their bodies."""
    session = left()
    for stream in STREAMS[1:]:
        feed(session, post(stream=stream) + in_flight(stream) + headers(TRAILERS, stream))
    assert [event[1] for event in feed(session, data(b"x"))] == [1, 1]
    assert session.error is None
