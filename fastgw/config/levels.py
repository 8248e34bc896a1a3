"""The levels at which filters stand, from the farthest to the nearest: gateway, listener, upstream, route.

They add up by instance name; the nearest use of a name counts, and a nearest `null` removes it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fastgw.config.settings import NONE, Config, Filters, FilterUse, Route


def early(filter_type: Any) -> bool:
    """Whether its phase comes before routing, so that it belongs to the gateway and its listeners."""
    return bool(getattr(getattr(filter_type, "phase", None), "early", False))


def accumulate(levels: Iterable[Filters]) -> Mapping[str, FilterUse]:
    """What is in use where these levels meet, the farthest level first."""
    held: dict[str, FilterUse | None] = {}
    for level in levels:
        held.update(level)
    return {name: use for name, use in held.items() if use is not None}


def of_listener(config: Config, listener: str) -> tuple[Filters, ...]:
    """The levels of a request whose route is not known (yet)."""
    return config.filters, config.listeners[listener].filters


def of_route(config: Config, listener: str, route: Route) -> tuple[Filters, ...]:
    """The levels of a request that came in by `listener` and met `route`."""
    upstream = config.upstreams[route.upstream].filters if isinstance(route.upstream, str) else NONE
    sets = (config.filter_sets[name] for name in route.use)
    return *of_listener(config, listener), upstream, *sets, route.filters
