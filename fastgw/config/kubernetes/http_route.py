"""HTTPRoute: rules become routes."""

import re
from typing import Any, Final

from fastgw.config.kubernetes import rules
from fastgw.config.kubernetes.cluster import ClusterObject
from fastgw.config.kubernetes.model import TranslationContext
from fastgw.config.kubernetes.rules import RuleMatch

KIND: Final = "HTTPRoute"
_ANY: Final = {"path": {"type": "PathPrefix", "value": "/"}}
# The precedence of the Gateway API among equal paths: a method, then the number of headers, then of parameters.
_RANK_OF_METHOD: Final = 10_000
_RANK_OF_HEADER: Final = 100


def translate(context: TranslationContext) -> None:
    rules.translate(KIND, matches_of, context)


def matches_of(rule: ClusterObject) -> list[RuleMatch]:
    """Return the conditions of a rule; those that differ in their paths only, together."""
    needs_prefix = any(_replaces_prefix(each) for each in _filters_of(rule))
    found: dict[Any, RuleMatch] = {}
    for position, match in enumerate(rule.get("matches") or (_ANY,)):
        headers = conditions_of(match.get("headers"), lower=True)
        query = conditions_of(match.get("queryParams"))
        method = match.get("method")
        path, prefix = _path(match.get("path") or _ANY["path"])
        key = (position,) if needs_prefix else (method, repr(headers), repr(query))
        made = found.get(key)
        if made is None:
            conditions: dict[str, Any] = {}
            if method:
                conditions["methods"] = [method]
                if method == "GET":
                    conditions["head"] = "separate"
            if headers:
                conditions["headers"] = headers
            if query:
                conditions["query"] = query
            rank = (_RANK_OF_METHOD if method else 0) + _RANK_OF_HEADER * len(headers) + len(query)
            made = found[key] = RuleMatch(conditions, rank, prefix=prefix)
        if path not in made.paths:
            made.paths.append(path)
    return list(found.values())


def conditions_of(said: list[ClusterObject] | None, *, lower: bool = False) -> dict[str, Any]:
    """Return conditions on headers or query parameters; of equal names the first counts. `lower`: names of headers."""
    found: dict[str, Any] = {}
    for each in said or ():
        name = each["name"].lower() if lower else each["name"]
        if name not in found:
            is_regex = each.get("type") == "RegularExpression"
            found[name] = {"regex": f"^(?:{each['value']})$"} if is_regex else each["value"]
    return found


def _path(said: ClusterObject) -> tuple[str, str]:
    """Return a path in the terms of routes, and the prefix that it matches."""
    kind, value = said.get("type") or "PathPrefix", said.get("value") or "/"
    if kind == "RegularExpression":
        return f"~^(?:{value})$", ""
    literal = value.rstrip("/") if kind == "PathPrefix" else value
    if re.search(r"[*{}]|^~", literal):
        behind = "(?:/.*)?$" if kind == "PathPrefix" else "$"
        return f"~^{re.escape(literal)}{behind}", literal if kind == "PathPrefix" else ""
    return (f"{literal}/*", literal or "/") if kind == "PathPrefix" else (literal, "")


def _filters_of(rule: ClusterObject) -> list[ClusterObject]:
    found = list(rule.get("filters") or ())
    for backend in rule.get("backendRefs") or ():
        found += backend.get("filters") or ()
    return found


def _replaces_prefix(said: ClusterObject) -> bool:
    parts = (said.get("urlRewrite") or {}, said.get("requestRedirect") or {})
    return any((each.get("path") or {}).get("type") == "ReplacePrefixMatch" for each in parts)
