"""The table of the knobs, and its place in `tuning.md`."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.machine import describe
from bench.measure import Effort
from bench.report import compared
from bench.samples import Measured
from bench.scenarios.scenario import CPU_US, P50, P99, RATE, Comparison, Figure, ratio_to

TUNING = Path(__file__).parents[2] / "tuning.md"
FAILED = Figure("failed", lambda s: s.faults.get("wrong status", 0) / s.requests, lambda share: f"{share:.0%}")


def head() -> Iterator[str]:
    yield "| knob | set to | CPU us/request | ratio | requests/s | ratio | p50 ms | p99 ms | failed |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"


def rows(knob: str, load: str, measured: Sequence[Measured]) -> Iterator[str]:
    """One per contestant; ratios are to the first, made inside each round: median [least..most]."""
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


def caption(effort: Effort) -> str:
    """When and where, for whoever compares it with a machine of their own."""
    about = describe()
    return (
        f"Measured {about['date']} on {about['cores']} cores of {about['cpu']}, {about['kernel']}, Python "
        f"{about['python']}, revision {about['revision']}: {effort.rounds} rounds of {effort.seconds} s, medians."
    )


def put(text: str, name: str, lines: Iterable[str]) -> str:
    """`text` with `lines` between the markers of this name. `ValueError` without markers."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    between = re.compile(f"(?<={re.escape(begin)}\n).*(?={re.escape(end)})", re.DOTALL)
    if not between.search(text):
        raise ValueError(f"nothing between {begin} and {end}")
    inner = "\n".join(lines)
    return between.sub(lambda _: f"\n{inner}\n\n", text)
