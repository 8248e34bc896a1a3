"""Compare instruction counts and the newest results with `bench/budgets.toml`."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from bench.check.budgets import FILE, Budgets, Compared, Floor, compare, counter, read, renewed
from bench.check.floors import Shown, judge, kept, measure_quickly
from bench.check.instructions import CannotCount, count
from bench.load.load import NoAnswers
from bench.micro.__main__ import MODULES
from bench.outcome import RESULTS
from bench.ports import NotReady
from bench.prove import NotTheSameWork
from bench.scenarios import SCENARIOS

QUICK = "plain"  # the others take long, or are inexact in a short time


def main(
    modules: Annotated[
        list[str] | None, typer.Argument(help=f"Rooms of these only, and no floors: {', '.join(MODULES)}.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure `plain` now, 3 rounds of 1 s; else its newest results are taken.")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Make what is counted the budgets of these rooms.")] = False,
) -> None:
    """Compare instruction counts of all microbenchmarks, and the newest results, with bench/budgets.toml.

    Exit code 1: something exceeds its budget, and is named. 2: nothing could be compared.
    """
    if unknown := set(modules or ()) - set(MODULES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}; expected some of {', '.join(MODULES)}")
    text = FILE.read_text()
    budgets = read(text)
    if write and modules and budgets.counted_by != counter():
        raise typer.BadParameter("--write of some rooms: the others were counted by another Python; name none")
    try:
        floors = [] if modules or write else _floors(budgets.floors, quick)
        counts = count(modules or ())
    except (CannotCount, NotReady, NotTheSameWork, NoAnswers) as error:
        print(f"bench.check: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    rooms = list(compare(counts, budgets, counter(), all_rooms=not modules))
    _tell_rooms(rooms, budgets)
    if write:
        FILE.write_text(renewed(text, {**(budgets.beside(modules) if modules else {}), **counts}, counter()))
        print(f"\nwritten to {FILE}")
        return
    _tell_floors(floors)
    faults = [f"{each.room}: {each.fault}" for each in rooms if each.fault]
    faults += [f"{each.floor}: {each.fault}" for each in floors if each.fault]
    print("", *(faults or ["everything is within its budget"]), sep="\n")
    raise typer.Exit(bool(faults))


def _floors(floors: Sequence[Floor], quick: bool) -> list[Shown]:
    results = {floor.scenario: kept(floor.scenario, RESULTS) for floor in floors}
    if quick:
        results[QUICK] = measure_quickly(SCENARIOS[QUICK], floors)
    return [judge(floor, results[floor.scenario]) for floor in floors]


def _tell_rooms(rooms: Sequence[Compared], budgets: Budgets) -> None:
    if counter() != budgets.counted_by:
        counted_by = ", ".join(budgets.counted_by.values()) or "nobody yet"
        print(f"Budgets were counted by: {counted_by}. Here it is: {', '.join(counter().values())}.\n")
    width = max(len(each.room) for each in rooms)
    print(f"{'instructions per call':{width}}  {'counted':>10}{'budget':>10}{'change':>9}")
    for each in rooms:
        change = "" if each.change is None else f"{each.change:+.1%}"
        print(f"{each.room:{width}}  {_number(each.counted):>10}{_number(each.budget):>10}{change:>9}")


def _tell_floors(floors: Sequence[Shown]) -> None:
    width = max((len(str(each.floor)) for each in floors), default=0)
    if floors:
        print(f"\n{'floors':{width}}{'shown':>9}{'floor':>7}{'aim':>7}")
    for each in floors:
        shows = "-" if each.value is None else f"{each.value:.3f}"
        aim = "" if each.floor.aim is None else f"{each.floor.aim:g}"
        print(f"{each.floor!s:{width}}{shows:>9}{each.floor.at_most:>7g}{aim:>7}  {each.source or 'not measured'}")


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


if __name__ == "__main__":
    typer.run(main)
