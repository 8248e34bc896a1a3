"""View of the node for the admin API: read from shared memory, from /proc and from the active configuration.

Workers are not involved.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from types import MappingProxyType
from typing import Final, NamedTuple

from msgspec.structs import replace

from fastgw import VERSION, config
from fastgw.admin import node_interface
from fastgw.analytics.queries import Usage, UsageQuery
from fastgw.cache.store import StoreNumbers
from fastgw.capture.captured_exchange import CaptureOrder
from fastgw.capture.redaction import Redaction
from fastgw.capture.story_record import Story
from fastgw.config.base.value_types import Url
from fastgw.config.decoding.filter_levels import running
from fastgw.config.settings.gateway import NONE, Config, Route, Target, Upstream
from fastgw.consumers.index import Index
from fastgw.eventloop.addressed_connections import ConnectionOrder, OrderAnswer, send_order
from fastgw.gateway.compiler import secret_names_of
from fastgw.observe.metrics.families import BOUNDS_S
from fastgw.observe.metrics.series_layout import (
    TARGET_FAULT_WORDS,
    TARGET_WORDS,
    UPSTREAM_EJECTIONS,
    UPSTREAM_OPENINGS,
    UPSTREAM_RETRIES,
    CellKind,
    series_of,
)
from fastgw.observe.metrics.totals import Totals, quantile
from fastgw.runtime.control import limit_report
from fastgw.runtime.control.auditing import Auditing
from fastgw.runtime.control.cache_contents import CacheContents
from fastgw.runtime.control.cache_purging import CachePurging
from fastgw.runtime.control.captures import Captures, CaptureStream
from fastgw.runtime.control.debugging import Debugging
from fastgw.runtime.control.drained_targets import DrainedTargets
from fastgw.runtime.control.explain_requests import Explaining, UpstreamState
from fastgw.runtime.control.health_checker import Checks
from fastgw.runtime.control.recording import RecordingHub
from fastgw.runtime.control.revocation import Revoking
from fastgw.runtime.control.slo_history import SloHistory
from fastgw.runtime.control.stories import StoryStore
from fastgw.runtime.control.traffic_history import EVERY_S, Recent, TrafficHistory, response_count
from fastgw.runtime.ipc.channel import Channel, DrainAll
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.node.metrics import Exposition, OfTls, OfUpstream, target_errors
from fastgw.runtime.node.node_state import NodeState, ReloadRecord
from fastgw.runtime.process.process_stats import Process, process
from fastgw.runtime.reload import certificate_files
from fastgw.runtime.reload.proposer import Proposer
from fastgw.shm.health_words import SHUNNED, HealthVerdict
from fastgw.shm.last_errors import LastErrorEntry
from fastgw.shm.slot_assignment import target_name
from fastgw.sync.cache_purges import PurgeOrder
from fastgw.sync.drained_targets import FEED
from fastgw.sync.revocations import RevocationEvent
from fastgw.upstream.health.circuit_breaker import BreakerPhase, phase_of
from fastgw.upstream.targets.target import labels_of

HEALTH: Final[Mapping[HealthVerdict, node_interface.Health]] = {
    HealthVerdict.HEALTHY: "healthy",
    HealthVerdict.UNHEALTHY: "unhealthy",
    HealthVerdict.EJECTED: "ejected",
}
UNCOUNTED: Final = (0,) * TARGET_WORDS
UNSEEN: Final = Process(cpu_s=0.0, resident_bytes=0, open_fds=0)
"""Placeholder if the system gives no information about other processes."""
LIMITS_EVERY_S: Final = 2.0
"""Maximum age of the usage of limits in seconds: it is read in a thread, and not for each request."""
CLIENT_LEFT: Final = 499
ERRORS: Final = 500
"""Statuses from this one on are errors of the gateway or of an upstream."""

_EFFECTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "local": "limits count on each gateway on its own until it is reachable again",
        "refuse": "requests whose limits need it are answered 503 until it is reachable again",
    }
)
"""Effect on limits while the Redis of `state` is unreachable, by `state.when_away`."""


class NodeView:
    """Implementation of `admin.node_interface` for a gateway."""

    def __init__(
        self,
        node_state: NodeState,
        channel: Channel,
        proposer: Proposer,
        revoking: Revoking,
        cache_purging: CachePurging,
        auditing: Auditing,
    ) -> None:
        self._node_state = node_state
        self._channel = channel
        self._proposer = proposer
        self._revoking = revoking
        self._cache_purging = cache_purging
        self._auditing = auditing
        self.explaining = Explaining(proposer)
        self.explaining.state_of = self._state_of_upstream
        self._supervisor = os.getppid()
        self._exposition = Exposition(
            series_of(proposer.current.slot_table),
            node_state.shared,
            node_state.words,
            node_state.begun_date,
            node_state.begun_at,
            self.status_of_tls,
            lambda: self.feeds(),
            self._of_health,
            lambda: limit_report.concurrency(self._in_flight, self._proposer.config),
            lambda: self._proposer.stale is not None,
            lambda: bool(self._proposer.kept_files),
            lambda: self.caches(),
            lambda: proposer.current.settings.telemetry.meter_plan,
            lambda: self.slo.burn_rates(),
            lambda: self.acme(),
            lambda: [route.name for route in proposer.config.routes if route.websocket_api is not None],
            lambda: self.on_demand(),
            lambda: self.ocsp(),
        )
        self.slo = SloHistory(self._totals, lambda: proposer.current.settings.telemetry.meter_plan, self._uptime_s)
        self._looking = asyncio.Lock()
        self._limits: node_interface.Limits | None = None
        self._in_flight = node_state.shared.supervisor.in_flight()  # read-only
        self.health: Checks | None = None
        """The health checker of targets."""
        self.feeds: Callable[[], Sequence[node_interface.FeedInfo]] = tuple
        """Returns the states of the feeds."""
        self.caches: Callable[[], Mapping[str, StoreNumbers]] = dict
        """Returns the state of the stores of the response cache."""
        self.contents: CacheContents | None = None
        """Contents of these stores."""
        self.drained = DrainedTargets(channel, node_state.feeds.get(FEED, b""), proposer.current.generation)
        self.quota_file: Callable[[], node_interface.QuotaFileInfo | None] = lambda: None
        """Returns the state of the quota file."""
        self.acme: Callable[[], Sequence[node_interface.AcmeInfo]] = tuple
        self.ocsp: Callable[[], Sequence[node_interface.OcspInfo]] = tuple
        self.on_demand: Callable[[], node_interface.OnDemandInfo | None] = lambda: None
        self.analytics_info: Callable[[], node_interface.AnalyticsInfo | None] = lambda: None
        """Returns the state of the analytics database."""
        self.query_analytics: Callable[[UsageQuery], Awaitable[Usage | None]] = _no_analytics
        self.captures = Captures(channel, lambda: proposer.current.generation)
        self.story_store = StoryStore(self.captures)
        self.debugging = Debugging(
            *(channel, self.captures, node_state.run_key, lambda: proposer.current.generation),
            lambda: len(self._workers()),
            self.story_store.take_debugged,
        )
        self._redaction: tuple[Config | None, Redaction] = None, Redaction()
        self.recording = RecordingHub(channel, lambda: proposer.config, lambda: proposer.current.generation)
        self.past = TrafficHistory(self._totals, self.live)
        self._certified: tuple[object, object] = (None, None)
        self._of_tls: OfTls = ((), ())
        self._parts = Parts(proposer.config)

    # state

    def is_ready(self) -> bool:
        return self._node_state.words.is_ready(self._node_state.shared)

    def prepare_names(self, accepted: ConfigSnapshot) -> None:
        """Add the names of a generation to the metrics before it is committed."""
        self._exposition.prepare(accepted.generation, series_of(accepted.slot_table))

    @property
    def exposition(self) -> Exposition:
        """The metrics of the node."""
        return self._exposition

    def metrics(self, accept: bytes) -> tuple[bytes, bytes]:
        return self._exposition.text(accept)

    def status(self) -> node_interface.Status:
        current, workers = self._proposer.current, self._workers()
        return node_interface.Status(
            version=VERSION,
            pid=self._supervisor,
            uptime_s=self._uptime_s(),
            started_date=self._node_state.begun_date,
            generation=current.generation,
            config_hash=current.hash,
            config_file=current.file,
            state=self._state(),
            workers=workers,
            connections=sum(worker.connections for worker in workers),
            requests=sum(self._totals().cells[CellKind.REQUEST].values()),
            reloads=self._reloads(),
            stale=self._proposer.stale,
            kept_files=self._proposer.kept_files,
            certificates=self.status_of_tls()[0],
            verifiers=self.status_of_tls()[1],
            acme=self.acme(),
            ocsp=self.ocsp(),
            on_demand=self.on_demand(),
            feeds=self.feeds(),
            quota_file=self.quota_file(),
            analytics=self.analytics_info(),
            caches=self._caches_in_use(),
            shared_state=self.shared_state(),
        )

    def shared_state(self) -> node_interface.SharedStateInfo | None:
        """Return the reachability of the Redis of `state`; None: there is none."""
        settings, (server, is_there, reason) = self._proposer.current.settings.state, self._revoking.state_reach
        if settings is None or not server:
            return None
        for_workers = self._node_state.words.is_state_up(self._node_state.shared)
        if for_workers is False and not reason:
            reason = "limits get no response; the log has the reason"
        if reason:
            return node_interface.SharedStateInfo(server, False, reason, _EFFECTS[settings.when_away])
        return node_interface.SharedStateInfo(server, is_there or for_workers or None)

    def notes(self) -> list[str]:
        """Return what is wrong with a gateway that is ready."""
        state = self.shared_state()
        return [str(state)] if state is not None and state.reason else []

    def _caches_in_use(self) -> list[node_interface.CacheStoreInfo]:
        stores = [] if self.contents is None else self._with_reach(self.contents.stores())
        return [each for each in stores if each.objects or each.disk is not None or each.redis is not None]

    def _with_reach(self, stores: Sequence[node_interface.CacheStoreInfo]) -> list[node_interface.CacheStoreInfo]:
        """Return the stores with whether their Redis is reachable."""
        is_up = self._node_state.words.is_state_up(self._node_state.shared)
        return [
            each if each.redis is None else replace(each, redis=replace(each.redis, is_up=is_up)) for each in stores
        ]

    def status_of_tls(self) -> OfTls:
        """Return the certificates of all listeners, and those that verify clients. They are parsed once."""
        proposer = self._proposer
        now = (proposer.current, (proposer.withheld, proposer.warnings))
        if any(one is not other for one, other in zip(now, self._certified, strict=True)):
            self._certified = now
            what = proposer.config, proposer.current.captured, {**proposer.warnings, **proposer.withheld}
            self._of_tls = certificate_files.certificate_infos(*what), certificate_files.verifiers(*what)
        return self._of_tls

    def live(self) -> node_interface.Live:
        totals, workers = self._totals(), self._workers()
        responses: Counter[str] = Counter(dict.fromkeys(("2xx", "3xx", "4xx", "5xx", "499"), 0))
        for (*_, status), count in totals.cells[CellKind.REQUEST].items():
            responses["499" if status == CLIENT_LEFT else f"{status // 100}xx"] += count
        buckets = [0] * (len(BOUNDS_S) + 1)
        for row in totals.routes.values():
            buckets = [one + other for one, other in zip(buckets, row, strict=False)]
        return node_interface.Live(
            date=time.time(),
            uptime_s=self._uptime_s(),
            generation=self._proposer.current.generation,
            state=self._state(),
            connections=sum(worker.connections for worker in workers),
            requests=sum(totals.cells[CellKind.REQUEST].values()),
            responses=responses,
            faults=_by_fault(totals),
            latency=node_interface.Latency(BOUNDS_S, buckets),
            loop_lag_s=max((worker.loop_lag_s for worker in workers), default=0.0),
            workers=workers,
            cache=_by_cache_result(totals),
        )

    def history(self) -> node_interface.History:
        return node_interface.History(EVERY_S, BOUNDS_S, list(self.past.points))

    def routes(self) -> list[node_interface.RouteInfo]:
        totals = self._totals()
        recent = self.past.recent(totals)
        last = self._node_state.words.last_errors.of_routes(
            self._node_state.shared.views, self._exposition.series.slot_table
        )
        faults: dict[str, dict[str, int]] = {}
        for (fault, route, _), count in totals.cells[CellKind.FAULT].items():
            of_route = faults.setdefault(route, {})
            of_route[fault] = of_route.get(fault, 0) + count
        recent_faults: dict[str, dict[str, int]] = {}
        for (route, fault), count in recent.faults.items():
            if count > 0:
                recent_faults.setdefault(route, {})[fault] = count
        requests: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        for (_, route, _, status), count in totals.cells[CellKind.REQUEST].items():
            requests[route] += count
            errors[route] += count if status >= ERRORS else 0
        cached: dict[str, dict[str, int]] = {}
        for (result, route), count in totals.cells[CellKind.CACHE].items():
            cached.setdefault(route, {})[result] = count
        parts = self._current_parts()
        return [
            node_interface.RouteInfo(
                name=route.name,
                listeners=route.listeners,
                hosts=route.hosts,
                paths=route.paths,
                methods=route.methods,
                to=_destination(route),
                filters=parts.filters[route.name],
                requests=requests[route.name],
                errors=errors[route.name],
                p50_s=quantile(totals.routes.get(route.name, ()), 0.5),
                p99_s=quantile(totals.routes.get(route.name, ()), 0.99),
                rate=response_count(recent.routes.get(route.name, ())) / recent.seconds,
                faults=faults.get(route.name, {}),
                recent_faults=recent_faults.get(route.name, {}),
                last_error=_last_error(last.get(route.name)),
                cache=cached.get(route.name, {}),
            )
            for route in self._proposer.config.routes
        ]

    def _of_health(self) -> Mapping[str, OfUpstream]:
        return {} if self.health is None else self.health.upstream_states()

    def upstreams(self) -> list[node_interface.UpstreamInfo]:
        totals, fares = self._totals(), self._of_health()
        wrong = {} if self.health is None else self.health.problems()
        seen = self._snapshot(totals)
        return [
            node_interface.UpstreamInfo(
                name=name,
                algorithm=upstream.load_balancing.algorithm,
                retries=_counted(totals, name, UPSTREAM_RETRIES),
                targets=[self._target(name, target, label, seen, wrong) for target, label in _labelled(upstream)],
                breaker=breaker.value if name in fares and (breaker := fares[name].breaker) is not None else None,
                ejections=_counted(totals, name, UPSTREAM_EJECTIONS),
                breaker_openings=_counted(totals, name, UPSTREAM_OPENINGS),
            )
            for name, upstream in self._current_parts().upstreams.items()
        ]

    def _state_of_upstream(self, name: str) -> UpstreamState:
        upstream, slots = self._current_parts().upstreams.get(name), self._proposer.current.slot_table
        if upstream is None:
            return UpstreamState()
        shared, words, now = self._node_state.shared, self._node_state.words.targets, time.monotonic()
        names = {label: target_name(name, label) for _, label in _labelled(upstream)}
        unhealthy = {
            label
            for label, target in names.items()
            if (slot := slots.targets.get(target)) is not None and words.verdict(shared, slot, now) in SHUNNED
        }
        is_open = False
        if upstream.circuit_breaker is not None and (slot := slots.upstreams.get(name)) is not None:
            is_open = phase_of(words.health.breaker(shared.views, slot), now) is BreakerPhase.OPEN
        drained = {label for label, target in names.items() if target in self.drained.names}
        return UpstreamState(drained, unhealthy, is_open)

    async def consumers(self) -> list[node_interface.ConsumerInfo]:
        return await asyncio.to_thread(_consumers, self._proposer.current.index)

    async def config(self) -> node_interface.Effective:
        current = self._proposer.current
        written = await asyncio.to_thread(config.effective, self._proposer.config)
        return node_interface.Effective(current.generation, current.hash, written)

    # operations

    async def reload(self) -> node_interface.Outcome:
        return await self._proposer.reload("api")

    async def apply(self, text: bytes, suffix: str, dry_run: bool) -> node_interface.Outcome:
        return await self._proposer.apply(text, suffix, dry_run)

    async def put_targets(self, upstream: str, text: bytes, suffix: str) -> node_interface.Outcome:
        return await self._proposer.put_targets(upstream, text, suffix)

    def drain_target(self, upstream: str, target: str, drained: bool) -> node_interface.TargetInfo | None:
        configured = self._current_parts().upstreams.get(upstream)
        found = () if configured is None else [each for each, label in _labelled(configured) if label == target]
        if not found:
            return None
        (self.drained.drain if drained else self.drained.restore)(target_name(upstream, target))
        return self._target(upstream, found[0], target, self._snapshot(self._totals()))

    def config_history(self) -> node_interface.ConfigHistory:
        kept = [
            node_interface.KeptConfiguration(each.generation, each.hash, each.date or None, each.source)
            for each in self._proposer.kept_configurations()
        ]
        return node_interface.ConfigHistory(self._proposer.current.generation, kept)

    async def config_changes(self, generation: int) -> node_interface.ConfigChanges | None:
        try:
            changes = await self._proposer.changes_since(generation)
        except config.ConfigError as error:
            raise ValueError(f"generation {generation} is no longer valid: {error.problems[0]}") from error
        if changes is None:
            return None
        return node_interface.ConfigChanges(generation, self._proposer.current.generation, *changes)

    async def rollback(self, generation: int | None) -> node_interface.Outcome:
        return await self._proposer.rollback(generation)

    def quotas(self, consumer: str | None, keys: Sequence[str]) -> list[node_interface.QuotaInfo]:
        proposer = self._proposer
        index = proposer.current.index
        return limit_report.quota_infos(self._node_state.shared.quotas, proposer.config, index, consumer, keys)

    async def limits(self) -> node_interface.Limits:
        async with self._looking:
            if self._limits is None or time.time() - self._limits.date >= LIMITS_EVERY_S:
                self._limits = await asyncio.to_thread(self._limits_now, self._proposer.config, self._totals())
            return self._limits

    def _limits_now(self, configuration: Config, totals: Totals) -> node_interface.Limits:
        shared = self._node_state.shared
        most = configuration.limits.connections
        connections = sum(column.words[self._node_state.words.connections] for column in shared.columns)
        tables = (
            node_interface.TableUse("connections", connections, most),
            *limit_report.tables(shared.cells, shared.quotas),
        )
        index = self._proposer.current.index
        uses = limit_report.limits(configuration, index, shared.quotas, self._in_flight, totals.filters)
        return node_interface.Limits(time.time(), tables, list(uses))

    async def analytics(self, query: UsageQuery) -> Usage | None:
        return await self.query_analytics(query)

    def reset_quota(self, instance: str, consumer: str | None, keys: Sequence[str]) -> int | None:
        return limit_report.reset(self._node_state.shared.quotas, self._proposer.config, instance, consumer, keys)

    async def explain(self, request: node_interface.RequestToExplain) -> node_interface.Explained:
        return await self.explaining.explain(request)

    def revocations(self) -> node_interface.Revocations:
        return self._revoking.status()

    def has_session_ended(self, mark: bytes) -> bool:
        return self._revoking.has_session_ended(mark)

    def end_session(self, record: bytes, most: int) -> bool:
        return self._revoking.end_session(record, most)

    def revoke(self, records: bytes, about: RevocationEvent) -> node_interface.RevokedEverywhere:
        return self._revoking.revoke(records, about)

    def capturing(self, order: CaptureOrder) -> AbstractAsyncContextManager[CaptureStream]:
        return self.captures.capturing(order)

    async def new_debug_token(self, route: str, seconds: float) -> node_interface.DebugTokenMade | None:
        if route and route not in self._current_parts().filters:
            return None
        token, expires_date = await self.debugging.new_token(route, seconds)
        return node_interface.DebugTokenMade(token, expires_date, route)

    def stories(self) -> list[Story] | None:
        return self.story_store.all()

    def stories_dropped(self) -> int:
        return self.story_store.dropped

    def redaction(self) -> Redaction:
        config = self._proposer.config
        if self._redaction[0] is not config:
            self._redaction = config, Redaction(sorted(secret_names_of(config)))
        return self._redaction[1]

    async def cache(self, most: int) -> node_interface.CacheInfo:
        if self.contents is None:
            return node_interface.CacheInfo((), ())
        info = await self.contents.read(most)
        return replace(info, stores=self._with_reach(info.stores))

    async def purge_cache(self, order: PurgeOrder) -> node_interface.CachePurged | None:
        return await self._cache_purging.purge(order)

    async def begin_recording(self, wanted: node_interface.RecordingWanted) -> node_interface.RecordingBegun | None:
        return await self.recording.begin_recording(wanted, len(self._workers()))

    async def fetch_records(self, recording: str) -> bytes | None:
        return await self.recording.fetch(recording)

    def end_recording(self, recording: str) -> node_interface.RecordingEnded | None:
        return self.recording.end(recording)

    async def order_connection(self, order: ConnectionOrder) -> OrderAnswer:
        return await send_order(order)

    async def record(self, actor: str, action: str, result: str, detail: Mapping[str, str]) -> None:
        await self._auditing.record(actor, action, result, detail)

    def drain(self) -> None:
        self._channel.send(DrainAll(generation=self._proposer.current.generation))

    # --- parts ---

    def _totals(self) -> Totals:
        return self._node_state.words.totals(self._node_state.shared, self._exposition.series)

    def _current_parts(self) -> "Parts":
        if self._parts.config is not self._proposer.config:
            self._parts = Parts(self._proposer.config)
        return self._parts

    def _uptime_s(self) -> float:
        return time.monotonic() - self._node_state.begun_at

    def _state(self) -> node_interface.State:
        return "serving" if self._node_state.words.is_serving(self._node_state.shared) else "draining"

    def _workers(self) -> list[node_interface.Worker]:
        words, shared = self._node_state.words, self._node_state.shared
        found = []
        for index, column in enumerate(shared.columns):
            pid = column.words[words.pid]
            if not pid:
                continue
            seen = process(pid) or UNSEEN
            found.append(
                node_interface.Worker(
                    slot=column.words[words.slot] + 1,
                    pid=pid,
                    generation=column.words[words.generation],
                    state=words.state_of(shared, index),
                    uptime_s=time.monotonic() - column.words[words.began] / 1e9,
                    connections=column.words[words.connections],
                    requests=words.requests_of(column),
                    memory_bytes=seen.resident_bytes,
                    cpu_s=seen.cpu_s,
                    loop_lag_s=words.lag_s(column),
                )
            )
        return sorted(found, key=lambda worker: (worker.slot, worker.uptime_s))

    def _snapshot(self, totals: Totals) -> "Seen":
        last = self._node_state.words.last_errors.of_targets(
            self._node_state.shared.views, self._exposition.series.slot_table
        )
        return Seen(totals, self.past.recent(totals), last)

    def _health(self, name: str, slot: int, seen: "Seen") -> node_interface.Health:
        words, shared = self._node_state.words, self._node_state.shared
        verdict = words.targets.verdict(shared, slot, time.monotonic())
        if verdict is not HealthVerdict.UNKNOWN:
            return HEALTH[verdict]
        failed_last = words.failed_last(shared, self._exposition.series, name, seen.last_errors.get(name))
        return self.past.observed_health(name, seen.totals, failed_last=failed_last)

    def _target(
        self, upstream: str, target: Target, label: str, seen: "Seen", wrong: Mapping[str, str] = NONE
    ) -> node_interface.TargetInfo:
        """Return the state of a target. `wrong`: errors of health checks, by the target's name."""
        words, shared = self._node_state.words.targets, self._node_state.shared
        name = target_name(upstream, label)
        slot = self._proposer.current.slot_table.targets.get(name)
        if slot is None:
            return node_interface.TargetInfo(str(target.url), target.weight, "unknown", 0, 0, 0, label=label)
        row, lately = seen.totals.targets.get(name, UNCOUNTED), seen.recent.targets.get(name, UNCOUNTED)
        errors, recent_errors = target_errors(row), target_errors(lately)
        return node_interface.TargetInfo(
            url=str(target.url),
            weight=target.weight,
            priority=target.priority,
            drained=not target.weight or name in self.drained.names,
            health=self._health(name, slot, seen),
            in_use=shared.total(words.in_use + slot),
            idle=shared.total(words.idle + slot),
            waiting=shared.total(words.waiting + slot),
            problem=wrong.get(name, ""),
            label=label,
            requests=_attempts(row),
            errors=errors,
            rate=_attempts(lately) / seen.recent.seconds,
            recent_errors=recent_errors,
            p50_s=quantile(lately, 0.5),
            p99_s=quantile(lately, 0.99),
            last_error=_last_error(seen.last_errors.get(name)),
        )

    def _reloads(self) -> node_interface.Reloads:
        words, own = self._node_state.words, self._node_state.shared.supervisor.words
        return node_interface.Reloads(
            ok=own[words.reloads_ok],
            failed=own[words.reloads_failed],
            last_success=not own[words.last_reload_failed] and not self._proposer.kept_files,
            last=[_reload(record) for record in reversed(self._proposer.records)],
        )


class Seen(NamedTuple):
    """Snapshot of the state of all targets."""

    totals: Totals
    recent: Recent
    last_errors: Mapping[str, LastErrorEntry]


class Parts:
    """Facts derived from a configuration, each computed once."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @cached_property
    def filters(self) -> Mapping[str, Sequence[str]]:
        """Return, by route, the names of the filters that run for it, in running order; of all its listeners."""
        named = {}
        for route in self.config.routes:
            uses = [running(self.config, listener, route) for listener in route.listeners or self.config.listeners]
            named[route.name] = [*dict.fromkeys(use.name for on_listener in uses for use in on_listener)]
        return named

    @cached_property
    def upstreams(self) -> Mapping[str, Upstream]:
        """Return the upstreams by name; the name of an upstream for a URL is the URL."""
        urls = {
            str(each): each
            for route in self.config.routes
            for each in (*route.destinations, *route.part_destinations)
            if isinstance(each, Url)
        }
        return {**self.config.upstreams, **{name: Upstream(targets=(Target(url=url),)) for name, url in urls.items()}}


def _attempts(row: Sequence[int]) -> int:
    """Counts of a target: responses, and failures without one."""
    return response_count(row) + sum(row[word] for word in TARGET_FAULT_WORDS.values())


def _last_error(error: LastErrorEntry | None) -> node_interface.LastError | None:
    return None if error is None else node_interface.LastError(error.date, error.fault, error.reason)


def _labelled(upstream: Upstream) -> Iterator[tuple[Target, str]]:
    return zip(upstream.targets, labels_of(target.url for target in upstream.targets), strict=True)


def _by_cache_result(totals: Totals) -> Mapping[str, int]:
    found: Counter[str] = Counter()
    for (result, _), count in totals.cells[CellKind.CACHE].items():
        found[result] += count
    return found


def _by_fault(totals: Totals) -> Counter[str]:
    found: Counter[str] = Counter()
    for (fault, _, _), count in totals.cells[CellKind.FAULT].items():
        found[fault] += count
    return found


def _counted(totals: Totals, upstream: str, word: int) -> int:
    row = totals.upstreams.get(upstream)
    return 0 if row is None else row[word]


async def _no_analytics(query: UsageQuery) -> Usage | None:
    return None


def _consumers(index: Index) -> list[node_interface.ConsumerInfo]:
    return [
        node_interface.ConsumerInfo(
            name=each.name,
            groups=each.groups,
            keys=each.keys,
            passwords=each.passwords,
            subjects=each.subjects,
            certificates=each.certificates,
            signing_keys=each.signing_keys,
        )
        for each in index.known()
    ]


def _destination(route: Route) -> str:
    """Describe the destination of requests on a route, in a word."""
    if route.respond is not None:
        return f"respond {route.respond.status}"
    if route.redirect is not None:
        return f"redirect {route.redirect.status}"
    if route.files is not None:
        return f"files {route.files.root}"
    if route.lambda_ is not None:
        return f"lambda {route.lambda_.function}"
    if route.websocket_api is not None:
        return f"websocket_api {', '.join(map(str, route.websocket_api.destinations))}"
    if route.compose is not None:
        return f"compose {', '.join(map(str, route.compose.destinations))}"
    if route.variants:
        return ", ".join(f"{each.label} {each.weight}" for each in route.variants)
    if isinstance(route.upstream, Mapping):
        return ", ".join(f"{name} {share}" for name, share in route.upstream.items())
    return str(route.upstream)


def _reload(record: ReloadRecord) -> node_interface.Reload:
    return node_interface.Reload(
        record.generation, record.date, record.ok, record.source, record.summary, record.problems
    )
