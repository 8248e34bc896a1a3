"""Supervisor, workers and control as processes: how they start, what they survive, how they end."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, Response, byte_by_byte, connect, whole
from tests.support.forked import FASTGW, ran
from tests.support.gateway import STOP_DEADLINE, Gateway, wait_until, write_config
from tests.support.origin import OK, Origin
from tests.support.peer import DEADLINE

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GET_AND_CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def answering(address: str = "127.0.0.1:0", workers: int = 2, **more: Any) -> dict[str, Any]:
    """A gateway that answers by itself."""
    return {
        "version": 1,
        "workers": workers,
        "listeners": {"main": {"address": address}},
        "routes": [{"name": "all", "respond": {"body": "ok"}}],
        **more,
    }


def forwarding(origin: Origin, workers: int = 1, **more: Any) -> dict[str, Any]:
    return answering(workers=workers, routes=[{"name": "all", "upstream": origin.url}], **more)


def ask(address: str, path: str, method: str = "GET") -> Response:
    """One request on a connection of its own, to the status listener."""
    with Client(address) as client:
        request = f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        return client.exchange(request, method.encode())


def samples(address: str) -> dict[str, float]:
    """The metrics, as `name{labels}` -> value."""
    lines = ask(address, "/metrics").body.decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def wait_for_samples(gateway: Gateway, expected: dict[str, float]) -> None:
    """Return once the metrics say so. A request is counted when it is over, which is after its answer is sent."""
    until = time.monotonic() + DEADLINE
    while (seen := {name: samples(gateway.ready["status"]).get(name) for name in expected}) != expected:
        assert time.monotonic() < until, f"{seen} after {DEADLINE} s"


def wait_until_refused(address: str) -> None:
    """Return once nobody listens there any more."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        try:
            connect(address).close()
        except (ConnectionRefusedError, ConnectionResetError):
            return
    raise AssertionError(f"{address} still accepts after {DEADLINE} s")


@contextlib.contextmanager
def ends_of(pids: list[int]) -> Iterator[list[int]]:
    """Descriptors that become readable when these processes end, whoever's children they are."""
    with contextlib.ExitStack() as stack:
        descriptors = []
        for pid in pids:
            descriptors.append(os.pidfd_open(pid))
            stack.callback(os.close, descriptors[-1])
        yield descriptors


def wait_for_ends(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        assert wait([descriptor], STOP_DEADLINE), "a process goes on"


def failed_start(config: dict[str, Any], directory: Path) -> tuple[int, str]:
    """Exit code and stderr of a run that ends by itself."""
    ended = ran([FASTGW, "run", write_config(config, directory)])
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


class TestAWorkerDies:
    @pytest.mark.landing
    def test_what_was_queued_there_is_answered_by_others(self, tmp_path):
        """The worker is frozen first, so that connections wait in its queue, and then killed."""
        with Gateway(answering(), tmp_path) as gateway, contextlib.ExitStack() as stack:
            frozen, _ = gateway.worker_pids
            os.kill(frozen, signal.SIGSTOP)
            clients = [stack.enter_context(gateway.connect()) for _ in range(40)]
            for client in clients:
                client.send(GET_AND_CLOSE)
            os.kill(frozen, signal.SIGKILL)
            assert [client.read_response().status for client in clients] == [200] * 40
            gateway.stderr.wait_for(lambda line: b"worker 1 (pid %d) ended: killed by SIGKILL" % frozen in line)

    @pytest.mark.landing
    def test_another_takes_its_place(self, tmp_path):
        with Gateway(answering(workers=1), tmp_path) as gateway:
            (first,) = gateway.worker_pids
            os.kill(first, signal.SIGKILL)
            with gateway.connect() as client:
                assert client.exchange(GET).status == 200
            (second,) = gateway.worker_pids
            assert second != first

    @pytest.mark.landing
    def test_its_counters_are_kept_and_its_gauges_are_not(self, tmp_path):
        config = answering(workers=1, status={"address": "127.0.0.1:0"})
        served = 'fastgw_requests_total{listener="main",method="GET",route="all",status="200"}'
        with Gateway(config, tmp_path) as gateway:
            with gateway.connect() as client:
                assert client.exchange(GET).status == 200
                wait_for_samples(gateway, {served: 1, "fastgw_connections": 1})
                worker, *_ = gateway.worker_pids
                os.kill(worker, signal.SIGKILL)
                client.assert_ended()
            wait_for_samples(gateway, {served: 1, "fastgw_connections": 0, "fastgw_child_deaths_total": 1})
            with gateway.connect() as client:
                assert client.exchange(GET).status == 200
                wait_for_samples(gateway, {served: 2, "fastgw_connections": 1})

    def test_a_crash_loop_is_told(self, tmp_path):
        with Gateway(answering(workers=1), tmp_path) as gateway:
            for _ in range(5):
                (worker,) = wait_for_children(gateway, 1)
                os.kill(worker, signal.SIGKILL)
                gateway.stderr.wait_for(lambda line, pid=worker: b"(pid %d) ended" % pid in line)
            gateway.stderr.wait_for(lambda line: b"worker 1 died 5 times" in line)
            with gateway.connect() as client:
                assert client.exchange(GET).status == 200

    @pytest.mark.landing
    def test_when_the_supervisor_dies_nobody_stays(self, tmp_path):
        gateway = Gateway(answering(status={"address": "127.0.0.1:0"}), tmp_path)
        with ends_of(gateway.child_pids) as ends:
            assert len(ends) == 3
            gateway.signal(signal.SIGKILL)
            wait_for_ends(ends)
        gateway.wait()


def wait_for_children(gateway: Gateway, count: int) -> list[int]:
    until = time.monotonic() + DEADLINE
    while len(pids := gateway.worker_pids) != count:
        assert time.monotonic() < until, f"{pids} after {DEADLINE} s"
    return pids


class TestTheStart:
    @pytest.mark.landing
    def test_a_second_gateway_on_a_taken_port_is_refused(self, tmp_path):
        with Gateway(answering(), tmp_path) as gateway:
            code, said = failed_start(answering(gateway.address()), tmp_path)
            assert code == 3
            assert said.splitlines()[-1] == (
                f"fastgw: cannot listen on {gateway.address()}: the address is in use "
                f"(another fastgw, pid {gateway.pid}, has it)"
            )

    def test_a_port_that_something_else_has(self, tmp_path):
        with Origin() as origin:
            code, said = failed_start(answering(origin.authority), tmp_path)
            assert code == 3
            assert f"cannot listen on {origin.authority}: the address is in use (" in said
        assert f"pid {os.getpid()}, has it)" in said

    def test_an_address_of_another_machine(self, tmp_path):
        code, said = failed_start(answering("192.0.2.1:0"), tmp_path)
        assert (code, said.splitlines()[-1]) == (
            3,
            "fastgw: cannot listen on 192.0.2.1:0: Cannot assign requested address",
        )

    def test_a_taken_status_port_is_refused_too(self, tmp_path):
        with Gateway(answering(), tmp_path) as gateway:
            code, said = failed_start(answering(status={"address": gateway.address()}), tmp_path)
        assert (code, "cannot listen" in said) == (3, True)

    def test_a_child_that_dies_before_it_is_ready_ends_the_start(self, tmp_path):
        program = f"""
import sys
from fastgw.config import load
from fastgw.filters import TYPES
from fastgw.runtime.node.startup import CannotStart
from fastgw.runtime.run import run_gateway

def work(channel):
    raise RuntimeError("no such luck")

try:
    run_gateway(lambda: load({str(write_config(answering(), tmp_path))!r}, TYPES), print, None, {{"x": work}})
except CannotStart as error:
    sys.exit(str(error))
"""
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=STOP_DEADLINE)
        assert ended.stdout == ""
        *_, why, last = ended.stderr.splitlines()
        assert "x: RuntimeError: no such luck" in why
        assert re.fullmatch(r"could not start: x \(pid \d+\) ended: exit status 70", last)

    def test_limits_that_the_system_cannot_hold_are_told_with_numbers(self, tmp_path):
        config = answering(workers=1, limits={"connections": 10_000_000})
        with Gateway(config, tmp_path) as gateway:
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            warning = gateway.stderr.wait_for(lambda line: b"limits.connections" in line).decode()
        assert f"limits.connections is 10000000, but {hard} open files" in warning


class TestTheEnd:
    @pytest.mark.landing
    def test_term_lets_a_slow_response_finish(self, tmp_path):
        """New clients are refused at once; who is being served is served to the end; the last line counts."""
        with Origin() as origin, Gateway(forwarding(origin), tmp_path) as gateway, gateway.connect() as client:
            client.send(GET)
            upstream = origin.accept()
            upstream.read_request()
            gateway.signal(signal.SIGTERM)
            wait_until_refused(gateway.address())
            upstream.send(OK)
            response = client.read_response()
            assert (response.status, response.get(b"Connection")) == (200, b"close")
            client.assert_ended()
            assert gateway.wait() == 0
            last = gateway.stderr.lines[-1].decode()
            assert re.match(r"drained 1 requests in \d+\.\d s, 0 cut\n", last)

    @pytest.mark.landing
    def test_what_does_not_finish_in_time_is_cut_and_counted(self, tmp_path):
        config = {"timeouts": {"drain": {"requests": "100ms", "tunnels": "100ms"}}}
        with Origin() as origin, Gateway(forwarding(origin, **config), tmp_path) as gateway:
            with gateway.connect() as client:
                client.send(GET)
                origin.accept().read_request()
                gateway.signal(signal.SIGTERM)
                assert gateway.wait() == 0
            assert gateway.stderr.lines[-1].endswith(b" s, 1 cut\n")

    @pytest.mark.parametrize("impatience", [signal.SIGINT, signal.SIGTERM])
    def test_a_second_signal_ends_the_drain(self, tmp_path, impatience):
        with Origin() as origin, Gateway(forwarding(origin), tmp_path) as gateway, gateway.connect() as client:
            client.send(GET)
            origin.accept().read_request()
            gateway.signal(signal.SIGTERM)
            wait_until_refused(gateway.address())
            while gateway.process.poll() is None:
                gateway.signal(impatience)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    gateway.process.wait(0.2)
            client.read_to_end()
            assert gateway.wait() == 0
            assert gateway.stderr.lines[-1] == b"at once, without draining\n"

    @pytest.mark.landing
    def test_int_stops_at_once(self, tmp_path):
        with Origin() as origin, Gateway(forwarding(origin), tmp_path) as gateway, gateway.connect() as client:
            client.send(GET)
            origin.accept().read_request()
            with ends_of(gateway.child_pids) as ends:
                gateway.signal(signal.SIGINT)
                wait_for_ends(ends)
            assert gateway.wait() == 0
            assert gateway.stderr.lines[-1] == b"at once, without draining\n"

    def test_what_was_queued_when_the_drain_begins_is_served(self, tmp_path):
        """The worker is frozen, so that requests queue; then it learns of drain and queue at once."""
        with Gateway(answering(workers=1), tmp_path) as gateway, contextlib.ExitStack() as stack:
            (worker,) = gateway.worker_pids
            os.kill(worker, signal.SIGSTOP)
            clients = [stack.enter_context(gateway.connect()) for _ in range(10)]
            for client in clients:
                client.send(GET)
            gateway.signal(signal.SIGTERM)
            os.kill(worker, signal.SIGCONT)
            assert [client.read_response().status for client in clients] == [200] * 10
            assert gateway.wait() == 0

    def test_signals_to_the_whole_group_are_the_supervisors_affair(self, tmp_path):
        """A terminal's Ctrl-C, or a service manager's TERM, reaches the workers as well."""
        with Origin() as origin, Gateway(forwarding(origin), tmp_path) as gateway, gateway.connect() as client:
            client.send(GET)
            upstream = origin.accept()
            upstream.read_request()
            for pid in (*gateway.child_pids, gateway.pid, gateway.pid):
                os.kill(pid, signal.SIGTERM)
            wait_until_refused(gateway.address())
            upstream.send(OK)
            assert client.read_response().status == 200
            assert gateway.wait() == 0

    def test_hup_without_a_file_changes_nothing_and_says_so(self, tmp_path):
        arguments = ["--listen", "127.0.0.1:0", "--to", "http://127.0.0.1:1", "--access-log", "access.log"]
        with Gateway(None, tmp_path, arguments) as gateway:
            gateway.signal(signal.SIGHUP)
            gateway.stderr.wait_for(lambda line: line.startswith(b"SIGHUP: nothing to reload"))
            with gateway.connect() as client:
                assert client.exchange(GET).status == 502


class TestListeners:
    @pytest.mark.landing
    def test_each_worker_slot_has_a_queue_and_all_serve(self, tmp_path):
        """Every connection is answered although the kernel spreads them over the workers as it likes."""
        with Gateway(answering(workers=3), tmp_path) as gateway:
            for _ in range(30):
                with gateway.connect() as client:
                    assert client.exchange(GET).body == b"ok"

    def test_ipv6_is_ipv6_only(self, tmp_path):
        with Gateway(answering("[::1]:0"), tmp_path) as gateway:
            assert gateway.address().startswith("[::1]:")
            with gateway.connect() as client:
                assert client.exchange(GET).status == 200
        with Gateway(answering("[::]:0"), tmp_path) as gateway, pytest.raises(ConnectionRefusedError):
            connect(f"127.0.0.1:{gateway.port()}")

    @pytest.mark.landing
    def test_several_listeners_on_one_gateway(self, tmp_path):
        path = tmp_path / "gw.sock"
        config = answering(
            listeners={"main": {"address": "127.0.0.1:0"}, "local": {"address": f"unix:{path}"}},
            routes=[
                {"name": "outside", "listeners": ["main"], "respond": {"body": "outside"}},
                {"name": "inside", "listeners": ["local"], "respond": {"body": "inside"}},
            ],
        )
        with Gateway(config, tmp_path) as gateway:
            for listener, body in (("main", b"outside"), ("local", b"inside")):
                with gateway.connect(listener) as client:
                    assert client.exchange(GET).body == body

    @pytest.mark.landing
    def test_a_unix_socket_is_the_owners_and_goes_with_the_gateway(self, tmp_path):
        path = tmp_path / "gw.sock"
        with Gateway(answering(f"unix:{path}"), tmp_path) as gateway:
            assert path.stat().st_mode & 0o777 == 0o660
            assert gateway.address() == f"unix:{path}"
            with gateway.connect() as client:
                assert client.exchange(GET).status == 200
        assert not path.exists()

    def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(self, tmp_path):
        path = tmp_path / "gw.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with Gateway(answering(f"unix:{path}"), tmp_path) as gateway:
            code, said = failed_start(answering(f"unix:{path}"), tmp_path)
            assert code == 3
            assert f"cannot listen on unix:{path}: the address is in use (another fastgw, pid {gateway.pid}" in said
            with gateway.connect() as client:
                assert client.exchange(GET).status == 200

    def test_a_file_in_the_way_of_a_unix_socket_is_not_touched(self, tmp_path):
        path = tmp_path / "precious"
        path.write_text("data")
        assert failed_start(answering(f"unix:{path}"), tmp_path)[0] == 3
        assert path.read_text() == "data"


V2 = b"\r\n\r\n\x00\r\nQUIT\n"
PROXY_HEADERS = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", "192.0.2.7"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", "2001:db8::7"),
    (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    (
        V2 + b"\x21\x11" + struct.pack("!H4s4sHH", 12, bytes([192, 0, 2, 9]), bytes([198, 51, 100, 1]), 4711, 443),
        "192.0.2.9",
    ),
    (V2 + b"\x20\x00\x00\x00", "127.0.0.1"),
]


class TestProxyProtocol:
    @staticmethod
    def config(trusted: str, **more: Any) -> dict[str, Any]:
        listener = {"address": "127.0.0.1:0", "trusted_proxies": [trusted], "proxy_protocol": "required"}
        return answering(workers=1, listeners={"main": listener}, **more)

    @pytest.fixture(scope="class")
    @classmethod
    def trusting(cls, tmp_path_factory):
        """Where a header is required, and believed."""
        with Gateway(cls.config("127.0.0.1"), tmp_path_factory.mktemp("trusting")) as gateway:
            yield gateway

    @pytest.mark.parametrize("send", [whole, byte_by_byte])
    @pytest.mark.parametrize(("header", "client"), PROXY_HEADERS)
    def test_the_header_tells_the_client(self, trusting, send, header, client):
        """And what follows it in the same segment is the request."""
        path = f"/{send.__name__}/{header.hex()}"
        with trusting.connect() as peer:
            send(peer, header + GET.replace(b"/", path.encode(), 1))
            assert peer.read_response().status == 200
            assert trusting.wait_for_record(path=path)["client"] == client

    @pytest.mark.landing
    def test_the_upstream_learns_of_the_client(self, tmp_path):
        with Origin() as origin:
            config = self.config("127.0.0.1", routes=[{"name": "all", "upstream": origin.url}])
            with Gateway(config, tmp_path) as gateway, gateway.connect() as peer:
                peer.send(PROXY_HEADERS[0][0] + GET)
                request = origin.accept().answer()
                assert peer.read_response().status == 200
        assert request.get(b"X-Forwarded-For") == b"192.0.2.7"
        assert request.get(b"X-Forwarded-Port") == b"80"

    def test_who_may_write_to_a_unix_socket_is_trusted(self, tmp_path):
        listener = {"address": f"unix:{tmp_path}/gw.sock", "proxy_protocol": "required"}
        with (
            Gateway(answering(workers=1, listeners={"main": listener}), tmp_path) as gateway,
            gateway.connect() as peer,
        ):
            peer.send(PROXY_HEADERS[0][0] + GET)
            assert peer.read_response().status == 200
            assert gateway.wait_for_record(status=200)["client"] == "192.0.2.7"

    @pytest.mark.landing
    def test_a_peer_that_is_no_trusted_proxy_is_refused(self, tmp_path):
        with Gateway(self.config("10.0.0.0/8"), tmp_path) as gateway, gateway.connect() as peer:
            peer.send_gently(PROXY_HEADERS[0][0] + GET)
            peer.assert_ended()
            gateway.stderr.wait_for(lambda line: b"listener main: connection from 127.0.0.1 refused" in line)

    @pytest.mark.parametrize("header", [b"", b"PROXY TCP4 nonsense\r\n", V2 + b"\x31\x11\x00\x0c"])
    def test_without_a_proper_header_nothing_is_served(self, trusting, header):
        with trusting.connect() as peer:
            peer.send_gently(header + GET)
            peer.assert_ended()

    def test_who_has_sent_the_header_when_the_drain_begins_is_served(self, tmp_path):
        with Gateway(self.config("127.0.0.1"), tmp_path) as gateway, gateway.connect() as peer:
            (worker,) = gateway.worker_pids
            os.kill(worker, signal.SIGSTOP)
            peer.send(PROXY_HEADERS[0][0] + GET)
            gateway.signal(signal.SIGTERM)
            os.kill(worker, signal.SIGCONT)
            assert peer.read_response().status == 200
            assert gateway.wait() == 0

    def test_a_header_that_does_not_come_is_not_waited_for(self, tmp_path):
        config = self.config("127.0.0.1", timeouts={"request_headers": "100ms"})
        with Gateway(config, tmp_path) as gateway, gateway.connect() as peer:
            peer.send(b"PROXY ")
            peer.assert_ended()


class TestLimits:
    def test_out_of_descriptors_means_waiting(self, tmp_path):
        """The worker may open no further file; the client waits in the queue until it may again."""
        with Gateway(answering(workers=1), tmp_path) as gateway:
            (worker,) = gateway.worker_pids
            before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, before[1]))
            with gateway.connect() as client:
                client.send(GET)
                gateway.stderr.wait_for(lambda line: b"not accepting for 0.1 s: Too many open files" in line)
                resource.prlimit(worker, resource.RLIMIT_NOFILE, before)
                assert client.read_response().status == 200

    @pytest.mark.landing
    def test_one_connection_too_many_is_told_503(self, tmp_path):
        """The limit is the node's: it does not matter which of the workers has the connections."""
        late = {"fault": {"delay": {"time": "60s"}}}
        config = answering(workers=2, limits={"connections": 2}, status={"address": "127.0.0.1:0"}, filters=late)
        with Gateway(config, tmp_path) as gateway, gateway.connect() as first, gateway.connect() as second:
            first.send(GET)
            second.send(GET)
            wait_until(lambda: gateway.sum_of("fastgw_connections") == 2, "both to be counted")
            for _ in range(8):
                with gateway.connect() as third:
                    assert third.read_response().status == 503


class TestStatus:
    @pytest.fixture
    def gateway(self, tmp_path) -> Iterator[Gateway]:
        with Gateway(answering(workers=1, status={"address": "127.0.0.1:0"}), tmp_path) as gateway:
            yield gateway

    @pytest.mark.landing
    def test_probes_and_metrics(self, gateway):
        status = gateway.ready["status"]
        assert ask(status, "/livez").status == 200
        assert ask(status, "/readyz").body == b"ready\n"
        assert ask(status, "/elsewhere").status == 404
        response = ask(status, "/metrics")
        assert response.get(b"Content-Type") == b"text/plain; version=0.0.4; charset=utf-8"
        assert b"\nfastgw_workers 1.0\n" in response.body

    def test_head_has_no_body_and_other_methods_are_refused(self, gateway):
        status = gateway.ready["status"]
        assert int(ask(status, "/livez", "HEAD").get(b"Content-Length") or 0) > 0
        refused = ask(status, "/livez", "POST")
        assert (refused.status, refused.get(b"Allow")) == (405, b"GET, HEAD")

    @pytest.mark.parametrize(
        ("request_bytes", "code"),
        [
            (b"GET /livez HTTP/1.1\r\n\r\n", 400),
            (b"GET /livez HTTP/1.1\nHost: a\n\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        ],
    )
    def test_it_is_as_strict_as_the_gateway(self, gateway, request_bytes, code):
        with Client(gateway.ready["status"]) as client:
            client.send_gently(request_bytes)
            assert client.read_response().status == code

    @pytest.mark.landing
    def test_control_is_replaced_and_nobody_is_hurt_meanwhile(self, gateway):
        (worker, *_), control = gateway.worker_pids, gateway.control_pid
        os.kill(control, signal.SIGKILL)
        with gateway.connect() as client:
            assert client.exchange(GET).status == 200
        assert ask(gateway.ready["status"], "/readyz").status == 200
        assert gateway.worker_pids[0] == worker

    @pytest.mark.landing
    def test_it_is_not_ready_while_it_drains(self, tmp_path):
        with Origin() as origin:
            config = forwarding(origin, status={"address": "127.0.0.1:0"})
            with Gateway(config, tmp_path) as gateway, gateway.connect() as client:
                client.send(GET)
                upstream = origin.accept()
                upstream.read_request()
                gateway.signal(signal.SIGTERM)
                wait_until_refused(gateway.address())
                assert ask(gateway.ready["status"], "/readyz").status == 503
                assert ask(gateway.ready["status"], "/livez").status == 200
                upstream.send(OK)
                assert client.read_response().status == 200
                assert gateway.wait() == 0

    def test_on_a_unix_socket(self, tmp_path):
        address = f"unix:{tmp_path / 'status.sock'}"
        with Gateway(answering(workers=1, status={"address": address}), tmp_path) as gateway:
            assert gateway.ready["status"] == address
            assert ask(address, "/readyz").status == 200


@pytest.mark.landing
def test_usr1_reopens_the_logs_of_all_workers(tmp_path):
    log = tmp_path / "access.log"
    with Gateway(answering(access_logs=[{"sink": str(log)}]), tmp_path) as gateway, gateway.connect() as client:
        assert client.exchange(GET).status == 200
        wait_for_file(log, b"GET")
        log.rename(tmp_path / "access.log.1")
        gateway.signal(signal.SIGUSR1)
        wait_for_file(log, b"")
        assert client.exchange(GET).status == 200
        wait_for_file(log, b"GET")


def wait_for_file(file: Path, content: bytes) -> None:
    until = time.monotonic() + DEADLINE
    while not (file.exists() and content in file.read_bytes()):
        assert time.monotonic() < until, f"{file} has no {content!r} after {DEADLINE} s"


@pytest.mark.landing
def test_no_process_leaves_a_core_dump(tmp_path: Path) -> None:
    """It would contain keys."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        with Gateway(answering(workers=1), tmp_path) as gateway:
            for pid in (gateway.pid, *gateway.child_pids):
                assert re.search(r"^Max core file size +0 ", Path(f"/proc/{pid}/limits").read_text(), re.MULTILINE)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
