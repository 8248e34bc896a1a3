"""What people do with fastgw on their first day, command by command, and what they must see."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

from fastgw import VERSION
from tests.e2e.programs import RUN_DEADLINE, Nginx, Printing, Uvicorn, environment, program, run, started
from tests.support.client import Client
from tests.support.default_ports import default_ports
from tests.support.forked import FASTGW, ran
from tests.support.gateway import Gateway, Lines, wait_until
from tests.support.peer import DEADLINE

ROOT = Path(__file__).parents[2]
HOLD = ["--connections", "10000", "--slow-heads", "1000"]


class TestFirstMinute:
    def test_make_run_is_the_demo(self) -> None:
        """`make run` sets up what is missing and starts the demo; nothing else is to be known."""
        commands = run("make", "--dry-run", "run", cwd=ROOT).splitlines()
        assert commands[-1] == ".venv/bin/fastgw demo --listen 127.0.0.1:8080"

    @pytest.mark.landing
    def test_the_demo_and_its_three_commands(self) -> None:
        """It says where it is and what to try; each command that it names does what it says; Ctrl-C ends it with 0."""
        with (
            default_ports(),
            started("demo", "--listen", "127.0.0.1:0", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as (
                process,
                ready,
            ),
        ):
            assert process.stdout is not None
            assert process.stderr is not None
            log, told = Lines(process.stdout), Lines(process.stderr)
            url = f"http://{ready['listeners']['demo'][0]}"
            told.wait_for(lambda line: b"        curl -N" in line)
            first, page, *commands = told.text().splitlines()[:5]
            assert re.fullmatch(rf"fastgw {re.escape(VERSION)}: demo on {url} \(\d+ workers?\), Ctrl-C to stop", first)
            assert page.startswith(f"  open  {url}/ ")
            page, echo, events = ("-sS " + re.split(r" {3,}", line)[-2].partition("curl ")[2] for line in commands)
            assert [url in each for each in (page, echo, events)] == [True] * 3

            got = run("curl", *page.split())
            assert got.startswith("HTTP/1.1 200 OK")
            assert "<h1>fastgw</h1>" in got
            assert "\nhello\n" in run("curl", *echo.split())
            with Printing([program("curl"), *events.split()]) as curl:
                curl.lines.wait_for(lambda line: line.startswith(b"data: event 2"))
                assert b"data: event 10" not in b"".join(curl.lines.lines)
            log.wait_for(lambda line: b'"POST /echo HTTP/1.1" 200' in line)

            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE) == 0
            log.finish()
            told.finish()
            assert "Traceback" not in told.text()

    def test_without_a_file(self, nginx: Nginx, tmp_path: Path) -> None:
        """`run --listen --to` serves and logs; a second one on its port says who has it, and ends with 3."""
        flags = ["--to", nginx.url, "--workers", "1", "--access-log", "bench.log"]
        with Gateway(None, tmp_path, ["--listen", "127.0.0.1:0", *flags]) as gateway:
            assert run("curl", "-si", f"{gateway.url()}/page.txt").splitlines()[0] == "HTTP/1.1 200 OK"
            second = ran([FASTGW, "run", "--listen", gateway.address(), "--to", nginx.url], cwd=tmp_path)
            assert second.returncode == 3
            assert second.stderr.splitlines()[-1] == (
                f"fastgw: cannot listen on {gateway.address()}: the address is in use "
                f"(another fastgw, pid {gateway.pid}, has it)"
            )
        (line,) = (tmp_path / "bench.log").read_text().splitlines()
        assert '"path":"/page.txt"' in line

    @pytest.mark.landing
    def test_a_bad_file(self, tmp_path: Path) -> None:
        """`check` names both errors, each with its place and what was expected, and ends with 1."""
        (tmp_path / "bad.yaml").write_text("version: 1\nroutes: [{name: x, upstrem: u}]\n")
        checked = ran([FASTGW, "check", "bad.yaml"], cwd=tmp_path)
        assert checked.returncode == 1
        assert checked.stdout == (
            'bad.yaml:1:1: listeners: missing; expected at least one, such as {main: {address: "127.0.0.1:8080"}}\n'
            'bad.yaml:2:20: routes[0].upstrem: unknown key; did you mean "upstream"?\n'
        )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_numbers_that_are_true(nginx: Nginx, tmp_path: Path, workers: str) -> None:
    """wrk's count, the lines of the access log and the metric agree, but for what wrk left under way at its end."""
    flags = ["--listen", "127.0.0.1:0", "--to", nginx.url, "--workers", workers]
    flags += ["--access-log", "bench.log", "--status", "127.0.0.1:0"]
    with Gateway(None, tmp_path, flags) as gateway:
        told = run("wrk", "-t1", "-c64", "-d2s", f"{gateway.url()}/empty.txt")
        found = re.search(r"(\d+) requests in", told)
        assert found
        counted = int(found[1])
        assert "Socket errors" not in told

        def logged() -> int:
            return (tmp_path / "bench.log").read_bytes().count(b"\n")

        def measured() -> int:
            metrics = run("curl", "-s", f"http://{gateway.ready['status']}/metrics").splitlines()
            return sum(int(float(line.split()[-1])) for line in metrics if line.startswith("fastgw_requests_total"))

        wait_until(lambda: logged() == measured() >= counted, "log and metric to agree")
        assert counted <= logged() <= counted + 64
    assert logged() <= counted + 64


class TestAbuseCostsMemory:
    def test_idle_connections_and_slow_heads(self, nginx: Nginx, tmp_path: Path) -> None:
        """10,000 idle connections and 1,000 heads that never end are held: who asks is served at once."""
        config = {
            "workers": 2,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "limits": {"connections_per_ip": 20000},  # all of them come from one address
            "timeouts": {"request_headers": "1m"},  # or what is held now would be closed before all of it is there
            "routes": [{"name": "all", "upstream": nginx.url}],
        }
        with Gateway(config, tmp_path) as gateway:
            hold = [Path(FASTGW).with_name("python"), "-m", "bench", "hold", *HOLD, gateway.url()]
            with Printing(hold, cwd=ROOT, env={**environment(), "PYTHONUNBUFFERED": "1"}) as holding:
                holding.lines.wait_for(
                    lambda line: b"idle: 10000 of 10000 live" in line and b"slow heads: 1000 of 1000" in line, 40
                )
                told = run("curl", "-so", "/dev/null", "-w", "%{http_code} %{time_total}", f"{gateway.url()}/page.txt")
                assert told.split()[0] == "200"
                load = run("hey", "-n", "2000", "-c", "20", f"{gateway.url()}/empty.txt")
                assert "[200]\t2000 responses" in load

    def test_nobody_reads_the_log(self, tmp_path: Path) -> None:
        """A pipe on stdout that is never read: all requests are served; what is not logged is counted."""
        file = tmp_path / "gw.yaml"
        file.write_text(
            'version: 1\nworkers: 1\nlisteners: {main: {address: "127.0.0.1:0"}}\n'
            'status: {address: "127.0.0.1:0"}\nadmin: null\nroutes: [{name: all, respond: {body: ok}}]\n'
        )
        read_end, write_end = os.pipe()
        with started("run", file, stdout=write_end, stderr=subprocess.DEVNULL) as (process, ready):
            os.close(write_end)
            # 24 MB of lines; 16 MiB may be queued.
            load = run("hey", "-n", "24000", "-c", "20", f"http://{ready['listeners']['main'][0]}/{'a' * 1000}")
            assert "[200]\t24000 responses" in load
            assert "Error distribution" not in load
            metrics = run("curl", "-s", f"http://{ready['status']}/metrics")
            dropped = re.search(r"^fastgw_log_records_dropped_total\S* (\d+)", metrics, re.MULTILINE)
            assert dropped
            assert 0 < int(dropped[1]) < 24_000
            process.send_signal(signal.SIGTERM)
            assert process.wait(2 * DEADLINE) == 0
        os.close(read_end)


RUNNING = """
version: 1
workers: 4
listeners: {main: {address: "127.0.0.1:0"}}
status: {address: "127.0.0.1:0"}
admin: {address: "127.0.0.1:0"}
access_logs: []
routes:
"""


class Shell:
    """A gateway that was started with `fastgw run gw.yaml 2>gw.log &`, and the shell in its folder.

    `$PID` is the gateway, `$URL` its listener; `fastgw` knows which one is meant.
    """

    def __init__(self, directory: Path, routes: str) -> None:
        self.directory = directory
        self._written = RUNNING + routes
        (directory / "gw.yaml").write_text(self._written)
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Self:
        log = self._opened.enter_context((self.directory / "gw.log").open("wb"))
        started_here = started("run", "gw.yaml", cwd=self.directory, stdout=subprocess.DEVNULL, stderr=log)
        self.process, self.ready = self._opened.enter_context(started_here)
        self.url = f"http://{self.ready['listeners']['main'][0]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def __call__(self, script: str) -> str:
        """What the script printed, line by line without spaces around."""
        told = run(
            "sh", "-c", f'fastgw() {{ {FASTGW} "$@" --admin {self.ready["admin"]}; }}\n{script}', **self._options
        )
        return "\n".join(line.strip() for line in told.strip().splitlines())

    @property
    def _options(self) -> dict[str, Any]:
        variables = {"URL": self.url, "PID": str(self.process.pid), "STATUS": str(self.ready["status"])}
        return {"cwd": self.directory, "env": {**environment(), **variables}, "timeout": 2 * RUN_DEADLINE}

    @property
    def log(self) -> str:
        return (self.directory / "gw.log").read_text()


EACH_ANEW = "curl -s -H 'Connection: close'"  # one connection for each URL


def test_a_worker_dies_after_a_reload_and_comes_back_with_the_new_configuration(tmp_path: Path) -> None:
    with Shell(tmp_path, "  - {name: a, paths: [/a], respond: {body: v1}}") as shell:
        assert shell("sed -i s/v1/v2/ gw.yaml && fastgw reload") == "reloaded: generation 2 on 4/4 workers"
        shell("kill -9 $(fastgw status --format json | jq .workers[0].pid)")
        assert shell(f"{EACH_ANEW} -w '\\n' \"$URL/a?[1-400]\" | sort | uniq -c") == "400 v2"
        generations = "fastgw status --format json | jq -c '[.workers[].generation]'"
        wait_until(lambda: shell(generations) == "[2,2,2,2]", "the worker that comes back", RUN_DEADLINE)
        (tmp_path / "bad.yaml").write_text("version: 1\nroutes: [{name: x, upstrem: u}]\n")
        told, code = shell("cp bad.yaml gw.yaml; fastgw reload 2>&1; echo $?").rsplit("\n", 1)
        assert code == "1"
        for place in (":1:1: listeners: missing", ":2:20: routes[0].upstrem: unknown key"):
            assert place in told
        assert shell("curl -s $URL/a") == "v2"


def test_a_frozen_worker_an_upgrade_a_stop_no_request_lost(tmp_path: Path) -> None:
    """With a shorter load; and at the end three slow answers are on their way."""
    with Uvicorn(taking_its_time) as origin:
        routes = f"  - {{name: slow, paths: [/slow], upstream: {origin.url}}}\n"
        with Shell(tmp_path, routes + "  - {name: all, respond: {body: ok}}") as shell:
            told = shell("hey -z 6s -c 20 $URL/ & sleep 2; kill -HUP $PID; sleep 2; kill -USR2 $PID; wait")
            assert re.findall(r"^\[(\d+)\]", told, re.MULTILINE) == ["200"]
            assert "Error distribution" not in told
            assert "reloaded: generation 2 on 4/4 workers" in shell.log
            wait_until(lambda: "all 4 workers are new" in shell.log, "the upgrade", RUN_DEADLINE)
            wait_until(
                lambda: shell("fastgw status --format json | jq -c '[.workers[].state]'") == EACH_READY,
                "all",
                RUN_DEADLINE,
            )
            frozen = shell("fastgw status --format json | jq .workers[0].pid")
            shell(f"kill -STOP {frozen}")
            wait_until(lambda: "has sent no heartbeat" in shell.log, "it to be missed", RUN_DEADLINE)
            asks = f"{EACH_ANEW} -m 1 -o /dev/null -w '%{{http_code}}\\n' \"$URL/?[1-200]\""
            assert shell(f"{asks} | sort | uniq -c") == "200 200"
            shell(f"kill -CONT {frozen}")
            wait_until(lambda: "sends heartbeats again" in shell.log, "the worker")
            with contextlib.ExitStack() as stack:
                slow = [program("curl"), "-sN", f"{shell.url}/slow"]
                clients = [stack.enter_context(Printing(slow)) for _ in range(3)]
                for client in clients:
                    client.lines.wait_for(lambda line: line == b"begun\n")
                shell.process.send_signal(signal.SIGTERM)
                assert shell.process.wait(RUN_DEADLINE) == 0
                assert [client.wait() for client in clients] == [0, 0, 0]
                assert {client.lines.text() for client in clients} == {"begun\ndone\n"}
        assert re.search(r"drained 3 requests in \d+\.\d s, 0 cut", shell.log.splitlines()[-1])


async def taking_its_time(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun\n", "more_body": True})
    await asyncio.sleep(1)
    await send({"type": "http.response.body", "body": b"done\n"})


EACH_READY = '["ready","ready","ready","ready"]'


async def ticking(scope: Any, receive: Any, send: Any) -> None:
    """A WebSocket that ticks; whatever is uploaded is answered with its digest."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        tick, leaving = 0, asyncio.ensure_future(receive())
        while not leaving.done():
            await send({"type": "websocket.send", "text": str(tick)})
            tick += 1
            await asyncio.wait([leaving], timeout=0.02)
        return
    seen, more = hashlib.sha256(), True
    while more:
        message = await receive()
        seen.update(message.get("body", b""))
        more = message.get("more_body", False)
    digest = seen.hexdigest().encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(digest))]})
    await send({"type": "http.response.body", "body": digest})


@pytest.mark.landing
def test_a_websocket_and_an_upload_live_through_a_reload_and_a_new_listener(tmp_path: Path) -> None:
    """The upload waits for the reload half way, and is not encrypted. No tick is missing."""
    content = os.urandom(3_000_000)
    with Uvicorn(ticking) as service, Shell(tmp_path, f"  - {{name: all, upstream: {service.url}}}") as shell:
        ticks: list[int] = []
        with connect(shell.url.replace("http", "ws"), proxy=None) as websocket:

            def listen() -> None:
                with contextlib.suppress(ConnectionClosedOK):
                    for tick in websocket:
                        ticks.append(int(tick))

            listening = threading.Thread(target=listen)
            listening.start()
            with Client(shell.url.removeprefix("http://")) as uploading:
                head = f"PUT /content.bin HTTP/1.1\r\nHost: test\r\nContent-Length: {len(content)}\r\n\r\n"
                uploading.send(head.encode() + content[:1_000_000])
                wait_until(lambda: len(ticks) > 20, "the WebSocket")
                added = "sed -i 's/^listeners: {/&more: {address: \"127.0.0.1:0\"}, /' gw.yaml && fastgw reload"
                told = shell(added)
                assert told == "reloaded: generation 2 on 4/4 workers, 1 listener added, 0 workers restarted"
                uploading.send(content[1_000_000:])
                answer = uploading.read_response(b"PUT")
            assert (answer.status, answer.body) == (200, hashlib.sha256(content).hexdigest().encode())
            seen = len(ticks)
            wait_until(lambda: len(ticks) > seen + 20, "the WebSocket")
            websocket.close()
            listening.join(DEADLINE)
        assert ticks == list(range(len(ticks)))


class TestDefaultPorts:
    """`admin` and `status` are served where the documentation says although the file does not name them."""

    FILE = """
version: 1
workers: 1
listeners: {main: {address: "127.0.0.1:0"}}
routes: [{name: all, respond: {body: ok}}]
"""
    PORTS = (9901, 9902)

    @pytest.fixture(autouse=True)
    def alone(self) -> Iterator[None]:
        with default_ports(alone=True):
            yield

    def test_they_are_served_where_they_are_free(self, tmp_path: Path) -> None:
        (tmp_path / "gw.yaml").write_text(self.FILE)
        with started("run", "gw.yaml", cwd=tmp_path, stdout=subprocess.DEVNULL) as (_, ready):
            assert (ready["admin"], ready["status"]) == ("127.0.0.1:9901", "127.0.0.1:9902")
            assert run("curl", "-s", "http://127.0.0.1:9902/readyz") == "ready\n"
            reloaded = ran([FASTGW, "reload", "--config", "gw.yaml"], cwd=tmp_path)
            assert (reloaded.stdout, reloaded.stderr) == ("reloaded: generation 2 on 1/1 workers\n", "")

    def test_where_they_are_taken_that_is_told_and_the_gateway_serves(self, tmp_path: Path) -> None:
        (tmp_path / "gw.yaml").write_text(self.FILE)
        with contextlib.ExitStack() as stack:
            for port in self.PORTS:
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            log = stack.enter_context((tmp_path / "gw.log").open("wb"))
            options = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": log}
            _, ready = stack.enter_context(started("run", "gw.yaml", **options))
            assert not {ready["admin"], ready["status"]} & {f"127.0.0.1:{port}" for port in self.PORTS}
            assert run("curl", "-s", f"http://{ready['listeners']['main'][0]}/") == "ok"
            assert run("curl", "-s", f"http://{ready['status']}/readyz") == "ready\n"
            told = (tmp_path / "gw.log").read_text()
            assert f"dashboard http://{ready['admin']}/ (token: " in told
            assert f"status http://{ready['status']}/metrics (9902 is taken)\n" in told


EXPLAINED = """
version: 1
listeners: {public: {address: "127.0.0.1:0"}}
filters: {request_id: {}}
upstreams:
  users: {targets: [{url: "http://users-1:9001"}]}
routes:
  - {name: files, hosts: [api.example.com], paths: ["/users/*"], upstream: users}
  - name: user
    hosts: [api.example.com]
    paths: ["/users/{id}"]
    methods: [GET]
    upstream: users
    filters: {headers: {request: {set: {X-Tenant: t1}}}}
"""


class TestWhyDidThisRequestGoThere:
    @pytest.fixture
    def topics(self, tmp_path: Path) -> dict[str, str]:
        """What `explain` said, by the first word of its lines."""
        (tmp_path / "gw.yaml").write_text(EXPLAINED)
        command = [FASTGW, "explain", "gw.yaml", "GET", "http://api.example.com/users/7"]
        command += ["-H", "Authorization: Bearer very.secret"]
        explained = ran(command, cwd=tmp_path)
        assert (explained.returncode, explained.stderr) == (0, "")
        assert "very.secret" not in explained.stdout
        return {line.partition(" ")[0]: " ".join(line.split()[1:]) for line in explained.stdout.splitlines()}

    @pytest.mark.landing
    def test_the_route_and_what_it_beat(self, topics: dict[str, str]) -> None:
        """Which route, by which host and path, with which parameters; and who else would have matched."""
        assert topics["route"].startswith("user host api.example.com, path /users/{id} (id=7); beat: files")

    @pytest.mark.landing
    def test_the_filters_and_what_each_decides(self, topics: dict[str, str]) -> None:
        """In running order, before and after routing."""
        assert topics["early"].startswith("request_id → ")
        assert "X-Tenant: t1" in topics["filters"]

    @pytest.mark.landing
    def test_the_target_and_what_it_is_sent(self, topics: dict[str, str]) -> None:
        """The head as it would go out, secrets as `***`."""
        assert topics["target"].startswith("http://users-1:9001")
        assert topics["sends"].startswith("GET /users/7 HTTP/1.1 · Host: api.example.com · ")
        for line in ("X-Forwarded-For: ", "Via: 1.1 fastgw", "Authorization: ***"):
            assert line in topics["sends"]
