"""Weights of targets as registries and SRV records have them: up to any number, where the configuration has a limit."""

from collections.abc import Sequence
from typing import Any, Final

MOST_WEIGHT: Final = 1000
"""Maximum weight of a target in the configuration (`targets.weight`)."""


def scale_weights(targets: Sequence[dict[str, Any]]) -> None:
    """Scale the `weight` of targets down, in proportion, if one of their priority group is above the limit.

    A weight above 0 stays at least 1. Weights of other groups do not matter: they are never compared.
    """
    largest: dict[int, int] = {}
    for each in targets:
        largest[each["priority"]] = max(largest.get(each["priority"], 0), each["weight"])
    for each in targets:
        if each["weight"] and (most := largest[each["priority"]]) > MOST_WEIGHT:
            each["weight"] = max((each["weight"] * MOST_WEIGHT + most // 2) // most, 1)
