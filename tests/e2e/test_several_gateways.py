"""The token that nobody configured, and which of several gateways a command means."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import admin, is_served, status_of, tell
from tests.e2e.test_reload import ANYWHERE, Reloadable, gateway_saying, saying
from tests.support.alone import alone
from tests.support.client import connect
from tests.support.default_ports import default_ports
from tests.support.forked import COMMAND_DEADLINE, FASTGW, ran
from tests.support.gateway import Gateway, wait_until

LISTENING = {"version": 1, "workers": 1, "listeners": {"main": ANYWHERE}, "routes": saying("v1"), "access_logs": []}


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of this test alone; the gateway makes its own folder there."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder / "fastgw"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return ran([*alone(), FASTGW, *arguments], stdin=subprocess.DEVNULL)


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made


# --- the token ---


@pytest.mark.landing
def test_a_token_is_made_told_asked_for_and_removed(tmp_path: Path, runtime: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        file = Path(gateway.ready["token_file"])
        assert file.parent == runtime
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(gateway.token) == 43
        line = f"dashboard http://{gateway.ready['admin']}/ (token: {file}; fastgw token prints it)\n"
        gateway.stderr.wait_for(lambda each: each.decode().endswith(line))
        assert gateway.token not in gateway.stderr.text()
        for request in ("GET /status", "GET /metrics", "GET /config", "POST /reload", "POST /drain", "GET /nowhere"):
            assert admin(gateway, request, token="").status == 401
            assert admin(gateway, request, token="wrong").status == 401
        assert admin(gateway, "GET /status").status == 200
        assert command("token").stdout == f"{gateway.token}\n"
    assert list(runtime.iterdir()) == []


def test_it_stays_over_reloads_upgrades_and_a_new_control_process(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        token = gateway.token
        gateway.change(routes=saying("v2"))
        assert command("reload").stdout == "reloaded: generation 2 on 2/2 workers\n"
        os.kill(gateway.control_pid, signal.SIGKILL)
        wait_until(lambda: is_served(gateway), "another control process")
        gateway.signal(signal.SIGUSR2)
        gateway.stderr.wait_for(lambda line: b"all 2 workers are new" in line, COMMAND_DEADLINE)
        wait_until(lambda: is_served(gateway), "control of the new program")
        assert gateway.token == token
        assert tell(str(gateway.ready["admin"]), "GET /status", token=token).status == 200
        assert command("status").returncode == 0


def test_a_token_that_a_reload_takes_away_is_followed_by_one_that_was_made(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path, admin={**ANYWHERE, "token": "configured"}) as gateway:
        assert gateway.ready["token_file"] is None
        assert admin(gateway, "GET /status", token="configured").status == 200
        assert "the token is in the gateway's configuration (`admin.token`), or" in command("token").stderr
        gateway.change(admin=ANYWHERE)
        assert admin(gateway, "POST /reload", token="configured").status == 200
        wait_until(lambda: command("status").returncode == 0, "the token that was made")
        assert admin(gateway, "GET /status", token="configured").status == 401


def test_a_private_socket_needs_none_and_another_does(tmp_path: Path) -> None:
    place = tmp_path / "admin.sock"
    with gateway_saying("v1", tmp_path, admin={"address": f"unix:{place}"}) as gateway:
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert gateway.ready["token_file"] is None
        assert admin(gateway, "GET /status", token="").status == 200
        assert command("status").returncode == 0
        place.chmod(0o660)
        assert admin(gateway, "GET /status", token="").status == 401
        gateway.change(admin={"address": f"unix:{place}", "token": "sesame"})
        place.chmod(0o600)
        assert admin(gateway, "POST /reload", token="").status == 200
        wait_until(lambda: status_of(gateway) == 401, "the token to be asked for")
        assert admin(gateway, "GET /status", token="sesame").status == 200


@pytest.mark.parametrize("in_pod", [False, True])
def test_a_terminal_alone_shows_the_token_and_not_that_of_a_pod(tmp_path: Path, in_pod: bool) -> None:
    """The output of a pod is collected, also with `tty: true`."""
    config = {**LISTENING, "admin": ANYWHERE, "status": None}
    shown, terminal = pty.openpty()
    launcher = ["sh", "-c", f'exec "$@" 2>{os.ttyname(terminal)}', "sh"]
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"} if in_pod else {}
    try:
        with Gateway(config, tmp_path, environment=environment, launcher=launcher) as gateway:
            text = b""
            while b"dashboard " not in text or not text.endswith(b"\n"):
                text += os.read(shown, 65_536)
            link = f"dashboard http://{gateway.ready['admin']}/"
            added = f" (token: {gateway.ready['token_file']}; " if in_pod else f"#token={gateway.token}\r\n"
            assert (link + added).encode() in text
            assert (gateway.token.encode() in text) == (not in_pod)
    finally:
        os.close(terminal)
        os.close(shown)


def test_a_directory_that_others_can_write_to_is_left_alone(tmp_path: Path) -> None:
    unusable = folder(tmp_path, "unusable")
    unusable.chmod(0o777)
    environment = {"RUNTIME_DIRECTORY": str(unusable)}
    with Gateway({**LISTENING, "admin": ANYWHERE}, tmp_path, environment=environment) as gateway:
        assert str(unusable) not in gateway.ready["token_file"]  # the next one
        assert list(unusable.iterdir()) == []


# --- which one ---


@pytest.mark.landing
def test_several_are_listed_and_named(tmp_path: Path, runtime: Path) -> None:
    first, second = folder(tmp_path, "first"), folder(tmp_path, "second")
    with (
        gateway_saying("v1", first) as one,
        gateway_saying("v1", second) as two,
    ):
        told = command("status")
        assert (told.returncode, told.stdout) == (2, "")
        listed = [line.split() for line in told.stderr.splitlines()[1:]]
        assert listed == [["gateway", "pid", str(each.pid), each.ready["admin"], str(each.file)] for each in (one, two)]
        assert f'"pid":{two.pid},' in command("status", "--config", str(two.file), "--format", "json").stdout
        assert command("reload", "--admin", one.ready["admin"]).returncode == 0
        two.kill()
        assert f'"pid":{one.pid},' in command("status", "--format", "json").stdout  # two has left its entry behind
        assert len([*runtime.glob("*.json")]) == 1
        two.process.returncode = 0


def test_a_gateway_is_found_by_its_file_after_the_link_to_a_release_is_switched(tmp_path: Path) -> None:
    for number in ("1", "2"):
        config = {**LISTENING, "admin": ANYWHERE, "status": None, "routes": saying(f"v{number}")}
        (folder(tmp_path, number) / "gateway.json").write_text(json.dumps(config))
    current = tmp_path / "current"
    current.symlink_to("1")
    file = str(current / "gateway.json")
    with Gateway(Path("current/gateway.json"), tmp_path) as gateway:
        current.unlink()
        current.symlink_to("2")
        assert command("reload", "--config", file).stdout == "reloaded: generation 2 on 1/1 workers\n"
        gateway.signal(signal.SIGUSR2)
        gateway.stderr.wait_for(lambda line: b"only worker is new" in line, COMMAND_DEADLINE)
        current.unlink()
        current.symlink_to("1")
        assert command("status", "--config", file).returncode == 0
        assert "generation 3" in command("reload", "--config", file).stdout


def test_a_name(tmp_path: Path) -> None:
    config = {**LISTENING, "admin": ANYWHERE, "status": None}
    with (
        Gateway(config, folder(tmp_path, "one"), arguments=["--name", "blue"]) as one,
        Gateway(config, folder(tmp_path, "two"), arguments=["--name", "green"]),
    ):
        assert f'"pid":{one.pid},' in command("status", "--name", "blue", "--format", "json").stdout
        told = command("status", "--name", "red")
        assert told.returncode == 3
        assert 'no gateway called "red" runs; there is "blue" (' in told.stderr


def test_a_name_that_a_living_gateway_has_is_no_name_for_another(tmp_path: Path, runtime: Path) -> None:
    """Of two that start at once, one has it. It is free again when its gateway has ended, in whatever way."""
    config = {**LISTENING, "admin": ANYWHERE, "status": None}
    file = folder(tmp_path, "other") / "gw.json"
    file.write_text(json.dumps(config))
    with Gateway(config, folder(tmp_path, "one"), arguments=["--name", "blue"]) as one:
        told = command("run", str(file), "--name", "blue")
        assert (told.returncode, told.stdout) == (3, "")
        what = f'fastgw: --name blue: a gateway called "blue" runs already (pid {one.pid}, from {tmp_path}/one/'
        assert what in told.stderr
        assert "Traceback" not in told.stderr
        assert len([*runtime.iterdir()]) == 2  # its entry and its token: nothing is left of the other
        one.signal(signal.SIGUSR2)
        one.stderr.wait_for(lambda line: b"only worker is new" in line, COMMAND_DEADLINE)
        assert f'"pid":{one.pid},' in command("status", "--name", "blue", "--format", "json").stdout
        one.kill()
        one.process.returncode = 0
    with contextlib.ExitStack() as started:
        starts = [started.enter_context(start(file)) for _ in range(3)]
        wait_until(lambda: sum(each.poll() is None for each in starts) == 1, "all but one to end", COMMAND_DEADLINE)
        (living,) = (each for each in starts if each.returncode is None)
        for each in starts:
            if each is not living:
                assert each.stderr is not None
                assert b"runs already (pid %d, " % living.pid in each.stderr.read()
                assert each.returncode == 3
        wait_until(lambda: command("status", "--name", "blue").returncode == 0, "the one to serve", COMMAND_DEADLINE)


@contextlib.contextmanager
def start(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([FASTGW, "run", str(file), "--name", "blue"], stderr=subprocess.PIPE) as process:
        yield process
        process.terminate()


def test_rollback_goes_back_one_further_each_time(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        for text in ("v2", "v3"):
            gateway.change(routes=saying(text))
            gateway.reload()
        assert command("rollback").stdout == "reloaded: generation 4 on 2/2 workers\n"
        assert gateway.answer() == (200, b"v2")
        assert command("rollback").returncode == 0
        assert gateway.answer() == (200, b"v1")
        told = command("rollback")
        assert (told.returncode, told.stdout) == (1, "")
        assert told.stderr == "fastgw: cannot roll back further: kept are 2, 3; choose one with --generation 2\n"
        assert command("rollback", "--generation", "3").returncode == 0
        assert gateway.answer() == (200, b"v3")


# --- ports that are taken ---


@pytest.mark.parametrize("name", ["admin", "status"])
def test_an_address_that_was_written_has_to_be_free(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        file = tmp_path / "gw.json"
        other = {"admin": None, "status": None, name: {"address": address}}
        file.write_text(json.dumps({**LISTENING, **other}))
        told = command("run", str(file))
    assert told.returncode == 3
    assert f"cannot listen on {address}: the address is in use" in told.stderr


def test_the_usual_address_gives_way_to_the_next_and_is_registered(tmp_path: Path, runtime: Path) -> None:
    with default_ports(alone=True), contextlib.ExitStack() as stack:
        for port in (9901, 9902):
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        file = tmp_path / "gw.json"
        file.write_text(json.dumps(LISTENING))
        with Gateway(file, tmp_path) as gateway:
            ports: dict[str, Any] = {name: int(gateway.ready[name].rpartition(":")[2]) for name in ("admin", "status")}
            assert not {*ports.values()} & {9901, 9902}
            assert all(9902 < port < 10_002 for port in ports.values())
            for name, usual in (("dashboard", 9901), ("status", 9902)):
                line = gateway.stderr.wait_for(lambda line, name=name: line.startswith(f"{name} ".encode()))
                assert re.search(rf" \({usual} is taken\)$", line.decode().rstrip())
            assert command("reload").returncode == 0
            with connect(gateway.ready["status"]) as plain:
                plain.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
                assert plain.recv(100).startswith(b"HTTP/1.1 200")


def test_a_unix_socket_of_another_owner_is_not_taken_for_the_gateways(tmp_path: Path) -> None:
    """Which is what `--admin` is for: nothing is shown to who is not registered."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other.sock"))
        other.listen()
        command = [FASTGW, "status", "--admin", f"unix:{tmp_path}/other.sock"]
        with (
            Reloadable({"routes": saying("v1")}, tmp_path),
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as asking,
        ):
            connection, _ = other.accept()
            with connection:
                assert b"authorization" not in connection.recv(65536).lower()
            asking.wait(COMMAND_DEADLINE)
