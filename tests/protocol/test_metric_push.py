"""Metrics that are pushed: what collectors and StatsD servers get, over reloads, deaths of workers, and while away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.e2e.programs import program
from tests.support.client import Client
from tests.support.gateway import STOP_DEADLINE, Gateway, name_of, wait_until, write_config
from tests.support.telemetry import Collector

LINE = re.compile(r"(fastgw\.request[a-z.]+):([0-9.e+-]+)\|(c|ms)(?:\|@([0-9.]+))?(?:\|#(.*))?")


class StatsdServer:
    """Datagrams of a gateway, added up."""

    def __init__(self, path: Path | None = None) -> None:
        self._socket = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0) if path is None else str(path))
        self._socket.setblocking(False)
        self.address = f"unix:{path}" if path else f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.requests: Counter[str] = Counter()
        self.durations: Counter[str] = Counter()
        self.sum_ms: Counter[str] = Counter()

    def read(self) -> None:
        while True:
            try:
                datagram = self._socket.recv(65536)
            except BlockingIOError:
                return
            assert len(datagram) <= 8192
            for line in datagram.decode().split("\n"):
                told = LINE.fullmatch(line)
                assert told is not None, line
                name, value, kind, rate, tags = told.groups()
                if kind == "c":
                    assert name == "fastgw.requests"
                    self.requests[tags or ""] += int(value)
                else:
                    assert name == "fastgw.request.duration"
                    count = 1 / float(rate or 1)
                    self.durations[tags or ""] += count
                    self.sum_ms[tags or ""] += count * float(value)

    def counted(self) -> int:
        """Requests without tags, with those that have come."""
        self.read()
        return self.requests[""]

    def close(self) -> None:
        self._socket.close()


class EtsyServer:
    """The StatsD server itself, from npm, within a `with`. Its console tells what it has."""

    SCRIPT = Path(__file__).parents[1] / "support" / "npm_packages" / "node_modules" / "statsd" / "stats.js"

    def __init__(self, folder: Path) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            for each in (udp, tcp):
                each.bind(("127.0.0.1", 0))
            self.port, self._console = udp.getsockname()[1], tcp.getsockname()[1]
        settings = folder / "statsd.js"
        settings.write_text(
            f"{{address: '127.0.0.1', port: {self.port}, mgmt_address: '127.0.0.1', mgmt_port: {self._console}, "
            "backends: [], flushInterval: 3600000}"
        )
        self._command = [program("node"), str(self.SCRIPT), str(settings)]

    def __enter__(self) -> EtsyServer:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until(lambda: self.ask("gauges") is not None, "the StatsD server")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(STOP_DEADLINE)

    def ask(self, command: str) -> str | None:
        """Return what the console says; None: it does not answer yet."""
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", self._console), 5.0) as sock:
            sock.sendall(command.encode())  # a packet is a command
            told = b""
            while not told.endswith(b"END\n\n"):
                told += sock.recv(65536)
            return told.decode()
        return None


def configuration(metrics: dict[str, Any], *routes: str, **rest: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "workers": 2,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "status": {"address": "127.0.0.1:0"},
        "admin": None,
        "access_logs": [],
        "telemetry": {"metrics": metrics, **rest},
        "routes": [
            *({"name": name, "paths": [f"/{name}"], "respond": {"body": "ok"}} for name in routes),
            {"name": "bad", "paths": ["/bad"], "respond": {"status": 503}},
        ],
    }


def get(gateway: Gateway, path: str, times: int = 1) -> None:
    for _ in range(times):
        client = gateway.connect()
        try:
            client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            client.read_response(b"GET")
        finally:
            client.close()


def scraped(gateway: Gateway, accept: str = "text/plain") -> str:
    asked = urllib.request.Request(f"http://{gateway.ready['status']}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return str(answer.read().decode())


def reload(gateway: Gateway, config: dict[str, Any], folder: Path) -> None:
    before = scraped(gateway)
    count = float(re.search(r'fastgw_reloads_total\{result="ok"\} (.*)', before)[1])  # type: ignore[index]
    write_config(config, folder)
    gateway.signal(signal.SIGHUP)
    wanted = f'fastgw_reloads_total{{result="ok"}} {count + 1}'
    wait_until(lambda: wanted in scraped(gateway), "the reload")


def status_of(gateway: Gateway) -> dict[str, Any]:
    with Client(gateway.ready["admin"]) as client:
        head = "".join(f"{name}: {value}\r\n" for name, value in gateway.shown.items())
        found: dict[str, Any] = json.loads(
            client.exchange(f"GET /status HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode()).body
        )
    return found


def metrics_of(collector: Collector) -> dict[str, Metric]:
    """Metrics of the last push, which may be several requests."""
    found: dict[str, Metric] = {}
    for path, fields, body in collector.bodies:
        assert path == "/v1/metrics"
        assert fields["Content-Type"] == "application/x-protobuf"
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            assert names["service.name"] == "edge"
            found |= {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
    return found


def labels_of(point: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in point.attributes}


@contextlib.contextmanager
def running(config: dict[str, Any], folder: Path) -> Iterator[Gateway]:
    gateway = Gateway(config, folder)
    try:
        yield gateway
    finally:
        gateway.stop()


@pytest.mark.extended
def test_the_statsd_server_of_etsy_reads_every_line(tmp_path: Path) -> None:
    with EtsyServer(tmp_path) as server:
        push = {"statsd": {"address": f"127.0.0.1:{server.port}", "interval": "1s"}}
        with Gateway(write_config(configuration(push, "a", "b"), tmp_path), tmp_path) as gateway:
            for path, times in (("/a", 5), ("/b", 3), ("/bad", 2)):
                get(gateway, path, times)
            wait_until(lambda: "'fastgw.requests': 10" in (server.ask("counters") or ""), "all requests")
        timers = server.ask("timers") or ""
        (listed,) = re.findall(r"'fastgw\.request\.duration': \[([^\]]*)\]", timers)
        assert len(listed.split(",")) == 10
        assert "'statsd.bad_lines_seen': 0" in (server.ask("counters") or "")


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.stop()


def test_a_collector_decodes_what_is_pushed(collector: Collector, tmp_path: Path) -> None:
    """Cumulative sums and histograms with the names of /metrics, and traces of the requests as exemplars."""
    export = {"url": collector.url, "interval": "1s", "service": "edge"}
    traces = {"otlp": {"url": collector.url + "/traces"}}
    with running(configuration({"otlp": export}, "a", traces=traces), tmp_path) as gateway:
        get(gateway, "/a", 3)

        def has_all() -> bool:
            collector.bodies[:] = [each for each in collector.bodies if each[0] == "/v1/metrics"]
            found = metrics_of(collector).get("fastgw_request_seconds")
            return found is not None and any(point.count == 3 for point in found.histogram.data_points)

        wait_until(has_all, "three requests")
        found = metrics_of(collector)
        openmetrics = scraped(gateway, "application/openmetrics-text")
        begun_s = float(re.search(r"^fastgw_start_time_seconds (.*)", openmetrics, re.MULTILINE)[1])  # type: ignore[index]
    requests = found["fastgw_requests_total"]
    assert requests.sum.is_monotonic
    assert requests.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    assert [labels_of(point) for point in requests.sum.data_points] == [
        {"listener": "main", "method": "GET", "route": "a", "status": "200"}
    ]
    point = requests.sum.data_points[0]
    assert point.as_int == 3
    assert point.start_time_unix_nano == int(begun_s * 1e9)
    assert point.time_unix_nano > point.start_time_unix_nano
    seconds = found["fastgw_request_seconds"]
    assert seconds.unit == "s"
    (histogram,) = seconds.histogram.data_points
    assert sum(histogram.bucket_counts) == histogram.count == 3
    assert len(histogram.bucket_counts) == len(histogram.explicit_bounds) + 1
    assert histogram.sum > 0
    traced = {each.trace_id.hex() for each in histogram.exemplars}
    assert traced
    assert found["fastgw_workers"].gauge.data_points[0].as_int == 2
    shown = {
        sample.exemplar.labels["trace_id"]
        for family in text_string_to_metric_families(openmetrics)
        for sample in family.samples
        if sample.exemplar
    }
    assert shown == traced


def test_the_last_counts_are_pushed_at_the_end_and_failures_are_counted(collector: Collector, tmp_path: Path) -> None:
    collector.answers = [(503, {}), (400, {})]
    export = {"url": collector.url, "interval": "1s", "service": "edge"}
    with running(configuration({"otlp": export}, "a"), tmp_path) as gateway:
        wait_until(lambda: 'exporter="otlp",result="failed"' in scraped(gateway), "a failure")
        get(gateway, "/a", 2)
    found = metrics_of(collector)["fastgw_requests_total"]
    assert sum(point.as_int for point in found.sum.data_points) == 2


def test_a_statsd_server_gets_each_request_once(tmp_path: Path) -> None:
    """Whatever happens to workers and routes meanwhile."""
    server = StatsdServer()
    push = {"statsd": {"address": server.address, "format": "dogstatsd", "interval": "1s"}}
    a, b, bad = ("route:a,method:GET,status:200", "route:b,method:GET,status:200", "route:bad,method:GET,status:503")
    try:
        with running(configuration(push, "a"), tmp_path) as gateway:
            get(gateway, "/a", 5)
            get(gateway, "/bad", 2)
            wait_until(lambda: 'route="bad",status="503"} 2.0' in scraped(gateway), "all requests to be counted")
            victim = gateway.worker_pids[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: victim not in gateway.worker_pids and len(gateway.worker_pids) == 2, "a new worker")
            get(gateway, "/a", 5)
            reload(gateway, configuration(push, "b"), tmp_path)
            get(gateway, "/b", 4)
            reload(gateway, configuration(push, "a", "b"), tmp_path)
            get(gateway, "/a", 3)
        server.read()
    finally:
        server.close()
    assert dict(server.requests) == {a: 13, b: 4, bad: 2}
    assert {tags: round(count) for tags, count in server.durations.items()} == {a: 13, b: 4, bad: 2}
    assert all(0 < total < 60_000 for total in server.sum_ms.values())


def test_a_push_that_is_switched_off_and_on_goes_on_with_what_is_counted_from_then(tmp_path: Path) -> None:
    """Requests of the time between are in no push: a server would take them for those of one interval."""
    server = StatsdServer()
    push = {"statsd": {"address": server.address, "format": "dogstatsd", "interval": "1s"}}
    admin = {"admin": {"address": "127.0.0.1:0"}}
    total = 0

    def count(number: int) -> None:
        nonlocal total
        get(gateway, "/a", number)
        total += number
        wait_until(lambda: f'route="a",status="200"}} {total}.0' in scraped(gateway), "all requests to be counted")

    def use(metrics: dict[str, Any], generation: int) -> None:
        """Reload, and wait for the control process, which pushes: it follows the workers."""
        reload(gateway, configuration(metrics, "a") | admin, tmp_path)
        wait_until(lambda: status_of(gateway)["generation"] == generation, "the control process")

    try:
        with running(configuration(push, "a") | admin, tmp_path) as gateway:
            count(3)
            use({}, 2)
            count(4)
            use(push, 3)
            count(5)
        server.read()
    finally:
        server.close()
    assert dict(server.requests) == {"route:a,method:GET,status:200": 8}


@pytest.mark.extended
def test_an_upgrade_loses_no_counts(tmp_path: Path) -> None:
    """The next control process pushes what was counted since the last push of the one before."""
    server = StatsdServer()
    push = {"statsd": {"address": server.address, "format": "dogstatsd", "interval": "1s"}}
    sent = 0

    def has_upgraded(gateway: Gateway, before: int, upgrades: int) -> bool:
        nonlocal sent
        get(gateway, "/a", 10)
        sent += 10
        others = {"fastgw control"} & {name_of(pid) for pid in gateway.child_pids if pid != before}
        return bool(others) and gateway.stderr.text().count("all 2 workers are new") == upgrades

    try:
        with running(configuration(push, "a"), tmp_path) as gateway:
            for upgrades in (1, 2):
                before = gateway.control_pid
                gateway.signal(signal.SIGUSR2)
                wait_until(partial(has_upgraded, gateway, before, upgrades), "the upgrade")
        server.read()
    finally:
        server.close()
    assert dict(server.requests) == {"route:a,method:GET,status:200": sent}


@pytest.mark.parametrize("form", ["statsd", "graphite"])
def test_what_cannot_be_sent_waits(tmp_path: Path, form: str) -> None:
    """A unix socket that does not exist yet loses nothing."""
    path = tmp_path / "statsd.sock"
    push = {"statsd": {"address": f"unix:{path}", "format": form, "interval": "1s"}}
    with running(configuration(push, "a"), tmp_path) as gateway:
        get(gateway, "/a", 3)
        wait_until(lambda: 'exporter="statsd",result="failed"' in scraped(gateway), "a failure")
        server = StatsdServer(path)
        get(gateway, "/bad")
        wait_until(lambda: 'exporter="statsd",result="ok"' in scraped(gateway), "a push")
    try:
        if form == "statsd":
            server.read()
            assert dict(server.requests) == {"": 4}
            assert round(server.durations[""]) == 4
        else:
            told = server._socket.recv(65536).decode().split("\n")
            assert "fastgw.requests;route=a;method=GET;status=200:3|c" in told
    finally:
        server.close()


def test_a_server_that_does_not_read_loses_nothing_and_is_reported(tmp_path: Path) -> None:
    """Its socket is full; what did not fit is sent when it reads again."""
    path = tmp_path / "statsd.sock"
    server = StatsdServer(path)
    push = {"statsd": {"address": f"unix:{path}", "format": "statsd", "interval": "1s"}}
    try:
        with (
            running(configuration(push, "a"), tmp_path) as gateway,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
        ):
            other.setblocking(False)
            other.connect(str(path))
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.send(b"fastgw.requests:0|c")
            get(gateway, "/a", 5)
            wait_until(lambda: 'exporter="statsd",result="failed"' in scraped(gateway), "a failure")
            told = gateway.stderr.wait_for(lambda line: b"metrics cannot be pushed" in line).decode()
            assert told.rstrip().endswith(f"unix:{path}: the server does not read what was sent")
            server.read()
            wait_until(lambda: server.counted() >= 5, "the counts")
        assert server.counted() == 5
    finally:
        server.close()


def test_histograms_by_labels_of_choice(tmp_path: Path) -> None:
    duration = {"labels": ["route", "status_class"], "buckets": ["10s", "20s"], "route_buckets": {"bad": ["30s"]}}
    config = configuration({"request_duration": duration}, "a")
    with running(config, tmp_path) as gateway:
        get(gateway, "/a", 2)
        get(gateway, "/bad")
        name = "fastgw_request_duration_seconds_bucket"
        wait_until(lambda: scraped(gateway).count(name) == 5, "all requests")
        text = scraped(gateway)
        assert f'{name}{{le="10.0",route="a",status_class="2xx"}} 2.0' in text
        assert f'{name}{{le="+Inf",route="a",status_class="2xx"}} 2.0' in text
        assert f'{name}{{le="30.0",route="bad",status_class="5xx"}} 1.0' in text
        other = configuration({"request_duration": {**duration, "labels": ["route", "method"]}}, "a")
        reload(gateway, other, tmp_path)
        get(gateway, "/a")
        wait_until(lambda: f'{name}{{le="20.0",method="GET",route="a"}} 1.0' in scraped(gateway), "another histogram")
        assert "status_class" not in scraped(gateway)


def test_objectives_are_counted(tmp_path: Path) -> None:
    config = configuration({}, "a", slo={"availability": "99%", "latency": "30s"})
    config["routes"][0]["slo"] = {"availability": "90%"}
    with running(config, tmp_path) as gateway:
        get(gateway, "/a", 3)
        get(gateway, "/bad", 1)
        wait_until(lambda: 'slo="availability"} 1.0' in scraped(gateway), "all requests")
        text = scraped(gateway)
    assert 'fastgw_slo_requests_total{result="good",route="a",slo="availability"} 3.0' in text
    assert 'fastgw_slo_requests_total{result="bad",route="bad",slo="availability"} 1.0' in text
    assert 'fastgw_slo_objective_ratio{route="a",slo="availability"} 0.9' in text
    assert 'route="a",slo="latency"' not in text
    rate = re.search(r'fastgw_slo_burn_rate\{route="bad",slo="availability",window="5m"\} (.*)', text)
    assert rate is not None
    assert float(rate[1]) == pytest.approx(100.0)
