"""CPU time per request by shared object: sampled by `perf record`."""

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

HERTZ = 1999  # a prime, to avoid synchronization with periodic events
COMPILED = "|".join(sorted({path.name.partition(".")[0] for path in (ROOT / "fastgw").rglob("*.so")}))
ROOMS: Mapping[str, str] = {
    "kernel": r"\[kernel|\[guest|\[vdso|\[nf_|\[\w+\]$",
    "Python": r"libpython|python3",
    "compiled": rf"(?!.*(llhttp|httptools))({COMPILED})\.",
    "uvloop": r"loop\.",
    "llhttp": r"parser\.|url_parser\.",
    "libc": r"libc[.-]|ld-linux|libpthread",
    "nginx": r"nginx|ngx_|libluajit",
}
"""Prefixes of shared objects (perf's `dso`) by category; that of httptools is called as our parser is, and known by its
symbols. All others are `other`.
"""
OTHER = "other"


class NoProfile(NoAnswers):
    """perf is not installed, or has no permission. The text has the solution."""


@dataclass(frozen=True)
class Profiled:
    """A load during which perf samples the contestant: the share of each category is a figure of the sample."""

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
            ["perf", "report", "-q", "--stdio", "--sort=dso,sym", "--field-separator=;", "-i", str(file)],
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
    """Sample these processes with perf within the `with`. Raises `NoProfile`."""
    # A kernel timer, because virtual machines have no hardware counters.
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "-o", str(file)]
    try:
        perf = subprocess.Popen([*command, "-p", ",".join(map(str, pids))], stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise NoProfile("there is no perf; on Debian: apt-get install linux-perf") from error
    try:
        yield
    finally:
        perf.send_signal(signal.SIGINT)  # on which it writes its data
        _, said = perf.communicate()
    if perf.returncode not in (0, -signal.SIGINT):
        raise NoProfile(f"perf record: {said.strip()}")


def shares_of(report: str) -> dict[str, float]:
    """Return the share of all samples by category, from `perf report` by shared object and symbol."""
    shares = dict.fromkeys((*ROOMS, OTHER), 0.0)
    for line in report.splitlines():
        if found := re.match(r"\s*([\d.]+)%?\s*;(.+)", line):
            shares[room_of(found[2].strip())] += float(found[1])
    total = sum(shares.values()) or 1.0
    return {room: share / total for room, share in shares.items()}


def room_of(shared_object: str) -> str:
    """Return the category of a shared object, and a symbol behind it."""
    return next((room for room, begins in ROOMS.items() if re.match(begins, shared_object)), OTHER)


def _spent(sample: Sample, room: str) -> float:
    return sample.cpu_us * sample.figures[room]


COLUMNS = (CPU_US, *(Figure(room, partial(_spent, room=room)) for room in (*ROOMS, OTHER)), RATE)


@dataclass(frozen=True)
class Profile:
    """Loads and contestants of a scenario: the difference between the first and the last is explained."""

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
    Profile("plain", ["64 connections", "16 connections", "half load"], ["fastgw", "nginx"]),
    Profile("policies", ["64 connections"], ["fastgw", "nginx (no policy)", "nginx + lua"]),
    Profile("upload", ["1 MiB"], ["fastgw", "nginx"]),
    Profile("egress", ["64 connections"], [egress.MANY, egress.ONE]),
)


def head() -> Iterator[str]:
    yield f"| scenario | | {' | '.join(column.heading for column in COLUMNS)} |"
    yield f"| --- | --- {'| ---: ' * len(COLUMNS)}|"


def rows(scenario: str, load: str, measured: Sequence[Measured]) -> Iterator[str]:
    """Return one row per contestant, medians of its samples, and the difference between the first and the last."""
    measured = [each for each in measured if each.under(load)]
    medians = [[median(map(column.of, each.under(load))) for column in COLUMNS] for each in measured]
    differences = [ours - theirs for ours, theirs in zip(medians[0], medians[-1], strict=True)]
    names = [*(each.name for each in measured), f"{measured[0].name} less {measured[-1].name}"]
    for number, (name, values) in enumerate(zip(names, [*medians, differences], strict=True)):
        cells = (column.form(value) for column, value in zip(COLUMNS, values, strict=True))
        yield f"| {'' if number else f'`{scenario}`, {load}'} | {name} | {' | '.join(cells)} |"
