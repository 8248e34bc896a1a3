"""Where the CPU time of a request goes: sampled by `perf record`, attributed by shared object."""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from bench.knobs.turned import ROOT
from bench.load.load import Ground, NoAnswers
from bench.load.wrk import Wrk
from bench.peers import Fastgw, Nginx
from bench.peers.peer import Running
from bench.samples import Measured, Sample, Told
from bench.scenarios.scenario import CPU_US, RATE, Figure, Scenario

HERTZ = 1999  # a prime: in step with nothing that is periodic
TWINS = "|".join(sorted(path.stem for path in (ROOT / "fastgw").rglob("_*.pyx")))
ROOMS: Mapping[str, str] = {
    "kernel": r"\[kernel|\[guest|\[vdso|\[nf_|\[\w+\]$",
    "Python": r"libpython|python3",
    "twins": rf"({TWINS})\.",
    "uvloop": r"loop\.",
    "llhttp": r"parser\.|url_parser\.",
    "libc": r"libc[.-]|ld-linux|libpthread",
    "nginx": r"nginx",
}
"""By name, how the shared objects (perf's `dso`) of a room begin. What is in none is `other`."""
OTHER = "other"


class NoProfile(NoAnswers):
    """perf is not installed, or may not look. The text says what to do."""


@dataclass(frozen=True)
class Profiled(Wrk):
    """wrk, while perf samples the contestant: the share of each room is a figure of the sample."""

    def run(self, name: str, running: Running, ground: Ground, seconds: int) -> Told | None:
        file = ground.folder / "perf.data"
        pids = ",".join(map(str, running.program.pids()))
        # A clock of the kernel's, as virtual machines have no counters to sample by.
        command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "-o", str(file), "-p", pids]
        try:
            with subprocess.Popen([*command, "--", "sleep", str(seconds)], stderr=subprocess.PIPE, text=True) as perf:
                told = super().run(name, running, ground, seconds)
                _, said = perf.communicate()
        except FileNotFoundError as error:
            raise NoProfile("there is no perf; on Debian: apt-get install linux-perf") from error
        if perf.returncode:
            raise NoProfile(f"perf record: {said.strip()}")
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
        return told and Told(told.requests, told.seconds, {**told.figures, **shares}, told.faults)


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


def scenario() -> Scenario:
    return Scenario(
        "profile",
        "where the time goes",
        "",
        (Fastgw(), Fastgw("fastgw (pure Python)", environment={"FASTGW_PURE_PYTHON": "1"}), Nginx()),
        (Profiled(arguments={"body": "@body.json"}),),
        (),
    )


def rows(load: str, measured: Sequence[Measured]) -> Iterator[str]:
    """One per contestant, medians of its samples; below them what lies between the first and the last."""
    yield f"| | {' | '.join(column.heading for column in COLUMNS)} |"
    yield f"| --- {'| ---: ' * len(COLUMNS)}|"
    medians = [[median(map(column.of, each.under(load))) for column in COLUMNS] for each in measured]
    differences = [ours - theirs for ours, theirs in zip(medians[0], medians[-1], strict=True)]
    names = [*(each.name for each in measured), f"{measured[0].name} less {measured[-1].name}"]
    for name, values in zip(names, [*medians, differences], strict=True):
        cells = (column.form(value) for column, value in zip(COLUMNS, values, strict=True))
        yield f"| {name} | {' | '.join(cells)} |"
