"""Report on quotas and concurrency: the limits of the configuration, and how much of each is used."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from fastgw.admin.node_interface import LimitUse, QuotaInfo, TableUse
from fastgw.config.base.value_types import write_duration
from fastgw.config.settings.gateway import Config, Filters
from fastgw.consumers.index import Index
from fastgw.filters.limiting.keys import traits_of
from fastgw.filters.policies.concurrency import Concurrency, cells_of, scope
from fastgw.filters.policies.quota import Quota
from fastgw.filters.policies.rate_limit import RateLimit
from fastgw.observe.metrics.families import FilterEvent
from fastgw.shm.node_limits import KeyCounts
from fastgw.shm.quota_table import QuotaTable
from fastgw.shm.rate_limit_table import Cells

LOOKED_UP: Final = 10_000
"""Maximum number of quota keys in total that are searched for the most used one: some 0.1 s."""
_NO_GROUPS: Final[frozenset[str]] = frozenset()


class Use(NamedTuple):
    """A quota at its level."""

    level: str
    """Name of the level for people."""
    instance: str
    scope: str
    settings: Quota


def uses(config: Config) -> Iterator[Use]:
    """Return all quotas of a configuration."""
    for level, route, filters in _levels(config):
        for instance, use in filters.items():
            if use is not None and isinstance(use.settings, Quota):
                shown = level if route is None else f"route {route}"
                yield Use(shown, instance, use.settings.scope(level, route, instance), use.settings)


def quota_infos(
    quotas: QuotaTable, config: Config, index: Index, consumer: str | None, keys: Sequence[str]
) -> list[QuotaInfo]:
    """Return the usage of each quota by a consumer, or by the values of other keys."""
    known = None if consumer is None else index.by_name(consumer)
    groups = _NO_GROUPS if known is None else frozenset(known.groups)
    found = []
    for use in uses(config):
        settings = use.settings
        period, id_ = settings.calendar(time.time()), settings.id_of(use.scope, consumer, keys)
        limit = settings.limit_of(groups if id_ is not None else _NO_GROUPS)
        used = None if id_ is None else quotas.look_up(id_, period)
        found.append(
            QuotaInfo(
                filter=use.instance,
                level=use.level,
                key=", ".join(map(str, settings.traits)),
                period=settings.period_label,
                resets_date=period.ends_date,
                limit=limit,
                used=used,
                left=None if used is None else max(limit - used, 0),
            )
        )
    return found


def reset(quotas: QuotaTable, config: Config, instance: str, consumer: str | None, keys: Sequence[str]) -> int | None:
    """Reset its usage. Returns the number of counters that were in use; None: there is no such quota."""
    ids = [
        use.settings.id_of(use.scope, consumer, keys)
        for use in uses(config)
        if use.instance == instance and use.settings.counts_by(consumer, keys)
    ]
    wanted = [id_ for id_ in ids if id_ is not None]
    return sum(map(quotas.reset, wanted)) if wanted else None


def tables(cells: Cells, quotas: QuotaTable) -> tuple[TableUse, TableUse]:
    """Return the occupancy of the memory for rate limits and quotas. Takes about 0.1 s if it is full."""
    own, shared = cells.occupied(time.monotonic_ns())
    of_limits = TableUse("rate_limit", own, cells.count, shared, cells.overflowed, cells.refused)
    own, shared = quotas.occupied(time.time())
    return of_limits, TableUse("quota", own, quotas.slots, shared, quotas.overflowed)


def limits(
    config: Config, index: Index, quotas: QuotaTable, counts: KeyCounts, counted: Mapping[str, Sequence[int]]
) -> Iterator[LimitUse]:
    """Return all limits of a configuration. `counted`: counters of filters, by instance. Takes about 0.1 s if there are
    many.
    """
    look_ups = LOOKED_UP
    for level, route, filters in _levels(config):
        shown = level if route is None else f"route {route}"
        for instance, use in filters.items():
            settings = None if use is None else use.settings
            refused = counted[instance][FilterEvent.REFUSED] if instance in counted else 0
            if isinstance(settings, Concurrency):
                in_use, found_out = cells_of(counts, scope(level, route, instance))
                limit = counts.count(found_out) if settings.limit is None else settings.limit
                by, in_flight = ", ".join(map(str, settings.traits)), None if settings.key else counts.count(in_use)
                yield LimitUse(instance, "concurrency", shown, by, limit, "", refused, None, in_flight)
            elif isinstance(settings, RateLimit):
                by, window = ", ".join(map(str, traits_of(settings.key))), write_duration(settings.window)
                yield LimitUse(instance, "rate_limit", shown, by, settings.limit, window, refused)
            elif isinstance(settings, Quota):
                known = _known(settings, config, index, look_ups)
                look_ups -= len(known or ())
                used = _used(quotas, settings, settings.scope(level, route, instance), known)
                by, resets = ", ".join(map(str, settings.traits)), settings.calendar(time.time()).ends_date
                entry = LimitUse(instance, "quota", shown, by, settings.limit, settings.period_label, refused, resets)
                yield entry if used is None else replace(entry, **used._asdict())


class _Used(NamedTuple):
    """Number of keys that have used a quota, and the usage of the one nearest to its limit."""

    keys: int = 0
    most_used: int = 0
    most_used_of: int | None = None
    most_used_by: str | None = None


def _known(settings: Quota, config: Config, index: Index, most: int) -> Mapping[str, int] | None:
    """Return all keys that a quota may count by, with the limit of each. None: they are unknown, or more than
    `most`.
    """
    kinds = [trait.kind for trait in settings.traits]
    if kinds == ["consumer"] and index.count <= most:
        return {known.name: settings.limit_of(frozenset(known.groups)) for known in index.known()}
    if kinds == ["route"] and len(config.routes) <= most:
        return {route.name: settings.limit for route in config.routes}
    return None


def _used(quotas: QuotaTable, settings: Quota, scope: str, known: Mapping[str, int] | None) -> _Used | None:
    if known is None:
        return None
    period, used = settings.calendar(time.time()), dict[str, int]()
    for name in known:
        by_consumer = settings.traits[0].kind == "consumer"
        id_ = settings.id_of(scope, name, ()) if by_consumer else settings.id_of(scope, None, (name,))
        if id_ is not None and (count := quotas.look_up(id_, period)):
            used[name] = count
    if not used:
        return _Used()
    first = max(used, key=lambda name: used[name] / known[name])
    return _Used(len(used), used[first], known[first], first)


def concurrency(counts: KeyCounts, config: Config) -> dict[str, tuple[int, int]]:
    """Return, by instance, the sum of the limits of its uses, and the number of requests in flight.

    Uses that count by a key are not included: the keys are unknown.
    """
    found: dict[str, tuple[int, int]] = {}
    for level, route, filters in _levels(config):
        for instance, use in filters.items():
            settings = None if use is None else use.settings
            if isinstance(settings, Concurrency) and not settings.key:
                in_use, limits = cells_of(counts, scope(level, route, instance))
                limit, under_way = found.get(instance, (0, 0))
                limit += counts.count(limits) if settings.limit is None else settings.limit
                found[instance] = limit, under_way + counts.count(in_use)
    return found


def _levels(config: Config) -> Iterator[tuple[str, str | None, Filters]]:
    """Yield the levels, by the names that filters are built with."""
    yield "gateway", None, config.filters
    for name, listener in config.listeners.items():
        yield f"listener {name}", None, listener.filters
    for name, upstream in config.upstreams.items():
        yield f"upstream {name}", None, upstream.filters
    for name, filters in config.filter_sets.items():
        yield f"filter set {name}", None, filters
    for route in config.routes:
        yield "route", route.name, route.filters
