"""Staged body: the body of a request or response, which passes the stages of its filters in sequence.

Rule 1: the output is framed after the stages have declared whether they keep the length. Rule 2: data that a stage
could not check or change is not forwarded: the exchange fails. Rule 3: what the stages of a body hold while more of it
is to come, or while one computes its output, takes from the node's memory for held bodies; a body for which none is
left is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, cast, final

from fastgw.errors import Fault
from fastgw.exchange.action import Action
from fastgw.exchange.body_stages import (
    BodyHook,
    BodyRefused,
    BodyStage,
    BodyTooLong,
    NoRoomForBody,
    PendingOutput,
    StageFactory,
    WholeBodyStage,
)
from fastgw.exchange.filter_steps import count_raised
from fastgw.exchange.reply import Reply
from fastgw.exchange.states import ENDED
from fastgw.http.field_names import EXPECT
from fastgw.shm.held_body_budget import WHY_NO_SHARE, HeldBodyBudget, HeldBytes

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange
    from fastgw.exchange.response_relay import ResponseRelay

T = TypeVar("T")

NO_SHARE: Final = "Too much memory holds the bodies of your other requests. Try again later."
RANGE: Final = frozenset((b"range", b"if-range"))


@final
class StagedBody:
    """The stages of one body, in sequence. If one of them raises, they are cancelled, and the exchange ends with it.

    `holds`: a stage buffers the whole body. `takes_empty`: a stage takes an empty body. `changes`: whether the output
    may differ from the input. `complete`: all output was returned. Bytes that they hold take from the budget, until
    they are cancelled, or `release_held` is called and they hold nothing back.
    """

    __slots__ = ("_collected", "_ended", "_exchange", "_failing", "_fed", "_held", "_held_bytes", "_is_response",
                 "_over", "_stages", "changes", "complete", "holds", "keeps_length", "takes_empty")  # fmt: skip

    def __init__(self, exchange: Exchange, stages: Iterable[tuple[BodyHook, BodyStage]]) -> None:
        self._exchange = exchange
        self._is_response = exchange.response is not None
        self._stages = tuple(stages)
        # Stages that need the whole body get it one after the other: at the end of the body, each passes on what the
        # first one has collected, or its own output in place of it. So only the first one is counted.
        self._collected = 0
        budget = exchange.client.held_body_budget if self._is_response else request_budget(exchange)
        self._held_bytes = HeldBytes(budget)
        self._fed = self._over = self.complete = False
        self._ended = 0  # number of stages that were ended or cancelled
        self._held = [0] * len(self._stages)  # bytes that each stage still owes, if it keeps the length
        self.holds = self.changes = self.takes_empty = False
        self.keeps_length = True
        for hook, stage in self._stages:
            self.holds = self.holds or isinstance(stage, WholeBodyStage)
            self.keeps_length = self.keeps_length and stage.keeps_length
            self.changes = self.changes or hook.changes
            self.takes_empty = self.takes_empty or stage.takes_empty
        self._failing: BodyHook | None = None  # the hook whose stage runs

    def __bool__(self) -> bool:
        """Whether there are stages."""
        return bool(self._stages)

    @property
    def changed(self) -> bool:
        """Whether the output differs from the input so far."""
        return any(stage.changed for _, stage in self._stages)

    def accepts_length(self, length: int) -> bool:
        """Whether a request body of this length may pass; see `BodyStage.check_length`. False: the exchange is over."""
        return self._run(self._check_length, length) is not None

    def _check_length(self, length: int) -> bool:
        for hook, stage in self._stages:
            self._failing = hook
            stage.check_length(length)
            if not stage.keeps_length:
                break
        return True

    def feed(self, payload: bytes, is_last: bool = False) -> bytes | None:
        """Return the output of the last stage. None: the exchange is over.

        `is_last`: the body is complete, and `end` follows at once. Such a piece needs no memory of the node, so that
        clients that stall cannot keep others from being served.
        """
        return self._run(self._feed, payload, is_last)

    def _feed(self, payload: bytes, is_last: bool) -> bytes:
        self._fed = True
        payload = self._feed_from(0, payload)
        if not is_last:
            self._hold()
        return payload

    def _hold(self) -> None:
        if not self._held_bytes.try_hold(self._collected + self._held_back()):
            raise NoRoomForBody(self._held_bytes.why)

    def _held_back(self) -> int:
        """Return the bytes that stages hold which do not need the whole body."""
        return sum(self._held) + sum([stage.held_bytes for _, stage in self._stages])

    def _feed_from(self, begin: int, payload: bytes) -> bytes:
        for place, (hook, stage) in enumerate(self._stages[begin:], begin):
            if not payload:
                break
            self._failing = hook
            if isinstance(stage, WholeBodyStage):
                self._collected += len(payload)
            try:
                payload = self._checked(place, len(payload), stage.feed(payload))
            except BodyRefused as refused:
                self._pass_on(place, refused)
                raise
        return payload

    def _pass_on(self, place: int, refused: BodyRefused) -> None:
        """Let the stages after a place change what the stage there has passed before it has refused the body."""
        if refused.passed:
            refused.passed = self._feed_from(place + 1, refused.passed)
            self._failing = self._stages[place][0]

    def end(self, when_done: Callable[[bytes], None]) -> bytes | None:
        """Return the final output; nothing for an empty body, unless a stage takes it. None: the exchange is over, or a
        stage still computes the output, with which `when_done` is called later.
        """
        return self._settle(when_done, False)

    def _settle(self, when_done: Callable[[bytes], None], waited: bool) -> bytes | None:
        """`waited`: a stage has waited for its output."""
        output = self._run(self._end_from, b"", waited)
        if output is None or isinstance(output, bytes):
            return output
        output.add_done_callback(partial(self._go_on, when_done))
        return None

    def _go_on(self, when_done: Callable[[bytes], None], _: object) -> None:
        rest = self._settle(when_done, True)
        if rest is not None:
            when_done(rest)

    def _end_from(self, out: bytes, waited: bool) -> bytes | PendingOutput:
        for place in range(self._ended, len(self._stages)):
            hook, stage = self._stages[place]
            self._failing = hook
            came, fed = len(out), b""
            if not waited:
                if not (self._fed or out or stage.takes_empty):
                    self._cancel_next()
                    continue
                try:
                    fed = stage.feed(out) if out else b""
                except BodyRefused as refused:
                    self._pass_on(place, refused)
                    raise
                if stage.may_wait and (pending := stage.pending()) is not None:
                    self._checked(place, came, fed)
                    self._hold()
                    return pending
            waited = False
            self._ended += 1
            try:
                out = self._checked(place, came, fed + stage.end())
            except BodyRefused as refused:
                refused.passed = fed + refused.passed
                self._pass_on(place, refused)
                raise
            if self._held[place]:
                raise ValueError("a body stage that keeps the length returned fewer bytes than it got")
        self._failing = None
        self.complete = True
        if not self.holds:
            self._held_bytes.release()
        return out

    def _checked(self, place: int, came: int, out: bytes) -> bytes:
        """Return the output of a stage. Raises `TypeError` or `ValueError` for an invalid one."""
        if type(out) is not bytes:
            raise TypeError(f"a body stage returned a {type(out).__name__}; expected bytes")
        if self._stages[place][1].keeps_length:
            self._held[place] = held = self._held[place] + came - len(out)
            if held < 0:
                raise ValueError("a body stage that keeps the length returned more bytes than it got")
        return out

    def skip(self) -> None:
        """Cancel the stages, because there is no body."""
        self._held_bytes.release()
        while self._ended < len(self._stages):
            self._cancel_next()

    def cancel(self) -> None:
        """Cancel the stages, because the body will not be completed, or the exchange has ended."""
        self._over = True
        self.skip()

    def release_held(self) -> None:
        """Give back the memory of the output so far, which was passed on; bytes that stages hold back still count."""
        self._collected = 0
        is_over = self._ended == len(self._stages)
        self._held_bytes.try_hold(0 if is_over else self._held_back())  # less than before

    def _cancel_next(self) -> None:
        hook, stage = self._stages[self._ended]
        self._ended += 1
        try:
            stage.cancel()
        except BaseException:  # the edge of a filter: the exception is logged, the other stages are still cancelled
            self._count_raised(hook)

    def _run(self, step: Callable[..., T], *given: object) -> T | None:
        """None: the exchange is over, or a stage has raised, which has ended it."""
        if self._over:
            return None
        try:
            return step(*given)
        except BaseException as error:  # the edge of a filter: data that it could not check is not forwarded
            if isinstance(error, BodyRefused) and self._is_response and not (self.holds or self._over):
                cast("ResponseRelay", self._exchange.response_sink).send_passed(error.passed)
            self.cancel()
            self._fail(error)
            return None

    def _fail(self, error: BaseException) -> None:
        """End the exchange. Called in the exception handler."""
        exchange, hook = self._exchange, self._failing
        if isinstance(error, NoRoomForBody):
            fail_unheld(exchange, str(error))
            return
        assert hook is not None
        if isinstance(error, BodyTooLong):
            too_long = Fault.RESPONSE_TOO_LARGE if self._is_response else Fault.BODY_TOO_LARGE
            name = exchange.chain.name_of(hook.step)
            exchange.fail(too_long, why=f"filter {name} needs the whole body, which has more than {hook.bound} bytes")
        elif not isinstance(error, BodyRefused):
            exchange.fail(Fault.INTERNAL, why=self._count_raised(hook))
        elif exchange.state is not ENDED:
            exchange.refuse_late(error.reply)

    def _count_raised(self, hook: BodyHook) -> str:
        return count_raised(hook.step, "response body" if self._is_response else "body", self._exchange)


def staged_body(hooks: Iterable[BodyHook], exchange: Exchange) -> StagedBody | str:
    """Make the stages of a body for the hooks that need one: of the response, once that is known, or else the request.

    A string: a hook has raised, and the stages made so far were cancelled; the string is for the access log.
    """
    stages: list[tuple[BodyHook, BodyStage]] = []
    response = exchange.response
    for hook in hooks:
        try:
            stage = hook.stage_for(exchange)
        except BaseException:  # the edge of a filter: data that it could not check is not forwarded
            why = count_raised(hook.step, "body" if response is None else "response body", exchange)
            StagedBody(exchange, stages).cancel()
            return why
        if stage is not None:
            stages.append((hook, stage))
            if response is None:
                continue
            if hook.changes:
                response.encoded_forms = None  # the next stages get another body
            response.is_held = response.is_held or isinstance(stage, WholeBodyStage)
    return StagedBody(exchange, stages)


def changed_whole(hook: BodyHook, exchange: Exchange, body: bytes) -> bytes | StagedBody | str:
    """Return a complete response body as a hook changes it (`Chain.whole_hook`), or the stages, as `staged_body`
    does.
    """
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
    return StagedBody(exchange, () if made is None else ((hook, cast(BodyStage, made)),))


def _checked_whole(hook: BodyHook, exchange: Exchange, body: bytes) -> StagedBody | Reply | str | None:
    """Return the result of a hook for a complete request body (`Chain.whole_check`), or the stages, as `staged_body`
    does. None: the body passes as it is.
    """
    try:
        made = hook.check_whole(exchange, body)
    except BaseException:  # the edge of a filter: data that it could not check is not forwarded
        return count_raised(hook.step, "body", exchange)
    return StagedBody(exchange, ((hook, made),)) if isinstance(made, BodyStage) else made


def begin_request_stages(exchange: Exchange, action: Action) -> bool:
    """Start the body stages of the filters, beginning with the received part of the body. False: do not continue now.

    Before a route is known, or while a step waits, the relay keeps the body. `action`: begun once the whole body was
    received, if a filter needs it.
    """
    chain, body = exchange.chain, exchange.request_body
    drop_ranges(exchange)
    if body is None or not chain.request_body_hooks:
        return True
    made: StagedBody | Reply | str | None
    if chain.whole_check is not None and (payload := body.whole_payload()):
        # PERF: 80 calls of Python less than by stages for a body that passes (CPython 3.11, micro/content).
        made = _checked_whole(chain.whole_check, exchange, payload)
    else:
        made = staged_body(chain.request_body_hooks, exchange)
    if isinstance(made, str):
        exchange.fail(Fault.INTERNAL, why=made)
        return False
    if isinstance(made, Reply):
        exchange.refuse_late(made)
        return False
    if not made:
        return True
    length = exchange.body_length
    if length is None and exchange.head.expects_continue:
        length = 1  # at least: a client must not wait with an empty body (RFC 9110 section 10.1.1)
    if length and not made.accepts_length(length):
        return False
    if made.holds and exchange.head.expects_continue:
        exchange.drop_everywhere(EXPECT)  # the gateway itself requests the body
        if not body.bytes:
            exchange.client.send_interim(None)
    return body.begin_stages(made, partial(action.begin, exchange)) and not body.waits


def drop_ranges(exchange: Exchange) -> None:
    """Request no range of a response that a filter may change from the upstream: see `BodyHook.spoils_ranges`."""
    if exchange.chain.drops_ranges:
        exchange.drop_everywhere(RANGE)


def request_budget(exchange: Exchange) -> HeldBodyBudget:
    """Return the budget from which the request's body takes the memory in which it is held: its client's share."""
    return exchange.client.held_body_budget.share_of(exchange.client_ip)


def fail_unheld(exchange: Exchange, why: str) -> None:
    """Refuse a request whose body the budget does not allow; `why`: its reason."""
    exchange.fail(Fault.OVERLOADED, NO_SHARE if why is WHY_NO_SHARE else None, why=why)
