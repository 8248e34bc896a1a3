"""Configuration warnings of filters, from `Filter.warnings`."""

from collections.abc import Iterator
from functools import cache
from typing import Final

from fastgw.config.egress.expand import NAME as EGRESS
from fastgw.config.loading.locate_filter import Where
from fastgw.config.settings.gateway import Config, Filters, FilterUse
from fastgw.filters.api import Filter
from fastgw.filters.api.warning_context import Surroundings, WarningContext, warnings_by

_LEVELS: Final = {
    "filters": "gateway",
    "listeners": "listener ",
    "upstreams": "upstream ",
    "filter_sets": "filter set ",
}
_GENERATED: Final = f"{EGRESS}/"


def warnings_of(config: Config) -> Iterator[tuple[Where, str]]:
    """Yield the warnings, each with the use of the filter."""
    uses = [*_warned(config)]
    surroundings = Surroundings(config, (use for _, use in uses))
    for where, use in uses:
        route = where.owner if where.part == "routes" else None
        context = WarningContext(
            instance=where.use,
            level=_LEVELS[where.part] + where.owner if route is None else "route",
            route=route,
            generated=route is not None and route.startswith(_GENERATED),
            _surroundings=surroundings,
            _use=use,
        )
        yield from ((where, warning) for warning in warnings_by(use, context))


def _warned(config: Config) -> Iterator[tuple[Where, FilterUse]]:
    """Yield the uses of filters that may have warnings."""
    owners: list[tuple[str, str, Filters]] = [("filters", "", config.filters)]
    owners += [("listeners", name, each.filters) for name, each in config.listeners.items()]
    owners += [("upstreams", name, each.filters) for name, each in config.upstreams.items()]
    owners += [("filter_sets", name, filters) for name, filters in config.filter_sets.items()]
    owners += [("routes", route.name, route.filters) for route in config.routes]
    for part, owner, filters in owners:
        for name, use in filters.items():
            if use is not None and _may_warn(use.settings.__class__):
                yield Where(part, owner, name), use


@cache
def _may_warn(type: type) -> bool:
    """Whether filters of a type implement `warnings`; most do not, and there may be thousands of uses.

    A third-party filter may have a setting of this name instead.
    """
    own = getattr(type, "warnings", None)
    return callable(own) and own is not Filter.warnings
