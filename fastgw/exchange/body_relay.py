"""Body relay: forwards a body from one side to the other, and backpressure in the opposite direction."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast, final

from fastgw.exchange.held_pieces import append_piece
from fastgw.shm.held_body_budget import HeldBodyBudget, HeldBytes
from fastgw.typed_fields import expose_fields

if TYPE_CHECKING:
    from fastgw.exchange.staged_body import StagedBody

Trailers: TypeAlias = tuple[tuple[bytes, bytes], ...]


Length: TypeAlias = int | None
"""Bytes of a body; None: it is not known."""


class BodySink(Protocol):
    def feed(self, payload: bytes) -> None: ...
    def end(self, trailers: Trailers) -> None: ...


class BodySource(Protocol):
    def pause(self) -> None: ...
    def resume(self) -> None: ...


MAX_KEPT: Final = 65536
"""Default number of bytes of a request body that are kept so that it can be sent again."""


@final
class _Kept(list[bytes]):
    """Kept pieces of a body. They count towards the memory limit as long as they are referenced."""

    __slots__ = ("_bytes", "_room")

    def __init__(self, pieces: list[bytes], room: HeldBodyBudget) -> None:
        super().__init__(pieces)
        self._room = room
        self._bytes = 0

    def __del__(self) -> None:
        self._room.give_back(self._bytes)

    def add(self, payload: bytes, total: int) -> bool:
        """Keep a piece. `total`: bytes including this piece. False: the memory limit does not allow it."""
        wanted = max(total - MAX_KEPT, 0) - self._bytes
        if wanted > 0:
            if not self._room.try_take(wanted):
                return False
            self._bytes += wanted
        append_piece(self, payload)
        return True


class _NoSource:
    """Resume the source, unless the body has ended."""

    def pause(self) -> None:
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError


NO_SOURCE: Final = _NoSource()


class Relay:
    """Relay of a request's body. Payload is passed to `feed` and comes out at the sink; backpressure is passed in the
    opposite direction.

    While there is no sink (no connection yet), the source is paused after each piece, so at most one read is held.
    `most_kept`: maximum number of bytes that are kept; a longer body is not sent again. `length`: length of the output
    in bytes; None: unknown until the end.
    """

    def __init__(self, source: BodySource, length: int | None = None) -> None:
        self._begin(source, length)

    def _begin(self, source: BodySource, length: Length) -> None:
        self.source = source
        self.length = length
        self.sink: BodySink | None = None
        self.kept: list[bytes] | None = []  # all output, until it exceeds `most_kept`
        self.most_kept = MAX_KEPT
        self.bytes = 0  # bytes of payload; counted by the source, before stages
        self.sent_bytes = 0  # output of the stages, if there are any
        self.ended = False
        self.paused = False
        self.trailers: Trailers = ()
        self._stages: StagedBody | None = None
        self._when_whole: Callable[[], None] | None = None
        self._when_head: Callable[[], None] | None = None
        self._no_room: Callable[[], None] | None = None
        self._head_bytes: HeldBytes | None = None  # of the beginning that a filter needs
        self._most_head = 0
        self._wait_until = inf  # while the body is held: the end of the time for more of it
        self._timed_bytes = 0  # bytes that have prolonged it

    def whole_payload(self) -> bytes | None:
        """Return the body if it is complete and has no trailers; None: more may follow."""
        return b"".join(self.kept) if self.ended and self.kept is not None and not self.trailers else None

    def __repr__(self) -> str:
        flow = "ended" if self.ended else "paused" if self.paused else "open"
        return f"<Relay {flow} bytes={self.bytes} kept={None if self.kept is None else sum(map(len, self.kept))}>"

    def count_kept(self, room: HeldBodyBudget) -> None:
        """Count the kept bytes beyond `MAX_KEPT` in the memory limit."""
        if self.kept is not None and type(self.kept) is list:
            self.kept = _Kept(self.kept, room)

    def await_head(
        self, most: int, when_there: Callable[[], None], room: HeldBodyBudget, no_room: Callable[[], None]
    ) -> bool:
        """Receive the beginning of the body: this many bytes, or all of it. Returns whether it is there already;
        otherwise `when_there` is called once it is, or `no_room`, which ends the exchange, if the memory for it is used
        up. Of a body that passes stages it is the output. Call `forget_head` or `begin_stages` in the end.
        """
        size = self.bytes if self._stages is None else self.sent_bytes
        if self.ended or size >= most:
            return True
        self._head_bytes, self._no_room = HeldBytes(room), no_room
        if not self._head_bytes.try_hold(size):
            no_room()
            return False
        self._most_head, self._when_head = most, when_there
        self.resume()
        return False

    def count_held(self, size: int, room: HeldBodyBudget) -> bool:
        """Count this many bytes of the body, which others hold, in the memory for its beginning, until `forget_head`.
        False: there is no room for them.
        """
        if self._head_bytes is None:
            self._head_bytes = HeldBytes(room)
        return self._head_bytes.try_hold(size)

    def forget_head(self) -> None:
        """Wait no more for the beginning of the body, and release the memory for it."""
        self._when_head = self._no_room = None
        self._release_head()

    def head(self, most: int) -> bytes:
        """Return the received beginning of the body, at most this many bytes; see `await_head`."""
        return b"".join(self.kept or ())[:most]

    def begin_stages(self, stages: StagedBody, when_whole: Callable[[], None]) -> bool:
        """Pass the whole body through these stages, beginning with the received part. False: the exchange has ended.

        If they buffer the body, `when_whole` is called once all output is available, unless it already is: see `waits`.
        """
        assert self.kept is not None
        self._release_head()
        held = b"".join(self.kept)
        self.kept, self._stages = [], stages
        if not stages.keeps_length:
            self.length = None
        if held:
            passed = stages.feed(held, self.ended)
            if passed is None:
                return False
            if passed:
                self._keep_staged(passed)
        if stages.holds:
            self._when_whole = when_whole  # first: the output may be there later
        if self.ended:
            if not self._end_stages(stages):
                return False
            self._when_whole = None
        elif stages.holds:
            self.resume()
        return True

    @property
    def waits(self) -> bool:
        """Whether a stage buffers the body, and the body is not complete yet."""
        return self._when_whole is not None

    @property
    def changed(self) -> bool:
        """Whether the output differs from the client's bytes, or may differ."""
        stages = self._stages
        return stages is not None and (stages.changed if self.ended else stages.changes)

    @property
    def passed(self) -> bool:
        """Whether the whole body was received, and no stage has held back any of it."""
        return self.ended and (self._stages is None or self._stages.complete)

    def wait_until(self, now: float, idle: float, rate: float) -> float:
        """Return when the time for the next bytes ends, in seconds of the clock of `now`: after `idle` seconds. A body
        that is held in memory until more of it arrives gets one second more for each `rate` bytes only, up to that.
        """
        is_held = self._when_whole is not None or self._when_head is not None
        if not rate or not is_held:
            self._wait_until = inf
            return now + idle
        more = idle if self._wait_until == inf else self._wait_until - now + (self.bytes - self._timed_bytes) / rate
        self._timed_bytes = self.bytes
        self._wait_until = now + min(idle, more)
        return self._wait_until

    def cancel_stages(self) -> None:
        """Cancel the stages, because the exchange has ended and their data is no longer needed."""
        self._release_head()
        if self._stages is not None:
            self._stages.cancel()

    def forget_stages(self) -> None:
        """Release the stages: they refer back to the exchange, and only the garbage collector would find the cycle."""
        self._stages = self._when_whole = self._when_head = self._no_room = None

    def keep_no_more(self) -> None:
        """Release the kept output: it will not be sent again."""
        self.kept = None
        if self._stages is not None:
            self._stages.release_held()

    def _release_head(self) -> None:
        if self._head_bytes is not None:
            self._head_bytes.release()

    def _keep_staged(self, passed: bytes) -> None:
        assert self.kept is not None
        self.kept.append(passed)
        self.sent_bytes += len(passed)

    def _end_stages(self, stages: StagedBody) -> bool:
        """Take the data that the stages have held back. False: the exchange has ended, or the data comes later."""
        rest = stages.end(self._complete)
        if rest is None:
            return False
        self._take_rest(stages, rest)
        return True

    def _complete(self, rest: bytes) -> None:
        """Take the data that a stage has computed after the end of the body."""
        assert self._stages is not None
        self._take_rest(self._stages, rest)
        self._all_received()

    def _take_rest(self, stages: StagedBody, rest: bytes) -> None:
        if self.sink is not None:
            if rest:
                self.sent_bytes += len(rest)
                self._pass(rest)
        elif rest:
            self._keep_staged(rest)
        if stages.holds or (self.sink is None and not stages.keeps_length):
            self.length = None if self.trailers else self.sent_bytes

    def feed(self, payload: bytes) -> None:
        stages = self._stages
        if stages is None:
            self._pass(payload)
        elif passed := stages.feed(payload, self.ended):
            self.sent_bytes += len(passed)
            self._pass(passed)

    def _pass(self, payload: bytes) -> None:
        sink, kept = self.sink, self.kept
        size = self.bytes if self._stages is None else self.sent_bytes
        if kept is not None:
            if sink is not None and size > self.most_kept:
                self.kept = None
            elif type(kept) is list:
                append_piece(kept, payload)
            elif not cast(_Kept, kept).add(payload, size):
                if sink is None:  # at most one more read, and the next sink needs it
                    kept.append(payload)
                else:
                    self.kept = None
        if sink is not None:
            sink.feed(payload)
        elif self._when_head is not None:
            assert self._head_bytes is not None
            assert self._no_room is not None
            if not self.ended and not self._head_bytes.try_hold(size):
                self._when_head = None
                self._no_room()
            elif size >= self._most_head and not self.ended:
                self.pause()
                self._head_is_there()
        elif self._when_whole is None:
            self.pause()

    def _head_is_there(self) -> None:
        when_head, self._when_head = self._when_head, None
        assert when_head is not None
        when_head()

    def last(self, payload: bytes) -> None:
        """Take the last piece, like `feed`, but without backpressure."""
        self.ended = True
        self.feed(payload)

    def end(self, trailers: Trailers = ()) -> None:
        stages = self._stages
        self.ended, self.trailers = True, trailers  # first: everything was read, regardless of the stages
        if stages is None or self._end_stages(stages):
            self._all_received()

    def _all_received(self) -> None:
        trailers = self.trailers
        if trailers and self.sink is None:
            self.length = None  # they can only follow the last chunk
        if self._when_head is not None:
            self._head_is_there()
            return
        when_whole, self._when_whole = self._when_whole, None
        if when_whole is not None:
            when_whole()
        elif self.sink is not None:
            self.sink.end(trailers)

    def attach(self, sink: BodySink) -> bytes:
        """Attach a sink. Return all output so far, in one piece; later pieces go to `sink.feed`."""
        assert self.kept is not None
        held, stages = b"".join(self.kept), self._stages
        size = self.bytes if stages is None else self.sent_bytes
        if size > self.most_kept:
            self.kept = None
        if stages is not None and (self.kept is None or size <= MAX_KEPT):
            stages.release_held()  # else it is held until it cannot be sent again
        self._release_head()
        self.sink = sink
        self.resume()
        return held

    def detach(self) -> None:
        """Detach the sink. If another one may follow (`kept` is not None), data that arrives in between is buffered."""
        self.sink = None
        if not self.ended:
            self.pause()

    def pause(self) -> None:
        if not self.paused and not self.ended:
            self.paused = True
            self.source.pause()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.source.resume()


def whole_body(payload: bytes, length: Length) -> Relay:
    """Return the relay of a body that was received completely. `length`: None if the framing does not declare it."""
    relay: Relay = Relay.__new__(Relay)
    relay._begin(NO_SOURCE, length)
    relay.bytes, relay.ended, relay.kept = len(payload), True, [payload]
    return relay


expose_fields(Relay)
