"""Checks of whole bodies: before they are forwarded, or as they pass."""

from collections.abc import Callable
from typing import final

from fastgw.exchange.body_stages import BodyRefused
from fastgw.filters.api import BodyStage, Reply


@final
class BodyCheck(BodyStage):
    """Stage that checks a body before it is forwarded; the hook has to need the whole body. An empty one is checked,
    too: without a declared length it is known only at its end.
    """

    keeps_length = True
    changed = False
    takes_empty = True

    def __init__(self, check: Callable[[bytes], Reply | None]) -> None:
        """`check`: returns the response to a body that is refused."""
        self._check = check
        self._fed = False

    def feed(self, payload: bytes) -> bytes:
        self._fed = True
        self._refuse(self._check(payload))
        return payload

    def end(self) -> bytes:
        if not self._fed:
            self._refuse(self._check(b""))
        return b""

    def _refuse(self, reply: Reply | None) -> None:
        if reply is not None:
            raise BodyRefused(reply)


@final
class BodyObserver(BodyStage):
    """Stage that copies a body as it passes and checks it at its end; not one that is longer than `most` bytes."""

    keeps_length = True
    changed = False
    takes_empty = True

    def __init__(self, check: Callable[[bytes], object], most: int) -> None:
        self._check, self._left = check, most
        self._pieces: list[bytes] = []

    def feed(self, payload: bytes) -> bytes:
        self._left -= len(payload)
        if self._left >= 0:
            self._pieces.append(payload)
        else:
            self._pieces = []
        return payload

    def end(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        if self._left >= 0:
            self._check(b"".join(pieces))
        return b""

    def cancel(self) -> None:
        self._pieces = []
