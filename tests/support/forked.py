"""`fastgw` as a test runs it: a process forked from one that has imported it, where that is as good as a new program.

A command takes 0.5 s of processor time to start, and nearly all of that to import. A new program is started for what
Python reads before the command, such as another PYTHONPATH that `may_be_path` does not know, and by each test that asks
for `new_programs`, because it is about the process itself.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import marshal
import os
import platform
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.fork_server import NUMBERS, SPACE, thread_address

FASTGW = str(Path(sys.executable).with_name("fastgw"))
COMMAND_DEADLINE = 60.0  # seconds for a command
SERVER = str(Path(__file__).with_name("fork_server.py"))
# What the interpreter, the C library or an imported module reads once, before there is a command.
READ_ONCE = re.compile("PYTHON|LD_|LC_|LANG|TZ$|MALLOC_|GLIBC_|OPENSSL_|SSL_")
LIMITS = [getattr(resource, each) for each in dir(resource) if each.startswith("RLIMIT_")]
UMASK = re.compile(r"^Umask:\s*([0-7]+)$", re.MULTILINE)
OPTIONS = {"cwd", "env", "pass_fds", "process_group", "start_new_session", "stdin", "stdout", "stderr", "text"}
"""Of `subprocess.Popen`, those that a forked process knows."""


def start(command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
    """Start `[FASTGW, ...]` with options of `subprocess.Popen`."""
    words = [*map(str, command)]
    environment = options.get("env") or os.environ
    read = _read_once(environment)
    if read.get("PYTHONPATH") in _paths:
        del read["PYTHONPATH"]
        read |= {name: value for name, value in _known.items() if name == "PYTHONPATH"}
    if not _forks or words[0] != FASTGW or {*options} - OPTIONS or read != _known:
        return subprocess.Popen(words, **options)
    return _Forked(words, **options)


def ran(
    command: Sequence[str | Path], *, input: str | None = None, timeout: float = COMMAND_DEADLINE, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `[FASTGW, ...]` to its end, and return what it printed as text. `options`: of `subprocess.Popen`."""
    streams = {} if input is None else {"stdin": subprocess.PIPE}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **streams, **options}
    with start(command, **options) as process:
        try:
            stdout, stderr = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@contextlib.contextmanager
def new_programs() -> Iterator[None]:
    """Start a new program for each command."""
    global _forks
    before, _forks = _forks, False
    try:
        yield
    finally:
        _forks = before


def _is_able() -> bool:
    """Whether this kernel lets a process fork for another one; a new program does the same on one that does not."""
    try:
        thread_address()
    except OSError:
        return False
    return platform.machine() in NUMBERS


_forks = _is_able()
_known: dict[str, str] = {}
_paths: set[str] = set()


def may_be_path(directory: Path) -> None:
    """Fork from now on for commands with this PYTHONPATH as well: what the forked process has imported is the same
    there, or is not there, and it looks there for what it imports later."""
    _paths.add(str(directory))


def may_not_be_path(directory: Path) -> None:
    """Start a new program for this PYTHONPATH, because the package is another one there."""
    _paths.discard(str(directory))


def remember_environment() -> None:
    """Fork from now on for commands that have today's variables of those that are read once."""
    _known.update(_read_once(os.environ))


def changed_environment() -> dict[str, str | None]:
    """Return the variables that are read once and that differ from those remembered, with their values of today.

    With one of them left behind, each command to the end of the run is a new program, which costs it 1 s more.
    """
    today = _read_once(os.environ)
    return {name: today.get(name) for name in {*today, *_known} if today.get(name) != _known.get(name)}


def _read_once(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if READ_ONCE.match(name)}


class _Forked(subprocess.Popen[Any]):
    """A child of this process that another one has forked."""

    def _execute_child(self, *words: Any) -> None:
        given = inspect.signature(super()._execute_child).bind(*words).arguments
        pipes = [given[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
        streams = [
            ours if given[name] == -1 else given[name] for ours, name in enumerate(("p2cread", "c2pwrite", "errwrite"))
        ]
        environment = os.environ if given["env"] is None else given["env"]
        asked = {
            "arguments": given["args"],
            "directory": os.path.abspath(given["cwd"] or "."),
            "environment": {os.fsencode(name): os.fsencode(value) for name, value in environment.items()},
            "descriptors": [0, 1, 2, *given["pass_fds"]],
            "limits": {each: resource.getrlimit(each) for each in LIMITS},
            "umask": int(UMASK.search(Path("/proc/self/status").read_text())[1], 8),
            "processors": os.sched_getaffinity(0),
            "blocked": [*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))],
            "group": None if given["process_group"] == -1 else given["process_group"],
            "session": given["start_new_session"],
        }
        self.pid = _server().fork(asked, [*streams, *given["pass_fds"]])
        self._child_created = True
        self._close_pipe_fds(*pipes)


class _Server:
    """The process that forks. It ends with the socket, thus with this process at the latest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, SERVER, str(theirs.fileno()), "-" * SPACE]
            environment = {"PATH": os.defpath, **_known}
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, cwd="/", env=environment
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self._channel.close()
        self._process.wait()

    def fork(self, asked: Mapping[str, Any], descriptors: Sequence[int]) -> int:
        """Return the pid of our new child."""
        told = marshal.dumps(asked)
        with self._lock:
            socket.send_fds(self._channel, [len(told).to_bytes(8, "little")], descriptors)
            self._channel.sendall(told)
            pid = self._channel.recv(8, socket.MSG_WAITALL)
        assert len(pid) == 8, f"{SERVER} has ended"
        return int.from_bytes(pid, "little")


_starting = threading.Lock()
_started: list[_Server] = []


def _server() -> _Server:
    """Return the one of this process, which is started when it is first wanted."""
    with _starting:
        if not _started:
            _started.append(_Server())
        return _started[0]
