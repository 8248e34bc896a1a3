"""One active health check of one target: connect, send the request, check the response, close.

It opens a new connection each time: the check includes whether the target accepts connections, and for thousands of
targets the control process would otherwise keep as many descriptors open.
"""

import asyncio
from enum import IntEnum
from ssl import SSLContext
from typing import Any, Final, final

from msgspec.structs import replace

from fastgw.config.settings import gateway as settings
from fastgw.errors import Fault, Side
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Trailers
from fastgw.http.authority import parse_authority
from fastgw.http.grpc.frames import PREFIX, frame
from fastgw.http.messages import ResponseHead
from fastgw.net.proxy_protocol import LOCAL_V2, UNKNOWN_V1
from fastgw.upstream.connections.connect import ConnectFailed, connect
from fastgw.upstream.connections.http1_connection import connection_maker
from fastgw.upstream.connections.pooled_connection import Lender, PooledConnection
from fastgw.upstream.connections.stream import ResponseListener
from fastgw.upstream.targets.target import build_targets

MOST: Final = 65536
"""Maximum bytes of the body that are searched."""

SETTINGS_USED: Final = (
    *("protocol", "proxy_protocol", "host_header", "resolve", "timeouts", "tls", "tolerate", "response_limits"),
)
"""Settings of an upstream that its checks use, apart from those of the check and the target: if one of them changes,
the check has to be made again.
"""
_OWN_HEADERS: Final = {None: b"", "v1": UNKNOWN_V1, "v2": LOCAL_V2}
"""PROXY header of a health check's connection, by the upstream's `proxy_protocol`."""


class CannotCheck(Exception):
    """This process has reached a resource limit of its own; the target may be healthy."""


@final
class Check:
    """Active health check of one target."""

    def __init__(
        self,
        upstream: settings.Upstream,
        target: settings.Target,
        tls: SSLContext | None,
        active: settings.ActiveHealth,
    ) -> None:
        """`tls`: the context of the upstream's targets, if this one is reached over TLS."""
        self._active = active
        self._upstream = upstream
        at = target if active.port is None else replace(target, url=replace(target.url, port=active.port))
        (self._target,) = build_targets(replace(upstream, targets=(at,)), tls)
        self._preface = _OWN_HEADERS[upstream.proxy_protocol] if active.port is None else b""
        method = self._method = active.method.encode()
        literal = active.host if active.host not in (None, "target", "preserve") else None
        host = literal.encode() if literal else self._target.host_header or target.url.authority.encode()
        lines = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in active.headers.items())
        if not any(name.lower() == "user-agent" for name in active.headers):
            lines += b"User-Agent: fastgw-health\r\n"
        if self._target.follows_host:
            self._target = self._target.part_for(parse_authority(host).host)
        line = method, active.path.encode(), host
        self._request = b"%b %b HTTP/1.1\r\nHost: %b\r\n%bConnection: close\r\n\r\n" % (*line, lines)
        self._is_call = active.type == "grpc"
        if self._is_call:
            self._method = b"POST"
            self._request = health_call(host, lines, active.service)
        self._sought = None if active.expected_body is None else active.expected_body.encode()

    def stop(self) -> None:
        self._target.stop()

    async def __call__(self, worker_loop: WorkerLoop) -> str:
        """Return the error of the target, in a few words without its address; "" = none. Raises `CannotCheck`."""
        asked = _CheckRequest(self._sought is not None or self._is_call)
        made = connection_maker(worker_loop, self._upstream)(_CheckPool(asked), self._target)
        connection: Any = None
        try:
            async with asyncio.timeout(self._active.timeout):
                connection, _ = await connect(self._target, made, self._active.timeout, preface=self._preface)
                if self._active.type == "tcp":
                    return ""
                asked.late = Fault.UPSTREAM_TIMEOUT
                connection.open_stream().begin_special(asked, self._request, self._method, whole=True)
                return self._verdict(await asked.answer)
        except ConnectFailed as failed:
            if failed.fault.side is Side.GATEWAY:
                raise CannotCheck(failed.reason) from failed
            return f"{failed.fault.label}: {failed.reason}"
        except TimeoutError:
            return asked.late.label
        finally:
            if connection is not None:
                connection.close()

    def _verdict(self, answer: "_Answer") -> str:
        if isinstance(answer, str):
            return answer
        status, body = answer
        if self._is_call:
            return health_verdict(status, body)
        if not any(status in statuses for statuses in self._active.expected_statuses):
            return f"status {status}"
        if self._sought is not None and self._sought not in body:
            return "unexpected body"
        return ""


_Answer = tuple[int, bytes] | str
"""Status and the beginning of the body, or the failure."""


@final
class _CheckRequest(ResponseListener):
    """Listener to the response."""

    __slots__ = ("_body", "_status", "_wants_body", "answer", "late")

    def __init__(self, wants_body: bool) -> None:
        self._wants_body = wants_body
        self._status = 0
        self._body = b""
        self.late = Fault.CONNECT_TIMEOUT  # fault of a timeout in the current step
        self.answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()

    def _finish(self, answer: _Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    # calls of the stream

    def on_interim(self, head: ResponseHead) -> None: ...

    def on_head(self, head: ResponseHead, payload: bytes | None, ended: bool) -> None:
        self._status = head.status
        self.late = Fault.UPSTREAM_STALLED
        self.on_data((head.payload or b"") if payload is None else payload)
        if ended or not self._wants_body:
            self.on_end(())

    def on_data(self, payload: bytes) -> None:
        if self._wants_body:
            self._body += payload[: MOST - len(self._body)]
            if len(self._body) >= MOST:
                self.on_end(())

    def on_end(self, trailers: Trailers) -> None:
        self._finish((self._status, self._body))

    def on_failure(self, fault: Fault, silent: bool, why: str) -> None:
        self._finish(f"{fault.label}: {why}" if why else fault.label)


@final
class _CheckPool(Lender):
    """The pool of a connection that is closed after the response to a check."""

    __slots__ = ("_asked",)

    def __init__(self, asked: _CheckRequest) -> None:
        self._asked = asked

    def forget(self, connection: PooledConnection) -> None:
        """Handle the loss of the connection while it was not lent: before the request, or after the response."""
        self._asked.on_failure(Fault.CONNECTION_LOST, False, "")

    def discard(self, connection: PooledConnection) -> None: ...  # it is not counted in a limit

    give_back = discard


class ServingStatus(IntEnum):
    """Status that a service reports about itself (grpc.health.v1).

    Encoded by hand, because its messages have a single field: `HealthCheckRequest {string service = 1}`,
    `HealthCheckResponse {ServingStatus status = 1}`.
    """

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


def health_call(host: bytes, lines: bytes, service: str) -> bytes:
    """Return the call for a service, as HTTP/1.1 text. `lines`: further headers."""
    name = service.encode()
    length, rest = b"", len(name)
    while rest > 127:
        length, rest = length + bytes((rest % 128 + 128,)), rest // 128
    message = b"\x0a" + length + bytes((rest,)) + name if name else b""
    head = (
        b"POST /grpc.health.v1.Health/Check HTTP/1.1\r\nHost: %b\r\nContent-Type: application/grpc\r\nTE: trailers\r\n"
    )
    return head % host + lines + b"\r\n" + frame(message)


def health_verdict(status: int, body: bytes) -> str:
    """Return the error in the response; "" = healthy. Without a message, the gRPC status is the error."""
    if status != 200:
        return f"status {status}"
    if len(body) < PREFIX:
        return "no answer of grpc.health.v1"
    message = body[PREFIX : PREFIX + int.from_bytes(body[1:PREFIX], "big")]
    value = message[1] if len(message) == 2 and message[0] == 8 else 0
    if value == ServingStatus.SERVING:
        return ""
    return ServingStatus(value).name if value in ServingStatus.__members__.values() else "unexpected answer"
