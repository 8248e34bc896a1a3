"""The two ends of a relay: a plain socket, or a TLS transport. Each reads for the other, and sends for it.

Rule 1: data read by one end is passed to the other (`peer.send`) before more is read; reading pauses while the other
end buffers data that its socket does not accept. Rule 2: each direction ends separately (`end_sending`), after buffered
data. Rule 3: after `close` or `reset` nothing more is reported.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from errno import ENOTCONN
from typing import Final, NamedTuple, Protocol, cast, final

from fastgw.eventloop.socket_poller import BROKEN, ENDED, READABLE, WRITABLE
from fastgw.eventloop.splice_pipes import SplicePipe
from fastgw.eventloop.tls_transport import TlsTransport
from fastgw.eventloop.worker_loop import BODY_BYTES_PER_TURN, RELAY_BYTES, WorkerLoop, unsent_in_kernel
from fastgw.net.proxy_protocol import Address
from fastgw.upstream.connections.tls_client import TlsClientTransport

_RESET: Final = struct.pack("ii", 1, 0)
"""`SO_LINGER`: closing the socket resets the connection, and drops unsent data."""


class ByteSink(Protocol):
    def send(self, chunk: memoryview) -> bool:
        """Send bytes, which are invalid after the call. False: some are buffered; `drained` is called when none are."""


class Owner(Protocol):
    """Owner of both ends."""

    def touched(self) -> None:
        """Handle that bytes were moved."""

    def ended(self, end: "End") -> None:
        """Handle the end of data from the peer."""

    def lost(self, end: "End", error: Exception | None) -> None:
        """Handle the loss of the connection, by a reset or another error."""

    def drained(self, end: "End") -> None:
        """Handle that all buffered bytes were sent."""


class End(ByteSink, Protocol):
    peer: ByteSink
    """The other end, which sends the data that this one reads."""
    received: int
    """Number of bytes read."""
    has_ended: bool
    """Whether the peer will send no more."""

    @property
    def is_truncated(self) -> bool:
        """Whether the peer has ended without `close_notify` of TLS: data before its end may be missing."""

    @property
    def local(self) -> Address | None:
        """The local address; None for a unix socket."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...

    def end_sending(self) -> None:
        """End our direction, after everything was sent."""

    def has_sent_all(self) -> bool:
        """Whether our direction has ended, and nothing is buffered."""

    def unsent(self) -> int:
        """Return the number of bytes that the kernel holds for the peer."""

    def is_done(self) -> bool:
        """Whether both directions have ended, and nothing is buffered."""

    def close(self) -> None: ...

    def truncate(self) -> None:
        """Close although the peer may expect more: without `close_notify` of TLS if our direction has not ended, and
        with a reset if data is buffered. Otherwise what the peer has got would look complete.
        """

    def reset(self) -> None:
        """Close with a reset."""


def _address_of(connected: socket.socket) -> Address | None:
    name = connected.getsockname()
    # On a dual-stack socket, which only a service manager opens, it is an IPv4-mapped IPv6 address for an IPv4 client.
    return (name[0].removeprefix("::ffff:"), name[1]) if isinstance(name, tuple) else None


@final
class _Drop:
    """ByteSink that drops data."""

    def send(self, chunk: memoryview) -> bool:
        return True


DROP: Final = _Drop()


class EndState(NamedTuple):
    """State of an end."""

    received: int
    has_ended: bool
    is_over: bool
    """Whether our direction has ended."""
    held: bytes
    """Data that its socket has not accepted."""


@final
class PlainEnd:
    """End on a plain socket. Reading is paused at first."""

    __slots__ = (
        "_buffer",
        "_end_due",
        "_fd",
        "_held",
        "_is_bulk",
        "_is_closed",
        "_is_ending",
        "_is_over",
        "_is_readable",
        "_owner",
        "_paused",
        "_pipe",
        "_recv_into",
        "_send",
        "_socket",
        "_worker_loop",
        "has_ended",
        "peer",
        "read_since_rest",
        "received",
        "resting",
    )

    def __init__(
        self, worker_loop: WorkerLoop, connected: socket.socket, owner: Owner, is_watched: bool = False
    ) -> None:
        """`is_watched`: the socket is already registered with the poller, by another listener."""
        self._worker_loop = worker_loop
        self._socket = connected
        self._recv_into, self._send = connected.recv_into, connected.send
        self._fd = fd = connected.fileno()
        self._owner = owner
        self._buffer = worker_loop.relay_buffer
        self._held = b""
        self._pipe: SplicePipe | None = None  # contains data to be sent
        self._paused = True
        self._is_readable = True  # assumed until the first read
        self._is_bulk = False  # much data is received, so it is not copied
        self._is_ending = False  # after the readable data follows an end or an error
        self._end_due = False
        self._is_over = False  # our direction has ended
        self._is_closed = False
        self.has_ended = False
        self.received = 0
        self.resting = False
        self.read_since_rest = 0
        self.peer: ByteSink = DROP
        if is_watched:
            worker_loop.sockets.take_over(fd, self)
        else:
            worker_loop.sockets.watch(fd, self)

    def __repr__(self) -> str:
        told = f"paused={self._paused} has_ended={self.has_ended} over={self._is_over} closed={self._is_closed}"
        return f"<PlainEnd {self._fd} {told} held={len(self._held)}>"

    def restore(self, state: EndState) -> None:
        """Continue from the state in which compiled code has left the socket."""
        self.received, self.has_ended, self._is_over, self._held = state
        self._is_bulk = self.received >= RELAY_BYTES

    @property
    def is_buffering(self) -> bool:
        """Whether it buffers data that its socket does not accept."""
        return bool(self._held) or self._pipe is not None

    # calls of the poller

    def ready(self, events: int) -> None:
        if events & WRITABLE and (self._held or self._pipe is not None):
            self._flush()
        if events & READABLE:
            self._is_readable = True
            if events & ENDED:
                self._is_ending = True
            if not self._paused and not self.resting:
                self._read()
            elif events & BROKEN and not self._is_over and not self._is_closed:
                self._owner.lost(self, self._error())  # there may be no further read

    def _error(self) -> OSError | None:
        with suppress(OSError):
            number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return OSError(number, "") if number else None
        return None

    def _read(self) -> None:
        buffer, owner, recv_into = self._buffer, self._owner, self._recv_into
        while self._is_readable and not self._paused and not self.resting:
            if self._is_bulk and type(self.peer) is PlainEnd:
                self._splice(self.peer)
                continue
            try:
                count = recv_into(buffer)
            except BlockingIOError:
                self._is_readable = False
                return
            except OSError as error:
                owner.lost(self, error)
                return
            if not count:
                self._is_readable = False
                if not self.has_ended:
                    self.has_ended = True
                    owner.ended(self)
                return
            self.received += count
            if count < RELAY_BYTES and not self._is_ending:
                self._is_readable = False  # everything was read; further data causes another event
            owner.touched()
            if not self.peer.send(buffer[:count]):
                self.pause()
            self._is_bulk = count == RELAY_BYTES
            self._rest_if_due(count)

    def _splice(self, peer: "PlainEnd") -> None:
        """Move available data to the other socket without copying (splice), because there is much of it."""
        pipes, fd, to, owner = self._worker_loop.pipes, self._fd, peer._fd, self._owner
        pipe, moved, failing = pipes.acquire(), 0, self
        if pipe is None:
            self._is_bulk = False
            return
        try:
            while True:
                count = pipe.fill(fd)
                if not count:
                    self._is_bulk = False  # the next read reports the end
                    return
                moved += count
                self.received += count
                owner.touched()
                failing = peer
                if not pipe.drain(to):
                    peer._pipe, pipe = pipe, None
                    self.pause()
                    return
                failing = self
                self._rest_if_due(count)
                if self.resting:
                    return
        except BlockingIOError:
            self._is_bulk = moved >= RELAY_BYTES // 2
            if not self._is_ending:
                self._is_readable = False
        except OSError as error:
            owner.lost(failing, error)  # it is reported once: the next read would find a regular end
        finally:
            if pipe is not None:
                pipes.give_back(pipe)

    def _rest_if_due(self, count: int) -> None:
        """Count bytes read, and rest after many of them if there are more."""
        if not self._is_readable or self._is_closed:
            self.read_since_rest = 0
            return
        self.read_since_rest += count
        if self.read_since_rest >= BODY_BYTES_PER_TURN:
            self._worker_loop.rests.start_rest(self, cast(asyncio.Transport, self))

    # calls of `Rests`

    def is_closing(self) -> bool:
        return self._is_closed

    def pause_reading(self) -> None: ...  # `resting` has this effect

    def end_rest(self) -> None:
        if not self._paused and not self._is_closed:
            self._read()

    # as `End`

    @property
    def is_truncated(self) -> bool:
        return False

    @property
    def local(self) -> Address | None:
        return _address_of(self._socket)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        if self._is_readable and not self.resting and not self._is_closed:
            self._read()

    def send(self, chunk: memoryview) -> bool:
        if self._held:
            self._held += chunk
            return False
        try:
            sent = self._send(chunk)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if not self._is_closed:
                self._owner.lost(self, error)
            return True
        if sent == len(chunk):
            return True
        self._held = bytes(chunk[sent:])
        return False

    def _flush(self) -> None:
        if self._pipe is not None:
            self._flush_pipe(self._pipe)
            return
        try:
            sent = self._send(self._held)
        except BlockingIOError:
            return
        except OSError as error:
            self._owner.lost(self, error)
            return
        self._owner.touched()
        self._held = self._held[sent:]
        if not self._held:
            self._flushed()

    def _flush_pipe(self, pipe: SplicePipe) -> None:
        held = pipe.held
        try:
            is_empty = pipe.drain(self._fd)
        except OSError as error:
            self._owner.lost(self, error)
            return
        if pipe.held < held:
            self._owner.touched()
        if is_empty:
            self._pipe = None
            self._worker_loop.pipes.give_back(pipe)
            self._flushed()

    def _flushed(self) -> None:
        if self._end_due:
            self.end_sending()
        if not self._is_closed:
            self._owner.drained(self)

    def end_sending(self) -> None:
        if self._held or self._pipe is not None:
            self._end_due = True
            return
        self._end_due = False
        self._is_over = True
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != ENOTCONN:  # it was reset, which the next read reports
                self._owner.lost(self, error)

    def has_sent_all(self) -> bool:
        return self._is_over

    def unsent(self) -> int:
        return unsent_in_kernel(self._fd)

    def is_done(self) -> bool:
        return self.has_ended and self._is_over

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = self._paused = True
            self._held = b""
            if self._pipe is not None:
                self._worker_loop.pipes.give_back(self._pipe)
                self._pipe = None
            self._worker_loop.sockets.forget(self._fd)
            self._socket.close()
            del self._owner
            self.peer = DROP

    def truncate(self) -> None:
        if self.is_buffering:
            self.reset()
        else:
            self.close()

    def reset(self) -> None:
        if not self._is_closed:
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()


@final
class TlsEnd:
    """End on TLS, on either side: the protocol of a `TlsTransport`. Reading is paused at first."""

    __slots__ = (
        "_fd",
        "_is_closed",
        "_is_full",
        "_is_over",
        "_owner",
        "_paused",
        "has_ended",
        "peer",
        "read_since_rest",
        "received",
        "resting",
        "transport",
        "worker_loop",
    )

    def __init__(self, worker_loop: WorkerLoop, owner: Owner) -> None:
        self.worker_loop = worker_loop
        self._owner: Owner | None = owner
        self._fd = -1
        self._paused = True
        self._is_full = False
        self._is_over = False
        self._is_closed = False
        self.has_ended = False
        self.received = 0
        self.resting = False
        self.read_since_rest = 0
        self.peer: ByteSink = DROP
        self.transport: asyncio.Transport

    def __repr__(self) -> str:
        return f"<TlsEnd {self._fd} paused={self._paused} has_ended={self.has_ended} closed={self._is_closed}>"

    # calls of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=0)
        self._fd = transport.get_extra_info("socket").fileno()
        transport.pause_reading()
        self.worker_loop.hangups.watch(self._fd, self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.worker_loop.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._owner is None:
            return
        self.received += nbytes
        self._owner.touched()
        if not self.peer.send(self.worker_loop.read_buffer[:nbytes]):
            self.pause()
        if not self._is_closed:
            self.worker_loop.count_body(self, nbytes, 0)

    def eof_received(self) -> bool:
        if self._owner is not None and not self.has_ended:
            self.has_ended = True
            self._owner.ended(self)
        return not self._is_closed

    def abandon(self) -> None:
        """Drop the connection without reports: the handshake has failed, or is no longer waited for."""
        self._owner = None

    @property
    def is_lost(self) -> bool:
        return self._owner is None

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker_loop.hangups.unwatch(self._fd, self)
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.lost(self, exc)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if self._owner is not None:
            self._owner.touched()
            self._owner.drained(self)

    def peer_left(self) -> None:
        """Handle the end or reset of a connection that is not being read."""
        lent = socket.socket(fileno=self._fd)
        try:
            number = lent.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        finally:
            lent.detach()
        if number and self._owner is not None:
            self._owner.lost(self, OSError(number, ""))

    def end_rest(self) -> None:
        if not self._paused and not self._is_closed:
            self.transport.resume_reading()

    # as `End`

    @property
    def is_truncated(self) -> bool:
        return cast(TlsTransport, self.transport).is_truncated

    @property
    def local(self) -> Address | None:
        lent = socket.socket(fileno=self._fd)
        try:
            return _address_of(lent)
        finally:
            lent.detach()

    def pause(self) -> None:
        if not self._paused and not self._is_closed:
            self._paused = True
            self.transport.pause_reading()
            self.worker_loop.hangups.watch(self._fd, self)

    def resume(self) -> None:
        if self._paused and not self._is_closed:
            self._paused = False
            self.worker_loop.hangups.unwatch(self._fd, self)
            if not self.resting:
                self.transport.resume_reading()

    def send(self, chunk: memoryview) -> bool:
        self.transport.write(chunk)
        return not self._is_full

    def end_sending(self) -> None:
        self._is_over = True
        self.transport.write_eof()

    def has_sent_all(self) -> bool:
        return self._is_over and not self._is_full

    def unsent(self) -> int:
        return unsent_in_kernel(self._fd)

    def is_done(self) -> bool:
        return self.has_ended and self.has_sent_all()

    def close(self) -> None:
        if not self._is_closed:
            self._forget()
            self._remember()
            self.transport.close()

    def truncate(self) -> None:
        if self._is_full:
            self.reset()
        elif not self._is_closed:
            self._forget()
            self._remember()
            cast(TlsTransport, self.transport).truncate()

    def _remember(self) -> None:
        """Keep the session of a target, for the next connection."""
        if isinstance(self.transport, TlsClientTransport) and self.received:
            self.transport.remember()

    def reset(self) -> None:
        if not self._is_closed and self._fd >= 0:
            self._forget()
            with suppress(OSError):
                lent = socket.socket(fileno=self._fd)
                try:
                    lent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                finally:
                    lent.detach()
            self.transport.abort()

    def _forget(self) -> None:
        self._is_closed, self._owner = True, None
        self.worker_loop.hangups.unwatch(self._fd, self)
        self.peer = DROP
