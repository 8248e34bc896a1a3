"""Connections of a pool, as the pool sees them, and the pool as its connections see it."""

from __future__ import annotations

from math import inf
from typing import Any

from fastgw.eventloop.socket_transport import SocketTransport
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.upstream.connections.stream import UpstreamStream
from fastgw.upstream.connections.tls_client import TlsClientTransport
from fastgw.upstream.targets.target import Target


class PooledConnection(UpstreamStream):
    """Connection that a pool lends. It must be a `connect.Connecting` as well.

    `capacity`: number of streams that it carries at once when it is open, at least 1. `closed`: no more streams can be
    lent. Of the pool: `streams`, those lent now; `uses`, those lent so far, more than 1 while one is lent if the
    connection is reused; `idle_since`, monotonic seconds.
    """

    def __init__(self, target: Target, now: float) -> None:
        self.target = target
        self.capacity = 1
        self.closed = False
        self.streams = self.uses = 0
        self.idle_since = now

    def open_stream(self) -> Any:
        """Return a new stream, which reports its end by `Pool.give_back` or `discard`."""
        self.reused = self.uses > 1
        return self

    def close(self) -> None:
        """Close at once. No listener is called."""
        raise NotImplementedError

    @property
    def lost_by(self) -> str:
        """TLS error that has ended the connection; "" = none."""
        return ""


class Lender:
    """Interface of a pool for its borrowers and its connections."""

    def lend(self, target: Target, borrower: Any, fresh: bool = False, idle_at_most: float = inf) -> Any:
        """Lend a stream at once if there is one; else return None, and call `borrower.lent` or `borrower.failed` later.

        `fresh`: only of a connection that has not carried a request. `idle_at_most`: only of one that was idle for
        less, in seconds; for a request that could not be repeated if the target is just closing the connection.
        `Fault.POOL_FULL`: too many borrowers wait already; there is no later call. A borrower that exceeds
        `max_pending` waits nevertheless while another worker may close an idle connection for it. `failed` is called
        with this fault when no other worker has one any more, after one or two ticks at the latest, unless it does not
        exceed the limit any more: then it waits as the others.
        """
        raise NotImplementedError

    def give_back(self, connection: PooledConnection) -> None:
        """Take back a stream whose connection can carry another: it may be lent again before this returns."""
        raise NotImplementedError

    def discard(self, connection: PooledConnection) -> None:
        """Take back a stream whose connection cannot carry another."""
        raise NotImplementedError

    def forget(self, connection: PooledConnection) -> None:
        """Drop an idle connection, which was closed."""
        raise NotImplementedError


class HttpConnection(PooledConnection):
    """Connection over HTTP of either version, with or without TLS. `worker_loop`: its loop."""

    def __init__(self, worker_loop: WorkerLoop, pool: Lender, target: Target) -> None:
        PooledConnection.__init__(self, target, worker_loop.wheel.now)
        self._set_up(target, worker_loop.wheel)
        self.worker_loop = worker_loop
        self.pool = pool
        self.transport: SocketTransport = None  # type: ignore[assignment]  # set before anything else is called
        self.reads = worker_loop.reads
        self.buffer = self.reads.read_buffer
        self.resting = False  # other connections are read first (`Rests`)
        self._tls: TlsClientTransport | None = None
        self._tls_is_new = False  # the session is still to be stored

    def connection_made(self, transport: SocketTransport) -> None:
        self.transport = transport
        if isinstance(transport, TlsClientTransport):
            self._tls = transport
            self._special = self._tls_is_new = True

    def negotiated(self, protocol: str | None) -> HttpConnection:
        """Return the connection for the protocol that ALPN has selected (RFC 7301), in place of this one. None: the
        target has selected nothing. Raises `ConnectionError`.
        """
        raise NotImplementedError

    def _remember_session(self) -> None:
        """Store the TLS session: further connections may resume it."""
        self._tls_is_new = False
        if self._tls is not None and not self._tls.is_closing():
            self._tls.remember()

    @property
    def lost_by(self) -> str:
        return "" if self._tls is None else self._tls.lost_by
