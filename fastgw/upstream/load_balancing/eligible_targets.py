"""Eligible targets and their weights: priority groups, the panic threshold and the slow start."""

from collections.abc import Container, Iterable, Sequence, Set
from itertools import groupby
from typing import Final

from msgspec import Struct

from fastgw.upstream.load_balancing import Member
from fastgw.upstream.targets.target import Target

LEAST: Final = 0.1
"""Fraction of its weight with which a target begins its slow start."""
STEPS: Final = 10
"""Number of steps in which its weight rises to the full value."""


def in_use(
    members: Iterable[Member], shunned: Container[Target], drained: Container[Target], spill_below: float, panic: float
) -> list[Member]:
    """Return the members that get requests. `shunned`: unhealthy targets; `drained`: targets drained by an operator.

    Groups are added in the order of their priority until one has at least the share `spill_below` of its weight in
    eligible targets. If none of the added groups has the share `panic` of its weight in such targets, health is ignored
    (panic mode): when most targets are reported unhealthy, the rest could not take the whole load, or the reports are
    wrong. Drained targets are not counted.
    """
    there = sorted(
        (member for member in members if member.weight > 0 and member.target not in drained),
        key=lambda member: member.priority,
    )
    taken: list[Member] = []
    best = 0.0
    for _, group in groupby(there, key=lambda member: member.priority):
        of_group = list(group)
        taken += of_group
        healthy = [member for member in of_group if member.target not in shunned]
        share = sum(member.weight for member in healthy) / sum(member.weight for member in of_group)
        best = max(best, share)
        if healthy and share >= spill_below:
            break
    if best < panic:
        return taken
    return [member for member in taken if member.target not in shunned]


class SlowStart(Struct, eq=False):
    """Slow start: the times since which targets below their full weight are eligible."""

    _slow_start: float
    _usable: Set[Target] | None = None
    _since: dict[Target, float] = {}

    def take_over_from(self, before: "SlowStart") -> None:
        """Continue from the state in the previous configuration: targets new in this one begin a slow start."""
        self._usable, self._since = before._usable, dict(before._since)

    def record_eligible(self, usable: Set[Target], now: float) -> None:
        """Record the eligible targets. `now`: monotonic seconds. The first ones all have their full weight."""
        before, self._usable = self._usable, usable
        if before is not None:
            self._since |= dict.fromkeys(usable - before, now)
        self._since = {
            target: since
            for target, since in self._since.items()
            if target in usable and now < since + self._slow_start
        }

    def weigh(self, members: Sequence[Member], now: float) -> Sequence[Member]:
        """Return the members with their present weights."""
        return [self._weigh(member, now) for member in members] if self._since else members

    def next(self, now: float) -> float | None:
        """Return when weights change next (monotonic seconds); None: all are at their full value."""
        return now + self._slow_start / STEPS if self._since else None

    def _weigh(self, member: Member, now: float) -> Member:
        since = self._since.get(member.target)
        if since is None:
            return member
        return member._replace(weight=member.weight * max(LEAST, (now - since) / self._slow_start))
