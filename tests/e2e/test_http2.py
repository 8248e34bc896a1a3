"""HTTP/2 with real clients, over TLS too, and through what ends connections: drain, reload, upgrade, kill."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.programs import program, run
from tests.e2e.test_reload import Reloadable
from tests.e2e.test_upgrade import upgradable
from tests.support.browser import Browser
from tests.support.certificates import Certificates, client_tls
from tests.support.gateway import Gateway, wait_until
from tests.support.http2.client import Http2Client
from tests.support.http2.frames import Code, block, data, get, headers, pseudo
from tests.support.origin import OK, Origin, OriginConnection
from tests.support.peer import DEADLINE
from tests.support.resident import Memory
from tests.support.secured import Secured

GIB = 1 << 30
BOTH = {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}
LONG = 120.0  # seconds for a GiB on a busy machine


class Place(NamedTuple):
    gateway: Gateway
    origin: Origin
    authority: Certificates
    alice: tuple[str, str]

    def url(self, listener: str, path: str = "/") -> str:
        scheme = "http" if listener in ("main", "old") else "https"
        return f"{scheme}://a.test:{self.gateway.port(listener)}{path}"

    def curl(self, listener: str, *arguments: str | Path, path: str = "/", **options: float) -> str:
        port = self.gateway.port(listener)
        there = ("--resolve", f"a.test:{port}:127.0.0.1", "--cacert", self.authority.ca, "-sS", "--noproxy", "*")
        return run("curl", *there, *arguments, self.url(listener, path), **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("http2")
    authority = Certificates(directory)
    certificate, key = authority.issue("a.test", "127.0.0.1")
    tls = {"certificates": [{"certificate": certificate, "key": key}]}
    anywhere = {"address": "127.0.0.1:0"}
    with Origin() as origin:
        config = {
            "workers": 2,
            "listeners": {
                "main": BOTH,
                "old": anywhere,
                "secured": {**anywhere, "tls": tls},
                "new": {**anywhere, "tls": tls, "protocols": ["http2"]},
                "past": {**anywhere, "tls": tls, "protocols": ["http1"]},
                "vouched": {**anywhere, "tls": {**tls, "client_auth": {"ca": authority.ca}}},
            },
            "routes": [{"name": "all", "upstream": origin.serve().url}],
        }
        with Gateway(config, directory) as gateway:
            yield Place(gateway, origin, authority, authority.issue("alice.example", subject="alice"))


# --- who speaks what ---


@pytest.mark.landing
@pytest.mark.parametrize(
    ("listener", "options", "version"),
    [
        ("main", ["--http2-prior-knowledge"], "2"),
        ("main", ["--http2"], "1.1"),  # `Upgrade: h2c` is not answered
        ("main", ["--http1.1"], "1.1"),
        ("main", ["--http1.0"], "1.1"),
        ("secured", ["--http2"], "2"),
        ("secured", ["--http1.1"], "1.1"),
        ("secured", ["--no-alpn"], "1.1"),
        ("new", ["--http2"], "2"),
        ("past", ["--http2"], "1.1"),
        ("old", ["--http2"], "1.1"),
    ],
)
def test_curl_gets_the_version_that_both_speak(place: Place, listener: str, options: list[str], version: str) -> None:
    assert place.curl(listener, *options, "-w", " %{http_version}") == f"ok {version}"


def test_a_client_that_speaks_nothing_of_a_listener_is_told_so_in_the_handshake(place: Place) -> None:
    """RFC 7301 section 3.2: no_application_protocol."""
    for listener, offered in (("new", "http/1.1"), ("past", "h2"), ("secured", "spdy/3")):
        tls = client_tls(place.authority)
        tls.set_alpn_protocols([offered])
        with pytest.raises(ssl.SSLError, match="no application protocol"):
            Secured(place.gateway.address(listener), tls)


@pytest.mark.landing
def test_client_certificates_are_asked_for_over_http2(place: Place) -> None:
    tls = client_tls(place.authority, place.alice)
    tls.set_alpn_protocols(["h2"])
    with Http2Client(place.gateway.address("vouched"), tls=tls) as client:
        client.begin().send(headers(block(*pseudo(scheme=b"https"))))
        assert client.wait_for(1).status == 200


@pytest.mark.landing
def test_the_scheme_is_that_of_the_connection(place: Place) -> None:
    """RFC 9113 section 8.3.1: what is said to be http over TLS is refused, and upstreams are told of https."""
    tls = client_tls(place.authority)
    tls.set_alpn_protocols(["h2"])
    with Http2Client(place.gateway.address("secured"), tls=tls) as client:
        client.begin().send(get())
        assert client.wait_for(1).status == 400
        client.send(headers(block(*pseudo(scheme=b"https", path=b"/secured")), 3))
        assert client.wait_for(3).status == 200
    (request,) = [each for each in place.origin.requests if each.request_target == b"/secured"]
    assert request.get(b"X-Forwarded-Proto") == b"https"


def test_nghttp_and_a_browser_are_served(place: Place, tmp_path: Path) -> None:
    told = run("nghttp", "-v", place.url("main").replace("a.test", "127.0.0.1"))
    assert ":status: 200" in told
    place.origin.answer(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 27\r\n\r\n<p id=shown>by HTTP/2</p>\r\n",
        path=b"/page",
    )
    spoken = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
    with Browser(program("chromium"), tmp_path) as browser, browser.page() as page:
        page.command("Security.setIgnoreCertificateErrors", ignore=True)
        page.go(place.url("secured", "/page").replace("a.test", "127.0.0.1"))
        page.until("!!document.getElementById('shown')")
        assert page.run(spoken) == "h2"


# --- much ---


def test_10_000_streams_of_one_connection_are_all_served(place: Place) -> None:
    url = place.url("main", "/many").replace("a.test", "127.0.0.1")
    told = run("h2load", "-n", "10000", "-c", "1", "-m", "100", url, timeout=LONG)
    assert "10000 succeeded, 0 failed, 0 errored, 0 timeout" in told
    assert len([each for each in place.origin.requests if each.request_target == b"/many"]) == 10_000


def swallow(connection: OriginConnection) -> None:
    """A step: read a body of a GiB, without keeping it, and answer."""
    left = GIB - len(connection.unread)
    connection._take(len(connection.unread))
    connection.sock.settimeout(LONG)
    buffer = bytearray(1 << 20)
    while left:
        count = connection.sock.recv_into(buffer)
        assert count
        left -= count
    connection.send(OK)


def pour(connection: OriginConnection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIB)
    block_of_bytes = bytes(1 << 20)
    for _ in range(GIB >> 20):
        connection.send(block_of_bytes)


def pass_a_gib_both_ways(place: Place, directory: Path) -> None:
    place.origin.answer(pour, path=b"/down")
    place.origin.answer(swallow, path=b"/up", whole=False)
    large = directory / "large"
    with large.open("wb") as file:
        file.truncate(GIB)
    quiet = ("--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{size_download}")
    assert place.curl("main", *quiet, path="/down", timeout=LONG) == str(GIB)
    assert place.curl("main", "--http2-prior-knowledge", "-T", large, path="/up", timeout=LONG) == "ok"


def test_a_gib_down_and_a_gib_up(place: Place, tmp_path: Path) -> None:
    """Through windows and the sockets' buffers: the workers do not grow with it."""
    with Memory(place.gateway) as memory:
        pass_a_gib_both_ways(place, tmp_path)
    assert max(memory.growth.values()) < 32 << 20


# --- endings ---


class InFlight:
    """Requests of one connection, one of them with its answer begun, that are answered when the test says so."""

    def __init__(self, gateway: Gateway, origin: Origin, listener: str = "main") -> None:
        self.client = Http2Client(gateway.address(listener)).begin()
        self.upstreams: dict[bytes, OriginConnection] = {}
        for number in (1, 3, 5):
            self.client.send(get(stream=number, path=b"/%d" % number))
        self.client.send(headers(block(*pseudo(b"POST", b"/7")), 7, end=False))
        for _ in range(4):
            upstream = origin.accept()
            self.upstreams[upstream.read_request_head().request_target] = upstream
        self.upstreams[b"/5"].send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        self.client.wait(lambda: self.client.answer(5).length == 4, "half an answer")

    def __enter__(self) -> InFlight:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def finish(self) -> None:
        """All of them are served to their end."""
        client = self.client
        client.send(data(b"body", 7))
        upstream = self.upstreams[b"/7"]
        assert upstream.read_chunked() == (b"body", [])
        upstream.send(OK)
        self.upstreams[b"/5"].send(b"more")
        for path in (b"/1", b"/3"):
            self.upstreams[path].send(OK)
        assert [client.wait_for(number).body for number in (1, 3, 5, 7)] == [b"ok", b"ok", b"halfmore", b"ok"]


def assert_told_twice(client: Http2Client) -> None:
    """RFC 9113 section 6.8: first that it is about to end, then which stream is the last one; then it is closed."""
    client.read_all()
    assert [(last, code) for last, code, _ in client.goaways[:2]] == [(2**31 - 1, 0), (client.goaways[-1][0], 0)]
    assert {code for _, code, _ in client.goaways} == {Code.NO_ERROR}


@pytest.mark.landing
def test_a_drain_lets_all_streams_end(tmp_path: Path) -> None:
    with Origin() as origin:
        config = {"workers": 1, "listeners": {"main": BOTH}, "routes": [{"name": "all", "upstream": origin.url}]}
        with Gateway(config, tmp_path) as gateway, InFlight(gateway, origin) as flights:
            client = flights.client
            gateway.signal(signal.SIGTERM)
            client.wait(lambda: client.goaways, "the first GOAWAY")
            client.send(get(stream=9, path=b"/9"))  # it was on its way
            origin.accept_next().answer()
            assert client.wait_for(9).status == 200
            client.wait(lambda: len(client.goaways) == 2, "the second GOAWAY")
            assert client.goaways[-1][0] == 9
            client.send(get(stream=11, path=b"/11"))  # was never processed: it may be sent again elsewhere
            flights.finish()
            assert_told_twice(client)
            assert not client.answer(11).heads
            assert gateway.wait() == 0
            assert re.search(r"^drained 5 requests in .* s, 0 cut$", gateway.stderr.text(), re.M)


def test_a_listener_that_goes_lets_all_streams_end(tmp_path: Path) -> None:
    with Origin() as origin:
        routes = [{"name": "all", "upstream": origin.url}]
        config = {"listeners": {"main": BOTH, "gone": BOTH}, "routes": routes}
        with (
            Reloadable(config, tmp_path) as gateway,
            InFlight(gateway, origin) as staying,
            InFlight(gateway, origin, "gone") as flights,
        ):
            gateway.change(listeners={"main": BOTH})
            gateway.reload()
            flights.client.wait(lambda: flights.client.goaways, "the first GOAWAY")
            flights.finish()
            assert_told_twice(flights.client)
            staying.finish()
            assert not staying.client.goaways


@pytest.mark.landing
def test_a_reload_changes_what_the_next_stream_meets(tmp_path: Path) -> None:
    config = {"listeners": {"main": BOTH}, "routes": said("v1")}
    with Reloadable(config, tmp_path) as gateway, Http2Client(gateway.address()) as client:
        client.begin().send(get())
        assert client.wait_for(1).body == b"v1"
        gateway.change(routes=said("v2"))
        gateway.reload()
        client.send(get(stream=3))
        assert client.wait_for(3).body == b"v2"


def test_a_reload_changes_who_is_trusted_on_a_connection_that_stays(tmp_path: Path) -> None:
    claimed = get((b"x-forwarded-for", b"192.0.2.7"))
    with Origin() as origin:
        origin.serve()
        config = {"listeners": {"main": BOTH}, "routes": [{"name": "all", "upstream": origin.url}]}
        with Reloadable(config, tmp_path) as gateway, Http2Client(gateway.address()) as client:
            client.begin().send(claimed)
            assert client.wait_for(1).status == 200
            gateway.change(listeners={"main": {**BOTH, "trusted_proxies": ["127.0.0.0/8"]}})
            gateway.reload()
            client.send(get((b"x-forwarded-for", b"192.0.2.7"), stream=3))
            assert client.wait_for(3).status == 200
            assert not client.goaways
        seen = [request.get(b"X-Forwarded-For") for request in origin.requests]
        assert seen == [b"127.0.0.1", b"192.0.2.7, 127.0.0.1"]


def test_a_connection_does_not_outlive_the_authority_that_verified_its_client(tmp_path: Path) -> None:
    for name in ("ours", "others"):
        (tmp_path / name).mkdir()
    ours, others = Certificates(tmp_path / "ours"), Certificates(tmp_path / "others")
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(Path(ours.ca).read_bytes())
    certificate, key = ours.issue("a.test")
    tls = {"certificates": [{"certificate": certificate, "key": key}], "client_auth": {"ca": str(trusted)}}
    config = {
        "workers": 1,
        "admin": {"address": f"unix:{tmp_path}/admin"},
        "listeners": {"main": {"address": "127.0.0.1:0", "tls": tls}},
        "routes": said("ok"),
    }
    asked = block(*pseudo(scheme=b"https"))
    alice = client_tls(ours, ours.issue("alice"))
    alice.set_alpn_protocols(["h2"])
    with Gateway(config, tmp_path) as gateway, Http2Client(gateway.address(), tls=alice) as client:
        client.begin().send(headers(asked, 1))
        assert client.wait_for(1).status == 200
        trusted.write_bytes(Path(others.ca).read_bytes())
        gateway.stderr.wait_for(lambda line: b"generation 2" in line, 3 * DEADLINE)
        client.send(headers(asked, 3))
        refused = client.wait_for(3)
        assert (refused.status, b"connection_outdated" in refused.body) == (421, True)
        client.wait(lambda: client.goaways, "GOAWAY")


def test_a_listener_that_speaks_http2_no_more_ends_its_connections(tmp_path: Path) -> None:
    with (
        Reloadable({"listeners": {"main": BOTH}, "routes": said("v1")}, tmp_path) as gateway,
        Http2Client(gateway.address()) as client,
    ):
        client.begin().send(get())
        assert client.wait_for(1).body == b"v1"
        gateway.change(listeners={"main": {**BOTH, "protocols": ["http1"]}})
        gateway.reload()
        client.wait(lambda: client.goaways, "GOAWAY")


def said(text: str) -> list[dict[str, object]]:
    return [{"name": "said", "respond": {"body": text}}]


def test_an_upgrade_lets_all_streams_end(tmp_path: Path) -> None:
    with Origin() as origin:
        routes = [{"name": "all", "upstream": origin.url}]
        with (
            upgradable(tmp_path, listeners={"main": BOTH}, routes=routes) as gateway,
            InFlight(gateway, origin) as flights,
        ):
            gateway.upgrade()
            with Http2Client(gateway.address()) as client:
                client.begin().send(get(path=b"/new"))
                origin.accept().answer()
                assert client.wait_for(1).status == 200
            flights.finish()
            assert_told_twice(flights.client)


@pytest.mark.landing
def test_the_death_of_a_worker_ends_its_connections_and_no_others(tmp_path: Path) -> None:
    with Origin() as origin:
        origin.answer(OK)
        origin.serve()
        config = {"workers": 2, "listeners": {"main": BOTH}, "routes": [{"name": "all", "upstream": origin.url}]}
        with Gateway(config, tmp_path) as gateway, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Http2Client(gateway.address())) for _ in range(16)]
            for client in clients:
                client.begin().send(get())
                assert client.wait_for(1).status == 200
            before = gateway.worker_pids
            os.kill(before[0], signal.SIGKILL)
            wait_until(lambda: len(gateway.worker_pids) == 2 and before[0] not in gateway.worker_pids, "another worker")
            ended = 0
            for client in clients:
                client.send_gently(get(stream=3))
                client.wait_for_end(3)
                ended += not client.answer(3).ended
                assert client.answer(3).ended or client.ended
            assert ended < len(clients)
            with Http2Client(gateway.address()) as client:
                client.begin().send(get())
                assert client.wait_for(1).status == 200


def test_a_connection_that_is_reset_cancels_what_it_asked_for(tmp_path: Path) -> None:
    with Origin() as origin:
        config = {"workers": 1, "listeners": {"main": BOTH}, "routes": [{"name": "all", "upstream": origin.url}]}
        with Gateway(config, tmp_path) as gateway, InFlight(gateway, origin) as flights:
            flights.client.synchronize()
            flights.client.reset()
            for upstream in flights.upstreams.values():
                with contextlib.suppress(OSError):
                    upstream.read_to_end()
            for path in ("/1", "/3", "/5", "/7"):
                gateway.wait_for_record(path=path, fault="client_left")
