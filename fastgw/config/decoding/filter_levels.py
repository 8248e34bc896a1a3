"""Levels of filters, from the outermost to the innermost: gateway, listener, upstream, route.

Filters of all levels add up by instance name; the innermost use of a name counts, and an innermost `null` removes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fastgw.config.settings.gateway import Config, Filters, FilterUse, Route


def early(settings: Any, on_listener: bool = True) -> bool:
    """Whether a filter runs before routing. `on_listener`: it is a filter of the gateway or a listener; else of an
    inner level.
    """
    return bool(getattr(getattr(settings, "phase_of_listener" if on_listener else "phase", None), "early", False))


def by_route(settings: Any) -> bool:
    """Whether a route or upstream may replace an early filter, because it decides nothing before the route is known."""
    return bool(getattr(settings, "by_route", False))


def with_defaults(filters: Filters, filter_types: Mapping[str, Any]) -> Filters:
    """Return the gateway's filters with the default ones. A default is left out if the gateway names it, or has a
    filter of its type under another name."""
    said = {*filters, *(use.type for use in filters.values() if use is not None)}
    uses = {
        name: FilterUse(name=name, type=name, settings=filter_type())
        for name, filter_type in filter_types.items()
        if is_default(filter_type) and name not in said
    }
    return MappingProxyType({**uses, **filters}) if uses else filters


def is_default(filter_type: Any) -> bool:
    return bool(getattr(filter_type, "by_default", False))


def accumulate(levels: Iterable[Filters]) -> Mapping[str, FilterUse]:
    """Return the filters in use at these levels, the outermost level first."""
    held: dict[str, FilterUse | None] = {}
    for level in levels:
        held.update(level)
    return {name: use for name, use in held.items() if use is not None}


def of_listener(config: Config, listener: str) -> tuple[Filters, ...]:
    """Return the levels of a request whose route is not known (yet)."""
    return config.filters, config.listeners[listener].filters


def of_route(config: Config, listener: str, route: Route) -> tuple[Filters, ...]:
    """Return the levels of a request on `listener` that matched `route`; with several upstreams, those of each."""
    upstreams = (config.upstreams[name].filters for name in route.destinations if isinstance(name, str))
    names = (*route.use, *(name for each in route.variants for name in each.use))
    sets = (config.filter_sets[name] for name in names)
    return *of_listener(config, listener), *upstreams, *sets, route.filters


def running(
    config: Config, listener: str, route: Route, before_routing: Sequence[FilterUse] | None = None
) -> Sequence[FilterUse]:
    """Return the filters of a request on `listener` that matched `route`, in running order, as `compile` does.
    `before_routing`: result of the function of that name, for callers with many routes.
    """
    met = accumulate(of_route(config, listener, route))
    first = running_before_routing(config, listener) if before_routing is None else before_routing
    first = [use for use in first if not by_route(use.settings) or met.get(use.name) is use]
    ran = {use.name for use in first}
    return first + sorted((use for use in met.values() if use.name not in ran), key=running_order)


def running_before_routing(config: Config, listener: str) -> Sequence[FilterUse]:
    """Return the early filters of a listener, in running order."""
    return sorted(filter(_is_early, accumulate(of_listener(config, listener)).values()), key=early_turn)


def _is_early(use: FilterUse) -> bool:
    return early(use.settings)


def running_order(use: FilterUse) -> tuple[int, int]:
    """Return the sort key of a filter that runs after routing."""
    return use.settings.phase, use.settings.order


def early_turn(use: FilterUse) -> tuple[int, int]:
    """Return the sort key of a filter that runs before routing."""
    return use.settings.phase_of_listener, use.settings.order
