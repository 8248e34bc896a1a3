"""Too few descriptors while processes are replaced: told, tried again, and nothing is lost for good."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fastgw.runtime.process.machine_capacity import SPARE_FILES
from tests.e2e.admin_calls import is_served, read
from tests.e2e.test_reload import ANYWHERE, Reloadable, gateway_saying
from tests.support.gateway import STOP_DEADLINE, Gateway, GatewayFailed, wait_until


def descriptors_of(pid: int) -> list[int]:
    return sorted(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir())


@contextlib.contextmanager
def limited(gateway: Reloadable, files: int) -> Iterator[None]:
    """The supervisor may have so many, and who is born meanwhile; in the end all may have as many as before."""
    before = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        yield
    finally:
        for pid in (gateway.pid, *gateway.child_pids):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def is_short(gateway: Reloadable) -> bool:
    return any(b"Too many open files" in line for line in gateway.stderr.lines)


def test_the_supervisor_goes_on_with_fewer_than_it_has_open(tmp_path: Path) -> None:
    """`poll` refuses to look at more descriptors than there may be."""
    with gateway_saying("v1", tmp_path) as gateway:
        with limited(gateway, 3):
            os.kill(gateway.worker_pids[0], signal.SIGKILL)
            gateway.stderr.wait_for(lambda line: b"worker 1 cannot be started: Too many open files" in line)
            assert gateway.answer() == (200, b"v1")
        wait_until(lambda: len(gateway.worker_pids) == 2, "the worker", STOP_DEADLINE)
        assert gateway.reload() == "reloaded: generation 2 on 2/2 workers"


def test_control_that_begins_without_any_serves_once_there_are_some(tmp_path: Path) -> None:
    """How many there are decides what it is that it cannot open: its loop, what it watches, or a listener.

    With one worker, the supervisor has fewer descriptors than control, which keeps no sockets of listeners.
    """
    told = b""
    with gateway_saying("v1", tmp_path, workers=1) as gateway:
        wait_until(lambda: is_served(gateway), "control")
        highest = max(descriptors_of(gateway.control_pid))
    for files in range(highest - 4, highest + 2):  # up to the first with which only the admin listener goes short
        with gateway_saying("v1", tmp_path, workers=1) as gateway:
            with limited(gateway, files):
                os.kill(gateway.control_pid, signal.SIGKILL)
                wait_until(partial(is_short, gateway), "what is told", STOP_DEADLINE)
            wait_until(partial(is_served, gateway), "control", STOP_DEADLINE)
            assert read(gateway, "/status")["state"] == "serving"
            told = b"".join(gateway.stderr.lines)
        assert b"defect" not in told
        if b"the admin listener cannot be served: Too many open files; tried again in 1 s" in told:
            break
    assert b"the admin listener is served" in told


IDLE = 30


def test_a_reload_that_finds_no_descriptor_has_those_of_idle_upstream_connections(tmp_path: Path) -> None:
    """The log says what to do, and the next attempt succeeds."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        thread = threading.Thread(target=answer_all_at_once, args=(service,))
        thread.start()
        config = {
            "workers": 1,
            "listeners": {"main": ANYWHERE},
            "upstreams": {"o": {"targets": [f"http://127.0.0.1:{service.getsockname()[1]}"]}},
            "routes": [{"name": "all", "upstream": "o"}],
        }
        with Gateway(config, tmp_path) as gateway, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(gateway.connect()) for _ in range(IDLE)]
            for client in clients:
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert {client.read_response().status for client in clients} == {204}
            (worker,) = gateway.worker_pids
            opened, most = descriptors_of(worker), resource.prlimit(worker, resource.RLIMIT_NOFILE)[1]
            first_free = next(number for number in range(len(opened) + 1) if number not in opened)
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (first_free, most))
            gateway.signal(signal.SIGHUP)
            line = gateway.stderr.wait_for(lambda line: b"not reloaded" in line, STOP_DEADLINE)
            assert b"too many open files; raise the limit (ulimit -n)" in line
            gateway.stderr.wait_for(lambda line: line.startswith(b"reloaded: generation 2 on 1/1"), STOP_DEADLINE)
        thread.join()


def answer_all_at_once(service: socket.socket) -> None:
    """Answer so many requests, each on a connection of its own, once all are there; wait for the connections' end."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(service.accept()[0]) for _ in range(IDLE)]
        for connection in connections:
            connection.recv(65536)
        for connection in connections:
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        for connection in connections:
            connection.recv(1)


def test_a_gateway_does_not_start_with_too_few_to_serve_a_client(tmp_path: Path) -> None:
    """It would be ready, and each client would wait for good."""
    config = {
        "workers": 2,
        "status": None,
        "admin": None,
        "listeners": {"main": ANYWHERE, "more": ANYWHERE},
        "routes": [{"name": "all", "respond": {"body": "ok"}}],
    }
    with Gateway(config, tmp_path) as gateway:
        at_rest = max(len(descriptors_of(pid)) for pid in gateway.worker_pids)
    with pytest.raises(GatewayFailed, match=r"Too many open files: with at most \d+ \(ulimit -n\) none would be left"):
        Gateway(config, tmp_path, launcher=["prlimit", f"--nofile={at_rest}:{at_rest}"])
    enough = at_rest + SPARE_FILES + 1  # one that was closed when it was ready
    with Gateway(config, tmp_path, launcher=["prlimit", f"--nofile={enough}:{enough}"]) as gateway:
        for listener in ("main", "more"):
            with gateway.connect(listener) as client:
                assert client.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body == b"ok"
        gateway.signal(signal.SIGHUP)
        gateway.stderr.wait_for(lambda line: line.startswith(b"reloaded: generation 2 on 2/2 workers"))
        with gateway.connect() as client:
            assert client.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body == b"ok"
        too_few = at_rest + SPARE_FILES - 1
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (too_few, too_few))
        gateway.signal(signal.SIGUSR2)
        refused = gateway.stderr.wait_for(lambda line: line.startswith(b"not upgraded"), STOP_DEADLINE)
        assert (
            b"Too many open files: with at most %d (ulimit -n) none would be left for connections" % too_few in refused
        )
        with gateway.connect() as client:
            assert client.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body == b"ok"


@pytest.mark.parametrize("files", [14, 18, 21, 23])
def test_a_start_with_too_few_says_so(files: int, tmp_path: Path) -> None:
    """How many there are decides where it fails; it has no defect anywhere."""
    config = {"listeners": {"main": ANYWHERE}, "workers": 1, "routes": [{"name": "all", "respond": {"body": "ok"}}]}
    with pytest.raises(GatewayFailed, match=r"Too many open files") as failed:
        Gateway(config, tmp_path, launcher=["prlimit", f"--nofile={files}:{files}"])
    assert "internal error" not in str(failed.value)
