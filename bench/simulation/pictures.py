"""Plots of a trial as SVG: goodput over time, and the adaptive limit."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.plots import DARK, INK, LINES, STYLE
from bench.simulation.scenes import Trial
from bench.simulation.world import BUCKET_S, Course


def draw(trial: Trial, courses: Sequence[Course], folder: Path) -> Path:
    """Draw the plot; it replaces that of an earlier run."""
    file = folder / f"simulation-{trial.name}.svg"
    with rc_context(STYLE):
        canvas = Figure(figsize=(7.2, 4.6), layout="constrained")
        goodput, limit = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for course, colour in zip(reversed(courses), LINES, strict=False):  # fastgw in its own colour
            at = [(place + 1) * BUCKET_S for place in range(len(course.good))]
            share = [100.0 * good / BUCKET_S / trial.scene.capacity for good in course.good]
            goodput.plot(at, share, color=colour, linewidth=1.6, label=course.policy.name)
            if any(course.limits):
                limit.plot(at[: len(course.limits)], course.limits[: len(at)], color=colour, linewidth=1.6)
        goodput.axhline(100.0, color=INK, linewidth=0.8, linestyle=":")
        goodput.set_title(trial.scene.title, loc="left", fontsize=11)
        goodput.set_ylabel("goodput, % of capacity")
        goodput.set_ylim(bottom=0.0)
        goodput.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        limit.set_ylabel("limit")
        limit.set_ylim(bottom=0.0)
        limit.set_xlabel("s")
        canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    head, tag, rest = file.read_text().partition("<defs>")
    file.write_text(head + DARK + tag + rest)
    return file
