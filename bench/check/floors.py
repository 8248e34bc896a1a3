"""Compares results with their requirements."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from bench.check.budgets import Floor
from bench.measure import Effort, measure
from bench.outcome import newest, read
from bench.peers import LeftOut, Peer
from bench.samples import GIB, Measured, Sample
from bench.scenarios.scenario import Scenario


@dataclass(frozen=True)
class Shown:
    """A requirement and the measured median. None: it was not measured."""

    floor: Floor
    value: float | None
    source: str
    fault: str
    """Return the error; "" = none, or not measured."""


@dataclass(frozen=True)
class Results:
    """Results of one scenario. `source`: their file."""

    source: str
    void: Sequence[str]
    contestants: Mapping[str, Measured]


def kept(scenario: str, folder: Path) -> Results | None:
    """Return the newest results of a scenario in `folder`. Results in an older format are void."""
    file = newest(scenario, folder)
    if file is None:
        return None
    try:
        return _results(file.name, read(file).contestants)
    except (KeyError, TypeError):
        return Results(file.name, ["kept by an earlier benchmark, in another form; measure anew"], {})


def measure_quickly(scenario: Scenario, floors: Sequence[Floor]) -> Results:
    """Measure a scenario in a short time: the contestants of its requirements that are installed.

    Raises `NotReady`, `NotTheSameWork` and `NoAnswers`.
    """
    names = {name for floor in floors if floor.scenario == scenario.name for name in (floor.of, floor.yardstick[0])}
    peers = [peer for peer in scenario.peers if peer.name in names and _is_here(peer)]
    cores = sorted(os.sched_getaffinity(0))
    return _results("measured now", measure(replace(scenario, peers=peers), Effort(3, 1, (cores[0], cores[-1]))))


def _results(source: str, contestants: Sequence[Measured]) -> Results:
    void = [why for each in contestants for why in each.void]
    return Results(source, void, {each.name: each for each in contestants})


def _is_here(peer: Peer) -> bool:
    try:
        return peer.version() is not None
    except LeftOut:
        return False


def judge(floor: Floor, results: Results | None) -> Shown:
    """Compare results with a requirement. `results`: of its scenario."""
    if results is None:
        return Shown(floor, None, "", "")
    if results.void:
        return Shown(floor, None, results.source, "void: " + "; ".join(results.void))
    values = list(_values(floor, results.contestants))
    if not values:
        return Shown(floor, None, results.source, "")
    value = median(values)
    over = f"{value:.3f}, {value / floor.at_most - 1:+.1%} over the floor" if value > floor.at_most else ""
    return Shown(floor, value, results.source, over)


def _values(floor: Floor, contestants: Mapping[str, Measured]) -> Iterator[float]:
    """Return one value for each round in which both took part."""
    figures = [
        {sample.round: _figure(sample, floor.figure) for sample in contestants[name].under(load)}
        if name in contestants
        else {}
        for name, load in ((floor.of, floor.load), floor.yardstick)
    ]
    ours, theirs = figures
    for number, figure in ours.items():
        if not floor.to:
            yield figure
        elif number in theirs:
            yield floor.value(figure, theirs[number])


def _figure(sample: Sample, name: str) -> float:
    """Return `cpu_us` per request, `cpu_s_per_gib`, or a figure of the load by that name."""
    if name == "cpu_us":
        return sample.cpu_us
    if name == "cpu_s_per_gib":
        return sample.cpu_s / sample.figures["bytes"] * GIB
    return sample.figures[name]
