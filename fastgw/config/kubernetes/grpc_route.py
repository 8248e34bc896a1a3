"""GRPCRoute: rules become routes whose upstreams speak gRPC."""

import re
from collections.abc import Sequence
from typing import Any, Final

from fastgw.config.kubernetes import rules
from fastgw.config.kubernetes.cluster import Object
from fastgw.config.kubernetes.http_route import conditions_of
from fastgw.config.kubernetes.model import Context
from fastgw.config.kubernetes.rules import Match

KIND: Final = "GRPCRoute"
_RANK_OF_HEADER: Final = 1


def translate(context: Context) -> None:
    rules.translate(KIND, matches_of, context)


def matches_of(rule: Object) -> list[Match]:
    """Return the conditions of a rule."""
    found = []
    said: Sequence[Object] = rule.get("matches") or ({},)
    for match in said:
        headers = conditions_of(match.get("headers"), lower=True)
        conditions: dict[str, Any] = {"headers": headers} if headers else {}
        path = path_of(match.get("method") or {})
        found.append(Match(conditions, _RANK_OF_HEADER * len(headers), [path]))
    return found


def path_of(said: Object) -> str:
    """Return the path of calls to a service and method."""
    service, method = said.get("service") or "", said.get("method") or ""
    if said.get("type") == "RegularExpression":
        return f"~^/(?:{service or '[^/]+'})/(?:{method or '[^/]+'})$"
    if service:
        return f"/{service}/{method or '*'}"
    return f"~^/[^/]+/{re.escape(method)}$" if method else "/*"
