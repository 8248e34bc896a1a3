"""Targets that somebody has asked to drain: they get nothing new, and what is under way there is finished.

Control keeps their names, and tells the supervisor and all workers, also those to come, as a feed. So it holds whatever
process dies, over reloads of the configuration, and over upgrades; not over a restart.
"""

from collections.abc import Collection, Mapping, Set
from typing import Final

import msgspec

from fastgw.shm.slot_assignment import upstream_of

FEED: Final = "drained targets"
"""Key of this feed. No source has it: those of filters begin with a URL."""


def written(names: Collection[str]) -> bytes:
    """`names`: as `target_name` makes them."""
    return msgspec.json.encode(sorted(names))


def read(value: bytes) -> set[str]:
    """b"": nobody has said anything yet."""
    return msgspec.json.decode(value, type=set[str]) if value else set()


def by_upstream(names: Collection[str]) -> Mapping[str, Set[str]]:
    """The labels of the targets of each upstream."""
    found: dict[str, set[str]] = {}
    for name in names:
        upstream = upstream_of(name)
        found.setdefault(upstream, set()).add(name[len(upstream) + 1 :])
    return found
