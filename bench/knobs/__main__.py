"""Measure the effect of each setting in tuning.md on this machine, and profile CPU time."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, NoReturn

import typer

from bench.document import caption, put
from bench.knobs import profile as profiling
from bench.knobs.capacity import capacity, costs_of
from bench.knobs.knobs import KNOBS, MAY_FAIL
from bench.knobs.network import NotIsolated, enter_own_network
from bench.knobs.table import TUNING, head, rows
from bench.load.load import NoAnswers
from bench.machine import describe
from bench.measure import Effort, measure
from bench.peers import LeftOut, Peer
from bench.ports import NotReady
from bench.prove import NotTheSameWork
from bench.samples import Measured
from bench.scenarios.scenario import Scenario

app = typer.Typer(help=__doc__, add_completion=False)

NAMES = [make.__name__ for make in KNOBS]
RoundsOption = Annotated[int, typer.Option(min=1, help="How often each setting is measured.")]
SecondsOption = Annotated[int, typer.Option(min=1, help="Length of each measurement.")]
WriteOption = Annotated[bool, typer.Option("--write", help="Put the table into tuning.md.")]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    rounds: RoundsOption = 4,
    seconds: SecondsOption = 1,
    only: Annotated[str, typer.Option(help=f"With commas, some of: {', '.join(NAMES)}.")] = "",
    write: WriteOption = False,
) -> None:
    """Measure each setting on and off, in alternating rounds; print the tables. Takes about five minutes."""
    if context.invoked_subcommand is not None:
        return
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := set(wanted) - set(NAMES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}; expected some of {', '.join(NAMES)}")
    if wanted and write:
        raise typer.BadParameter("the table is written whole: leave out --only")
    try:
        enter_own_network()
    except NotIsolated as error:
        _fail(f"{error}; run it as root, or where user namespaces are allowed")
    effort = _effort(rounds, seconds)
    table = [*head()]
    costs: dict[tuple[str, str], float] = {}
    for make in KNOBS:
        if not wanted or make.__name__ in wanted:
            knob = make()
            load = knob.loads[0].name
            measured = _measured(knob, effort, faults_matter=knob.name not in MAY_FAIL)
            table += rows(knob.name, load, measured)
            costs |= costs_of(knob.name, load, measured)
    _show("knobs", [caption(describe(), effort), "", *table], write)
    if not wanted:
        _show("capacity", [*capacity(costs)], write)


@app.command()
def profile(rounds: RoundsOption = 3, seconds: SecondsOption = 3, write: WriteOption = False) -> None:
    """Profile fastgw and other proxies with perf: CPU microseconds per request by shared object. Takes about four
    minutes.
    """
    effort = _effort(rounds, seconds)
    table = [*profiling.head()]
    for wanted in profiling.PROFILES:
        measured = _measured(wanted.made(), effort, faults_matter=True)
        for load in wanted.loads:
            table += profiling.rows(wanted.scenario, load, measured)
    _show("profile", [caption(describe(), effort), "", *table], write)


def _effort(rounds: int, seconds: int) -> Effort:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        _fail("two cores are needed: one for the gateway, one for the origin and the load")
    return Effort(rounds, seconds, (cores[0], cores[-1]))


def _measured(scenario: Scenario, effort: Effort, *, faults_matter: bool) -> list[Measured]:
    try:
        measured = measure(replace(scenario, peers=_present(scenario.peers)), effort)
    except (NotReady, NotTheSameWork, NoAnswers) as error:
        _fail(f"{scenario.name}: {error}")
    if faults_matter and (faults := [why for each in measured for why in each.void]):
        _fail(f"{scenario.name} is void: {'; '.join(faults)}")
    return measured


def _present(peers: Sequence[Peer]) -> list[Peer]:
    present = []
    for peer in peers:
        try:
            if peer.version() is not None:
                present.append(peer)
        except LeftOut as error:
            print(f"{peer.name} is left out: {error}", file=sys.stderr)
    return present


def _show(name: str, lines: Sequence[str], write: bool) -> None:
    print("\n".join(lines))
    if write:
        TUNING.write_text(put(TUNING.read_text(), name, lines))
        print(f"written to {TUNING.name}", file=sys.stderr)


def _fail(why: str) -> NoReturn:
    print(f"bench.knobs: {why}", file=sys.stderr)
    raise typer.Exit(2)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that started processes are stopped
    app()
