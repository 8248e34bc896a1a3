"""Rounds of load on each contestant in turn, with the CPU time per request.

All contestants run at once, idle except for the one under load: slow phases of the machine affect all of them alike,
and comparisons are made within a round only. The order is reversed every second round. The proxy has a core of its own;
origin and load share the other. (A contestant with two workers gets both cores, and shares the second.)
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import origin
from bench.load.load import Environment, Load
from bench.peers.peer import Place, Running
from bench.processes import lasting
from bench.samples import Measured, Sample
from bench.scenarios.scenario import Scenario

WARM_UP_SECONDS = 1
LOG_SECONDS = 5.0  # time in which a buffered log line must reach the file
READ_SIZE = 1 << 20


@dataclass(frozen=True)
class Effort:
    """Amount of measurement, and the cores to use."""

    rounds: int
    seconds: int
    cores: Sequence[int]
    """The first core is the proxy's, the last that of origin and load."""


def measure(scenario: Scenario, effort: Effort) -> list[Measured]:
    """Start, verify and measure the contestants of a scenario; all processes are stopped afterwards.

    Raises `NotReady`, `NotTheSameWork` and `NoAnswers`.
    """
    load_core = effort.cores[-1]
    effort = replace(effort, rounds=max(1, effort.rounds // scenario.rounds_of))
    measured = {peer.name: Measured(peer.name, peer.version() or "unknown") for peer in scenario.peers}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, ExitStack() as started, _on_core(load_core):
        folder = Path(scratch)
        folder.chmod(0o755)  # a contestant started by root may switch to another user
        (folder / "body.json").write_text(origin.BODY)
        scenario.prepare(folder)
        origin_port = started.enter_context(scenario.origin(folder, load_core))
        environment = Environment(folder, load_core, measured)
        if scenario.fresh:
            for number in range(1, effort.rounds + 1):
                with _field(scenario, effort, folder, origin_port) as field:
                    for load in scenario.loads:
                        _round(scenario, load, field, environment, effort, number)
        else:
            with _field(scenario, effort, folder, origin_port) as field:
                _round(scenario, scenario.loads[0], field, environment, effort, 0)
                for load in scenario.loads:
                    for number in range(1, effort.rounds + 1):
                        _round(scenario, load, field, environment, effort, number)
    return list(measured.values())


@contextmanager
def _field(scenario: Scenario, effort: Effort, folder: Path, origin_port: int) -> Iterator[dict[str, Running]]:
    """Yield all contestants by name, started and verified."""
    field: dict[str, Running] = {}
    with ExitStack() as started:
        for peer in scenario.peers:
            own = Path(tempfile.mkdtemp(dir=folder))
            own.chmod(0o755)
            running = started.enter_context(peer.running(Place(own, effort.cores[: peer.workers], origin_port)))
            scenario.prove(peer.name, running)
            field[peer.name] = running
        yield field


def _round(
    scenario: Scenario, load: Load, field: Mapping[str, Running], environment: Environment, effort: Effort, number: int
) -> None:
    """Measure all contestants once. Round 0 is a warm-up, and is discarded."""
    _tell(f"{scenario.name}, {load.name}: " + (f"round {number} of {effort.rounds}" if number else "warming up"))
    for name in field if number % 2 else reversed([*field]):
        sample = _sample(load, name, field[name], environment, number, effort.seconds if number else WARM_UP_SECONDS)
        if sample and number:
            environment.measured[name].samples.append(sample)


def _sample(
    load: Load, name: str, running: Running, environment: Environment, number: int, seconds: int
) -> Sample | None:
    if running.access_log:
        os.truncate(running.access_log, 0)  # all contestants open logs for appending; the disk would fill up otherwise
    pids = lasting(running.program.pids())
    before = running.program.cpu()
    told = load.run(name, running, environment, seconds)
    if told is None:
        return None
    log_lines = _wait_for_log(running.access_log, told.requests) if running.access_log else None
    spent = running.program.cpu().since(before)  # after the log is written, because deferred work counts as well
    faults = {fault: count for fault, count in told.faults.items() if count}
    if log_lines is not None and not 0 <= log_lines - told.requests <= load.cut_off:
        faults["request without its log line, or the reverse"] = abs(log_lines - told.requests)
    if changed := pids ^ lasting(running.program.pids()):  # a worker process started or ended meanwhile
        faults["process that ended or began"] = len(changed)
    return Sample(
        load=load.name,
        round=number,
        requests=told.requests,
        seconds=told.seconds,
        cpu_s=spent.total,
        user_s=spent.user,
        system_s=spent.system,
        figures=dict(told.figures),
        log_lines=log_lines,
        faults=faults,
    )


def _wait_for_log(access_log: Path, expected: int) -> int:
    """Return the number of lines in the log, once it is as expected or `LOG_SECONDS` have passed."""
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
    """Keep this process, and the load that it starts, off the proxy's core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _tell(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)
