"""Benchmark fastgw against other proxies. Without a command: `plain`.

Exit codes: 0 success, 1 a result is void, 2 a scenario could not be measured.
"""

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bench import compare as comparing
from bench import hold as holding
from bench import machine, report
from bench.load import mix as mixing
from bench.load.load import NoAnswers
from bench.measure import Effort, measure
from bench.outcome import RESULTS, Outcome, newest, read
from bench.peers import LeftOut, Peer
from bench.plots import draw
from bench.ports import NotReady
from bench.prove import NotTheSameWork
from bench.scenarios import SCENARIOS
from bench.scenarios.scenario import Scenario

WELL, VOID, CANNOT_MEASURE = range(3)
NEEDED = {"nginx": "nginx", "wrk": "wrk", "h2load": "nghttp2-client", "taskset": "util-linux"}
"""Programs required for any measurement, by Debian package: the origin, load generators, and CPU pinning."""

SBIN = ":/usr/sbin:/sbin"
"""Directory of nginx and HAProxy in Debian, added to PATH."""

app = typer.Typer(help=__doc__, add_completion=False)


class CannotMeasure(Exception):
    """A scenario cannot be measured on this machine at present. The text has the reason."""


RoundsOption = Annotated[int | None, typer.Option(min=1, help="How often each contestant is measured. Default: 6.")]
SecondsOption = Annotated[int | None, typer.Option(min=1, help="Length of each measurement. Default: 3.")]
OnlyOption = Annotated[
    str, typer.Option(help="Contestants by their first word, with commas: fastgw,nginx. Empty: all.")
]
QuickOption = Annotated[
    bool,
    typer.Option("--quick", help="3 rounds of 1 s, unless told otherwise, with fewer contestants."),
]
SaveOption = Annotated[bool, typer.Option(help="Write the tables and all samples to bench/results/.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
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
    _add(_scenario.name, [_scenario], f"{_scenario.title}.")
_add("all", [*SCENARIOS.values()], "All scenarios, one after the other.")


def _run(
    scenarios: Sequence[Scenario],
    rounds: int | None = None,
    seconds: int | None = None,
    only: str = "",
    quick: bool = False,
    save: bool = True,
) -> None:
    _check_names(scenarios, only)
    if save:
        _prepare_results("; --no-save measures all the same")
    effort = _effort(rounds, seconds, quick)
    code = WELL
    for scenario in scenarios:
        try:
            outcome = _measure(scenario.quick() if quick else scenario, effort, only)
        except CannotMeasure as error:  # the next one may be possible
            print(f"bench: {error}", file=sys.stderr)
            code = CANNOT_MEASURE
            continue
        print(report.as_markdown(outcome), flush=True)
        if save:
            print(f"kept in {report.keep(outcome)}", file=sys.stderr)
        code = code or (VOID if outcome.void else WELL)
    if code:
        raise typer.Exit(code)


def _effort(rounds: int | None, seconds: int | None, quick: bool) -> Effort:
    """Return the requested effort on this machine's cores; end the command if it is not possible."""
    os.environ["PATH"] += SBIN
    if missing := [package for program, package in NEEDED.items() if not shutil.which(program)]:
        _fail(f"programs are missing; on Debian: apt-get install {' '.join(missing)}")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        _fail("two cores are needed: one for the proxy, one for the origin and the load")
    return Effort(rounds or (3 if quick else 6), seconds or (1 if quick else 3), (cores[0], cores[-1]))


def _measure(scenario: Scenario, effort: Effort, only: str = "") -> Outcome:
    """Measure the requested contestants that are available. Raises `CannotMeasure`."""
    scenario = replace(scenario, peers=_chosen(scenario.peers, only))
    if not scenario.peers:
        raise CannotMeasure(f"{scenario.name}: none of the contestants is left")
    try:
        contestants = measure(scenario, effort)
    except (NotReady, NotTheSameWork, NoAnswers) as error:
        raise CannotMeasure(f"{scenario.name}: {error}") from error
    return Outcome(scenario, effort, contestants, machine.describe())


def _check_names(scenarios: Sequence[Scenario], only: str) -> None:
    """End the command if `--only` names an unknown contestant."""
    names = dict.fromkeys(_first_word(peer) for scenario in scenarios for peer in scenario.peers)
    if unknown := _wanted(only) - set(names):
        _fail(f"--only: unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(names)}")


def _wanted(only: str) -> set[str]:
    return {name.strip() for name in only.split(",") if name.strip()}


def _first_word(peer: Peer) -> str:
    return re.split(r"\W", peer.name)[0]


def _chosen(peers: Sequence[Peer], only: str) -> list[Peer]:
    wanted = _wanted(only)
    chosen = [peer for peer in peers if not wanted or _first_word(peer) in wanted]
    for peer in [*chosen]:
        if why := _left_out(peer):
            print(f"{peer.name} is left out: {why}", file=sys.stderr)
            chosen.remove(peer)
    return chosen


def _left_out(peer: Peer) -> str | None:
    try:
        return "it is not installed here" if peer.version() is None else None
    except LeftOut as error:
        return str(error)


@app.command()
def compare(
    revisions: Annotated[list[str], typer.Argument(help="Two or more revisions of this repository: main HEAD~3")],
    scenario: Annotated[str, typer.Option(help="What is measured.")] = "plain",
    rounds: RoundsOption = None,
    seconds: SecondsOption = None,
    quick: QuickOption = False,
) -> None:
    """Compare revisions of fastgw, each installed separately; ratios are to the first."""
    if scenario not in SCENARIOS:
        _fail(f"no such scenario: {scenario}; expected one of {', '.join(SCENARIOS)}")
    try:
        comparing.check_known(revisions)
        effort = _effort(rounds, seconds, quick)
        with comparing.installed(revisions) as pythons:
            outcome = _measure(comparing.between(SCENARIOS[scenario], pythons), effort)
    except (comparing.CannotInstall, CannotMeasure) as error:
        _fail(str(error))
    print(report.as_markdown(outcome))
    if outcome.void:
        raise typer.Exit(VOID)


@app.command()
def plot(
    results: Annotated[
        list[Path] | None, typer.Argument(help="Results to draw, as JSON. None: the newest of each scenario.")
    ] = None,
) -> None:
    """Draw results as SVG files in bench/results/."""
    _prepare_results()
    for file in results or filter(None, map(newest, SCENARIOS)):
        with _reading(file):
            for drawn in draw(read(file), RESULTS):
                print(drawn)


@app.command()
def show(result: Annotated[Path, typer.Argument(help="A result, as JSON.")]) -> None:
    """Print the tables of a stored result."""
    with _reading(result):
        print(report.as_markdown(read(result)))


@app.command()
def readme() -> None:
    """Insert the newest results into bench/README.md: table and plots of `plain`, and links to the others."""
    from bench import readme as writing  # imports matplotlib

    try:
        writing.write()
    except (writing.CannotShow, OSError) as error:
        _fail(str(error))


@app.command()
def mix(
    url: Annotated[str | None, typer.Option(help="http://host:port of a gateway. None: a fastgw is started.")] = None,
    users: Annotated[int, typer.Option(min=1, max=5_000, help="Of twenty: 11 browse, 5 post, 2 slow, 2 bad.")] = 200,
    seconds: Annotated[int, typer.Option(min=1, max=3_600, help="How long they go on.")] = 30,
) -> None:
    """Run a realistic mix of users with locust: browsing, posting, slow clients, invalid tokens. Exit code 1 if any
    response was wrong.
    """
    os.environ["PATH"] += SBIN
    try:
        seen = mixing.run(url, users, seconds)
    except (mixing.MixFailed, NotReady) as error:
        _fail(str(error))
    print(seen)
    if seen.failures:
        raise typer.Exit(VOID)


@app.command()
def simulate(
    seed: Annotated[int, typer.Option(help="The same seed gives the same course.")] = 1,
    save: Annotated[bool, typer.Option(help="Write the tables and the pictures to bench/results/.")] = True,
) -> None:
    """Simulate an overload of ten times the capacity and a retry storm, without sockets: the effect of limits and retry
    budgets.
    """
    from bench.simulation.pictures import draw  # matplotlib
    from bench.simulation.scenes import TRIALS, told

    if save:
        _prepare_results("; --no-save simulates all the same")
    tables = []
    for trial in TRIALS:
        courses = trial.run(seed)
        tables.append(told(trial, courses))
        print(tables[-1], end="\n\n", flush=True)
        if save:
            print(draw(trial, courses, RESULTS), file=sys.stderr)
    if save:
        (RESULTS / "simulation.md").write_text("\n\n".join(tables) + "\n")


@app.command()
def hold(
    url: Annotated[str, typer.Argument(help="http://host:port of a gateway on this machine.")],
    connections: Annotated[int, typer.Option(min=0, help="Connections that never send a byte.")] = 10_000,
    slow_heads: Annotated[int, typer.Option(min=0, help="Connections whose request head never ends.")] = 1_000,
    pause: Annotated[float, typer.Option(min=0.1, help="Seconds between two bytes of a slow head.")] = 3.0,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to hold. 0 = until Ctrl-C.")] = 0.0,
) -> None:
    """Hold idle connections and slow request heads open, and reopen those that the gateway closes."""
    try:
        holding.hold(url, connections, slow_heads, pause, seconds or None)
    except holding.CannotHold as error:
        _fail(str(error))


def _prepare_results(instead: str = "") -> None:
    """End the command before the measurement if results cannot be stored. `instead`: advice."""
    try:
        report.prepare(RESULTS)
    except OSError as error:
        _fail(f"{RESULTS}: {error.strerror}{instead}")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """End the command if `file` cannot be read, or is not a result in the current format."""
    try:
        yield
    except OSError as error:
        _fail(f"{error.filename or file}: {error.strerror}")
    except (ValueError, KeyError, TypeError):
        _fail(f"{file}: no result, or kept by an earlier benchmark in another form")


def _fail(why: str) -> NoReturn:
    print(f"bench: {why}", file=sys.stderr)
    raise typer.Exit(CANNOT_MEASURE)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that started processes are stopped
    app()
