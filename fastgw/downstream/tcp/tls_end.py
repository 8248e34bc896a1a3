"""The end of a relay on TLS, which a `TlsTransport` reads and writes."""

from typing import cast, final

from fastgw.downstream.tcp.end import ByteSink
from fastgw.downstream.tcp.plain_end import DROP, EndOwner, local_address
from fastgw.eventloop.socket_transport import SocketTransport, StreamProtocol, pending_error
from fastgw.eventloop.tls_transport import TlsTransport
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.net.proxy_protocol import Address
from fastgw.upstream.connections.tls_client import TlsClientTransport


@final
class TlsEnd(StreamProtocol):
    """End on TLS, on either side: the protocol of a `TlsTransport`. Reading is paused at first."""

    __slots__ = (
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

    def __init__(self, worker_loop: WorkerLoop, owner: EndOwner) -> None:
        self.worker_loop = worker_loop
        self._owner: EndOwner | None = owner
        self.buffer = worker_loop.read_buffer
        self._paused = True
        self._is_full = False
        self._is_over = False
        self._is_closed = False
        self.has_ended = False
        self.received = 0
        self.resting = False
        self.read_since_rest = 0
        self.peer: ByteSink = DROP
        self.transport: SocketTransport = None  # type: ignore[assignment]  # after its handshake

    def __repr__(self) -> str:
        return f"<TlsEnd paused={self._paused} has_ended={self.has_ended} closed={self._is_closed}>"

    # calls of the transport

    def connection_made(self, transport: SocketTransport) -> None:
        self.transport = transport
        transport.pause_reading()
        self.worker_loop.hangups.watch(transport)

    def buffer_updated(self, nbytes: int) -> None:
        if self._owner is None:
            return
        self.received += nbytes
        self._owner.touched()
        if not self.peer.send(self.buffer[:nbytes]):
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
        self.worker_loop.hangups.unwatch(self.transport)
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
        number = pending_error(self.transport.fd)
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
    def is_buffering(self) -> bool:
        return self._is_full

    @property
    def local(self) -> Address | None:
        return local_address(self.transport.fd)

    def pause(self) -> None:
        if not self._paused and not self._is_closed:
            self._paused = True
            self.transport.pause_reading()
            self.worker_loop.hangups.watch(self.transport)

    def resume(self) -> None:
        if self._paused and not self._is_closed:
            self._paused = False
            self.worker_loop.hangups.unwatch(self.transport)
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
        return self.transport.unsent()

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
        if not self._is_closed and self.transport is not None:
            self._forget()
            self.transport.reset_on_close()
            self.transport.abort()

    def _forget(self) -> None:
        self._is_closed, self._owner = True, None
        if self.transport is not None:
            self.worker_loop.hangups.unwatch(self.transport)
        self.peer = DROP
