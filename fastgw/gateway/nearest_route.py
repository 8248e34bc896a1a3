"""Nearest route for a request that matches none, and the differences: for `explain`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Final

from fastgw.config.base.problems import shorten
from fastgw.config.base.route_patterns import MixedSegment, PathKind, parse_host, parse_path
from fastgw.config.settings.gateway import Route, ValueCondition
from fastgw.exchange import Exchange
from fastgw.gateway.conditions import requirements_of, value_test
from fastgw.routing.requirements import (
    Requirement,
    ValueTest,
    cookie_requirement,
    header_requirement,
    query_requirement,
)
from fastgw.routing.table import Conditions, Router

MOST_ROUTES: Final = 10_000
"""Maximum number of routes that are compared."""
_FARTHEST: Final = 0.9
"""Maximum distance of a suggested route."""
_WEIGHTS: Final = (2.0, 0.6, 0.3)
"""Weights of the path, of the host, and of each other difference."""
_ROOT_LIKENESS: Final = 0.6
"""Similarity of `/`, which is a common catch-all, and of a regular expression, which is not compared."""

_REQUIREMENTS: Final[Mapping[str, Callable[[bytes, ValueTest | None], Requirement]]] = {
    "header": header_requirement,
    "query parameter": query_requirement,
    "cookie": cookie_requirement,
}


class Near:
    """Distance of a route from a request: smaller is nearer."""

    def __init__(self, route: Route, exchange: Exchange, listener: str) -> None:
        self.name = route.name
        self.differences = tuple(_differences(route, exchange, listener))
        path, host = exchange.path.decode("latin-1"), exchange.host.decode("latin-1")
        path_likeness = max((_likeness(each, path) for each in route.paths), default=1.0)
        host_likeness = max((_ratio(each.lower(), host) for each in route.hosts), default=1.0)
        others = sum(not each.startswith(("path ", "host ")) for each in self.differences)
        weighed = zip(_WEIGHTS, (1 - path_likeness, 1 - host_likeness, others), strict=True)
        self.distance = sum(weight * difference for weight, difference in weighed)


def nearest(routes: Sequence[Route], exchange: Exchange, listener: str) -> str:
    """Return the nearest route and the differences: `users: path /users/ has a slash more than /users`. "": none is
    near.
    """
    found = [Near(route, exchange, listener) for route in routes[:MOST_ROUTES]]
    near = min(found, key=lambda each: each.distance, default=None)
    return "" if near is None or near.distance > _FARTHEST else f"{near.name}: {'; '.join(near.differences)}"


def _differences(route: Route, exchange: Exchange, listener: str) -> Iterator[str]:
    """Yield the conditions of the route that the request does not meet."""
    if route.listeners and listener not in route.listeners:
        yield f"is served on listener {', '.join(route.listeners)}, not on {listener}"
    if route.hosts and not _fits(Conditions(hosts=tuple(map(parse_host, route.hosts))), exchange):
        yield f"host {shorten(exchange.host.decode('latin-1'))} is not {_one_of(route.hosts)}"
    if route.paths and not _fits(Conditions(paths=tuple(map(parse_path, route.paths))), exchange):
        yield _of_path(route.paths, exchange.path.decode("latin-1"))
    if route.methods and not _fits(Conditions(methods=tuple(each.encode() for each in route.methods)), exchange):
        yield f"method {exchange.method.decode('latin-1')} is not {_one_of(route.methods)}"
    for kind, conditions in (("header", route.headers), ("query parameter", route.query), ("cookie", route.cookies)):
        yield from _of_conditions(kind, conditions, exchange)
    if route.clients and not all(meets(exchange) for meets in requirements_of(Route(name="-", clients=route.clients))):
        yield f"client {exchange.client_ip} is not in {_one_of(tuple(map(str, route.clients)))}"


def _of_conditions(kind: str, conditions: Mapping[str, str | ValueCondition], exchange: Exchange) -> Iterator[str]:
    """Yield the conditions that the request does not meet; the request's own value is not shown, because it may be a
    secret.
    """
    for name, value in conditions.items():
        key = name.lower() if kind == "header" else name
        is_met = _REQUIREMENTS[kind](key.encode(), value_test(value))
        if not is_met(exchange):
            said = repr(shorten(value)) if isinstance(value, str) else shorten(str(value))
            yield f"{kind} {name} is not {said}"


def _fits(conditions: Conditions, exchange: Exchange) -> bool:
    return Router([(conditions, True)]).find(exchange) is not None


def _of_path(paths: Sequence[str], path: str) -> str:
    pattern = max(paths, key=lambda each: _likeness(each, path))
    wanted, text = _filled(pattern, path), f"path {shorten(path)} is not {shorten(pattern)}"
    if pattern == "/":
        return f"{text}, which matches that path only: `/*` matches all"
    if path.removesuffix("/") == wanted.removesuffix("/"):
        return f"{text}: the trailing slash matters"
    if path.lower() == wanted.lower():
        return f"{text}: paths are case-sensitive"
    if path.startswith(f"{wanted.removesuffix('/')}/") and not pattern.startswith("~"):
        return f"{text}, which matches that path only"
    return f"path {shorten(path)} is not {_one_of(paths)}"


def _likeness(pattern: str, path: str) -> float:
    """Similarity of a path to the paths that match the pattern, from 0 to 1."""
    if path != pattern and (pattern == "/" or pattern.startswith("~")):
        return _ROOT_LIKENESS
    if pattern.endswith("/*"):  # any continuation matches
        length = len(pattern.split("/")) - 1
        pattern, path = pattern[:-2], "/".join(path.split("/")[:length])
    return _ratio(_filled(pattern or "/", path).lower(), path.lower())


def _filled(pattern: str, path: str) -> str:
    """Return the most similar path that matches the pattern: parameters and `*` are replaced by the request's
    segments.
    """
    if pattern.startswith("~"):
        return pattern
    given = path.split("/")[1:]
    filled: list[str] = []
    parsed = parse_path(pattern)
    for place, segment in enumerate(parsed.segments):
        if isinstance(segment, bytes):
            filled.append(segment.decode("latin-1"))
        elif isinstance(segment, MixedSegment):
            filled.append(segment.text.decode())
        elif segment.rest:
            filled += given[place:]
        else:
            filled.append(given[place] if place < len(given) and given[place] else "-")
    if parsed.kind is PathKind.PREFIX:
        filled += given[len(filled) :]
    return "/" + "/".join(filled)


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _one_of(values: Sequence[str]) -> str:
    shown = [shorten(each) for each in values[:3]]
    more = f" or one of {len(values) - 3} more" if values[3:] else ""
    return f"{' or '.join(shown)}{more}"
