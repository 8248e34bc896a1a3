"""bench/README.md shows the newest results, and none that are void."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.measure import Effort
from bench.outcome import Outcome
from bench.readme import README, CannotShow, write
from bench.report import keep
from bench.samples import Measured, Sample
from bench.scenarios import SCENARIOS

ABOUT = {
    "date": "2026-11-20T0915Z",
    "cores": "2",
    "cpu": "a CPU",
    "kernel": "Linux 6",
    "python": "3.11",
    "revision": "r",
}
FIGURES = {"p50_us": 900.0, "p90_us": 1000.0, "p99_us": 2000.0, "p99.9_us": 3000.0}
FULL = Sample("64 connections", 1, 1000, 0.5, 0.03, 0.01, 0.02, FIGURES, None, {})
FASTGW = Measured("fastgw", "0.1.0", [replace(FULL, cpu_s=0.018), replace(FULL, load="half load", cpu_s=0.02)])
PURE = Measured("fastgw (pure Python)", "0.1.0", [replace(FULL, cpu_s=0.025)])
NGINX = Measured("nginx", "1.22.1", [replace(FULL, cpu_s=0.02), replace(FULL, load="half load", cpu_s=0.025)])
PLAIN = Outcome(SCENARIOS["plain"], Effort(1, 1, (0, 1)), [PURE, NGINX, FASTGW], ABOUT)


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    file = tmp_path / "README.md"
    file.write_text("Before.\n<!-- speed:begin -->\nold\n<!-- speed:end -->\nBehind.\n")
    return file


def test_the_newest_results_stand_between_the_markers(readme: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    keep(PLAIN, results)
    keep(replace(PLAIN, scenario=SCENARIOS["routes"]), results)
    write(readme, results)
    text = readme.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("\nBehind.\n")
    assert "old" not in text
    assert "Measured 2026-11-20T0915Z on 2 cores of a CPU" in text
    assert [line for line in text.splitlines() if line.startswith("|")][2:] == [
        "| fastgw 0.1.0 | 18.00 | 0.900 |  | 0.800 | 2.00 | 2,000 |",
        "| nginx 1.22.1 | 20.00 | 1.000 |  | 1.000 | 2.00 | 2,000 |",
        "| fastgw 0.1.0 (pure Python) | 25.00 | 1.250 |  |  |  | 2,000 |",
    ]
    for linked in ("plain-cpu-64-connections.svg", "plain-latency-half-load.svg", "routes-2026-11-20T0915Z.md"):
        assert f"](results/{linked})" in text
        assert (results / linked).exists()
    write(readme, results)
    assert readme.read_text() == text


def test_a_void_result_is_not_shown_and_without_a_result_there_is_nothing_to_show(readme: Path, tmp_path: Path) -> None:
    results, before = tmp_path / "results", readme.read_text()
    with pytest.raises(CannotShow, match="no result of plain"):
        write(readme, results)
    keep(replace(PLAIN, contestants=[Measured("fastgw", "0.1.0", [replace(FULL, faults={"lost": 1})])]), results)
    with pytest.raises(CannotShow, match="is void: fastgw, 64 connections, round 1: lost: 1"):
        write(readme, results)
    assert readme.read_text() == before


def test_the_readme_has_the_place() -> None:
    assert README.read_text().count("<!-- speed:") == 2


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
def test_a_quick_look_leaves_contestants_out_that_are_there_and_keeps_fastgw_and_another_if_any(scenario) -> None:
    names = [peer.name for peer in scenario.peers]
    left = [peer.name for peer in scenario.quick().peers]
    assert scenario.thorough <= set(names)
    assert left == [name for name in names if name not in scenario.thorough]
    assert any(name.startswith("fastgw") for name in left)
    if not all(name.startswith("fastgw") for name in names):
        assert any(not name.startswith("fastgw") for name in left)
