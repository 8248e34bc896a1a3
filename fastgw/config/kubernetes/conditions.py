"""Conditions of statuses."""

from typing import Any

Condition = dict[str, Any]


def condition(kind: str, status: bool, reason: str, generation: int, message: str = "") -> Condition:
    """Return a condition without its time, which the writer adds. `kind`: its `type`."""
    return {
        "type": kind,
        "status": "True" if status else "False",
        "observedGeneration": generation,
        "reason": reason,
        "message": message,
    }
