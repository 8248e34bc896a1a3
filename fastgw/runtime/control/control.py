"""The control process: it serves the admin API, and reads and checks new configurations, outside the data path.

Workers never wait for it; if it dies it is replaced, and begins with the active configuration.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from importlib import import_module
from math import inf
from types import MappingProxyType
from typing import Any, Final

from fastgw.admin.dashboard import page
from fastgw.admin.status_server import StatusPages
from fastgw.cache.shared.layout import CONTROL, CacheMemory
from fastgw.cache.tiers.node_stores import StoreHandles
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.settings.gateway import Admin
from fastgw.config.sources.files import pattern_in
from fastgw.downstream.tls.contexts import files_of, server_context
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.observe.access_log.formats import Mask
from fastgw.observe.access_log.secret_names import masker
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import configure, described, notice
from fastgw.runtime.control import statsd
from fastgw.runtime.control.acme.issuing import Issuing
from fastgw.runtime.control.analytics import Analytics
from fastgw.runtime.control.auditing import Auditing
from fastgw.runtime.control.cache_contents import CacheContents
from fastgw.runtime.control.cache_purging import CachePurging
from fastgw.runtime.control.discovery.followed_sources import FollowedSources
from fastgw.runtime.control.feed_runner import FeedRunner
from fastgw.runtime.control.health_checker import Checks
from fastgw.runtime.control.kubernetes.cluster_controller import ClusterControl
from fastgw.runtime.control.kubernetes.kyma_control import Watching
from fastgw.runtime.control.metric_push import MetricPush
from fastgw.runtime.control.node_view import NodeView
from fastgw.runtime.control.ocsp_stapling import OcspStapling
from fastgw.runtime.control.revocation import Revoking
from fastgw.runtime.control.sharing.shared_stream import shared_state
from fastgw.runtime.ipc.channel import (
    AnnouncePurge,
    AnyMessage,
    CertificateRequest,
    Channel,
    ChannelClosed,
    ChannelFull,
    Columns,
    FeedRefreshRequest,
    FeedUpdate,
    Ready,
    ReloadRequest,
    ReloadResult,
    Revoke,
    Stop,
    UseCache,
    UseWaker,
)
from fastgw.runtime.ipc.feed_values import RETRY_S, write_memfd
from fastgw.runtime.node.cache_stores import LeftDirectories, disk_of, expires, redis_of, store_settings
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.node.heartbeat import ControlHeartbeat
from fastgw.runtime.node.node_state import NodeState
from fastgw.runtime.node.purge_persistence import purge_file
from fastgw.runtime.node.quota_persistence import QuotaKeeper
from fastgw.runtime.process.event_loop import run_child_loop
from fastgw.runtime.process.fallback_probes import status_server
from fastgw.runtime.process.lasting_tasks import keep_running
from fastgw.runtime.process.stack_dump import register_stack_dump
from fastgw.runtime.process.transient_errors import RetryBackoff, is_passing
from fastgw.runtime.reload.file_watch import LOOK_EVERY, FileWatch, SourceWatch
from fastgw.runtime.reload.proposer import Proposer
from fastgw.shm.wakers import WakeReader, WakeReason
from fastgw.sync import debugging, known_addresses, recordings
from fastgw.sync.feeds import MOST_BYTES
from fastgw.upstream.client.http_client import Fetcher
from fastgw.upstream.targets.dns import node_addresses

STILL_AFTER: Final = 10
"""Number of checks after which files that keep changing are taken as they are."""
NICENESS: Final = 5
"""Scheduling priority (nice) of workers over it when the processor is busy."""


def run_control(node_state: NodeState, channel: Channel) -> None:
    """Run the control process, after the fork, until it has to stop."""
    register_stack_dump()
    with suppress(PermissionError):  # a systemd unit may forbid it
        os.nice(NICENESS)

    async def live() -> None:
        await Control(node_state, channel).serve()

    run_child_loop(live())


def import_admin() -> None:
    """Import the modules of the admin listener before the fork: a later control process then starts like the first one,
    regardless of changes to the installed packages."""
    # uvicorn imports the last one when it starts to serve.
    for module in (
        "fastgw.admin.authorization",
        "fastgw.admin.api",
        "fastgw.runtime.control.admin_listener",
        "uvicorn.lifespan.off",
    ):
        import_module(module)
    page()  # files are read on the first call


class Control:
    """State of the control process."""

    def __init__(self, node_state: NodeState, channel: Channel) -> None:
        self._node_state = node_state
        self._channel = channel
        self._proposer = Proposer(node_state, channel)
        self._worker_loop = WorkerLoop(asyncio.get_running_loop())
        self._fetcher = Fetcher(self._worker_loop)
        self._feeding = FeedRunner(channel, self._fetcher, node_state.feeds)
        self._feeding.look_at_files = self._look_at_files
        self._look_now = asyncio.Event()
        self._lookers: list[asyncio.Future[None]] = []
        self._auditing = Auditing()
        self._analytics = Analytics(node_state)
        self._revoking = Revoking(node_state, channel)
        loop = asyncio.get_running_loop()
        self._caches = StoreHandles(CONTROL, loop, node_state.caches, node_state.wakers, expires)
        WakeReader(CONTROL, loop, node_state.wakers).listen(WakeReason.CACHE, self._caches.due)
        self._left_directories = LeftDirectories(node_state.caches.claims.held)
        self._purge_file = purge_file(node_state.run_key)
        self._cache_purging = CachePurging(
            self._caches.get,
            lambda: store_settings(self._proposer.current.settings),
            lambda: self._proposer.config,
            self._tell_supervisor,
            node_state.purges,
            self._purge_file,
        )
        self._view = NodeView(node_state, channel, self._proposer, self._revoking, self._cache_purging, self._auditing)
        self._pushing = MetricPush(node_state, self._view.exposition, self._fetcher)
        self._proposer.on_accept = self._prepare_names
        self._watching = Watching(self._apply_applications)
        self._issuing = Issuing(node_state, channel, self._fetcher, self._look_at_files)
        self._view.acme, self._view.on_demand = self._issuing.infos, self._issuing.on_demand_info
        self._stapling = OcspStapling(node_state, channel, self._fetcher)
        self._view.ocsp = self._stapling.infos
        self._view.explaining.why_not_ordered = self._issuing.on_demand.why_not_ordered
        self._followed = FollowedSources(self._look_at_files)
        self._cluster = ClusterControl(self._proposer.apply_watched_objects)
        self._view.feeds = lambda: [
            *self._feeding.feed_infos(),
            *self._watching.feed_infos(),
            *self._cluster.feed_infos(),
            *self._followed.feed_infos(),
        ]
        self._checks = Checks(self._worker_loop, node_state.shared, node_state.words.targets.health)
        self._view.health = self._checks
        self._quotas = QuotaKeeper(node_state.shared.quotas, node_state.run_key)
        self._view.analytics_info = lambda: self._analytics.info
        self._view.query_analytics = self._analytics.query
        self._view.quota_file = lambda: self._quotas.file_info
        self._view.contents = CacheContents(
            self._caches, lambda: store_settings(self._proposer.current.settings), self._mask_urls
        )
        self._view.caches = lambda: self._caches.numbers(store_settings(self._proposer.current.settings))
        self._tasks: set[asyncio.Task[Any]] = set()
        self._admin: asyncio.Task[None] | None = None
        self._stop_requested = asyncio.Event()
        self._orders: Mapping[type[AnyMessage], Callable[[Any], object]] = MappingProxyType(
            {
                ReloadRequest: lambda order: self._start_task(self._proposer.reload("signal")),
                ReloadResult: self._proposer.on_outcome,
                FeedRefreshRequest: lambda order: self._feeding.refresh_requested(order),
                CertificateRequest: lambda order: self._issuing.on_demand.requested(order.name),
                Revoke: self._was_revoked,
                AnnouncePurge: self._cache_purging.purge_recorded,
                UseCache: self._use_cache,
                Columns: lambda order: node_state.shared.widen(order.count),
                UseWaker: lambda order: node_state.use_waker(order.column, channel.take_descriptors()),
                Stop: lambda order: self._stop_requested.set(),
            }
        )

    def _tell_supervisor(self, message: AnyMessage) -> bool:
        """Send a message. False: that is not possible now."""
        try:
            self._channel.send(message)
        except ChannelClosed:
            return False
        return True

    async def _apply_applications(self, name: str) -> bool:
        return (await self._proposer.apply_watched_objects(name)).is_tried

    def _was_revoked(self, order: Revoke) -> None:
        self._revoking.revocation_received(order)
        for event in order.events:
            self._auditing.revoked(event)

    def _prepare_names(self, accepted: ConfigSnapshot) -> None:
        """Add the names of a generation before it is committed."""
        self._view.prepare_names(accepted)
        self._pushing.prepare(accepted.slot_table)

    def _use_cache(self, order: UseCache) -> None:
        for descriptor in self._channel.take_descriptors():
            memory = CacheMemory(order.memory, descriptor)
            self._caches.open_store(order.name, memory, order.most_bytes, disk_of(order), redis=order.redis)

    async def serve(self) -> None:
        """Serve until it has to stop; then answer the requests in flight."""
        loop = asyncio.get_running_loop()
        ControlHeartbeat(loop, self._node_state.words, self._node_state.shared).beat()
        self._worker_loop.start()
        node_addresses.merge(self._node_state.feeds.get(known_addresses.FEED, b""))
        self._feed(self._proposer.current)
        self._start_task(keep_running("purges of caches", self._cache_purging.run))
        # Without a claim of the supervisor it has not read the file.
        is_read = self._node_state.quota_claim is not None
        self._quotas.use_configuration(self._proposer.current.settings, begins=is_read)
        self._start_task(keep_running("quotas", self._quotas.run))
        self._start_task(keep_running("audit log", self._auditing.run))
        self._analytics.use_configuration(self._proposer.current, begins=True)
        self._start_task(keep_running("analytics", self._analytics.run))
        self._pushing.use_configuration(self._proposer.current)
        self._start_task(keep_running("objectives", self._view.slo.run))
        self._view.debugging.start(self._node_state.feeds.get(debugging.FEED, b""))
        self._view.recording.start(self._node_state.feeds.get(recordings.FEED, b""))
        self._view.past.tick()  # a reference for later counts
        self._start_task(keep_running("traffic history", self._view.past.run))
        self._start_task(keep_running("file watch", self._watch_files))
        if self._node_state.follows_files:
            watch = SourceWatch()
            self._start_task(keep_running("configuration files", lambda: self._follow_sources(watch)))
        for name, endpoint in self._node_state.own.items():
            if name == "status":
                pages = StatusPages(
                    self._view.is_ready,
                    self._view.metrics,
                    lambda: self._proposer.current.settings.status,
                    self._view.notes,
                )
                status = await status_server(endpoint.of_slot(0), pages)
                self._start_task(status.serve_forever())
            else:
                self._admin = self._start_task(self._keep_serving_admin())
        self._proposer.on_change = self._apply_snapshot
        self._proposer.on_reject = self._auditing.rejected
        self._proposer.on_missed = self._stop_requested.set  # the next control process starts with the active one
        loop.add_reader(self._channel, self._receive_orders)
        self._channel.send(Ready(generation=self._node_state.sealed.generation))
        self._start_task(self._proposer.warm_cache())
        await self._stop_requested.wait()
        loop.remove_reader(self._channel)
        self._view.recording.stop()
        self._feeding.stop()
        self._followed.stop()
        await asyncio.gather(self._watching.end(), self._cluster.end())
        self._issuing.stop()
        self._stapling.stop()
        self._revoking.stop()
        self._cache_purging.stop()
        self._view.story_store.stop()
        self._view.debugging.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._checks.stop()
        await self._quotas.write_changes()
        await self._analytics.stop()
        await self._auditing.stop()
        await self._pushing.stop()  # after what is written to disk: the server may hang
        await self._leave_value(statsd.FEED, self._pushing.handover())
        await self._followed.finish()  # after all else that others wait for: what it does is a courtesy to Vault
        self._quotas.close()
        if self._purge_file is not None:
            self._purge_file.close()
        self._fetcher.stop()
        self._worker_loop.close()

    async def _leave_value(self, key: str, value: bytes) -> None:
        """Send the value of a feed, which the next control process starts with. b"": there is none."""
        if not value:
            return
        try:
            if len(value) > MOST_BYTES:
                raise OSError(f"{len(value)} bytes; the most is {MOST_BYTES}")
            descriptor = write_memfd(value)
        except OSError as error:
            why = error.strerror or error
            notice(OperatorEvent.METRICS_NOT_PUSHED, f"counts cannot be left to the next control process: {why}")
            return
        try:
            while True:
                try:
                    self._channel.send(FeedUpdate(generation=self._proposer.current.generation, key=key), [descriptor])
                except ChannelFull:
                    await asyncio.sleep(RETRY_S)
                else:
                    return
        except ChannelClosed:
            pass  # the supervisor has ended, so there is no next one
        finally:
            os.close(descriptor)

    def _feed(self, accepted: ConfigSnapshot) -> None:
        feeds, lazy, users = accepted.feeds, accepted.lazy_feeds, accepted.feed_users
        self._feeding.run_sources(feeds, accepted.captured, accepted.generation, lazy, users)
        self._checks.check_upstreams(self._proposer.config.upstreams, accepted.slot_table, accepted.captured)
        source = shared_state(accepted)
        self._revoking.use_state(source)
        self._cache_purging.use_state(source)
        self._caches.use_redis(redis_of(accepted.settings, source))
        self._left_directories.use_configuration(accepted.settings)
        self._watching.watch_provider(accepted.settings.providers, accepted.captured)
        self._followed.use_configuration(accepted)
        self._cluster.watch_provider(accepted.settings.providers, accepted.captured)
        self._auditing.use_configuration(accepted.settings)
        self._view.recording.use_configuration()
        self._issuing.use_configuration(accepted, source)
        self._stapling.use_configuration(accepted)
        self._view.story_store.use_configuration(accepted.settings, self._view.redaction())
        self._view.drained.retain_targets(accepted.slot_table.targets, accepted.generation)

    def _mask_urls(self) -> Mask:
        return masker({name for each in self._proposer.config.access_logs for name in each.redact})

    def _start_task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            notice(OperatorEvent.DEFECT, f"control: {error if isinstance(error, OSError) else described(error)}")

    def _receive_orders(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                self._orders[type(message)](message)
        except ChannelClosed:
            self._stop_requested.set()  # the supervisor has ended

    async def _keep_serving_admin(self) -> None:
        """Retry the admin listener: a resource may be unavailable for a while, such as descriptors."""
        backoff = RetryBackoff()
        while True:
            try:
                await self._serve_admin(lambda: self._admin_is_served(backoff))
            except (OSError, MemoryError, RuntimeError) as error:
                if not is_passing(error):
                    raise
                wait = backoff.failed(time.monotonic())
                why = error.strerror if isinstance(error, OSError) else type(error).__name__
                notice(
                    OperatorEvent.ADMIN_UNANSWERED,
                    f"the admin listener cannot be served: {why}; tried again in {wait:g} s",
                )
                await asyncio.sleep(wait)

    def _admin_is_served(self, backoff: RetryBackoff) -> None:
        if backoff.due_at < inf:
            backoff.forget()
            notice(OperatorEvent.ADMIN_BACK, "the admin listener is served")

    async def _serve_admin(self, served: Callable[[], None]) -> None:
        from fastgw.admin.api import create_app
        from fastgw.admin.authorization import Access  # imports Starlette and uvicorn, which only the admin API needs
        from fastgw.runtime.control.admin_listener import serve

        settings, endpoint = self._admin_settings, self._node_state.own["admin"]
        tls = None if settings.tls is None else server_context(settings.tls, self._proposer.current.captured)
        access = Access.of(settings, self._node_state.admin_token, self._node_state.run_key)
        await serve(create_app(self._view, access), endpoint.of_slot(0), tls, served)

    @property
    def _admin_settings(self) -> Admin:
        """Return the settings of the admin API as of the fork: if they change, the control process is replaced."""
        settings = self._node_state.sealed.settings.admin
        assert settings is not None
        return settings

    def _apply_snapshot(self, before: ConfigSnapshot, now: ConfigSnapshot) -> None:
        """Run the feeds of the current filters, and restart the admin listener if its certificates have changed."""
        self._feed(now)
        configure(now.settings.log)
        self._analytics.use_configuration(now)
        self._quotas.use_configuration(now.settings)
        self._pushing.use_configuration(now)
        if self._admin is None or now.settings.admin != self._admin_settings or self._admin_settings.tls is None:
            return
        if any(before.captured[file] != now.captured[file] for file in files_of(self._admin_settings.tls)):
            self._admin.cancel()  # its requests in flight are answered
            self._admin = self._start_task(self._keep_serving_admin())

    async def _watch_files(self) -> None:
        """Load new contents of the files that the configuration names: certificates are renewed without a reload."""
        watch = FileWatch()  # after a failure a change may not be loaded yet: all files count as changed
        while True:
            watched = self._proposer.watched_files
            watch.watch(watched)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._look_now.wait()
            self._look_now.clear()
            lookers, self._lookers = self._lookers, []
            try:
                if self._proposer.is_to_be_tried_again:
                    await self._proposer.try_again()
                if await asyncio.to_thread(self._files_changed, watch) or self._proposer.is_due:
                    if any(map(pattern_in, watched)):
                        await self._until_still(watch)
                    await self._proposer.refresh()
            finally:
                for looker in lookers:
                    if not looker.done():
                        looker.set_result(None)

    async def _look_at_files(self) -> None:
        """Check the files now; return when the changes are active or rejected."""
        looker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lookers.append(looker)
        self._look_now.set()
        await looker

    def _files_changed(self, watch: FileWatch) -> bool:
        """Whether files that the configuration names have changed. Its own files are checked as well, for `status`."""
        self._proposer.look_at_files()
        return watch.changed()

    async def _until_still(self, watch: FileWatch) -> None:
        """Wait while files change: half a list of consumers may be valid, unlike half a certificate."""
        for _ in range(STILL_AFTER):
            await asyncio.sleep(LOOK_EVERY)
            if not await asyncio.to_thread(watch.changed):
                return

    async def _follow_sources(self, watch: SourceWatch) -> None:
        """Load the configuration's own files when they have changed and are stable."""
        while True:
            current = self._proposer.current
            posted = current.source in ("api", "rollback")
            try:
                if await asyncio.to_thread(watch.settled, current.sources, posted=posted):
                    try:
                        await self._proposer.propose_file()
                    except Exception:
                        watch.forget_settled()  # the change is not loaded yet
                        raise
            except SyntaxProblem as flaw:
                notice(OperatorEvent.FILES_NOT_WATCHED, f"the configuration's files are not watched: {flaw.wrong}")
                return
            await asyncio.sleep(LOOK_EVERY)


async def stop_requested(channel: Channel) -> None:
    """Return when the supervisor requests the stop, or has ended. For processes without other messages."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def obey() -> None:
        with suppress(ChannelClosed):
            while (message := channel.receive()) is not None:
                if isinstance(message, Stop):
                    break
            else:
                return
        loop.remove_reader(channel)
        stopping.set()

    loop.add_reader(channel, obey)
    await stopping.wait()
