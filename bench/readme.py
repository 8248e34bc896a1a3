"""Inserts the newest results into bench/README.md: `plain` as a table with its plots, and links to all other tables."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.document import caption, put
from bench.outcome import RESULTS, Outcome, newest, read
from bench.plots import draw
from bench.report import compared
from bench.samples import Measured
from bench.scenarios import SCENARIOS
from bench.scenarios.scenario import CPU_US, P99, RATE, Comparison, Figure, ratio_to

README = Path(__file__).parent / "README.md"
SHOWN = "plain"
FULL, FEW, HALF = "64 connections", "16 connections", "half load"
COLUMNS: Sequence[tuple[str, str, Figure | Comparison]] = (
    ("CPU us/request", FULL, CPU_US),
    ("ratio to nginx", FULL, ratio_to("nginx")),
    ("16 connections", FEW, ratio_to("nginx")),
    ("half load", HALF, ratio_to("nginx")),
    ("p99 ms at half load", HALF, P99),
    ("requests/s", FULL, RATE),
)
"""Heading, load, and figure of each column."""


class CannotShow(Exception):
    """There is no result to show. The text has the reason."""


def write(readme: Path = README, results: Path = RESULTS) -> None:
    """Insert the newest results between the markers of `readme`, and draw the plots. Raises `CannotShow`."""
    newest_of = {name: file for name in SCENARIOS if (file := newest(name, results))}
    if SHOWN not in newest_of:
        raise CannotShow(f"no result of {SHOWN} in {results}")
    try:
        outcome = read(newest_of[SHOWN])
    except (ValueError, KeyError, TypeError) as error:
        raise CannotShow(f"{newest_of[SHOWN].name}: no result in the form of today; measure anew") from error
    if outcome.void:
        raise CannotShow(f"{newest_of[SHOWN].name} is void: {outcome.void[0]}")
    pictures = [picture for picture in outcome.scenario.pictures if outcome.under(picture.load)]
    linked = _linked_from(readme.parent)
    lines = [caption(outcome.about, outcome.effort), "", *rows(outcome), ""]
    drawn = zip(pictures, draw(outcome, results), strict=True)
    lines += [f"![{picture.title}]({linked(file)})" for picture, file in drawn]
    tables = (f"[{name}]({linked(file.with_suffix('.md'))})" for name, file in newest_of.items())
    lines += ["", f"All columns, and the spread of the rounds: {' · '.join(tables)}."]
    readme.write_text(put(readme.read_text(), "speed", lines))


def rows(outcome: Outcome) -> Iterator[str]:
    """Return one row per contestant measured under full load, cheapest first."""
    by_name = {each.name: each for each in outcome.contestants}
    yield f"| | {' | '.join(heading for heading, _, _ in COLUMNS)} |"
    yield f"| --- |{' ---: |' * len(COLUMNS)}"
    for each in sorted(outcome.under(FULL), key=lambda each: median(map(CPU_US.of, each.under(FULL)))):
        program, _, kind = each.name.partition(" ")
        cells = (_cell(column, each, by_name, load) for _, load, column in COLUMNS)
        yield f"| {' '.join(filter(None, (program, each.version, kind)))} | {' | '.join(cells)} |"


def _cell(column: Figure | Comparison, ours: Measured, by_name: dict[str, Measured], load: str) -> str:
    """Return a median; "" if it was not measured."""
    if isinstance(column, Figure):
        values = [*map(column.of, ours.under(load))]
    else:
        values = compared(column, ours, by_name, load)
    return column.form(median(values)) if values else ""


def _linked_from(folder: Path) -> Callable[[Path], str]:
    return lambda file: os.path.relpath(file, folder)
