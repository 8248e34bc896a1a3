"""The match order of routes, read naively: each route is matched by regular expressions of Python, and all that match
are sorted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address
from urllib.parse import parse_qsl

from fastgw.config.base.route_patterns import either_slash, parse_host, parse_path
from fastgw.routing.table import Conditions, Router


@dataclass
class Request:
    path: bytes
    host: bytes = b"a.test"
    method: bytes = b"GET"
    query: bytes | None = None
    fields: dict[bytes, bytes | list[bytes]] = field(default_factory=dict)

    def values(self, name: bytes) -> list[bytes]:
        assert name == name.lower()
        held = self.fields.get(name, [])
        return [held] if isinstance(held, bytes) else held


@dataclass(frozen=True)
class Route:
    """A route as a person writes it; `conditions` is what the router is given."""

    name: str
    paths: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    same_slash: bool = False

    @property
    def conditions(self) -> Conditions:
        paths = map(parse_path, self.paths)
        return Conditions(
            hosts=tuple(map(parse_host, self.hosts)),
            paths=tuple(each for path in paths for each in (either_slash(path) if self.same_slash else (path,))),
            methods=tuple(method.encode() for method in self.methods),
            headers=tuple((name.encode(), value.encode()) for name, value in self.headers),
            query=tuple((name.encode(), value.encode()) for name, value in self.query),
        )

    @property
    def written_paths(self) -> list[tuple[str, int]]:
        """Its paths, and those with the other slash, each with its precedence."""
        others = [each.text for path in self.paths for each in either_slash(parse_path(path))[1:]]
        return [(path, 0) for path in self.paths] + [(path, 1) for path in others if self.same_slash]

    @property
    def answered_methods(self) -> list[str]:
        return [*self.methods, *(["HEAD"] if "GET" in self.methods else [])]


def router(*routes: Route) -> Router[str]:
    return Router([(route.conditions, route.name) for route in routes])


def by_path(*patterns: str) -> Router[str]:
    return router(*(Route(pattern, (pattern,)) for pattern in patterns))


def numbered(routes: Sequence[Route]) -> Router[int]:
    return Router([(route.conditions, place) for place, route in enumerate(routes)])


def in_order(routes: Sequence[Route], request: Request) -> list[int]:
    """Return the places of the routes that match, in match order."""
    ranks = [(rank(route, place, request), place) for place, route in enumerate(routes)]
    return [place for _, place in sorted(each for each in ranks if each[0] is not None)]


def expected(routes: Sequence[Route], request: Request) -> tuple[int, dict[str, bytes]] | None:
    """Return what a table of `numbered` routes finds."""
    found = in_order(routes, request)
    return (found[0], parameters(routes[found[0]], request)) if found else None


def allowed_methods(routes: Sequence[Route], request: Request) -> set[str]:
    """Return the methods of routes that match but for the method."""
    fitting = (route for route in routes if rank(route, 0, request, any_method=True) is not None)
    return {method for route in fitting for method in route.answered_methods}


def parameters(route: Route, request: Request) -> dict[str, bytes]:
    """Return the parameters of the path by which a route was found."""
    text = request.path.decode("latin-1")
    ranked = [(path_rank(path, text), other, place) for place, (path, other) in enumerate(route.written_paths)]
    matching = [each for each in ranked if each[0] is not None]
    if not matching:
        return {}
    path = route.written_paths[min(matching)[-1]][0]
    match = None if path.startswith("~") or path.endswith("/*") else _compiled(path).fullmatch(text)
    found = {} if match is None else match.groupdict()
    return {name: value.encode("latin-1") for name, value in found.items()}


def rank(route: Route, place: int, request: Request, *, any_method: bool = False) -> tuple[object, ...] | None:
    """The route's place in the match order, smallest first; None when it does not match."""
    text = request.path.decode("latin-1")
    hosts = [host_rank(pattern, request.host) for pattern in route.hosts] or [(2,)]
    ranked = [(path_rank(path, text), other) for path, other in route.written_paths] or [((4,), 0)]
    host = min((one for one in hosts if one is not None), default=None)
    path = min(((one, other) for one, other in ranked if one is not None), default=None)
    pairs = parse_qsl((request.query or b"").decode(), keep_blank_values=True)
    fits = (
        (any_method or not route.methods or request.method.decode("latin-1") in route.answered_methods)
        and all(_has(request, *condition) for condition in route.headers)
        and all(pair in pairs for pair in route.query)
    )
    if host is None or path is None or not fits:
        return None
    conditions = 0 if path[0] == (3,) else len(route.headers) + len(route.query)
    return host, path, -conditions, place


def path_rank(pattern: str, text: str) -> tuple[object, ...] | None:
    """None: no match. Smaller goes first: exact path > parameters > longest prefix > regular expressions."""
    if pattern.startswith("~"):
        return (3,) if re.search(pattern[1:], text) else None
    if pattern.endswith("/*"):
        prefix = pattern[:-2]
        matches = not prefix or text == prefix or text.startswith(prefix + "/")
        return (2, -len(prefix)) if matches else None
    if _compiled(pattern).fullmatch(text) is None:
        return None
    kinds = tuple(_segment(part)[0] for part in pattern.split("/"))
    return (1, kinds) if any(kind[0] for kind in kinds) else (0,)


def host_rank(pattern: str, host: bytes) -> tuple[int, ...] | None:
    pattern, text = pattern.lower(), host.decode("latin-1")
    if pattern.startswith("*"):
        return (1, -len(pattern)) if re.fullmatch(r".+" + re.escape(pattern[1:]), text, re.DOTALL) else None
    return (0,) if pattern in (text, _shortest(text)) else None


def _shortest(host: str) -> str:
    try:
        return f"[{IPv6Address(host[1:-1])}]" if host.startswith("[") else host
    except ValueError:
        return host


def _has(request: Request, name: str, value: str) -> bool:
    members = b",".join(request.values(name.lower().encode())).split(b",")
    return value.encode() in [member.strip() for member in members]


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("/".join(_segment(part)[1] for part in pattern.split("/")), re.DOTALL)


@lru_cache(maxsize=4096)
def _segment(segment: str) -> tuple[tuple[object, ...], str]:
    """Rank of a segment, smallest first, and its regular expression: text > text with parameters > a parameter."""
    pieces = re.split(r"\{(\w+)(?::path)?\}", segment)
    if segment.endswith(":path}"):
        return (3,), f"(?P<{pieces[1]}>.*)"
    literals = "".join(pieces[::2])
    regex = "".join(f"(?P<{each}>[^/]+)" if place % 2 else re.escape(each) for place, each in enumerate(pieces))
    if len(pieces) == 1:
        return (0,), regex
    return ((1, -len(literals)) if literals else (2,)), regex
