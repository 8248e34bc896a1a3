"""The compiled configuration of a process: its tables, and the parts that run in a worker.

Immutable, except for the parts that a worker starts. Rule: no reference cycles, so that tables are freed in steps
without the garbage collector.
"""

import ssl
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from itertools import islice
from typing import Final, NamedTuple

from fastgw.composition.action import ComposeAction
from fastgw.config import Loaded, Problem
from fastgw.config.base.route_patterns import HostPattern, PathPattern
from fastgw.config.loading.locate_filter import Where, locate
from fastgw.config.loading.locate_setting import UnusableSetting, locate_settings
from fastgw.config.settings import gateway as config
from fastgw.consumers.index import NOBODY, Index
from fastgw.downstream import Listener, ListenerTable
from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import FilterInstance, Route
from fastgw.exchange.chain import ValueStep
from fastgw.filters.api import FilterResources, Services
from fastgw.filters.wrappers.misconfigured import Misconfigured
from fastgw.observe.metrics.families import COMPOSITIONS
from fastgw.observe.metrics.series_layout import (
    BROKEN_OFF,
    UPSTREAM_CONNECTS,
    UPSTREAM_EJECTIONS,
    UPSTREAM_OPENINGS,
    UPSTREAM_WAITS,
    Series,
    answers_at,
    counted_in,
    series_of,
)
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.redis.url import RedisSource
from fastgw.routing.table import Router, Rule, Steps, at_once
from fastgw.shm.last_errors import LastErrors
from fastgw.shm.memory import Column, Layout
from fastgw.shm.node_queue import NodeQueue
from fastgw.shm.slot_assignment import MAX_CONSUMERS, SlotNames, SlotTable, first, target_name
from fastgw.shm.upstream_words import TargetWords
from fastgw.sync import drained_targets
from fastgw.sync.drained_targets import by_upstream
from fastgw.upstream.health.outlier_ejection import may_eject
from fastgw.upstream.health.upstream_health import Health, HealthPoller, Note
from fastgw.upstream.health.upstream_health import HealthEvent as HealthEvent
from fastgw.upstream.load_balancing.load_tracking import Loads
from fastgw.upstream.policies.retry import SPARE_RETRIES
from fastgw.upstream.targets.target import Target, build_targets
from fastgw.upstream.targets.tls import Identity
from fastgw.upstream.upstream import Upstream

_COUNTED_AT: Final = {HealthEvent.EJECTED: UPSTREAM_EJECTIONS, HealthEvent.OPENED: UPSTREAM_OPENINGS}


class CompileError(Exception):
    """The configuration cannot be compiled. The text is one line for each error, with its position.

    `unbuilt`: the errors of the filters that cannot be built, each with its position. `part`: the listener or upstream
    that cannot be built as a whole. `setting`: the one that cannot be used.
    """

    def __init__(
        self,
        detail: str,
        unbuilt: Iterable[tuple[Where, str]] = (),
        part: Where | None = None,
        setting: UnusableSetting | None = None,
    ) -> None:
        self.unbuilt = tuple(unbuilt)
        self.settings = () if setting is None else (setting,)
        self.parts = {} if part is None else {part: detail}
        super().__init__(detail)

    def problems(self, loaded: Loaded, filter_types: Mapping[str, type]) -> Sequence[Problem]:
        """Return the errors with their positions in the files that `loaded` was read from."""
        file = loaded.files[0] if loaded.files else ""
        located = locate(loaded, filter_types, self.unbuilt)
        located = located or locate_settings(loaded, filter_types, self.settings)
        return located or [Problem(file, 0, 0, "", line) for line in str(self).split("\n")]


class CompiledRoute(NamedTuple):
    """A route on all listeners, with everything that it depends on in addition to its own settings."""

    upstreams: tuple[Upstream, ...]
    sets: tuple[str, ...]
    """The filter sets that it uses."""
    reads: tuple[str, ...]
    """The files that its filters have read."""
    live: tuple[FilterInstance, ...]
    """Filters of the route that hold resources in a worker's loop."""
    rules: tuple[Rule | None, ...]
    """Rules of the route on each listener, in their order."""

    @property
    def patterns(self) -> tuple[PathPattern, ...]:
        """Path patterns of the route, which are the same on all listeners."""
        return tuple(dict.fromkeys(entry.path for entry in self._entries if entry.path is not None))

    @property
    def hosts(self) -> tuple[HostPattern, ...]:
        """Hosts of the route, which are the same on all listeners."""
        return tuple(dict.fromkeys(entry.host for entry in self._entries if entry.host is not None))

    @property
    def _entries(self) -> Rule:
        return next((each for each in self.rules if each is not None), ())


class Gateway:
    """The compiled configuration: immutable, except for what `starting` adds in each worker."""

    def __init__(self, settings: config.Config, workers: int, stock: FilterResources) -> None:
        self.config = settings
        """Settings without routes, upstreams and consumers."""
        self.workers = workers
        self.timeouts = settings.timeouts
        self.limits = settings.limits
        self.upstreams: dict[str, Upstream] = {}
        self.contexts: dict[Identity, ssl.SSLContext] = {}
        """TLS contexts of targets."""
        self.tables: dict[str, ListenerTable] = {}
        self.listeners: tuple[Listener, ...] = ()
        """Listeners of the previous tables with equal name and address; `Server.adopt` gives them these tables."""
        self.routes: list[CompiledRoute] = []
        self.routes_by_name: dict[str, CompiledRoute] = {}
        self.maps: Mapping[str, ValueStep] = {}
        """Functions of the gateway's maps, by name."""
        self.stock = stock
        """Resources that filters are built from, shared by all generations of a process."""
        self.index: Index = NOBODY
        """Index of the consumers. `stock.roster` has the index in use."""
        self.reads: dict[str, bytes] = {}
        """The files that filters have read, and the digest of each."""
        self.live: set[FilterInstance] = set()
        """The filters that hold resources in a worker's loop."""
        self.cache_redis: RedisSource | None = None
        """The Redis of cache stores; None: none of them has such a tier."""
        self.layout = Layout()
        """Layout of the shared memory that is needed; the runtime adds its own words before it maps the memory."""
        self.trace_headers: tuple[tuple[bytes, bytes], ...] = ()
        """Headers that are sent to the collector of traces."""
        self._counted = counted_in(self.layout)
        self._drained: Set[str] = frozenset()
        """Upstreams that have drained targets."""
        self._words = TargetWords(self.layout)
        self._last_errors = LastErrors(self.layout)
        self._outlook: HealthPoller | None = None

    @cached_property
    def names(self) -> SlotNames:
        """Names with a slot in shared memory."""
        return SlotNames(
            listeners=tuple(self.tables),
            routes=[*self.routes_by_name, *(table.tcp.name for table in self.tables.values() if table.tcp is not None)],
            upstreams={name: [target.label for target in each.targets] for name, each in self.upstreams.items()},
            filters=tuple(dict.fromkeys(self._filter_names())),
            consumers=[known.name for known in islice(self.index.known(), MAX_CONSUMERS)],
            consumer_count=self.index.count,
            hosts=tuple(self._hosts()),
        )

    def _hosts(self) -> Iterator[str]:
        """Yield the hosts of routes, if requests are counted by them."""
        plan = self.config.telemetry.meter_plan
        if plan is not None and "host" in plan.more_request_labels:
            for host in (host for route in self.routes_by_name.values() for host in route.hosts):
                yield f"{'*' if host.wildcard else ''}{host.name.decode()}"

    @property
    def unusable(self) -> Mapping[Where, Misconfigured]:
        """Misconfigured filters: replacements of filters whose secrets are invalid. Listed once per service, regardless
        of its listeners.
        """
        found: dict[Where, Misconfigured] = {}
        seen: set[tuple[str, str]] = set()
        for name, compiled in self.routes_by_name.items():
            for link in (link for rule in compiled.rules if rule for link in rule[0].route.links):
                step = None if link.own.request is None else link.own.request.step
                if not isinstance(step, Misconfigured):
                    continue
                whose = compiled.upstreams[0].name if compiled.upstreams else name
                if (whose, link.use.name) not in seen:
                    seen.add((whose, link.use.name))
                    found[Where("routes", name, link.use.name)] = step
        return found

    def _filter_names(self) -> Iterator[str]:
        for link in self._links():
            yield link.use.name
        rules = (rule for compiled in self.routes for rule in compiled.rules if rule is not None)
        if any(isinstance(rule[0].route.action, ComposeAction) for rule in rules):
            yield COMPOSITIONS

    def _links(self) -> Iterator[FilterInstance]:
        for table in self.tables.values():
            yield from table.early.links
            yield from table.upstream_chains.links
        for compiled in self.routes:
            for rule in compiled.rules:
                if rule is not None:
                    yield from rule[0].route.links

    @cached_property
    def slot_table(self) -> SlotTable:
        """Slots of the names; replaced before `starting` in a later generation."""
        return first(self.names)

    @property
    def series(self) -> Series:
        return series_of(self.slot_table)

    def target_slot(self, upstream: str, target: Target) -> int:
        return self.slot_table.targets[target_name(upstream, target.label)]

    def find_route(self, name: str, listener: str) -> tuple[Listener, Route] | None:
        """Return a route by its name, with this listener if it belongs to it, otherwise with another one."""
        compiled = self.routes_by_name.get(name)
        if compiled is None:
            return None
        rules = {name: rule for name, rule in zip(self.tables, compiled.rules, strict=True) if rule is not None}
        found = {each.name: (each, rules[each.name][0].route) for each in self.listeners if each.name in rules}
        return found.get(listener) or next(iter(found.values()), None)

    @property
    def in_use(self) -> bool:
        """Whether requests may still use these tables after new ones were adopted.

        Such requests wait in a filter that runs before routing, or in the queue of a removed listener.
        """
        if any(listener.closing and listener.askers for listener in self.listeners):
            return True
        return any(table.router.waiting for table in self.tables.values())

    def starting(self, services: Services, column: Column) -> Steps[None]:
        """Start a generation in a worker: open new upstreams and start new filters."""
        worker_loop, series, words = services.worker_loop, self.series, self._words
        yield
        for name, upstream in self.upstreams.items():
            if upstream.started:
                upstream.pool.share(self.workers)
            else:
                pool, slot = upstream.settings.pool, self.slot_table.upstreams[name]
                most = pool.most_connections(for_requests=not upstream.lends_sockets)
                counted = self._counted + series.upstream_words(name)
                # A retired upstream of this name and its connections in use share the same counters.
                connections = column.limit(words.connections + slot, most, counted + UPSTREAM_CONNECTS)
                pending = column.limit(words.pending + slot, pool.max_pending, counted + UPSTREAM_WAITS)
                loads = Loads(column.words, column.views, words.under_way, words.under_way_all + slot)
                self._count(upstream, series, column)
                queue = None  # of a TCP upstream without a limit: nothing waits for it
                if pool.max_connections is not None or not upstream.lends_sockets:
                    queue = NodeQueue(words.queue(slot), most, pool.pending_timeout, column, services.worker_bell)
                upstream.start(worker_loop, self.workers, connections, pending, loads, services.run_key, queue)
                self._look_after(upstream, column, slot, counted)
            yield
        self._follow_health(worker_loop, column)
        if self.upstreams:
            self.drain(drained_now(services))
        for link in self.live:
            if not link.started:
                link.started = True
                _start(link, services)
                yield

    def _follow_health(self, worker_loop: WorkerLoop, column: Column) -> None:
        """Follow the node's decisions on all upstreams from now on."""
        self._stop_looking()
        if looked_after := [each.health for each in self.upstreams.values() if each.health is not None]:
            self._outlook = HealthPoller(worker_loop.wheel, self._words.health, column, looked_after)
            self._outlook.start()

    def _count(self, upstream: Upstream, series: Series, column: Column) -> None:
        """Let an upstream and its targets count in their slots."""
        name, slot = upstream.name, self.slot_table.upstreams[upstream.name]
        for target in upstream.targets:
            target.slot = self.target_slot(name, target)
            target.counted = self._counted + series.target_words(name, target.label)
        spare = column.limit(self._words.spare_retries + slot, SPARE_RETRIES)
        first_word = self._counted + series.upstream_words(name)
        upstream.count_in(spare, column.words, first_word, self._noting(name, column))

    def use_targets(
        self, changed: Mapping[str, config.Upstream], slot_table: SlotTable, started: "tuple[WorkerLoop, Column] | None"
    ) -> None:
        """Replace the targets of these upstreams in place, and nothing else: routes stay as they are. `slot_table`:
        the slots with those of the new targets. `started`: loop and column of the worker that serves these tables;
        None: they serve no requests.
        """
        self.slot_table = slot_table
        self.__dict__.pop("names", None)
        series = self.series
        for name, settings in changed.items():
            upstream = self.upstreams[name]
            if upstream.settings == settings:  # shared with other tables, where they were replaced
                continue
            context = None if upstream.identity is None else self.contexts[upstream.identity]
            upstream.use_targets(settings, build_targets(settings, context, upstream.targets_by_url))
            if upstream.started and started is not None:
                column = started[1]
                self._count(upstream, series, column)
                counted = self._counted + series.upstream_words(name)
                self._look_after(upstream, column, slot_table.upstreams[name], counted)
        if started is not None:
            self._follow_health(*started)

    def _noting(self, upstream: str, column: Column) -> Note:
        slot_table, errors = self.slot_table, self._last_errors

        def note(target: Target, fault: Fault, why: str) -> None:
            # A response that is aborted after its head is counted when it ends, so it is no success in between.
            answers = answers_at(column.views, target.counted) + (fault in BROKEN_OFF)
            errors.note_target(column, slot_table, target_name(upstream, target.label), fault.label, why, answers)

        return note

    def drain(self, names: Collection[str]) -> None:
        """Drain these targets (`target_name`): they get no new requests. All others are undrained."""
        wanted = by_upstream(names)
        for name in wanted.keys() | self._drained:
            if name in self.upstreams:
                self.upstreams[name].drain(wanted.get(name, frozenset()))
        self._drained = wanted.keys()

    def _look_after(self, upstream: Upstream, column: Column, slot: int, counted: int) -> None:
        """Start following the node's decisions on the health of an upstream, if configured. `counted`: its row of
        counters.
        """
        settings = upstream.settings
        if settings.health_checks.active is None and settings.circuit_breaker is None and not may_eject(settings):
            return
        words = self._words.health
        words.enter_upstream(column, slot, upstream.name)
        slots = {target: self.target_slot(upstream.name, target) for target in upstream.targets}
        for target, at in slots.items():
            words.enter(column, at, target_name(upstream.name, target.label))

        def count(event: HealthEvent) -> None:
            column.words[counted + _COUNTED_AT[event]] += 1

        upstream.look_after(Health(upstream, words, column, slot, slots, count))

    def start(self, services: Services, column: Column) -> None:
        """Run `starting` at once."""
        at_once(self.starting(services, column))

    def retiring(self, new: "Gateway") -> Steps[None]:
        """Retire these tables, because `new` is in use: removed upstreams close their connections, and replaced filters
        stop.

        Connections and work of filters in progress are completed.
        """
        self._stop_looking()
        for name, upstream in self.upstreams.items():
            heir = new.upstreams.get(name)
            if upstream.started and heir is not upstream:
                upstream.retire(heir)
            yield
        for link in self.live - new.live:
            _stop(link)
            yield

    def retire(self, new: "Gateway") -> None:
        """Run `retiring` at once."""
        at_once(self.retiring(new))

    def _stop_looking(self) -> None:
        if self._outlook is not None:
            self._outlook.stop()

    def stop(self) -> None:
        self._stop_looking()
        for upstream in self.upstreams.values():
            if upstream.started:
                upstream.pool.stop()
        for link in self.live:
            _stop(link)


def drained_now(services: Services) -> Collection[str]:
    """Return the targets that an operator has drained."""
    return drained_targets.read(services.feeds[drained_targets.FEED].value)


def _start(link: FilterInstance, services: Services) -> None:
    if link.hooks.start is not None:
        try:
            link.hooks.start(services)
        except Exception as error:  # the edge of a filter: without it the configuration does not work
            raise CompileError(
                f"{link.level}: filter {link.use.name} cannot start: {type(error).__name__}: {error}"
            ) from error


def _stop(link: FilterInstance) -> None:
    if link.started:
        link.started = False
        if link.hooks.stop is not None:
            try:
                link.hooks.stop()
            except Exception:  # the edge of a filter: its exception is logged, the others still stop
                log_event(OperatorEvent.FILTER_RAISED, "filter %s: its stop raised", link.use.name, error=True)


def dismantling(old: Gateway, new: Gateway) -> Steps[None]:
    """Free tables that `new` has replaced, except for shared parts. Not while `old.in_use`."""
    for name, table in old.tables.items():
        kept = new.tables.get(name)
        own = table.upstream_chains.own
        while own:
            own.popitem()
            yield
        yield from table.router.dismantling(kept.router if kept is not None else Router())
    while old.routes:
        old.routes_by_name.popitem()
        old.routes.pop()
        yield
    for held in (old.upstreams, old.contexts, old.tables):
        while held:
            held.popitem()
            yield
    while old.live:
        old.live.pop()
