"""Shadow mode of a filter: it decides on a copy of each exchange; the decision is counted and logged, and has no
effect.

Rule: the exchange continues as if the filter were not there. A step that has to wait continues separately, for at most
`TIMEOUT_S`; the request does not wait for it, and a decision after its end is counted but not logged. The upstream does
not get the filter's credentials, so its 401 or 403 says nothing about them: the renew step does not run.

Shadow filters see the client identity that earlier shadow filters would have set, so that `key_auth` and `authorize`
can be tried together. After a shadow filter that would have answered, later ones do not run and count nothing; after
one that waits, they run once it has decided. After one that would have decompressed the body, they see no
`Content-Encoding`, and what they would decide by the body is not known.

A filter that only serves an effect on others (`RequestHook.would`), such as copies of requests, does not run at all.
Others run their finish step, which gives back what their steps hold.

The stages of request bodies run on a copy of the body, as it passes, and so do steps that decide by its beginning, once
it has passed: the request does not wait for it. Effects that cannot be had without acting, on
bodies of responses, messages of a WebSocket and requests that a filter takes over, are not known: the decision is
`unknown` unless another one was made.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Final, TypeVar, final

from fastgw.errors import Fault
from fastgw.exchange import ClientSide, Exchange, Hooks, Reply
from fastgw.exchange.body_stages import (
    BodyRefused,
    BodyStage,
    BodyTooLong,
    PendingOutput,
    StageFactory,
    WholeBodyStage,
)
from fastgw.exchange.filter_steps import LOG_EVERY_S, abandon, checked
from fastgw.exchange.held_pieces import append_piece
from fastgw.exchange.hooks import BodyHead, RequestHook, RequestStep
from fastgw.exchange.reply import Response, body_at_once, problem
from fastgw.exchange.shadow_exchange import CODING, ShadowExchange, ShadowRun
from fastgw.observe.metrics.families import FilterEvent
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.shm.held_body_budget import WHY_NOT_HELD, HeldBytes

T = TypeVar("T")

TIMEOUT_S: Final = 30.0
MOST_WAITING: Final = 1000
"""Maximum number of exchanges of one use with a waiting step; the step does not run for further ones."""


def in_shadow(instance: str, own: Hooks) -> Hooks:
    """Return hooks that call the filter's own, and suppress their effects."""
    if own.request is not None and isinstance(own.request.would, str):
        own = Hooks(request=RequestHook(lambda exchange: None, would=own.request.would))
    shadow = _Shadow(instance, own)
    return Hooks(
        request=None if own.request is None else shadow.request,
        response=shadow.response if own.response is not None or shadow.response_body is not None else None,
        request_body=StageFactory(shadow.body_stage, reads_only=True) if own.request_body else None,
        reply=None if own.reply is None else shadow.reply,
        finish=shadow.finish,
        start=own.start,
        stop=shadow.stop if own.request or own.request_body else own.stop,
        tunnel=None if own.tunnel is None else shadow.tunnel,
    )


def why_answered(reply: Reply, why: str) -> str:
    """Describe the reply that a filter would have made."""
    verb = "answer" if reply.fault is None else "refuse"
    label = "" if reply.fault is None else f" {reply.fault.label}"
    return f"{verb} {reply.status}{label}{f' ({why})' if why else ''}"


@final
class _ShadowDecision:
    """Decision of one shadow filter on one exchange."""

    __slots__ = ("asked", "decision", "decisions", "exchange", "over", "task", "unjudged")

    def __init__(self, exchange: ShadowExchange) -> None:
        self.exchange = exchange
        self.asked = True  # False: an enforcing filter would have answered before
        self.decision = FilterEvent.PASS
        self.decisions: list[str] = []
        self.over = False  # no further decisions
        self.task: asyncio.Future[None] | None = None
        self.unjudged = ""  # the effect that is not known

    @property
    def outcome(self) -> FilterEvent:
        """The decision, for the metrics."""
        return FilterEvent.UNKNOWN if self.unjudged and self.decision is FilterEvent.PASS else self.decision

    @property
    def texts(self) -> list[str]:
        """The decisions, for the log."""
        return self.decisions or ([f"unknown: {self.unjudged}"] if self.unjudged else [])

    @property
    def waits(self) -> bool:
        return self.task is not None and not self.task.done()

    def decide(self, decision: FilterEvent, text: str) -> None:
        self.decision = max(self.decision, decision)
        self.decisions.append(text)

    def answer(self, reply: Reply | None) -> None:
        if reply is not None:
            body_at_once(reply)  # it will not be sent
        changed = self.exchange.request_changes()
        if reply is not None:
            self.decide(FilterEvent.ANSWER, why_answered(reply, self.exchange.why))
            self.over = True
        elif changed:
            self.decide(FilterEvent.CHANGE, f"change request {', '.join(changed)}")


@final
class _ShadowState:
    """Decisions of shadow filters on one exchange."""

    __slots__ = ("cases", "rehearsal", "waiting")

    def __init__(self) -> None:
        self.rehearsal = ShadowRun()
        self.cases: dict[_Shadow, _ShadowDecision] = {}
        self.waiting: asyncio.Future[None] | None = None
        """The last waiting step; the next one waits for it."""


@final
class _Shadow:
    """Shadow run: one use of a filter."""

    __slots__ = (
        "_body_head",
        "_instance",
        "_logged_at",
        "_own",
        "_removes_codings",
        "_tasks",
        "request_body",
        "response_body",
    )

    def __init__(self, instance: str, own: Hooks) -> None:
        self._instance = instance
        self._own = own
        self.request_body, self._body_head = None, None
        if isinstance(own.request_body, BodyHead):
            self._body_head = own.request_body
        else:
            self.request_body = own.request_body
        self.response_body = own.response_body
        if self.response_body is not None and not self.response_body.changes:
            self.response_body = None  # it only looks at them
        step = None if self.request_body is None else self.request_body.step
        self._removes_codings = isinstance(step, StageFactory) and step.codings is not None
        self._tasks: set[asyncio.Future[None]] = set()
        self._logged_at = -inf  # time of the last log line about an exception

    def request(self, exchange: Exchange) -> None:
        assert self._own.request is not None
        self._run_step(exchange, self._own.request.step)

    def inspect_body(self, exchange: Exchange, beginning: bytes) -> None:
        """Run the step that decides by the beginning of a body."""
        assert self._body_head is not None
        case = self._case(exchange)
        if not case.over:
            case.exchange.show_beginning(beginning)
            self._run_step(exchange, self._body_head.step)

    def _run_step(self, exchange: Exchange, step: RequestStep) -> None:
        case, stage = self._case(exchange), _stage(exchange)
        if stage.waiting is not None and not stage.waiting.done():
            self._wait(stage, case, step)
            return
        try:
            outcome = self._run_request_step(stage, case, step)
            if outcome is not None:
                self._wait(stage, case, step, outcome)
        except BaseException as error:
            self._raised(case, "request", error)
            stage.rehearsal.over = True

    def _run_request_step(
        self, stage: _ShadowState, case: _ShadowDecision, step: RequestStep
    ) -> Awaitable[Reply | None] | None:
        """Run a request step. Return its awaitable if it has to wait."""
        if stage.rehearsal.over:
            case.asked, case.over = case.asked and not self._is_request_step(step), True
            return None
        stage.rehearsal.enter(case.exchange)
        if stage.rehearsal.decodes and self._is_request_step(step):
            case.exchange.show_decoded()
        outcome = step(case.exchange)
        if inspect.isawaitable(outcome):
            return outcome
        self._record_decision(stage, case, checked(outcome))
        return None

    def _is_request_step(self, step: RequestStep) -> bool:
        return self._own.request is not None and step is self._own.request.step

    def _record_decision(self, stage: _ShadowState, case: _ShadowDecision, reply: Reply | None) -> None:
        case.answer(reply)
        if case.over:
            stage.rehearsal.over = True
        else:
            stage.rehearsal.passed(case.exchange)
            if self._removes_codings and case.exchange.request_dropped >= CODING:
                stage.rehearsal.decodes = True

    def response(self, exchange: Exchange) -> None:
        case = self._case(exchange)
        if case.over or case.waits:
            return
        response = exchange.response
        assert response is not None
        case.exchange.respond_as(response)
        try:
            if self._own.response is not None:
                self._own.response.step(case.exchange)
                if changed := case.exchange.response_changes(response):
                    case.decide(FilterEvent.CHANGE, f"change response {', '.join(changed)}")
            if self.response_body is not None and exchange.fault is None and _may_have_body(response):
                stage = self.response_body.stage_for(case.exchange)
                if stage is not None:
                    stage.cancel()
                    case.unjudged = "bodies of responses are not changed in shadow"
        except BaseException as error:
            self._raised(case, "response", error)

    def tunnel(self, exchange: Exchange, response: Response) -> None:
        case = self._case(exchange)
        if case.over or case.waits:
            return
        assert self._own.tunnel is not None
        try:
            made = self._own.tunnel(case.exchange, response)
            if isinstance(made, Reply) and not case.decisions:  # else it answers another request than the filter's
                case.answer(made)
            elif made is not None:
                case.unjudged = "messages are not checked in shadow"
        except BaseException as error:
            self._raised(case, "tunnel", error)

    def reply(self, exchange: Exchange, reply: Reply) -> Reply:
        case = self._case(exchange)
        if case.over or case.waits:
            return reply
        assert self._own.reply is not None
        try:
            made = checked(self._own.reply(case.exchange, reply))
            if made is None:
                raise TypeError("a reply step of a filter returned None; expected a Reply")
            if (made.status, made.body, made.fields) != (reply.status, reply.body, reply.fields):
                case.decide(FilterEvent.CHANGE, f"change reply {reply.status}")
            if made.body is not reply.body:
                body_at_once(made)
        except BaseException as error:
            self._raised(case, "reply", error)
        return reply

    def body_stage(self, exchange: Exchange) -> BodyStage | None:
        """Return the stage that shows the body of a request to the filter's own stage, and its beginning to the step
        that decides by it.
        """
        case, run = self._case(exchange), _stage(exchange).rehearsal
        if run.over and not case.over:
            case.asked, case.over = case.asked and self._own.request is not None, True
        if case.over:
            return None
        most, own = self._most_inspected(exchange, case), None
        if self.request_body is not None and not case.over:
            if case.waits:
                case.unjudged = "the body has passed while it was waiting"
            else:
                own = self.run_body_step(exchange, case, partial(self.request_body.stage_for, case.exchange))
        if own is None and not most:
            return None
        if case.exchange.is_decoded:
            case.unjudged = "bodies are not decompressed in shadow"
            if own is not None:
                _cancelled(own)
            return None
        return _ShadowBody(self, exchange, case, own, most)

    def _most_inspected(self, exchange: Exchange, case: _ShadowDecision) -> int:
        """Return the bytes of the body that a step needs to decide; 0: there is none for this request."""
        head = self._body_head
        if head is None or not self.run_body_step(exchange, case, partial(head.applies, case.exchange)):
            return 0
        return head.most

    def run_body_step(self, exchange: Exchange, case: _ShadowDecision, step: Callable[[], T]) -> T | None:
        """Run a step for a body and return its result, or record its decision: then no further one is run."""
        self._case(exchange)  # its progress
        try:
            made = step()
            case.answer(None)
        except BodyRefused as refused:
            self._record_decision(_stage(exchange), case, refused.reply)
        except BodyTooLong:
            self._record_decision(_stage(exchange), case, problem(Fault.BODY_TOO_LARGE))
        except BaseException as error:
            self._raised(case, "body", error)
        else:
            return made
        return None

    def end_body(self, exchange: Exchange, case: _ShadowDecision, own: BodyStage) -> None:
        """End the filter's own stage of a body, in a task if it works outside the event loop."""
        pending = own.pending() if own.may_wait else None
        if pending is not None:
            self._wait(_stage(exchange), case, None, self._end_pending_body(case, own, pending))
        else:
            own.end()
            self._note_changed_body(case, own)

    async def _end_pending_body(self, case: _ShadowDecision, own: BodyStage, pending: PendingOutput) -> Reply | None:
        """Wait for the output of a stage, and return the response that the filter would have made."""
        done = asyncio.Event()
        pending.add_done_callback(lambda _: done.set())
        try:
            await done.wait()
        except asyncio.CancelledError:
            _cancelled(own)
            raise
        try:
            own.end()
        except BodyRefused as refused:
            return refused.reply
        self._note_changed_body(case, own)
        return None

    def _note_changed_body(self, case: _ShadowDecision, own: BodyStage) -> None:
        assert self.request_body is not None
        if self.request_body.changes and own.changed:
            case.decide(FilterEvent.CHANGE, "change request body")

    def finish(self, exchange: Exchange) -> None:
        """Finish the exchange: count and log what was decided."""
        case, client = self._case(exchange), exchange.client
        if not case.asked:
            return
        if self._own.finish is not None:
            try:
                self._own.finish(case.exchange)
            except BaseException as error:
                self._raised(case, "finish", error)
        reported = case.exchange.shadowed.removeprefix(f"{self._instance}: ")
        if reported and not case.over:  # by a filter with `mode: report`
            case.decide(FilterEvent.ANSWER, reported)
        if exchange.sent and not case.over and self._own.translate is not None:
            case.unjudged = "requests are not taken over or signed in shadow"
        would = None if self._own.request is None else self._own.request.would
        if isinstance(would, str) and not case.over:
            case.unjudged = f"{would} in shadow"
        if case.task is not None and case.waits:
            texts = [*case.decisions, "unknown: it is still waiting"]
            case.task.add_done_callback(lambda task: self._count(client, exchange, case))
        else:
            texts = case.texts
            self._count(client, exchange, case)
        if texts:  # later ones have logged it already
            behind = f"; {exchange.shadowed}" if exchange.shadowed else ""
            exchange.shadowed = f"{self._instance}: {', '.join(texts)}{behind}"

    def _count(self, client: ClientSide, exchange: Exchange, case: _ShadowDecision) -> None:
        if case.asked:
            client.counts.count_shadow_decision(exchange, self._instance, case.outcome)

    def stop(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        if self._own.stop is not None:
            self._own.stop()

    def _case(self, exchange: Exchange) -> _ShadowDecision:
        cases = _stage(exchange).cases
        case = cases.get(self)
        if case is None:
            case = cases[self] = _ShadowDecision(ShadowExchange(exchange))
        else:
            case.exchange.copy_progress()
        return case

    def _raised(self, case: _ShadowDecision, kind: str, error: BaseException) -> None:
        if case.exchange.begun_at >= self._logged_at + LOG_EVERY_S:
            self._logged_at = case.exchange.begun_at
            log_event(
                OperatorEvent.FILTER_RAISED,
                "filter %s, in shadow: its %s step raised",
                self._instance,
                kind,
                error=error,
            )
        case.decide(FilterEvent.RAISE, f"raise {type(error).__name__}")
        case.over = True

    def _wait(
        self,
        stage: _ShadowState,
        case: _ShadowDecision,
        step: RequestStep | None,
        outcome: Awaitable[Reply | None] | None = None,
    ) -> None:
        """Wait for a step. `outcome`: its awaitable; None: wait for earlier steps first, then run it."""
        if len(self._tasks) >= MOST_WAITING:
            if outcome is not None:
                abandon(outcome)
            case.decide(FilterEvent.UNKNOWN, "unknown: too many are waiting")
            case.over = stage.rehearsal.over = True
            return
        case.task = stage.waiting = task = asyncio.ensure_future(
            self._waited(stage, case, step, outcome, stage.waiting)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _waited(
        self,
        stage: _ShadowState,
        case: _ShadowDecision,
        step: RequestStep | None,
        outcome: Awaitable[Reply | None] | None,
        before: asyncio.Future[None] | None,
    ) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S) as limit:
                if outcome is None and step is not None:
                    if before is not None:
                        await asyncio.wait([before])
                    outcome = self._run_request_step(stage, case, step)
                if outcome is not None:
                    self._record_decision(stage, case, checked(await outcome))
        except asyncio.CancelledError:  # shutdown
            case.decide(FilterEvent.UNKNOWN, "unknown: it was cancelled")
            stage.rehearsal.over = True
        except BaseException as error:  # in a task it would end the worker
            stage.rehearsal.over = True
            if limit.expired():
                case.decide(FilterEvent.UNKNOWN, "unknown: it timed out")
                case.over = True
            else:
                self._raised(case, "request", error)


def _stage(exchange: Exchange) -> _ShadowState:
    stage = exchange.shadows
    if stage is None:
        stage = exchange.shadows = _ShadowState()
    return stage  # type: ignore[no-any-return]  # its package knows nothing of filters


@final
class _ShadowBody(BodyStage):
    """Stage that passes the body of a request on as it is, and shows it to a filter in shadow: to its own stage, if it
    has one, and the first `most` bytes to the step that decides by them; 0: it has none.
    """

    keeps_length = True
    changed = False
    takes_empty = True

    def __init__(
        self, shadow: _Shadow, exchange: Exchange, case: _ShadowDecision, own: BodyStage | None, most: int
    ) -> None:
        self._shadow, self._exchange, self._case = shadow, exchange, case
        self._own = own
        self._beginning: list[bytes] | None = [] if most else None  # None: the step has run
        self._left = self._most = most
        self._fed = False
        self._bytes = 0
        self._held_bytes = HeldBytes(exchange.client.held_body_budget)

    def feed(self, payload: bytes) -> bytes:
        self._fed = True
        self._hold(len(payload))
        if self._beginning is not None:
            append_piece(self._beginning, payload[: self._left])
            self._left -= len(payload)
            if self._left <= 0:
                self._inspect(self._beginning)
        if self._own is not None:
            if not self._case.over:
                self._shadow.run_body_step(self._exchange, self._case, partial(self._own.feed, payload))
            if self._case.over:
                _cancelled(self._own)
                self._own = None
            elif self._own.held_bytes:
                self._hold(0)
        return payload

    def _hold(self, count: int) -> None:
        """Count a piece that is held for the filter; if there is no memory for it, the filter does not get the body."""
        self._bytes += count
        own = self._own
        held = 0 if own is None else self._bytes if isinstance(own, WholeBodyStage) else own.held_bytes
        if self._beginning is not None:
            held = max(held, min(self._bytes, self._most))
        if not self._held_bytes.try_hold(held):
            self._give_up(WHY_NOT_HELD)

    def _give_up(self, why: str) -> None:
        """Discard what is held, and leave open what the filter would have decided."""
        self._held_bytes.release()
        own, self._own = self._own, None
        if own is not None or self._beginning is not None:
            self._case.unjudged = why
        self._beginning = None
        if own is not None:
            _cancelled(own)

    def end(self) -> bytes:
        self._held_bytes.release()
        if self._beginning is not None:
            self._inspect(self._beginning)
        own, self._own = self._own, None
        if own is None:
            return b""
        if (self._fed or own.takes_empty) and not self._case.over:
            end = partial(self._shadow.end_body, self._exchange, self._case, own)
            self._shadow.run_body_step(self._exchange, self._case, end)
        else:
            _cancelled(own)
        return b""

    def _inspect(self, beginning: list[bytes]) -> None:
        self._beginning = None
        self._shadow.inspect_body(self._exchange, b"".join(beginning))

    def cancel(self) -> None:
        self._give_up("the body was not received completely")


def _cancelled(own: BodyStage) -> None:
    """Cancel a stage. Its exception changes nothing."""
    with suppress(Exception):
        own.cancel()


def _may_have_body(response: Response) -> bool:
    return response.head is None or response.head.has_body
