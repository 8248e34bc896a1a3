"""fastgw as a service of systemd: it takes the sockets that systemd holds, tells how it fares, and may do little."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.programs import Printing, environment, program
from tests.e2e.test_processes import GET, GET_AND_CLOSE, answering, forwarding
from tests.support.client import Client, connect
from tests.support.forked import COMMAND_DEADLINE, FASTGW
from tests.support.gateway import Gateway, write_config
from tests.support.installed import Installed
from tests.support.origin import OK, Origin
from tests.support.tcp import read_exactly, tcp_config, tcp_target

pytestmark = pytest.mark.usefixtures("new_programs")  # systemd starts programs

ROOT = Path(__file__).parents[2]
CONFINED = [
    sys.executable,
    str(Path(__file__).with_name("confinement.py")),
    str(ROOT / "deploy/systemd/fastgw.service"),
]
DEADLINE = 60.0

# Does what systemd does between fork and exec: the sockets become 3, 4, …, and the pid is known.
PASSING = """
import fcntl, os, sys
held = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for index, fd in enumerate(held):
    os.dup2(fd, 3 + index)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(held)))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Systemd:
    """The end that is told."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self.address)
        self._socket.settimeout(DEADLINE)

    def told(self) -> tuple[int, dict[str, str]]:
        """The pid of the sender, and what it says."""
        message, [(_, _, credentials)], _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(12))
        pid, _, _ = struct.unpack("iii", credentials)
        return pid, dict(line.split("=", 1) for line in message.decode().splitlines())

    def wait_until_told(self, name: str) -> dict[str, str]:
        """The next message of that kind. Other kinds are passed over."""
        while True:
            _, told = self.told()
            if told.get(name) == "1":
                return told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path)
    yield systemd
    systemd.close()


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def passed(config: Mapping[str, Any], directory: Path, sockets: Sequence[socket.socket], **environ: str) -> Printing:
    """A gateway that is started with these sockets."""
    fds = [each.fileno() for each in sockets]
    command = [sys.executable, "-c", PASSING, ",".join(map(str, fds)), FASTGW, "run", write_config(config, directory)]
    return Printing(command, pass_fds=fds, env={**environment(), **environ})


def listening(opened: ExitStack, **options: Any) -> tuple[socket.socket, str]:
    held = opened.enter_context(socket.create_server((options.pop("host", "127.0.0.1"), 0), **options))
    return held, f"127.0.0.1:{held.getsockname()[1]}"


class TestReload:
    def test_a_refused_reload_is_a_failed_one(self, tmp_path):
        """What `ExecReload` runs ends with 1, so that `systemctl reload` fails."""
        unit = (ROOT / "deploy/systemd/fastgw.service").read_text()
        (command,) = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecReload=")]
        program_, *arguments = command.split()
        assert program_ == "/opt/fastgw/bin/fastgw"
        with Gateway({**answering("127.0.0.1:0"), "admin": {"address": "127.0.0.1:0"}}, tmp_path):
            (file,) = tmp_path.glob("gateway.*")
            asked = [FASTGW, *(str(file) if each == "/etc/fastgw/gateway.yaml" else each for each in arguments)]
            assert subprocess.run(asked, capture_output=True, timeout=COMMAND_DEADLINE).returncode == 0
            file.write_text("{")
            refused = subprocess.run(asked, capture_output=True, timeout=COMMAND_DEADLINE)
            assert (refused.returncode, b"generation 2 stays" in refused.stderr) == (1, True)


class TestActivation:
    @pytest.mark.parametrize("kind", ["path", "port"])
    def test_the_first_client_starts_it(self, tmp_path, opened, kind):
        """By systemd-socket-activate. When it ends, the file of a unix socket is systemd's to remove."""
        held = opened.enter_context(socket.socket())  # bound, not listening: it keeps others away from the port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        path = tmp_path / "gw.sock"
        listens = str(path) if kind == "path" else f"127.0.0.1:{held.getsockname()[1]}"
        address = f"unix:{path}" if kind == "path" else listens
        file = write_config(answering(address), tmp_path)
        kept = ("-E", "XDG_RUNTIME_DIR")  # else it registers in /run/fastgw, beside what other tests look for
        with Printing([program("systemd-socket-activate"), *kept, "-l", listens, FASTGW, "run", file]) as activated:
            activated.lines.wait_for(lambda line: f"Listening on {listens}".encode() in line)
            with Client(address, DEADLINE) as client:
                assert client.exchange(GET).status == 200
            activated.process.send_signal(signal.SIGTERM)
            assert activated.wait() == 0
        assert path.exists() is (kind == "path")

    def test_who_connects_between_two_runs_is_served_by_the_second(self, tmp_path, opened):
        """The socket lives on: a stop does not shut it down."""
        held, address = listening(opened)
        with passed(answering(address), tmp_path, [held]) as first:
            with Client(address, DEADLINE) as client:
                assert client.exchange(GET).status == 200
            first.process.send_signal(signal.SIGTERM)
            assert first.wait() == 0
        with Client(address, DEADLINE) as waiting:
            waiting.send(GET_AND_CLOSE)
            with passed(answering(address), tmp_path, [held]):
                assert waiting.read_response().status == 200

    @pytest.mark.landing
    def test_every_worker_accepts_from_it(self, tmp_path, opened):
        """A frozen worker keeps nobody waiting."""
        held, address = listening(opened)
        with passed(answering(address), tmp_path, [held]) as running:
            running.lines.wait_for(lambda line: b"listening on" in line)
            pid = running.process.pid
            frozen, *_ = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            os.kill(frozen, signal.SIGSTOP)
            try:
                for _ in range(10):
                    with Client(address, DEADLINE) as client:
                        assert client.exchange(GET_AND_CLOSE).status == 200
            finally:
                os.kill(frozen, signal.SIGCONT)

    def test_a_client_of_a_bare_port_has_its_own_address(self, tmp_path, opened):
        """Not `::ffff:127.0.0.1`: networks in the configuration are written for IPv4."""
        held, address = listening(opened, host="::", family=socket.AF_INET6, dualstack_ipv6=True)
        log = tmp_path / "access.log"
        config = answering(f"0.0.0.0:{held.getsockname()[1]}", access_logs=[{"sink": str(log), "format": "json"}])
        with passed(config, tmp_path, [held]) as running:
            with Client(address, DEADLINE) as client:
                assert client.exchange(GET).status == 200
            running.process.send_signal(signal.SIGTERM)
            assert running.wait() == 0
        assert '"127.0.0.1"' in log.read_text()

    @pytest.mark.parametrize("version", ["v1", "v2"])
    def test_a_client_of_a_bare_port_has_a_proxy_header_of_ipv4(self, tmp_path, opened, systemd, version):
        """Its own address and the one that it has connected to, both as the client sees them."""
        held, address = listening(opened, host="::", family=socket.AF_INET6, dualstack_ipv6=True)
        target = opened.enter_context(tcp_target())
        port = held.getsockname()[1]
        config = {"version": 1, **tcp_config(target.url, {"address": f"0.0.0.0:{port}"}, proxy_protocol=version)}
        with passed(config, tmp_path, [held], NOTIFY_SOCKET=systemd.address):
            systemd.wait_until_told("READY")
            with connect(address, DEADLINE) as client, target.accept() as service:
                here = client.getsockname()[1]
                expected = f"PROXY TCP4 127.0.0.1 127.0.0.1 {here} {port}\r\n".encode()
                if version == "v2":
                    expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
                assert read_exactly(service, len(expected)) == expected

    def test_a_socket_that_no_listener_has_is_told(self, tmp_path, opened):
        (held, _), (other, idle) = listening(opened), listening(opened)
        with passed(answering("127.0.0.1:0"), tmp_path, [held, other]) as running:
            running.lines.wait_for(lambda line: f"systemd listens on {idle}".encode() in line)

    @pytest.mark.parametrize("kind", ["path", "port"])
    def test_it_is_kept_over_an_upgrade(self, tmp_path, opened, systemd, kind):
        """And is still systemd's afterwards: who connects when the gateway has ended waits for the next."""
        path = tmp_path / "gw.sock"
        if kind == "path":
            held, address = opened.enter_context(socket.socket(socket.AF_UNIX)), f"unix:{path}"
            held.bind(str(path))
            held.listen()
        else:
            held, address = listening(opened)
        with passed(answering(address), tmp_path, [held], NOTIFY_SOCKET=systemd.address) as running:
            systemd.wait_until_told("READY")
            running.process.send_signal(signal.SIGUSR2)
            systemd.wait_until_told("RELOADING")
            systemd.wait_until_told("READY")
            with Client(address, DEADLINE) as client:
                assert client.exchange(GET).status == 200
            running.process.send_signal(signal.SIGTERM)
            assert running.wait() == 0
        assert path.exists() is (kind == "path")
        with Client(address, DEADLINE) as waiting:
            waiting.send(GET_AND_CLOSE)
            with passed(answering(address), tmp_path, [held]):
                assert waiting.read_response().status == 200

    def test_one_that_nobody_wanted_is_there_after_an_upgrade(self, tmp_path, opened, systemd):
        """A listener that a reload adds then takes it."""
        (held, first), (other, second) = listening(opened), listening(opened)
        with passed(answering(first), tmp_path, [held, other], NOTIFY_SOCKET=systemd.address) as running:
            systemd.wait_until_told("READY")
            running.process.send_signal(signal.SIGUSR2)
            systemd.wait_until_told("RELOADING")
            systemd.wait_until_told("READY")
            listeners = {"main": {"address": first}, "more": {"address": second}}
            write_config({**answering(first), "listeners": listeners}, tmp_path)
            running.process.send_signal(signal.SIGHUP)
            systemd.wait_until_told("RELOADING")
            systemd.wait_until_told("READY")
            with Client(second, DEADLINE) as client:
                assert client.exchange(GET).status == 200

    def test_a_listener_that_is_removed_and_comes_back_has_it_again(self, tmp_path, opened, systemd):
        """By two reloads with an upgrade between them; who connects meanwhile is answered by the listener."""
        (held, first), (other, second) = listening(opened), listening(opened)
        one = answering(first)
        two = {**one, "listeners": {"main": {"address": first}, "more": {"address": second}}}

        def reload(config: Mapping[str, Any]) -> None:
            write_config(config, tmp_path)
            running.process.send_signal(signal.SIGHUP)
            systemd.wait_until_told("RELOADING")
            systemd.wait_until_told("READY")

        with passed(two, tmp_path, [held, other], NOTIFY_SOCKET=systemd.address) as running:
            systemd.wait_until_told("READY")
            reload(one)
            running.lines.wait_for(lambda line: f"systemd listens on {second}".encode() in line)
            with Client(second, DEADLINE) as waiting:
                waiting.send(GET_AND_CLOSE)
                running.process.send_signal(signal.SIGUSR2)
                systemd.wait_until_told("RELOADING")
                systemd.wait_until_told("READY")
                reload(two)
                assert waiting.read_response().status == 200

    def test_the_admin_listener_gives_it_back_too(self, tmp_path, opened, systemd):
        (held, first), (other, second) = listening(opened), listening(opened)
        one = answering(first)
        with passed(
            {**one, "admin": {"address": second}}, tmp_path, [held, other], NOTIFY_SOCKET=systemd.address
        ) as running:
            systemd.wait_until_told("READY")
            for config in (one, {**one, "listeners": {"main": {"address": first}, "more": {"address": second}}}):
                write_config(config, tmp_path)
                running.process.send_signal(signal.SIGHUP)
                systemd.wait_until_told("RELOADING")
                systemd.wait_until_told("READY")
            with Client(second, DEADLINE) as client:
                assert client.exchange(GET).status == 200


class TestNotification:
    @pytest.mark.landing
    def test_it_tells_the_whole_of_its_life(self, tmp_path, systemd):
        """Ready, reloading, ready, stopping: each by the supervisor, and nothing by its children."""
        with Gateway(answering(), tmp_path, environment={"NOTIFY_SOCKET": systemd.address}) as gateway:
            seen = [systemd.told()]
            gateway.signal(signal.SIGHUP)
            seen += [systemd.told(), systemd.told()]
            gateway.stop()
            seen.append(systemd.told())
        assert {pid for pid, _ in seen} == {gateway.process.pid}
        ready, reloading, again, stopping = (told for _, told in seen)
        assert ready["READY"] == again["READY"] == "1"
        assert "http://127.0.0.1:" in ready["STATUS"]
        assert "generation 2" in again["STATUS"]
        assert (reloading["RELOADING"], reloading["MONOTONIC_USEC"].isdecimal()) == ("1", True)
        assert stopping["STOPPING"] == "1"

    def test_a_reload_that_is_refused_ends_too(self, tmp_path, systemd):
        with Gateway(answering(), tmp_path, environment={"NOTIFY_SOCKET": systemd.address}) as gateway:
            systemd.wait_until_told("READY")
            write_config("version: 2", tmp_path).rename(tmp_path / "gateway.json")
            gateway.signal(signal.SIGHUP)
            systemd.wait_until_told("RELOADING")
            assert "generation 1" in systemd.wait_until_told("READY")["STATUS"]

    def test_the_watchdog_is_told_while_it_serves_and_while_it_drains(self, tmp_path, systemd):
        environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "400000"}
        with Origin() as origin, Gateway(forwarding(origin), tmp_path, environment=environment) as gateway:
            systemd.wait_until_told("READY")
            systemd.wait_until_told("WATCHDOG")
            systemd.wait_until_told("WATCHDOG")
            with gateway.connect() as client:
                client.send(GET)
                upstream = origin.accept()
                upstream.read_request()
                gateway.signal(signal.SIGTERM)
                assert int(systemd.wait_until_told("STOPPING")["EXTEND_TIMEOUT_USEC"]) > 300e6
                systemd.wait_until_told("WATCHDOG")
                upstream.send(OK)
                assert client.read_response().status == 200

    def test_an_upgrade_is_a_reload_to_systemd(self, tmp_path, systemd):
        """The same pid tells that it is ready again; the version that is only tried says nothing."""
        with Gateway(answering(), tmp_path, environment={"NOTIFY_SOCKET": systemd.address}) as gateway:
            systemd.wait_until_told("READY")
            gateway.signal(signal.SIGUSR2)
            seen = [systemd.told(), systemd.told()]
            assert [pid for pid, _ in seen] == [gateway.process.pid] * 2
            assert [("RELOADING" in told, "READY" in told) for _, told in seen] == [(True, False), (False, True)]

    def test_an_upgrade_that_fails_is_not_even_begun(self, tmp_path, systemd):
        """Until the new version has shown that it can serve, systemd sees a gateway that serves."""
        installed = Installed(tmp_path)
        environment = {"NOTIFY_SOCKET": systemd.address, **installed.environment}
        with Gateway(answering(), tmp_path, environment=environment) as gateway:
            systemd.wait_until_told("READY")
            installed.put({"cli.py": ("", "\nraise ImportError('it is broken')\n")})
            gateway.signal(signal.SIGUSR2)
            gateway.stderr.wait_for(lambda line: b"not upgraded" in line)
            gateway.signal(signal.SIGTERM)
            assert "STOPPING" in systemd.told()[1]

    def test_a_reload_that_nobody_can_read_yet_is_done_when_control_is_back(self, tmp_path, systemd):
        with Gateway(answering(), tmp_path, environment={"NOTIFY_SOCKET": systemd.address}) as gateway:
            systemd.wait_until_told("READY")
            os.kill(gateway.control_pid, signal.SIGKILL)
            gateway.signal(signal.SIGHUP)
            systemd.wait_until_told("RELOADING")
            assert "generation 2" in systemd.wait_until_told("READY")["STATUS"]

    def test_nobody_reloads_while_it_stops(self, tmp_path, systemd):
        """It would be the second thing that systemd waits for."""
        environment = {"NOTIFY_SOCKET": systemd.address}
        with Origin() as origin, Gateway(forwarding(origin), tmp_path, environment=environment) as gateway:
            systemd.wait_until_told("READY")
            with gateway.connect() as client:
                client.send(GET)
                upstream = origin.accept()
                upstream.read_request()
                gateway.signal(signal.SIGTERM)
                systemd.wait_until_told("STOPPING")
                gateway.signal(signal.SIGHUP)
                gateway.stderr.wait_for(lambda line: line == b"SIGHUP: not possible now: the gateway is not serving\n")
                upstream.send(OK)
                assert client.read_response().status == 200


FORBIDDEN = """
import mmap, os, socket
for attempt in (
    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    lambda: os.chroot("/"),
    lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
):
    try:
        attempt()
    except OSError as error:
        print(error.strerror)
"""


@pytest.mark.landing
def test_the_unit_forbids_what_it_says():
    """So that the next test shows something."""
    ended = subprocess.run([*CONFINED, sys.executable, "-c", FORBIDDEN], capture_output=True, text=True, check=True)
    denied = "Operation not permitted"
    assert ended.stdout.splitlines() == [denied, denied, "Address family not supported by protocol"]


def test_the_unit_forbids_nothing_that_the_gateway_needs(tmp_path):
    """Patterns by RE2, a host name, uvloop, a file that is logged to, a worker that dies; logs opened anew, a reload,
    an upgrade, a drain."""
    with Origin() as origin:
        config = {
            "workers": 2,
            "listeners": {"main": {"address": "127.0.0.1:0"}, "unix": {"address": f"unix:{tmp_path}/gw.sock"}},
            "status": {"address": "127.0.0.1:0"},
            "access_logs": [{"sink": str(tmp_path / "access.log"), "format": "json"}],
            "routes": [
                {"name": "pattern", "paths": ["~^/v[0-9]+/"], "respond": {"body": "ok"}},
                {"name": "named", "upstream": origin.url.replace("127.0.0.1", "localhost")},
            ],
        }
        with Gateway(config, tmp_path, launcher=CONFINED) as gateway:
            worker, *_ = gateway.worker_pids
            os.kill(worker, signal.SIGKILL)
            gateway.stderr.wait_for(lambda line: b"ended: killed by SIGKILL" in line)
            gateway.signal(signal.SIGUSR1)
            gateway.signal(signal.SIGHUP)
            gateway.stderr.wait_for(lambda line: b"reloaded: generation 2 on" in line, DEADLINE)
            gateway.signal(signal.SIGUSR2)
            gateway.stderr.wait_for(lambda line: b"takes over from" in line, DEADLINE)
            for listener in gateway.ready["listeners"]:
                with gateway.connect(listener) as client:
                    assert client.exchange(GET.replace(b" / ", b" /v1/x ")).status == 200
            with gateway.connect() as client:
                client.send(GET_AND_CLOSE)
                upstream = origin.accept()
                upstream.read_request()
                gateway.signal(signal.SIGTERM)
                upstream.send(OK)
                assert client.read_response().status == 200
            assert gateway.wait() == 0
        assert "not permitted" not in gateway.stderr.text()
