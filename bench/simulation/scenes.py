"""Simulated scenes: ten times the capacity, and a retry storm, with several policies and their results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.simulation.world import Course, Policy, Scene, play

ADAPTIVE: Final = Policy("concurrency: adaptive", adaptive=True)
BUDGET: Final = Policy("retry budget 20 %", budget=0.2)
FROM_S: Final = 10.0
"""Start of the overload in each scene, in seconds."""

OVERLOAD: Final = Scene(
    "Ten times the capacity for 30 s",
    seconds=60.0,
    load=lambda at: 10.0 if FROM_S <= at < 40.0 else 0.6,
)
STORM: Final = Scene(
    "A service ten times slower for 3 s, and 3 retries of each request",
    seconds=60.0,
    load=lambda at: 0.6,
    slowness=lambda at: 10.0 if FROM_S <= at < FROM_S + 3.0 else 1.0,
    retries=3,
    try_s=0.5,
    timeout_s=2.0,
)


@dataclass(frozen=True)
class Trial:
    """A scene and its policies. `judged`: the interval that is compared, in seconds."""

    name: str
    scene: Scene
    policies: Sequence[Policy]
    judged: tuple[float, float]

    def run(self, seed: int) -> Sequence[Course]:
        return [play(self.scene, policy, seed) for policy in self.policies]

    def goodput(self, course: Course) -> float:
        return course.goodput(*self.judged)


TRIALS: Final = (
    Trial("overload", OVERLOAD, (Policy("no limit"), ADAPTIVE), (15.0, 40.0)),
    Trial(
        "storm",
        STORM,
        (
            Policy("neither"),
            BUDGET,
            ADAPTIVE,
            Policy("both", adaptive=True, budget=0.2),
        ),
        (16.0, 60.0),
    ),
)


def told(trial: Trial, courses: Sequence[Course]) -> str:
    """Return the result of a trial, as a table in Markdown."""
    begins, ends = trial.judged
    lines = [
        f"### {trial.scene.title}",
        "",
        f"| | goodput, {begins:g} s to {ends:g} s, of capacity | answered | shed | too late |",
        "|---|---|---|---|---|",
    ]
    for course in courses:
        counts = " | ".join(f"{sum(each):,}" for each in (course.good, course.shed, course.lost))
        lines.append(f"| {course.policy.name} | {trial.goodput(course):.0%} | {counts} |")
    return "\n".join(lines)
