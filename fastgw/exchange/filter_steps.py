"""Running the steps and body hooks of filters; the consequences if one raises."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate, isawaitable, iscoroutine
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from fastgw.errors import Fault
from fastgw.exchange.body_stages import (
    BodyHook,
    BodyRefused,
    BodyStage,
    BodyStages,
    BodyTooLong,
    NoRoomForBody,
    StageFactory,
    WholeBodyStage,
)
from fastgw.exchange.hooks import Outcome, RenewStep, RequestStep
from fastgw.exchange.reply import Reply, problem
from fastgw.exchange.states import ENDED
from fastgw.http.grpc.status import GrpcStatus, parse_status
from fastgw.observe.metrics.families import FilterEvent
from fastgw.observe.tracing.trace import MOST_TIMELINE, EndedWait
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.shm.held_body_budget import WHY_NO_SHARE, HeldBodyBudget

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange
    from fastgw.http.messages import ResponseHead

NO_SHARE: Final = "Too much memory holds the bodies of your other requests. Try again later."
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


def stages_of(hooks: Iterable[BodyHook], exchange: Exchange, kind: str) -> BodyStages | str:
    """Make the stages of a body for the hooks that need one. `kind`: kind of the steps, for the log.

    A string: a hook has raised, and the stages made so far were cancelled; the string is for the access log.
    """
    stages: list[tuple[BodyHook, BodyStage]] = []
    raised = partial(count_raised, kind=kind, exchange=exchange)
    budget = request_budget(exchange) if exchange.response is None else exchange.client.held_body_budget
    for hook in hooks:
        try:
            stage = hook.stage_for(exchange)
        except BaseException:  # the edge of a filter: data that it could not check is not forwarded
            why = raised(hook.step)
            BodyStages(stages, raised, budget).cancel()
            return why
        if stage is not None:
            stages.append((hook, stage))
            response = exchange.response
            if response is None:
                continue
            if hook.changes:
                response.encoded_forms = None  # the next stages get another body
            response.is_held = response.is_held or isinstance(stage, WholeBodyStage)
    return BodyStages(stages, raised, budget)


def request_budget(exchange: Exchange) -> HeldBodyBudget:
    """Return the budget from which the request's body takes the memory in which it is held: its client's share."""
    return exchange.client.held_body_budget.share_of(exchange.client_ip)


def fail_unheld(exchange: Exchange, why: str) -> None:
    """Refuse a request whose body the budget does not allow; `why`: its reason."""
    exchange.fail(Fault.OVERLOADED, NO_SHARE if why is WHY_NO_SHARE else None, why=why)


def checked_whole(hook: BodyHook, exchange: Exchange, body: bytes) -> BodyStages | Reply | str | None:
    """Return the result of a hook for a complete request body (`Chain.whole_check`), or the stages, as `stages_of`
    does. None: the body passes as it is.
    """
    try:
        made = hook.check_whole(exchange, body)
    except BaseException:  # the edge of a filter: data that it could not check is not forwarded
        return count_raised(hook.step, "body", exchange)
    if not isinstance(made, BodyStage):
        return made
    raised = partial(count_raised, kind="body", exchange=exchange)
    return BodyStages(((hook, made),), raised, request_budget(exchange))


def changed_whole(hook: BodyHook, exchange: Exchange, body: bytes) -> bytes | BodyStages | str:
    """Return a complete response body as a hook changes it (`Chain.whole_hook`), or the stages, as `stages_of` does."""
    step = hook.step
    assert isinstance(step, StageFactory)
    assert step.change_whole is not None
    try:
        assert exchange.response is not None
        made = step.change_whole(exchange, exchange.response, body)
    except BaseException:  # the edge of a filter: data that it could not check is not forwarded
        return count_raised(step, "response body", exchange)
    if type(made) is bytes:
        return made
    stages = () if made is None else ((hook, cast(BodyStage, made)),)
    raised = partial(count_raised, kind="response body", exchange=exchange)
    return BodyStages(stages, raised, exchange.client.held_body_budget)


def failed_stage(error: BaseException, stages: BodyStages, exchange: Exchange, kind: str, too_long: Fault) -> None:
    """End an exchange because a stage of a body has raised. Its stages are cancelled first. Called in the exception
    handler.
    """
    if isinstance(error, NoRoomForBody):
        fail_unheld(exchange, str(error))
        return
    hook = stages.failing
    assert hook is not None
    if isinstance(error, BodyTooLong):
        name = exchange.chain.name_of(hook.step)
        exchange.fail(too_long, why=f"filter {name} needs the whole body, which has more than {hook.bound} bytes")
    elif isinstance(error, BodyRefused):
        exchange.fail_with(error.reply, error.reply.fault or Fault.INTERNAL)
    else:
        exchange.fail(Fault.INTERNAL, why=count_raised(hook.step, kind, exchange))


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
