"""Rounds of load on each contestant in turn, and what each request cost it in CPU time.

All contestants run at once, idle but for the one under load: the machine's slow phases then meet them alike, and a
ratio is only ever taken inside one round. The order is reversed every second round. The proxy has a core of its own;
origin and load share the other.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import origin
from bench.peers.peer import Peer, Place, Running
from bench.prove import prove

REQUESTS_LUA = Path(__file__).with_name("load") / "requests.lua"
WARM_UP_SECONDS = 1
LOG_SECONDS = 5.0  # how long a buffered log line may take to reach the file
READ_SIZE = 1 << 20


class NoAnswers(Exception):
    """A run without a single answer: there is nothing to divide by."""


@dataclass(frozen=True)
class Load:
    rounds: int
    seconds: int
    connections: int
    proxy_core: int
    load_core: int


@dataclass(frozen=True)
class Sample:
    """One contestant in one round."""

    round: int
    requests: int
    seconds: float
    cpu_s: float
    user_s: float
    system_s: float
    p50_us: int
    p99_us: int
    log_lines: int | None
    faults: dict[str, int]
    """What went wrong and how often; empty for a run that counts."""

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per request."""
        return self.cpu_s / self.requests * 1e6


@dataclass
class Contestant:
    name: str
    version: str
    samples: list[Sample] = field(default_factory=list)

    @property
    def void(self) -> list[str]:
        """Why nothing may be concluded from this contestant's numbers; empty if all is well."""
        return [
            f"{self.name}, round {sample.round}: {fault}: {count}"
            for sample in self.samples
            for fault, count in sample.faults.items()
        ]


def measure(peers: Sequence[Peer], load: Load) -> list[Contestant]:
    """Start, prove and measure `peers`. Raises `NotReady` and `NotTheSameWork`; nothing is left running."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, ExitStack() as started, _on_core(load.load_core):
        folder = Path(scratch)
        folder.chmod(0o755)  # a contestant started by root may drop to another user
        origin_port = started.enter_context(origin.serving(folder, load.load_core))
        body = folder / "body.json"
        body.write_text(origin.BODY)
        field_of: list[tuple[Contestant, Running]] = []
        for number, peer in enumerate(peers):
            place = Place(folder / str(number), load.proxy_core, origin_port)
            place.folder.mkdir()
            running = started.enter_context(peer.running(place))
            prove(peer.name, running.port)
            field_of.append((Contestant(peer.name, peer.version() or "unknown"), running))
        for _, running in field_of:
            _sample(running, load, body, 0, WARM_UP_SECONDS)
        for number in range(1, load.rounds + 1):
            _tell(f"round {number} of {load.rounds}")
            for contestant, running in field_of if number % 2 else reversed(field_of):
                contestant.samples.append(_sample(running, load, body, number, load.seconds))
        return [contestant for contestant, _ in field_of]


def _sample(running: Running, load: Load, body: Path, number: int, seconds: int) -> Sample:
    if running.access_log:
        os.truncate(running.access_log, 0)  # all append, so none notices; the disk would fill otherwise
    pids = set(running.program.pids())
    before = running.program.cpu()
    told = _wrk(running.port, load.connections, seconds, body)
    log_lines = _wait_for_log(running.access_log, told["requests"]) if running.access_log else None
    spent = running.program.cpu().since(before)  # after the log is written: work put off is work all the same
    faults = {fault: count for fault, count in told.pop("faults").items() if count}
    cut_off = 2 * load.connections  # by the end of this run and of the one before; whether those are logged is open
    if log_lines is not None and not 0 <= log_lines - told["requests"] <= cut_off:
        faults["request without its log line, or the reverse"] = abs(log_lines - told["requests"])
    if changed := pids ^ set(running.program.pids()):  # its CPU time came or went with it
        faults["process that ended or began"] = len(changed)
    return Sample(
        round=number,
        cpu_s=spent.total,
        user_s=spent.user,
        system_s=spent.system,
        log_lines=log_lines,
        faults=faults,
        **told,
    )


def _wrk(port: int, connections: int, seconds: int, body: Path) -> dict[str, Any]:
    """Load one contestant; the keys are those that requests.lua prints."""
    # One thread: this process, and so wrk, is already bound to the load's core.
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--script", str(REQUESTS_LUA), f"http://127.0.0.1:{port}/", "--", str(body)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds + 30).stdout
    told: dict[str, Any] = json.loads(printed.splitlines()[-1])
    if not told["requests"]:
        raise NoAnswers(f"port {port} answered no request at all: {told['faults']}")
    return told


def _wait_for_log(access_log: Path, expected: int) -> int:
    """The number of lines in the log, once there are as many as expected or `LOG_SECONDS` have passed."""
    lines = 0
    deadline = time.monotonic() + LOG_SECONDS
    with access_log.open("rb", buffering=0) as log:
        while lines < expected and time.monotonic() < deadline:
            while chunk := log.read(READ_SIZE):
                lines += chunk.count(b"\n")
            time.sleep(0.05)
    return lines


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Keep this process, and the load it starts, off the proxy's core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _tell(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)
