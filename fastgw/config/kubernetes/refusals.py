"""Outcome of a translation, in its statuses: objects that are refused, and whether it is in force."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from fastgw.config.kubernetes.conditions import Condition, condition
from fastgw.config.kubernetes.model import ObjectId, Piece, Statuses

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
"""Type and reason of the condition of a refused object, by kind. An Ingress has no conditions: see `warnings_of`."""
_WITHOUT_CONDITIONS: Final = "Ingress"
LONGEST: Final = 4000
"""Maximum number of characters of a message; the API server allows 32,768."""
NOT_IN_FORCE: Final = "the gateway still serves an older state: "


def with_refusals(
    statuses: Mapping[ObjectId, dict[str, Any]],
    refused: Mapping[str, str],
    rejected: str,
    pieces: Iterable[Piece] = (),
) -> Statuses:
    """Return the statuses of a translation with what the configuration made of it.

    `refused`: objects that are left out (`HTTPRoute/shop/cart`), with the reasons; `rejected`: why the whole is not in
    force; "" = it is. `pieces`: those of the translation.
    """
    shown = {**statuses}
    without_backend = _routes_without_backend(pieces, refused) if refused else {}
    for id_, status in statuses.items():
        why = without_backend.get("/".join(id_))
        if why is not None:
            status = shown[id_] = _with_condition(status, "ResolvedRefs", "InvalidBackend", why)
        why = refused.get("/".join(id_))
        if why is not None and id_[0] in REASONS:
            shown[id_] = _with_condition(status, *REASONS[id_[0]], why)
        if rejected and id_[0] in ("Gateway", "GatewayClass"):
            shown[id_] = _with_condition(shown[id_], "Programmed", "Invalid", f"{NOT_IN_FORCE}{rejected}")
    return shown


def warnings_of(warnings: Mapping[ObjectId, str], refused: Mapping[str, str]) -> Mapping[ObjectId, str]:
    """Return the problems of objects without conditions: those of a translation, and why objects are left out."""
    found = {**warnings}
    for of, why in refused.items():
        kind, *key = of.split("/")
        if kind == _WITHOUT_CONDITIONS and len(key) == 2:
            found[kind, key[0], key[1]] = f"it is not served: {why}"
    return found


def _routes_without_backend(pieces: Iterable[Piece], refused: Mapping[str, str]) -> Mapping[str, str]:
    """Return the objects with routes to upstreams that are left out, with the reasons. Their requests get 500."""
    pieces = [*pieces]
    lacking = {
        name: f"{each.object}: {refused[each.object]}"
        for each in pieces
        if each.object in refused
        for name in each.upstreams
    }
    found: dict[str, str] = {}
    for each in pieces if lacking else ():
        for route in each.routes:
            upstream = route.get("upstream")
            named = [upstream] if isinstance(upstream, str) else [*(upstream or ())]
            named += [variant.get("upstream", "") for variant in route.get("variants", ())]
            for name in lacking.keys() & named:
                found.setdefault(each.object, lacking[name])
    return found


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
