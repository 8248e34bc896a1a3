"""The node as its operator sees it: start, stop, signals, workers that die, and addresses that are taken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked import FASTGW, ran
from tests.support.gateway import Gateway, wait_until
from tests.support.origin import OK, Origin
from tests.support.tcp_table import tcp_rows

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


def config_for(origin: Origin, workers: int = 1, **settings: Any) -> dict[str, Any]:
    return {
        "workers": workers,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "routes": [
            {"name": "here", "paths": ["/here"], "respond": {"body": "here"}},
            {"name": "all", "upstream": origin.url},
        ],
        **settings,
    }


def test_term_lets_a_request_finish(tmp_path: Path, origin: Origin) -> None:
    """Promise 14: what is in flight completes with `Connection: close`; then exit 0."""
    with Gateway(config_for(origin), tmp_path) as gateway, gateway.connect() as client, gateway.connect() as idle:
        assert idle.exchange(b"GET /here HTTP/1.1\r\nHost: a.test\r\n\r\n").body == b"here"
        client.send(GET)
        upstream = origin.accept()
        upstream.read_request()
        gateway.signal(signal.SIGTERM)
        idle.assert_ended()  # an idle connection is closed, which shows that draining has begun
        upstream.send(OK)
        response = client.read_response()
        assert (response.body, response.get(b"Connection")) == (b"ok", b"close")
        client.assert_ended()
        assert gateway.wait() == 0


def test_term_lets_a_body_finish(tmp_path: Path, origin: Origin) -> None:
    """Promise 14: a response whose head has gone out is sent to its end."""
    with Gateway(config_for(origin), tmp_path) as gateway, gateway.connect() as client, gateway.connect() as idle:
        assert idle.exchange(b"GET /here HTTP/1.1\r\nHost: a.test\r\n\r\n").body == b"here"
        client.send(GET)
        upstream = origin.accept()
        upstream.read_request()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        client.read_until(b"ha")
        gateway.signal(signal.SIGTERM)
        idle.assert_ended()
        upstream.send(b"lf")
        assert client.read_exactly(2) == b"lf"
        client.assert_ended()
        assert gateway.wait() == 0


def test_a_drain_has_an_end(tmp_path: Path, origin: Origin) -> None:
    """`timeouts.drain.requests`: a request that does not end is cut, and the gateway stops."""
    settings = {"timeouts": {"drain": {"requests": "200ms", "tunnels": "200ms"}}}
    with Gateway(config_for(origin, **settings), tmp_path) as gateway, gateway.connect() as client:
        client.send(GET)
        origin.accept().read_request()
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0


def test_int_stops_at_once(tmp_path: Path, origin: Origin) -> None:
    """INT does not wait for requests: they end, and so does every process."""
    with Gateway(config_for(origin, workers=2), tmp_path) as gateway, gateway.connect() as client:
        client.send(GET)
        origin.accept().read_request()
        children = gateway.worker_pids
        gateway.signal(signal.SIGINT)
        assert gateway.wait() == 0
        client.read_to_end()
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_is_replaced(tmp_path: Path, origin: Origin, number: int) -> None:
    """A dead worker's place is already used by another, and new connections are served all the while."""
    with Gateway(config_for(origin, workers=2), tmp_path) as gateway:
        before = set(gateway.worker_pids)
        victim = worker_that_serves(gateway)
        os.kill(victim, number)
        wait_until(lambda: len(set(gateway.worker_pids) - before) == 1, "a new worker")
        assert victim not in gateway.worker_pids
        for _ in range(20):
            with gateway.connect() as client:
                assert client.exchange(b"GET /here HTTP/1.1\r\nHost: a.test\r\n\r\n").body == b"here"


def worker_that_serves(gateway: Gateway) -> int:
    """The child that has a connection of ours, found by the socket that it holds."""
    with gateway.connect() as client:
        client.exchange(b"GET /here HTTP/1.1\r\nHost: a.test\r\n\r\n")
        port = client.sock.getsockname()[1]
        for words in tcp_rows():
            if words[2].endswith(f":{port:04X}") and words[3] == "01":
                link = f"socket:[{words[9]}]"
                return next(
                    pid
                    for pid in gateway.worker_pids
                    if any(os.readlink(each) == link for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink())
                )
    raise AssertionError("no worker holds the connection")


def test_a_taken_address_is_told_and_exits_3(tmp_path: Path, origin: Origin) -> None:
    """A second fastgw does not silently share the port."""
    with Gateway(config_for(origin), tmp_path) as gateway:
        second = run("--listen", gateway.address(), "--to", origin.url)
        assert second.returncode == 3
        assert gateway.address() in second.stderr
        assert "in use" in second.stderr
        assert "Traceback" not in second.stderr


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return ran([FASTGW, "run", *arguments])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("no-such-file.yaml",), 1),
        (("--listen", "127.0.0.1:0"), 2),
        (("--listen", "nonsense", "--to", "http://127.0.0.1:1"), 2),
        (("--no-such-option",), 2),
    ],
)
def test_exit_codes_of_a_start_that_fails(arguments: tuple[str, ...], code: int) -> None:
    """1: the file is wrong; 2: usage; each with a reason and without a traceback."""
    ended = run(*arguments)
    assert (ended.returncode, "Traceback" in ended.stderr) == (code, False)
    assert ended.stderr.strip()


def test_a_wrong_file_is_not_started(tmp_path: Path) -> None:
    """The configuration is checked in full before anything is bound: exit 1 and every error with its place."""
    file = tmp_path / "bad.yaml"
    file.write_text("version: 1\nroutes: [{name: x, upstrem: u}]\n")
    ended = run(str(file))
    assert ended.returncode == 1
    assert "bad.yaml:2:20: routes[0].upstrem: unknown key; did you mean" in ended.stderr + ended.stdout


def test_without_a_file(tmp_path: Path, origin: Origin) -> None:
    """`run --listen ADDR --to URL --access-log FILE`: the whole proxy, without a configuration."""
    log = tmp_path / "access.log"
    arguments = ["--listen", "127.0.0.1:0", "--to", origin.url, "--workers", "2", "--access-log", str(log)]
    with Gateway(None, tmp_path, arguments) as gateway:
        assert gateway.ready["status"] is None
        [address] = next(iter(gateway.ready["listeners"].values()))
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), 5) as sock:
            sock.sendall(GET)
            origin.accept().answer(OK)
            assert sock.recv(65_536).startswith(b"HTTP/1.1 200 OK\r\n")
    assert '"path":"/"' in log.read_text()


def test_port_zero_is_told(tmp_path: Path, origin: Origin) -> None:
    """`--ready-fd`: every listener's bound address, the status listener's, and the supervisor's pid."""
    settings = {
        "listeners": {"one": {"address": "127.0.0.1:0"}, "two": {"address": "[::1]:0"}},
        "status": {"address": "127.0.0.1:0"},
    }
    with Gateway(config_for(origin, workers=2, **settings), tmp_path) as gateway:
        assert set(gateway.ready["listeners"]) == {"one", "two"}
        assert gateway.ready["pid"] == gateway.pid
        assert int(gateway.ready["status"].rpartition(":")[2]) > 0
        for name in ("one", "two"):
            with gateway.connect(name) as client:
                assert client.exchange(b"GET /here HTTP/1.1\r\nHost: a.test\r\n\r\n").body == b"here"


def test_the_file_limit_is_raised_and_told(tmp_path: Path, origin: Origin) -> None:
    """A `limits.connections` that the hard limit cannot hold is a warning with numbers, not a failure."""
    with Gateway(config_for(origin, limits={"connections": 10_000_000}), tmp_path) as gateway:
        soft, hard = resource_limits(gateway.worker_pids[0])
        assert soft == hard
        warning = gateway.stderr.wait_for(lambda line: b"limits.connections" in line)
        assert str(hard).encode() in warning


@pytest.mark.parametrize("path", [b"/here", b"/of-the-upstream"])
def test_out_of_descriptors_means_waiting(tmp_path: Path, origin: Origin, path: bytes) -> None:
    """Nothing crashes and nobody is turned away: clients do not take the descriptors that serving them needs."""
    origin.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere")
    origin.serve()
    launcher = ["sh", "-c", 'ulimit -n 100; exec "$@"', "sh"]
    with Gateway(config_for(origin), tmp_path, launcher=launcher) as gateway, ExitStack() as stack:
        clients = []
        with stopped(*gateway.worker_pids):  # one accepted before its request is there would make room for others
            for _ in range(150):
                clients.append(stack.enter_context(gateway.connect()))
                clients[-1].send(b"GET " + path + b" HTTP/1.1\r\nHost: a.test\r\n\r\n")
        for client in clients:  # in the order in which they are accepted, so each that leaves makes room for another
            assert client.read_response().body == b"here"
            client.close()


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes that do nothing meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def resource_limits(pid: int) -> tuple[int, int]:
    limits = Path(f"/proc/{pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    soft, hard = line.split()[3:5]
    return int(soft), int(hard)
