"""Transient errors: the same attempt may succeed a little later without any change."""

import errno
from collections.abc import Iterator
from math import inf
from typing import Final

ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})
"""No descriptors, no memory, overload."""
FIRST_S: Final = 1.0
LONGEST_S: Final = 60.0


def is_passing(error: BaseException) -> bool:
    """Whether an error, or its cause, is a temporary lack of resources."""
    return any(
        isinstance(each, MemoryError)
        or (isinstance(each, OSError) and each.errno in ERRNOS)
        or (isinstance(each, RuntimeError) and "can't start new thread" in str(each))
        for each in _causes(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or its cause, is a lack of memory."""
    return any(
        isinstance(each, MemoryError) or (isinstance(each, OSError) and each.errno == errno.ENOMEM)
        for each in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += (each.__cause__, each.__context__)


class RetryBackoff:
    """Backoff after transient failures: retry after 1 s, 2 s, 4 s and so on, a minute at most."""

    def __init__(self) -> None:
        self.due_at = inf
        """Monotonic seconds; infinite: nothing has to be retried."""
        self._failures = 0

    def __repr__(self) -> str:
        return f"<Backoff: {self._failures} failures>"

    def failed(self, now: float) -> float:
        """Record a failure, and return the seconds to wait before the next attempt."""
        wait = min(FIRST_S * 2.0**self._failures, LONGEST_S)
        self._failures += wait < LONGEST_S
        self.due_at = now + wait
        return wait

    def forget(self) -> None:
        """Reset after a success, a permanent failure, or when the attempt is no longer needed."""
        self.due_at, self._failures = inf, 0
