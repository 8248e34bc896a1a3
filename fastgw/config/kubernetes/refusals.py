"""Outcome of a translation, in its statuses: objects that are refused, and whether it is in force."""

from collections.abc import Mapping
from typing import Any, Final

from fastgw.config.kubernetes.conditions import Condition, condition
from fastgw.config.kubernetes.model import ObjectId, Statuses

REASONS: Final[Mapping[str, tuple[str, str]]] = {
    "FastgwPolicy": ("Accepted", "Invalid"),
    "FastgwConsumer": ("Accepted", "Invalid"),
    "Gateway": ("Programmed", "Invalid"),
    "HTTPRoute": ("Accepted", "UnsupportedValue"),
    "GRPCRoute": ("Accepted", "UnsupportedValue"),
    "TLSRoute": ("Accepted", "UnsupportedValue"),
    "TCPRoute": ("Accepted", "UnsupportedValue"),
    "UDPRoute": ("Accepted", "UnsupportedValue"),
}
"""Type and reason of the condition of a refused object, by kind. An Ingress has no conditions."""
LONGEST: Final = 4000
"""Maximum number of characters of a message; the API server allows 32,768."""
NOT_IN_FORCE: Final = "the gateway still serves an older state: "


def with_refusals(statuses: Mapping[ObjectId, dict[str, Any]], refused: Mapping[str, str], rejected: str) -> Statuses:
    """Return the statuses of a translation with what the configuration made of it.

    `refused`: objects that are left out (`HTTPRoute/shop/cart`), with the reasons; `rejected`: why the whole is not in
    force; "" = it is.
    """
    shown = {**statuses}
    for id_, status in statuses.items():
        why = refused.get("/".join(id_))
        if why is not None and id_[0] in REASONS:
            shown[id_] = _with_condition(status, *REASONS[id_[0]], why)
        if rejected and id_[0] in ("Gateway", "GatewayClass"):
            shown[id_] = _with_condition(shown[id_], "Programmed", "Invalid", f"{NOT_IN_FORCE}{rejected}")
    return shown


def _with_condition(status: Mapping[str, Any], kind: str, reason: str, message: str) -> dict[str, Any]:
    """Return a status in which a condition is false, at each parent or ancestor that has accepted the object."""
    made = {**status}
    for key in ("parents", "ancestors"):
        if key in made:
            made[key] = [
                {**each, "conditions": _false(each["conditions"], kind, reason, message)} for each in made[key]
            ]
    if "conditions" in made:
        made["conditions"] = _false(made["conditions"], kind, reason, message)
    return made


def _false(conditions: list[Condition], kind: str, reason: str, message: str) -> list[Condition]:
    """Return the conditions with one that is false. One that already is keeps its reason."""
    if any(each["type"] == kind and each["status"] == "False" for each in conditions):
        return conditions
    generation = conditions[0]["observedGeneration"]
    made = condition(kind, False, reason, generation, message[:LONGEST])
    return [made if each["type"] == kind else each for each in conditions] + (
        [] if any(each["type"] == kind for each in conditions) else [made]
    )
