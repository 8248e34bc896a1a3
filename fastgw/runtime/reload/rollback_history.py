"""Rollback history: the configurations kept for rollback. Control and the supervisor compute it independently, with the
same result.
"""

from collections.abc import Iterable
from typing import Final

from fastgw.runtime.node.config_snapshot import ConfigSnapshot, RollbackPoint

KEPT: Final = 5
"""Number of different configurations that are kept, in addition to the active one."""


def retained_generations(documents: Iterable[RollbackPoint], before: ConfigSnapshot, now: ConfigSnapshot) -> set[int]:
    """Return the generations to keep when `now` replaces `before`. `documents`: those kept until then.

    A generation that a rollback went back to stays in its position, for the next step; the copy made by the rollback is
    not kept. If such a copy is replaced by a new configuration, it was the last active one, and takes the position of
    its original.
    """
    kept = {each.generation: each.sources for each in documents}
    if before.sources != now.sources:
        if now.source != "rollback":
            kept = {each: sources for each, sources in kept.items() if sources not in (before.sources, now.sources)}
        if before.sources not in kept.values():
            kept[before.generation] = before.sources
    others = sorted(each for each, sources in kept.items() if sources != now.sources)
    return kept.keys() - set(others[:-KEPT])
