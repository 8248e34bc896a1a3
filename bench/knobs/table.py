"""Table of the knobs in `tuning.md`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.report import compared
from bench.samples import Measured
from bench.scenarios.scenario import CPU_US, P50, P99, RATE, Comparison, Figure, ratio_to

TUNING = Path(__file__).parents[2] / "tuning.md"
FAILED = Figure("failed", lambda s: s.faults.get("wrong status", 0) / s.requests, lambda share: f"{share:.0%}")


def head() -> Iterator[str]:
    yield "| knob | set to | CPU us/request | ratio | requests/s | ratio | p50 ms | p99 ms | failed |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"


def rows(knob: str, load: str, measured: Sequence[Measured]) -> Iterator[str]:
    """Return one row per contestant; ratios are to the first, within each round: median [min..max]."""
    usual = measured[0].name
    by_name = {each.name: each for each in measured}
    columns = (CPU_US, ratio_to(usual, CPU_US), RATE, ratio_to(usual, RATE), P50, P99, FAILED)
    for each in measured:
        cells = (_cell(column, each, by_name, load) for column in columns)
        yield f"| {knob if each.name == usual else ''} | {each.name} | {' | '.join(cells)} |"


def _cell(column: Figure | Comparison, ours: Measured, by_name: dict[str, Measured], load: str) -> str:
    if isinstance(column, Figure):
        return column.form(median(map(column.of, ours.under(load))))
    if column.to(ours.name) == ours.name:
        return "1"
    values = compared(column, ours, by_name, load)
    return f"{median(values):.2f} [{min(values):.2f}..{max(values):.2f}]"
