"""Tables of a result, in Markdown."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile

from bench.outcome import RESULTS, Outcome, write
from bench.samples import Measured
from bench.scenarios.scenario import Comparison, Figure, Table


def as_markdown(outcome: Outcome) -> str:
    """Return per load one row per contestant: medians over the rounds, comparisons with their spread, and errors."""
    return "\n".join(_lines(outcome)) + "\n"


def prepare(folder: Path) -> None:
    """Create the folder if missing. Raises `OSError` if results cannot be stored in it."""
    if not folder.exists():
        folder.mkdir()
    with TemporaryFile(dir=folder):
        pass


def keep(outcome: Outcome, folder: Path = RESULTS) -> Path:
    """Write tables and samples to `folder`; return the path of the tables."""
    folder.mkdir(exist_ok=True)
    tables = folder / f"{outcome.scenario.name}-{outcome.about['date'].replace(':', '')}.md"
    tables.write_text(as_markdown(outcome))
    write(outcome, tables.with_suffix(".json"))
    return tables


def _lines(outcome: Outcome) -> Iterator[str]:
    scenario, effort = outcome.scenario, outcome.effort
    rounds = max((sample.round for each in outcome.contestants for sample in each.samples), default=0)
    yield f"# {scenario.name}: {scenario.title}, {outcome.about['date']}"
    yield ""
    for why in outcome.void:
        yield f"**VOID**: {why}"
        yield ""
    yield (
        f"{scenario.about} Rounds: {rounds}, of {effort.seconds} s where time is the measure. Every answer was "
        f"checked. Proxy on core {effort.cores[0]}, origin and load on core {effort.cores[-1]}. Figures are medians of "
        "the rounds; comparisons are made inside each round: median [least..most]."
    )
    yield ""
    yield "; ".join(f"{name}: {value}" for name, value in outcome.about.items())
    shown = [table for table in scenario.tables if outcome.under(table.load)]
    for table in shown:
        yield ""
        yield f"## {table.title or table.load}"
        yield ""
        yield from rows(table, outcome.contestants)
    yield ""
    yield "; ".join(f"{each.name} {each.version}" for each in outcome.contestants)


def rows(table: Table, contestants: Sequence[Measured]) -> Iterator[str]:
    """Return one table as Markdown. Contestants that do not have this load have no row."""
    by_name = {each.name: each for each in contestants}
    yield _row(["", *(column.heading for column in table.columns), "errors"])
    yield _row(["---", *["---:"] * (len(table.columns) + 1)])
    for each in contestants:
        if samples := each.under(table.load):
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
    """Return the comparison of each round in which both took part."""
    yardstick = by_name.get(column.to(ours.name) or "")
    theirs = {sample.round: sample for sample in yardstick.under(load)} if yardstick else {}
    return [
        column.of(ours.name, column.figure.of(sample), column.figure.of(theirs[sample.round]))
        for sample in ours.under(load)
        if sample.round in theirs
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
