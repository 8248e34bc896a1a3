"""Compare what each room costs, and what the newest results show, with `bench/budgets.toml`."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from bench.check.budgets import FILE, Budgets, Compared, Floor, compare, counter, read, renewed
from bench.check.floors import Shown, judge, measure_quickly, newest
from bench.check.instructions import CannotCount, count
from bench.micro.__main__ import MODULES
from bench.report import RESULTS


def main(
    modules: Annotated[
        list[str] | None, typer.Argument(help=f"Rooms of these only, and no ratios: {', '.join(MODULES)}.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure the ratios now, 3 rounds of 1 s, and take no kept results.")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Make what is counted the budget of each room.")] = False,
) -> None:
    """Compare what each room costs, and what the newest results show, with bench/budgets.toml.

    Exit code 1 if anything is over its budget; it is named. 2 if nothing could be compared.
    """
    if unknown := set(modules or ()) - set(MODULES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}; expected some of {', '.join(MODULES)}")
    text = FILE.read_text()
    budgets = read(text)
    try:
        counts = count(modules or ())
    except CannotCount as error:
        print(f"bench.check: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    rooms = list(compare(counts, budgets, counter(), all_rooms=not modules))
    _tell_rooms(rooms, budgets)
    if write:
        kept = {room: counted for room, counted in budgets.rooms.items() if modules and room not in counts}
        FILE.write_text(renewed(text, kept | counts, counter()))
        print(f"\nwritten to {FILE}")
        return
    ratios = [] if modules else _ratios(budgets.floors, quick)
    _tell_ratios(ratios)
    faults = [f"{each.room} ({each.variant}): {each.fault}" for each in rooms if each.fault]
    faults += [f"{_title(each)}: {each.fault}" for each in ratios if each.fault]
    print("", *(faults or ["everything is within its budget"]), sep="\n")
    raise typer.Exit(bool(faults))


def _ratios(floors: Sequence[Floor], quick: bool) -> list[Shown]:
    scenarios = {floor.scenario for floor in floors}
    results = {name: measure_quickly(name, floors) if quick else newest(name, RESULTS) for name in scenarios}
    return [judge(floor, results[floor.scenario]) for floor in floors]


def _tell_rooms(rooms: Sequence[Compared], budgets: Budgets) -> None:
    if counter() != budgets.counted_by:
        counted_by = ", ".join(budgets.counted_by.values()) or "nobody yet"
        print(f"Budgets were counted by: {counted_by}. Here it is: {', '.join(counter().values())}.\n")
    width = max(len(each.room) for each in rooms)
    print(f"{'instructions per call':{width}}  {'':10}{'counted':>10}{'budget':>10}{'change':>9}")
    for each in rooms:
        change = "" if each.change is None else f"{each.change:+.1%}"
        print(f"{each.room:{width}}  {each.variant:10}{_number(each.counted):>10}{_number(each.budget):>10}{change:>9}")


def _tell_ratios(ratios: Sequence[Shown]) -> None:
    if ratios:
        print(f"\n{'ratios':80}{'shown':>8}{'floor':>7}{'aim':>7}")
    for each in ratios:
        shows = "-" if each.ratio is None else f"{each.ratio:.3f}"
        aim = "" if each.floor.aim is None else f"{each.floor.aim:g}"
        print(f"{_title(each):80}{shows:>8}{each.floor.at_most:>7g}{aim:>7}  {each.source or 'not measured'}")


def _title(each: Shown) -> str:
    floor = each.floor
    return f"{floor.scenario}, {floor.load}, {floor.figure}: {floor.of} to {floor.to}"


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


if __name__ == "__main__":
    typer.run(main)
