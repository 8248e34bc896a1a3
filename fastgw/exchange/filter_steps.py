"""Running the steps of filters; the consequences if one raises."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from inspect import CORO_CREATED, getcoroutinestate, isawaitable, iscoroutine
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from fastgw.errors import Fault
from fastgw.exchange.hooks import Outcome, RenewStep, RequestStep
from fastgw.exchange.reply import Reply, problem
from fastgw.exchange.states import ENDED
from fastgw.http.grpc.status import GrpcStatus, parse_status
from fastgw.observe.metrics.families import FilterEvent
from fastgw.observe.tracing.trace import MOST_TIMELINE, EndedWait
from fastgw.operator_events import OperatorEvent, log_event

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange
    from fastgw.http.messages import ResponseHead

LOG_EVERY_S: Final = 1.0
LONG_WAIT_S: Final = 0.001
"""Seconds from which a wait for a filter is part of the story of a request."""
RENEWED_ON: Final = frozenset((401, 403))
"""Response status codes of the upstream that reject credentials."""
_RENEWED_ON_GRPC: Final = frozenset((GrpcStatus.UNAUTHENTICATED, GrpcStatus.PERMISSION_DENIED))
"""Statuses of gRPC calls that reject credentials."""


def before_any(exchange: Exchange) -> None:
    """Marker in `Exchange.answered_by`: no request step has run."""


def by_path(exchange: Exchange) -> None:
    """Marker in `Exchange.answered_by`: the route rejects this path, and none of its steps has run."""


def run_request(steps: Iterable[RequestStep], exchange: Exchange) -> Outcome:
    """Run request steps until one answers. None: all passed. Awaitable: a step has to wait; its result is the same.

    A step that raises is answered 500; the request does not pass.
    """
    left = iter(steps)
    for step in left:
        try:
            outcome = step(exchange)
        except BaseException:  # including the CancelledError of a future that the step awaits
            return _raised(step, exchange)
        if outcome is not None:
            exchange.answered_by = step
            return outcome if type(outcome) is Reply else _wait(step, outcome, left, exchange)
    exchange.answered_by = None
    return None


async def _wait(
    step: RequestStep, outcome: Awaitable[Reply | None], left: Iterable[RequestStep], exchange: Exchange
) -> Reply | None:
    begun_at = monotonic()
    try:
        reply = checked(await outcome if isawaitable(outcome) else outcome)
    except BaseException as error:  # in a task it would end the worker or be lost
        if exchange.state is ENDED and not isinstance(error, Exception):
            return None  # cancelled: the exchange has ended
        return _raised(step, exchange)
    finally:
        if exchange.trace is not None:
            if exchange.trace.is_sampled:
                exchange.trace.waits.append(EndedWait(exchange.chain.name_of(step), begun_at, monotonic()))
        elif (now := monotonic()) - begun_at > LONG_WAIT_S and len(exchange.timeline) < MOST_TIMELINE:
            exchange.timeline = (*exchange.timeline, EndedWait(exchange.chain.name_of(step), begun_at, now))
    if reply is not None or exchange.state is ENDED:  # the step ignored its cancellation
        return reply
    later = run_request(left, exchange)
    return later if later is None or type(later) is Reply else await later


def checked(reply: Reply | None) -> Reply | None:
    """Check the result of a step, or of its awaitable.

    Raises `TypeError` if it is neither None nor a reply.
    """
    if reply is not None and type(reply) is not Reply:
        raise TypeError(f"a step of a filter returned {reply!r}; expected a Reply or None")
    return reply


def rejects_credentials(status: int, grpc_status: bytes | None) -> bool:
    """Whether a response rejects the credentials of its request. `grpc_status`: of a gRPC call that has ended, whose
    HTTP status is 200 in most cases; None: it has none.
    """
    return status in RENEWED_ON or (grpc_status is not None and parse_status(grpc_status) in _RENEWED_ON_GRPC)


def asked_to_renew(exchange: Exchange, head: ResponseHead) -> tuple[RenewStep, Awaitable[bool]] | None:
    """Return the first renew step that returns an awaitable, and that awaitable. A step that raises is skipped."""
    for step in exchange.chain.renew_steps:
        try:
            outcome = step(exchange, head)
            if outcome is not None and not isawaitable(outcome):
                raise TypeError(f"a renew step of a filter returned a {type(outcome).__name__}; expected an awaitable")
        except BaseException:  # the edge of a filter: the response is forwarded
            exchange.why = count_raised(step, "renew", exchange)
        else:
            if outcome is not None:
                return step, outcome
    return None


def abandon(outcome: Awaitable[Any]) -> None:
    """Discard the awaitable of a step before it has started."""
    if hasattr(outcome, "close"):  # a coroutine or a similar object
        frame = getattr(outcome, "cr_frame", None)
        given = [each for each in frame.f_locals.values() if iscoroutine(each)] if frame is not None else []
        outcome.close()
        for each in given:
            if getcoroutinestate(each) == CORO_CREATED:  # never awaited, which would be a warning
                abandon(each)


def count_raised(step: object, kind: str, exchange: Exchange) -> str:
    """Log and count the exception of a step. Returns the text for the access log. Called in the exception handler.

    A step that raises for every request is logged once in `LOG_EVERY_S`, and counted each time.
    """
    chain, now = exchange.chain, exchange.begun_at
    name = chain.name_of(step)
    if chain.logged_at is None:
        chain.logged_at = {}
    if now >= chain.logged_at.get(step, -inf) + LOG_EVERY_S:
        chain.logged_at[step] = now
        log_event(OperatorEvent.FILTER_RAISED, "filter %s: its %s step raised", name, kind, error=True)
    exchange.client.counts.count_filter(name, FilterEvent.RAISED)
    return f"filter {name}: its {kind} step raised"


def _raised(step: RequestStep, exchange: Exchange) -> Reply:
    exchange.why = count_raised(step, "request", exchange)
    exchange.answered_by = step
    return problem(Fault.INTERNAL)
