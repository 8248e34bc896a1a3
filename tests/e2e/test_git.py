"""git over smart HTTP: real git on both ends, its requests chunked and compressed, through the gateway."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader
from pathlib import Path
from typing import IO

import pytest

from tests.e2e.conftest import fronting
from tests.e2e.programs import RUN_DEADLINE, environment, program, run
from tests.support.gateway import Gateway

BRANCHES = 60  # a clone that wants them all sends more than the 1,024 bytes from which on git compresses
CGI_FIELDS = ("Content-Type", "Content-Encoding", "Git-Protocol")


class GitOrigin(ThreadingHTTPServer):
    """`git http-backend` as a CGI program, which nginx cannot run."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), GitRequest)
        self.root = root
        self.framings: list[tuple[str, str | None, str | None]] = []  # of requests with a body, as they came


class GitRequest(BaseHTTPRequestHandler):
    server: GitOrigin
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        variables = {
            **environment(),
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REMOTE_ADDR": self.client_address[0],
        }
        for name in CGI_FIELDS:
            if name in self.headers:
                prefix = "" if name == "Content-Type" else "HTTP_"
                variables[prefix + name.upper().replace("-", "_")] = self.headers[name]
        backend = subprocess.Popen(
            [program("git"), "http-backend"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables
        )
        with backend:
            assert backend.stdin is not None
            assert isinstance(backend.stdout, BufferedReader)
            feeding = threading.Thread(target=self._feed, args=[backend.stdin])
            feeding.start()
            self._answer(backend.stdout)
            feeding.join(RUN_DEADLINE)

    do_POST = do_GET

    def _feed(self, program_input: IO[bytes]) -> None:
        if self.command == "POST":
            coding = self.headers["Content-Encoding"]
            self.server.framings.append((self.path, self.headers["Transfer-Encoding"], coding))
        with program_input:
            if self.headers["Transfer-Encoding"] == "chunked":
                while size := int(self.rfile.readline(), 16):
                    program_input.write(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
            else:
                program_input.write(self.rfile.read(int(self.headers["Content-Length"] or 0)))

    def _answer(self, program_output: BufferedReader) -> None:
        """CGI's field lines (RFC 3875 section 6.3), then the body, chunked as it comes."""
        fields = {}
        while line := program_output.readline().strip():
            name, _, value = line.decode().partition(": ")
            fields[name] = value
        self.send_response(int(fields.pop("Status", "200 OK").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while chunk := program_output.read1(65_536):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[GitOrigin]:
    with GitOrigin(tmp_path / "repositories") as origin:
        serving = threading.Thread(target=origin.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        yield origin
        origin.shutdown()
        serving.join(RUN_DEADLINE)


@pytest.fixture
def url(origin: GitOrigin, tmp_path: Path) -> Iterator[str]:
    """A bare repository behind the gateway, that takes pushes from anybody."""
    git("init", "--quiet", "--bare", "--initial-branch=main", origin.root / "project.git")
    git("-C", origin.root / "project.git", "config", "http.receivepack", "true")
    with Gateway(fronting(git=f"http://127.0.0.1:{origin.server_port}"), tmp_path) as gateway:
        yield f"{gateway.url('git')}/project.git"


def git(*arguments: str | Path) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.test", "-c", "core.autocrlf=false")
    isolated = {**environment(), "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    return run("git", *identity, *arguments, env={**isolated, "GIT_TERMINAL_PROMPT": "0"})


def test_push_and_clone(origin: GitOrigin, url: str, tmp_path: Path) -> None:
    """A push that git sends chunked and a clone whose wants it compresses: both repositories are whole and equal."""
    work, again = tmp_path / "work", tmp_path / "again"
    git("init", "--quiet", "--initial-branch=main", work)
    (work / "large.bin").write_bytes(random.Random(3).randbytes(4_000_000))
    git("-C", work, "add", ".")
    git("-C", work, "commit", "--quiet", "-m", "large")
    for number in range(BRANCHES):
        git("-C", work, "commit", "--quiet", "--allow-empty", "-m", f"{number}")
        git("-C", work, "branch", f"branch-{number}")
    git("-C", work, "-c", "http.postBuffer=65536", "push", "--quiet", url, "--all")
    assert ("/project.git/git-receive-pack", "chunked", None) in origin.framings

    git("clone", "--quiet", url, again)
    assert ("/project.git/git-upload-pack", None, "gzip") in origin.framings
    git("-C", again, "fsck", "--strict")
    assert (again / "large.bin").read_bytes() == (work / "large.bin").read_bytes()
    assert git("-C", again, "ls-remote", url, "branch-*") == git("-C", work, "ls-remote", ".", "branch-*")


def test_fetch_and_push_of_what_is_new(origin: GitOrigin, url: str, tmp_path: Path) -> None:
    """Two clones work on one branch: each push reaches the other, and one that lags behind is refused by git."""
    one, two = tmp_path / "one", tmp_path / "two"
    git("clone", "--quiet", url, one)
    git("-C", one, "commit", "--quiet", "--allow-empty", "-m", "first")
    git("-C", one, "push", "--quiet", "origin", "HEAD:main")
    git("clone", "--quiet", "--depth=1", url, two)
    git("-C", two, "commit", "--quiet", "--allow-empty", "-m", "second")
    git("-C", two, "push", "--quiet", "origin", "HEAD:main")
    git("-C", one, "commit", "--quiet", "--allow-empty", "-m", "late")
    with pytest.raises(AssertionError, match="rejected"):
        git("-C", one, "push", "origin", "HEAD:main")
    git("-C", one, "pull", "--quiet", "--rebase", "origin", "main")
    git("-C", one, "push", "--quiet", "origin", "HEAD:main")
    git("-C", two, "pull", "--quiet", "origin", "main")
    assert git("-C", two, "log", "--format=%s").split() == ["late", "second", "first"]
