"""Checks of whole bodies: before they are forwarded, or as they pass."""

from asyncio import Task
from collections.abc import Callable
from typing import final

from fastgw.exchange.body_stages import BodyRefused, PendingOutput
from fastgw.exchange.held_pieces import append_piece
from fastgw.filters.api import BodyStage, Reply
from fastgw.filters.policies.content.number_comparisons import TakesLong
from fastgw.http.json.strict import takes_long
from fastgw.shm.held_body_budget import HeldBodyBudget, HeldBytes


@final
class BodyCheck(BodyStage):
    """Stage that checks a body before it is forwarded; the hook has to need the whole body. An empty one is checked,
    too: without a declared length it is known only at its end.
    """

    keeps_length = True
    changed = False
    takes_empty = True

    def __init__(
        self,
        check: Callable[[bytes], Reply | None],
        submit: Callable[[bytes], Task[Reply | None]] | None = None,
        takes_long: Callable[[bytes], bool] = takes_long,
    ) -> None:
        """`check`: returns the response to a body that is refused, or raises `TakesLong`. `submit`: does so outside the
        event loop, for such bodies and those that `takes_long`.
        """
        self._check, self._submit, self._takes_long = check, submit, takes_long
        self.may_wait = submit is not None
        self._fed = False
        self._held = b""
        self._task: Task[Reply | None] | None = None

    def feed(self, payload: bytes) -> bytes:
        self._fed = True
        submit = self._submit
        if submit is None:
            self._refuse(self._check(payload))
            return payload
        try:
            if not self._takes_long(payload):
                self._refuse(self._check(payload))
                return payload
        except TakesLong:
            pass
        self._held, self._task = payload, submit(payload)
        return b""

    def pending(self) -> PendingOutput | None:
        return self._task

    def end(self) -> bytes:
        held, self._held = self._held, b""
        if self._task is not None:
            task, self._task = self._task, None
            self._refuse(task.result())
        elif not self._fed:
            self._refuse(self._check(b""))
        return held

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _refuse(self, reply: Reply | None) -> None:
        if reply is not None:
            raise BodyRefused(reply)


@final
class BodyObserver(BodyStage):
    """Stage that copies a body as it passes and checks it at its end; not one that is longer than `most` bytes, or for
    which the node's memory for held bodies (`budget`) is used up.
    """

    keeps_length = True
    changed = False
    takes_empty = True

    def __init__(self, check: Callable[[bytes], object], most: int, budget: HeldBodyBudget) -> None:
        self._check, self._most = check, most
        self._bytes = 0
        self._pieces: list[bytes] | None = []  # None: it is not checked
        self._held_bytes = HeldBytes(budget)

    def feed(self, payload: bytes) -> bytes:
        if self._pieces is not None:
            self._bytes += len(payload)
            if self._bytes <= self._most and self._held_bytes.try_hold(self._bytes):
                append_piece(self._pieces, payload)
            else:
                self.cancel()
        return payload

    def end(self) -> bytes:
        pieces = self._pieces
        self.cancel()
        if pieces is not None:
            self._check(b"".join(pieces))
        return b""

    def cancel(self) -> None:
        self._pieces = None
        self._held_bytes.release()


@final
class EmptyBodyCheck(BodyStage):
    """Stage for a body that passes only if it is empty, which is known at its first byte or its end if no length was
    declared.

    `refuse`: called for the first byte; returns the response, or None if the body passes all the same. `check_empty`:
    called for an empty body; returns the response to it. None: it passes.
    """

    keeps_length = True
    changed = False

    def __init__(
        self, refuse: Callable[[], Reply | None], check_empty: Callable[[], Reply | None] | None = None
    ) -> None:
        self._refuse: Callable[[], Reply | None] | None = refuse
        self._check_empty = check_empty
        self.takes_empty = check_empty is not None

    def check_length(self, length: int) -> None:
        if length:
            self.feed(b"")

    def feed(self, payload: bytes) -> bytes:
        refuse, self._refuse = self._refuse, None
        reply = None if refuse is None else refuse()
        if reply is not None:
            raise BodyRefused(reply)
        return payload

    def end(self) -> bytes:
        if self._refuse is not None and self._check_empty is not None:
            reply = self._check_empty()
            if reply is not None:
                raise BodyRefused(reply)
        return b""
