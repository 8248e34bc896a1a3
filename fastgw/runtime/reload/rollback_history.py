"""Rollback history: the configurations that are kept to go back to. Control and the supervisor compute the same, each
for itself.
"""

from collections.abc import Iterable
from typing import Final

from fastgw.runtime.node.config_snapshot import ConfigSnapshot, RollbackPoint

KEPT: Final = 5
"""Configurations that one can go back to, all different, besides the one in force."""


def retained_generations(documents: Iterable[RollbackPoint], before: ConfigSnapshot, now: ConfigSnapshot) -> set[int]:
    """The generations that stay when `now` takes the place of `before`. `documents`: what was kept until then.

    What a rollback went back to stays in its place, for the next step to go on from there; the rollback's own copy is
    not kept. Where the configuration goes on from such a copy, it was the last that was in force, and takes the place
    of what it is a copy of.
    """
    kept = {each.generation: each.sources for each in documents}
    if before.sources != now.sources:
        if now.source != "rollback":
            kept = {each: sources for each, sources in kept.items() if sources not in (before.sources, now.sources)}
        if before.sources not in kept.values():
            kept[before.generation] = before.sources
    others = sorted(each for each, sources in kept.items() if sources != now.sources)
    return kept.keys() - set(others[:-KEPT])
