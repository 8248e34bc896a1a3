"""Notes on settings without effect. They are never errors, because they may be meant for later changes."""

from collections.abc import Iterator, Mapping
from math import inf
from typing import Any, Final

from fastgw.config.base.problems import DISCOVERIES, LOOKUPS, Problem, format_value
from fastgw.config.base.route_patterns import either_slash, parse_path
from fastgw.config.base.value_types import write_duration
from fastgw.config.decoding.merge import Merged, SourceLocation
from fastgw.config.settings.gateway import Listener, Route, Upstream
from fastgw.config.validation import unspoken_protocols
from fastgw.config.validation.composition import notes_on_parts

_TRANSCODES: Final = "grpc_transcode"
_FOR_SEVERAL: Final = {
    ("hedge",): "requests cannot be hedged",
    ("load_balancing", "sticky"): "all requests go to it anyway, with and without the cookie",
}


def idle_settings(merged: Merged) -> list[Problem]:
    """Return the notes on a valid configuration."""
    notes: list[Problem] = []
    for location, _, upstream in merged.upstreams_to_validate():
        found = [*_of_upstream(location, upstream), *unspoken_protocols.of_upstream(location, upstream)]
        merged.note(upstream, found)
        notes += found
    upstreams = {name: upstream for _, name, upstream in merged.whole("upstreams")}
    listeners = {name: listener for _, name, listener in merged.whole("listeners")}
    for location, _, listener in merged.whole("listeners"):
        notes += unspoken_protocols.of_listener(location, listener)
    notes += _without_listener(merged, listeners)
    notes += _upstreams_of_mocks(merged)
    for location, route in merged.routes_to_validate():
        found = [
            *_of_route(location, route, upstreams),
            *notes_on_parts(location, route),
            *unspoken_protocols.of_route(location, route, listeners, upstreams),
        ]
        merged.note(route, found)
        notes += found
    return notes


def _without_listener(merged: Merged, listeners: Mapping[str, Listener]) -> Iterator[Problem]:
    """Yield the notes on routes, filters and error pages if no listener takes HTTP requests; a provider of Kubernetes
    may add one.
    """
    if any(each.protocol == "http" for each in listeners.values()) or merged.is_written("providers", "kubernetes"):
        return
    why = "no listener has `protocol: http`"
    locations = [location for location, _ in merged.routes()]
    if locations:
        who = "it gets" if len(locations) == 1 else f"all {len(locations)} routes get"
        yield locations[0].problem(f"{who} no requests: {why}")
    unused = [location for location, use in merged.maps["filters"].values() if use is not None]
    unused += [location for location, pages in merged.single_entry("error_pages") if pages]
    for location in unused:
        yield location.problem(f"it has no effect: {why}")


def _upstreams_of_mocks(merged: Merged) -> Iterator[Problem]:
    """Yield a note for each OpenAPI document with an upstream that none of its routes sends requests to."""
    listed = merged.lists.get("routes", [])
    for first, count, entry in merged.openapi_entries:
        routes = listed[first : first + count]
        if entry.openapi.upstream is not None and not any(route.upstream is not None for _, route in routes):
            key, setting = "mock", "mock: false"
            if not entry.openapi.mock:
                key, setting = "x-fastgw: {mock: true}", "x-fastgw: {mock: false}"
            wrong = f"it gets no requests: `{key}` answers all operations; with `{setting}` requests are sent to it"
            yield routes[0][0].below("upstream").problem(wrong)


def overlaid_targets(merged: Merged, upstream: str) -> list[Problem]:
    """Return the notes on an upstream whose targets, from a file, DNS or a registry, were replaced by the API."""
    location, _ = merged.maps["upstreams"].get(upstream, (None, None))
    source = {} if location is None else location.raw.get("targets")
    if location is None or not isinstance(source, dict):
        return []
    said = " ".join(f"{kind}: {source[kind]}" for kind in ("file", *LOOKUPS, *DISCOVERIES) if kind in source)
    wrong = f"the admin API has replaced the targets of `{said}`; the next reload restores them"
    return [location.below("targets").problem(wrong)]


def _of_upstream(location: SourceLocation, upstream: Upstream) -> Iterator[Problem]:
    """Yield the notes on targets listed here; a file, DNS or a registry may list others later."""
    if not isinstance(location.raw.get("targets"), list):
        return
    first: dict[Any, int] = {}
    for index, target in enumerate(upstream.targets):
        if target.url in first:
            yield location.below("targets", index).problem(f"duplicate of targets[{first[target.url]}]")
        first.setdefault(target.url, index)
    if not any(target.weight for target in upstream.targets):
        yield location.below("targets").problem("all targets have weight 0: every request is answered 503")
    if len(first) > 1:
        return
    for steps, effect in _FOR_SEVERAL.items():
        settings: Any = upstream
        for step in steps:
            settings = getattr(settings, step)
        if settings is not None:
            yield location.below(*steps).problem(f"the upstream has only one target: {effect}")


def _of_route(location: SourceLocation, route: Route, upstreams: Mapping[str, Upstream]) -> Iterator[Problem]:
    fallback = None if route.fallback is None else route.fallback.upstream
    if fallback is not None and set(route.destinations) == {fallback}:
        yield location.below("fallback", "upstream").problem(
            "it is the upstream of the route itself, which is not tried again"
        )
    if route.trailing_slash == "same" and not any(len(either_slash(parse_path(path))) > 1 for path in route.paths):
        wrong = "it has no effect: every path of this route matches with and without a trailing slash anyway"
        yield location.below("trailing_slash").problem(wrong)
    if route.forwarded_header and route.forwarded in ("strip", "pass"):
        yield location.below("forwarded_header").problem(f"it has no effect with `forwarded: {route.forwarded}`")
    if isinstance(route.upstream, Mapping):
        canaries = () if route.split is None else route.split.canaries
        named = {canary.upstream for canary in canaries}
        for name, share in route.upstream.items():
            if not share and name not in named:
                yield location.below("upstream", name).problem(
                    "it gets no requests: its share is 0 and no canary uses it"
                )
    canary_names = {canary.upstream for canary in (() if route.split is None else route.split.canaries)}
    for index, variant in enumerate(route.variants):
        if not variant.weight and variant.upstream not in canary_names:
            yield location.below("variants", index).problem(
                "it gets no requests: its weight is 0 and no canary uses it"
            )
    for destination in route.destinations:
        upstream = upstreams.get(destination) if isinstance(destination, str) else None
        own = None if route.retries is None else route.retries.per_try_timeout
        per_try = own or (None if upstream is None else upstream.retries.per_try_timeout)
        if per_try is not None and per_try >= (route.timeout or inf):
            each = f"`per_try_timeout` of upstream {format_value(destination)} is {write_duration(per_try)}"
            yield location.below("timeout").problem(
                f"{each}: the route's timeout is not longer, so there are no retries"
            )
    for name, use in route.filters.items():
        if use is not None and getattr(use.settings, "type_name", "") == _TRANSCODES:
            others = [each for each in route.destinations if not _speaks_grpc(each, upstreams)]
            if others:
                where = f"upstream {format_value(str(others[0]))} has another protocol than `grpc`"
                yield location.below("filters", name).problem(f"{where}: its requests are not transcoded")


def _speaks_grpc(destination: Any, upstreams: Mapping[str, Upstream]) -> bool:
    upstream = upstreams.get(destination) if isinstance(destination, str) else None
    return upstream is not None and upstream.protocol == "grpc"
