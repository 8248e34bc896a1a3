"""One end of a relay: it reads for the other end, and sends what that one reads.

Rule 1: data read by one end is passed to the other (`peer.send`) before more is read; reading pauses while the other
end holds data that its socket does not accept. Rule 2: each direction ends separately (`end_sending`), after held data.
Rule 3: after `close` or `reset` nothing more is reported.

PERF: much data is read in pieces of up to 256 KiB, which are passed on as they are: 0.32 s of CPU per GiB, as by pipes
in the kernel (splice(2)), and 0.6 by a buffer of 32 KiB (CPython 3.11, `bench tcp`).
"""

import socket
from typing import Final, Protocol, TypeAlias, final

import cython

from fastgw.downstream.tcp.relayed_session import RelayedSession
from fastgw.eventloop.body_reads import BODY_READ_BYTES, BodyReading
from fastgw.eventloop.socket_transport import SocketTransport, pending_error
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.http.http1.parser import leading_bytes
from fastgw.net.proxy_protocol import Address
from fastgw.upstream.connections.tls_client import TlsClientTransport

End: TypeAlias = "RelayEnd"
Loss: TypeAlias = Exception | None
"""Error by which an end was lost; None: it was just closed."""


class ByteSink(Protocol):
    """What an end reads for."""

    def send(self, chunk: bytes) -> bool:
        """Take bytes. False: some are held; `drained` is called when none are."""


@final
class _Drop:
    def send(self, chunk: bytes) -> bool:
        return True


_DROP: Final = _Drop()


@cython.cclass
class EndOwner(RelayedSession):
    """Session that owns both ends."""

    def dialed(self, transport: SocketTransport, error: cython.int) -> None:
        """Handle the end of a connect. `error`: its errno, or 0."""
        raise NotImplementedError

    def touched(self) -> None:
        """Handle that bytes were moved."""
        raise NotImplementedError

    def ended(self, end: End) -> None:
        """Handle the end of data from the peer."""
        raise NotImplementedError

    def lost(self, end: End, error: Loss) -> None:
        """Handle the loss of the connection, by a reset or another error."""
        raise NotImplementedError

    def drained(self, end: End) -> None:
        """Handle that all held bytes were sent."""
        raise NotImplementedError


@cython.cclass
class RelayEnd(BodyReading):
    """The protocol of a connection, plain or with TLS, of a client or a target. Reading is paused at first."""

    def __init__(self, worker_loop: WorkerLoop, owner: EndOwner) -> None:
        self.worker_loop = worker_loop
        self._owner: EndOwner | None = owner
        self.reads = worker_loop.reads
        self.buffer = self.reads.read_buffer
        self._paused = True
        self._is_full = self._is_over = self._is_closed = False
        self.has_ended = False
        self.received = 0
        self._peer: ByteSink = _DROP
        self._goes_to = -1

    def __repr__(self) -> str:
        return f"<RelayEnd paused={self._paused} has_ended={self.has_ended} closed={self._is_closed}>"

    def read_for(self, peer: ByteSink) -> None:
        """Pass what is read to this one from now on, such as the other end."""
        self._peer = peer
        self._goes_to = peer.transport.plain_fd if isinstance(peer, RelayEnd) else -1

    # calls of the transport

    def connection_made(self, transport: SocketTransport) -> None:
        self.transport = transport
        transport.pause_reading()
        self.worker_loop.hangups.watch(transport)

    def buffer_updated(self, nbytes: cython.Py_ssize_t) -> None:
        owner = self._owner
        if owner is None:
            return
        piece = leading_bytes(self.buffer, nbytes)
        self.received += nbytes
        owner.touched()
        if not self._peer.send(piece):
            self.pause()
        if not self._is_closed:
            self.buffer = self.reads.buffer_for(piece, piece, BODY_READ_BYTES, self._goes_to)
            self.reads.count(self, nbytes, 0)

    def eof_received(self) -> bool:
        owner = self._owner
        if owner is not None and not self.has_ended:
            self.has_ended = True
            owner.ended(self)
        return not self._is_closed

    def abandon(self) -> None:
        """Drop the connection without reports: the handshake has failed, or is no longer waited for."""
        self._owner = None

    @property
    def is_lost(self) -> bool:
        """Whether nothing more is reported."""
        return self._owner is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._see_no_hangup()
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.lost(self, exc)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        owner = self._owner
        if owner is not None:
            owner.touched()
            owner.drained(self)

    def peer_left(self) -> None:
        """Handle the end or reset of a connection that is not being read."""
        number = pending_error(self.transport.fd)
        if number and self._owner is not None:
            self._owner.lost(self, OSError(number, ""))

    def end_rest(self) -> None:
        """Read on, unless that is paused; see `Rests`."""
        if not self._paused and not self._is_closed:
            self.transport.resume_reading()

    # calls of the owner

    @property
    def is_truncated(self) -> bool:
        """Whether the peer has ended without `close_notify` of TLS: data before its end may be missing."""
        return self.transport.is_truncated

    @property
    def is_buffering(self) -> bool:
        """Whether it holds data that its socket does not accept."""
        return self._is_full

    @property
    def local(self) -> Address | None:
        """The local address; None for a unix socket."""
        lent = socket.socket(fileno=self.transport.fd)
        try:
            name = lent.getsockname()
        finally:
            lent.detach()
        # On a dual-stack socket, which only a service manager opens, an IPv4 client has an IPv4-mapped IPv6 address.
        return (name[0].removeprefix("::ffff:"), name[1]) if isinstance(name, tuple) else None

    def pause(self) -> None:
        """Read no more for now."""
        if not self._paused and not self._is_closed:
            self._paused = True
            self.transport.pause_reading()
            self.worker_loop.hangups.watch(self.transport)

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self._is_closed:
            self._see_no_hangup()
            self._paused = False
            if not self.resting:
                self.transport.resume_reading()

    def send(self, chunk: bytes) -> bool:
        """Send bytes. False: some are held; `drained` is called when none are."""
        self.transport.write(chunk)
        return not self._is_full

    def end_sending(self) -> None:
        """End our direction, after everything was sent."""
        self._is_over = True
        self.transport.write_eof()

    def has_sent_all(self) -> bool:
        """Whether our direction has ended, and nothing is held."""
        return self._is_over and not self._is_full

    def unsent(self) -> int:
        """Return the number of bytes that the peer has not acknowledged."""
        return self.transport.unsent()

    def is_done(self) -> bool:
        """Whether both directions have ended, and nothing is held."""
        return self.has_ended and self._is_over and not self._is_full

    def close(self) -> None:
        """Close."""
        if not self._is_closed:
            self._forget()
            self.transport.close()

    def truncate(self) -> None:
        """Close although the peer may expect more: without `close_notify` of TLS if our direction has not ended, and
        with a reset if data is held. Otherwise what the peer has got would look complete.
        """
        if self._is_full:
            self.reset()
        elif not self._is_closed:
            self._forget()
            self.transport.truncate()

    def reset(self) -> None:
        """Close with a reset."""
        if not self._is_closed and self.transport is not None:
            self._forget(is_reset=True)
            self.transport.reset_on_close()
            self.transport.abort()

    def _forget(self, is_reset: bool = False) -> None:
        self._is_closed, self._owner = True, None
        transport = self.transport
        self._see_no_hangup()
        if isinstance(transport, TlsClientTransport) and self.received and not is_reset:
            transport.remember()  # the session of a target, for the next connection
        self._peer = _DROP

    def _see_no_hangup(self) -> None:
        """Watch for a hang-up no more, as is done while reading is paused."""
        if self._paused and self.transport is not None:
            self.worker_loop.hangups.unwatch(self.transport)
