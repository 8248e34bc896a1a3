"""What is told of quotas and of concurrency: those of the configuration, and how much of them is used."""

import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from fastgw.admin.node import QuotaInfo
from fastgw.config.settings import Config, Filters
from fastgw.filters.concurrency import Concurrency, cells_of, scope
from fastgw.filters.quota import Quota
from fastgw.identity import Index, Roster
from fastgw.node.limits import KeyCounts
from fastgw.node.quotas import Quotas

_NO_GROUPS: Final[frozenset[str]] = frozenset()


class Use(NamedTuple):
    """A quota where it stands."""

    level: str
    """For people."""
    instance: str
    scope: str
    settings: Quota


def uses(config: Config) -> Iterator[Use]:
    """All quotas of a configuration."""
    for level, route, filters in _levels(config):
        for instance, use in filters.items():
            if use is not None and isinstance(use.settings, Quota):
                shown = level if route is None else f"route {route}"
                yield Use(shown, instance, use.settings.scope(level, route, instance), use.settings)


def told(quotas: Quotas, config: Config, index: Index, consumer: str | None, keys: Sequence[str]) -> list[QuotaInfo]:
    """What a consumer has used of each, or who has these values of other keys."""
    known = None if consumer is None else Roster(index).by_name(consumer)
    groups = _NO_GROUPS if known is None else known.groups
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
                period=settings.period_told,
                resets_date=period.ends_date,
                limit=limit,
                used=used,
                left=None if used is None else max(limit - used, 0),
            )
        )
    return found


def reset(quotas: Quotas, config: Config, instance: str, consumer: str | None, keys: Sequence[str]) -> int | None:
    """Have nothing used there. In how many places anything was; None: there is no such quota."""
    ids = [
        use.settings.id_of(use.scope, consumer, keys)
        for use in uses(config)
        if use.instance == instance and use.settings.counts_by(consumer, keys)
    ]
    wanted = [id_ for id_ in ids if id_ is not None]
    return sum(map(quotas.reset, wanted)) if wanted else None


def concurrency(counts: KeyCounts, config: Config) -> dict[str, tuple[int, int]]:
    """By instance, what the limits of its uses add up to, and how many requests are under way.

    Uses that count by a key are not among them: nobody knows the keys.
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
    """The names of levels are those that filters are built with."""
    yield "gateway", None, config.filters
    for name, listener in config.listeners.items():
        yield f"listener {name}", None, listener.filters
    for name, upstream in config.upstreams.items():
        yield f"upstream {name}", None, upstream.filters
    for name, filters in config.filter_sets.items():
        yield f"filter set {name}", None, filters
    for route in config.routes:
        yield "route", route.name, route.filters
