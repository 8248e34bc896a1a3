"""The gateway as users run it: a process started with a file, observed by its output, stopped by a signal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

from tests.support.client import Client
from tests.support.forked import FASTGW, start
from tests.support.peer import DEADLINE

START_DEADLINE = 60.0  # seconds; a start usually takes less than one, but the machine may be busy
STOP_DEADLINE = 60.0
CHANGE_DEADLINE = 4 * DEADLINE  # for changes by other processes; control runs at a lower priority than the tests
OFF: Mapping[str, None] = {"status": None, "admin": None}


FRONT = re.compile(rb"^\S+Z (?:debug|info|warning|error) [^\[]+\[\d+\] \w+: ")


def messages(told: str) -> list[str]:
    """Return the lines without time, level, process and event."""
    return [FRONT.sub(b"", line.encode()).decode() for line in told.splitlines()]


class GatewayFailed(AssertionError):
    """The gateway did not start or stop, or reported an error. The text has its stderr."""


def wait_until(fact: Callable[[], bool], wanted: str, deadline: float = CHANGE_DEADLINE) -> None:
    """Poll until `fact` is true, for changes that nothing signals, such as a file of another process.

    The longer it has waited, the less often it looks: to look may cost the gateway as much as what is waited for.
    """
    begun_at = time.monotonic()
    while not fact():
        waited = time.monotonic() - begun_at
        if waited > deadline:
            raise GatewayFailed(f"waited {deadline} s for {wanted}")
        time.sleep(max(0.005, min(waited / 20, 0.05)))


class Lines:
    """Lines of a pipe, read by a thread as they arrive: the writer never blocks, and a test can wait for one.

    An operator message is returned without time, level, process and event; `raw` includes them.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self.lines: list[bytes] = []
        self.raw: list[bytes] = []
        self._pipe = pipe
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._pipe:
            with self._changed:
                self.raw.append(line)
                self.lines.append(FRONT.sub(b"", line))
                self._changed.notify_all()

    def wait_for(self, fits: Callable[[bytes], bool], deadline: float = CHANGE_DEADLINE, *, raw: bool = False) -> bytes:
        """Return the first matching line, within the deadline. `raw`: match the whole line."""
        lines = self.raw if raw else self.lines
        with self._changed:
            found: list[bytes] = []
            if not self._changed.wait_for(lambda: found.extend(filter(fits, lines)) or bool(found), deadline):
                raise GatewayFailed(f"no such line within {deadline} s; there are:\n{self.text()}")
            return found[0]

    def text(self) -> str:
        return b"".join(self.lines).decode("utf-8", "backslashreplace")

    def finish(self) -> None:
        """Read the rest after the process has ended."""
        self._thread.join(DEADLINE)
        self._pipe.close()


def write_config(config: Mapping[str, Any] | str, directory: Path) -> Path:
    """Write a configuration: a dictionary as JSON, text as YAML.

    Missing status and admin listeners are set to `null`, because their default ports cannot be shared. `request_id` is
    set to `null` as well, because most tests compare exact bytes.
    """
    if isinstance(config, str):
        config += "".join(f"\n{key}: null\n" for key in OFF if not re.search(f"^{key}:", config, re.MULTILINE))
        if not re.search("request_id", config):
            config = _without_ids(config)
    else:
        filters = config.get("filters", {})
        said = any(name == "request_id" or (use or {}).get("type") == "request_id" for name, use in filters.items())
        config = {**OFF, **config, "filters": filters if said else {"request_id": None, **filters}}
    text, suffix = (config, "yaml") if isinstance(config, str) else (json.dumps(config, indent=1), "json")
    file = directory / f"gateway.{suffix}"
    file.write_text(text)
    return file


def _without_ids(text: str) -> str:
    if not re.search("^filters:", text, re.MULTILINE):
        return f"{text}\nfilters: {{request_id: null}}\n"
    text = re.sub(r"^filters: *\{", "filters: {request_id: null, ", text, flags=re.MULTILINE)
    return re.sub(r"^filters: *\n( +)", r"filters:\n\1request_id: null\n\1", text, flags=re.MULTILINE)


def name_of(pid: int) -> str:
    """Return the name of a process; "" if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        return ""


class Gateway:
    """A running gateway. The constructor waits until it is ready; `stop` asserts that it ended without errors.

    `config`: a dictionary, YAML text or a file. A dictionary without `access_logs` logs JSON to stdout, which is read
    by `records` and `wait_for_record`; `arguments` are appended to the command line, `launcher` is put before it.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str | Path | None,
        directory: Path,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        launcher: Sequence[str] = (),
    ) -> None:
        if isinstance(config, Mapping):
            config = {"version": 1, "access_logs": [{"sink": "stdout", "format": "json"}], **config}
        if config is not None and not isinstance(config, Path):
            config = write_config(config, directory)
        ready, ready_in = os.pipe()
        file = [] if config is None else [str(config)]
        try:
            self.process = start(
                [*launcher, FASTGW, "run", *file, *arguments, "--ready-fd", str(ready_in)],
                cwd=directory,
                env={**os.environ, **(environment or {})},
                pass_fds=[ready_in],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        finally:
            os.close(ready_in)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout = Lines(self.process.stdout)
        self.stderr = Lines(self.process.stderr)
        try:
            self.ready: dict[str, Any] = self._read_ready(ready)
        except BaseException:
            self.kill()
            raise
        finally:
            os.close(ready)

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

    def _read_ready(self, ready: int) -> dict[str, Any]:
        """Read the ready line: `{"listeners": {"main": ["127.0.0.1:34567"]}, "status": "127.0.0.1:…", "pid": …}`."""
        until, line = time.monotonic() + START_DEADLINE, b""
        while not line.endswith(b"\n"):
            if not wait([ready], max(until - time.monotonic(), 0)):
                raise GatewayFailed(f"not ready within {START_DEADLINE} s; stderr:\n{self.stderr.text()}")
            chunk = os.read(ready, 65_536)
            if not chunk:
                break
            line += chunk
        if not line:
            code = self.process.wait(STOP_DEADLINE)
            self.stderr.finish()
            raise GatewayFailed(f"ended with {code} before it was ready; stderr:\n{self.stderr.text()}")
        ready_line: dict[str, Any] = json.loads(line)
        return ready_line

    # --- addresses ---

    def address(self, listener: str = "main") -> str:
        """Return the first bound address of a listener: `127.0.0.1:34567`, `[::1]:34567` or `unix:/path`."""
        return str(self.ready["listeners"][listener][0])

    def port(self, listener: str = "main") -> int:
        return int(self.address(listener).rpartition(":")[2])

    def url(self, listener: str = "main") -> str:
        return f"http://{self.address(listener)}"

    def connect(self, listener: str = "main", deadline: float = DEADLINE, source: str = "") -> Client:
        return Client(self.address(listener), deadline, source)

    @property
    def pid(self) -> int:
        """Pid of the supervisor."""
        return self.process.pid

    @property
    def worker_pids(self) -> list[int]:
        """Return the pids of the workers, oldest first."""
        return [pid for pid in self.child_pids if name_of(pid).startswith("fastgw worker")]

    @property
    def control_pid(self) -> int:
        (pid,) = (pid for pid in self.child_pids if name_of(pid) == "fastgw control")
        return pid

    @property
    def child_pids(self) -> list[int]:
        """Return the pids of workers and control, oldest first: the supervisor's children."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    @property
    def token(self) -> str:
        """Token of its admin API; "" if none is needed, or it is not in a file."""
        file = self.ready.get("token_file")
        return Path(file).read_text().strip() if file and Path(file).exists() else ""

    @property
    def shown(self) -> dict[str, str]:
        """Header with that token."""
        return {"Authorization": f"Bearer {self.token}"}

    # --- output ---

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return the access log records on stdout so far."""
        return [json.loads(line) for line in list(self.stdout.lines)]

    def wait_for_record(self, deadline: float = CHANGE_DEADLINE, **fields: Any) -> dict[str, Any]:
        """Return the first access log record with these values, within the deadline."""

        def fits(line: bytes) -> bool:
            record = json.loads(line)
            return all(record.get(name) == value for name, value in fields.items())

        record: dict[str, Any] = json.loads(self.stdout.wait_for(fits, deadline))
        return record

    def sum_of(self, metric: str) -> float:
        """Return the sum over all samples of a metric. The gateway needs a status listener."""
        with urllib.request.urlopen(f"http://{self.ready['status']}/metrics", timeout=STOP_DEADLINE) as answer:
            text = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^{metric}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    # --- the end ---

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, deadline: float = STOP_DEADLINE) -> int:
        """Return the exit code, within the deadline."""
        try:
            code = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            raise GatewayFailed(f"still running after {deadline} s; stderr:\n{self.stderr.text()}") from None
        self.stdout.finish()
        self.stderr.finish()
        return code

    def stop(self) -> None:
        """Send SIGTERM, and assert that it exits with 0 and has reported no internal error."""
        if self.process.returncode is None:
            self.signal(signal.SIGTERM)
        code, complaints = self.wait(), self.stderr.text()
        if code != 0 or "Traceback" in complaints:
            raise GatewayFailed(f"ended with {code}; stderr:\n{complaints}")

    def kill(self) -> None:
        """Kill it and its children at once, without checks."""
        pids = []
        with contextlib.suppress(OSError):
            pids = self.child_pids
        self.process.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(STOP_DEADLINE)
        self.stdout.finish()
        self.stderr.finish()
