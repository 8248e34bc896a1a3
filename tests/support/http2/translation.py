"""A client that writes HTTP/1.1 in a test, while the gateway reads HTTP/2: so that one test holds for both versions.

The test's bytes are judged by h11 and sent on by h2; responses come back in HTTP/1.1, framed by h11. Only framing is
added, and only headers of one connection of HTTP/1.1 are left out.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from http.client import responses
from multiprocessing.connection import wait

import h2.config
import h2.connection
import h2.events
import h2.settings
import h11

from tests.support.client import Client, connect
from tests.support.peer import DEADLINE

OF_HTTP1 = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"host", b"proxy-connection"}
MOST_HEAD = 1 << 20
READ = 65_536
Fields = list[tuple[bytes, bytes]]


class TranslatedClient(Client):
    """A `Client` whose bytes reach the gateway as HTTP/2. A stream that is reset ends the connection.

    `preface`: bytes before all others, such as a PROXY header.
    """

    def __init__(self, address: str, deadline: float = DEADLINE, preface: bytes = b"") -> None:
        ours, theirs = socket.socketpair()
        super(Client, self).__init__(ours, deadline)
        gateway = connect(address, deadline)
        gateway.sendall(preface)
        self._translation = _Translation(theirs, gateway)

    def close(self) -> None:
        super().close()
        self._translation.join()


class _Translation(threading.Thread):
    def __init__(self, client: socket.socket, gateway: socket.socket) -> None:
        super().__init__(daemon=True)
        self._client, self._gateway = client, gateway
        self._http1 = h11.Connection(h11.SERVER, MOST_HEAD)
        config = h2.config.H2Configuration(
            header_encoding=False, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self._http2 = h2.connection.H2Connection(config)
        self._stream = 0  # whose request goes on
        self._pending = bytearray()  # of a request's body that waits for a window
        self._ended = False  # behind it
        self._trailers: Fields = []
        self.start()

    def run(self) -> None:
        self._http2.initiate_connection()
        codes = h2.settings.SettingCodes
        self._http2.update_settings({codes.ENABLE_PUSH: 0, codes.MAX_HEADER_LIST_SIZE: MOST_HEAD})
        with self._client, self._gateway, contextlib.suppress(OSError):
            self._write()
            while self._turn():
                pass

    def _turn(self) -> bool:
        readable = wait([self._client, self._gateway])
        if self._gateway in readable:
            received = self._gateway.recv(READ)
            if not received or not all(map(self._answer, self._http2.receive_data(received))):
                return False
        if self._client in readable:
            received = self._client.recv(READ)
            self._http1.receive_data(received)
            if not received:
                return False
        self._ask()
        self._write()
        return self._http1.our_state is not h11.MUST_CLOSE

    def _write(self) -> None:
        self._send_body()
        if sent := self._http2.data_to_send():
            self._gateway.sendall(sent)

    def _ask(self) -> None:
        """Send on the requests of the test."""
        while True:
            if self._http1.our_state is h11.DONE and self._http1.their_state is h11.DONE:
                self._http1.start_next_cycle()
            event = self._http1.next_event()
            if isinstance(event, h11.Request):
                following = self._http1.next_event()
                self._begin(event, isinstance(following, h11.EndOfMessage))
                event = following
            if isinstance(event, h11.Data):
                self._pending += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._ended, self._trailers = True, plain(event.headers)
            else:
                return

    def _begin(self, request: h11.Request, ends: bool) -> None:
        stream = self._http2.get_next_available_stream_id()
        fields = plain(request.headers)
        head = [(b":method", request.method), (b":scheme", b"http"), (b":path", request.target)]
        head += [(b":authority", value) for name, value in fields if name == b"host"]
        named = b",".join(value for name, value in fields if name == b"connection").lower()
        left_out = OF_HTTP1.union(each.strip() for each in named.split(b","))
        self._http2.send_headers(stream, head + [each for each in fields if each[0] not in left_out], ends)
        self._stream = 0 if ends else stream

    def _send_body(self) -> None:
        stream = self._stream
        if not stream:
            self._ended = False
            return
        while self._pending and (window := self._http2.local_flow_control_window(stream)) > 0:
            part = min(window, len(self._pending), self._http2.max_outbound_frame_size)
            self._http2.send_data(stream, bytes(self._pending[:part]))
            del self._pending[:part]
        if self._ended and not self._pending:
            if self._trailers:
                self._http2.send_headers(stream, self._trailers, end_stream=True)
            else:
                self._http2.end_stream(stream)
            self._ended, self._stream = False, 0

    def _answer(self, event: h2.events.Event) -> bool:
        """Pass on an event of the gateway. False: the connection ends."""
        if isinstance(event, h2.events.InformationalResponseReceived):
            status, fields = taken_apart(event.headers)
            self._respond(h11.InformationalResponse(status_code=status, headers=fields, reason=reason(status)))
        elif isinstance(event, h2.events.ResponseReceived):
            status, fields = taken_apart(event.headers)
            self._respond(h11.Response(status_code=status, headers=fields, reason=reason(status)))
        elif isinstance(event, h2.events.DataReceived):
            self._http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self._respond(h11.Data(data=event.data))
        elif isinstance(event, h2.events.TrailersReceived):
            self._respond(h11.EndOfMessage(headers=[(bytes(name), bytes(value)) for name, value in event.headers]))
        elif isinstance(event, h2.events.StreamEnded):
            if self._http1.our_state is h11.SEND_BODY:
                self._respond(h11.EndOfMessage())
        elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
            return False
        return True

    def _respond(self, event: h11.Event) -> None:
        sent = self._http1.send(event)
        if sent:
            self._client.sendall(sent)


def plain(headers: object) -> Fields:
    return [(bytes(name), bytes(value)) for name, value in headers]  # type: ignore[attr-defined]


def taken_apart(headers: object) -> tuple[int, Fields]:
    (_, status), *fields = plain(headers)
    return int(status), fields


def reason(status: int) -> bytes:
    return responses.get(status, "").encode()
