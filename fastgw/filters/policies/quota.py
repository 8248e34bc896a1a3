"""quota: limit the number of requests per day or month; counts are kept over restarts."""

from collections.abc import Iterable, Mapping, Sequence
from time import time
from typing import Annotated, Any, Final, Literal, final

from msgspec import Meta

from fastgw.config.base.value_types import Notation, Trait, parse_identity, write_duration
from fastgw.config.settings.gateway import NONE, Settings, Some
from fastgw.filters.api import (
    Duration,
    Env,
    Exchange,
    Fault,
    Filter,
    Hooks,
    Outcome,
    Phase,
    RequestHook,
    ResponseHook,
    Services,
    WarningContext,
)
from fastgw.filters.limiting.counter_store import Left, LimitSpec, give_back
from fastgw.filters.limiting.keys import KEY, are_of_somebody, key_named, key_of, key_warnings, traits_of
from fastgw.filters.limiting.response_headers import LIMIT_LINES, LimitHeaders, Style, refusal, set_tightest_headers
from fastgw.shm.calendar_periods import Calendar, calendar_of, zone_of
from fastgw.shm.quota_table import COUNT_MAX, NOT_OURS, Full, KeyDigest, Period, QuotaTable, own_quotas

REMEMBERED: Final = 65_536
"""Maximum number of keys of one use whose slots a worker caches."""
_DAY_S: Final = 86_400.0


def _parse_zone(text: str) -> str:
    zone_of(text)
    return text


Key = Annotated[Trait, KEY]
GroupName = Annotated[str, Notation("the name of a group of consumers", parse_identity, {"type": "string"})]
TimeZone = Annotated[str, Notation('a time zone such as "Europe/Berlin"', _parse_zone, {"type": "string"})]
Count = Annotated[int, Meta(ge=1, le=COUNT_MAX)]
Span = Literal["day", "month"] | Duration


class GroupQuota(Settings):
    """Quota of the consumers of a group, instead of the general one."""

    limit: Count
    """Maximum number of requests in a period."""


class Quota(Filter, name="quota", phase=Phase.LIMIT_CONSUMER, order=10):  # type: ignore[literal-required]  # order: ours
    """Limit the number of requests in a day, a month or another long period, per consumer or other `key`.

    The limit applies to the node. It is exact over all workers, and the counts survive reloads, upgrades and dead
    workers, and restarts if `quotas.file` is set; a crash of the machine loses the counts of the last second. Requests
    above the limit are answered 429 until the period ends, with `Retry-After`, and do not count, neither here nor in
    other limits that admitted them before. Every admitted request counts, whatever its response.

    Usage plans are `groups` here and in `rate_limit`: a consumer's plan is the group that it is in. Put both filters
    into a filter set, which the routes of the plan use: `filter_sets: {plans: {rate_limit: {limit: 1, window: 1s,
    groups: {gold: {limit: 50}}}, quota: {limit: 1000, period: month, groups: {gold: {limit: 1000000}}}}}`. Consumers in
    none of the groups have the general limits.

    Counts are kept per node, also with a `state`: N nodes behind one name admit up to N times as many requests.

    The admin API shows the usage of consumers, and resets it (`GET /quotas`, `POST /quotas/reset`; for a quota with
    several keys `key` is repeated, or a list), and shows the usage of all limits (`GET /limits`). Half a million keys
    are counted separately, in 64 bytes each. Further keys share one counter: their requests may be refused because of
    the others, but never admitted too often.
    """

    limit: Count
    """Maximum number of requests in a period."""
    period: Span
    """`day`, `month`, or a duration in whole seconds, such as `1h`, which is aligned to full hours in UTC."""
    time_zone: TimeZone = "UTC"
    """Time zone in which days and months begin, at midnight. A day has 23 or 25 hours when clocks change."""
    key: Key | Some[Key] = Trait("consumer")
    """Key to count by: `ip`, `consumer` (the client's address if there is no consumer), `route`, `host`, `header:NAME`,
    `cookie:NAME`, `claim:NAME`, or a list, of which each combination is counted separately. Requests without the
    header, cookie or claim are counted together. Headers and cookies are those of the request as filters before this
    one have changed it."""
    ipv6_prefix: Annotated[int, Meta(ge=1, le=128)] = 64
    """Length of the IPv6 prefix that identifies a client: a subscriber has at least a /64."""
    groups: Mapping[GroupName, GroupQuota] = NONE
    """Limits for the consumers of a group. If a consumer is in several of these groups, the first one here counts. A
    consumer that changes its group keeps its count."""
    headers: Style = "draft"
    """Response headers about the limit, as for `rate_limit`. With several limits they describe the one with the fewest
    requests left."""

    def __post_init__(self) -> None:
        if not isinstance(self.period, str) and (self.period < 1.0 or self.period % 1.0):
            raise ValueError("`period` is not a whole number of seconds; expected 1s or more")

    @property
    def traits(self) -> Sequence[Trait]:
        return traits_of(self.key)

    @property
    def asks_who(self) -> bool:
        """Whether it depends on the client's identity."""
        return bool(self.groups) or are_of_somebody(self.traits)

    def warnings(self, context: WarningContext) -> Iterable[str]:
        if context.quotas_file is None:
            yield (
                "its counts are lost when the gateway stops, unless systemd provides a state directory: see "
                "`quotas.file`"
            )
        yield from key_warnings(context, self.asks_who, self.groups)

    @property
    def calendar(self) -> Calendar:
        return calendar_of(self.period, zone_of(self.time_zone))

    @property
    def period_label(self) -> str:
        return self.period if isinstance(self.period, str) else write_duration(self.period)

    def scope(self, level: str, route: str | None, instance: str) -> str:
        """Return the identity of the counts of one use. Changes of other settings keep the counts."""
        return f"quota\n{level}\n{route if level == 'route' else None}\n{instance}\n{self.period_label}"

    def limit_of(self, groups: frozenset[str]) -> int:
        """Return the limit of a consumer in these groups."""
        return next((own.limit for name, own in self.groups.items() if name in groups), self.limit)

    def id_of(self, scope: str, consumer: str | None, keys: Sequence[str]) -> KeyDigest | None:
        """Return the digest of a consumer, or of these values of the other keys, in order; None: the quota has other
        keys.
        """
        left, values = list(keys), []
        for trait in self.traits:
            if trait.kind == "consumer" and consumer is not None:
                values.append(consumer)
            elif trait.kind != "consumer" and left:
                values.append(left.pop(0))
            else:
                return None
        if left and len(left) < len(keys):
            return None
        return KeyDigest.of(key_named(self.traits, self.ipv6_prefix, scope.encode(), values))

    def counts_by(self, consumer: str | None, keys: Sequence[str]) -> bool:
        """Whether it counts by exactly this key."""
        by_consumer = sum(trait.kind == "consumer" for trait in self.traits)
        return bool(by_consumer) == (consumer is not None) and len(self.traits) - by_consumer == len(keys)

    def build(self, env: Env) -> Hooks:
        of_route = env.route if env.level == "route" else None
        # A filter of 10,000 routes counts for all of them, and is built once.
        key = "quota", env.level, of_route, env.instance, id(self)
        counts = env.shared(
            key, lambda: _QuotaCounts(self, self.scope(env.level, of_route, env.instance), env.instance)
        )
        return Hooks(
            request=RequestHook(counts.request, would=lambda exchange: None),
            response=None if self.headers == "none" else ResponseHook(set_tightest_headers, lines=LIMIT_LINES),
            start=counts.start,
            explain=counts.explain,
        )


@final
class _Table:
    """Counts of one use, with the slots that this worker has cached."""

    def __init__(self, scope: str, calendar: Calendar) -> None:
        self.quotas: QuotaTable | None = None
        self.slots: dict[bytes, tuple[int, KeyDigest]] = {}
        self._shared = KeyDigest.of(scope.encode())
        self._calendar = calendar
        self._period = Period(0, 0.0, 0.0)

    def now(self) -> Period:
        period, now = self._period, time()
        if not period.begins_date <= now < period.ends_date:
            period = self._period = self._calendar(now)
        return period

    def assign_slot(self, quotas: QuotaTable, key: bytes) -> tuple[int, KeyDigest] | None:
        """Return the slot of a key. None: none is left."""
        try:
            slot = quotas.assign_slot(KeyDigest.of(key), self._shared)
        except Full:
            return None
        if len(self.slots) >= REMEMBERED:
            self.slots.clear()
        self.slots[key] = slot
        return slot

    def refund(self, key: bytes, cost: int, period: Period) -> None:
        slot = self.slots.get(key)
        if slot is not None and self.quotas is not None:
            self.quotas.refund(*slot, period, cost)

    def remaining(self, key: bytes, limit: int) -> Left:
        period, slot = self.now(), self.slots.get(key)
        used = 0
        if self.quotas is not None:
            used = self.quotas.look_up(KeyDigest.of(key), period) if slot is None else self.quotas.count(*slot, period)
        return max(limit - used, 0), period.ends_date - time()


@final
class _QuotaGroup:
    """Limit with its counts. As a counter store, it returns the permits left and takes refunds."""

    __slots__ = ("_table", "limit", "limit_headers", "name", "why")

    def __init__(self, table: _Table, name: str, limit: int, limit_headers: LimitHeaders | None, why: str) -> None:
        self._table, self.name, self.limit, self.limit_headers, self.why = table, name, limit, limit_headers, why

    def spend(self, key: bytes, cost: int, /) -> Any:
        raise NotImplementedError("a quota is spent by its filter")

    charge = spend

    def refund(self, key: bytes, cost: int, mark: Any, /) -> None:
        self._table.refund(key, cost, mark)

    def remaining(self, key: bytes, mark: Any, /) -> Left:
        return self._table.remaining(key, self.limit)


@final
class _QuotaCounts:
    """Quota: one use of the filter, for all of its routes."""

    def __init__(self, settings: Quota, scope: str, instance: str) -> None:
        self._instance = instance
        self._settings = settings  # kept, because shared objects are found by its identity
        self._key_of = key_of(settings.traits, settings.ipv6_prefix, scope.encode())
        self._table = _Table(scope, settings.calendar)
        by = " and ".join(map(str, settings.traits))
        limits = {"": settings.limit, **{name: group.limit for name, group in settings.groups.items()}}
        self._everybody, *self._groups = [
            _QuotaGroup(
                self._table,
                name,
                limit,
                None if settings.headers == "none" else LimitHeaders(settings.headers, instance, self._terms(limit)),
                f"{instance}: {limit} per {settings.period_label} by {by}",
            )
            for name, limit in limits.items()
        ]

    def _terms(self, limit: int) -> LimitSpec:
        period = self._settings.period
        seconds = {"day": _DAY_S, "month": 30 * _DAY_S + 0.5}.get(period, 0.0) if isinstance(period, str) else period
        return LimitSpec("fixed_window", limit, seconds)  # no whole number for months, so it is not sent

    def start(self, services: Services) -> None:
        self._table.quotas = services.quotas or self._table.quotas or own_quotas()

    def request(self, exchange: Exchange) -> Outcome:
        table = self._table
        quotas = table.quotas
        assert quotas is not None, "a quota has to be started before it is asked"
        group = self._group_of(exchange) if self._groups else self._everybody
        key = self._key_of(exchange)
        period = table.now()
        while True:
            slot = table.slots.get(key) or table.assign_slot(quotas, key)
            if slot is None:
                give_back(exchange.limits)
                exchange.limits = None
                return exchange.refuse(Fault.LIMITS_UNAVAILABLE, why=f"{group.why}: no free counter is left")
            left = quotas.spend(*slot, period, 1, group.limit)
            if left >= 0:
                exchange.limits = group.limit_headers, group, key, 1, period, exchange.limits
                return None
            if left != NOT_OURS:
                give_back(exchange.limits)
                exchange.limits = group.limit_headers, group, key, 0, None, None
                exchange.why = group.why
                exchange.client.counts.count_refusal(exchange, self._instance)
                return refusal(Fault.QUOTA_EXCEEDED, period.ends_date - time())
            table.slots.pop(key, None)

    def _group_of(self, exchange: Exchange) -> _QuotaGroup:
        consumer = exchange.consumer
        if consumer is not None:
            for group in self._groups:
                if group.name in consumer.groups:
                    return group
        return self._everybody

    def explain(self, exchange: Exchange) -> str:
        group = self._group_of(exchange)
        of = f" of the group {group.name}" if group.name else ""
        counts = f"counts 1 of {group.limit} per {self._settings.period_label}{of}"
        if self._table.quotas is None:
            return f"if any are left: it {counts}"
        return f"{counts}; {group.remaining(self._key_of(exchange), None)[0]} remaining"
