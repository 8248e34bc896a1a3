"""A session of ours beside one of python-hyper's h2, which is the second opinion on the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from fastgw.http.http2.session import CLOSED, DATA, END, HEAD, MALFORMED, REFUSED, REQUEST, TOO_LONG, WHOLE, Session
from tests.support.http2.frames import PREFACE

Fields = list[tuple[bytes, bytes]]


@dataclass
class Opinion:
    """What one side has understood of a client's bytes."""

    heads: dict[int, Fields] = field(default_factory=dict)
    """Of requests that are served: pseudo-headers first, cookies joined."""
    bodies: dict[int, bytes] = field(default_factory=dict)
    trailers: dict[int, Fields] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    broken: bool = False
    """The connection is over."""


def server(**bounds: int) -> Session:
    options = {
        "max_streams": 100,
        "stream_window": 65_536,
        "connection_window": 1 << 20,
        "header_bytes": 32_768,
        **bounds,
    }
    return Session(False, False, 0.0, header_count=200, **options)


def client() -> Session:
    return Session(True, False, 0.0, 100, 65_536, 1 << 20, 32_768, 200)


def lines(text: bytes) -> Fields:
    return [(name, value) for name, _, value in (line.partition(b": ") for line in text.split(b"\r\n") if line)]


def request_of(text: bytes) -> Fields:
    """The head of a request, in the text of HTTP/1.1, as HTTP/2 has it. What frames a body is left out."""
    start, _, rest = text.partition(b"\r\n")
    method, path, _ = start.split(b" ")
    fields = lines(rest)
    host = [value for name, value in fields if name == b"host"]
    framing = (b"transfer-encoding", b"content-length", b"host")
    return [(b":method", method), (b":path", path), (b":authority", host[0] if host else b"")] + [
        each for each in fields if each[0] not in framing
    ]


def ours(pieces: list[bytes]) -> Opinion:
    session, opinion = server(), Opinion()
    for piece in pieces:
        for kind, stream, value in session.feed(piece, len(piece), 0.0):
            if kind in (HEAD, WHOLE):
                opinion.heads[stream] = request_of(value)
                opinion.bodies[stream] = b""
                if kind == WHOLE:
                    opinion.ended.add(stream)
            elif kind == REQUEST:
                opinion.heads[stream], opinion.bodies[stream] = request_of(value[0]), value[1]
                opinion.ended.add(stream)
            elif kind == DATA:
                opinion.bodies[stream] = opinion.bodies.get(stream, b"") + value
                session.consume(stream, len(value))
            elif kind == END:
                opinion.ended.add(stream)
                if value:
                    opinion.trailers[stream] = lines(value)
            elif kind in (REFUSED, TOO_LONG, MALFORMED) or (kind == CLOSED and value):
                opinion.refused.add(stream)
        while session.to_send():
            pass
        for kind, stream, value in session.events():
            if kind == CLOSED and value:
                opinion.refused.add(stream)
        if session.error is not None or session.done:
            opinion.broken = True
            break
    return opinion


def joined(fields: Fields) -> Fields:
    """As our head has it: method, path, authority, fields, and what was said of cookies in one line at the end."""
    said = dict(fields)
    host = said.get(b":authority") or said.get(b"host", b"")
    cookies = b"; ".join(value for name, value in fields if name == b"cookie")
    rest = [each for each in fields if not each[0].startswith(b":") and each[0] not in (b"host", b"cookie")]
    made = [(b":method", said.get(b":method", b"")), (b":path", said.get(b":path", b"")), (b":authority", host), *rest]
    return [*made, (b"cookie", cookies)] if cookies else made  # an empty one is left out


def theirs(pieces: list[bytes]) -> Opinion:
    config = h2.config.H2Configuration(client_side=False, header_encoding=False)
    connection, opinion = h2.connection.H2Connection(config), Opinion()
    connection.local_settings.max_concurrent_streams = 100
    connection.initiate_connection()
    connection.increment_flow_control_window((1 << 20) - 65_535)
    connection.data_to_send()
    for piece in frame_by_frame(b"".join(pieces)):  # what it has understood before an error it keeps to itself
        try:
            events = connection.receive_data(piece)
        except h2.exceptions.ProtocolError:
            opinion.broken = True
            break
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                opinion.heads[event.stream_id] = joined(plain(event.headers))
                opinion.bodies[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                opinion.bodies[event.stream_id] += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                opinion.trailers[event.stream_id] = plain(event.headers)
            elif isinstance(event, h2.events.StreamEnded):
                opinion.ended.add(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                opinion.refused.add(event.stream_id)
            elif isinstance(event, h2.events.ConnectionTerminated):
                opinion.broken = opinion.broken or event.error_code != 0
        connection.data_to_send()
    return opinion


def frame_by_frame(sent: bytes) -> Iterator[bytes]:
    yield sent[: len(PREFACE)]
    at = len(PREFACE)
    while at < len(sent):
        end = at + 9 + int.from_bytes(sent[at : at + 3])
        yield sent[at:end]
        at = end


def plain(fields: object) -> Fields:
    return [(bytes(name), bytes(value)) for name, value in fields]  # type: ignore[attr-defined]
