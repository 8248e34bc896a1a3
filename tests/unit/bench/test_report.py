"""Tables as Markdown, comparisons inside a round, and the scenario that compares revisions."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench import report
from bench.compare import between
from bench.measure import Effort
from bench.outcome import Outcome
from bench.peers import Fastgw, Nginx
from bench.samples import Measured, Sample
from bench.scenarios import SCENARIOS, filters
from bench.scenarios.scenario import (
    CPU_PER_GIB,
    CPU_US,
    P99,
    RATE,
    Comparison,
    Scenario,
    Table,
    decimals,
    ratio_to,
)


def sample(number: int, cpu_us: float, load: str = "64 connections", **faults: int) -> Sample:
    cpu_s = cpu_us * 1000 / 1e6
    return Sample(load, number, 1000, 2.0, cpu_s, cpu_s / 4, cpu_s * 3 / 4, {"p99_us": 2345.0}, None, faults)


FASTGW = Measured("fastgw", "0.1.0", [sample(3, 33), sample(1, 22), sample(2, 30)])
NGINX = Measured("nginx", "1.22.1", [sample(1, 20), sample(2, 20), sample(3, 30)])
TABLE = Table("64 connections", (CPU_US, ratio_to("nginx"), RATE, P99))
SCENARIO = Scenario("plain", "what it costs", "Requests.", (), (), (TABLE, Table("16 connections", (CPU_US,))))


def test_a_table_has_medians_and_comparisons_inside_each_round():
    assert [*report.rows(TABLE, [FASTGW, NGINX])] == [
        "|  | CPU us/request | CPU us/request: ratio to nginx | requests/s | p99 ms | errors |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| fastgw | 30.00 | 1.100 [1.100..1.500] | 500 | 2.35 | 0 |",
        "| nginx | 20.00 | 1.000 [1.000..1.000] | 500 | 2.35 | 0 |",
    ]


def test_only_rounds_that_both_took_part_in_are_compared():
    nginx = replace(NGINX, samples=[sample(2, 20)])
    assert report.compared(ratio_to("nginx"), FASTGW, {"nginx": nginx}, "64 connections") == [pytest.approx(1.5)]


def test_a_yardstick_that_is_not_there_leaves_the_cell_empty():
    *_, row = report.rows(TABLE, [FASTGW])
    assert row == "| fastgw | 30.00 |  | 500 | 2.35 | 0 |"


def test_a_contestant_that_a_load_was_not_meant_for_has_no_row():
    other = Measured("caddy", "2", [sample(1, 99, load="16 connections")])
    assert not [row for row in report.rows(TABLE, [FASTGW, other]) if "caddy" in row]


def outcome(*contestants: Measured) -> Outcome:
    return Outcome(SCENARIO, Effort(3, 2, (0, 1)), contestants, {"date": "2026-11-20T09:15Z"})


def test_a_report_says_first_that_it_is_void_and_counts_errors():
    faulty = replace(FASTGW, samples=[sample(1, 22, **{"wrong body": 2, "lost": 1})])
    lines = report.as_markdown(outcome(faulty, NGINX)).splitlines()
    assert lines[:5] == [
        "# plain: what it costs, 2026-11-20T09:15Z",
        "",
        "**VOID**: fastgw, 64 connections, round 1: wrong body: 2",
        "",
        "**VOID**: fastgw, 64 connections, round 1: lost: 1",
    ]
    assert "| fastgw | 22.00 | 1.100 [1.100..1.100] | 500 | 2.35 | 3 |" in lines


def test_loads_not_measured_have_no_table():
    text = report.as_markdown(outcome(FASTGW, NGINX))
    assert "## 64 connections" in text
    assert "## 16 connections" not in text


def test_what_is_kept_is_named_by_scenario_and_date(tmp_path):
    tables = report.keep(outcome(FASTGW, NGINX), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "plain-2026-11-20T0915Z.json",
        "plain-2026-11-20T0915Z.md",
    ]
    assert tables.read_text() == report.as_markdown(outcome(FASTGW, NGINX))


def test_cpu_of_bodies_is_per_gib():
    streamed = replace(sample(1, 20), cpu_s=0.5, figures={"bytes": float(1 << 29)})
    assert CPU_PER_GIB.of(streamed) == pytest.approx(1.0)


def test_decimals_group_thousands():
    assert decimals(1)(12345.678) == "12,345.7"


def test_what_a_filter_costs_is_the_difference_to_four_by_how_many_there_are_more():
    (column,) = [c for c in filters.SCENARIO.tables[0].columns if c.heading == "us per filter"]
    assert isinstance(column, Comparison)
    assert column.to("fastgw, 16 filters") == "fastgw, 4 filters"
    assert column.to("fastgw, 4 filters") is column.to("fastgw, 0 filters") is column.to("nginx") is None
    assert column.of("fastgw, 16 filters", 15.2, 14.0) == pytest.approx(0.1)


class TestComparingRevisions:
    PYTHONS = {"main~1": Path("/a/bin/python"), "main": Path("/b/bin/python")}

    def test_each_fastgw_takes_part_once_per_revision_and_runs_in_its_environment(self):
        compared = between(SCENARIOS["filters"], self.PYTHONS)
        of_new = [peer for peer in compared.peers if isinstance(peer, Fastgw) and peer.name.endswith(" @main")]
        assert [peer.name for peer in of_new] == [f"fastgw, {count} filters @main" for count in (0, 4, 8, 16)]
        assert {peer.command for peer in of_new} == {(Path("/b/bin/python"), "-I", filters.LAUNCHER)}
        assert [peer.name for peer in compared.peers if isinstance(peer, Nginx)] == ["nginx"]

    def test_figures_are_in_ratio_to_the_first_revision_of_the_same_contestant(self):
        compared = between(SCENARIOS["plain"], self.PYTHONS)
        column = compared.tables[0].columns[0]
        assert isinstance(column, Comparison)
        assert column.heading == "CPU us/request: ratio to main~1"
        assert column.to("fastgw (pure Python) @main") == "fastgw (pure Python) @main~1"
        assert column.to("nginx") is None

    def test_the_work_is_proved_by_the_name_without_the_revision(self):
        proved = []
        scenario = replace(SCENARIO, prove=lambda name, running: proved.append(name))
        between(scenario, self.PYTHONS).prove("fastgw, 10 routes @main", None)
        assert proved == ["fastgw, 10 routes"]
