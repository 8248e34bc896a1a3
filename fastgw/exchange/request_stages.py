"""Stages of a request's body: the filters of an exchange change it or refuse it."""

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar, final

from fastgw.errors import Fault
from fastgw.exchange.action import Action
from fastgw.exchange.body_stages import BodyRefused, BodyStages, PendingOutput
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter_steps import checked_whole, failed_stage, stages_of
from fastgw.exchange.reply import Reply
from fastgw.http.field_names import EXPECT

T = TypeVar("T")

RANGE: Final = frozenset((b"range", b"if-range"))


def begin_request_stages(exchange: Exchange, action: Action) -> bool:
    """Start the body stages of the filters, beginning with the received part of the body. False: do not continue now.

    Before a route is known, or while a step waits, the relay keeps the body. `action`: begun once the whole body was
    received, if a filter needs it.
    """
    chain, body = exchange.chain, exchange.request_body
    drop_ranges(exchange)
    if body is None or not chain.request_body_hooks:
        return True
    made: BodyStages | Reply | str | None
    if chain.whole_check is not None and (payload := body.whole_payload()):
        # PERF: 80 calls of Python less than by stages for a body that passes (CPython 3.11, micro/content).
        made = checked_whole(chain.whole_check, exchange, payload)
    else:
        made = stages_of(chain.request_body_hooks, exchange, "body")
    if isinstance(made, str):
        exchange.fail(Fault.INTERNAL, why=made)
        return False
    if isinstance(made, Reply):
        exchange.refuse_late(made)
        return False
    if not made:
        return True
    stages = _RequestStages(exchange, made)
    length = exchange.body_length
    if length is None and exchange.head.expects_continue:
        length = 1  # at least: a client must not wait with an empty body (RFC 9110 section 10.1.1)
    if length and not stages.accepts_length(length):
        return False
    if made.holds and exchange.head.expects_continue:
        exchange.drop_everywhere(EXPECT)  # the gateway itself requests the body
        if not body.bytes:
            exchange.client.send_interim(None)
    return body.begin_stages(stages, partial(action.begin, exchange)) and not body.waits


def drop_ranges(exchange: Exchange) -> None:
    """Request no range of a response that a filter may change from the upstream: see `BodyHook.spoils_ranges`."""
    if exchange.chain.drops_ranges:
        exchange.drop_everywhere(RANGE)


@final
class _RequestStages:
    """The stages of a request's body: a body that one of them refuses ends the exchange."""

    __slots__ = ("_exchange", "_over", "_stages", "holds", "keeps_length")

    def __init__(self, exchange: Exchange, stages: BodyStages) -> None:
        self._exchange, self._stages = exchange, stages
        self.holds, self.keeps_length = stages.holds, stages.keeps_length
        self._over = False

    @property
    def changes(self) -> bool:
        return self._stages.changes

    @property
    def changed(self) -> bool:
        return self._stages.changed

    @property
    def complete(self) -> bool:
        return self._stages.complete

    def accepts_length(self, length: int) -> bool:
        """Whether a body of this length may pass; see `BodyStage.check_length`. False: the exchange is over."""
        self._run(self._stages.check_length, length)
        return not self._over

    def feed(self, payload: bytes, is_last: bool) -> bytes | None:
        passed = self._run(self._stages.feed, payload, is_last)
        assert passed is None or isinstance(passed, bytes)
        return passed

    def end(self, when_done: Callable[[bytes], None]) -> bytes | None:
        return self._settled(self._run(self._stages.end), when_done)

    def _settled(self, output: bytes | PendingOutput | None, when_done: Callable[[bytes], None]) -> bytes | None:
        """Return the output. None: there is none, or it is passed to `when_done` later."""
        if output is None or isinstance(output, bytes):
            return output
        output.add_done_callback(partial(self._continue, when_done))
        return None

    def _continue(self, when_done: Callable[[bytes], None], _: object) -> None:
        rest = self._settled(self._run(self._stages.end_pending), when_done)
        if rest is not None:
            when_done(rest)

    def release_held(self) -> None:
        self._stages.release_held()

    def cancel(self) -> None:
        if not self._over:
            self._over = True
            self._stages.cancel()

    def _run(self, step: Callable[..., T], *given: bytes | int) -> T | None:
        if self._over:
            return None
        try:
            return step(*given)
        except BaseException as error:  # the edge of a filter: data that it could not check is not forwarded
            self.cancel()
            if isinstance(error, BodyRefused):
                self._exchange.refuse_late(error.reply)
            else:
                failed_stage(error, self._stages, self._exchange, "body", Fault.BODY_TOO_LARGE)
            return None
