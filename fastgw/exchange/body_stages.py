"""Body stages: filters that read a body, change it as it arrives, or need it as a whole.

The hooks of a route are compiled into its chain; a stage is created for each exchange that a hook applies to.
Rule: a stage holds no more than it declares: one that needs a whole body has a bound, above which the exchange fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final

from fastgw.config.base.value_types import parse_size
from fastgw.exchange.held_pieces import append_piece
from fastgw.exchange.reply import Reply, Response

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange

BodyFunction: TypeAlias = "Callable[[Exchange, bytes], bytes | Reply | None]"


ChangeWhole: TypeAlias = "Callable[[Exchange, Response, bytes], bytes | BodyStage | None]"
CheckWhole: TypeAlias = "Callable[[Exchange, bytes], Reply | BodyStage | None]"
RemovedCodings: TypeAlias = "Callable[[Exchange], Sequence[bytes]]"


@final
class Bounded:
    """Maximum size of a body that a filter needs as a whole: bytes, or a size such as `1MiB`. Raises `ValueError`."""

    __slots__ = ("size",)

    def __init__(self, size: int | str) -> None:
        self.size = parse_size(size) if isinstance(size, str) else size
        if self.size <= 0:
            raise ValueError(f"a body of {size} bytes is bounded by nothing; expected a size such as 1MiB")

    def __repr__(self) -> str:
        return f"Bounded({self.size})"


class PendingOutput(Protocol):
    """Future of the output of a stage, which is computed outside the event loop."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None: ...
    def cancel(self) -> bool: ...


class BodyStage:
    """Stage of one filter for one body: it receives bytes and returns others. It has to limit the data that it holds
    back.

    `keeps_length`: the output has as many bytes as the input, and never more than were fed; the body is aborted if a
    stage violates this. `changed`: whether the output differs from the input; False only if that is certain.
    `takes_empty`: `end` is called for an empty body, too; otherwise neither `feed` nor `end` is called for one.
    `may_wait`: `pending` is called before `end`; only for a stage that holds a whole body.
    `held_bytes`: bytes that it holds back now, which count towards the node's memory for held bodies; only for a stage
    that neither keeps the length nor needs the whole body, of which they are known.
    """

    keeps_length: bool = False
    changed: bool = True
    takes_empty: bool = False
    may_wait: bool = False
    held_bytes: int = 0

    def check_length(self, length: int) -> None:
        """Raise the exception of `feed` for a request body of this declared length, if all of it is certain to be
        refused: called before the first piece, so that the client need not send it. Not called after a stage that
        changes the length. Where no length is declared, it is called with a lower one than the body will have: 1 if the
        client waits for 100 (Continue), and the size of the first piece, if the body is then held as a whole.
        """

    def feed(self, payload: bytes) -> bytes:
        """Take the next piece, which is never empty, and return the output; b"": nothing yet."""
        raise NotImplementedError

    def end(self) -> bytes:
        """Handle the end of the body: return the data that was held back."""
        return b""

    def pending(self) -> PendingOutput | None:
        """Begin to compute the output outside the event loop, and return its future: `end` is called once that is done,
        whatever its result. None: `end` is called at once.
        """
        return None

    def cancel(self) -> None:
        """Handle a body that will not be completed, or is empty: data that was held back is discarded. Not called after
        `end`.
        """


@final
class StageFactory:
    """A body hook that creates a stage for each exchange whose body the filter changes as it arrives.

    `make`: called once the head is known (for a request: after its request steps); None: the body is not changed.
    `ranges`: whether clients may request ranges of a body that a response stage may change; otherwise ranges are never
    requested from the upstream, because its offsets refer to the unchanged body. `reads_only`: the stages return what
    they get, so that nothing in the head of the message changes; they set `keeps_length`, and `changed` to False.
    `change_whole`: called in place of `make` for a response of the upstream whose body is complete and not empty, if no
    other filter has a stage for it: returns the changed body, or what `make` would return.
    `check_whole`: called in place of `make` for a request whose body is complete and not empty, if no other filter has
    a hook for it: returns the response to a body that is refused, None for one that passes as it is, or a stage.
    `codings`: returns the content codings that the stage of a request removes from its body.
    """

    __slots__ = ("change_whole", "check_whole", "codings", "make", "ranges", "reads_only")

    def __init__(
        self,
        make: Callable[[Exchange], BodyStage | None],
        ranges: bool = False,
        reads_only: bool = False,
        change_whole: ChangeWhole | None = None,
        check_whole: CheckWhole | None = None,
        codings: RemovedCodings | None = None,
    ) -> None:
        self.make, self.ranges, self.reads_only = make, ranges or reads_only, reads_only
        self.change_whole, self.check_whole, self.codings = change_whole, check_whole, codings


class BodyTooLong(Exception):
    """Raised for a body longer than allowed by a filter that needs all of it."""


class NoRoomForBody(Exception):
    """Raised for a body that cannot be held; its text is the reason of `HeldBodyBudget.why`."""


class BodyRefused(Exception):
    """Raised when a filter has refused a request because of its body, or replaces a response because of its body.

    `passed`: output of the stage for the bytes before those that it refuses. It is sent with a response that is not
    held, which is cut off after it, so that the client gets the same whatever bytes have arrived together.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply
        self.passed = b""


def check_returns_at_once(name: str, step: object) -> None:
    """Raise `ValueError` for a coroutine function in the place of one that returns at once."""
    if iscoroutinefunction(step):
        raise ValueError(f"{name} is a coroutine function; expected one that returns at once")


@final
class BodyHook:
    """Hook for the bodies of requests or responses.

    `step`: function or `StageFactory` of the filter, which identifies the hook. A function gets each piece of a body
    and returns None: it does not change; bytes, which replace the piece, if `changes` is set; or a Reply, for requests
    only: answer with it. A body that may change is sent without its length, digest and strong ETag, and ranges of it
    are not requested. `needs`: the step gets the whole body in one piece, of this size at most, and may change it; the
    exchange waits for it. A longer request body is answered 413, a longer response body 502, and one for which the
    node's memory for held bodies is used up 503.
    """

    __slots__ = ("bound", "changes", "step")

    def __init__(
        self, step: BodyFunction | StageFactory, *, needs: Bounded | None = None, changes: bool = False
    ) -> None:
        if needs is not None and not isinstance(needs, Bounded):
            raise ValueError(f'needs is {needs!r}; expected a bound such as Bounded("1MiB")')
        check_returns_at_once("a body hook", step)
        self.step = step
        self.bound = None if needs is None else needs.size
        """Maximum size in bytes of a body that the hook needs as a whole; None: it takes pieces."""
        is_stage = isinstance(step, StageFactory)
        reads_only = isinstance(step, StageFactory) and step.reads_only
        self.changes = not reads_only and (changes or needs is not None or is_stage)

    @property
    def spoils_ranges(self) -> bool:
        """Whether a range of a response would be a range of a different body."""
        return self.changes and not (isinstance(self.step, StageFactory) and self.step.ranges)

    def stage_for(self, exchange: Exchange) -> BodyStage | None:
        """Return the stage of an exchange; None: its body is not changed."""
        step = self.step
        if not isinstance(step, StageFactory):
            return _Pieces(exchange, step, self.changes) if self.bound is None else _Whole(exchange, step, self.bound)
        return self._bounded(step.make(exchange))

    def check_whole(self, exchange: Exchange, body: bytes) -> Reply | BodyStage | None:
        """Return the result of the hook's `StageFactory.check_whole` for a body that is complete."""
        step = self.step
        assert isinstance(step, StageFactory)
        assert step.check_whole is not None
        if self.bound is not None and len(body) > self.bound:
            return self.stage_for(exchange)
        made = step.check_whole(exchange, body)
        return made if isinstance(made, Reply) else self._bounded(made)

    def _bounded(self, stage: BodyStage | None) -> BodyStage | None:
        if stage is not None and not isinstance(stage, BodyStage):
            raise TypeError(f"a body hook made a {type(stage).__name__}; expected a BodyStage or None")
        return stage if stage is None or self.bound is None else _Collected(stage, self.bound)


class _Pieces(BodyStage):
    """Stage that passes each piece to a function."""

    def __init__(self, exchange: Exchange, step: BodyFunction, changes: bool) -> None:
        self._exchange, self._step = exchange, step
        self.keeps_length = not changes
        self.changed = False

    def feed(self, payload: bytes) -> bytes:
        outcome = _checked(self._step(self._exchange, payload))
        if outcome is None:
            return payload
        if self.keeps_length:
            raise TypeError("a body hook returned bytes; a filter that changes bodies says changes=True")
        self.changed = True
        return outcome


class WholeBodyStage(BodyStage):
    """Base of stages that take a whole body. The head of a response is not sent before its body is complete.

    `most`: maximum size in bytes; `check_length` and `feed` raise `BodyTooLong` above it.
    """

    def __init__(self, most: int) -> None:
        self._pieces: list[bytes] = []
        self._left = most

    def check_length(self, length: int) -> None:
        if length > self._left:
            raise BodyTooLong

    def feed(self, payload: bytes) -> bytes:
        self._left -= len(payload)
        if self._left < 0:
            raise BodyTooLong
        append_piece(self._pieces, payload)
        return b""

    def whole(self) -> bytes:
        """Return the body, once, at its end."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class _Whole(WholeBodyStage):
    """Stage that passes the whole body to a function."""

    def __init__(self, exchange: Exchange, step: BodyFunction, most: int) -> None:
        super().__init__(most)
        self._exchange, self._step = exchange, step

    def end(self) -> bytes:
        body = self.whole()
        outcome = _checked(self._step(self._exchange, body))
        self.changed = outcome is not None and outcome != body
        return body if outcome is None else outcome


class _Collected(WholeBodyStage):
    """Stage that passes the whole body in one piece to another stage."""

    def __init__(self, stage: BodyStage, most: int) -> None:
        super().__init__(most)
        self._stage = stage
        self.takes_empty, self.may_wait = stage.takes_empty, stage.may_wait
        self._passed: bytes | None = None

    def check_length(self, length: int) -> None:
        super().check_length(length)
        self._stage.check_length(length)

    def feed(self, payload: bytes) -> bytes:
        if not self._pieces:
            self._stage.check_length(len(payload))  # so that nothing is held of a body that is refused whatever follows
        return super().feed(payload)

    def pending(self) -> PendingOutput | None:
        self._passed = self._feed()
        return self._stage.pending()

    def end(self) -> bytes:
        out = (self._feed() if self._passed is None else self._passed) + self._stage.end()
        self.changed = self._stage.changed
        return out

    def _feed(self) -> bytes:
        body = self.whole()
        try:
            return self._stage.feed(body) if body else b""
        except BaseException:
            self._stage.cancel()
            raise

    def cancel(self) -> None:
        self._stage.cancel()


def _checked(outcome: bytes | Reply | None) -> bytes | None:
    """Return the result of a body hook. Raises `BodyRefused` for a reply, `TypeError` for an invalid type."""
    if outcome is None or type(outcome) is bytes:
        return outcome
    if type(outcome) is Reply:
        raise BodyRefused(outcome)
    raise TypeError(f"a body hook returned a {type(outcome).__name__}; expected bytes, a Reply or None")
