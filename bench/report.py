"""The tables of a measurement, and the JSON that keeps every sample of it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import Effort
from bench.samples import Measured
from bench.scenarios.scenario import Comparison, Figure, Scenario, Table

RESULTS = Path(__file__).with_name("results")


def as_markdown(scenario: Scenario, measured: Sequence[Measured], effort: Effort, about: dict[str, str]) -> str:
    """Per load one row per contestant: medians over the rounds, comparisons with their spread, and what went wrong."""
    return "\n".join(_lines(scenario, measured, effort, about)) + "\n"


def keep(
    scenario: Scenario, measured: Sequence[Measured], effort: Effort, about: dict[str, str], folder: Path = RESULTS
) -> Path:
    """Write the tables and all samples to `folder`; give the tables' path."""
    folder.mkdir(exist_ok=True)
    table = folder / f"{scenario.name}-{about['date'].replace(':', '')}.md"
    table.write_text(as_markdown(scenario, measured, effort, about))
    table.with_suffix(".json").write_text(json.dumps(as_json(scenario, measured, effort, about), indent=1) + "\n")
    return table


def as_json(scenario: Scenario, measured: Sequence[Measured], effort: Effort, about: dict[str, str]) -> dict[str, Any]:
    return {
        "scenario": scenario.name,
        "about": about,
        "effort": effort.as_json(),
        "void": [why for each in measured for why in each.void],
        "contestants": [asdict(each) for each in measured],
    }


def _lines(scenario: Scenario, measured: Sequence[Measured], effort: Effort, about: dict[str, str]) -> Iterator[str]:
    yield f"# {scenario.name}: {scenario.title}, {about['date']}"
    yield ""
    for why in [why for each in measured for why in each.void]:
        yield f"**VOID**: {why}"
        yield ""
    yield (
        f"{scenario.about} {effort.rounds} rounds of {effort.seconds} s. Every answer was checked. Proxy on core "
        f"{effort.cores[0]}, origin and load on core {effort.cores[-1]}. Comparisons are made inside each round: "
        f"median [least..most]."
    )
    yield ""
    yield "; ".join(f"{name}: {value}" for name, value in about.items())
    for table in scenario.tables:
        if any(each.under(table.load) for each in measured):
            yield ""
            yield f"## {table.title or table.load}"
            yield ""
            yield from rows(table, measured)
    for remark in scenario.remarks():
        yield ""
        yield remark
    yield ""
    yield "; ".join(f"{each.name} {each.version}" for each in measured)


def rows(table: Table, measured: Sequence[Measured]) -> Iterator[str]:
    """One table as Markdown. A contestant that this load was not meant for has no row."""
    by_name = {each.name: each for each in measured}
    yield _row(["", *(column.heading for column in table.columns), "errors"])
    yield _row(["---", *["---:"] * (len(table.columns) + 1)])
    for each in measured:
        samples = each.under(table.load)
        if samples:
            cells = (_cell(column, each, by_name, table.load) for column in table.columns)
            yield _row([each.name, *cells, str(sum(sum(sample.faults.values()) for sample in samples))])


def _cell(column: Figure | Comparison, ours: Measured, by_name: dict[str, Measured], load: str) -> str:
    if isinstance(column, Figure):
        return column.form(median(map(column.of, ours.under(load))))
    values = compared(column, ours, by_name, load)
    if not values:
        return ""
    return f"{column.form(median(values))} [{column.form(min(values))}..{column.form(max(values))}]"


def compared(column: Comparison, ours: Measured, by_name: dict[str, Measured], load: str) -> list[float]:
    """What the comparison gives in each round that both took part in."""
    yardstick = by_name.get(column.to(ours.name) or "")
    theirs = {sample.round: sample for sample in yardstick.under(load)} if yardstick else {}
    return [
        column.of(ours.name, column.figure.of(sample), column.figure.of(theirs[sample.round]))
        for sample in ours.under(load)
        if sample.round in theirs
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
