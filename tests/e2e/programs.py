"""Real programs around the gateway: nginx and uvicorn as origins, and whatever client a test names.

A program that is not installed fails the test that needs it: a test that is left out shows nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

import pytest
import uvicorn

from tests.support.forked import FASTGW, start
from tests.support.gateway import START_DEADLINE, Lines, wait_until

# Where the package's name is not the program's.
PACKAGES = {
    "apache2": "apache2-bin",
    "h2load": "nghttp2-client",
    "nghttp": "nghttp2-client",
    "nghttpd": "nghttp2-server",
    "systemd-socket-activate": "systemd",
    "systemd-analyze": "systemd",
}
RUN_DEADLINE = 120.0  # seconds for a client program; one that gets no answer would wait for ever

ASGI = Callable[[Any, Any, Any], Any]


def program(name: str) -> str:
    """Where it is installed."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        pytest.fail(f"{name} is not installed: apt-get install {PACKAGES.get(name, name)}")
    return found


def environment() -> dict[str, str]:
    """Ours, without what would send a client elsewhere or translate what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "LC_ALL": "C"}


def run(name: str, *arguments: str | Path, **options: Any) -> str:
    """What a program printed. It must end well, and in time."""
    options = {"timeout": RUN_DEADLINE, "env": environment(), **options}
    ended = subprocess.run([program(name), *map(str, arguments)], capture_output=True, text=True, **options)
    assert ended.returncode == 0, f"{name} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


class Origin:
    """A program that is stopped at the end of a `with`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        raise NotImplementedError


def held_port() -> socket.socket:
    """A socket that keeps others away from a port, over restarts of the program that listens there: it is bound and
    does not listen."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


class Nginx(Origin):
    """An nginx in front of `directory/www`, or with `server` as its server block's body.

    `address`: what it listens on; left out, a port that stays this one's over restarts.
    """

    def __init__(self, directory: Path, server: str = "", address: str = "") -> None:
        self._held = held_port()
        self.port: int = self._held.getsockname()[1]
        self.address = address or f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self.www = directory / "www"
        self.www.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._file = directory / "nginx.conf"
        self._file.write_text(self._config(server))
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def _config(self, server: str) -> str:
        folders = "\n".join(
            f"{kind}_temp_path {self._directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return f"""
            {f"user {getpass.getuser()};" if os.geteuid() == 0 else ""}
            worker_processes 1;
            worker_rlimit_nofile 16384;
            daemon off;
            pid {self._directory}/nginx.pid;
            error_log {self._directory}/nginx-error.log;
            events {{ worker_connections 8192; }}
            http {{
                {folders}
                access_log off;
                keepalive_requests 1000000;
                client_max_body_size 0;
                types {{ text/plain txt; }}
                gzip on;
                gzip_proxied any;
                gzip_types text/plain;
                server {{
                    listen {self.address} {"ssl" if "ssl_certificate" in server else ""} backlog=4096;
                    {server or f"root {self.www}; location /put/ {{ dav_methods PUT; create_full_put_path on; }}"}
                }}
            }}
        """

    def start(self) -> None:
        self._process = subprocess.Popen(
            [program("nginx"), "-c", str(self._file), "-e", str(self._directory / "nginx-error.log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that `kill` reaches its worker
        )
        wait_until(self._listens, "nginx to listen", START_DEADLINE)

    def _listens(self) -> bool:
        assert self._process.poll() is None, (self._directory / "nginx-error.log").read_text()
        unix = self.address.removeprefix("unix:")
        with socket.socket(socket.AF_INET if unix == self.address else socket.AF_UNIX) as probe:
            return not probe.connect_ex(("127.0.0.1", self.port) if unix == self.address else unix)

    def quit(self) -> None:
        """End gracefully: idle connections are closed, requests under way are answered."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(RUN_DEADLINE)

    def kill(self) -> None:
        """End at once: every connection is reset."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(RUN_DEADLINE)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.kill()
        self._held.close()


class Uvicorn(Origin):
    """uvicorn with this application, on a thread: a test can talk to the application directly."""

    def __init__(self, application: ASGI) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.authority = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.url = f"http://{self.authority}"
        config = uvicorn.Config(
            application, log_level="critical", lifespan="off", ws="websockets-sansio", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listening]))

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(RUN_DEADLINE)
        self._listening.close()


@contextlib.contextmanager
def started(*arguments: str | Path, **options: Any) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """`fastgw` with these arguments and its ready line, for commands and outputs that `Gateway` is not made for."""
    ready, ready_in = os.pipe()
    try:
        process = start(
            [FASTGW, *map(str, arguments), "--ready-fd", str(ready_in)],
            pass_fds=[ready_in],
            stdin=subprocess.DEVNULL,
            **options,
        )
    finally:
        os.close(ready_in)
    try:
        with open(ready, "rb") as told:
            assert wait([told], START_DEADLINE), "not ready in time"
            line = told.readline()
        assert line, f"ended with {process.wait(RUN_DEADLINE)} before it was ready"
        yield process, json.loads(line)
    finally:
        process.terminate()
        process.wait(RUN_DEADLINE)


class Printing:
    """A program that runs beside the test; `lines` are those of its stdout and stderr."""

    def __init__(self, command: Sequence[str | Path], **options: Any) -> None:
        options = {"env": environment(), "stdin": subprocess.DEVNULL, **options}
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
        )
        assert self.process.stdout is not None
        self.lines = Lines(self.process.stdout)

    def __enter__(self) -> Printing:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.wait()

    def wait(self) -> int:
        """The exit code."""
        try:
            return self.process.wait(RUN_DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.lines.finish()


class Nghttpd(Origin):
    """An nghttpd with the files of `directory/www`: HTTP/2 alone, over TLS if it has a certificate.

    `lines` are those of its log, of all of its lives: the frames of its connections. Its port stays the same.
    """

    def __init__(self, directory: Path, *options: str, certificate: tuple[str, str] | None = None) -> None:
        self._held = held_port()
        self.port: int = self._held.getsockname()[1]
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.port}"
        self.www = directory / "www"
        self.www.mkdir()
        files = [certificate[1], certificate[0]] if certificate else []
        options = (*options, *([] if certificate else ["--no-tls"]))
        where = ["--address=127.0.0.1", f"--htdocs={self.www}"]
        # Its output is a pipe, which it would write to in blocks.
        self._command = ["stdbuf", "-oL", program("nghttpd"), "-v", *where, *options, str(self.port), *files]
        self._seen: list[bytes] = []
        self.start()

    def start(self) -> None:
        self._running = Printing(self._command)
        self._running.lines.wait_for(lambda line: b": listen " in line)

    @property
    def lines(self) -> list[bytes]:
        return [*self._seen, *self._running.lines.lines]

    def end(self) -> None:
        """End as by a service manager: its connections end."""
        self._running.process.terminate()
        self._running.wait()
        self._seen += self._running.lines.lines

    def stop(self) -> None:
        self.end()
        self._held.close()
