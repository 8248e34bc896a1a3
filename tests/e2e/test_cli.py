"""The commands as a user types them: what they print, and how they end."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastgw import VERSION
from tests.e2e.programs import started
from tests.support.client import Client
from tests.support.default_ports import default_ports
from tests.support.forked import COMMAND_DEADLINE, FASTGW, ran, start
from tests.support.gateway import STOP_DEADLINE, Gateway, Lines, wait_until
from tests.support.origin import Origin

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"

GOOD = "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\nroutes: [{name: x, respond: {body: ok}}]\n"
GOOD += "status: null\nadmin: null\n"
BAD = "version: 1\nroutes: [{name: x, upstrem: u}]\n"
BAD_LINES = [
    'bad.yaml:1:1: listeners: missing; expected at least one, such as {main: {address: "127.0.0.1:8080"}}',
    'bad.yaml:2:20: routes[0].upstrem: unknown key; did you mean "upstream"?',
]


def fastgw(*arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Whatever happens, no user sees a traceback."""
    ended = ran([FASTGW, *arguments], cwd=directory)
    assert "Traceback" not in ended.stderr
    return ended


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    return tmp_path


class TestStdin:
    """`-` in place of a file's name."""

    def asked(self, *arguments: str, text: str) -> subprocess.CompletedProcess[str]:
        return ran([FASTGW, *arguments], input=text)

    @pytest.mark.landing
    def test_a_configuration_is_checked(self):
        assert self.asked("check", "-", text=GOOD).stdout == "<stdin>: configuration is valid\n"
        ended = self.asked("check", "-", text=BAD)
        assert ended.stdout.splitlines() == [line.replace("bad.yaml", "<stdin>") for line in BAD_LINES]
        assert ended.returncode == 1

    @pytest.mark.parametrize(
        ("text", "syntax"),
        [
            ('version = 1\nstatus = "x"\n', "toml"),
            ('{"version": 1, "status": "x"}', "json"),
            ('{"version": 1, "status": "x"}', "yaml"),
        ],
    )
    def test_in_any_syntax(self, text, syntax):
        assert 'status: "x"; expected an object' in self.asked("check", "-", "--syntax", syntax, text=text).stdout

    def test_what_it_names_is_relative_to_the_working_directory(self, tmp_path):
        (tmp_path / "more.yaml").write_text(GOOD.partition("routes")[0].replace("version: 1\n", ""))
        text = "version: 1\ninclude: [more.yaml]\nroutes: [{name: x, respond: {}}]\n"
        ended = ran([FASTGW, "check", "-"], input=text, cwd=tmp_path)
        assert (ended.stdout, ended.returncode) == ("<stdin>: configuration is valid\n", 0)

    def test_others_take_it_too(self, files):
        file = str(files / "good.yaml")
        assert self.asked("diff", file, "-", text=GOOD.replace("ok", "no")).stdout == "route x: respond.body ok -> no\n"
        assert "answers   200" in self.asked("explain", "-", "GET", "http://a/", text=GOOD).stdout


class TestCompletion:
    def test_bash_is_told_commands_and_options(self):
        """What `source <(fastgw completion bash)` defines, asked as bash asks it when somebody presses Tab."""
        script = (
            "source <(fastgw completion bash); complete -p fastgw; "
            'ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); '
            '_fastgw_completion fastgw; echo "${COMPREPLY[@]}"; }; '
            "ask fastgw re; ask fastgw check --fo; ask fastgw check --format ''"
        )
        ended = subprocess.run(
            ["bash", "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": f"{Path(FASTGW).parent}:{os.environ['PATH']}"},
            timeout=COMMAND_DEADLINE,
        )
        registered, command, option, value = ended.stdout.splitlines()
        assert registered.endswith("_fastgw_completion fastgw")
        assert "reload" in command.split()
        assert (option.split(), value.split()) == (["--format"], ["text", "json"])

    @pytest.mark.parametrize("shell", ["zsh", "fish", "powershell"])
    def test_other_shells_have_a_script_too(self, shell):
        ended = fastgw("completion", shell)
        assert (ended.returncode, f"complete_{shell}" in ended.stdout) == (0, True)


class TestCheck:
    @pytest.mark.landing
    def test_every_problem_is_a_line_on_stdout_and_the_exit_code_is_1(self, files):
        ended = fastgw("check", "bad.yaml", directory=files)
        assert (ended.stdout.splitlines(), ended.stderr, ended.returncode) == (BAD_LINES, "", 1)

    @pytest.mark.landing
    def test_a_good_file(self, files):
        ended = fastgw("check", "good.yaml", directory=files)
        assert (ended.stdout, ended.returncode) == ("good.yaml: configuration is valid\n", 0)

    def test_a_good_file_with_something_worth_knowing(self, files):
        (files / "good.yaml").write_text(f"{GOOD}filters: {{key_auth: {{}}}}\n")
        ended = fastgw("check", "good.yaml", directory=files)
        assert (ended.stdout, ended.returncode) == (
            "note: good.yaml:6:11: filters.key_auth: no consumer has a `key_auth`: every request is refused\n"
            "good.yaml: configuration is valid, with a note above\n",
            0,
        )

    def test_files_that_cannot_be_written(self, files):
        disk = f"{{path: {files}/nowhere/cache, size: 1GiB}}"
        (files / "good.yaml").write_text(
            f"{GOOD}quotas: {{file: {files}/nowhere/quotas}}\ncaches: {{main: {{disk: {disk}}}}}\n"
        )
        ended = fastgw("check", "good.yaml", directory=files)
        noted = (
            f"quotas.file: directory {files}/nowhere does not exist: counters would be lost when the gateway stops\n"
        )
        assert (ended.stdout.partition(noted)[1], ended.returncode) == (noted, 0)
        assert f"caches.main.disk.path: {files}/nowhere/cache: the directory {files}/nowhere does not" in ended.stdout

    @pytest.mark.landing
    def test_as_json(self, files):
        ended = fastgw("check", "bad.yaml", "--format", "json", directory=files)
        problems = json.loads(ended.stdout)["problems"]
        assert ended.returncode == 1
        assert problems[1] == {
            "file": "bad.yaml",
            "line": 2,
            "column": 20,
            "path": "routes[0].upstrem",
            "wrong": "unknown key",
            "expected": "",
            "hint": 'did you mean "upstream"?',
        }
        assert json.loads(fastgw("check", "good.yaml", "--format", "json", directory=files).stdout)["problems"] == []

    def test_a_file_that_is_not_there(self, files):
        ended = fastgw("check", "none.yaml", directory=files)
        assert (ended.returncode, ended.stdout.startswith("none.yaml: ")) == (1, True)

    def test_a_file_that_others_name_and_is_not_what_it_should_be(self, files):
        """What only building shows, such as a certificate that is none, is a problem like any other."""
        (files / "ca.pem").write_text("no certificate")
        (files / "tls.yaml").write_text(
            GOOD.replace("respond: {body: ok}", "upstream: u")
            + "upstreams: {u: {targets: [{url: 'https://127.0.0.1:1'}], tls: {ca: ca.pem}}}\n"
        )
        ended = fastgw("check", "tls.yaml", directory=files)
        assert ended.returncode == 1
        assert "upstreams.u.tls" in ended.stdout


class TestRun:
    @pytest.mark.landing
    def test_without_a_file(self, tmp_path):
        with Origin() as origin:
            flags = [
                "--listen",
                "127.0.0.1:0",
                "--to",
                origin.serve().url,
                "--workers",
                "1",
                "--access-log",
                "bench.log",
            ]
            with Gateway(None, tmp_path, [*flags, "--status", "127.0.0.1:0"]) as gateway:
                with gateway.connect() as client:
                    assert client.exchange(GET).status == 200
                with Client(gateway.ready["status"]) as client:
                    assert client.exchange(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
                said = gateway.stderr.wait_for(lambda line: b"listening" in line).decode()
            assert said == f"fastgw {VERSION}: listening on {gateway.url()} (1 worker)\n"
            assert json.loads((tmp_path / "bench.log").read_text())["path"] == "/hello"

    @pytest.mark.landing
    def test_the_ready_line(self, files):
        with Gateway(files / "good.yaml", files) as gateway:
            assert gateway.ready == {
                "listeners": {"main": [gateway.address()]},
                "status": None,
                "admin": None,
                "token_file": None,
                "pid": gateway.process.pid,
            }

    @pytest.mark.landing
    def test_a_wrong_file(self, files):
        ended = fastgw("run", "bad.yaml", directory=files)
        assert (ended.stderr.splitlines(), ended.stdout, ended.returncode) == (BAD_LINES, "", 1)

    def test_flags_of_a_wrong_form(self):
        ended = fastgw("run", "--listen", "nowhere", "--to", "ftp://a")
        assert ended.returncode == 2
        assert [line.partition(":")[0] for line in ended.stderr.splitlines()] == ["--listen", "--to"]

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--listen", "127.0.0.1:0"],
            ["--to", "http://a"],
            ["good.yaml", "--listen", "127.0.0.1:0"],
            ["good.yaml", "--workers", "2"],
            ["good.yaml", "--ready-fd", "77"],
            ["good.yaml", "--ready-fd", "x"],
            ["--listen", "127.0.0.1:0", "--to", "http://a", "--workers", "0"],
            ["--unknown"],
        ],
        ids=" ".join,
    )
    def test_usage(self, files, arguments):
        ended = fastgw("run", *arguments, directory=files)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "Error: " in ended.stderr


class TestTomlFromStdin:
    """Whose syntax nobody has named."""

    @pytest.mark.parametrize(
        "text", ["version = 1\n", "[listeners.main]\naddress = 'a'\n", "[[routes]]  # all\r\nname = 'a'\r\n"]
    )
    @pytest.mark.parametrize("command", [["check", "-"], ["explain", "-", "GET", "/"]], ids=lambda each: each[0])
    def test_is_told_how_to_name_it(self, command, text):
        told = ran([FASTGW, *command], input=text)
        assert told.returncode == 1
        lines = (told.stdout + told.stderr).splitlines()
        assert lines[-1] == "<stdin>: it looks like TOML; expected YAML, or --syntax toml"
        assert lines[0].startswith("<stdin>:")

    @pytest.mark.parametrize(
        "text", ["version: 1\nroutes:\n- name = a\n", "version: [\n", "{", GOOD + "x: '\na = b'\n"]
    )
    def test_other_mistakes_are_not_taken_for_it(self, text):
        told = ran([FASTGW, "check", "-"], input=text)
        assert told.returncode == 1
        assert "TOML" not in told.stdout


class TestDemo:
    @pytest.fixture
    def demo(self, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Lines, dict[str, Any]]]:
        """The demo in a process group of its own, as a terminal would have it."""
        with default_ports():
            ready, ready_in = os.pipe()
            process = start(
                [FASTGW, "demo", "--listen", "127.0.0.1:0", "--workers", "2", "--ready-fd", str(ready_in)],
                cwd=tmp_path,
                env={**os.environ, "TMPDIR": str(tmp_path)},
                pass_fds=[ready_in],
                process_group=0,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            os.close(ready_in)
            assert process.stderr is not None
            lines = Lines(process.stderr)
            try:
                assert wait([ready], STOP_DEADLINE)
                yield process, lines, json.loads(os.read(ready, 4096))
            finally:
                os.close(ready)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                lines.finish()

    @pytest.mark.landing
    def test_what_it_says_is_true(self, demo):
        """The page has the same commands as the terminal, and each of them does something."""
        _, lines, ready = demo
        (address,) = ready["listeners"]["demo"]
        lines.wait_for(lambda line: b"/events" in line)
        first, look, *tries = lines.text().splitlines()[:5]
        assert look.startswith(f"  open  http://{address}/ ")
        assert first == f"fastgw {VERSION}: demo on http://{address} (2 workers), Ctrl-C to stop"
        assert re.fullmatch(rf"  try:  curl -i http://{address}/ {{3,}}# \S.*", tries[0])
        assert len(tries) == 3
        get = f"GET %s HTTP/1.1\r\nHost: {address}\r\n\r\n"
        with Client(address) as client:
            page = client.exchange((get % "/").encode())
            assert (page.status, b"X-Request-Id" in page) == (200, True)
            for line in tries:
                assert line[8:].partition("   ")[0].encode() in page.body
            client.send(f"POST /echo HTTP/1.1\r\nHost: {address}\r\nContent-Length: 5\r\n\r\nhello".encode())
            echoed = client.read_response().body
            assert (b"X-Forwarded-For: 127.0.0.1" in echoed, echoed.endswith(b"\r\n\r\nhello\n")) == (True, True)
            assert client.exchange((get % "/nowhere").encode()).status == 404
            client.send((get % "/events").encode())
            assert client.read_response_head().get(b"Content-Type") == b"text/event-stream"
            assert client.read_chunk() == b"data: event 1 of 10\n\n"

    def test_on_a_unix_socket_it_says_how_to_reach_it(self, tmp_path):
        """A browser is not asked to."""
        with (
            default_ports(),
            started("demo", "--listen", f"unix:{tmp_path}/a b", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as (
                process,
                _,
            ),
        ):
            assert process.stderr is not None
            lines = Lines(process.stderr)
            lines.wait_for(lambda line: b"/events" in line)
            assert "  open  " not in lines.text()
            (command,) = re.findall(r"try:  curl (.*)   #", lines.text())
            got = subprocess.run(["curl", *shlex.split(command)], capture_output=True, timeout=60, check=True)
            assert got.stdout.startswith(b"HTTP/1.1 200 ")
            process.send_signal(signal.SIGINT)
            assert process.wait(STOP_DEADLINE) == 0
            lines.finish()

    @pytest.mark.landing
    def test_the_page_leads_to_the_dashboard_and_has_no_token(self, demo):
        """The page is public, the dashboard is not. The page fetches nothing, and runs its own script only."""
        _, _, ready = demo
        (address,) = ready["listeners"]["demo"]
        token = Path(ready["token_file"]).read_text().strip()
        assert ready["admin"].startswith("127.0.0.1:")
        got = httpx.get(f"http://{address}/")
        assert f'href="http://{ready["admin"]}/"' in got.text
        assert "hidden>" not in got.text
        assert token not in got.text
        assert got.headers["x-request-id"] in got.text
        assert not re.findall(r"""(?:src|href|url)\W{1,2}https?://(?!127\.0\.0\.1)""", got.text)
        (script,) = re.findall(r"<script>(.*?)</script>", got.text, re.DOTALL)
        allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = got.headers["content-security-policy"]
        assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'" in policy

    def test_the_page_escapes_what_a_client_sends(self, demo):
        _, _, ready = demo
        (address,) = ready["listeners"]["demo"]
        got = httpx.get(f"http://{address}/", headers={"x-request-id": "<b>"})
        assert "&lt;b&gt;" in got.text
        assert "<b>" not in got.text

    def test_what_the_page_shows_to_try_works(self, demo):
        _, _, ready = demo
        (address,) = ready["listeners"]["demo"]
        url = f"http://{address}"
        page = httpx.get(url).text
        assert [httpx.get(f"{url}/limited?{number}").status_code for number in range(5)] == [200] * 3 + [429] * 2
        docs = re.findall(r'href="(/docs/[^"]+)"', page)
        assert len(docs) == 3
        for path in docs:
            got = httpx.get(url + path)
            assert (got.status_code, got.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        shown = [html.unescape(each) for each in re.findall(r"<code>fastgw (.*?)</code><button>", page)]
        assert [each.split()[0] for each in shown] == ["status", "top", "tap", "stories", "explain"]
        told = fastgw(*shown[-1].split(), directory=Path(__file__).parents[2])
        assert (told.returncode, told.stdout.splitlines()[-1][:11]) == (0, "answers   4")
        for command in ("status", "stories", "tap --requests 1"):
            told = fastgw(*command.split(), "--admin", ready["admin"])
            assert told.returncode == 0, told.stderr

    def test_the_sample_traffic_is_counted_and_not_logged(self):
        with (
            default_ports(),
            started("demo", "--listen", "127.0.0.1:0", "--workers", "1", stdout=subprocess.PIPE) as (process, ready),
        ):
            assert process.stdout is not None
            log = Lines(process.stdout)

            def counted() -> bool:
                status = httpx.get(f"http://{ready['status']}/metrics").text
                return re.search(r'fastgw_requests_total\{.*route="orders".*\} [1-9]', status) is not None

            wait_until(counted, "sample traffic")
            httpx.get(f"http://{ready['listeners']['demo'][0]}/users/7")
            log.wait_for(lambda line: b"/users/7 " in line)
            assert len(log.lines) == 1
            process.send_signal(signal.SIGINT)
            assert process.wait(STOP_DEADLINE) == 0
            log.finish()

    def test_on_a_terminal_lines_can_be_pasted(self, tmp_path):
        """And the link to the dashboard has the token, which nobody else sees."""
        ours, theirs = os.openpty()
        with default_ports():
            process = start(
                [FASTGW, "demo", "--listen", "0.0.0.0:0", "--workers", "1"],
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=theirs,
            )
            os.close(theirs)
            told = b""
            try:
                while b"dashboard" not in told or not told.endswith(b"\n"):
                    assert wait([ours], STOP_DEADLINE)
                    told += os.read(ours, 4096)
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(STOP_DEADLINE)
                os.close(ours)
        lines = told.decode().splitlines()
        assert lines[0].startswith(f"fastgw {VERSION}: demo on http://0.0.0.0:")
        assert lines[3].startswith("        curl -d hello http://127.0.0.1:")
        assert re.search(r" dashboard http://127\.0\.0\.1:\d+/#token=[\w-]{43}", told.decode())

    @pytest.mark.landing
    def test_ctrl_c_ends_all_of_it_cleanly(self, demo, tmp_path):
        """Also in the middle of a stream."""
        process, lines, ready = demo
        (address,) = ready["listeners"]["demo"]
        with Client(address) as client:
            client.send(f"GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
            client.read_response_head()
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(STOP_DEADLINE) == 0
        lines.finish()
        assert lines.lines[-1] == b"at once, without draining\n"
        assert "Traceback" not in lines.text()
        assert list(tmp_path.iterdir()) == []

    def test_there_is_no_file_to_read_again_to_go_back_to_or_to_change_in_part(self, demo):
        """Which is told, and alerts nobody: nothing has failed."""
        process, lines, ready = demo
        token = Path(ready["token_file"]).read_text().strip()

        def ask(method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
            headers = {"authorization": f"Bearer {token}"}
            answer = httpx.request(method, f"http://{ready['admin']}{path}", json=body, headers=headers)
            return answer.status_code, answer.json()

        told = fastgw("reload", "--admin", ready["admin"])
        no_file = "this gateway was started without a configuration file: there is nothing to reload"
        assert (told.returncode, told.stdout, told.stderr) == (1, "", f"fastgw: {no_file}\n")
        shown = fastgw("status", "--admin", ready["admin"]).stdout.splitlines()
        assert shown[2].strip() == "configured by the command line"
        status, outcome = ask("PUT", "/upstreams/origin/targets", [{"url": "http://127.0.0.1:1"}])
        assert (status, outcome["reason"], outcome["problems"]) == (422, "rejected", [])
        posted = {"version": 1, "listeners": {"main": {"address": "127.0.0.1:0"}}, "access_logs": []}
        assert ask("POST", "/config", {**posted, "routes": [{"name": "a", "respond": {}}]})[0] == 200
        told = fastgw("rollback", "--admin", ready["admin"])
        assert told.stderr == "fastgw: cannot roll back: no other configuration is kept\n"
        os.kill(process.pid, signal.SIGHUP)
        lines.wait_for(lambda line: line.startswith(b"SIGHUP: nothing to reload"))
        seen = ask("GET", "/status")[1]
        assert (seen["stale"], seen["reloads"]["failed"], seen["reloads"]["last_success"]) == (None, 0, True)
        assert (seen["config_file"], bool(seen["config_hash"])) == ("", True)  # of what was sent
        assert b"config_problem" not in b"".join(lines.raw)

    @pytest.mark.landing
    def test_a_taken_port(self):
        with Origin() as origin:
            ended = fastgw("demo", "--listen", origin.authority)
            assert ended.returncode == 3
            assert f"fastgw: cannot listen on {origin.authority}: the address is in use (" in ended.stderr
            assert f", pid {os.getpid()}, has it); stop that process, or take a free port: " in ended.stderr
            assert ended.stderr.endswith("fastgw demo --listen 127.0.0.1:0, or make run LISTEN=127.0.0.1:0\n")

    def test_make_run_takes_another_address(self):
        """As the message about a taken port says."""
        command = ["make", "-n", "run", "LISTEN=127.0.0.1:0"]
        told = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
        assert told.stdout.splitlines()[-1:] == [".venv/bin/fastgw demo --listen 127.0.0.1:0"], told.stderr

    def test_an_address_that_is_none(self):
        assert fastgw("demo", "--listen", "nowhere").returncode == 2


def test_the_schema_is_one():
    schema = json.loads(fastgw("schema").stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_nobody_reading_the_answer_is_no_drama():
    with subprocess.Popen([FASTGW, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("arguments", [("version",), ("schema",), ("filters", "cache"), ("--help",)], ids=" ".join)
def test_output_that_cannot_be_written_is_said(arguments: tuple[str, ...]) -> None:
    """A full disk is no defect of the command."""
    with open("/dev/full", "wb") as full:
        told = subprocess.run([FASTGW, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (told.returncode, told.stderr) == (74, "fastgw: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("command", ["check good.yaml", "version", "--help"])
def test_output_that_is_closed_is_said(command: str, files: Path) -> None:
    shell = f"exec {FASTGW} {command} >&-"
    told = subprocess.run(["sh", "-c", shell], cwd=files, capture_output=True, text=True, timeout=COMMAND_DEADLINE)
    assert (told.returncode, told.stderr) == (74, "fastgw: the output cannot be written: it is closed\n")


@pytest.mark.parametrize(
    "command", ["check -", "explain - GET http://a/", "diff - good.yaml", "diff good.yaml -", "kyma-services -"]
)
def test_input_that_is_closed_cannot_be_read(command: str, files: Path) -> None:
    shell = f"exec {FASTGW} {command} <&- 2>&1"
    told = subprocess.run(["sh", "-c", shell], cwd=files, capture_output=True, text=True, timeout=COMMAND_DEADLINE)
    wanted = "fastgw: -: it is closed\n" if "kyma" in command else "<stdin>: cannot be read: it is closed\n"
    assert (told.returncode, told.stdout) == (1, wanted)


def test_a_name_that_is_not_utf8_is_shown_in_json() -> None:
    told = fastgw("audit", "verify", "--format", "json", "bad\udcff.log")
    (problem,) = json.loads(told.stdout)["problems"]
    assert (told.returncode, problem["file"]) == (1, "bad\\udcff.log")
    assert problem["wrong"] == "No such file or directory"


@pytest.mark.landing
def test_the_version_tells_what_it_runs_on():
    told = fastgw("version").stdout.splitlines()
    assert told[0].split() == ["fastgw:", VERSION]
    assert [line.split(maxsplit=1)[0] for line in told[-2:]] == ["ocsp:", "tickets:"]
    assert json.loads(fastgw("version", "--format", "json").stdout)["fastgw"] == VERSION


def test_as_a_module():
    ended = subprocess.run(
        [sys.executable, "-m", "fastgw", "version"], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout == fastgw("version").stdout


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["check"], ["check", "good.yaml", "--format", "xml"]])
def test_usage_errors_end_with_2(files, arguments):
    assert fastgw(*arguments, directory=files).returncode == 2
