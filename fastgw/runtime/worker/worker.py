"""Worker: a process that serves requests. It accepts on the sockets that the supervisor assigns, and follows its
messages.

Signals are handled by the supervisor: a terminal or a service manager sends them to every process of the group, and the
worker follows the messages on its channel. When the channel closes, the supervisor has ended, and the worker ends too.
"""

import asyncio
import faulthandler
import gc
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from time import monotonic
from types import MappingProxyType
from typing import Any, Final

import msgspec

from fastgw.cache.shared.layout import CacheMemory, OtherCacheLayout
from fastgw.cache.tiers.node_stores import StoreHandles
from fastgw.capture.log_bodies import LogBodies
from fastgw.config.sources.followed_files import use_contents
from fastgw.downstream import Listener, Server
from fastgw.downstream.tls.on_demand import OnDemandCertificates
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.filters.api import Services
from fastgw.gateway.compiler import building
from fastgw.gateway.tables import Gateway, drained_now
from fastgw.kernel import run_when_woken
from fastgw.observe.observer import Observer
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.operator_log import RareNotice, configure, described
from fastgw.routing.table import Steps, at_once
from fastgw.runtime.ipc.channel import (
    Abort,
    Adopt,
    AnnouncePurge,
    AnyMessage,
    Capture,
    CertificateRequest,
    Channel,
    ChannelClosed,
    ChannelFull,
    Columns,
    Commit,
    ControlAway,
    Drain,
    Drained,
    FeedRefreshRequest,
    FeedUpdate,
    GenerationCommitted,
    Prepare,
    Prepared,
    Ready,
    Release,
    ReloadRefused,
    Reopen,
    Revoke,
    SendDisconnects,
    Sockets,
    Stop,
    UseCache,
    UseTargets,
    UseWaker,
    Watch,
)
from fastgw.runtime.ipc.feed_values import RETRY_S, read_memfd, write_memfd
from fastgw.runtime.ipc.published_feed import PublishedFeed
from fastgw.runtime.node.cache_stores import column_of, disk_of, expires, store_settings
from fastgw.runtime.node.config_snapshot import TargetChange
from fastgw.runtime.node.heartbeat import WorkerHeartbeat
from fastgw.runtime.node.metrics import Exposition
from fastgw.runtime.node.node_state import NodeState
from fastgw.runtime.process.event_loop import run_child_loop
from fastgw.runtime.process.fallback_probes import Probes
from fastgw.runtime.process.machine_capacity import verify_spare_files
from fastgw.runtime.process.stack_dump import register_stack_dump
from fastgw.runtime.worker.accepting_sockets import AcceptingSockets
from fastgw.runtime.worker.acceptor import Acceptor
from fastgw.runtime.worker.address_sharing import AddressSharing
from fastgw.runtime.worker.captures import RunningCaptures
from fastgw.runtime.worker.observed_listeners import ObservedListeners
from fastgw.runtime.worker.recording import WorkerRecording
from fastgw.runtime.worker.sliced_work import Slices
from fastgw.runtime.worker.table_swap import TableSwap
from fastgw.runtime.worker.trace_export import TraceExports
from fastgw.shm.connection_journal import ConnectionJournal
from fastgw.shm.node_queue import WorkerBell
from fastgw.shm.wakers import WakeReader, WakeReason
from fastgw.sync import acme_challenges, drained_targets, known_addresses, ocsp_responses, on_demand
from fastgw.sync.cache_purges import PurgeOrder
from fastgw.sync.feeds import Feeds
from fastgw.sync.revocations import RevocationEvent
from fastgw.upstream.client.http_client import Fetcher
from fastgw.upstream.client.log_collector import LogCollector
from fastgw.upstream.targets.dns import node_addresses
from fastgw.websocket_api.lost_connections import LostConnections

THREAD_TURN_S: Final = 0.0005
"""How long a thread may hold the lock of the interpreter while the event loop waits for it.

PERF: the loop waits up to 1.4 ms for a thread in which `waf` reads 128 KiB of quotation marks, 9.6 with 5 ms, which is
the default (CPython 3.11)."""
YOUNG_OBJECTS: Final = 5_000
"""Number of new objects after which the garbage collector looks for cycles among them.

PERF: with 700, the default, it walked the objects of the requests in flight, which have none, again and again: 1 to 2 %
of the time of compositions on 64 connections (CPython 3.11, bench.compose, perf).
"""
PUBLISH_EVERY: Final = 1.0
"""Seconds between two reports of the load of the targets, and of the connections of WebSocket APIs."""
SUCCESSION_S: Final = 1.0
"""Seconds for which requests wait for the next control process."""
SHORT: Final = "sockets could not be handed over: too many open files; raise the limit (ulimit -n)"
ROOM: Final = 16
"""Idle upstream connections that are closed for the descriptors of a helper process or of a reload."""
FLUSH_S: Final = 2.0
"""Seconds for which the logs may be written after a drain."""
FLUSH_NOW_S: Final = 0.3
"""Seconds for which the logs may be written if the worker has to stop at once."""


@dataclass(frozen=True)
class WorkerBootstrap:
    """Initial data of a worker."""

    slot: int
    column: int
    node_state: NodeState
    journal: int = -1
    """Descriptor of its connection journal; -1: no other process would read it."""

    def gateway(self) -> Gateway:
        """The tables of the active generation: compiled before the fork, or built here."""
        node_state = self.node_state
        if node_state.sealed.generation == node_state.compiled:
            return node_state.gateway
        accepted = node_state.sealed.whole()
        use_contents(accepted.captured)
        gateway = at_once(building(accepted.plan, accepted.workers, None))
        gateway.slot_table = accepted.slot_table
        for name, table in gateway.tables.items():
            before = node_state.gateway.tables.get(name)
            if table.tls is not None and before is not None and before.tls is not None:
                table.tls.take_over_from(before.tls)
        return gateway


class Worker:
    """State of one worker process, created after the fork."""

    def __init__(self, bootstrap: WorkerBootstrap, gateway: Gateway, channel: Channel) -> None:
        loop = self._loop = asyncio.get_running_loop()
        node_state, words = bootstrap.node_state, bootstrap.node_state.words
        self._slot = bootstrap.slot
        self._words = words
        self._shared = node_state.shared
        self._column = node_state.shared.columns[bootstrap.column]
        self._channel = channel
        journal = ConnectionJournal(bootstrap.journal) if bootstrap.journal >= 0 else None
        self._worker_loop = WorkerLoop(loop, words.held_body_budget(self._column), journal)
        self._worker_loop.make_room = self._make_room
        self._lost: set[LostConnections] = set()
        self._feeds = Feeds(node_state.feeds, self._request_feed)
        column, wakers = column_of(bootstrap.column), node_state.wakers
        self._caches = StoreHandles(column, loop, node_state.caches, wakers, expires)
        bell = WorkerBell(wakers)
        self._wake_reader = WakeReader(column, loop, wakers)
        self._wake_reader.listen(WakeReason.CACHE, self._caches.due)
        self._wake_reader.listen(WakeReason.POOL, bell.due)
        self._log_bodies = LogBodies()
        self._observer = Observer(
            logs=gateway.config.access_logs,
            column=words.counted(self._column),
            series=gateway.series,
            note=partial(words.last_errors.note_route, self._column),
            plan=gateway.config.telemetry.meter_plan,
            call_collector=LogCollector,
            take_bodies=self._log_bodies.take_bodies,
        )
        self._services = Services(
            self._worker_loop,
            Fetcher(self._worker_loop),
            self._feeds,
            node_state.shared.cells,
            self._column.in_flight(),
            node_state.run_key,
            lambda: self._table_swap.gateway.workers,
            lambda name: self._table_swap.gateway.upstreams.get(name),
            node_state.shared.quotas,
            self._control_has_left,
            lambda: self._table_swap.generation,
            self._feed_others,
            self._caches.get,
            self._announce_purge,
            bell,
            bootstrap.slot,
            self._observer.count_validation,
            self._observer.count_cache_miss,
            self._observer.log_message,
            lambda future: self._table_swap.wait_for(future),
        )
        gateway.stock.roster.share_revocations(node_state.revoked, self._revoke)
        self._traces = TraceExports(self._services.fetcher, self._observer)
        self._traces.adopt(gateway)
        self._server = Server(
            self._worker_loop,
            gateway,
            self._observer,
            words.connection_limit(self._column, gateway.limits),
            words.address_limit(self._column, gateway.limits),
            words.handshake_counts(self._column),
            node_state.tickets,
            words.session_limit(self._column, gateway.limits),
            words.eviction_counts(self._column),
            words.session_address_limit(self._column, gateway.limits),
        )
        self._server.tracer = self._traces.tracer
        self._server.complain = RareNotice()
        self._on_demand = OnDemandCertificates(loop, self._feeds[on_demand.FEED], self._request_certificate)
        self._slices = Slices(loop)
        self._table_swap = TableSwap(
            self._slices, gateway, node_state.sealed.generation, self._starting, self._prepared, self._refused
        )
        self._observed = ObservedListeners(lambda: self._table_swap.gateway)
        self._observe_log_bodies(gateway)
        self._recording = WorkerRecording(loop, self._feeds, self._observed)
        addresses = PublishedFeed(
            channel, known_addresses.FEED, lambda: self._table_swap.generation, node_addresses.written
        )
        self._address_sharing = AddressSharing(loop, node_addresses, self._feeds, addresses.publish)
        self._acceptor = Acceptor(loop, self._server)
        self._standing = AcceptingSockets(self._acceptor, node_state.endpoints, node_state.listeners, gateway.listeners)
        self._captures = RunningCaptures(self._observed, self._observer, node_state.run_key)
        self._heart = WorkerHeartbeat(loop, words, self._column)
        self._probes = Probes(
            loop,
            lambda: words.is_ready(self._shared),
            lambda accept: Exposition(
                self._table_swap.gateway.series,
                self._shared,
                words,
                node_state.begun_date,
                node_state.begun_at,
                caches=lambda: self._caches.numbers(store_settings(self._table_swap.gateway.config)),
                plan=lambda: self._table_swap.gateway.config.telemetry.meter_plan,
            ).text(accept),
            lambda: self._table_swap.gateway.config.status,
        )
        self._ended: asyncio.Future[None] = loop.create_future()
        self._drain: asyncio.Task[None] | None = None
        self._is_short = False  # it has missed sockets, and will be replaced
        self._control_gone_at = inf  # monotonic seconds since which control is unavailable
        self._orders: Mapping[type[AnyMessage], Callable[[Any], object]] = MappingProxyType(
            {
                Adopt: lambda order: self._standing.accept_for_slot(order.slot),
                Release: lambda order: self._standing.leave_slot(order.slot),
                Sockets: lambda order: self._standing.add(order, channel.take_descriptors()),
                UseCache: self._use_cache,
                Columns: lambda order: self._shared.widen(order.count),
                UseWaker: lambda order: node_state.use_waker(order.column, channel.take_descriptors()),
                Prepare: self._prepare,
                Commit: self._commit,
                Abort: lambda order: self._abort(),
                UseTargets: self._use_targets,
                Watch: lambda order: self._probes.watch(channel.take_descriptors()),
                ControlAway: self._note_control,
                FeedUpdate: lambda order: self._feeds.deliver(order.key, read_memfd(*channel.take_descriptors())),
                Revoke: lambda order: self._table_swap.gateway.stock.roster.merge_revocations(order.records),
                Capture: lambda order: self._captures.handle(order, channel.take_descriptors()),
                SendDisconnects: self._send_disconnects,
                Reopen: lambda order: self._observer.reopen(),
                Drain: self._begin_drain,
                Stop: lambda order: self._end(),
            }
        )

    async def serve(self) -> None:
        """Serve until the supervisor requests the end."""
        self._loop.set_exception_handler(_log_unforeseen)
        self._observer.start()
        self._worker_loop.start()
        self._caches.use_redis(self._table_swap.gateway.cache_redis)
        self._address_sharing.start()
        self._table_swap.gateway.start(self._services, self._column)
        self._words.enter(self._column, self._slot)
        self._words.count_tokens(self._column)
        self._words.report_state(self._column)
        self._heart.start()
        self._publish()
        self._feeds[drained_targets.FEED].on_change(self._drain_targets)
        self._recording.start()
        self._feeds[acme_challenges.FEED].on_change(self._answer_challenges)
        self._answer_challenges(self._feeds[acme_challenges.FEED].value)
        responses = self._feeds[ocsp_responses.FEED]
        responses.on_change(self._server.use_ocsp_responses)
        self._server.use_ocsp_responses(responses.value)
        self._on_demand.use_configuration(self._table_swap.gateway.config.acme)
        self._server.on_demand = self._on_demand
        if not self._words.is_serving(self._shared):  # a start or a preflight, which it refuses by this
            verify_spare_files()
        self._loop.add_reader(self._channel, self._receive_orders)
        self._table_swap.once_ready(self._tell_ready)
        try:
            await self._ended
        finally:
            self._loop.remove_reader(self._channel)
            for lost in self._lost:
                lost.stop()
            if self._worker_loop.journal is not None:
                self._worker_loop.journal.close()  # first: requests that are broken off now are not done
            self._slices.stop()
            self._captures.stop()
            self._probes.watch([])
            self._on_demand.stop()
            self._server.stop()
            self._recording.stop()
            self._address_sharing.stop()
            self._table_swap.gateway.stop()
            await self._traces.stop(FLUSH_S if self._drain is not None else FLUSH_NOW_S)
            self._services.fetcher.stop()
            self._wake_reader.close()
            self._caches.close()
            self._worker_loop.close()
            self._observer.stop(FLUSH_S if self._drain is not None else FLUSH_NOW_S)

    def _tell_ready(self) -> None:
        """Tell that this worker can accept: until then connections wait in the queue of their socket."""
        if self._ended.done() or self._drain is not None:
            return
        if self._words.is_current(self._shared, self._table_swap.generation):  # otherwise it has to catch up first
            self._words.serve(self._column, self._table_swap.generation)  # readiness also depends on the supervisor
        with suppress(ChannelClosed):  # the supervisor has ended, and so does this worker
            self._channel.send(Ready(generation=self._table_swap.generation))

    def _use_cache(self, order: UseCache) -> None:
        for descriptor in self._channel.take_descriptors():
            try:
                memory = CacheMemory(order.memory, descriptor)
                self._caches.open_store(order.name, memory, order.most_bytes, disk_of(order), redis=order.redis)
            except (OSError, MemoryError, OtherCacheLayout) as error:
                self._is_short = True  # it serves without the cache until it is replaced
                self._refused(order.generation, f"the memory of a cache cannot be used: {error}", True)

    def _send_disconnects(self, order: SendDisconnects) -> None:
        for descriptor in self._channel.take_descriptors():
            journal = ConnectionJournal(descriptor)
            lost = LostConnections(self._worker_loop, journal, self._find_action, self._server, self._lost.discard)
            self._lost.add(lost)
            lost.start()

    def _find_action(self, route: str, listener: str) -> tuple[Listener, Any] | None:
        found = self._table_swap.gateway.find_route(route, listener)
        return None if found is None else (found[0], found[1].action)

    def _request_feed(self, key: str, seen: bytes) -> None:
        with suppress(ChannelClosed):  # if the supervisor cannot receive it, the next request repeats it
            self._channel.send(FeedRefreshRequest(generation=self._table_swap.generation, key=key, seen=seen))

    def _request_certificate(self, name: str) -> None:
        with suppress(ChannelClosed):  # if the supervisor cannot receive it, a later handshake repeats it
            self._channel.send(CertificateRequest(generation=self._table_swap.generation, name=name))

    def _note_control(self, order: ControlAway) -> None:
        self._control_gone_at = min(self._control_gone_at, monotonic()) if order.away else inf

    def _control_has_left(self) -> bool:
        return monotonic() - self._control_gone_at >= SUCCESSION_S

    def _feed_others(self, key: str, value: bytes) -> None:
        descriptor = write_memfd(value)
        try:
            self._channel.send(FeedUpdate(generation=self._table_swap.generation, key=key), [descriptor])
        except ChannelClosed:
            pass  # other processes detect it themselves
        finally:
            os.close(descriptor)

    def _revoke(self, records: bytes, about: RevocationEvent) -> None:
        """Publish a revocation of this worker to the node."""
        try:
            self._channel.send(Revoke(generation=self._table_swap.generation, records=records, events=[about]))
        except ChannelFull:
            self._loop.call_later(RETRY_S, self._revoke, records, about)
        except ChannelClosed:
            pass  # the supervisor has ended, so this process ends too

    def _announce_purge(self, order: PurgeOrder) -> None:
        try:
            self._channel.send(AnnouncePurge(generation=self._table_swap.generation, order=order))
        except ChannelFull:
            self._loop.call_later(RETRY_S, self._announce_purge, order)
        except ChannelClosed:
            pass  # the supervisor has ended, so this process ends too

    def _make_room(self) -> bool:
        """Close some idle upstream connections, because there are no descriptors left. False: there are none."""
        pools = [upstream.pool for gateway in self._table_swap.gateways() for upstream in gateway.upstreams.values()]
        left = ROOM
        for pool in pools:
            left -= pool.close_idle(left)
        return left < ROOM

    def _drain_targets(self, value: bytes) -> None:
        """Drain targets, also for requests that use previous tables and wait in a filter."""
        for gateway in self._table_swap.gateways():
            gateway.drain(drained_targets.read(value))

    def _answer_challenges(self, value: bytes) -> None:
        """Answer these ACME challenges, and tell control that this worker does: filters have them from this feed."""
        challenges = acme_challenges.read(value)
        self._server.answer_challenges(challenges.tls)
        self._column.words[self._words.challenges] = challenges.turn

    def _publish(self) -> None:
        """Report the load of the targets, and the connections of WebSocket APIs, at intervals."""
        websockets = self._worker_loop.connections.by_route
        steps = self._words.publishing(self._column, self._table_swap.gateway, websockets)

        def again(_: object) -> None:
            self._loop.call_later(PUBLISH_EVERY, self._publish)

        self._slices.run(steps, again, again)

    def _receive_orders(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                if self._channel.has_lost_descriptors and not isinstance(message, UseWaker):
                    self._is_short = not isinstance(message, Prepare)  # a missed `Prepare` is repeated
                    self._refused(message.generation, SHORT, True)
                else:
                    self._orders[type(message)](message)
        except ChannelClosed:
            self._end()

    # --- reload ---

    def _starting(self, gateway: Gateway) -> Steps[None]:
        return gateway.starting(self._services, self._column)

    def _prepare(self, order: Prepare) -> None:
        if self._is_short:
            self._refused(order.generation, SHORT, True)
        else:
            self._table_swap.prepare(order, *self._channel.take_descriptors())

    def _prepared(self, generation: int) -> None:
        self._channel.send(Prepared(generation=generation))

    def _refused(self, generation: int, why: str, passing: bool = False) -> None:
        if passing:  # mostly a lack of descriptors; the reload is tried again
            self._make_room()
        self._channel.send(ReloadRefused(generation=generation, why=why, passing=passing))

    def _commit(self, order: Commit) -> None:
        """Swap the tables in one iteration of the event loop, between two requests."""
        committed = self._table_swap.commit(order.generation)
        if committed is None:
            self._refused(order.generation, "it is not prepared")
            return
        gateway, prepare = committed
        self._caches.use_redis(gateway.cache_redis)
        gateway.drain(drained_now(self._services))
        configure(gateway.config.log)
        words, column, limits = self._words, self._column, gateway.limits
        placed = dict(zip(gateway.tables, prepare.listeners, strict=True))
        self._standing.accept_queued(placed)
        self._observer.adopt(gateway.config.access_logs, gateway.series, gateway.config.telemetry.meter_plan)
        self._traces.adopt(gateway)
        gateway.stock.roster.use_index(gateway.index)
        node_limits = words.connection_limit(column, limits), words.address_limit(column, limits)
        session_limits = words.session_limit(column, limits), words.session_address_limit(column, limits)
        self._server.adopt(gateway, *node_limits, *session_limits)
        self._slices.run(self._worker_loop.connections.following_reload(), lambda _: None, _log_unnotified)
        self._server.tracer = self._traces.tracer
        self._observe_log_bodies(gateway)
        self._on_demand.use_configuration(gateway.config.acme)
        self._observed.use_tables()
        if self._drain is None:  # otherwise nothing is accepted any more
            self._standing.serve(gateway.listeners, placed)
            self._words.serve(column, order.generation)
        self._channel.send(GenerationCommitted(generation=order.generation))

    def _use_targets(self, order: UseTargets) -> None:
        """Replace the targets of some upstreams, between two requests."""
        for descriptor in self._channel.take_descriptors():
            change = msgspec.msgpack.decode(read_memfd(descriptor), type=TargetChange)
            if order.generation == self._table_swap.generation:  # otherwise it prepares a later document
                gateway = self._table_swap.gateway
                slot_table = change.slots_in(gateway.slot_table)
                gateway.use_targets(change.upstreams(), slot_table, (self._worker_loop, self._column))
                gateway.drain(drained_now(self._services))

    def _observe_log_bodies(self, gateway: Gateway) -> None:
        """Observe the requests whose bodies the access logs show."""
        self._observed.remove(self._log_bodies)
        if self._log_bodies.use_logs(gateway.config.access_logs):
            self._observed.add(self._log_bodies)

    def _abort(self) -> None:
        self._table_swap.abort()
        self._standing.close_unused()

    # end

    def _begin_drain(self, order: Drain) -> None:
        if self._drain is None:
            self._words.set_leaving(self._column)
            self._drain = self._loop.create_task(self._finish(order))

    async def _finish(self, limits: Drain) -> None:
        try:
            draining = self._loop.create_task(self._server.drain(limits.requests_s, limits.tunnels_s))
            await asyncio.sleep(0)  # it has begun: callers may rely on that
            await self._acceptor.end(set() if limits.handed_over else self._standing.closable())
            summary = await draining
            if self._server.connections:  # accepted from the queue after the drain had nothing to wait for
                summary = await self._server.drain(limits.requests_s, limits.tunnels_s)
            self._channel.send(Drained(generation=limits.generation, drained=summary.drained, cut=summary.cut))
        finally:
            self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


def _log_unnotified(error: BaseException) -> None:
    log_event(OperatorEvent.DEFECT, "connections could not follow a reload", error=error)


def _log_unforeseen(loop: asyncio.AbstractEventLoop, report: dict[str, Any]) -> None:
    """Log an uncaught exception of a callback in one line. The event loop continues."""
    error = report.get("exception")
    log_event(
        OperatorEvent.DEFECT,
        "%s%s",
        report["message"],
        f": {described(error)}" if isinstance(error, BaseException) else "",
    )


def run_worker(bootstrap: WorkerBootstrap, channel: Channel) -> None:
    """Run a worker process, after the fork, until it ends."""
    run_when_woken()
    sys.setswitchinterval(THREAD_TURN_S)
    gc.set_threshold(YOUNG_OBJECTS)
    faulthandler.enable(2)
    register_stack_dump()
    gateway = bootstrap.gateway()

    async def live() -> None:
        await Worker(bootstrap, gateway, channel).serve()

    run_child_loop(live())
