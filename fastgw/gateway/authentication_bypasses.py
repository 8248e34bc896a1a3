"""Authentication bypasses: routes that an upstream's own interpretation of paths bypasses, with their authentication.

Servers that ignore case (IIS, Express) or trailing slashes (Express) treat `/ADMIN` or `/admin/` as `/admin`. In the
gateway these are other paths, and may match a wider route. If that route leads to the same upstream without
authentication, the narrower route protects nothing. Only the operator of the service knows, so this is a warning and
not an error.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Final, NamedTuple
from urllib.parse import quote_plus

from fastgw.config.base.problems import format_value
from fastgw.config.base.route_patterns import MixedSegment, Parameter, PathKind, PathPattern, Segment, either_slash
from fastgw.config.decoding.filter_levels import of_route, running, running_before_routing
from fastgw.config.loading.locate_filter import Where
from fastgw.config.settings.gateway import Config, FilterUse, Route
from fastgw.filters.api import Phase
from fastgw.gateway.conditions import conditions_of
from fastgw.routing.table import Conditions, Router, at_once, rule_of

_GUARDS: Final = frozenset((Phase.AUTHENTICATE, Phase.AUTHORIZE))
_CASE: Final = "case (IIS, Express)"
_SLASHES: Final = "trailing slashes (Express)"
_NOT_NAME: Final = re.compile(rb"(?:^|(?<=\}))[^{]+")


class _ProbedRequest(NamedTuple):
    """A request that meets a route's conditions."""

    host: bytes
    path: bytes
    method: bytes
    query: bytes
    headers: Mapping[bytes, bytes]
    client_ip: str = "unix:"

    def values(self, name: bytes) -> list[bytes]:
        return [self.headers[name]] if name in self.headers else []


def bypasses(config: Config) -> Iterator[tuple[Where, str]]:
    """Yield warnings about routes, each once."""
    seen: set[str] = set()
    for listener in config.listeners:
        for route, wrong in _Reached(config, listener).bypassed_routes():
            if route.name not in seen:
                seen.add(route.name)
                yield Where("routes", route.name, ""), wrong


class _Reached:
    """Upstreams that several routes of a listener forward to."""

    def __init__(self, config: Config, listener: str) -> None:
        self._config, self._listener = config, listener
        self._routes = [route for route in config.routes if not route.listeners or listener in route.listeners]
        self._known: dict[tuple[int, ...], list[FilterUse]] = {}
        self._early = running_before_routing(config, listener)
        self._by_place: dict[str, list[Route]] = {}
        self._places_of: dict[str, frozenset[str]] = {}  # by destination
        for route in self._routes:
            for place in self._places(route):
                self._by_place.setdefault(place, []).append(route)

    def _places(self, route: Route) -> set[str]:
        """Return the destinations of a route: upstreams and URLs, which other routes may share."""
        places: set[str] = set()
        for name in map(str, route.destinations):
            if name not in self._places_of:
                upstream = self._config.upstreams.get(name)
                urls = () if upstream is None else (str(target.url) for target in upstream.targets)
                self._places_of[name] = frozenset((name, *urls))
            places |= self._places_of[name]
        return places

    def _guards(self, route: Route) -> list[FilterUse]:
        """Filters for authentication and authorization: known by the levels, which most routes have in common."""
        levels = tuple(map(id, of_route(self._config, self._listener, route)))
        if levels not in self._known:
            uses = running(self._config, self._listener, route, self._early)
            self._known[levels] = [use for use in uses if use.settings.phase in _GUARDS and not use.shadow]
        return self._known[levels]

    def _missing(self, narrow: Route, wide: Route) -> list[str]:
        """Return the names of filters that protect one route and not the other."""
        there = [use.settings for use in self._guards(wide)]
        return [use.name for use in self._guards(narrow) if use.settings not in there]

    def bypassed_routes(self) -> Iterator[tuple[Route, str]]:
        """Yield the bypassed routes, with a warning for each."""
        narrow: dict[int, Route] = {}
        for shared in self._by_place.values():
            guards = [self._guards(route) for route in shared] if len(shared) > 1 else []
            if any(each != guards[0] for each in guards):
                narrow.update((id(route), route) for route, each in zip(shared, guards, strict=True) if each)
        if narrow:
            # The complete table: the bypassing request may match a third route.
            rules = [at_once(rule_of(at_once(conditions_of(route)), route)) for route in self._routes]
            router = at_once(Router.building(rules, None))
            for route in narrow.values():
                if wrong := self._bypass_of(route, router):
                    yield route, wrong

    def _bypass_of(self, route: Route, router: Router[Route]) -> str:
        conditions = at_once(conditions_of(route))
        for pattern in conditions.paths:
            for asked in _requests(conditions, pattern, self._methods):
                if (match := router.find(asked)) is None or match[0] is not route:
                    continue  # this request matches another route anyway
                led: dict[str, tuple[str, bytes, Route]] = {}
                for way, path in _spelled(pattern):
                    match = router.find(asked._replace(path=path))
                    if match is not None and way not in led and self._leads(match[0], route):
                        led[way] = way, path, match[0]
                if led:
                    first, *others = led.values()
                    return self._describe(route, pattern, [first, *(each for each in others if each[2] is first[2])])
        return ""

    def _leads(self, wide: Route, narrow: Route) -> bool:
        """Whether one route leads to the same destination as the other, without its protection."""
        together = not self._places(wide).isdisjoint(self._places(narrow))
        return wide is not narrow and together and bool(self._missing(narrow, wide))

    def _describe(self, route: Route, pattern: PathPattern, led: list[tuple[str, bytes, Route]]) -> str:
        wide = led[0][2]
        paths = " and ".join(path.decode() for _, path, _ in led)
        guards = " and ".join(self._missing(route, wide))
        ways = dict.fromkeys(way for way, _, _ in led)
        same = ", set `trailing_slash: same`" if _SLASHES in ways else ""
        return (
            f"{paths} {'is' if len(led) == 1 else 'are'} of route {format_value(wide.name)}, which forwards to the "
            f"same upstream without {guards}; servers that ignore {' or '.join(ways)} treat it as {pattern.text}: "
            f"put {guards} on the upstream{same}, or make the service distinguish them"
        )

    @cached_property
    def _methods(self) -> tuple[bytes, ...]:
        return tuple(dict.fromkeys((b"GET", *(method.encode() for route in self._routes for method in route.methods))))


def _requests(conditions: Conditions, pattern: PathPattern, methods: Iterable[bytes]) -> Iterator[_ProbedRequest]:
    """Yield a matching request for each of its hosts and methods. Parameters are literal: no route has a brace."""
    if pattern.kind is PathKind.REGEX:
        return
    path = _path_of(pattern, map(_written, pattern.segments))
    hosts = [b"any" + host.name if host.wildcard else host.name for host in conditions.hosts] or [b""]
    pairs = (b"=".join(quote_plus(part).encode() for part in pair) for pair in conditions.query)
    query, headers = b"&".join(pairs), dict(conditions.headers)
    for host in hosts:
        for method in conditions.methods or methods:
            yield _ProbedRequest(host, path, method, query, headers)


def _written(segment: Segment) -> bytes:
    """Return a segment of a request that matches a segment of a pattern."""
    if isinstance(segment, Parameter):
        return b"{%b}" % segment.name.encode()
    return segment.text if isinstance(segment, MixedSegment) else segment


def _path_of(pattern: PathPattern, segments: Iterable[bytes]) -> bytes:
    return b"/" + b"/".join([*segments, *([b"*"] if pattern.kind is PathKind.PREFIX else [])])


def _upper(segment: Segment) -> bytes:
    """Return what `_written` does, with the text in upper case and the parameters as they are."""
    if isinstance(segment, MixedSegment):
        return _NOT_NAME.sub(lambda found: found[0].upper(), segment.text)
    return segment.upper() if isinstance(segment, bytes) else _written(segment)


def _spelled(pattern: PathPattern) -> Iterator[tuple[str, bytes]]:
    """Yield the forms that some servers treat as the same path, and the parts that they ignore: for case, all text in
    upper case, then the text of one segment, because the wider route may have the text of the others.
    """
    written = [_written(segment) for segment in pattern.segments]
    path = _path_of(pattern, written)
    if len(either_slash(pattern)) > 1:
        yield _SLASHES, path[:-1] if path.endswith(b"/") else path + b"/"
    upper = [_upper(segment) for segment in pattern.segments]
    if upper == written:
        return
    yield _CASE, _path_of(pattern, upper)
    for place in reversed(range(len(written))):
        if upper[place] != written[place]:
            yield _CASE, _path_of(pattern, [*written[:place], upper[place], *written[place + 1 :]])
