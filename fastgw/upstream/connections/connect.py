"""Opening a connection to a target: Happy Eyeballs over its addresses (RFC 8305), then TLS, within one time limit.

Rule: a connect that fails, times out or is cancelled closes its sockets, those of other addresses within two turns of
the event loop.
"""

import asyncio
import errno
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from time import monotonic
from typing import Any, Final, Protocol, TypeVar, cast

from fastgw.errors import Fault
from fastgw.eventloop.socket_transport import SocketTransport, StreamProtocol
from fastgw.eventloop.tls_transport import text_of
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.upstream.connections.http2_connection import NO_STREAMS, Http2UpstreamConnection
from fastgw.upstream.connections.pooled_connection import HttpConnection
from fastgw.upstream.connections.socket_connection import SocketConnection
from fastgw.upstream.connections.tls_client import TlsBroken, TlsClientTransport
from fastgw.upstream.targets.dns import TargetAddress
from fastgw.upstream.targets.target import Target

ATTEMPT_DELAY: Final = 0.25
"""Seconds until the next address is tried in parallel to one that has not answered (RFC 8305 section 5)."""
DETAIL_MAX: Final = 200
"""Maximum number of characters of the detail."""
UNIX_RETRY: Final = 0.01
"""Seconds until a unix socket with a full queue is tried again: the system does not report when it accepts again."""


T = TypeVar("T", bound=SocketTransport)


class ConnectStep(Enum):
    """Step of a connect: its fault for a timeout, and its fault for other failures."""

    RESOLVE = "name lookup", Fault.DNS_FAILED, Fault.DNS_FAILED
    CONNECT = "connect", Fault.CONNECT_TIMEOUT, Fault.UPSTREAM_UNREACHABLE
    HANDSHAKE = "TLS handshake", Fault.CONNECT_TIMEOUT, Fault.TLS_FAILED
    SETTINGS = "HTTP/2", Fault.CONNECT_TIMEOUT, Fault.CONNECT_REFUSED

    def __init__(self, text: str, late: Fault, failed: Fault) -> None:
        self.text, self.late, self.failed = text, late, failed


_CONNECT_FAULTS: Final = {
    errno.ECONNREFUSED: Fault.CONNECT_REFUSED,
    # The service accepted and closed at once: it is shutting down.
    errno.ECONNRESET: Fault.CONNECT_REFUSED,
    errno.ECONNABORTED: Fault.CONNECT_REFUSED,
    errno.ENOTCONN: Fault.CONNECT_REFUSED,
    errno.EPIPE: Fault.CONNECT_REFUSED,
    errno.ENOENT: Fault.CONNECT_REFUSED,  # a unix socket's path: its service is not running
    errno.EMFILE: Fault.CONNECTIONS_EXHAUSTED,
    errno.ENFILE: Fault.CONNECTIONS_EXHAUSTED,
    errno.ENOBUFS: Fault.CONNECTIONS_EXHAUSTED,
    errno.ENOMEM: Fault.CONNECTIONS_EXHAUSTED,
    errno.EADDRNOTAVAIL: Fault.CONNECTIONS_EXHAUSTED,  # no local port is available; but see `_no_address_of_ours`
}
"""Faults of a failed connect by errno; for any other see `ConnectStep`."""


class ConnectFailed(Exception):
    """The connect failed. `reason` is for the log: it may name addresses and certificates.

    `detail`: a short form for the access log: an errno's name, or the reason from TLS or DNS.
    """

    def __init__(self, fault: Fault, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.fault = fault
        self.reason = reason
        self.detail = detail


class Connecting(Protocol):
    """A `StreamProtocol`."""

    worker_loop: WorkerLoop


async def connect(
    target: Target,
    protocol: Connecting | SocketConnection,
    timeout: float,
    handshake: float | None = None,
    preface: bytes = b"",
) -> tuple[Any, TargetAddress]:
    """Connect `protocol` to `target` within `timeout` seconds, including the name lookup. Return it, or the connection
    that ALPN has chosen in its place, and the address.

    A `SocketConnection` gets the bare socket. `preface`: bytes that are sent first, before TLS (PROXY protocol).

    `handshake`: seconds for the TLS handshake after the connect; None: it has to complete within `timeout` as well.

    Raises `ConnectFailed`. A client certificate refused by the target is detected here with TLS 1.2 only: in TLS 1.3
    the client completes first (RFC 8446 section 4.4.3), and sees the refusal when it reads.
    """
    step = ConnectStep.RESOLVE
    connection: Any = protocol
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            addresses = await target.addresses(timeout)
            step = ConnectStep.CONNECT
            sock, address = await _dial_any(target, addresses)
            tcp_at = monotonic()
            if isinstance(protocol, SocketConnection):
                protocol.take_socket(sock, address)
                return protocol, address
            if preface and sock.send(preface) < len(preface):  # the socket's buffer is still empty
                sock.close()
                raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
            if target.tls is not None:
                step = ConnectStep.HANDSHAKE
                if handshake is not None:
                    timeout = handshake
                    limit.reschedule(asyncio.get_running_loop().time() + timeout)
            connection = await _hand_over(sock, address, target, protocol)
            connection.established = tcp_at, 0.0 if target.tls is None else monotonic()  # for traces
            step = ConnectStep.SETTINGS
            await _settle(connection)
            return connection, address
    except TlsBroken as error:  # also while the SETTINGS were awaited, as in TLS 1.3 the target may refuse only then
        raise _failed(ConnectStep.HANDSHAKE, error, timeout) from error
    except OSError as error:
        waits = isinstance(connection, Http2UpstreamConnection) and connection.accepts_none
        late_reason = f": {NO_STREAMS}" if waits and step is ConnectStep.SETTINGS else ""
        raise _failed(step, error, timeout, late_reason) from error
    finally:
        del limit  # it refers to the task, whose error refers to this frame: a reference cycle


async def secure(
    sock: socket.socket, address: TargetAddress, target: Target, protocol: Connecting, timeout: float
) -> None:
    """Start TLS on a socket that is connected to `target`, with `protocol` on top, within `timeout` seconds.

    Raises `ConnectFailed`. The transport owns the socket from now on, also after an error.
    """
    try:
        async with asyncio.timeout(timeout):
            await _hand_over(sock, address, target, protocol)
    except OSError as error:
        raise _failed(ConnectStep.HANDSHAKE, error, timeout) from error


def not_connected(error: OSError, timeout: float, address: TargetAddress | None) -> ConnectFailed:
    """Return the failure of a connect that the caller has tried. A `TimeoutError` without errno: it timed out."""
    if error.errno == errno.EADDRNOTAVAIL and address is not None and _no_address_of_ours(address):
        error = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    return _failed(ConnectStep.CONNECT, error, timeout)


_NO_SUCH_NAME: Final = 62, 64
"""Errors of OpenSSL for a certificate without the server name, or without the address."""


def is_about_name(error: BaseException | None) -> bool:
    """Whether a connect has failed because the target has no certificate for the server name."""
    cause = error.__cause__ if isinstance(error, ConnectFailed) else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_code in _NO_SUCH_NAME
    return isinstance(cause, ssl.SSLError) and cause.reason == "TLSV1_UNRECOGNIZED_NAME"


def is_refusal(error: BaseException | None) -> bool:
    """Whether a connect has failed by anything but the certificate of the target."""
    return isinstance(error, ConnectFailed) and not isinstance(error.__cause__, ssl.SSLCertVerificationError)


def _failed(step: ConnectStep, error: OSError, timeout: float, late_reason: str = "") -> ConnectFailed:
    if isinstance(error, TimeoutError) and error.errno is None:
        late = f"timed out after {timeout:g} s{late_reason}"
        return ConnectFailed(step.late, f"{step.text}: {late}", f"{step.text} {late}"[:DETAIL_MAX])
    reason = str(error) or type(error).__name__
    return ConnectFailed(_fault(step, error), f"{step.text}: {reason}", _detail(step, error))


def _fault(step: ConnectStep, error: OSError) -> Fault:
    if isinstance(error, TimeoutError):
        return step.late
    return _CONNECT_FAULTS.get(error.errno or 0, step.failed) if step is ConnectStep.CONNECT else step.failed


def _detail(step: ConnectStep, error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"[:DETAIL_MAX]
    if isinstance(error, ssl.SSLError):
        return f"TLS: {text_of(error)}"[:DETAIL_MAX]
    if step is ConnectStep.RESOLVE:
        return f"DNS: {str(error).rpartition('] ')[2]}"[:DETAIL_MAX]
    if error.errno is None and step is ConnectStep.HANDSHAKE:
        return f"TLS: {error}"[:DETAIL_MAX]
    if error.errno is None and step is ConnectStep.SETTINGS:
        return f"HTTP/2: {error}"[:DETAIL_MAX]
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


async def _hand_over(sock: socket.socket, address: TargetAddress, target: Target, protocol: Connecting) -> Any:
    """Create the transport of a connected socket, which owns it from now on in every case. Returns `protocol`, or the
    connection that was chosen in its place.
    """
    worker_loop = protocol.worker_loop
    if target.tls is None:
        plain = _take_over(sock, lambda fd: SocketTransport(worker_loop, fd))
        plain.begin(cast(StreamProtocol, protocol))
    else:
        done: asyncio.Future[OSError | StreamProtocol] = worker_loop.loop.create_future()
        resuming, name, connection = target.tls.at(address), target.server_name, cast(Any, protocol)
        choose = connection.negotiated if isinstance(protocol, HttpConnection) else lambda _: connection
        tls = _take_over(
            sock, lambda fd: TlsClientTransport(worker_loop, fd, resuming, name, choose, target.http1_only)
        )
        tls.begin_tls(done)
        try:
            outcome = await done
        except BaseException:
            tls.abort()
            raise
        if isinstance(outcome, OSError):
            try:
                raise outcome
            finally:
                del outcome, done  # its traceback refers back to this frame: a reference cycle
        if tls.lost_by:  # since the handshake
            raise TlsBroken(tls.lost_by)
        return outcome
    return protocol


def _take_over(sock: socket.socket, make: Callable[[int], T]) -> T:
    """Return the transport of a connected socket, which it owns; without one the socket is closed."""
    try:
        transport = make(sock.fileno())
    except BaseException:
        sock.close()
        raise
    sock.detach()
    return transport


async def _settle(connection: Any) -> None:
    """Wait for the SETTINGS of a target that speaks HTTP/2. Raises `ConnectionError`, of which `TlsBroken` is one."""
    if isinstance(connection, Http2UpstreamConnection):
        try:
            await connection.settle()
        except BaseException:
            connection.close()
            raise


async def _dial(address: TargetAddress) -> socket.socket:
    """Return a socket connected to an address. Raises `OSError`."""
    is_unix = address.family == socket.AF_UNIX
    sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        while (code := sock.connect_ex(address.sockaddr)) == errno.EAGAIN and is_unix:
            await asyncio.sleep(UNIX_RETRY)
        if code == errno.EINPROGRESS:
            await _writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == errno.EADDRNOTAVAIL and _no_address_of_ours(address):
            code = errno.EHOSTUNREACH
        if code:
            raise OSError(code, os.strerror(code))
        if not is_unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


async def _writable(sock: socket.socket) -> None:
    """Wait until a socket can be written to."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock, _finish, done)
    try:
        await done
    finally:
        loop.remove_writer(sock)


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _no_address_of_ours(address: TargetAddress) -> bool:
    """Whether this host has no local address for `address`, such as `[::1]` without IPv6: in that case ports are not
    exhausted.

    The system reports EADDRNOTAVAIL in both cases. UDP has ports of its own, and connecting it sends nothing.
    """
    try:
        with socket.socket(address.family, socket.SOCK_DGRAM) as probe:
            return probe.connect_ex(address.sockaddr) == errno.EADDRNOTAVAIL
    except OSError:  # no descriptor is available either
        return False


async def _dial_any(target: Target, addresses: Sequence[TargetAddress]) -> tuple[socket.socket, TargetAddress]:
    """Return a socket connected to one of a target's addresses: the first one that is; the others are closed.

    A further attempt begins as soon as one fails, or `ATTEMPT_DELAY` after the one before it (RFC 8305 section 5). If
    all have failed, raises the last `OSError`.
    """
    if len(addresses) == 1:
        return await _dial(addresses[0]), addresses[0]
    loop, left = asyncio.get_running_loop(), deque(addresses)
    running: dict[asyncio.Task[socket.socket], TargetAddress] = {}
    done: set[asyncio.Task[socket.socket]] = set()
    task: asyncio.Task[socket.socket] | None = None
    error: BaseException | None = None
    try:
        while left or running:
            if left:
                address = left.popleft()
                running[loop.create_task(_dial(address))] = address
            delay = ATTEMPT_DELAY if left else None
            done, _ = await asyncio.wait(running, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address = running.pop(task)
                error = task.exception()
                if error is None:
                    return task.result(), address
                target.avoid(address)
        raise error or OSError("no address")
    finally:
        for task, address in running.items():
            target.avoid(address)  # a later attempt was faster, or none succeeded
            task.add_done_callback(_close_unused)
            task.cancel()
        error, task, done = None, None, set()  # the traceback of an error, which a task holds, refers to this frame


def _close_unused(task: asyncio.Task[socket.socket]) -> None:
    """Close the socket of an attempt that has succeeded too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
