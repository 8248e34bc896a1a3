"""Slot assignment in shared memory: a name keeps its slot over all generations of the configuration.

Rule 1: a freed slot is reserved at first. A later generation than the one that freed it may reuse it, and only when no
process serves an older one: then no process counts there for the previous name. Rule 2: one process assigns; slots are
sent to the others together with the configuration.

Each kind of name has twice as many slots as names, so that all names may change at once while the old slots are
reserved.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Final

import msgspec

MAX_ROWS: Final = 500
"""Maximum number of routes, of upstreams and of targets that are counted by name; the others are aggregated."""
MAX_FILTERS: Final = 200
"""Maximum number of filter instances that are counted by name; the others are aggregated."""
MAX_CONSUMERS: Final = 500
"""Maximum number of consumers that are counted by name; the others are aggregated."""
MAX_HOSTS: Final = 500
"""Maximum number of hosts that are counted by name; the others are aggregated."""
MAX_LISTENERS: Final = 1024
MAX_UPSTREAMS: Final = 32_768
MAX_TARGETS: Final = 65_536


class OutOfSlots(Exception):
    """Raised for more names than slots; the text says how many have none, and of which kind."""


class SlotNames(msgspec.Struct, frozen=True):
    """Names of a configuration that need slots, in the order of the file."""

    listeners: Sequence[str] = ()
    routes: Sequence[str] = ()
    upstreams: Mapping[str, Sequence[str]] = {}
    """Labels of the targets of each upstream."""
    filters: Sequence[str] = ()
    """Filter instances of all levels."""
    consumers: Sequence[str] = ()
    """Consumers to count by name, at most `MAX_CONSUMERS`."""
    consumer_count: int = 0
    hosts: Sequence[str] = ()
    """Hosts of routes to count by name: in lower case, `*.example.org` for a wildcard."""


class SlotTable(msgspec.Struct, frozen=True):
    """Slots of the names of one generation. Numbers begin at 0 for each kind."""

    generation: int = 0
    listeners: dict[str, int] = {}
    routes: dict[str, int] = {}
    """Rows of routes that are counted by name."""
    upstreams: dict[str, int] = {}
    upstream_rows: dict[str, int] = {}
    """Rows of upstreams that are counted by name."""
    targets: dict[str, int] = {}
    """Slots of targets, by `target_name`."""
    target_rows: dict[str, int] = {}
    """Rows of targets that are counted by name; by `target_name`."""
    filters: dict[str, int] = {}
    """Rows of filters that are counted by name."""
    consumers: dict[str, int] = {}
    """Rows of consumers that are counted by name."""
    hosts: dict[str, int] = {}
    """Rows of hosts that are counted by name."""
    routes_folded: int = 0
    """Number of routes that are not counted by name."""
    upstreams_folded: int = 0
    targets_folded: int = 0
    consumers_folded: int = 0
    freed: dict[str, dict[int, int]] = {}
    """Kind -> reserved slot -> the generation that freed it."""

    def following(
        self, names: SlotNames, generation: int, oldest: int, is_held: Callable[[int], bool] = lambda slot: False
    ) -> "SlotTable":
        """Return the slots of the next generation. `oldest`: the oldest generation that a process serves.

        `is_held`: whether counters of this slot of an upstream are still in use (`TargetWords.is_held`). Raises
        `OutOfSlots`. Routes and rows without a slot are counted as `_other`.
        """
        targets = [target_name(each, label) for each, labels in names.upstreams.items() for label in labels]

        def assigned(
            kind: str, wanted: Iterable[str], capacity: int, held: Callable[[int], bool] | None = None
        ) -> Placed:
            return self._assigned(kind, wanted, capacity, generation, oldest, held)

        placed = {
            "listeners": assigned("listeners", names.listeners, MAX_LISTENERS),
            "routes": assigned("routes", names.routes, MAX_ROWS),
            "upstreams": assigned("upstreams", names.upstreams, MAX_UPSTREAMS, is_held),
            "upstream_rows": assigned("upstream_rows", names.upstreams, MAX_ROWS),
            "targets": assigned("targets", targets, MAX_TARGETS),
            "target_rows": assigned("target_rows", targets, MAX_ROWS),
            "filters": assigned("filters", names.filters, MAX_FILTERS),
            "consumers": assigned("consumers", names.consumers, MAX_CONSUMERS),
            "hosts": assigned("hosts", names.hosts, MAX_HOSTS),
        }
        for kind, wanted in (("listeners", names.listeners), ("upstreams", names.upstreams), ("targets", targets)):
            if missing := len(set(wanted)) - len(placed[kind][0]):
                raise OutOfSlots(f"{missing} of {len(set(wanted))} {kind} have no slot in the node's shared memory")
        return SlotTable(
            generation=generation,
            routes_folded=len(set(names.routes)) - len(placed["routes"][0]),
            upstreams_folded=len(names.upstreams) - len(placed["upstream_rows"][0]),
            targets_folded=len(set(targets)) - len(placed["target_rows"][0]),
            consumers_folded=names.consumer_count - len(placed["consumers"][0]),
            freed={kind: resting for kind, (_, resting) in placed.items()},
            **{kind: given for kind, (given, _) in placed.items()},
        )

    def with_targets(self, upstreams: Mapping[str, Sequence[str]], oldest: int) -> "SlotTable":
        """Return the slots of the same generation with other targets of some upstreams. `upstreams`: their labels;
        `oldest`: the oldest generation that a process serves.

        Slots of removed targets are reserved until every process serves a later generation. Raises `OutOfSlots`.
        """
        changed = {target_name(each, label): None for each, labels in upstreams.items() for label in labels}
        wanted = {name: None for name in self.targets if upstream_of(name) not in upstreams} | changed
        freed_by = self.generation + 1
        targets, resting = self._assigned("targets", wanted, MAX_TARGETS, freed_by, oldest)
        rows, resting_rows = self._assigned("target_rows", wanted, MAX_ROWS, freed_by, oldest)
        folded = len(wanted) - len(rows)
        if len(targets) < len(wanted) or (resting_rows and folded > self.targets_folded):
            raise OutOfSlots("slots of removed targets are reserved until the next generation")
        return msgspec.structs.replace(
            self,
            targets=targets,
            target_rows=rows,
            targets_folded=folded,
            freed={**self.freed, "targets": resting, "target_rows": resting_rows},
        )

    def _assigned(
        self,
        kind: str,
        wanted: Iterable[str],
        capacity: int,
        generation: int,
        oldest: int,
        held: Callable[[int], bool] | None = None,
    ) -> "Placed":
        """Return the slots of a kind, and the reserved ones. `generation`: that frees what is not wanted any more."""
        resting = {at: freed_by for at, freed_by in self.freed.get(kind, {}).items() if freed_by > oldest}
        previous: dict[str, int] = getattr(self, kind)
        given = assign(previous, wanted, capacity, resting if held is None else _Busy(resting, held))
        return given, resting | dict.fromkeys(set(previous.values()).difference(given.values()), generation)


Placed = tuple[dict[str, int], dict[int, int]]


class _Busy:
    def __init__(self, resting: Container[int], is_held: Callable[[int], bool]) -> None:
        self._resting, self._is_held = resting, is_held

    def __contains__(self, slot: object) -> bool:
        return slot in self._resting or (isinstance(slot, int) and self._is_held(slot))


def assign(
    previous: Mapping[str, int], names: Iterable[str], capacity: int, busy: Container[int] = ()
) -> dict[str, int]:
    """Return slots below `2 * capacity` for at most `capacity` of the names: those with a previous slot, then the first
    of the others.

    A name of `previous` keeps its slot. A new one gets the lowest free slot: not used in `previous`, and not `busy`.
    Names without a slot are left out.
    """
    wanted = list(dict.fromkeys(names))
    given = {name: previous[name] for name in wanted if name in previous}
    taken = set(previous.values())
    free = (slot for slot in range(2 * capacity) if slot not in taken and slot not in busy)
    fresh = (name for name in wanted if name not in previous)
    for _, name, slot in zip(range(capacity - len(given)), fresh, free, strict=False):
        given[name] = slot
    return given


def first(names: SlotNames) -> SlotTable:
    """Return the slots of the first generation."""
    return SlotTable().following(names, generation=1, oldest=0)


def target_name(upstream: str, label: str) -> str:
    """Return the name of a target, unique among all targets."""
    return f"{upstream} {label}"


def upstream_of(target: str) -> str:
    """Return the upstream in the name of a target. Labels have no space."""
    return target.rpartition(" ")[0]
