"""The session: heads in the text of HTTP/1.1 go out as fields that hpack and h2 read, and come back as they were."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
from hpack import Decoder, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.http2.session import (
    CLOSED,
    DATA,
    END,
    HEAD,
    INTERIM,
    PONG,
    REFUSED,
    REQUEST,
    TOO_LONG,
    WHOLE,
    ErrorCode,
    Session,
)
from tests.support.collector import no_collector
from tests.support.http2 import frames
from tests.support.http2.connection_cases import CONNECTION_CASES
from tests.support.http2.flood_cases import FLOOD_CASES, GET
from tests.support.http2.frames import Code, block, data, get, headers, post, settings, window_update
from tests.support.http2.head_cases import HEAD_CASES
from tests.support.table import for_each

if Session is not None:
    from tests.unit.http.http2.sessions import Fields, client, lines, ours, plain, server

TOKEN = st.text("ABCabcXYZxyz09!#$%&'*+-.^_`|~", min_size=1, max_size=20).map(str.encode)
DATA_FRAME = 0
OF_HTTP1 = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"host", b"te"}
OF_HTTP1 |= {b"content-length", b"cookie"}
NAME = TOKEN.filter(lambda name: name.lower() not in OF_HTTP1)
VALUE = st.binary(max_size=40).map(lambda raw: bytes(c for c in raw if (c >= 32 and c != 127) or c == 9).strip(b" \t"))
HEAD_FIELDS = st.lists(st.tuples(NAME, VALUE), max_size=20)
REASON = st.sampled_from([b"OK", b"", b"Not Found", b"a: b"])


class Reader:
    """A client by h2, which has asked one request and reads what our session answers."""

    def __init__(self, session: Session, method: bytes = b"GET") -> None:
        self._session = session
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=False))
        self._connection.initiate_connection()
        asked = [(b":method", method), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/")]
        self._connection.send_headers(1, asked, end_stream=True)
        self.heads: list[Fields] = []
        self.body = b""
        self.ended = False
        self.exchange()

    def exchange(self) -> None:
        """Both sides say what they have to."""
        while True:
            sent = self._connection.data_to_send()
            if sent:
                self._session.feed(sent, len(sent), 0.0)
            came = self._session.to_send()
            if not came and not sent:
                return
            for event in self._connection.receive_data(came):
                if isinstance(
                    event,
                    (h2.events.ResponseReceived, h2.events.InformationalResponseReceived, h2.events.TrailersReceived),
                ):
                    self.heads.append(plain(event.headers))
                elif isinstance(event, h2.events.DataReceived):
                    self.body += event.data
                    self._connection.acknowledge_received_data(event.flow_controlled_length, 1)
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended = True


def address_space() -> int:
    """Return the bytes that this process has reserved, whether or not it has written to them."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def text(start: bytes, fields: Fields) -> bytes:
    return start + b"\r\n" + b"".join(b"%b: %b\r\n" % each for each in fields) + b"\r\n"


@given(st.integers(200, 599), REASON, HEAD_FIELDS, st.binary(max_size=3000))
def test_a_response_is_read_as_it_was_said(status: int, reason: bytes, fields: Fields, body: bytes) -> None:
    session = server()
    reader = Reader(session)
    session.respond(1, text(b"HTTP/1.1 %d %b" % (status, reason), fields) + body, True)
    reader.exchange()
    assert reader.heads == [[(b":status", b"%d" % status), *((name.lower(), value) for name, value in fields)]]
    assert reader.body == body
    assert reader.ended


@given(st.lists(st.binary(min_size=1, max_size=50_000), max_size=6), st.lists(st.tuples(TOKEN, VALUE), max_size=4))
def test_a_body_in_pieces_with_trailers_is_read_as_it_was_said(pieces: list[bytes], trailers: Fields) -> None:
    trailers = [(b"x-" + name, value) for name, value in trailers]
    session = server()
    reader = Reader(session)
    session.respond(1, b"HTTP/1.1 103 Early\r\nlink: a\r\n\r\n", False)
    session.respond(1, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", False)
    for piece in pieces:
        session.send(1, piece)
        reader.exchange()
    session.end(1, b"".join(b"%b: %b\r\n" % each for each in trailers))
    reader.exchange()
    assert reader.heads[:2] == [[(b":status", b"103"), (b"link", b"a")], [(b":status", b"200")]]
    assert reader.heads[2:] == ([[(name.lower(), value) for name, value in trailers]] if trailers else [])
    assert reader.body == b"".join(pieces)
    assert reader.ended


@pytest.mark.parametrize("length", [1, 600])
def test_trailers_are_read_as_they_were_said(length: int) -> None:
    """The fields stay in memory until libnghttp2 has them; `tests.fuzz.test_sanitized` looks at that."""
    session = server()
    reader = Reader(session)
    session.respond(1, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", False)
    session.send(1, b"body")
    session.end(1, b"grpc-status: 0\r\nX-Long: %b\r\n" % (b"v" * length))
    reader.exchange()
    assert reader.heads[1:] == [[(b"grpc-status", b"0"), (b"x-long", b"v" * length)]]
    assert reader.ended


@given(
    st.sampled_from([b"GET", b"POST", b"OPTIONS", b"X-Y"]),
    st.text("abc/?&=%25", max_size=30).map(lambda path: b"/" + path.encode()),
    HEAD_FIELDS,
    st.binary(max_size=3000),
    HEAD_FIELDS,
)
def test_both_of_our_sides_understand_each_other(
    method: bytes, path: bytes, fields: Fields, body: bytes, answered: Fields
) -> None:
    asking, answering = client(), server()
    asked = [(b"Host", b"a.test"), *fields]
    stream = asking.request(text(b"%b %b HTTP/1.1" % (method, path), asked) + body, True)
    events = []
    for kind, _, value in _moved(asking, answering):
        if kind == REQUEST:
            events += [(HEAD, stream, value[0]), (DATA, stream, value[1]), (END, stream, b"")]
        elif kind != PONG:
            events.append((kind, stream, value))
    (head,) = [value for kind, _, value in events if kind in (HEAD, WHOLE)]
    start, _, rest = head.partition(b"\r\n")
    assert start == b"%b %b HTTP/1.1" % (method, path)
    framing = (b"transfer-encoding", b"content-length")
    assert [each for each in lines(rest) if each[0] not in framing] == [(n.lower(), v) for n, v in asked]
    assert b"".join(value for kind, _, value in events if kind == DATA) == body
    assert [kind for kind, _, _ in events][-1] in (END, WHOLE)
    answering.respond(stream, text(b"HTTP/1.1 200 OK", answered) + body, True)
    events = _moved(answering, asking)
    (head,) = [value for kind, _, value in events if kind in (HEAD, WHOLE)]
    assert [each for each in lines(head.partition(b"\r\n")[2]) if each[0] not in framing] == [
        (name.lower(), value) for name, value in answered
    ]
    assert b"".join(value for kind, _, value in events if kind == DATA) == body


def _moved(one: Session, other: Session) -> list[tuple[int, int, object]]:
    """What a session has to say, said to the other; and back, until there is nothing more."""
    events = []
    while True:
        sent, returned = one.to_send(), other.to_send()
        if not sent and not returned:
            return events
        events += other.feed(sent, len(sent), 0.0) if sent else []
        if returned:
            one.feed(returned, len(returned), 0.0)


# --- single facts ---


def fed(*sent: bytes, at: float = 0.0, **bounds: int) -> tuple[Session, list[tuple[int, int, object]]]:
    session = server(**bounds)
    events = list(session.feed(frames.BEGINNING, len(frames.BEGINNING), 0.0))
    for each in sent:
        events += session.feed(each, len(each), at)
    return session, events


def test_a_body_without_a_length_is_in_chunks_upstream():
    _, events = fed(post())
    assert events == [(HEAD, 1, b"POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n")]


def test_a_post_without_a_body_says_so():
    """RFC 9110 section 8.6."""
    _, events = fed(post(end=True))
    assert events[0][2] == b"POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\n\r\n"


def test_cookies_become_one_line_behind_the_others():
    """RFC 9113 section 8.2.3."""
    _, events = fed(get((b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")))
    assert events[0][2] == b"GET / HTTP/1.1\r\nhost: a.test\r\nx: y\r\ncookie: a=1; b=2\r\n\r\n"


@pytest.mark.parametrize(("cookies", "others", "kind"), [(500, 199, WHOLE), (1, 199, WHOLE), (1, 200, TOO_LONG)])
def test_the_cookies_count_as_one_header(cookies: int, others: int, kind: int):
    """RFC 9113 section 8.2.3: clients may send each as a field of its own. They are sent on as one line."""
    fields = [(b"cookie", b"a=%d" % number) for number in range(cookies)]
    fields += [(b"x-%d" % number, b"1") for number in range(others)]
    _, events = fed(get(*fields))
    assert [found for found, _, _ in events] == [kind]


def test_data_is_given_back_by_who_takes_it():
    """Nothing opens the window by itself."""
    session, events = fed(post(), data(b"x" * 16_384, end=False), data(b"x" * 16_384, end=False))
    while session.to_send():
        pass
    assert [kind for kind, _, _ in events] == [HEAD, DATA, DATA]
    session.consume(1, 32_768)
    assert frames.window_update(32_768, 1) in session.to_send()


@for_each(
    ("scheme", "authority", "host", "is_same"),
    [
        (b"http", b"a.test", b"a.test", True),
        (b"http", b"a.test", b"A.Test", True),
        (b"http", b"A.test", b"a.test", True),
        (b"http", b"a.test", b"a.test.", True),
        (b"http", b"a.test", b"a.test:80", True),
        (b"HTTP", b"a.test:80", b"a.test", True),
        (b"https", b"a.test", b"a.test:443", True),
        (b"https", b"[::1]", b"[::1]:443", True),
        (b"http", b"a.test", b"a.test:443", False),
        (b"https", b"a.test", b"a.test:80", False),
        (b"http", b"a.test", b"b.test", False),
        (b"http", b"a.test", b"u@a.test", False),
        (b"http", b"a.test", b"a.test,a.test", False),
    ],
)
def test_a_host_that_names_the_authority_is_accepted(scheme: bytes, authority: bytes, host: bytes, is_same: bool):
    """RFC 9113 section 8.3.1, as in absolute-form over HTTP/1.1 (`test_requests`). Only the authority is read."""
    pseudo = [(b":method", b"GET"), (b":path", b"/"), (b":scheme", scheme), (b":authority", authority)]
    sent = frames.PREFACE + frames.settings() + frames.headers(frames.block(*pseudo, (b"host", host)), 1)
    events = [event for event in server().feed(sent, len(sent), 0.0) if event[1]]
    if is_same:
        assert events == [(WHOLE, 1, b"GET / HTTP/1.1\r\nhost: %b\r\n\r\n" % authority)]
    else:
        assert [kind for kind, _, _ in events] == [REFUSED]


def test_a_client_that_does_not_acknowledge_settings_has_one_window_of_the_connection():
    """Until it does, each of its streams has the window that it would have without them."""
    session = server()
    opened = b"".join(post(stream=stream) for stream in range(1, 200, 2))
    received = frames.BEGINNING + opened
    session.feed(received, len(received), 0.0)
    held = 0
    for stream in range(1, 200, 2):
        for _ in range(4):
            piece = data(b"x" * 16_000, stream, end=False)
            held += sum(len(value) for kind, _, value in session.feed(piece, len(piece), 0.0) if kind == DATA)
    assert 0 < held <= 1 << 20


def test_heads_that_several_connections_receive_at_the_same_time_are_not_mixed() -> None:
    """Each is complete in itself, however the reads alternate; one that is never complete is forgotten."""
    sessions = [fed()[0] for _ in range(4)]
    heads = [get((b"x-%d" % number, b"%d" % number * 3000), path=b"/%d" % number) for number in range(4)]
    texts: dict[int, object] = {}
    for at in range(0, 4000, 500):
        for number, session in enumerate(sessions):
            piece = heads[number][at : at + 500]
            if number == 3 and at:
                continue
            for kind, _, value in session.feed(piece, len(piece), 0.0):
                assert kind == WHOLE
                texts[number] = value
    assert texts == {
        number: b"GET /%d HTTP/1.1\r\nhost: a.test\r\nx-%d: %b\r\n\r\n" % (number, number, b"%d" % number * 3000)
        for number in range(3)
    }


@pytest.mark.parametrize("trailers", [b"", b"a: b\r\n"])
def test_output_is_bounded_and_frames_of_a_long_body_follow_each_other(trailers: bytes) -> None:
    """In pieces that end within frames, and with a length that is no multiple of a frame's."""
    session, _ = fed(settings((4, 1 << 20)), window_update(1 << 20), get())
    body = bytes(range(251)) * 2000
    session.respond(1, b"HTTP/1.1 200 OK\r\n\r\n" + body[:1], False)
    for at in range(1, len(body), 40_000):
        session.send(1, body[at : at + 40_000])
    session.end(1, trailers)
    pieces = list(iter(session.to_send, b""))
    assert max(map(len, pieces)) <= MOST_SENT
    found = list(received(b"".join(pieces)))
    assert b"".join(payload for kind, _, payload in found if kind == DATA_FRAME) == body
    assert [flags for kind, flags, _ in found][-1] & 1
    assert session.held_by_all == 0


MOST_SENT = 65_536 + 9 + 16_384


def test_output_is_bounded_when_headers_follow_a_long_body_in_it() -> None:
    """Trailers, of which libnghttp2 returns the frame from the call in which it has had the last data sent."""
    lengths = set()
    for first in range(0, 17_000, 120):
        session, _ = fed(settings((4, 1 << 20)), window_update(1 << 20), get(), get(stream=3))
        session.to_send()
        trailers = b"a: %b\r\n" % (b"z" * 9000)
        session.respond(1, b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (32_768 + first), True)
        session.respond(3, b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * 32_768, True, trailers)
        pieces = list(iter(session.to_send, b""))
        lengths.add(max(map(len, pieces)))
        found = list(received(b"".join(pieces)))
        assert sum(len(payload) for kind, _, payload in found if kind == DATA_FRAME) == 65_536 + first
        assert [flags & 1 for _, flags, _ in found].count(1) == 2
        assert session.held_by_all == 0
    assert 65_536 < max(lengths) <= MOST_SENT


def test_output_to_a_server_is_bounded_when_headers_follow_a_long_body_in_it() -> None:
    lengths = set()
    for first in range(0, 16_384, 16):
        session = client()
        session.to_send()
        session.feed(settings(), len(settings()), 0.0)
        session.to_send()
        head = b"POST / HTTP/1.1\r\nhost: a\r\nx: %b\r\n\r\n" % (b"^" * 8500)
        for body, trailers in ((b"x" * (first + 1), b""), (b"y" * 49_152, b"t: %b\r\n" % (b"^" * 20))):
            stream = session.request(head, False)
            session.send(stream, body)
            session.end(stream, trailers)
        lengths.add(len(session.to_send()))
    assert 65_536 < max(lengths) <= MOST_SENT


def test_a_stream_that_is_reset_while_its_body_is_half_sent_has_no_further_frame() -> None:
    session, _ = fed(settings((4, 1 << 20)), window_update(1 << 20), get(), get(stream=3))
    session.respond(1, b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000, True)
    assert session.to_send()
    assert session.held_by_all > 0
    session.feed(frames.reset(1), len(frames.reset(1)), 0.0)
    assert session.to_send() == b""
    assert session.held_by_all == 0
    session.respond(3, b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * 100, True)
    assert b"".join(payload for kind, _, payload in received(session.to_send()) if kind == DATA_FRAME) == b"y" * 100


def received(sent: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield kind, flags and payload of each frame."""
    while sent:
        length = int.from_bytes(sent[:3], "big")
        yield sent[3], sent[4], sent[9 : 9 + length]
        sent = sent[9 + length :]


def test_small_pieces_that_wait_go_out_in_order():
    """However many: they are taken one by one from the front."""
    session = server()
    reader = Reader(session)
    session.respond(1, b"HTTP/1.1 200 OK\r\n\r\n", False)
    pieces = [b"%05d" % number for number in range(30_000)]
    for piece in pieces:
        session.send(1, piece)
    session.end(1, b"")
    reader.exchange()
    assert reader.body == b"".join(pieces)
    assert session.held_by_all == 0


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("count", [9, 5000])
@pytest.mark.parametrize("continued", [block((b"x-a", b"1")), b""], ids=["with a field", "empty"])
def test_more_than_8_continuation_frames_are_a_flood(continued: bytes, count: int, step: int) -> None:
    """CVE-2024-27316: whichever of the two limits is first, that of nghttp2 or that of the session."""
    session = server()
    sent = frames.BEGINNING + headers(GET, whole=False) + frames.continuation(continued, whole=False) * count
    for begin in range(0, len(sent), step or len(sent)):
        piece = sent[begin : begin + (step or len(sent))]
        assert session.feed(piece, len(piece), 0.0) == []
        if session.error is not None:
            break
    assert session.to_send().endswith(frames.goaway(1, Code.ENHANCE_YOUR_CALM))
    assert session.done


def test_8_continuation_frames_are_none() -> None:
    sent = headers(GET, whole=False) + frames.continuation(b"", whole=False) * 7 + frames.continuation(b"")
    session, events = fed(sent)
    assert [(kind, stream) for kind, stream, _ in events] == [(WHOLE, 1)]
    assert session.error is None


def test_pings_of_hours_are_no_flood():
    """One in ten seconds, on a connection whose only stream is quiet."""
    session, _ = fed(post())
    for number in range(10_000):
        ping = frames.ping()
        session.feed(ping, len(ping), 10.0 * number)
        assert frames.ping(flags=1) in session.to_send()
    assert session.error is None


class Receiver:
    """A peer that is sent a body on stream 1. `returned_per`: bytes for which it returns both windows, by a frame each.

    A server of Go before 1.20 returns them for each read of a body; later ones, and clients of Go, for 4 KiB.
    """

    def __init__(self, is_server: bool, window: int) -> None:
        beginning = settings((4, window)) + window_update(window - 65_535)
        self.session = session = client() if is_server else fed(get())[0]
        session.feed(beginning, len(beginning), 0.0)
        if is_server:
            assert session.request(b"POST / HTTP/1.1\r\nhost: a.test\r\n\r\n", False) == 1
        else:
            session.respond(1, b"HTTP/1.1 200 OK\r\n\r\n", False)
        session.to_send()  # what comes before the body

    def receive(self, returned_per: int) -> int:
        """Receive all that the windows allow, then return them. Returns the number of bytes."""
        sent = b"".join(iter(self.session.to_send, b""))
        length = sum(len(payload) for kind, _, payload in received(sent) if kind == DATA_FRAME)
        updates = (window_update(returned_per) + window_update(returned_per, 1)) * (length // returned_per)
        self.session.feed(updates, len(updates), 0.0)
        assert self.session.error is None
        return length

    def may_send_updates(self, count: int) -> bool:
        updates = window_update(1, 1) * count
        self.session.feed(updates, len(updates), 0.0)
        assert self.session.error in (None, "too many control frames")
        return self.session.error is None


@pytest.mark.parametrize("is_server", [False, True], ids=["client", "server"])
@pytest.mark.parametrize("window", [65_536, 1 << 22])
@pytest.mark.parametrize("piece", [512, 1024, 4096])
def test_a_window_that_is_returned_in_small_pieces_is_no_flood(is_server: bool, window: int, piece: int) -> None:
    """When to return it is the receiver's choice (RFC 9113 section 6.9): it may have been sent all of its window."""
    receiver = Receiver(is_server, window)
    received_bytes = 0
    while received_bytes < 10_000_000:
        receiver.session.send(1, b"x" * window)
        assert receiver.receive(piece) == window
        received_bytes += window


@pytest.mark.parametrize("is_server", [False, True], ids=["client", "server"])
def test_a_window_that_is_returned_in_two_reads_of_each_small_message_is_no_flood(is_server: bool) -> None:
    """As of gRPC: the prefix of 5 bytes, and the message."""
    receiver = Receiver(is_server, 65_536)
    for _ in range(5000):
        receiver.session.send(1, bytes(10))
        assert receiver.receive(5) == 10


@pytest.mark.parametrize("is_server", [False, True], ids=["client", "server"])
def test_window_updates_beyond_those_for_sent_data_are_a_flood(is_server: bool) -> None:
    assert Receiver(is_server, 65_536).may_send_updates(990)
    assert not Receiver(is_server, 65_536).may_send_updates(1001)
    receiver = Receiver(is_server, 1 << 20)
    receiver.session.send(1, bytes(1 << 20))
    assert receiver.receive(1 << 20) == 1 << 20
    assert receiver.may_send_updates(10_000)
    assert not receiver.may_send_updates(10_000)


def test_window_updates_are_saved_up_for_no_more_than_a_large_window() -> None:
    receiver = Receiver(False, 1 << 20)
    for _ in range(20):
        receiver.session.send(1, bytes(1 << 20))
        assert receiver.receive(1 << 20) == 1 << 20
    assert not receiver.may_send_updates(101_001)


def test_resets_of_hours_are_no_flood():
    session, _ = fed()
    for number in range(5_000):
        sent = get(stream=2 * number + 1) + frames.reset(2 * number + 1)
        session.feed(sent, len(sent), float(number))
        session.to_send()
    assert session.error is None


def test_a_stream_beyond_the_limit_is_refused_without_a_request():
    """The client may not have read the limit yet. A flood of them is one of resets."""
    session = server(max_streams=1)
    first, numbers = frames.PREFACE + settings() + get(), range(3, 203, 2)
    assert [event[:2] for event in session.feed(first, len(first), 0.0)] == [(WHOLE, 1)]
    session.to_send()
    refused = b"".join(get(stream=number) for number in numbers)
    assert session.feed(refused, len(refused), 0.0) == []
    assert session.to_send() == b"".join(frames.reset(number, Code.REFUSED_STREAM) for number in numbers)
    assert session.error is None
    more = get(stream=203)
    session.feed(more, len(more), 0.0)
    assert session.to_send() == frames.reset(203, Code.REFUSED_STREAM)
    session.events()
    assert session.to_send() == frames.goaway(1, Code.ENHANCE_YOUR_CALM)


def test_our_own_failures_are_not_held_against_the_client():
    session, _ = fed()
    for number in range(1, 1001, 2):
        sent = get(stream=number)
        session.feed(sent, len(sent), 0.0)
        session.reset(number, ErrorCode.INTERNAL_ERROR)
        session.to_send()
    assert session.error is None


def test_trailers_of_a_stream_that_was_reset_here_are_ignored():
    """RFC 9113 section 5.1: they were on their way."""
    session, _ = fed(post())
    session.reset(1, ErrorCode.CANCEL)
    session.to_send()
    assert session.events() == [(CLOSED, 1, ErrorCode.CANCEL)]
    late = headers(block((b"x-t", b"1"))) + get(stream=3)
    assert [(kind, stream) for kind, stream, _ in session.feed(late, len(late), 0.0)] == [(WHOLE, 3)]
    assert session.error is None


def test_streams_above_the_last_one_are_ignored():
    """RFC 9113 section 6.8: with their trailers, while those below it go on."""
    session, _ = fed(post())
    session.goaway()
    session.to_send()
    late = post(stream=3) + data(b"x", 3, end=False) + headers(block((b"x-t", b"1")), 3) + data(b"x")
    assert [(kind, stream) for kind, stream, _ in session.feed(late, len(late), 0.0)] == [(DATA, 1), (END, 1)]
    assert session.error is None


def test_nothing_is_begun_behind_an_error():
    """Of one piece of bytes, too: what comes in front of a flood is not begun either, as the connection is over."""
    _, events = fed(get(stream=1) + frames.ping(b"") + get(stream=3), frames.ping() * 2000 + get(stream=5))
    assert not [stream for kind, stream, _ in events if kind in (HEAD, WHOLE) and stream != 1]


@pytest.mark.parametrize("count", [255, 256, 257, 600])
def test_many_fields_of_a_response(count: int):
    """Those of an upstream are bounded by `limits.header_count`, not by what is on a stack here."""
    session = server()
    reader = Reader(session)
    session.respond(1, text(b"HTTP/1.1 200 OK", [(b"x-%d" % number, b"1") for number in range(count - 1)]), True)
    reader.exchange()
    assert len(reader.heads[0]) == count


@pytest.mark.parametrize("length", [10, 900, 5000])
def test_names_of_a_response_however_long(length: int):
    """They are made lower case in memory that does not move, for more of them than is usual as well."""
    session = server()
    reader = Reader(session)
    fields = [(b"X-%d-%b" % (number, b"N" * length), b"v" * number) for number in range(4)]
    session.respond(1, text(b"HTTP/1.1 200 OK", [*fields, (b"X-Short", b"1")]) + b"body", True)
    reader.exchange()
    assert reader.heads[0] == [(b":status", b"200"), *[(n.lower(), v) for n, v in fields], (b"x-short", b"1")]
    assert reader.body == b"body"


def test_heads_that_wait_to_be_sent_are_sent_as_they_were_said():
    """Many at once, of which the client resets some before: the memory of each lasts until it is sent."""
    gets = [get(stream=stream) for stream in range(1, 41, 2)]
    session, _ = fed(settings((4, 1 << 20)), window_update(1 << 20), *gets)
    session.to_send()
    for stream in range(1, 41, 2):
        head = [(b"X-Stream", b"%d" % stream), (b"X-%d" % stream, b"v" * stream)]
        session.respond(stream, text(b"HTTP/1.1 200 OK", head) + b"%d" % stream, True)
    gone = b"".join(frames.reset(stream) for stream in range(3, 41, 4))
    session.feed(gone, len(gone), 0.0)
    decoder, heads, bodies = Decoder(), [], []
    for kind, _, payload in received(session.to_send()):
        if kind == DATA_FRAME:
            bodies.append(payload)
        else:
            heads.append(plain(decoder.decode(payload, raw=True)))
    left = range(1, 41, 4)
    assert sorted(bodies) == sorted(b"%d" % stream for stream in left)
    assert heads == [
        [(b":status", b"200"), (b"x-stream", b"%d" % stream), (b"x-%d" % stream, b"v" * stream)] for stream in left
    ]


NO_RESPONSES = [
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\na: b",
    b"HTTP/1.1 200 OK\r\na: b\r",
    b"HTTP/1.1 200 OK\r\na: b\r\n",
    b"HTTP/1.1 200 OK\r\na: b\r\n\r",
    b"HTTP/1.1 200 OK\r\na: b\r\n\r-body",
    b"HTTP/1.1 200 OK\r\n%b: b\r\n" % (b"n" * 2000),
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r",
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 20\r\n\r\n",
    b"HTTP/1.1 \r\n\r\n",
    b"HTTP/1\r\n\r\n",
    b"\r\n\r\n",
    b"",
]


@for_each("ended", [True, False])
@for_each("message", NO_RESPONSES)
def test_a_message_that_is_no_head_is_an_error_of_the_caller(message: bytes, ended: bool):
    """Nothing behind its end is read, and nothing of it is sent."""
    session, _ = fed(get())
    session.to_send()
    with pytest.raises(ValueError, match=r"colon|end|no head|no status line"):
        session.respond(1, message, ended)
    assert session.to_send() == b""
    assert session.held_by_all == 0


@pytest.mark.parametrize(
    "message",
    [b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nhost: a.test\r\n"],
)
def test_a_message_that_is_no_head_of_a_request_is_an_error_of_the_caller(message: bytes):
    session = client()
    session.to_send()
    with pytest.raises(ValueError, match=r"end|no head|no request line"):
        session.request(message, True)
    assert session.to_send() == b""


@pytest.mark.parametrize("body", [b"second", b""])
@pytest.mark.parametrize("sent", [False, True], ids=["the first is queued", "its body waits"])
def test_a_second_response_on_a_stream_is_an_error_of_the_caller(sent: bool, body: bytes):
    """libnghttp2 has pointers into the first until it is sent, which is sent as it was said."""
    session, _ = fed(settings((4, 0)), get())
    session.to_send()
    session.respond(1, b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nfirst", True)
    sent_before = session.to_send() if sent else b""
    with pytest.raises(ValueError, match="a response already"):
        session.respond(1, b"HTTP/1.1 500 Oh\r\nX-B: 2\r\n\r\n" + body, True)
    update = window_update(100, 1)
    session.feed(update, len(update), 0.0)
    first, second = received(sent_before + session.to_send())
    assert plain(Decoder().decode(first[2], raw=True)) == [(b":status", b"200"), (b"x-a", b"1")]
    assert second[2] == b"first"
    assert session.held_by_all == 0


@pytest.mark.parametrize("long", [(b"Content-Security-Policy", b"v" * 1100), (b"X-" + b"N" * 1100, b"v")])
def test_responses_that_wait_take_no_memory_for_their_bodies_once_more(long: tuple[bytes, bytes]):
    """That of their names is of the length of the head at most, for as long as a client does not read."""
    streams = range(1, 200, 2)
    session, _ = fed(settings((4, 0)), *[get(stream=stream) for stream in streams])
    message = text(b"HTTP/1.1 200 OK", [long]) + b"b" * 1_000_000  # one body, which they have in common
    before = address_space()
    for stream in streams:
        session.respond(stream, message, True)
        session.to_send()
    assert session.held_by_all == len(streams) * 1_000_000
    assert address_space() - before < 20_000_000


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization",
        b"RateLimit",
        b"RateLimit-Remaining",
        b"RateLimit-Reset",
        b"traceparent",
        b"X-RateLimit-Remaining",
        b"X-RateLimit-Reset",
        b"X-Request-ID",
    ],
)
def test_a_value_of_one_message_is_no_entry_of_the_table(name: bytes):
    """RFC 7541 section 6.2.3. The table is for values that come again."""
    session, _ = fed(get())
    session.to_send()
    session.respond(1, b"HTTP/1.1 200 OK\r\nX-A: 1\r\n%b: 42\r\nX-RateLimit-Limit: 50\r\n\r\n" % name, True)
    fields = Decoder().decode(session.to_send()[9:], raw=True)
    assert [field[0] for field in fields if isinstance(field, NeverIndexedHeaderTuple)] == [name.lower()]


def test_a_date_is_an_entry_of_the_table_once_it_has_come_twice() -> None:
    """Otherwise a connection with a response in some seconds would fill the table with dates of the past."""
    session, _ = fed(*[get(stream=stream) for stream in range(1, 41, 2)])
    session.to_send()
    decoder, lengths = Decoder(), []
    for number in range(20):
        second = number if number < 15 else 15
        head = b"HTTP/1.1 200 OK\r\nServer: a\r\nDate: Fri, 27 Nov 2026 15:00:%02d GMT\r\n\r\n" % second
        session.respond(2 * number + 1, head, True)
        sent = session.to_send()[9:]
        lengths.append(len(sent))
        assert decoder.decode(sent, raw=True)[-1] == (b"date", b"Fri, 27 Nov 2026 15:00:%02d GMT" % second)
    table = [(bytes(name), bytes(value)) for name, value in decoder.header_table.dynamic_entries]
    assert table == [(b"date", b"Fri, 27 Nov 2026 15:00:15 GMT"), (b"server", b"a")]
    assert lengths[17:] == [3, 3, 3]  # all three fields are entries


def test_a_head_above_the_bounds_is_told_of_with_its_beginning():
    """For the log, and as it says in which form the refusal has to be."""
    fields = [(b"content-type", b"application/grpc"), *[(b"x-%d" % number, b"1") for number in range(300)]]
    _, events = fed(get(*fields, path=b"/long"))
    read = b"".join(b"%b: %b\r\n" % each for each in fields[:200])
    assert events == [(TOO_LONG, 1, b"GET /long HTTP/1.1\r\nhost: a.test\r\n%b\r\n" % read)]


CASES = [case for case in (*CONNECTION_CASES, *HEAD_CASES, *FLOOD_CASES) if isinstance(case.sent, bytes)]


@pytest.mark.parametrize("step", [0, 3, 7], ids=["whole", "in threes", "in sevens"])
def test_hostile_bytes_are_judged_alike_however_they_are_cut(step: int) -> None:
    """All cases, without sockets: with sanitizers as well, where that is how the module is built."""
    for case in CASES:
        sent = case.preface + case.sent
        if step and len(sent) > 3000:
            continue
        cut = [sent[at : at + step] for at in range(0, len(sent), step)] if step else [sent]
        opinion = ours(cut)
        assert all(stream % 2 for stream in opinion.heads), case.name
        if case.is_served:
            assert case.stream in opinion.heads, case.name
            assert not opinion.broken, case.name


def test_codes_are_told_of_streams_that_close():
    session, _ = fed(get())
    session.reset(1, ErrorCode.CANCEL)
    session.to_send()
    assert session.events() == [(CLOSED, 1, ErrorCode.CANCEL)]
    assert INTERIM != REFUSED


@pytest.mark.parametrize("is_server", [True, False])
def test_a_session_goes_at_once_with_what_it_has_not_sent(is_server: bool) -> None:
    """A cycle would keep the body until Python's collector comes to it."""

    def count() -> int:
        return sum(type(each).__module__ == Session.__module__ for each in gc.get_objects())

    with no_collector():
        before = count()
        if is_server:
            session, _ = fed(get())
            session.respond(1, b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100_000), False)
        else:
            session = client()
            assert session.request(b"POST / HTTP/1.1\r\nHost: a.test\r\n\r\n" + bytes(100_000), False) == 1
        while session.to_send():
            pass
        assert session.held_by_all
        assert count() == before + 2
        del session
        assert count() == before


class TestRequestsInOnePiece:
    """A request whose head and body come in one read is one event; in all other cases it is several."""

    TEXT = b"POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n"

    @staticmethod
    def feed(*pieces: bytes) -> list[tuple[int, int, object]]:
        session = server()
        session.feed(frames.BEGINNING, len(frames.BEGINNING), 0.0)
        events = []
        for piece in pieces:
            events += [each for each in session.feed(piece, len(piece), 0.0) if each[0] != PONG]
        return events

    def test_one(self) -> None:
        assert self.feed(post(stream=1) + data(b"body", 1)) == [(REQUEST, 1, (self.TEXT, b"body"))]

    @pytest.mark.parametrize(
        ("method", "fields", "text"),
        [
            (b"POST", [], b"content-length: 0\r\n"),  # RFC 9110 section 8.6
            (b"GET", [], b""),
            (b"POST", [(b"content-length", b"0")], b"content-length: 0\r\n"),
        ],
    )
    def test_one_whose_body_is_empty_is_one_without_a_body(
        self, method: bytes, fields: list[tuple[bytes, bytes]], text: bytes
    ) -> None:
        lines = [(b":method", method), (b":path", b"/"), (b":scheme", b"http"), (b":authority", b"a.test"), *fields]
        head = b"%b / HTTP/1.1\r\nhost: a.test\r\n%b\r\n" % (method, text)
        sent = headers(block(*lines), 1, end=False) + data(b"", 1)
        assert self.feed(sent) == [(WHOLE, 1, head)]
        assert self.feed(headers(block(*lines), 1)) == [(WHOLE, 1, head)]

    def test_several_whose_bodies_follow_all_heads(self) -> None:
        sent = post(stream=1) + post(stream=3) + data(b"b", 3) + data(b"a", 1)
        assert self.feed(sent) == [(REQUEST, 1, (self.TEXT, b"a")), (REQUEST, 3, (self.TEXT, b"b"))]

    @pytest.mark.parametrize(
        ("pieces", "kinds"),
        [
            ((post(stream=1), data(b"a", 1)), [HEAD, DATA, END]),
            ((post(stream=1) + data(b"a", 1, end=False), data(b"", 1)), [HEAD, DATA, END]),
            ((post(stream=1) + data(b"a", 1, end=False) + data(b"b", 1),), [HEAD, DATA, DATA, END]),
            (
                (
                    post(stream=1)
                    + data(b"a", 1, end=False)
                    + data(b"b", 1, end=False)
                    + data(b"c", 1, end=False)
                    + data(b"", 1),
                ),
                [HEAD, *[DATA] * 3, END],
            ),
            ((post(stream=1), data(b"", 1)), [HEAD, END]),
            ((post(stream=1) + data(b"a", 1, end=False) + headers(block((b"x", b"y"))),), [HEAD, DATA, END]),
        ],
    )
    def test_others(self, pieces: tuple[bytes, ...], kinds: list[int]) -> None:
        assert [kind for kind, _, _ in self.feed(*pieces)] == kinds
