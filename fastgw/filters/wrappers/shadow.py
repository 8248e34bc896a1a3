"""Shadow mode of a filter: it decides on a copy of each exchange; the decision is counted and logged, and has no
effect.

Rule: the exchange continues as if the filter were not there. A step that has to wait continues separately, for at most
`TIMEOUT_S`; the request does not wait for it, and a decision after its end is counted but not logged. The upstream does
not get the filter's credentials, so its 401 or 403 says nothing about them: the renew step does not run.

Shadow filters see the client identity that earlier shadow filters would have set, so that `key_auth` and `authorize`
can be tried together. After a shadow filter that would have answered, later ones do not run and count nothing; after
one that waits, they run once it has decided.
"""

import asyncio
import inspect
from collections.abc import Awaitable
from math import inf
from typing import Any, Final, final

from fastgw.exchange import ClientSide, Exchange, Hooks, Reply
from fastgw.exchange.chain import LOG_EVERY_S, BodyHead, RequestStep, abandon, checked
from fastgw.exchange.reply import body_at_once
from fastgw.exchange.shadow_exchange import ShadowExchange, ShadowRun
from fastgw.observe.metrics.families import FilterEvent
from fastgw.operator_events import OperatorEvent, log_event

TIMEOUT_S: Final = 30.0
MOST_WAITING: Final = 1000
"""Maximum number of exchanges of one use with a waiting step; the step does not run for further ones."""


def in_shadow(instance: str, own: Hooks) -> Hooks:
    """Return hooks that call the filter's own, and suppress their effects."""
    if own.request_ids is not None:
        own = Hooks(request=own.request_ids.identify, response=own.response)
    shadow = _Shadow(instance, own)
    return Hooks(
        request=None if own.request is None else shadow.request,
        response=None if own.response is None else shadow.response,
        request_body=shadow.request_body if _looks_at_pieces(own) else None,
        body_head=None if own.body_head is None else _body_head_of(shadow, own.body_head),
        reply=None if own.reply is None else shadow.reply,
        finish=shadow.finish,
        start=own.start,
        stop=shadow.stop if own.request is not None or own.body_head is not None else own.stop,
    )


def _looks_at_pieces(own: Hooks) -> bool:
    """Whether it only reads bodies as they arrive. Hooks that change or hold bodies do not run."""
    return callable(own.request_body) and own.needs_body is None and not own.changes_body


def _body_head_of(shadow: "_Shadow", own: BodyHead) -> BodyHead:
    return BodyHead(shadow.inspect_body, own.most, own.applies)


def why_answered(reply: Reply, why: str) -> str:
    """Describe the reply that a filter would have made."""
    verb = "answer" if reply.fault is None else "refuse"
    label = "" if reply.fault is None else f" {reply.fault.label}"
    return f"{verb} {reply.status}{label}{f' ({why})' if why else ''}"


@final
class _ShadowDecision:
    """Decision of one shadow filter on one exchange."""

    __slots__ = ("asked", "decision", "decisions", "exchange", "over", "task")

    def __init__(self, exchange: ShadowExchange) -> None:
        self.exchange = exchange
        self.asked = True  # False: an enforcing filter would have answered before
        self.decision = FilterEvent.PASS
        self.decisions: list[str] = []
        self.over = False  # no further decisions
        self.task: asyncio.Future[None] | None = None

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

    __slots__ = ("_instance", "_logged_at", "_own", "_tasks")

    def __init__(self, instance: str, own: Hooks) -> None:
        self._instance = instance
        self._own = own
        self._tasks: set[asyncio.Future[None]] = set()
        self._logged_at = -inf  # time of the last log line about an exception

    def request(self, exchange: Exchange) -> None:
        assert self._own.request is not None
        self._run_step(exchange, self._own.request)

    def inspect_body(self, exchange: Exchange) -> None:
        assert self._own.body_head is not None
        case = self._case(exchange)
        if not case.over:
            case.exchange.request_body = exchange.request_body  # read only
            self._run_step(exchange, self._own.body_head.step)

    def _run_step(self, exchange: Exchange, step: RequestStep) -> None:
        case, stage = self._case(exchange), _stage(exchange)
        if stage.waiting is not None and not stage.waiting.done():
            self._wait(stage, case, step, None)
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
            case.asked, case.over = case.asked and step is not self._own.request, True
            return None
        stage.rehearsal.enter(case.exchange)
        outcome = step(case.exchange)
        if inspect.isawaitable(outcome):
            return outcome
        self._record_decision(stage, case, checked(outcome))
        return None

    def _record_decision(self, stage: _ShadowState, case: _ShadowDecision, reply: Reply | None) -> None:
        case.answer(reply)
        if case.over:
            stage.rehearsal.over = True
        else:
            stage.rehearsal.passed(case.exchange)

    def response(self, exchange: Exchange) -> None:
        case = self._case(exchange)
        if case.over or case.waits:
            return
        assert self._own.response is not None
        assert exchange.response is not None
        case.exchange.respond_as(exchange.response)
        try:
            self._own.response(case.exchange)
            if changed := case.exchange.response_changes(exchange.response):
                case.decide(FilterEvent.CHANGE, f"change response {', '.join(changed)}")
        except BaseException as error:
            self._raised(case, "response", error)

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

    def request_body(self, exchange: Exchange, payload: bytes) -> None:
        case = self._case(exchange)
        if case.over or case.waits:
            return
        step: Any = self._own.request_body
        try:
            case.answer(checked(step(case.exchange, payload)))
        except BaseException as error:
            self._raised(case, "body", error)

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
        if case.task is not None and case.waits:
            texts = [*case.decisions, "unknown: it is still waiting"]
            case.task.add_done_callback(lambda task: self._count(client, exchange, case))
        else:
            texts = case.decisions
            self._count(client, exchange, case)
        if texts:  # later ones have logged it already
            behind = f"; {exchange.shadowed}" if exchange.shadowed else ""
            exchange.shadowed = f"{self._instance}: {', '.join(texts)}{behind}"

    def _count(self, client: ClientSide, exchange: Exchange, case: _ShadowDecision) -> None:
        if case.asked:
            client.counts.count_shadow_decision(exchange, self._instance, case.decision)

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
        step: RequestStep,
        outcome: Awaitable[Reply | None] | None,
    ) -> None:
        """Wait for a step. `outcome`: its awaitable; None: only wait for earlier steps."""
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
        step: RequestStep,
        outcome: Awaitable[Reply | None] | None,
        before: asyncio.Future[None] | None,
    ) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S) as limit:
                if outcome is None:
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
