"""The admin API and the commands that ask it, as programs meet them: curl, `jq`, a terminal, a crowd."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import httpx
import pytest

from fastgw.config.settings.gateway import DEFAULT_ADMIN
from fastgw.config.settings.secrets import Secret
from fastgw.runtime.control import admin_listener as serving
from tests.support.admin import MADE, REJECTED, Served, served
from tests.support.forked import FASTGW, ran
from tests.support.gateway import STOP_DEADLINE


@pytest.fixture
def here() -> Iterator[Served]:
    with served() as here:
        yield here


DOCUMENT_MAX = DEFAULT_ADMIN.document_bytes
SHOWN = ("--oauth2-bearer", MADE)


def curl(*arguments: str) -> str:
    return subprocess.run(
        ["curl", "-sS", "--noproxy", "*", *arguments], capture_output=True, text=True, timeout=STOP_DEADLINE, check=True
    ).stdout


def fastgw(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return ran([FASTGW, *arguments], env={**os.environ, "FASTGW_ADMIN_TOKEN": MADE, **environment})


class TestCurl:
    @pytest.mark.landing
    def test_what_the_manual_says_to_type(self, here, tmp_path):
        (tmp_path / "gw.yaml").write_text("version: 1\n")
        url = f"http://{here.authority}"
        assert json.loads(curl(*SHOWN, f"{url}/status"))["state"] == "serving"
        assert json.loads(curl(*SHOWN, "-X", "POST", f"{url}/reload"))["ok"]
        document = ("-H", "Content-Type: application/yaml", "--data-binary", f"@{tmp_path}/gw.yaml")
        assert json.loads(curl(*SHOWN, *document, f"{url}/config?dry_run=true"))["ok"]
        assert json.loads(curl(*SHOWN, "--json", '{"generation": 1}', f"{url}/rollback"))["ok"]
        assert json.loads(curl(*SHOWN, "-X", "POST", f"{url}/drain")) == {"state": "draining"}
        assert here.node.told == ["reload", (b"version: 1\n", ".yaml", True), ("rollback", 1), "drain"]

    @pytest.mark.landing
    def test_by_a_unix_socket_and_with_a_token(self, tmp_path):
        with served(Secret(text="s3cret"), path=tmp_path / "admin.sock") as here:
            place = ("--unix-socket", str(tmp_path / "admin.sock"), "http://localhost/status")
            assert json.loads(curl(*place))["status"] == 401
            assert json.loads(curl("--oauth2-bearer", "s3cret", *place))["state"] == "serving"
            assert here.node.told == []

    def test_a_name_that_is_made_to_lead_here(self, here):
        port = str(here.address.port)
        rebound = (
            "--resolve",
            f"rebound.example:{port}:127.0.0.1",
            "-X",
            "POST",
            f"http://rebound.example:{port}/reload",
        )
        assert json.loads(curl(*rebound))["status"] == 403
        assert here.node.told == []

    def test_a_configuration_that_is_too_long_is_not_sent(self, here, tmp_path):
        """curl asks before it sends this much (`Expect: 100-continue`)."""
        huge = tmp_path / "huge.yaml"
        with huge.open("wb") as file:
            file.truncate(DOCUMENT_MAX + 1)
        document = ("-H", "Content-Type: application/yaml", "--data-binary", f"@{huge}")
        written = ("-o", "/dev/null", "-w", "%{http_code} %{size_upload}")
        assert curl(*SHOWN, *document, *written, f"http://{here.authority}/config") == "413 0"
        with huge.open("wb") as file:
            file.truncate(DOCUMENT_MAX)
        assert curl(*SHOWN, *document, *written, f"http://{here.authority}/config") == f"200 {DOCUMENT_MAX}"
        assert here.node.told == [(bytes(DOCUMENT_MAX), ".yaml", False)]


class TestCrowds:
    def test_many_at_once_are_served(self, here):
        """As many as are let in, each with several requests on its connection."""
        limits = httpx.Limits(max_connections=serving.CONNECTIONS_MAX // 2)
        headers = {"Authorization": f"Bearer {MADE}"}
        with httpx.Client(
            base_url=f"http://{here.authority}", limits=limits, headers=headers, trust_env=False
        ) as client:
            assert {client.get("/status").status_code for _ in range(100)} == {200}

    def test_a_thousand_that_say_nothing_keep_nobody_out(self, here):
        with contextlib.ExitStack() as stack:
            for _ in range(1000):
                stack.enter_context(here.connect())
            assert here.ask("GET /status")[0] == 200


class TestCommands:
    @pytest.mark.landing
    def test_a_reload_is_told_in_a_line(self, here):
        ended = fastgw("reload", "--admin", here.authority)
        assert (ended.stdout, ended.returncode) == ("reloaded: generation 2 on 4/4 workers\n", 0)

    @pytest.mark.landing
    def test_a_rejected_one_with_every_problem(self, here):
        here.node.outcome = REJECTED
        ended = fastgw("reload", "--admin", here.authority)
        assert ended.stderr.startswith('gw.yaml:2:20: routes[0].upstrem: unknown key; did you mean "upstream"?\n')
        assert (ended.stdout, ended.returncode) == ("", 1)

    @pytest.mark.landing
    def test_status_is_what_jq_expects(self, here):
        told = fastgw("status", "--admin", here.authority, "--format", "json")
        asked = subprocess.run(
            ["jq", "-c", "[.workers[].generation]"], input=told.stdout, capture_output=True, text=True, check=True
        )
        assert asked.stdout == "[1]\n"

    @pytest.mark.landing
    def test_nobody_answers(self):
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            ended = fastgw("status", "--admin", f"127.0.0.1:{bound.getsockname()[1]}")
        assert ended.stderr.endswith(
            ": connection refused; start it, or give the address of its admin API by --admin ADDR\n"
        )
        assert (ended.stdout, ended.returncode) == ("", 3)

    def test_watching_in_a_terminal_until_ctrl_c(self, here):
        ours, theirs = pty.openpty()
        watching = subprocess.Popen(
            [FASTGW, "status", "--watch", "--admin", here.authority],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "50", "FASTGW_ADMIN_TOKEN": MADE},
        )
        os.close(theirs)
        try:
            shown = read_until(ours, rb"(?s)4321.*4321")
            watching.send_signal(signal.SIGINT)
            shown += read_until(ours, None)
            assert watching.wait(STOP_DEADLINE) == 0
        finally:
            watching.kill()
            watching.wait()
            os.close(ours)
        assert b"\x1b[32m" in shown  # what is well is green
        assert b"Traceback" not in shown


def read_until(descriptor: int, pattern: bytes | None) -> bytes:
    """What a terminal shows until something fits, or to its end."""
    shown = b""
    until = time.monotonic() + STOP_DEADLINE
    while pattern is None or not re.search(pattern, shown):
        assert wait([descriptor], max(0.0, until - time.monotonic())), shown
        try:
            shown += os.read(descriptor, 65536)
        except OSError:  # how the end of a terminal is told
            break
    return shown


@pytest.mark.parametrize("command", [("version",), ("schema",), ("check", "gw.yaml"), ("diff", "gw.yaml", "gw.yaml")])
def test_commands_that_ask_no_gateway_do_not_wait_for_what_that_takes(command, tmp_path: Path):
    (tmp_path / "gw.yaml").write_text(
        "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\nroutes: [{name: x, respond: {body: ok}}]\n"
    )
    ended = subprocess.run(
        [Path(FASTGW).with_name("python"), "-X", "importtime", FASTGW, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=STOP_DEADLINE,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines()}
    assert "msgspec" in imported
    assert not imported & {"starlette", "uvicorn", "h11", "httpx", "rich"}
