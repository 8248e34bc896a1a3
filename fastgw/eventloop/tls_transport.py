"""A socket's transport that speaks TLS, for either side of a connection; independent of HTTP.

Subclasses do the handshake: `downstream.tls.connection` as server, `upstream.connections.tls_client` as client.
Everything else is the same for both: either direction may end separately (`write_eof`, `eof_received`; RFC 8446 section
6.1), reading and writing have backpressure as over plain TCP, and a proper end is distinguished from a truncation.

uvloop's own TLS is not used. It cannot end one direction and continue in the other, which tunnels and early responses
need; it holds a buffer of 256 KiB for each connection and as much for unread data; and a client that does not speak TLS
cannot get a response. Here OpenSSL works on memory BIOs, and its output is sent in the same turn.

Rule 1: the protocol above is not called before the handshake is complete. Rule 2: output of OpenSSL is sent before
anything else happens. Rule 3: one memory BIO of the worker serves all connections, so it is empty whenever other code
is called: data that is not decrypted yet is taken out of it (`_kept`).
"""

import re
import ssl
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final

import cython

from fastgw.eventloop.body_reads import BODY_BYTES_PER_TURN, FRAMING_COST
from fastgw.eventloop.openssl_records import decrypt, encrypt, pending_in
from fastgw.eventloop.socket_transport import SocketTransport, StreamProtocol
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.net.client_hello import LONGEST_RECORD

MOST_SEALED: Final = 4 * LONGEST_RECORD
"""Maximum bytes that are encrypted before they are sent: OpenSSL's memory never shrinks."""
OWN_ANSWERS: Final = 1024
"""Bytes that TLS itself may send on a connection, some 40 key updates, plus a 64th of the received data.

PERF: 1,200 key updates in one read held up all other clients of a worker for 100 ms and more (OpenSSL 3.0).
"""

_ORIGIN: Final = re.compile(r"^\[[^]]*] | \([^()]*\.c:[0-9]+\)$")
"""Parts of an error's text that say where it comes from, as in `[SSL] bad length (_ssl.c:1006)`."""


def text_of(error: ssl.SSLError) -> str:
    """Return the reason of an error, such as an alert, in a few words for logs."""
    if error.reason:
        return error.reason.lower().replace("_", " ")
    return _ORIGIN.sub("", str(error)) or type(error).__name__  # CPython has no `reason` for newer errors of OpenSSL


class Stage(IntEnum):
    SILENT = 1  # the handshake has not begun
    SHAKING = 2
    OPEN = 3
    CLOSING = 4  # written data is sent, then it closes
    CLOSED = 5


SILENT, SHAKING, OPEN, CLOSING, CLOSED = Stage


class TlsTransport(SocketTransport):
    """One connection. Without a protocol it is in its handshake."""

    def __init__(self, worker_loop: WorkerLoop, fd: int) -> None:
        """Take over a socket, as `SocketTransport` does."""
        SocketTransport.__init__(self, worker_loop, fd)
        self.plain_fd = -1
        self.worker_loop = worker_loop
        self.stage = SILENT
        self.memory = memory = worker_loop.tls_memory
        self._buffer = memory.buffer
        self._tls: ssl.SSLObject = None  # type: ignore[assignment]  # set by `_begin_handshake`
        self._kept = b""  # received, and not decrypted: reading was paused
        self._session: Any = None  # the object of OpenSSL in `_tls`; set by `_open`
        self._unread = False  # there is such data, or data in OpenSSL, or the end
        self._paused = False
        self.resting = False  # until other connections have had their turn (`Rests`)
        self.read_since_rest = 0
        self._framing = -LONGEST_RECORD  # uncounted bytes of overhead or data: OpenSSL may hold as many
        self._got = 0  # bytes of data
        self._own_answers = 0  # bytes that TLS itself has sent
        self._peer_ended = False
        self.is_truncated = False
        """Whether the peer has ended the connection without `close_notify`, and that is accepted as an end."""
        self._ended = False
        self._end_due = False  # as soon as the received data is read

    # methods of subclasses

    def _received_early(self, received: memoryview) -> None:
        """Handle bytes before the end of the handshake."""
        raise NotImplementedError

    def _handshake_completed(self, last: bytes) -> None:
        """Handle the completed handshake. `last`: its last bytes to be sent (`_send`)."""
        raise NotImplementedError

    def _not_shaken(self, error: OSError | None) -> None:
        """Handle a failed handshake, or a connection that was lost before its end (None: it was closed)."""
        raise NotImplementedError

    def _cut_off(self) -> None:
        """Handle an end of the connection without `close_notify`."""
        raise NotImplementedError

    def _flooded(self, why: str) -> None:
        """Handle an error that ends the connection (`_lose_connection`)."""
        raise NotImplementedError

    def _note(self, error: Exception | None) -> None:
        """Record what ends the connection."""

    # what is read from the socket

    def _space(self) -> Any:
        return self._buffer

    def _take(self, count: cython.Py_ssize_t) -> None:
        if self.stage is OPEN:
            got = self._got
            self._decipher_counted(self._buffer[:count])
            # Records without data (key updates, alerts) cost much more to read than data.
            memory = self.memory
            self._buffer = memory.buffer if 2 * (self._got - got) >= count else memory.small_buffer
        elif self.stage < OPEN:
            self._received_early(self._buffer[:count])

    def _take_end(self) -> bool:
        if self.protocol is None:
            self._not_shaken(None)
            return False
        if not self._peer_ended:  # otherwise it has sent `close_notify` before
            self._cut_off()
        return self.stage is OPEN

    def _take_loss(self, error: Exception | None) -> None:
        self._note(error)
        if self.protocol is not None:
            above: StreamProtocol = self.protocol
            self.protocol = None
            self._shut()
            above.connection_lost(error)
        elif self.stage < OPEN:
            self._not_shaken(error if isinstance(error, OSError) else None)

    # the handshake

    def _begin_handshake(self, tls: ssl.SSLObject, received: bytes = b"") -> None:
        """`tls`: created on the worker loop's memory. `received`: the bytes so far."""
        self.stage = SHAKING
        self._tls = tls
        self._do_handshake(received)

    def _do_handshake(self, received: bytes | memoryview) -> None:
        incoming = self.memory.incoming
        incoming.write(received)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            incoming.read()
            self._flush()  # an alert, which tells the peer why
            self._not_shaken(error)
        else:
            self._kept = incoming.read()
            self._handshake_completed(self.memory.outgoing.read())

    def _open(self, above: StreamProtocol) -> None:
        """Hand the connection to the protocol above. The subclass calls it, and continues with `_read_early`."""
        self.stage = OPEN
        self.protocol = above
        self._session = self._tls._sslobj  # type: ignore[attr-defined]

    def _read_early(self) -> None:
        """Pass on the data that was received with the end of the handshake."""
        if self._kept:
            self._unread = True
            if not self._paused:
                self._read_kept()

    # bytes

    def _decipher_counted(self, sealed: bytes | memoryview) -> None:
        """Decrypt, and rest after many records: a small one costs as much as a large one. The protocol above counts
        data.
        """
        got = self._got
        self._decipher(sealed)
        self._framing += len(sealed) - len(self._kept) - (self._got - got)
        if self._framing > 0:
            self.read_since_rest += FRAMING_COST * self._framing
            self._framing = 0
            if self.read_since_rest >= BODY_BYTES_PER_TURN and self.stage is OPEN:
                SocketTransport.pause_reading(self)
                if not self.resting:
                    self.worker_loop.reads.rests.wait_for_turn(self)

    def _decipher(self, sealed: bytes | memoryview) -> None:
        """Pass on received data until reading is paused."""
        incoming, outgoing = self.memory.incoming, self.memory.outgoing
        session = self._session
        above: StreamProtocol = self.protocol  # type: ignore[assignment]  # there is one in `OPEN`
        while True:
            buffer = above.buffer
            count, ended, error = decrypt(session, incoming, sealed, buffer)
            sealed = self._kept = incoming.read() if pending_in(incoming) else b""
            self._unread = ended or bool(sealed) or (count == len(buffer) and session.pending() > 0)
            self._got += count
            if error is not None:
                self._flush()  # an alert
            elif pending_in(outgoing) and not self._answer_records():
                return
            if count:
                above.buffer_updated(count)
                if self.stage is not OPEN:
                    return
                above = self.protocol  # type: ignore[assignment]  # it may have been replaced
            if error is not None:
                self._break(error)
                return
            if self._paused or not self._unread:
                break
            self._kept = b""
            if ended:
                self._unread = False
                self._end_of_peer(above)
                break
        if self._end_due and not self._tls.pending():
            self._say_end()

    def _answer_records(self) -> bool:
        """Send the output of TLS itself. False: it was too much for the received data, and the connection was ended."""
        self._own_answers += self.memory.outgoing.pending
        if self._own_answers > OWN_ANSWERS + self._got // 64:
            self.memory.outgoing.read()
            self._flooded("records without data came without end")
            return False
        self._flush()
        return True

    def _end_of_peer(self, above: StreamProtocol) -> None:
        """Handle `close_notify` of the peer."""
        if not self._peer_ended:
            self._peer_ended = True
            if not above.eof_received() and self.stage is OPEN:
                self.close()

    def _flush(self) -> None:
        self._send(self.memory.outgoing.read())

    def _send(self, sealed: bytes) -> None:
        if sealed and not self._ended:
            SocketTransport.write(self, sealed)

    def _break(self, error: ssl.SSLError) -> None:
        """Close after bytes that are not TLS, or were manipulated, an alert, or a truncation."""
        self._flush()
        self._lose_connection(error)

    def _lose_connection(self, error: Exception | None) -> None:
        """End the connection, and call the protocol above."""
        self._note(error)
        above = self.protocol
        self.protocol = None
        self.abort()
        if above is not None:
            above.connection_lost(error)

    def _shut(self) -> None:
        self.stage = CLOSED

    # the transport of the protocol above

    @property
    def tls(self) -> ssl.SSLObject:
        """The negotiated TLS session: version, certificates, session, protocol (ALPN)."""
        return self._tls

    def has_unread(self) -> bool:
        """Whether there is received data, or an end, that was not passed on yet."""
        return self._unread

    def write(self, message: bytes | memoryview) -> None:
        if self.stage is not OPEN:
            return
        session, outgoing = self._session, self.memory.outgoing
        if isinstance(message, bytes) and 0 < len(message) <= LONGEST_RECORD:
            sealed = encrypt(session, outgoing, message)
            if sealed is not None:
                self._send(sealed)
                return
        try:
            if len(message) <= LONGEST_RECORD:
                session.write(message)
            else:
                rest = memoryview(message)
                while rest:
                    if outgoing.pending >= MOST_SEALED:
                        self._flush()
                    rest = rest[session.write(rest) :]
        except ssl.SSLError as error:
            self.memory.outgoing.read()
            self.worker_loop.loop.call_soon(self._break, error)
            return
        self._flush()

    def write_parts(self, head: bytes, body: bytes) -> None:
        self.write(head)
        self.write(body)

    def write_eof(self) -> None:
        """End our direction: no more bytes follow. Data of the peer is still read."""
        if self._tls.pending():
            self._end_due = True  # OpenSSL would fail because of decrypted data that is not read yet
        else:
            self._say_end()

    def _say_end(self) -> None:
        self._end_due = False
        if self.stage is OPEN and not self._ended:
            with suppress(ssl.SSLError):  # it would wait for that of the peer
                self._tls.unwrap()
            self._flush()
            self._ended = True
            SocketTransport.write_eof(self)

    def close(self) -> None:
        if self.stage is OPEN:
            if not self._ended:
                with suppress(ssl.SSLError):
                    self._tls.unwrap()
                self._flush()
            self.stage = CLOSING
            SocketTransport.close(self)

    def truncate(self) -> None:
        """Close without `close_notify`, unless it was sent before: the peer finds that data may be missing."""
        self._ended = True
        self.close()

    def abort(self) -> None:
        if self.stage is not CLOSED:
            self._shut()
            SocketTransport.abort(self)

    def is_closing(self) -> bool:
        return self.stage >= CLOSING or SocketTransport.is_closing(self)

    def pause_reading(self) -> None:
        self._paused = True
        SocketTransport.pause_reading(self)

    def resume_reading(self) -> None:
        self._paused = False
        if self._unread:
            self.worker_loop.loop.call_soon(self._read_on)
        elif not self.resting:
            SocketTransport.resume_reading(self)

    def end_rest(self) -> None:
        if self.stage is OPEN and not self._paused and not self._unread:  # otherwise the kept data is read first
            SocketTransport.resume_reading(self)

    def _read_on(self) -> None:
        if self.stage is OPEN and not self._paused:
            self._read_kept()
            if self.stage is OPEN and not self._paused and not self.resting:
                SocketTransport.resume_reading(self)

    def _read_kept(self) -> None:
        if self.stage is OPEN:
            kept, self._kept = self._kept, b""
            self._decipher_counted(kept)
