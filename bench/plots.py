"""Plots of a result as SVG, readable on light and dark pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.outcome import Outcome
from bench.samples import Measured
from bench.scenarios.scenario import Kind, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, INK_IN_THE_DARK = "#57606a", "#c9d1d9"
OURS, OTHERS = "#d1603d", "#7c93b2"
LINES = ("#d1603d", "#3b82b8", "#8a6fc9", "#3f9b6b", "#c2932b", "#b0578d", "#6b7d8f", "#49a3a8")
WIDTH = 8.3
"""Width of a plot in inches: that of a README, so that its text is as large as the text around it."""
PERCENTILES = ("50", "90", "99", "99.9")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the font of the reader's page
    "svg.hashsalt": "fastgw",  # deterministic: the same samples give the same file
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
DARK = (
    "<style>@media (prefers-color-scheme: dark) {"
    f'[style*="fill: {INK}"] {{ fill: {INK_IN_THE_DARK} !important; }} '
    f'[style*="stroke: {INK}"] {{ stroke: {INK_IN_THE_DARK} !important; }}'
    "}</style>"
)


def draw(outcome: Outcome, folder: Path) -> Iterator[Path]:
    """Draw the plots of the scenario; return their paths. They replace those of earlier results."""
    from matplotlib import rc_context  # not by every process that reads a result: it takes 0.2 s of processor time

    for picture in outcome.scenario.pictures:
        shown = outcome.under(picture.load)
        if shown:
            load = re.sub(r"\W+", "-", picture.load)
            file = folder / f"{outcome.scenario.name}-{picture.kind.value}-{load}.svg"
            with rc_context(STYLE):
                _draw(picture, shown, file)
            yield file


def _draw(picture: Picture, shown: list[Measured], file: Path) -> None:
    from matplotlib.figure import Figure as Canvas

    height = 1.0 + 0.36 * len(shown) if picture.kind is Kind.BARS else 4.0
    canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
    axes = canvas.subplots()
    {Kind.BARS: _bars, Kind.LINES: _lines}[picture.kind](axes, picture, shown)
    axes.set_title(picture.title, loc="left", fontsize=13)
    canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    head, tag, rest = file.read_text().partition("<defs>")
    file.write_text(head + DARK + tag + rest)


def _bars(axes: Axes, picture: Picture, shown: list[Measured]) -> None:
    """Draw medians as bars, with thin lines from minimum to maximum of the rounds."""
    values = {each.name: [*map(picture.figure.of, each.under(picture.load))] for each in shown}
    ordered = sorted(values, key=lambda name: median(values[name]), reverse=True)
    middles = [median(values[name]) for name in ordered]
    axes.barh(ordered, middles, height=0.62, color=[OURS if name.startswith("fastgw") else OTHERS for name in ordered])
    least = [middle - min(values[name]) for name, middle in zip(ordered, middles, strict=True)]
    most = [max(values[name]) - middle for name, middle in zip(ordered, middles, strict=True)]
    axes.errorbar(middles, ordered, xerr=[least, most], fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    for name, middle in zip(ordered, middles, strict=True):
        axes.annotate(
            picture.figure.form(middle), (max(values[name]), name), (5, 0), textcoords="offset points", va="center"
        )
    for label, name in zip(axes.get_yticklabels(), ordered, strict=True):
        label.set_fontweight("bold" if name.startswith("fastgw") else "normal")
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    heading = picture.figure.heading.replace("us/", "µs/")
    axes.set_xlabel(f"{heading}: less is better (bar: median of the rounds; line: their range)")


def _lines(axes: Axes, picture: Picture, shown: list[Measured]) -> None:
    """Draw one line per contestant through its percentiles, medians over the rounds."""
    for each, colour in zip(shown, LINES * len(shown), strict=False):
        samples = each.under(picture.load)
        heights = [median(s.figures[f"p{share}_us"] / 1e3 for s in samples) for share in PERCENTILES]
        ours = each.name.startswith("fastgw")
        width = 2.4 if ours else 1.3
        axes.plot(PERCENTILES, heights, color=colour, linewidth=width, marker="o", markersize=3.5, label=each.name)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.margins(x=0.02)
    axes.set_xlabel("percentile")
    axes.set_ylabel("ms")
