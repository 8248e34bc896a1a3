"""What people do with fastgw on their first day, command by command, and what they must see."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from fastgw import VERSION
from tests.e2e.programs import Nginx, Printing, environment, program, run, started
from tests.support.gateway import FASTGW, Gateway, Lines, wait_until
from tests.support.peer import DEADLINE

ROOT = Path(__file__).parents[2]
HOLD = ["--connections", "10000", "--slow-heads", "1000"]


class TestFirstMinute:
    def test_make_run_is_the_demo(self) -> None:
        """`make run` sets up what is missing and starts the demo; nothing else is to be known."""
        commands = run("make", "--dry-run", "run", cwd=ROOT).splitlines()
        assert commands[-1] == ".venv/bin/fastgw demo"

    def test_the_demo_and_its_three_commands(self) -> None:
        """It says where it is and what to try; each command that it names does what it says; Ctrl-C ends it with 0."""
        with started("demo", "--listen", "127.0.0.1:0", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as (
            process,
            ready,
        ):
            assert process.stdout is not None
            assert process.stderr is not None
            log, told = Lines(process.stdout), Lines(process.stderr)
            url = f"http://{ready['listeners']['demo'][0]}"
            told.wait_for(lambda line: line.startswith(b"        curl -N"))
            first, *commands = told.text().splitlines()[-4:]
            assert re.fullmatch(rf"fastgw {re.escape(VERSION)}: demo on {url} \(\d+ workers?\), Ctrl-C to stop", first)
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
            second = subprocess.run(
                [FASTGW, "run", "--listen", gateway.address(), "--to", nginx.url],
                capture_output=True,
                text=True,
                timeout=20,
                cwd=tmp_path,
            )
            assert second.returncode == 3
            assert second.stderr.splitlines()[-1] == (
                f"fastgw: cannot listen on {gateway.address()}: the address is in use "
                f"(another fastgw, pid {gateway.pid}, has it)"
            )
        (line,) = (tmp_path / "bench.log").read_text().splitlines()
        assert '"path":"/page.txt"' in line

    def test_a_bad_file(self, tmp_path: Path) -> None:
        """`check` names both errors, each with its place and what was expected, and ends with 1."""
        (tmp_path / "bad.yaml").write_text("version: 1\nroutes: [{name: x, upstrem: u}]\n")
        checked = subprocess.run([FASTGW, "check", "bad.yaml"], capture_output=True, text=True, cwd=tmp_path)
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
            load = run("hey", "-n", "80000", "-c", "20", f"http://{ready['listeners']['main'][0]}/")
            assert "[200]\t80000 responses" in load
            assert "Error distribution" not in load
            metrics = run("curl", "-s", f"http://{ready['status']}/metrics")
            dropped = re.search(r"^fastgw_log_records_dropped_total\S* (\d+)", metrics, re.MULTILINE)
            assert dropped
            assert 0 < int(dropped[1]) < 80_000
            process.send_signal(signal.SIGTERM)
            assert process.wait(2 * DEADLINE) == 0
        os.close(read_end)


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
        explained = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert (explained.returncode, explained.stderr) == (0, "")
        assert "very.secret" not in explained.stdout
        return {line.partition(" ")[0]: " ".join(line.split()[1:]) for line in explained.stdout.splitlines()}

    def test_the_route_and_what_it_beat(self, topics: dict[str, str]) -> None:
        """Which route, by which host and path, with which parameters; and who else would have matched."""
        assert topics["route"].startswith("user host api.example.com, path /users/{id} (id=7); beat: files")

    def test_the_filters_and_what_each_decides(self, topics: dict[str, str]) -> None:
        """In running order, before and after routing."""
        assert topics["early"].startswith("request_id → ")
        assert "X-Tenant: t1" in topics["filters"]

    def test_the_target_and_what_it_is_sent(self, topics: dict[str, str]) -> None:
        """The head as it would go out, secrets as `***`."""
        assert topics["target"].startswith("http://users-1:9001")
        assert topics["sends"].startswith("GET /users/7 HTTP/1.1 · Host: users-1:9001 · ")
        for line in ("X-Forwarded-For: ", "Via: 1.1 fastgw", "Authorization: ***"):
            assert line in topics["sends"]
