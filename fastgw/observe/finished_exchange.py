"""Finished exchange as observers see it. `FinishedExchange` is a protocol with the attributes that they read; the
exchange itself is in a higher package.
"""

from typing import Protocol

from fastgw.observe.access_log.record import Record


class FinishedHead(Protocol):
    """Request head: the attributes that are logged."""

    @property
    def method(self) -> bytes: ...
    @property
    def host(self) -> bytes: ...
    @property
    def version(self) -> int: ...
    @property
    def raw_path(self) -> bytes: ...
    @property
    def query(self) -> bytes | None: ...
    @property
    def upgrade(self) -> tuple[bytes, ...]: ...
    @property
    def connect_protocol(self) -> bytes: ...
    def first(self, name: bytes) -> bytes | None: ...


class Named(Protocol):
    """A listener, a route or a consumer."""

    @property
    def name(self) -> str: ...


class FinishedBody(Protocol):
    @property
    def bytes(self) -> int: ...


class Answer(Protocol):
    @property
    def status(self) -> int: ...


class Failure(Protocol):
    """Fault: the attributes that are logged."""

    @property
    def label(self) -> str: ...


class Summarized(Protocol):
    def summary(self) -> dict[str, object]: ...


class FinishedExchange(Protocol):
    """Exchange that has just ended. The attributes are documented in `exchange`."""

    @property
    def head(self) -> FinishedHead: ...
    @property
    def scheme(self) -> bytes: ...
    @property
    def client_ip(self) -> str: ...
    @property
    def consumer(self) -> Named | None: ...
    @property
    def listener(self) -> Named: ...
    @property
    def route(self) -> Named | None: ...
    @property
    def request_body(self) -> FinishedBody | None: ...
    @property
    def request_bytes(self) -> int: ...
    @property
    def response(self) -> Answer | None: ...
    @property
    def response_bytes(self) -> int: ...
    @property
    def begun_at(self) -> float: ...
    @property
    def upstream(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def upstream_s(self) -> float: ...
    @property
    def retries(self) -> int: ...
    @property
    def fault(self) -> Failure | None: ...
    @property
    def why(self) -> str: ...
    @property
    def request_id(self) -> bytes: ...
    @property
    def cache_result(self) -> str: ...
    @property
    def grpc_status(self) -> str: ...
    @property
    def shadowed(self) -> str: ...
    @property
    def tunnel(self) -> Summarized | None:
        """Tunnel that a filter has inspected; read only if the request asked for an upgrade."""

    @property
    def subrequests(self) -> object:
        """Sub-requests as text; None: there were none."""


CLIENT_LEFT = 499
"""Status of an exchange whose client left before a response."""


def record_of(ended: FinishedExchange, now: float, date: float) -> Record:
    """Return the record of an exchange that has ended. `now`: monotonic seconds; `date`: epoch seconds."""
    head, route, body, fault = ended.head, ended.route, ended.request_body, ended.fault
    consumer = ended.consumer
    # PERF: common fields are positional, in `Record`'s order, and the others by name in that order: 1,000 instructions
    # (CPython 3.11, msgspec 0.22, callgrind, micro/observe).
    return Record(
        date,
        ended.client_ip,
        ended.listener.name,
        b"CONNECT" if head.connect_protocol else head.method,
        ended.scheme,
        head.host,
        head.raw_path,
        head.query,
        head.version,
        CLIENT_LEFT if ended.response is None else ended.response.status,
        ended.request_bytes if body is None else body.bytes,
        ended.response_bytes,
        now - ended.begun_at,
        consumer="" if consumer is None else consumer.name,
        route="" if route is None else route.name,
        upstream=ended.upstream,
        target=ended.target,
        upstream_s=ended.upstream_s,
        retries=ended.retries,
        fault="" if fault is None else fault.label,
        fault_detail=ended.why,
        request_id=ended.request_id,
        cache=ended.cache_result,
        grpc_status=ended.grpc_status,
        shadowed=ended.shadowed,
        subrequests="" if ended.subrequests is None else str(ended.subrequests),
        user_agent=head.first(b"user-agent"),
        referer=head.first(b"referer"),
        connect_protocol=head.connect_protocol,
        tunnel=None if not head.upgrade or ended.tunnel is None else ended.tunnel.summary(),
    )
