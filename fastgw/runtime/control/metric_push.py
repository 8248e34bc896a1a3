"""Push of metrics from the control process: by OTLP, and to a StatsD server.

Rule 1: no request waits for it, and no worker takes part: the counters are read from shared memory. Rule 2: what fails
is repeated with the counts of then, so nothing piles up while a server is unreachable, and nothing is lost but what a
server loses. Rule 3: a control process that ends pushes what was counted until then, in at most `LAST_PUSH_S`. Rule 4:
to a StatsD server the next control process pushes what was counted since, or could not be sent (`CountsHandover`).
"""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, final

import msgspec

from fastgw import VERSION
from fastgw.analytics.readings import NO_NAMES
from fastgw.config.settings.telemetry import Metrics, OtlpMetrics, StatsdPush
from fastgw.gateway.compiler import collector_headers
from fastgw.gateway.tables import CompileError
from fastgw.http.grpc.protobuf import rejected_items
from fastgw.observe.metrics.request_meter import MeterPlan
from fastgw.operator_events import OperatorEvent, OutageReports
from fastgw.operator_log import RareNotice, notice
from fastgw.runtime.control.otlp_metrics import MetricsEncoder
from fastgw.runtime.control.statsd import (
    FEED,
    MOST_BYTES,
    NOTHING_COUNTED,
    CountsHandover,
    StatsdCounts,
    counters_of,
    datagrams,
    handover_of,
    pushes,
    without_tags,
)
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.node.metrics import EXPORTERS, Exposition
from fastgw.runtime.node.node_state import NodeState
from fastgw.runtime.process.lasting_tasks import attempted
from fastgw.shm.slot_assignment import SlotTable
from fastgw.sync import feeds
from fastgw.upstream.client.collector_client import (
    PROTOBUF,
    BatchRefused,
    CollectorClient,
    CollectorHeaders,
    RetryPause,
)
from fastgw.upstream.client.http_client import Fetcher

LAST_PUSH_S: Final = 1.0
"""Seconds that the last push of a process may take, of the two that it has to end."""


@final
class MetricPush:
    """Pushes of the generation in use."""

    def __init__(self, node_state: NodeState, exposition: Exposition, fetcher: Fetcher) -> None:
        self._node_state, self._exposition, self._fetcher = node_state, exposition, fetcher
        self._otlp: _OtlpPush | None = None
        self._statsd: _StatsdPush | None = None
        self._left = node_state.feeds.get(FEED, b"")  # by the process before, for the first push alone
        self._ending: set[asyncio.Task[None]] = set()

    def use_configuration(self, accepted: ConfigSnapshot) -> None:
        """Use the settings and names of a generation. Pushes with unchanged settings continue."""
        telemetry = accepted.settings.telemetry
        metrics = telemetry.metrics or Metrics()
        headers = _headers(metrics.otlp, accepted)
        otlp, statsd = self._otlp, self._statsd
        if otlp is not None and (metrics.otlp, headers) != (otlp.settings, otlp.headers):
            self._end(otlp.stop())
            self._otlp = None
        if metrics.otlp is not None and self._otlp is None:
            begun_date = self._node_state.begun_date
            self._otlp = _OtlpPush(metrics.otlp, headers, self._fetcher, self._exposition, begun_date, self._count)
        if statsd is not None:
            statsd.read()  # with the names of before
            if metrics.statsd != statsd.settings:
                statsd.is_replaced = True
                self._end(self._stop_replaced(statsd))
                self._statsd = None
        if metrics.statsd is not None:
            if self._statsd is None:
                counts = self._begun_counts(statsd)
                self._statsd = _StatsdPush(metrics.statsd, self._node_state, counts, self._count)
            self._statsd.add_names(accepted.slot_table)
            self._statsd.plan = telemetry.meter_plan
        self._left = b""

    def prepare(self, slot_table: SlotTable) -> None:
        """Add the names of a generation before it is committed, and workers count with them."""
        if self._statsd is not None:
            self._statsd.read()  # rows that get another name have all of their counts: see `carry_over`
            self._statsd.add_names(slot_table)

    async def stop(self) -> None:
        """Push what was counted until now, for at most `LAST_PUSH_S`."""
        for each in (self._otlp, self._statsd):
            if each is not None:
                self._end(each.stop())
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=LAST_PUSH_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def handover(self) -> bytes:
        """Return the value of `statsd.FEED` for the next control process, after `stop`; b"": there is none."""
        if self._statsd is None:
            return b""
        handover = self._statsd.handover()
        value = handover.written()
        if len(value) <= feeds.MOST_BYTES:
            return value
        lost = sum(handover.requests.values())
        why = f"{lost} requests that could not be sent are lost: too many series"
        notice(OperatorEvent.METRICS_NOT_PUSHED, f"metrics cannot be pushed (statsd): {why}")
        return msgspec.structs.replace(handover, requests={}, durations={}).written()

    def _begun_counts(self, before: "_StatsdPush | None") -> StatsdCounts:
        """Return the counts of another push. They continue those of the push before, of this process or of another one.
        The first one of a gateway has all counts since the start.
        """
        node_state = self._node_state
        own, word = node_state.shared.supervisor.words, node_state.words.statsd_push
        handover = handover_of(self._left, own[word])
        is_first = not own[word] and _is_new(node_state)
        own[word] = time.monotonic_ns()  # a counter would give the numbers of earlier memory again
        if before is not None:
            return StatsdCounts(before.counts.last)
        if handover is not None:
            counts = StatsdCounts(handover.last)
            counts.put_back(handover.requests, handover.durations)
            return counts
        return StatsdCounts(NOTHING_COUNTED if is_first else counters_of(_columns(node_state)))

    async def _stop_replaced(self, replaced: "_StatsdPush") -> None:
        """Stop a push. The next one sends what it could not send, for example, to a wrong address."""
        try:
            await replaced.stop()
        finally:
            statsd = self._statsd
            # Counts of the format `statsd` have no tags for another one.
            if statsd is not None and statsd.settings.format in (replaced.settings.format, "statsd"):
                statsd.counts.put_back(*replaced.counts.take_waiting())

    def _end(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _count(self, exporter: str, is_ok: bool) -> None:
        word = self._node_state.words.metric_pushes + 2 * EXPORTERS.index(exporter) + (not is_ok)
        self._node_state.shared.supervisor.words[word] += 1


def _headers(settings: OtlpMetrics | None, accepted: ConfigSnapshot) -> CollectorHeaders:
    try:
        return () if settings is None else collector_headers("telemetry.metrics.otlp", settings, accepted.captured)
    except CompileError:
        return ()  # an environment variable that is gone; the configuration was checked with it


class _Reports:
    """Counts of pushes, and reports of failures in the operator log."""

    def __init__(self, exporter: str, count: Callable[[str, bool], None]) -> None:
        self._exporter, self._count = exporter, count
        self._outage = OutageReports()

    def failed(self, why: str, cause: str = "") -> None:
        """Handle a failure. `cause`: the part of the text that tells the cause, if another part varies."""
        self._count(self._exporter, False)
        if self._outage.is_due(cause or why, time.monotonic()):
            notice(OperatorEvent.METRICS_NOT_PUSHED, f"metrics cannot be pushed ({self._exporter}): {why}")

    def succeeded(self) -> None:
        self._count(self._exporter, True)
        if self._outage.has_ended():
            notice(OperatorEvent.METRICS_PUSHED, f"metrics are pushed again ({self._exporter})")


class _Periodic:
    """Work that is done in an interval, and once more at the end."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._stopping = asyncio.Event()
        self._complain = RareNotice()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Push for the last time, after a push that has begun."""
        self._stopping.set()
        await self._task

    async def _run(self) -> None:
        is_last = False
        while not is_last:
            await self._pause(self._interval)
            is_last = self._stopping.is_set()
            await attempted("metrics", self.push, self._complain)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def push(self) -> None:
        raise NotImplementedError


@final
class _OtlpPush(_Periodic):
    def __init__(
        self,
        settings: OtlpMetrics,
        headers: CollectorHeaders,
        fetcher: Fetcher,
        exposition: Exposition,
        begun_date: float,
        count: Callable[[str, bool], None],
    ) -> None:
        self.settings, self.headers = settings, headers
        self._exposition = exposition
        self._client = CollectorClient(fetcher, settings, headers, PROTOBUF, is_call=settings.protocol == "grpc")
        resource = {
            "service.name": settings.service,
            "service.version": VERSION,
            "service.instance.id": f"{socket.gethostname()}:{int(begun_date)}",
            "host.name": socket.gethostname(),
            "telemetry.sdk.name": "fastgw",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.version": VERSION,
        }
        self._encoder = MetricsEncoder(resource, "fastgw", VERSION, begun_date)
        self._reports = _Reports("otlp", count)
        super().__init__(settings.interval)

    async def push(self) -> None:
        """Push all metrics. A failure that may pass is retried until the next push is due."""
        exposed = [(family, list(samples)) for family, samples in self._exposition.families()]
        exemplars = self._exposition.exemplars()
        due_at, pause = time.monotonic() + self.settings.interval, RetryPause()
        requests = await asyncio.to_thread(lambda: list(self._encoder.requests(exposed, time.time(), exemplars)))
        for request in requests:
            body = await self._client.prepare(request)
            while True:
                try:
                    rejected = rejected_items(await self._client.send(body))
                except BatchRefused as refused:
                    wait = None if refused.wait is None else pause.after(refused.wait)
                    if wait is None or self._stopping.is_set() or time.monotonic() + wait >= due_at:
                        self._reports.failed(str(refused))
                        return
                    await self._pause(wait)
                else:
                    if rejected:
                        self._reports.failed(f"{self._client.origin}: {rejected} points were rejected", "rejected")
                        return
                    break
        self._reports.succeeded()


@final
class _StatsdPush(_Periodic):
    def __init__(
        self, settings: StatsdPush, node_state: NodeState, counts: StatsdCounts, count: Callable[[str, bool], None]
    ) -> None:
        self.settings, self.counts = settings, counts
        self._node_state = node_state
        self._names = NO_NAMES
        self.plan: MeterPlan | None = None
        self._number = node_state.shared.supervisor.words[node_state.words.statsd_push]
        self._reports = _Reports("statsd", count)
        self.is_replaced = False
        """Whether another push counts from now on: this one sends what it has read."""
        super().__init__(settings.interval)

    def handover(self) -> CountsHandover:
        """Return the counts for the next control process."""
        counts = self.counts
        return CountsHandover(self._number, counts.last, counts.requests, counts.durations)

    def add_names(self, slot_table: SlotTable) -> None:
        """Use the names of another generation for what is counted from now on."""
        self._names = self._names.following(slot_table, {})

    def read(self) -> None:
        """Read the counters."""
        self.counts.read(_columns(self._node_state), self._names, self.plan)

    async def push(self) -> None:
        """Send what was counted. Series that cannot be sent stay for the next push."""
        if not self.is_replaced:
            self.read()
        counts = self.counts
        if self.settings.format == "statsd":
            without_tags(counts)
        waiting = list(pushes(counts, self.settings.format))
        if not waiting:
            return
        kind = "unix" if self.settings.address.startswith("unix:") else "udp"
        requests, durations = counts.take_waiting()  # a reload may read the counters meanwhile
        try:
            with await self._connected(kind) as connection:
                for datagram, ended in datagrams(waiting, MOST_BYTES[kind]):
                    connection.send(datagram)
                    for push in ended:
                        (durations if push.is_timer else requests).pop(push.tags)
                    await asyncio.sleep(0)
        except BlockingIOError:
            self._reports.failed(f"{self.settings.address}: the server does not read what was sent")
        except OSError as error:
            self._reports.failed(f"{self.settings.address}: {error.strerror or error}")
        else:
            self._reports.succeeded()
        finally:
            counts.put_back(requests, durations)

    async def _connected(self, kind: str) -> socket.socket:
        """Return a socket that does not block. Raises `OSError`."""
        address = self.settings.address
        if kind == "unix":
            family, where = int(socket.AF_UNIX), address.removeprefix("unix:")
            return _connect(family, where)
        host, _, port = address.rpartition(":")
        found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
        return _connect(found[0][0], found[0][4])


def _connect(family: int, where: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.connect(where)
    except OSError:
        made.close()
        raise
    return made


def _columns(node_state: NodeState) -> list[memoryview]:
    return [node_state.words.counted(column) for column in node_state.shared.columns]


def _is_new(node_state: NodeState) -> bool:
    """Whether the gateway has just started with this configuration, so that all of its requests are to be pushed."""
    return node_state.sealed.generation == 1
