"""TLS over a plain transport, for either side of a connection: bytes go in and out, and nothing is known of HTTP.

A `TlsTransport` is the protocol of a plain transport, and the transport of what stands above it, which has to be an
`asyncio.BufferedProtocol`. A subclass has the handshake: `downstream.tls.connection` as server, `upstream.tls_client`
as client. Everything else is here, the same for both: either direction may end by itself (`write_eof`, `eof_received`;
RFC 8446 section 6.1), reading and writing are held back as over plain TCP, and what comes is told from what was cut.

uvloop's own TLS is not used. It cannot end one direction and go on in the other, which tunnels and early answers need;
it holds a buffer of 256 KiB for each connection and as much for what is not read yet; and who speaks no TLS at all
cannot be answered any more. Here OpenSSL works on memory, and its bytes go out in the turn in which they come about.

Rule 1: what stands above is told of nothing before the handshake is done. Rule 2: what OpenSSL has to say is sent
before anything else happens. Rule 3: OpenSSL's memory is the worker's, one for all connections, so it is empty whenever
anybody else is called: what is not deciphered yet is taken out of it (`_kept`).
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final, Protocol, cast

from fastgw.eventloop.socket_send import send
from fastgw.eventloop.worker_loop import BODY_BYTES_PER_TURN, FRAMING_COST, WorkerLoop
from fastgw.net.client_hello import LONGEST_RECORD

MOST_SEALED: Final = 4 * LONGEST_RECORD
"""Bytes that are enciphered before they are sent: OpenSSL's memory never becomes smaller again."""
OWN_ANSWERS: Final = 1024
"""Bytes that TLS may answer by itself on a connection, some 40 key updates, besides a 64th of the data that comes.

PERF: 1,200 key updates in one read held up all other clients of a worker for 100 ms and more (OpenSSL 3.0).
"""

_Read = Callable[[int, memoryview], int]
"""`SSLObject.read` into a buffer."""


class Above(Protocol):
    """Callbacks of an `asyncio.BufferedProtocol` above the TLS layer."""

    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def eof_received(self) -> bool: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Stage(IntEnum):
    SILENT = 1  # the handshake has not begun
    SHAKING = 2
    OPEN = 3
    CLOSING = 4  # what is written is sent, then it closes
    CLOSED = 5


SILENT, SHAKING, OPEN, CLOSING, CLOSED = Stage


class TlsTransport(asyncio.BufferedProtocol):
    """One connection. What stands above uses the methods of an `asyncio.Transport`, `write` to `get_extra_info`."""

    __slots__ = (
        "_above",
        "_below",
        "_below_paused",
        "_buffer",
        "_end_due",
        "_ended",
        "_fd",
        "_framing",
        "_got",
        "_kept",
        "_own_answers",
        "_paused",
        "_peer_ended",
        "_read",
        "_tls",
        "_unread",
        "_write",
        "memory",
        "read_since_rest",
        "resting",
        "stage",
        "worker_loop",
    )

    def __init__(self, worker_loop: WorkerLoop) -> None:
        self.worker_loop = worker_loop
        self.stage = SILENT
        self._above: Above | None = None
        self._below: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called
        self._fd = -1
        self.memory = memory = worker_loop.tls_memory
        self._buffer = memory.buffer
        self._tls: ssl.SSLObject = None  # type: ignore[assignment]  # set by `_begin_handshake`
        self._kept = b""  # has come, and is not deciphered: reading was paused
        self._unread = False  # there is that, or something that OpenSSL holds, or the end
        self._paused = False
        self.resting = False  # until others have had their turn (`Rests`)
        self.read_since_rest = 0
        self._framing = -LONGEST_RECORD  # bytes not counted yet that were no data, or are: OpenSSL may hold so many
        self._got = 0  # bytes of data
        self._own_answers = 0  # bytes of what TLS has answered of its own accord
        self._below_paused = False
        self._peer_ended = False
        self._ended = False
        self._end_due = False  # as soon as what has come is read

    # what a subclass has to have

    def _received_early(self, received: memoryview) -> None:
        """Bytes that have come before the handshake is done."""
        raise NotImplementedError

    def _shaken(self, last: bytes) -> None:
        """The handshake is done. `last`: what is to be sent of it (`_send`)."""
        raise NotImplementedError

    def _not_shaken(self, error: OSError | None) -> None:
        """Handle the end before the handshake: it has failed, or the connection was lost before (None: it ended)."""
        raise NotImplementedError

    def _cut_off(self) -> None:
        """The connection has ended, which its peer has not said within TLS."""
        raise NotImplementedError

    def _flooded(self, why: str) -> None:
        """The connection is to be ended for that (`_lose`)."""
        raise NotImplementedError

    # what the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = transport = cast(asyncio.Transport, transport)  # uvloop's is one by what it does, not by class
        self._fd = transport.get_extra_info("socket").fileno()
        transport.set_write_buffer_limits(high=0)  # the brake is on as soon as the kernel takes no more

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.stage is OPEN:
            got = self._got
            self._decipher_counted(self._buffer[:nbytes])
            # What brings no data (key updates, alerts) costs much more to read than data does.
            memory = self.memory
            self._buffer = memory.buffer if 2 * (self._got - got) >= nbytes else memory.small_buffer
        elif self.stage < OPEN:
            self._received_early(self._buffer[:nbytes])

    def eof_received(self) -> bool:
        if self._above is None:
            self._not_shaken(None)
            return False
        if not self._peer_ended:  # else it has said so before, within TLS
            self._cut_off()
        return self.stage is OPEN

    def connection_lost(self, exc: Exception | None) -> None:
        above, self._above = self._above, None
        if above is not None:
            self._shut()
            above.connection_lost(exc)
        elif self.stage < OPEN:
            self._not_shaken(exc if isinstance(exc, OSError) else None)

    def pause_writing(self) -> None:
        self._below_paused = True
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        self._below_paused = False
        if self._above is not None:
            self._above.resume_writing()

    # the handshake

    def _begin_handshake(self, tls: ssl.SSLObject, received: bytes = b"") -> None:
        """`tls`: made on the worker loop's memory. `received`: what has come by now."""
        self.stage = SHAKING
        self._tls = tls
        self._shake(received)

    def _shake(self, received: bytes | memoryview) -> None:
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
            self._shaken(self.memory.outgoing.read())

    def _open(self, above: Above) -> None:
        """Hand the connection to the protocol above. The subclass tells it so, and goes on with `_read_early`."""
        self.stage = OPEN
        self._above = above
        self._read, self._write = cast(_Read, self._tls.read), self._tls.write

    def _read_early(self) -> None:
        """Hand on what has come with the end of the handshake."""
        if self._kept:
            self._unread = True
            if not self._paused:
                self._read_kept()

    # bytes

    def _decipher_counted(self, sealed: bytes | memoryview) -> None:
        """Decipher, and rest after many records: a small one costs as much as a large one. Data count above."""
        got = self._got
        self._decipher(sealed)
        self._framing += len(sealed) - len(self._kept) - (self._got - got)
        if self._framing > 0:
            self.read_since_rest += FRAMING_COST * self._framing
            self._framing = 0
            if self.read_since_rest >= BODY_BYTES_PER_TURN and self.stage is OPEN:
                self.worker_loop.rests.begin(self, self._below)

    def _decipher(self, sealed: bytes | memoryview) -> None:
        """Hand on what has come, for as long as it is wanted."""
        incoming, outgoing, above = self.memory.incoming, self.memory.outgoing, self._above
        assert above is not None
        while True:
            incoming.write(sealed)
            buffer = above.get_buffer(-1)
            size = len(buffer)
            count, ended, error = 0, False, None
            try:
                while count < size:
                    got = self._read(size - count, memoryview(buffer)[count:] if count else buffer)
                    count += got
                    ended = not got
                    if ended or not incoming.pending:
                        break
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:  # as an end that comes behind ours is told
                ended = True
            except ssl.SSLError as broken:
                error = broken
            sealed = self._kept = incoming.read() if incoming.pending else b""
            self._unread = ended or bool(sealed) or (count == size and self._tls.pending() > 0)
            self._got += count
            if error is not None:
                self._flush()  # an alert
            elif outgoing.pending and not self._answer_records():
                return
            if count:
                above.buffer_updated(count)
                if self.stage is not OPEN:
                    return
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
        """Send what TLS itself has to answer. False: that was too much for the data that came, and all is over."""
        self._own_answers += self.memory.outgoing.pending
        if self._own_answers > OWN_ANSWERS + self._got // 64:
            self.memory.outgoing.read()
            self._flooded("records without data came without end")
            return False
        self._flush()
        return True

    def _end_of_peer(self, above: Above) -> None:
        """The peer has said within TLS that nothing follows."""
        if not self._peer_ended:
            self._peer_ended = True
            if not above.eof_received() and self.stage is OPEN:
                self.close()

    def _flush(self) -> None:
        self._send(self.memory.outgoing.read())

    def _send(self, sealed: bytes) -> None:
        if sealed and not self._ended:
            send(self._fd, sealed, self._below, self._below_paused)

    def _break(self, error: ssl.SSLError) -> None:
        """Close after bytes that are no TLS, or were changed on their way, or an alert; or a cut."""
        self._flush()
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        """End the connection, and tell what stands above."""
        above, self._above = self._above, None
        self.abort()
        if above is not None:
            above.connection_lost(error)

    def _shut(self) -> None:
        self.stage = CLOSED

    # the transport of what stands above

    @property
    def tls(self) -> ssl.SSLObject:
        """The negotiated TLS session: version, certificates, session, protocol (ALPN)."""
        return self._tls

    def has_unread(self) -> bool:
        """Whether more has come than was handed on by now: data or their end."""
        return self._unread

    def write(self, message: bytes) -> None:
        if self.stage is not OPEN:
            return
        try:
            if len(message) <= LONGEST_RECORD:
                self._write(message)
            else:
                outgoing, rest = self.memory.outgoing, memoryview(message)
                while rest:
                    if outgoing.pending >= MOST_SEALED:
                        self._flush()
                    rest = rest[self._write(rest) :]
        except ssl.SSLError as error:
            self.memory.outgoing.read()
            self.worker_loop.loop.call_soon(self._break, error)
            return
        self._flush()

    def write_eof(self) -> None:
        """End our direction: no more bytes follow. What the peer still sends is read all the same."""
        if self._tls.pending():
            self._end_due = True  # OpenSSL would stumble over what it has deciphered and is not read
        else:
            self._say_end()

    def _say_end(self) -> None:
        self._end_due = False
        if self.stage is OPEN and not self._ended:
            with suppress(ssl.SSLError):  # it would wait for the peer's
                self._tls.unwrap()
            self._flush()
            self._ended = True
            self._below.write_eof()

    def close(self) -> None:
        if self.stage is OPEN:
            if not self._ended:
                with suppress(ssl.SSLError):
                    self._tls.unwrap()
                self._flush()
            self.stage = CLOSING
            self._below.close()

    def abort(self) -> None:
        if self.stage is not CLOSED:
            self._shut()
            self._below.abort()

    def is_closing(self) -> bool:
        return self.stage >= CLOSING

    def pause_reading(self) -> None:
        self._paused = True
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if self._unread:
            self.worker_loop.loop.call_soon(self._read_on)
        elif not self.resting:
            self._below.resume_reading()

    def end_rest(self) -> None:
        if self.stage is OPEN and not self._paused and not self._unread:  # else what is kept is read first
            self._below.resume_reading()

    def _read_on(self) -> None:
        if self.stage is OPEN and not self._paused:
            self._read_kept()
            if self.stage is OPEN and not self._paused and not self.resting:
                self._below.resume_reading()

    def _read_kept(self) -> None:
        if self.stage is OPEN:
            kept, self._kept = self._kept, b""
            self._decipher_counted(kept)

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else self._below.get_extra_info(name, default)
