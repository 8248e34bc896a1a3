"""Processes that neither work nor die, and a start in poor surroundings."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from fastgw.config.settings.gateway import MOST_WORKERS
from tests.e2e.test_processes import (
    GET,
    GET_AND_CLOSE,
    answering,
    ask,
    ends_of,
    forwarding,
    wait_for_ends,
    wait_for_samples,
    wait_until_refused,
)
from tests.e2e.test_reload import Reloadable, saying
from tests.support.client import Client
from tests.support.forked import FASTGW
from tests.support.gateway import STOP_DEADLINE, Gateway, wait_until, write_config
from tests.support.origin import OK, Origin
from tests.support.peer import Unexpected

STATUS = {"address": "127.0.0.1:0"}
HUNG_DEADLINE = 60.0  # seconds; a worker is given 10 without a beat


def freeze(worker: int, gateway: Gateway) -> None:
    """Stop the worker, and wait until the supervisor has noticed."""
    os.kill(worker, signal.SIGSTOP)
    gateway.stderr.wait_for(lambda line: b"worker 1 (pid %d) has sent no heartbeat for 2 s" % worker in line)


class TestAWorkerHangs:
    def test_a_neighbour_accepts_for_it_until_it_beats_again(self, tmp_path):
        with Gateway(answering(status=STATUS), tmp_path) as gateway, contextlib.ExitStack() as stack:
            frozen, *_ = gateway.worker_pids
            os.kill(frozen, signal.SIGSTOP)
            clients = [stack.enter_context(gateway.connect()) for _ in range(20)]
            for client in clients:
                client.send(GET_AND_CLOSE)
            assert [client.read_response().status for client in clients] == [200] * 20
            wait_for_samples(gateway, {"fastgw_workers": 1})
            assert ask(gateway.ready["status"], "/readyz").status == 200
            os.kill(frozen, signal.SIGCONT)
            gateway.stderr.wait_for(lambda line: b"worker 1 (pid %d) sends heartbeats again" % frozen in line)
            wait_for_samples(gateway, {"fastgw_workers": 2, "fastgw_child_deaths_total": 0})
            assert frozen in gateway.worker_pids

    @pytest.mark.landing
    def test_it_writes_its_stack_and_is_replaced(self, tmp_path):
        """With the only worker hung the gateway is not ready; the next worker serves who has queued meanwhile."""
        with Gateway(answering(workers=1, status=STATUS), tmp_path) as gateway:
            worker, *_ = gateway.worker_pids
            freeze(worker, gateway)
            assert ask(gateway.ready["status"], "/readyz").status == 503
            gateway.stderr.wait_for(lambda line: b"(pid %d) ended: killed by SIGKILL" % worker in line, HUNG_DEADLINE)
            with gateway.connect() as client:
                assert client.exchange(GET).status == 200
            wait_for_samples(gateway, {"fastgw_workers": 1, "fastgw_child_deaths_total": 1})
        said = gateway.stderr.text()
        assert f"worker 1 (pid {worker}) has sent no heartbeat for 10 s: killing it; its stack:" in said
        assert "(most recent call first):" in said
        assert "sends heartbeats again" not in said

    def test_a_drain_does_not_wait_for_it(self, tmp_path):
        """The others finish what they have."""
        with Origin() as origin, Gateway(forwarding(origin, workers=2), tmp_path) as gateway:
            hung, _ = gateway.worker_pids
            freeze(hung, gateway)
            with gateway.connect() as client:
                client.send(GET)
                upstream = origin.accept()
                upstream.read_request()
                with ends_of([hung]) as ends:
                    gateway.signal(signal.SIGTERM)
                    wait_for_ends(ends)
                upstream.send(OK)
                assert client.read_response().status == 200
                assert gateway.wait() == 0
            assert f"worker 1 (pid {hung}) has sent no heartbeat for 2 s: killing it" in gateway.stderr.text()

    def test_it_hangs_during_the_drain(self, tmp_path):
        with Origin() as origin, Gateway(forwarding(origin), tmp_path) as gateway, gateway.connect() as client:
            client.send(GET)
            origin.accept().read_request()
            gateway.signal(signal.SIGTERM)
            wait_until_refused(gateway.address())
            (worker,) = gateway.worker_pids
            os.kill(worker, signal.SIGSTOP)
            assert gateway.wait() == 0
            assert f"worker 1 (pid {worker}) ended: killed by SIGKILL" in gateway.stderr.text()


class TestAWorkerHangsWhileTheOthersTakeAnotherConfiguration:
    def test_it_answers_nothing_by_the_old_one(self, tmp_path):
        """Whoever is connected to it when it is stopped, asks on, and waits until it is continued."""
        with Reloadable({"workers": 2, "routes": saying("v1")}, tmp_path) as gateway, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(gateway.connect()) for _ in range(20)]
            for client in clients:
                assert client.exchange(GET).body == b"v1"
            frozen, other = gateway.worker_pids
            freeze(frozen, gateway)
            gateway.change(routes=saying("v2"))
            gateway.reload()
            for client in clients:
                client.send(GET)
            with contextlib.suppress(ProcessLookupError):  # it is dead, and reaped by now
                os.kill(frozen, signal.SIGCONT)
            said = Counter(answer_of(client) for client in clients)
            assert set(said) == {b"v2", b""}
            gateway.stderr.wait_for(lambda line: b"(pid %d) ended: killed by SIGKILL" % frozen in line)
            wait_until(lambda: len(gateway.worker_pids) == 2, "another worker")
            assert other in gateway.worker_pids
            for _ in range(20):
                with gateway.connect() as client:
                    assert client.exchange(GET_AND_CLOSE).body == b"v2"


class TestAllWorkersHangWhileAnotherConfigurationIsProposed:
    def test_it_is_in_force_once_a_worker_has_prepared_it(self, tmp_path):
        """The worker is given the time of any other that hangs; its replacement takes the configuration."""
        with Reloadable({"workers": 1, "routes": saying("v1")}, tmp_path) as gateway:
            (worker,) = gateway.worker_pids
            freeze(worker, gateway)
            gateway.change(routes=saying("v2"))
            gateway.signal(signal.SIGHUP)
            gateway.stderr.wait_for(
                lambda line: b"reloaded: generation 2 on 1/2 workers, 1 does not answer" in line, HUNG_DEADLINE
            )
            assert b"would keep serving the old configuration" not in gateway.stderr.text().encode()
            with gateway.connect() as client:
                assert client.exchange(GET_AND_CLOSE).body == b"v2"


def answer_of(client: Client) -> bytes:
    """The body of an answer; empty where the connection is cut."""
    try:
        return client.read_response().body
    except (ConnectionError, Unexpected):
        return b""


class TestControlHangs:
    def test_it_is_replaced_and_the_probes_and_metrics_are_answered_meanwhile(self, tmp_path):
        """Nobody has to be asked for a token or a page until it has died: 5 s later another one is there."""
        with Reloadable({"workers": 2, "status": STATUS, "routes": saying("v1")}, tmp_path) as gateway:
            hung = control_pid(gateway)
            os.kill(hung, signal.SIGSTOP)
            gateway.stderr.wait_for(lambda line: b"control (pid %d) has sent no heartbeat for 2 s" % hung in line)
            status = gateway.ready["status"]
            assert [ask(status, path).status for path in ("/livez", "/readyz")] == [200, 200]
            metrics = ask(status, "/metrics")
            assert metrics.status == 200
            assert b"fastgw_workers 2" in metrics.body
            with gateway.connect() as client:
                assert client.exchange(GET).body == b"v1"
            gateway.stderr.wait_for(lambda line: b"control (pid %d) ended: killed by SIGKILL" % hung in line)
            wait_until(lambda: control_pid(gateway) not in (0, hung), "another control process")
            wait_for_samples(gateway, {"fastgw_child_deaths_total": 1})
            gateway.change(routes=saying("v2"))
            gateway.reload()
            with gateway.connect() as client:
                assert client.exchange(GET).body == b"v2"

    def test_it_beats_again_before_that(self, tmp_path):
        with Reloadable({"workers": 1, "status": STATUS, "routes": saying("v1")}, tmp_path) as gateway:
            stopped = control_pid(gateway)
            os.kill(stopped, signal.SIGSTOP)
            gateway.stderr.wait_for(lambda line: b"control (pid %d) has sent no heartbeat for 2 s" % stopped in line)
            os.kill(stopped, signal.SIGCONT)
            gateway.stderr.wait_for(lambda line: b"control (pid %d) sends heartbeats again" % stopped in line)
            wait_for_samples(gateway, {"fastgw_child_deaths_total": 0})
            assert control_pid(gateway) == stopped


def control_pid(gateway: Gateway) -> int:
    """The process that calls itself so; 0: there is none."""
    for pid in gateway.child_pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "fastgw control\n":
                return pid
    return 0


@pytest.mark.landing
def test_quit_drains(tmp_path):
    with Origin() as origin, Gateway(forwarding(origin), tmp_path) as gateway, gateway.connect() as client:
        client.send(GET)
        upstream = origin.accept()
        upstream.read_request()
        for pid in (*gateway.child_pids, gateway.pid):  # as a terminal does
            os.kill(pid, signal.SIGQUIT)
        wait_until_refused(gateway.address())
        upstream.send(OK)
        assert client.read_response().status == 200
        assert gateway.wait() == 0
        assert b"drained 1 requests" in gateway.stderr.lines[-1]


def test_a_worker_that_dies_of_a_signal_without_a_name(tmp_path):
    with Gateway(answering(workers=1), tmp_path) as gateway:
        (worker,) = gateway.worker_pids
        os.kill(worker, signal.SIGRTMIN + 1)
        gateway.stderr.wait_for(lambda line: b"ended: killed by signal %d;" % (signal.SIGRTMIN + 1) in line)
        with gateway.connect() as client:
            assert client.exchange(GET).status == 200


@pytest.mark.parametrize("closed", [(0,), (1,), (1, 2), (0, 1, 2)])
def test_a_start_without_standard_descriptors(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """What would be printed is lost, and nothing else gets it."""
    socket_file, go_on = tmp_path / "gw.sock", [f"{number}>&-" for number in closed]
    log = {"sink": "stdout", "format": "json"}
    file = write_config(answering(f"unix:{socket_file}", version=1, access_logs=[log]), tmp_path)
    ready, ready_in = os.pipe()
    with subprocess.Popen(
        ["sh", "-c", f'exec "$0" run "$1" --ready-fd {ready_in} {" ".join(go_on)}', FASTGW, str(file)],
        pass_fds=[ready_in],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(ready_in)
        with open(ready, "rb") as told:
            assert told.readline().startswith(b'{"listeners"')
        with Client(f"unix:{socket_file}") as client:
            assert client.exchange(GET).status == 200
        process.terminate()
        assert process.wait(STOP_DEADLINE) == 0


class TestMemoryThatCannotBeHad:
    def test_it_is_told(self, tmp_path):
        limits = {"connections": 10_000_000, "connections_per_ip": 1}  # a GiB for each worker
        file = write_config(answering(version=1, limits=limits), tmp_path)
        command = ["sh", "-c", 'ulimit -v 2000000; exec "$0" run "$1"', FASTGW, str(file)]
        self.assert_told(command, "workers: 2, limits.connections: 10000000 and caches")

    def test_more_workers_than_a_gateway_may_have_are_refused_where_they_are_asked_for(self):
        for number in (MOST_WORKERS + 1, 10**18):
            command = [FASTGW, "demo", "--workers", f"{number}"]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=STOP_DEADLINE, check=False)
            assert f"{number} is not in the range 1<=x<={MOST_WORKERS}" in ended.stderr
            assert ended.returncode == 2

    def assert_told(self, command: list[str], why: str) -> None:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=STOP_DEADLINE, check=False)
        assert ended.stderr == f"fastgw: cannot have the shared memory that {why} need; lower them\n"
        assert ended.returncode == 3


class TestTheStatusPort:
    def test_who_asks_nothing_makes_room(self, tmp_path):
        with Gateway(answering(workers=1, status=STATUS), tmp_path) as gateway, contextlib.ExitStack() as stack:
            status = gateway.ready["status"]
            idle = [stack.enter_context(Client(status)) for _ in range(64)]
            for client in idle:
                client.send(b"GET /livez HTTP/1.1\r\n")
            for _ in range(3):
                assert ask(status, "/livez").status == 200
            idle[0].assert_ended()

    def test_who_asks_nothing_is_not_waited_for(self, tmp_path):
        with Gateway(answering(workers=1, status=STATUS), tmp_path) as gateway, Client(gateway.ready["status"]) as idle:
            idle.send(b"GET")
            idle.assert_ended()
