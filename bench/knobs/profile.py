"""Where the CPU time of a request goes: sampled by `perf record`, attributed by shared object."""

import re
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from bench.knobs.turned import ROOT
from bench.load.load import Environment, Load, NoAnswers
from bench.peers.peer import Running
from bench.samples import Measured, Sample, Told
from bench.scenarios import SCENARIOS, egress
from bench.scenarios.scenario import CPU_US, RATE, Figure, Scenario

HERTZ = 1999  # a prime: in step with nothing that is periodic
TWINS = "|".join(sorted(path.stem for path in (ROOT / "fastgw").rglob("_*.pyx")))
ROOMS: Mapping[str, str] = {
    "kernel": r"\[kernel|\[guest|\[vdso|\[nf_|\[\w+\]$",
    "Python": r"libpython|python3",
    "compiled": rf"({TWINS})\.",
    "uvloop": r"loop\.",
    "llhttp": r"parser\.|url_parser\.",
    "libc": r"libc[.-]|ld-linux|libpthread",
    "nginx": r"nginx|ngx_|libluajit",
}
"""By name, how the shared objects (perf's `dso`) of a room begin. What is in none is `other`."""
OTHER = "other"


class NoProfile(NoAnswers):
    """perf is not installed, or may not look. The text says what to do."""


@dataclass(frozen=True)
class Profiled:
    """A load, while perf samples the contestant: the share of each room is a figure of the sample."""

    load: Load

    @property
    def name(self) -> str:
        return self.load.name

    @property
    def cut_off(self) -> int:
        return self.load.cut_off

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        file = environment.folder / "perf.data"
        with _sampled(running.program.pids(), file):
            told = self.load.run(name, running, environment, seconds)
        if told is None:
            return None
        report = subprocess.run(
            ["perf", "report", "-q", "--stdio", "--sort=dso", "--field-separator=;", "-i", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        shares = shares_of(report.stdout)
        if not shares["kernel"]:
            raise NoProfile("perf may not look into the kernel; as root: sysctl kernel.perf_event_paranoid=1")
        return replace(told, figures={**told.figures, **shares})


@contextmanager
def _sampled(pids: Iterable[int], file: Path) -> Iterator[None]:
    """perf looks at these processes, until the end. Raises `NoProfile`."""
    # A clock of the kernel's, as virtual machines have no counters to sample by.
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "-o", str(file)]
    try:
        perf = subprocess.Popen([*command, "-p", ",".join(map(str, pids))], stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise NoProfile("there is no perf; on Debian: apt-get install linux-perf") from error
    try:
        yield
    finally:
        perf.send_signal(signal.SIGINT)  # at which it writes what it has seen
        _, said = perf.communicate()
    if perf.returncode not in (0, -signal.SIGINT):
        raise NoProfile(f"perf record: {said.strip()}")


def shares_of(report: str) -> dict[str, float]:
    """Room -> share of all samples, from `perf report` by shared object."""
    shares = dict.fromkeys((*ROOMS, OTHER), 0.0)
    for line in report.splitlines():
        if found := re.match(r"\s*([\d.]+)%?\s*;(.+)", line):
            shares[room_of(found[2].strip())] += float(found[1])
    total = sum(shares.values()) or 1.0
    return {room: share / total for room, share in shares.items()}


def room_of(shared_object: str) -> str:
    return next((room for room, begins in ROOMS.items() if re.match(begins, shared_object)), OTHER)


def _spent(sample: Sample, room: str) -> float:
    return sample.cpu_us * sample.figures[room]


COLUMNS = (CPU_US, *(Figure(room, partial(_spent, room=room)) for room in (*ROOMS, OTHER)), RATE)


@dataclass(frozen=True)
class Profile:
    """Some loads and contestants of a scenario: the first of them less the last is what is explained."""

    scenario: str
    loads: Sequence[str]
    contestants: Sequence[str]

    def made(self) -> Scenario:
        scenario = SCENARIOS[self.scenario]
        by_name = {peer.name: peer for peer in scenario.peers}
        peers = tuple(by_name[name] for name in self.contestants)
        loads = tuple(Profiled(load) for load in scenario.loads if load.name in self.loads)
        return replace(scenario, peers=peers, loads=loads)


PROFILES = (
    Profile("plain", ["64 connections", "16 connections", "half load"], ["fastgw", "fastgw (pure Python)", "nginx"]),
    Profile("policies", ["64 connections"], ["fastgw", "nginx (no policy)", "nginx + lua"]),
    Profile("upload", ["1 MiB"], ["fastgw", "nginx"]),
    Profile("egress", ["64 connections"], [egress.MANY, egress.ONE]),
)


def head() -> Iterator[str]:
    yield f"| scenario | | {' | '.join(column.heading for column in COLUMNS)} |"
    yield f"| --- | --- {'| ---: ' * len(COLUMNS)}|"


def rows(scenario: str, load: str, measured: Sequence[Measured]) -> Iterator[str]:
    """One per contestant, medians of its samples; below them what lies between the first and the last."""
    measured = [each for each in measured if each.under(load)]
    medians = [[median(map(column.of, each.under(load))) for column in COLUMNS] for each in measured]
    differences = [ours - theirs for ours, theirs in zip(medians[0], medians[-1], strict=True)]
    names = [*(each.name for each in measured), f"{measured[0].name} less {measured[-1].name}"]
    for number, (name, values) in enumerate(zip(names, [*medians, differences], strict=True)):
        cells = (column.form(value) for column, value in zip(COLUMNS, values, strict=True))
        yield f"| {'' if number else f'`{scenario}`, {load}'} | {name} | {' | '.join(cells)} |"
