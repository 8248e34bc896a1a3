"""Consumers: the clients that are known by name, and what each of them is found by."""

from typing import final

import msgspec


@final
class Consumer(msgspec.Struct, frozen=True):
    """Somebody that the gateway knows."""

    name: str
    groups: frozenset[str] = frozenset()


class Roster:
    """All consumers. One roster serves a worker as long as it lives: a reload swaps what is in it, all at once."""

    __slots__ = ()
