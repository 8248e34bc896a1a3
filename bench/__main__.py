"""The benchmark's commands."""

import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, NoReturn

import typer

from bench import hold as holding
from bench import machine, report
from bench.load.load import NoAnswers
from bench.measure import Effort, measure
from bench.peers import LeftOut, Peer
from bench.ports import NotReady
from bench.prove import NotTheSameWork
from bench.scenarios import SCENARIOS
from bench.scenarios.scenario import Scenario

app = typer.Typer(help=__doc__, add_completion=False)


RoundsOption = Annotated[int | None, typer.Option(min=1, help="How often each contestant is measured. Default: 6.")]
SecondsOption = Annotated[int | None, typer.Option(min=1, help="Length of each measurement. Default: 3.")]
OnlyOption = Annotated[
    str, typer.Option(help="Contestants by their first word, with commas: fastgw,nginx. Empty: all.")
]
QuickOption = Annotated[bool, typer.Option("--quick", help="3 rounds of 1 s, unless told otherwise.")]
SaveOption = Annotated[bool, typer.Option(help="Write the tables and all samples to bench/results/.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Without a command: `plain` as it is quoted."""
    if context.invoked_subcommand is None:
        _run([SCENARIOS["plain"]])


def _add(name: str, scenarios: Sequence[Scenario], about: str) -> None:
    @app.command(name, help=about)
    def run(
        rounds: RoundsOption = None,
        seconds: SecondsOption = None,
        only: OnlyOption = "",
        quick: QuickOption = False,
        save: SaveOption = True,
    ) -> None:
        _run(scenarios, rounds, seconds, only, quick, save)


for _scenario in SCENARIOS.values():
    _add(_scenario.name, [_scenario], f"{_scenario.title}. Exit code 1 if the result is void.")
_add("all", [*SCENARIOS.values()], "All scenarios, one after the other. Exit code 1 if one of the results is void.")


def _run(
    scenarios: Sequence[Scenario],
    rounds: int | None = None,
    seconds: int | None = None,
    only: str = "",
    quick: bool = False,
    save: bool = True,
) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        _fail("two cores are needed: one for the proxy, one for the origin and the load")
    effort = Effort(rounds or (3 if quick else 6), seconds or (1 if quick else 3), (cores[0], cores[-1]))
    void = False
    for scenario in scenarios:
        chosen = replace(scenario, peers=_chosen(scenario.peers, only))
        try:
            measured = measure(chosen, effort)
        except (NotReady, NotTheSameWork, NoAnswers) as error:
            _fail(f"{scenario.name}: {error}")
        about = machine.describe()
        print(report.as_markdown(chosen, measured, effort, about), flush=True)
        if save:
            print(f"kept in {report.keep(chosen, measured, effort, about)}", file=sys.stderr)
        void = void or any(any(each.void) for each in measured)
    if void:
        raise typer.Exit(1)


def _chosen(peers: Sequence[Peer], only: str) -> list[Peer]:
    """Those that are asked for and can take part."""
    wanted = {name.strip() for name in only.split(",") if name.strip()}
    chosen = [peer for peer in peers if not wanted or re.split(r"\W", peer.name)[0] in wanted]
    for peer in [*chosen]:
        if why := _left_out(peer):
            print(f"{peer.name} is left out: {why}", file=sys.stderr)
            chosen.remove(peer)
    if not chosen:
        _fail(f"none of the contestants is left: {', '.join(peer.name for peer in peers)}")
    return chosen


def _left_out(peer: Peer) -> str | None:
    try:
        return "it is not installed here" if peer.version() is None else None
    except LeftOut as error:
        return str(error)


@app.command()
def hold(
    url: Annotated[str, typer.Argument(help="http://host:port of a gateway on this machine.")],
    connections: Annotated[int, typer.Option(min=0, help="Connections that never send a byte.")] = 10_000,
    slow_heads: Annotated[int, typer.Option(min=0, help="Connections whose request head never ends.")] = 1_000,
    pause: Annotated[float, typer.Option(min=0.1, help="Seconds between two bytes of a slow head.")] = 3.0,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to hold. 0 = until Ctrl-C.")] = 0.0,
) -> None:
    """Hold idle connections and slow heads open, and go on opening those that the gateway closes."""
    try:
        holding.hold(url, connections, slow_heads, pause, seconds or None)
    except holding.CannotHold as error:
        _fail(str(error))


def _fail(why: str) -> NoReturn:
    print(f"bench: {why}", file=sys.stderr)
    raise typer.Exit(2)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is stopped
    app()
