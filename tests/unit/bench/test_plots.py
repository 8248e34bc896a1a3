"""Pictures: the same samples give the same file, with every contestant in it and colours for a dark page."""

from dataclasses import replace
from pathlib import Path

from bench.measure import Effort
from bench.outcome import Outcome
from bench.plots import INK_IN_THE_DARK, draw
from bench.samples import Measured, Sample
from bench.scenarios.scenario import Kind, Picture, Scenario

FIGURES = {"p50_us": 900.0, "p90_us": 1000.0, "p99_us": 2000.0, "p99.9_us": 3000.0}
SAMPLE = Sample("half load", 1, 1000, 2.0, 0.02, 0.005, 0.015, FIGURES, None, {})
PICTURES = (Picture(Kind.BARS, "half load", "What it costs"), Picture(Kind.LINES, "half load", "How long it takes"))
SCENARIO = Scenario("plain", "", "", (), (), (), pictures=(*PICTURES, Picture(Kind.BARS, "full load", "Not measured")))
CONTESTANTS = [
    Measured("fastgw", "0.1.0", [SAMPLE, replace(SAMPLE, round=2, cpu_s=0.03)]),
    Measured("nginx (no log)", "1.22.1", [replace(SAMPLE, cpu_s=0.01)]),
]
OUTCOME = Outcome(SCENARIO, Effort(2, 2, (0, 1)), CONTESTANTS, {})


def test_pictures_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    drawn = [*draw(OUTCOME, tmp_path)]
    assert [file.name for file in drawn] == ["plain-cpu-half-load.svg", "plain-latency-half-load.svg"]
    for file, picture in zip(drawn, PICTURES, strict=True):
        text = file.read_text()
        for word in (picture.title, "fastgw", "nginx (no log)", INK_IN_THE_DARK, "prefers-color-scheme: dark"):
            assert word in text


def test_the_same_samples_give_the_same_file(tmp_path: Path) -> None:
    first = [file.read_bytes() for file in draw(OUTCOME, tmp_path)]
    assert [file.read_bytes() for file in draw(OUTCOME, tmp_path)] == first
