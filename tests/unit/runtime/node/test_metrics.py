"""What Prometheus is told: read back by two parsers that are not ours, from memory that real columns stand in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.samples import Sample

from fastgw.admin.node_interface import AcmeInfo, CertificateInfo, FeedInfo, OcspInfo, OnDemandInfo, VerifierInfo
from fastgw.admin.prometheus_text import OPENMETRICS, PROMETHEUS, negotiate_format
from fastgw.cache.store import DiskNumbers, Eviction, RedisNumbers, StoreNumbers
from fastgw.config.base.value_types import Address, Url
from fastgw.config.settings import gateway as config
from fastgw.config.settings.telemetry import STATSD_LABELS, Metrics, RequestDuration, StatsdPush, Telemetry
from fastgw.downstream.tls.connection import HandshakeOutcome
from fastgw.filters.policies.size import Size
from fastgw.gateway.compiler import compile as compiled
from fastgw.gateway.tables import Gateway
from fastgw.observe.access_log.record import Record
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.observe.metrics.families import NONE, FilterEvent
from fastgw.observe.metrics.request_meter import MeterPlan, Objectives
from fastgw.observe.metrics.series_layout import UPSTREAM_CONNECTS, CellKind, series_of
from fastgw.redis import availability
from fastgw.runtime.control.health_checker import OfUpstream
from fastgw.runtime.node.metrics import FAMILIES, Exposition
from fastgw.runtime.node.shm_layout import ShmLayout
from fastgw.shm.health_words import HealthVerdict
from fastgw.shm.memory import SharedMemory
from fastgw.shm.slot_assignment import MAX_CONSUMERS, SlotNames
from fastgw.upstream.health.circuit_breaker import BreakerPhase
from tests.support.counted import count, count_consumer, count_content_coding

BEGUN = 1_700_000_000.0

DISK = DiskNumbers(
    1 << 30, objects=3, bytes=12_288, hits=5, written=6, dropped=1, errors=2, evicted=4, damaged=1, has_failed=False
)

PLAN = MeterPlan(("route",), (0.1, 1.0), {}, Objectives(0.99, None, 0.99), {})
RECORD = Record(BEGUN, "::1", "public", b"GET", b"http", b"a", b"/", None, 11, 200, 0, 0, 0.25, route="user")


class Node:
    """A gateway's memory with two workers, of which one is this process."""

    def __init__(self, *routes: str, consumers: int = 0) -> None:
        to = Url("http", "127.0.0.1", 9001)
        self.gateway: Gateway = compiled(
            config.Config(
                version=1,
                listeners={"public": config.Listener(address=Address("127.0.0.1", 0))},
                upstreams={"users": config.Upstream(targets=(config.Target(url=to),))},
                filters={"limit": config.FilterUse("limit", "size", Size(body=1))},
                consumers=tuple(config.Consumer(name=f"c{number}") for number in range(consumers)),
                routes=tuple(config.Route(name=route, paths=("/*",), upstream="users") for route in routes),
            ),
            workers=2,
        )
        self.words = ShmLayout(self.gateway)
        self.shared = SharedMemory.create(self.gateway.layout, columns=2)
        self.own = self.shared.columns[0]
        self.own.words[self.words.pid] = os.getpid()
        self.counters = ExchangeCounters(self.gateway.series, self.words.counted(self.own))
        shown = CertificateInfo("public", '/a"\\b.pem', ["a.example"], "0A", BEGUN + 86400, "")
        verifiers = [VerifierInfo("public", "ca", "/ca.pem", BEGUN + 86400, "")]
        verifiers.append(VerifierInfo("public", "crl", "/crl.pem", BEGUN + 3600, ""))
        verifiers.append(VerifierInfo("(admin)", "crl", "/always.pem", None, ""))
        feeds = [
            FeedInfo("https://good.example/keys", BEGUN + 60, "", "egress/shop/orders", 2),
            FeedInfo("https://away.example/keys", BEGUN + 30, "it answers 503"),
            FeedInfo("https://never.example/keys", None, "it does not answer"),
            FeedInfo("https://new.example/keys", None, ""),
        ]
        self.exposition = Exposition(
            *(self.gateway.series, self.shared, self.words, BEGUN, 1000.0),
            lambda: ([shown], verifiers),
            lambda: feeds,
            lambda: {"users": OfUpstream({HealthVerdict.HEALTHY: 2, HealthVerdict.EJECTED: 1}, BreakerPhase.OPEN)},
            lambda: {"at_a_time": (10, 3)},
            caches=lambda: {"main": StoreNumbers(2, 4096, {Eviction.CAPACITY: 7}, DISK, RedisNumbers(1, 2, 3, 4))},
            plan=lambda: PLAN,
            acme=lambda: [
                AcmeInfo(
                    "/a.pem",
                    ["a.example"],
                    "http-01",
                    "",
                    True,
                    BEGUN + 86400,
                    BEGUN,
                    BEGUN,
                    0,
                    0,
                    "",
                    ordered_by="this_node",
                )
            ],
            ocsp=lambda: [OcspInfo("/a.pem", "http://ocsp.example/", BEGUN + 7200, False, BEGUN, "")],
            on_demand=lambda: OnDemandInfo(3, 1000, 1, {"rate": 2, "names": 0}),
            burn_rates=lambda: {("user", "availability", "1h"): 2.5},
            websocket_apis=lambda: ["user", "ü"],
        )

    def finish(self, route: str, status: int = 200, fault: str = "") -> None:
        words = self.counters.series_words("public", route, "users", b"GET", status, fault)
        count(self.counters, words, 0.002, 10, 20, 0.001, 1)

    def samples(self, accept: bytes = b"") -> list[Sample]:
        text = self.exposition.text(accept)[1].decode()
        families = openmetrics_parser if b"openmetrics" in accept else parser
        return [each for family in families.text_string_to_metric_families(text) for each in family.samples]

    def value(self, name: str, **labels: str) -> float:
        (found,) = [each.value for each in self.samples() if each.name == name and each.labels == labels]
        return found


@pytest.fixture
def node() -> Node:
    return Node("user", 'a"\\\nb', "ü")


def test_histograms_have_the_labels_that_were_asked_for_though_statsd_needs_others(node: Node) -> None:
    duration = RequestDuration(labels=("status_class", "upstream"), buckets=(0.1, 1.0))
    push = StatsdPush(address=("udp", ("127.0.0.1", 8125)))
    plan = Telemetry(metrics=Metrics(statsd=push, request_duration=duration)).meter_plan
    assert plan is not None
    assert {*STATSD_LABELS} <= {*plan.labels}
    node.exposition = Exposition(
        *(node.gateway.series, node.shared, node.words, BEGUN, 1000.0),
        *(lambda: ([], []), list, dict, dict),
        plan=lambda: plan,
    )
    meter = node.counters.meter(plan)
    for method, status in ((b"GET", 200), (b"POST", 204), (b"GET", 503)):
        meter.add_record(
            Record(BEGUN, "::1", "public", method, b"http", b"a", b"/", None, 11, status, 0, 0, 0.25, route="user")
        )
    name = "fastgw_request_duration_seconds"
    assert node.value(f"{name}_count", status_class="2xx", upstream=NONE) == 2.0
    assert node.value(f"{name}_count", status_class="5xx", upstream=NONE) == 1.0
    assert node.value(f"{name}_sum", status_class="2xx", upstream=NONE) == 0.5


def test_the_start_of_a_worker_does_not_move_with_the_clock(node: Node) -> None:
    """It is told from the start of the gateway, which is a date as well."""
    node.own.words[node.words.began] = 1_060 * 10**9
    assert node.value("fastgw_start_time_seconds") == BEGUN
    assert node.value("fastgw_worker_start_time_seconds", worker="1") == BEGUN + 60.0


OPEN = b"application/openmetrics-text; version=1.0.0"


@pytest.mark.parametrize("accept", [b"", OPEN])
def test_every_family_is_told_with_its_labels_and_kind(node: Node, accept: bytes) -> None:
    """As both of Prometheus' formats want it; read by Prometheus' own parsers."""
    for route in ("user", 'a"\\\nb', "ü", "gone", ""):
        node.finish(route, fault="bad_request")
    node.finish("user", 503)
    node.counters.count_shadow_decision("limit", "user", FilterEvent.ANSWER)
    node.counters.count_filter("limit", FilterEvent.COPY_SENT)
    node.counters.count_filter("limit", FilterEvent.HELPER_ANSWERED)
    node.counters.count_filter("limit", FilterEvent.WAF_LFI)
    count_consumer(node.counters, "alice", 200, 0.01)
    node.counters.count_websocket("main", "user", 0, 1, 1)
    node.counters.count_websocket("main", "user", 0, 1000, 1)
    count_content_coding(node.counters, "user", 0, 2, 1000, 300)
    node.counters.count_label(CellKind.CACHE, "user", "hit")
    node.counters.count_label(CellKind.CACHE_MISS, "user", "no-store")
    node.counters.count_label(CellKind.VALIDATION, "user", "response")
    node.counters.meter(PLAN).add_record(RECORD)
    node.shared.supervisor.words[node.words.metric_pushes] = 1
    node.counters.count_label(CellKind.GRPC, "user", "NOT_FOUND")
    node.own.words[node.words.state_up] = availability.UP
    content_type, text = node.exposition.text(accept)
    assert content_type == (OPENMETRICS if accept else PROMETHEUS).content_type
    assert text.endswith(b"# EOF\n") == bool(accept)
    families = openmetrics_parser if accept else parser
    found = {each.name: each for each in families.text_string_to_metric_families(text.decode())}
    assert len(found) == len(FAMILIES)
    for family in FAMILIES:
        told = found[family.name.removesuffix("_total")]
        assert (told.type, told.documentation) == (family.kind, family.text)
        assert told.samples, family.name
        assert all(set(each.labels) - {"le"} == set(family.labels) for each in told.samples)


def test_the_health_of_upstreams_is_told(node: Node) -> None:
    assert node.value("fastgw_upstream_targets", health="healthy", upstream="users") == 2
    assert node.value("fastgw_upstream_targets", health="ejected", upstream="users") == 1
    assert node.value("fastgw_upstream_breaker_state", upstream="users") == 2


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ((availability.UNASKED, availability.UNASKED), []),
        ((availability.UP, availability.UNASKED), [1]),
        ((availability.UP, availability.UP), [1]),
        ((availability.UP, availability.AWAY), [0]),
        ((availability.AWAY, availability.UNASKED), [0]),
    ],
)
def test_the_state_is_up_when_it_is_for_all_who_ask(node: Node, said: tuple[int, int], told: list[int]) -> None:
    for column, word in zip(node.shared.columns, said, strict=True):
        column.words[node.words.state_up] = word
    assert [each.value for each in node.samples() if each.name == "fastgw_state_up"] == told


@pytest.mark.parametrize("accept", [b"", OPEN])
def test_labels_come_back_as_they_were(node: Node, accept: bytes) -> None:
    node.finish('a"\\\nb')
    node.finish("ü")
    routes = {each.labels["route"] for each in node.samples(accept) if each.name == "fastgw_requests_total"}
    assert routes == {'a"\\\nb', "ü"}


def test_histograms_are_cumulative_and_end_with_all(node: Node) -> None:
    node.finish("user")
    buckets = {each.labels["le"]: each.value for each in node.samples() if each.name == "fastgw_request_seconds_bucket"}
    assert list(buckets.items())[:4] == [("0.0005", 0), ("0.001", 0), ("0.0025", 1), ("0.005", 1)]
    assert buckets["+Inf"] == node.value("fastgw_request_seconds_count", route="user") == 1
    assert node.value("fastgw_request_seconds_sum", route="user") == 0.002


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (b"", PROMETHEUS),
        (b"*/*", PROMETHEUS),
        (b"text/html, text/plain", PROMETHEUS),
        (b"application/openmetrics-text; version=1.0.0", OPENMETRICS),
        (b"Application/OpenMetrics-Text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", OPENMETRICS),
        (b"application/openmetrics-text;q=0.2,text/plain", PROMETHEUS),
        (b"application/openmetrics-text;q=0", PROMETHEUS),
        (b"application/openmetrics-text;q=x", PROMETHEUS),
        (b",;q=,;;", PROMETHEUS),
    ],
)
def test_the_format_is_what_is_asked_for(accept: bytes, form: object) -> None:
    assert negotiate_format(accept) is form


def test_a_worker_tells_of_its_process(node: Node) -> None:
    """By its column; a column that is nobody's tells nothing."""
    node.words.beaten(node.own, 10**9, 0.25)
    node.own.words[node.words.generation] = 7
    assert node.value("fastgw_worker_resident_memory_bytes", worker="1") > 1e6
    assert node.value("fastgw_worker_open_fds", worker="1") >= 3
    assert node.value("fastgw_worker_cpu_seconds_total", worker="1") > 0
    assert node.value("fastgw_worker_loop_lag_seconds", worker="1") == 0.25
    assert node.value("fastgw_config_generation", worker="1") == 7
    assert {each.labels["worker"] for each in node.samples() if "worker" in each.labels} == {"1"}


def test_a_worker_tells_how_many_files_it_has_open(node: Node) -> None:
    """Of a process that opens and closes nothing: in this one earlier tests' garbage may be collected in between."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
        assert idle.stdin is not None
        assert idle.stdout is not None
        idle.stdin.write(b"loaded\n")
        idle.stdin.flush()
        assert idle.stdout.readline() == b"loaded\n"
        node.own.words[node.words.pid] = idle.pid
        assert node.value("fastgw_worker_open_fds", worker="1") == 3
        idle.stdin.close()


def test_a_process_that_has_just_gone_is_left_out(node: Node) -> None:
    node.own.words[node.words.pid] = 2**22 + 1  # more than there can be
    assert not [each for each in node.samples() if each.name == "fastgw_worker_open_fds"]


def test_lag_is_the_worst_of_the_last_two_windows(node: Node) -> None:
    lags: list[float] = []
    for second, late in ((0, 0.5), (1, 0.1), (6, 0.2), (9, 0.1), (12, 0.1), (40, 0.05)):
        node.words.beaten(node.own, second * 10**9, late)
        lags.append(node.words.lag_s(node.own))
    assert lags == [0.5, 0.5, 0.5, 0.5, 0.2, 0.05]


def test_reloads_are_told(node: Node) -> None:
    assert node.value("fastgw_config_last_reload_success") == 1
    assert node.value("fastgw_config_last_reload_timestamp_seconds") == BEGUN
    node.words.reloaded(node.shared, True, BEGUN + 5)
    node.words.reloaded(node.shared, False, BEGUN + 6)
    assert node.value("fastgw_config_last_reload_success") == 0
    assert node.value("fastgw_config_last_reload_timestamp_seconds") == BEGUN + 5
    assert node.value("fastgw_reloads_total", result="ok") == node.value("fastgw_reloads_total", result="failed") == 1


def test_contents_that_are_renewed_say_nothing_of_a_configuration_that_was_refused(node: Node) -> None:
    """A certificate that is taken does not make the file right that was refused before."""
    node.words.reloaded(node.shared, False, BEGUN + 6)
    node.words.reloaded(node.shared, True, BEGUN + 7, of_contents=True)
    assert node.value("fastgw_config_last_reload_success") == 0
    node.words.reloaded(node.shared, False, BEGUN + 8, of_contents=True)
    node.words.reloaded(node.shared, True, BEGUN + 9)
    assert node.value("fastgw_config_last_reload_success") == 1  # it was read with all that it names
    node.words.reloaded(node.shared, False, BEGUN + 10, of_contents=True)
    assert node.value("fastgw_config_last_reload_success") == 0
    node.words.reloaded(node.shared, True, BEGUN + 11, of_contents=True)
    assert node.value("fastgw_config_last_reload_success") == 1


def test_a_pool_is_told_by_its_upstream(node: Node) -> None:
    """Summed over targets and workers."""
    target = node.gateway.upstreams["users"].targets[0]
    for column in node.shared.columns:
        node.words.targets.write_gauges(column, node.gateway.target_slot("users", target), 2, 1, 3)
    numbers = {each.name: each.value for each in node.samples() if each.name.startswith("fastgw_pool")}
    assert numbers["fastgw_pool_in_use_connections"] == 4
    assert numbers["fastgw_pool_idle_connections"] == 2
    assert numbers["fastgw_pool_waiting_requests"] == 6


def test_requests_in_flight_are_told_by_their_upstream(node: Node) -> None:
    """Summed over workers, over HTTP/2 too where many share a connection; a worker that is dead has none."""
    node.gateway.upstreams["users"].active = 3
    for column in node.shared.columns:
        for _ in node.words.publishing(column, node.gateway, {}):
            pass
    assert node.value("fastgw_requests_in_flight", upstream="users") == 6
    node.words.worker_reaped(node.shared, 1)
    assert node.value("fastgw_requests_in_flight", upstream="users") == 3


def test_connections_of_websocket_apis_are_told_by_their_route(node: Node) -> None:
    """Summed over workers; a worker that is dead has none. Routes without connections are told as well."""
    for column, open_now in zip(node.shared.columns, ({"user": 2, "gone": 1}, {"user": 3}), strict=True):
        node.words.write_websockets(column, node.gateway.series, open_now)
    name = "fastgw_websocket_api_connections"
    told = {each.labels["route"]: each.value for each in node.samples() if each.name == name}
    assert told == {"user": 5, "_other": 1, "ü": 0}
    node.words.worker_reaped(node.shared, 1)
    assert node.value(name, route="user") == 2
    node.words.write_websockets(node.own, node.gateway.series, {})
    assert node.value(name, route="user") == 0


def test_what_a_pool_opens_is_counted(node: Node) -> None:
    word = node.gateway.series.upstream_words("users") + UPSTREAM_CONNECTS
    limit = node.own.limit(node.words.targets.connections, 1, word)
    assert limit.try_take()
    assert not limit.try_take()
    assert node.value("fastgw_upstream_connects_total", upstream="users") == 1


def test_connections_are_counted_as_they_are_let_in(node: Node) -> None:
    limit = node.words.connection_limit(node.own, node.gateway.limits)
    assert all(limit.try_take() for _ in range(3))
    limit.give_back()
    assert node.value("fastgw_connections") == node.value("fastgw_worker_connections", worker="1") == 2
    assert node.value("fastgw_connections_accepted_total") == 3


def test_names_change_when_the_generation_is_committed_and_not_before(node: Node) -> None:
    """A scrape between two words of the supervisor never shows the counts of one name under another."""
    node.finish("user")
    names, slot_table = node.gateway.names, node.gateway.slot_table
    after = slot_table.following(SlotNames(names.listeners, ["late"], names.upstreams), 2, oldest=1)
    node.exposition.prepare(2, series_of(after))

    def routes() -> Sequence[str]:
        return [each.labels["route"] for each in node.samples() if each.name == "fastgw_requests_total"]

    assert routes() == ["user"]
    node.words.carry(node.shared, slot_table, after)
    assert routes() == ["user"]
    node.shared.supervisor.words[node.words.generation] = 2
    assert routes() == ["_other"]
    node.counters.adopt(series_of(after))
    node.finish("late")
    assert sorted(routes()) == ["_other", "late"]


def test_filters_are_counted_by_instance(node: Node) -> None:
    """Errors and timeouts from 0 on, decisions in shadow once there are any; names that are gone as `_other`."""
    node.counters.count_filter("limit", FilterEvent.RAISED)
    for event in (FilterEvent.ANSWER, FilterEvent.ANSWER, FilterEvent.PASS):
        node.counters.count_shadow_decision("limit", "user", event)
    node.counters.count_filter("gone", FilterEvent.LATE)
    assert node.value("fastgw_filter_errors_total", filter="limit") == 1
    assert node.value("fastgw_filter_timeouts_total", filter="limit") == 0
    assert node.value("fastgw_filter_timeouts_total", filter="_other") == 1
    assert node.value("fastgw_filter_shadow_decisions_total", filter="limit", route="user", decision="answer") == 2
    assert node.value("fastgw_filter_shadow_decisions_total", filter="limit", route="user", decision="pass") == 1


def test_consumers_are_counted_by_name_and_others_together() -> None:
    """The first in the configuration have series of their own: nobody can make a new one."""
    node = Node("user", consumers=MAX_CONSUMERS + 5)
    for name in ("c0", "c0", f"c{MAX_CONSUMERS - 1}", f"c{MAX_CONSUMERS}", "nobody"):
        count_consumer(node.counters, name, 200, 0.01)
    assert node.value("fastgw_consumer_requests_total", consumer="c0") == 2
    assert node.value("fastgw_consumer_requests_total", consumer=f"c{MAX_CONSUMERS - 1}") == 1
    assert node.value("fastgw_consumer_requests_total", consumer="_other") == 2
    assert node.value("fastgw_consumers_folded") == 5


def test_handshakes_are_told_by_how_they_ended(node: Node) -> None:
    ended = node.words.handshake_counts(node.own)
    ended[HandshakeOutcome.FULL], ended[HandshakeOutcome.RESUMED], ended[HandshakeOutcome.CERTIFICATE_MISSING] = 5, 2, 3
    assert node.value("fastgw_tls_handshakes_total") == 7
    assert node.value("fastgw_tls_resumptions_total") == 2
    assert node.value("fastgw_tls_handshake_failures_total", fault="certificate_missing") == 3
    assert node.value("fastgw_tls_handshake_failures_total", fault="timeout") == 0


def test_it_is_told_when_certificates_expire(node: Node) -> None:
    found = node.value("fastgw_certificate_expiry_timestamp_seconds", certificate='/a"\\b.pem', listener="public")
    assert found == BEGUN + 86400


def test_it_is_told_when_what_verifies_clients_is_out_of_date(node: Node) -> None:
    name = "fastgw_client_auth_expiry_timestamp_seconds"
    told = {each.labels["file"]: each.value for each in node.samples() if each.name == name}
    assert told == {"/ca.pem": BEGUN + 86400, "/crl.pem": BEGUN + 3600}
    assert node.value(name, file="/crl.pem", kind="crl", listener="public") == BEGUN + 3600


def test_what_is_fetched_is_told_of_once_it_was_tried(node: Node) -> None:
    samples = node.samples()
    assert {each.labels["used_by"] for each in samples if "feed" in each.labels} == {"egress/shop/orders", ""}
    up = {each.labels["feed"]: each.value for each in samples if each.name == "fastgw_feed_up"}
    assert up == {
        "https://good.example/keys": 1,
        "https://away.example/keys": 0,
        "https://never.example/keys": 0,
    }
    dates = {each.labels["feed"]: each.value for each in samples if each.name.startswith("fastgw_feed_last_success")}
    assert dates == {"https://good.example/keys": BEGUN + 60, "https://away.example/keys": BEGUN + 30}
