"""fault: delay or abort a share of the requests, to test how clients and services cope (fault injection)."""

import asyncio
from collections.abc import Callable, Iterable
from hmac import compare_digest
from random import Random
from typing import Annotated, Final, Literal, final

from msgspec import Meta

from fastgw.config.base.value_types import FieldName, write_duration
from fastgw.errors import Fault as Cause
from fastgw.filters.api import (
    Duration,
    Env,
    Exchange,
    Filter,
    Hooks,
    Outcome,
    Percent,
    Phase,
    Reply,
    RequestHook,
    Settings,
    WarningContext,
)
from fastgw.http.grpc.status import GrpcStatus

_DELAY, _ABORT, _GRPC = b"x-fastgw-fault-delay", b"x-fastgw-fault-abort", b"x-fastgw-fault-grpc"
CONTROLS: Final = frozenset((_DELAY, _ABORT, _GRPC))
_DIGITS: Final = 7
"""Maximum number of digits of a number in a header."""

Seconds = float
Status = Annotated[int, Meta(ge=200, le=599)]
GrpcName = Literal[
    "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists",
    "permission_denied", "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented",
    "internal", "unavailable", "data_loss", "unauthenticated",
]  # fmt: skip


class FaultDelay(Settings):
    """Delay of requests before they are forwarded."""

    time: Duration
    """Delay of each request."""
    percent: Percent = 1.0
    """Share of the requests that are delayed."""


class FaultAbort(Settings):
    """Response in place of the upstream's: exactly one of `status` and `grpc_status`."""

    status: Status | None = None
    """HTTP status."""
    grpc_status: GrpcName | None = None
    """Status of gRPC, for calls of gRPC, also over gRPC-Web, Connect and JSON transcoding; other requests are answered
    500."""
    percent: Percent = 1.0
    """Share of the requests that are aborted."""

    def __post_init__(self) -> None:
        if (self.status is None) == (self.grpc_status is None):
            raise ValueError("expected exactly one of `status` and `grpc_status`")


class FaultHeader(Settings):
    """Header that requests need to be delayed or aborted."""

    name: FieldName
    """Name of the header."""
    value: Annotated[str, Meta(min_length=1)]
    """Value of the header, compared exactly."""


class FaultInjection(Filter, name="fault", phase=Phase.TRANSFORM, order=90):  # type: ignore[literal-required]  # order: ours
    """Fault injection: delay and abort a share of the requests, to test clients. The shares are independent, so that a
    request may be delayed and then aborted, as in Envoy and Istio.

    It runs after all other filters for requests but credentials, in place of the upstream: upstreams do not get aborted
    requests, and their health, breakers and retries do not count them. The log has the fault `fault_injected` for
    aborted requests, and `fastgw_filter_refusals_total` counts both.
    """

    delay: FaultDelay | None = None
    """Delay of requests. null = none."""
    abort: FaultAbort | None = None
    """Abortion of requests. null = none."""
    header: FaultHeader | None = None
    """Only requests with this header are delayed or aborted. The header is not forwarded. null = any request."""
    by_client: bool = False
    """Whether the client may say what happens, by `X-Fastgw-Fault-Delay` (milliseconds, at most `max_delay`),
    `X-Fastgw-Fault-Abort` (HTTP status) and `X-Fastgw-Fault-Grpc` (number of a gRPC status). Anyone who reaches the
    route may use them unless `header` has a secret value. The headers are not forwarded."""
    max_delay: Duration = 10.0
    """Maximum delay that a client may ask for."""
    max_delayed: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    """Maximum number of requests that are delayed at a time, in each worker; further ones are not delayed."""
    seed: int | None = None
    """Seed of the random numbers, so that each worker decides alike after each start. null = others at each start."""

    def __post_init__(self) -> None:
        if self.delay is None and self.abort is None and not self.by_client:
            raise ValueError("no fault; expected `delay`, `abort` or `by_client`")

    def secret_names(self) -> Iterable[str]:
        return () if self.header is None else (self.header.name,)

    def warnings(self, context: WarningContext) -> Iterable[str]:
        longest = max(0.0 if self.delay is None else self.delay.time, self.max_delay if self.by_client else 0.0)
        if longest >= context.filter_timeout:
            given = f"{write_duration(context.filter_timeout)} (`timeouts.filters`)"
            yield f"a request is delayed by {write_duration(longest)}, but filters may take {given}: it is answered 504"

    def build(self, env: Env) -> Hooks:
        use = _Injection(self, env.instance)
        return Hooks(request=RequestHook(use.request, would=use.would), explain=use.explain)


@final
class _Injection:
    """Faults of one use of the filter."""

    def __init__(self, settings: FaultInjection, instance: str) -> None:
        self._settings, self._instance = settings, instance
        self._draw: Callable[[], float] = Random(settings.seed).random  # no secret: which requests fail
        self._delayed = 0
        header = settings.header
        self._header = None if header is None else (header.name.lower().encode(), header.value.encode())
        self._dropped = (CONTROLS if settings.by_client else frozenset()) | (
            frozenset() if self._header is None else frozenset((self._header[0],))
        )

    def request(self, exchange: Exchange) -> Outcome:
        if self._dropped:
            exchange.request_dropped |= self._dropped
        if not self._applies(exchange):
            return None
        seconds, abort = self._delay(exchange), self._abort(exchange)
        if seconds and self._delayed < self._settings.max_delayed:
            exchange.client.counts.count_refusal(exchange, self._instance)
            return self._wait(exchange, seconds, abort)
        return None if abort is None else self._answer(exchange, abort)

    def _applies(self, exchange: Exchange) -> bool:
        if self._header is None:
            return True
        values = exchange.values(self._header[0])
        return len(values) == 1 and compare_digest(values[0], self._header[1])  # it may be a secret

    async def _wait(self, exchange: Exchange, seconds: Seconds, abort: "FaultAbort | int | None") -> Reply | None:
        self._delayed += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._delayed -= 1
        return None if abort is None else self._answer(exchange, abort)

    def _delay(self, exchange: Exchange) -> Seconds:
        settings = self._settings
        if settings.by_client:
            asked = _number(exchange, _DELAY)
            if asked is not None:
                return min(asked / 1000, settings.max_delay)
        delay = settings.delay
        return 0.0 if delay is None or self._draw() >= delay.percent else delay.time

    def _abort(self, exchange: Exchange) -> "FaultAbort | int | None":
        """Return what to answer: as configured, or an HTTP status that the client has asked for, or -1 - the number of
        a gRPC status.
        """
        settings = self._settings
        if settings.by_client:
            status = _number(exchange, _ABORT)
            if status is not None and 200 <= status <= 599:
                return status
            code = _number(exchange, _GRPC)
            if code is not None and 1 <= code <= max(GrpcStatus):
                return -1 - code
        abort = settings.abort
        return None if abort is None or self._draw() >= abort.percent else abort

    def _answer(self, exchange: Exchange, abort: "FaultAbort | int") -> Reply:
        exchange.client.counts.count_refusal(exchange, self._instance)
        status, code = 500, None
        if isinstance(abort, int):
            status, code = (abort, None) if abort > 0 else (500, GrpcStatus(-1 - abort))
        elif abort.status is not None:
            status = abort.status
        elif abort.grpc_status is not None:
            code = GrpcStatus[abort.grpc_status.upper()]
        exchange.why = f"{self._instance}: injected"
        if code is not None and exchange.is_call:
            exchange.grpc_status = code.name
            cause = Cause.FAULT_INJECTED
            lines = ((b"Content-Type", b"application/grpc"), (b"grpc-status", b"%d" % code))
            return Reply(200, fields=(*lines, (b"grpc-message", cause.detail.encode())), fault=cause)
        body = b"" if status in (204, 205, 304) else b"fault filter abort"
        fields = ((b"Content-Type", b"text/plain"),) if body else ()
        return Reply(status, body, fields, fault=Cause.FAULT_INJECTED, grpc_status=code)

    # for explain and shadow mode

    def would(self, exchange: Exchange) -> Outcome:
        self._applies(exchange)
        return None

    def explain(self, exchange: Exchange) -> str:
        settings = self._settings
        if not self._applies(exchange):
            return "not injected: the request lacks the header"
        parts = []
        if settings.delay is not None:
            parts.append(f"{settings.delay.percent:g} are delayed by {write_duration(settings.delay.time)}")
        if settings.abort is not None:
            what = settings.abort.grpc_status or settings.abort.status
            parts.append(f"{settings.abort.percent:g} are answered {what}")
        if settings.by_client:
            parts.append("the client may ask for a fault")
        return "; ".join(parts)


def _number(exchange: Exchange, name: bytes) -> int | None:
    values = exchange.values(name)
    if len(values) != 1 or not values[0].isdigit() or len(values[0]) > _DIGITS:
        return None
    return int(values[0])
