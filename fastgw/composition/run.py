"""One composed exchange: sends the parts when the answers that they need are there, and merges them.

Rule 1: each part is settled once. Rule 2: once the response is decided, or the client has left, all other requests are
cancelled. Rule 3: nothing longer than `MOST_AT_ONCE` is parsed or written in the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from time import monotonic, time
from typing import TYPE_CHECKING, Final, TypeVar, final

from fastgw.composition.answers import UnusableAnswer, UsedAnswer, use_answer
from fastgw.composition.call import NO_MEMORY, PartAnswer, PartCall
from fastgw.composition.freshness import cache_fields
from fastgw.composition.outputs import OutputForm, TooDeep
from fastgw.composition.part import CompiledPart
from fastgw.composition.templates import MissingValue
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply, problem
from fastgw.http.json_tree import Node, Object, opened, value_at
from fastgw.http.messages import ResponseHead
from fastgw.http.preconditions import PreconditionResult, Validators, evaluate
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.client.held_body import HeldBody
from fastgw.upstream.upstream import Upstream

if TYPE_CHECKING:
    from fastgw.composition.action import ComposeAction, Composed

T = TypeVar("T")

_threads: Final = ThreadPoolExecutor(1, "json")
"""Thread for long texts: the interpreter runs one at a time anyway, and gives the event loop its turns."""
MOST_AT_ONCE: Final = 32 * 1024
"""Bytes that are parsed, or written after rules that look into all of them, in one turn of the event loop: 4 ms for an
object of the shortest members. Longer texts go to a thread."""
_SAFE: Final = (b"GET", b"HEAD")
_TIMED_OUT: Final = frozenset(
    (Fault.UPSTREAM_TIMEOUT, Fault.UPSTREAM_STALLED, Fault.CONNECT_TIMEOUT, Fault.POOL_TIMEOUT)
)


@final
class _PartState:
    """State of one part."""

    __slots__ = (
        "answers",
        "content",
        "failure",
        "in_flight",
        "items",
        "left",
        "next",
        "received",
        "settled",
        "size",
        "waits",
    )

    def __init__(self, waits: int) -> None:
        self.waits = waits
        """Parts that it still waits for."""
        self.items: list[Node] | None = None
        """Elements of `for_each`."""
        self.next = self.left = self.in_flight = 0
        self.size = 0
        """Bytes of the answer."""
        self.received: Node | None = None
        """The answer as received, for the templates of others."""
        self.answers: list[Node] = []
        self.content: Object | None = None
        """Members in the response."""
        self.failure: PartAnswer | None = None
        self.settled = False


@final
class _Values:
    """Values for the templates of one request."""

    __slots__ = ("_states", "exchange", "item")

    def __init__(self, exchange: Exchange, states: dict[str, _PartState], item: Node | None) -> None:
        self.exchange, self._states, self.item = exchange, states, item

    def answer(self, part: str) -> Node | None:
        return self._states[part].received


@final
class ComposeRun:
    """Service side of a composed exchange."""

    __slots__ = ("_action", "_body", "_calls", "_client_body", "_deadline_at", "_draining", "_exchange", "_heads",
                 "_held", "_ready", "_states", "_timer", "_unsettled", "_upstream")  # fmt: skip

    def __init__(self, action: ComposeAction, exchange: Exchange) -> None:
        self._action = action
        self._exchange: Exchange | None = exchange
        self._upstream: Upstream = action.parts[0].upstream
        self._states = {part.name: _PartState(len(part.after)) for part in action.parts}
        self._unsettled = len(action.parts)
        self._ready: deque[Callable[[], None]] = deque()
        self._draining = False
        self._calls: set[PartCall] = set()
        self._held = 0
        self._heads: list[ResponseHead] = []
        self._body: HeldBody | None = None
        self._client_body = b""
        self._deadline_at = monotonic() + action.timeout
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<ComposeRun {self._unsettled} of {len(self._states)} parts unsettled>"

    def start(self) -> None:
        """Send the parts that wait for nothing, once the client's body is there if a part needs it."""
        exchange = self._exchange
        assert exchange is not None
        self._timer = self._upstream.worker_loop.loop.call_later(self._action.timeout, self._expire)
        body = exchange.request_body if self._action.takes_body else None
        if body is None:
            self._start_parts()
            return
        self._body = HeldBody(exchange, self._action.most_bytes, self._upstream.worker_loop, self._start_with)
        self._body.collect(body)

    def _start_with(self, body: bytes) -> None:
        self._client_body = body
        self._start_parts()

    # calls of the exchange (`ServiceSide`)

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def cancel(self) -> None:
        """End it: the response is decided, or not needed."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if self._body is not None:
            self._body.release()
        calls, self._calls = self._calls, set()
        for call in calls:
            call.cancel()
            self._held += call.held
        self._ready.clear()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._upstream.worker_loop.held_body_budget.give_back(self._held)
        self._held = 0

    def _expire(self) -> None:
        """The time of the whole has passed: parts without an answer have failed."""
        self._timer = None
        self._draining = True  # none of them settles the whole before the last one has ended
        for call in tuple(self._calls):
            call.expire()
        self._draining = False
        self._drain()

    # the parts

    def _start_parts(self) -> None:
        for part in self._action.parts:
            if not part.after:
                self._later(part, self._start_part)
        self._drain()

    def _later(self, part: CompiledPart, step: Callable[[CompiledPart], None]) -> None:
        self._ready.append(lambda: step(part))

    def _drain(self) -> None:
        """Run what is ready, one after the other: failures at once must not nest."""
        if self._draining:
            return
        self._draining = True
        try:
            while self._ready:
                self._ready.popleft()()
        except BaseException:  # a defect: without an answer the client would wait for ever
            if self._exchange is not None:
                self._exchange.fail(Fault.INTERNAL, why="a defect in the composition")
            raise
        finally:
            self._draining = False

    def _start_part(self, part: CompiledPart) -> None:
        state = self._states[part.name]
        for earlier in part.after:
            before = self._states[self._action.parts[earlier].name]
            if before.failure is not None and before.received is None:
                self._settle_failed(part, PartAnswer.failed(Fault.COMPOSITION_FAILED, "a part before it has failed"))
                return
        if part.list_at is None:
            state.left = 1
            self._send_more(part)
            return
        source = self._states[part.list_at.part]
        self._compute(
            source.size, lambda: _elements(part, source.received), lambda held: self._start_list(part, state, held)
        )

    def _start_list(self, part: CompiledPart, state: _PartState, held: list[Node] | None) -> None:
        """Send the requests for the elements of a list. `held`: None = there is no list."""
        assert part.list_at is not None
        if held is None or len(held) > part.settings.max:
            why = "is no list" if held is None else f"has more than {part.settings.max} elements"
            failed = PartAnswer.failed(Fault.COMPOSITION_FAILED, f"{{{part.list_at.name}}} {why}")
            self._ready.append(lambda: self._settle_failed(part, failed))
        else:
            state.items = held
            state.answers = [b"null"] * len(held)
            state.left = len(held)
            self._later(part, self._send_more)
        self._drain()

    def _send_more(self, part: CompiledPart) -> None:
        """Send the next requests of a part, as many as may be in flight."""
        state = self._states[part.name]
        count = 1 if state.items is None else len(state.items)
        while self._exchange is not None and state.next < count and state.in_flight < part.settings.concurrency:
            index, state.next = state.next, state.next + 1
            self._send(part, state, index)
        if not state.left and not state.settled and self._exchange is not None:
            self._settle_list(part, state)

    def _send(self, part: CompiledPart, state: _PartState, index: int) -> None:
        exchange = self._exchange
        assert exchange is not None
        left = self._deadline_at - monotonic()
        call = PartCall(part, index, self._action.most_bytes, self._answered)
        self._calls.add(call)
        state.in_flight += 1
        if left <= 0:
            self._answered(call, PartAnswer.failed(Fault.UPSTREAM_TIMEOUT))
            return
        timeout = inf if part.settings.timeout is None else part.settings.timeout
        values = _Values(exchange, self._states, None if state.items is None else state.items[index])
        try:
            request = part.request(values, self._client_body)
        except MissingValue as missing:
            self._answered(call, PartAnswer.failed(Fault.COMPOSITION_FAILED, str(missing)))
            return
        call.send(exchange, request, timeout, self._action.most_requests)

    def _answered(self, call: PartCall, answer: PartAnswer) -> None:
        """Handle the end of a request, from whichever stack."""
        if self._exchange is None:
            return
        if answer.fault is None and 200 <= answer.status < 300:
            part, most = call.part, self._action.most_bytes
            size = len(answer.body)
            if answer.coding:
                size = most
                if not call.takes_memory(most):
                    answer = PartAnswer.failed(Fault.RESPONSE_TOO_LARGE, NO_MEMORY, answer.head)
                    self._ready.append(lambda: self._note(call, answer, None, None))
                    self._drain()
                    return
            self._compute(size, lambda: use_answer(part, answer, most), lambda used: self._used(call, answer, used))
        else:
            self._ready.append(lambda: self._note(call, answer, None, None))
            self._drain()

    def _used(self, call: PartCall, answer: PartAnswer, used: UsedAnswer | UnusableAnswer) -> None:
        if isinstance(used, UnusableAnswer):
            failed = PartAnswer.failed(Fault.UPSTREAM_MALFORMED, used.why, answer.head)
            self._ready.append(lambda: self._note(call, failed, None, None))
        else:
            self._ready.append(lambda: self._note(call, answer, used.received, used.content))
        self._drain()

    def _compute(self, size: int, work: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run work whose cost grows with `size`, in a thread if it is large."""
        if size <= MOST_AT_ONCE:
            try:
                result = work()
            except BaseException:  # a defect: without an answer the client would wait for ever
                if self._exchange is not None:
                    self._exchange.fail(Fault.INTERNAL, why="a defect in the composition")
                raise
            then(result)
            return
        loop = self._upstream.worker_loop.loop

        def done(future: asyncio.Future[T]) -> None:
            if self._exchange is None or future.cancelled():
                return
            if (error := future.exception()) is not None:
                log_event(OperatorEvent.DEFECT, "an answer could not be processed", error=error)
                self._exchange.fail(Fault.INTERNAL)
            else:
                then(future.result())

        loop.run_in_executor(_threads, work).add_done_callback(done)

    def _note(self, call: PartCall, answer: PartAnswer, node: Node | None, content: Object | None) -> None:
        """Note the result of a request: `content`, or None for a failure."""
        if self._exchange is None or call not in self._calls:
            return
        self._calls.discard(call)
        self._held += call.held
        part = call.part
        state = self._states[part.name]
        state.in_flight -= 1
        state.left -= 1
        if content is not None:
            assert answer.head is not None
            self._heads.append(answer.head)
        if state.items is not None:
            if content is None:
                state.failure = answer
            else:
                state.answers[call.index] = content
            self._later(part, self._send_more)
        elif content is None:
            self._settle_failed(part, answer)
        else:
            state.received, state.size = node, len(answer.body)
            state.content = part.grouped(content)
            self._settle(part, state)

    def _settle_list(self, part: CompiledPart, state: _PartState) -> None:
        """Settle a part once all elements are answered."""
        if state.failure is not None and all(each == b"null" for each in state.answers):
            self._settle_failed(part, state.failure)
            return
        state.received = list(state.answers)
        state.content = part.merged_list(state.answers)
        if state.failure is not None and self._decides(part):
            self._fail_whole(part, state.failure)
        else:
            self._settle(part, state)

    def _decides(self, part: CompiledPart) -> bool:
        return part.settings.required or self._action.settings.all_or_nothing

    def _settle_failed(self, part: CompiledPart, answer: PartAnswer) -> None:
        state = self._states[part.name]
        state.failure = answer
        if self._decides(part):
            self._fail_whole(part, answer)
            return
        if part.default is not None:
            state.received = dict(part.default)
            state.content = part.grouped(dict(part.default))
        elif part.error_name is not None:
            state.content = part.described_failure(answer.status, answer.body, answer.media_type or b"")
        self._settle(part, state)

    def _settle(self, part: CompiledPart, state: _PartState) -> None:
        state.settled = True
        self._unsettled -= 1
        for other in self._action.parts:
            if part.index in other.after:
                waiting = self._states[other.name]
                waiting.waits -= 1
                if not waiting.waits:
                    self._later(other, self._start_part)
        if not self._unsettled:
            self._ready.append(self._merge)

    # the response

    def _merge(self) -> None:
        exchange, action = self._exchange, self._action
        if exchange is None:
            return
        failed = [name for name, state in self._states.items() if state.failure is not None]
        complete = not failed
        merged: Object = {}
        some = False
        for state in self._states.values():
            if state.content is not None:
                some = True
                merged.update(state.content)
        static = action.static_for(complete)
        if not some and static is None:
            self._fail_whole(None, PartAnswer.failed(Fault.COMPOSITION_FAILED))
            return
        form = action.form_for(exchange)

        def write() -> Composed | None:
            try:
                return action.finished(merged, static, form, complete)
            except (TooDeep, RecursionError):
                return None

        self._compute(self._held, write, lambda made: self._reply(made, form, failed))

    def _reply(self, made: Composed | None, form: OutputForm, failed: list[str]) -> None:
        exchange, action = self._exchange, self._action
        assert exchange is not None
        if made is None:
            self._fail_whole(None, PartAnswer.failed(Fault.COMPOSITION_FAILED, "the response is nested too deeply"))
            return
        fields = [
            (b"Content-Type", form.media_type),
            (action.completed_name, b"false" if failed else b"true"),
        ]
        if failed:
            exchange.fault, exchange.why = Fault.COMPOSITION_FAILED, self._reasons(failed)  # logged and counted
            if action.is_negotiated:
                fields.append((b"Vary", b"Accept"))
            self._finish(exchange, Reply(200, made.body, fields))
            return
        now = time()
        of_parts = dict(cache_fields(self._heads, now))
        if action.is_negotiated and of_parts.get(b"Vary") != b"*":
            of_parts[b"Vary"] = b", ".join(filter(None, (b"Accept", of_parts.get(b"Vary"))))
        fields += of_parts.items()
        result = PreconditionResult.PROCEED
        if exchange.method in _SAFE:
            fields.append((b"ETag", made.etag))
            result = evaluate(exchange.head, Validators(made.etag, None, int(now)), now)
        if result is PreconditionResult.NOT_MODIFIED:
            self._finish(exchange, Reply(304, b"", fields[1:]))
        elif result is PreconditionResult.FAILED:
            self._finish(exchange, problem(Fault.PRECONDITION_FAILED, None, fields[1:2]))
        else:
            self._finish(exchange, Reply(200, made.body, fields))

    def _fail_whole(self, part: CompiledPart | None, answer: PartAnswer) -> None:
        """Answer with the failure of a part, or of all (`part` None)."""
        exchange = self._exchange
        if exchange is None:
            return
        failures = {name: state.failure for name, state in self._states.items() if state.failure is not None}
        if part is not None:
            failures[part.name] = answer
        if part is not None and part.settings.required and answer.status and answer.fault is None:
            kind = answer.media_type
            fields = () if kind is None else ((b"Content-Type", kind),)
            exchange.why = f"part {part.name}: {answer.status}"
            self._finish(
                exchange, Reply(answer.status, answer.body, (*fields, (self._action.completed_name, b"false")))
            )
            return
        names = ", ".join(failures)
        late = bool(failures) and all(each.fault in _TIMED_OUT for each in failures.values())
        fault = Fault.UPSTREAM_TIMEOUT if late else Fault.COMPOSITION_FAILED
        reasons = [f"part {name}: {_reason(each)}" for name, each in failures.items()]
        exchange.why = "; ".join(reasons) or answer.why
        detail = f"{fault.detail.removesuffix('.')}: {names}." if names else None
        self._finish(exchange, problem(fault, detail, ((self._action.completed_name, b"false"),)))

    def _reasons(self, failed: list[str]) -> str:
        failures = ((name, self._states[name].failure) for name in failed)
        return "; ".join(f"part {name}: {_reason(each)}" for name, each in failures if each is not None)

    def _finish(self, exchange: Exchange, reply: Reply) -> None:
        self.cancel()
        exchange.service = None
        exchange.reply(reply)


def _reason(answer: PartAnswer) -> str:
    return answer.why or str(answer.status)


def _elements(part: CompiledPart, root: Node | None) -> list[Node] | None:
    """Return the elements of the list of `for_each`; None: there is no list."""
    assert part.list_at is not None
    found = None if root is None else value_at(root, part.list_at.path)
    held = None if found is None else opened(found)
    return held if isinstance(held, list) else None
