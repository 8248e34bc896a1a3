"""Availability of the Redis of `state` for this process, published in a word of shared memory.

It is separate from the Redis client, which needs the extra `fastgw[redis]`.
"""

from array import array
from typing import Final

UNASKED, AWAY, UP = range(3)
"""Values of the availability word."""

_seen: Final[dict[object, bool]] = {}  # two of them during a reload to another Redis
_word = memoryview(array("Q", [UNASKED]))


class Unreachable(Exception):
    """Redis did not answer in time, or refused a command. The text is for the log."""


def report_in(word: memoryview) -> None:
    """Publish the availability in this word from now on; a process has one."""
    global _word
    _word = word
    _write_state()


def record_reachability(by: object, is_up: bool) -> None:
    """Record that a client has found Redis reachable, or unreachable."""
    if _seen.get(by) is not is_up:
        _seen[by] = is_up
        _write_state()


def unasked(by: object) -> None:
    """Remove a client that no longer uses Redis."""
    if _seen.pop(by, None) is not None:
        _write_state()


def _write_state() -> None:
    _word[0] = UNASKED if not _seen else UP if all(_seen.values()) else AWAY
