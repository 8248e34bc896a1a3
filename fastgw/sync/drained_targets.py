"""Targets drained by the admin API: they get no new requests, and those in flight are finished.

Control keeps their names, and sends them to the supervisor and to all workers, including later ones, as a feed. So they
survive the death of any process, reloads and upgrades, but not a restart.
"""

from collections.abc import Collection, Mapping, Set
from typing import Final

import msgspec

from fastgw.shm.slot_assignment import upstream_of

FEED: Final = "drained targets"
"""Key of this feed. No other source has it: keys of filters' feeds begin with a URL."""


def written(names: Collection[str]) -> bytes:
    """Encode the names. `names`: as returned by `target_name`."""
    return msgspec.json.encode(sorted(names))


def read(value: bytes) -> set[str]:
    """Decode the names. b"": nothing was sent yet."""
    return msgspec.json.decode(value, type=set[str]) if value else set()


def by_upstream(names: Collection[str]) -> Mapping[str, Set[str]]:
    """Return the labels of the drained targets by upstream."""
    found: dict[str, set[str]] = {}
    for name in names:
        upstream = upstream_of(name)
        found.setdefault(upstream, set()).add(name[len(upstream) + 1 :])
    return found
