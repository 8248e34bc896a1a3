"""Authentication bypasses: requests that reach an upstream as those of a route do, without its authentication.

They match another route: by a method, host, header or client address that the protected route does not have; by a path
that the other route rewrites to the same one; or because the service treats their path as the same: servers that ignore
case (IIS, Express) or trailing slashes (Express) treat `/ADMIN` or `/admin/` as `/admin`. Then the authentication
protects nothing. Only the operator of the service knows, so this is a warning and not an error.

Rule: a route that is meant to be public is no bypass: one for fewer requests than the protected one, such as
`/api/health` beside `/api/*`; one that names its methods, headers or clients, for the same path; one that has `null` in
place of the filter.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from fastgw.config.base.problems import format_value
from fastgw.config.base.route_patterns import PathPattern
from fastgw.config.base.value_types import Url
from fastgw.config.decoding.filter_levels import of_route, running, running_before_routing
from fastgw.config.egress.expand import NAME as EGRESS
from fastgw.config.loading.locate_filter import Beside, Where
from fastgw.config.settings.gateway import Config, FilterUse, Route
from fastgw.filters.api import Phase
from fastgw.gateway.conditions import conditions_of
from fastgw.gateway.probed_requests import (
    ANY_PATH,
    METHODS,
    OTHER_HOST,
    SAFE,
    SLASHES,
    ProbedRequest,
    client_paths,
    leading_path,
    other_requests,
    request_by,
    requests_of,
    shown_path,
    spelled,
)
from fastgw.http.malformed import Malformed
from fastgw.routing.table import Conditions, Router, at_once, rule_of
from fastgw.upstream.policies.path_rewrite import path_of, rewrites_variables

_GENERATED: Final = f"{EGRESS}/"
_GUARDS: Final = frozenset((Phase.AUTHENTICATE, Phase.AUTHORIZE))
_CANDIDATES: Final = 8
"""Maximum number of routes, for each beginning of a path, whose own conditions and rewritings are tried."""
_LEAVE_OUT: Final = {
    "method": "leave out `methods` here",
    "host": "leave out `hosts` here",
    "fields": "leave out the conditions on the request here",
    "client": "leave out `clients` here",
}

_Sent = tuple[str, bytes]
"""Origin of a target, or name of an upstream with unknown targets; and the path that is sent."""


class _Way(NamedTuple):
    """One way to send requests of a route."""

    route: Route
    path: Callable[[Any], bytes] | None
    ends: tuple[tuple[str, bytes], ...]
    """Origins and base paths."""
    is_fallback: bool = False


class _Detour(NamedTuple):
    """A request that bypasses the authentication, and its route."""

    pattern: PathPattern
    asked: ProbedRequest
    """Request of the protected route."""
    probe: ProbedRequest
    wide: Route
    ignored: str = ""
    """Part of the path that the server has to ignore; "" = the same path is sent."""


def bypasses(config: Config) -> Iterator[tuple[Where, Beside]]:
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
        self._ends_of: dict[str, tuple[tuple[str, bytes], ...]] = {}  # by destination
        self._ways_of: dict[int, tuple[_Way, ...]] = {}
        self._by_place: dict[str, list[Route]] = {}
        for route in self._routes:
            fallback = [route.fallback.upstream] if route.fallback and route.fallback.upstream else []
            for place in {place for name in (*route.destinations, *fallback) for place, _ in self._ends(name)}:
                self._by_place.setdefault(place, []).append(route)

    def _ends(self, destination: str | Url) -> tuple[tuple[str, bytes], ...]:
        """Return the origins of a destination, which others may share, with their base paths."""
        name = str(destination)
        if name not in self._ends_of:
            upstream = self._config.upstreams.get(name)
            urls = [destination] if isinstance(destination, Url) else []
            urls += [] if upstream is None else [target.url for target in upstream.targets]
            ends = {
                (str(replace(url, base_path="", ends_in_slash=False)), url.base_path.encode()): None for url in urls
            }
            self._ends_of[name] = tuple(ends) or ((name, b""),)
        return self._ends_of[name]

    def _ways(self, route: Route) -> tuple[_Way, ...]:
        """Return the ways to send requests of a route, without those whose paths the request's filters decide."""
        if id(route) not in self._ways_of:
            variants = [each for each in route.variants if each.upstream is not None]
            ways = [route.with_variant(each) for each in variants] if route.variants else [route]
            made: list[_Way] = []
            for way in ways:
                if not rewrites_variables(way):
                    path = path_of(way, _unknown)
                    made.append(_Way(way, path, tuple(end for name in way.destinations for end in self._ends(name))))
                    if way.fallback is not None and way.fallback.upstream is not None:
                        made.append(_Way(way, path, self._ends(way.fallback.upstream), is_fallback=True))
            self._ways_of[id(route)] = tuple(made)
        return self._ways_of[id(route)]

    def _sent(self, route: Route, asked: ProbedRequest, *, with_fallbacks: bool = False) -> set[_Sent]:
        """Return where a request of a route may be sent, and with which path."""
        sent: set[_Sent] = set()
        for way in self._ways(route):
            if way.is_fallback and not with_fallbacks:
                continue
            try:
                path = asked.path if way.path is None else way.path(asked)
            except Malformed:  # it is refused
                continue
            sent.update((place, base + path) for place, base in way.ends)
        return sent

    def _guards(self, route: Route) -> list[FilterUse]:
        """Filters for authentication and authorization: known by the levels, which most routes have in common."""
        levels = tuple(map(id, of_route(self._config, self._listener, route)))
        if levels not in self._known:
            uses = running(self._config, self._listener, route, self._early)
            self._known[levels] = [use for use in uses if use.settings.phase in _GUARDS and not use.shadow]
        return self._known[levels]

    def _missing(self, narrow: Route, wide: Route) -> list[str]:
        """Return the names of filters that protect one route and not the other, although it does not say `null`."""
        there = [use.settings for use in self._guards(wide)]
        removed = {name for name, use in wide.filters.items() if use is None}
        return [use.name for use in self._guards(narrow) if use.settings not in there and use.name not in removed]

    def bypassed_routes(self) -> Iterator[tuple[Route, Beside]]:
        """Yield the bypassed routes, with a warning for each."""
        narrow: dict[int, Route] = {}
        for shared in self._by_place.values():
            guards = [self._guards(route) for route in shared] if len(shared) > 1 else []
            if any(each != guards[0] for each in guards):
                narrow.update((id(route), route) for route, each in zip(shared, guards, strict=True) if each)
        for route in narrow.values():
            if found := self._detours(route):
                yield route, self._describe(route, found)

    @cached_property
    def _conditions(self) -> dict[int, Conditions]:
        return {id(route): at_once(conditions_of(route)) for route in self._routes}

    @cached_property
    def _router(self) -> Router[Route]:
        """The complete table: a bypassing request may match a third route."""
        rules = [at_once(rule_of(self._conditions[id(route)], route)) for route in self._routes]
        return at_once(Router.building(rules, None))

    @cached_property
    def _candidates(self) -> dict[_Sent, list[tuple[Route, _Way, bytes]]]:
        """Routes that may precede a protected one by their own conditions, or send another path, each with the base
        path. By place, and the text that their paths begin with there.
        """
        found: dict[_Sent, list[tuple[Route, _Way, bytes]]] = {}
        for route in sorted(self._routes, key=lambda route: (len(self._guards(route)), len(route.clients))):
            conditional = route.hosts or route.headers or route.query or route.cookies or route.priority
            for way in self._ways(route):
                changes = way.path is not None or any(base for _, base in way.ends)
                if not (conditional or changes):
                    continue
                patterns = self._conditions[id(route)].paths or (ANY_PATH,)
                for lead in dict.fromkeys(leading_path(way.route, pattern) for pattern in patterns):
                    for place, base in way.ends:
                        held = found.setdefault((place, base + lead), [])
                        if len(held) < _CANDIDATES:
                            held.append((route, way, base))
        return found

    def _detours(self, route: Route) -> list[_Detour]:
        """Return requests that bypass the authentication of a route, all of one other route, each of another kind."""
        conditions = self._conditions[id(route)]
        for pattern in conditions.paths or (ANY_PATH,):
            is_first = True
            for plain in requests_of(route, conditions, pattern, self._methods):
                match = self._router.find(plain)
                if match is None or match[0] is not route:
                    continue  # this request matches another route anyway
                asked = plain._replace(params=match[1])
                sent = self._sent(route, asked)
                led: dict[str, _Detour] = {}
                if is_first:
                    for probe in self._probes(route, conditions, asked, sent):
                        kind = "+".join(asked.changes(probe))
                        if kind not in led and (wide := self._leads(probe, route, pattern, asked, sent)) is not None:
                            led[kind] = _Detour(pattern, asked, probe, wide)
                is_first = False
                if not led:
                    like = {(place, _as_ignored(path)) for place, path in sent}
                    for ignored, path in spelled(pattern):
                        probe = asked._replace(path=path)
                        if ignored not in led and (wide := self._leads_as_ignored(probe, route, like)) is not None:
                            led[ignored] = _Detour(pattern, asked, probe, wide, ignored)
                if led:
                    first, *others = led.values()
                    return [first, *(each for each in others if each.wide is first.wide)]
        return []

    def _probes(
        self, route: Route, conditions: Conditions, asked: ProbedRequest, sent: set[_Sent]
    ) -> Iterator[ProbedRequest]:
        """Yield requests that may be sent as `asked` is, and may match another route."""
        yield from other_requests(route, conditions, asked, self._other_methods)
        tried = {asked.path}
        for place, path in sorted(sent):
            if path not in tried:
                tried.add(path)
                yield asked._replace(path=path)
            end = len(path)
            while end >= 0:
                for wide, way, base in self._candidates.get((place, path[:end]), ()):
                    if wide is not route and self._missing(route, wide):
                        for client_path in client_paths(way.route, path.removeprefix(base)):
                            yield request_by(wide, self._conditions[id(wide)], asked, client_path)
                end = path.rfind(b"/", 0, end)

    def _leads(
        self, probe: ProbedRequest, narrow: Route, pattern: PathPattern, asked: ProbedRequest, sent: set[_Sent]
    ) -> Route | None:
        """Return the route of a request that is sent as the protected one is, without its protection; None: there is
        none, or it is meant.
        """
        match = self._router.find(probe)
        if match is None or match[0] is narrow or not self._missing(narrow, wide := match[0]):
            return None
        if sent.isdisjoint(self._sent(wide, probe._replace(params=match[1]), with_fallbacks=True)):
            return None
        meant = self._is_meant(wide, probe, narrow, pattern, asked) or self._is_peer(
            wide, narrow, asked.path != probe.path
        )
        return None if meant else wide

    def _leads_as_ignored(self, probe: ProbedRequest, narrow: Route, like: set[_Sent]) -> Route | None:
        """Return the route of a request whose path is the same for a server that ignores case and trailing slashes."""
        match = self._router.find(probe)
        if match is None or match[0] is narrow or not self._missing(narrow, wide := match[0]):
            return None
        sent = self._sent(wide, probe._replace(params=match[1]))
        return None if like.isdisjoint((place, _as_ignored(path)) for place, path in sent) else wide

    def _is_meant(
        self, wide: Route, probe: ProbedRequest, narrow: Route, pattern: PathPattern, asked: ProbedRequest
    ) -> bool:
        """Whether a route without the protection names what the request has, and the protected one does not."""
        changed = asked.changes(probe)
        if "client" in changed and wide.clients:
            return True  # networks that are trusted
        methods = self._conditions[id(narrow)].methods
        if "method" in changed and probe.method in SAFE and SAFE.isdisjoint(methods):
            return True  # anybody may read
        if "path" in changed or not _has(self._conditions[id(wide)], pattern):
            return False
        own_host = (wide.hosts and not narrow.hosts) or (self._preserves_host(wide) and self._preserves_host(narrow))
        return bool(
            ("method" in changed and wide.methods)
            or ("fields" in changed and (wide.headers or wide.query or wide.cookies))
            or ("host" in changed and own_host)
        )

    def _is_peer(self, wide: Route, narrow: Route, is_other_path: bool) -> bool:
        """Whether a route of another path has protection of its own for all that the other one publishes, such as the
        same service for another tenant. Egress services have it by themselves.
        """
        if wide.name.startswith(_GENERATED) or narrow.name.startswith(_GENERATED):
            return True
        kinds = {use.type for use in self._guards(wide)}
        if not is_other_path or any(use.type not in kinds for use in self._guards(narrow)):
            return False
        return not self._beginnings(wide).isdisjoint(self._beginnings(narrow))

    def _beginnings(self, route: Route) -> set[_Sent]:
        """Return the text that the paths sent by a route begin with, at each place."""
        patterns = self._conditions[id(route)].paths or (ANY_PATH,)
        leads = [(way, leading_path(way.route, each)) for way in self._ways(route) for each in patterns]
        return {(place, base + lead) for way, lead in leads for place, base in way.ends}

    def _preserves_host(self, route: Route) -> bool:
        """Whether the upstream is said to get the client's `Host`, by which it can distinguish requests. `auto` says
        nothing: it is also sent to services that do not look at it.
        """
        held = []
        for way in self._ways(route):
            for name in way.route.destinations:
                upstream = self._config.upstreams.get(str(name))
                held.append(way.route.host_header or ("auto" if upstream is None else upstream.host_header))
        return all(each == "preserve" for each in held)

    def _describe(self, route: Route, found: list[_Detour]) -> Beside:
        wide = found[0].wide
        missing = self._missing(route, wide)
        guards = " and ".join(missing)
        there = Where("routes", wide.name, "")
        if found[0].ignored:
            paths = " and ".join(each.probe.path.decode() for each in found)
            ignored = dict.fromkeys(each.ignored for each in found)
            same = ", set `trailing_slash: same`" if SLASHES in ignored else ""
            return Beside(
                f"{paths} {'is' if len(found) == 1 else 'are'} of route {format_value(wide.name)}",
                there,
                f", which forwards to the same upstream without {guards}; servers that ignore "
                f"{' or '.join(ignored)} treat it as {found[0].pattern.text}: "
                f"put {guards} on the upstream{same}, or make the service distinguish them",
            )
        changed = [part for each in found for part in each.asked.changes(each.probe)]
        own = {"method": route.methods, "host": route.hosts, "client": route.clients, "path": ()}
        advice = [_LEAVE_OUT[part] for part in dict.fromkeys(changed) if own.get(part, _conditional(route))]
        advice += [f"put {guards} on that route or on the upstream"]
        advice += [f"write `{missing[0]}: null` in that route's `filters` if it is meant"]
        requests = ", ".join(_shown(each.asked, each.probe) for each in found)
        verb = "goes" if len(found) == 1 else "go"
        return Beside(
            f"{requests} {verb} by route {format_value(wide.name)}",
            there,
            f" to the same path of the same upstream, without {guards}: {', or '.join(advice)}",
        )

    @cached_property
    def _methods(self) -> tuple[bytes, ...]:
        return tuple(dict.fromkeys((b"GET", *(method.encode() for route in self._routes for method in route.methods))))

    @cached_property
    def _other_methods(self) -> tuple[bytes, ...]:
        return tuple(each for each in dict.fromkeys((*METHODS, *self._methods)) if each != b"OPTIONS")


def _unknown(name: str) -> Callable[[object], None]:
    """Return the function for a variable; paths with variables are left out."""
    return lambda _: None


def _conditional(route: Route) -> bool:
    return bool(route.headers or route.query or route.cookies)


def _has(conditions: Conditions, pattern: PathPattern) -> bool:
    """Whether a route has exactly this path."""
    wanted = pattern.kind, pattern.segments, pattern.regex
    return wanted in [(each.kind, each.segments, each.regex) for each in conditions.paths or (ANY_PATH,)]


def _as_ignored(path: bytes) -> bytes:
    return path.lower().rstrip(b"/")


def _shown(asked: ProbedRequest, probe: ProbedRequest) -> str:
    """Return a bypassing request for people, with what it has and `asked` has not. Values may be secrets."""
    text = f"{probe.method.decode()} {shown_path(probe.path)}"
    if probe.host != asked.host:
        text += " for another host" if probe.host == OTHER_HOST else f" for the host {probe.host.decode()}"
    more, fewer = probe.headers.keys() - asked.headers.keys(), asked.headers.keys() - probe.headers.keys()
    text += "".join(f" with {name.decode()}" for name in sorted(more))
    text += "".join(f" without {name.decode()}" for name in sorted(fewer))
    if probe.query != asked.query:
        text += " with another query"
    return text if probe.client_ip == asked.client_ip else f"{text} from another address, such as {probe.client_ip}"
