"""GRPCRoute: rules become routes whose upstreams speak gRPC."""

import re
from collections.abc import Sequence
from typing import Any, Final

from fastgw.config.kubernetes import rules
from fastgw.config.kubernetes.cluster import ClusterObject
from fastgw.config.kubernetes.http_route import conditions_of
from fastgw.config.kubernetes.model import TranslationContext
from fastgw.config.kubernetes.rules import RuleMatch

KIND: Final = "GRPCRoute"
_RANK_OF_HEADER: Final = 1


def translate(context: TranslationContext) -> None:
    rules.translate(KIND, matches_of, context)


def matches_of(rule: ClusterObject) -> list[RuleMatch]:
    """Return the conditions of a rule."""
    found = []
    said: Sequence[ClusterObject] = rule.get("matches") or ({},)
    for match in said:
        headers = conditions_of(match.get("headers"), lower=True)
        conditions: dict[str, Any] = {"headers": headers} if headers else {}
        path = path_of(match.get("method") or {})
        found.append(RuleMatch(conditions, _RANK_OF_HEADER * len(headers), [path]))
    return found


def path_of(said: ClusterObject) -> str:
    """Return the path of calls to a service and method."""
    service, method = said.get("service") or "", said.get("method") or ""
    if said.get("type") == "RegularExpression":
        return f"~^/(?:{service or '[^/]+'})/(?:{method or '[^/]+'})$"
    if service:
        return f"/{service}/{method or '*'}"
    return f"~^/[^/]+/{re.escape(method)}$" if method else "/*"
