"""The benchmark's check: what it makes of counts, budgets and results. Nothing is counted or measured here."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench.check.budgets import FILE, Budgets, Floor, Tolerance, compare, read, renewed
from bench.check.counted import CALLS, ROUNDS
from bench.check.floors import Results, judge, kept
from bench.check.instructions import CannotCount, per_call, room_keys
from bench.measure import Effort
from bench.outcome import Outcome, write
from bench.samples import Measured, Sample
from bench.scenarios import SCENARIOS

HERE = {"python": "CPython 3.11.7"}
BUDGETS = Budgets(Tolerance(here=0.03, elsewhere=0.3, least=60), (), HERE, {"framing: judge": 10_000})
FLOOR = Floor("plain", "64 connections", "cpu_us", "fastgw", "nginx", at_most=1.05)


def measured(name: str, cpu_us: Sequence[float], load: str = "64 connections", p99_us: float = 1.0) -> Measured:
    """One sample a round."""
    samples = [
        Sample(load, number, 1000, 1.0, each / 1000, 0.0, 0.0, {"p99_us": p99_us, "bytes": 1 << 30}, None, {})
        for number, each in enumerate(cpu_us, 1)
    ]
    return Measured(name, "1", samples)


def results(*contestants: Measured, void: Sequence[str] = ()) -> Results:
    return Results("plain.json", void, {each.name: each for each in contestants})


@pytest.mark.parametrize(
    ("counted", "counted_by", "fault"),
    [
        (10_300, HERE, ""),
        (10_301, HERE, "301 instructions (+3.0%) over its budget"),
        (5_000, HERE, ""),
        (13_000, {"python": "CPython 3.12.0"}, ""),
        (13_001, {"python": "CPython 3.12.0"}, "3,001 instructions (+30.0%) over its budget"),
    ],
)
def test_a_room_may_be_a_little_over_its_budget_and_more_where_another_python_counts(counted, counted_by, fault):
    (compared,) = compare({"framing: judge": counted}, BUDGETS, counted_by, all_rooms=True)
    assert compared.fault == fault


def test_a_small_room_is_not_held_to_a_handful_of_instructions():
    budgets = Budgets(BUDGETS.tolerance, (), HERE, {"chain: none": 400})
    faults = [next(compare({"chain: none": count}, budgets, HERE, all_rooms=True)).fault for count in (460, 461)]
    assert [bool(fault) for fault in faults] == [False, True]


def test_a_room_without_a_budget_and_a_budget_without_a_room_are_named():
    compared = list(compare({"framing: read": 1}, BUDGETS, HERE, all_rooms=True))
    assert [(each.room, each.fault) for each in compared] == [
        ("framing: read", "has no budget"),
        ("framing: judge", "has a budget, and there is no such room"),
    ]
    assert [each.room for each in compare({}, BUDGETS, HERE, all_rooms=False)] == []


def test_renewed_budgets_keep_what_people_wrote_and_drop_the_budgets_before():
    counts = {"framing: judge": 9_000, "exchange: a GET": 1}
    once = renewed(FILE.read_text(), {"gone": 1}, {})
    twice = renewed(once, counts, HERE)
    assert read(twice).rooms == counts
    assert read(twice).counted_by == HERE
    assert (read(twice).floors, read(twice).tolerance) == (
        read(FILE.read_text()).floors,
        read(FILE.read_text()).tolerance,
    )
    assert renewed(twice, counts, HERE) == twice


def test_budgets_of_other_modules_stand_beside_those_that_are_counted():
    rooms = {"framing: judge": 10_000, "frames: a": 1, "exchange: a GET": 2}
    assert replace(BUDGETS, rooms=rooms).beside(["framing", "exchange"]) == {"frames: a": 1}


def test_a_part_of_a_room_is_known_by_the_room_and_two_of_one_name_are_refused():
    rooms = [("framing", "judge a request"), ("framing", "  llhttp alone"), ("framing", "judge a response")]
    assert room_keys([*rooms, ("framing", "  llhttp alone")]) == [
        "framing: judge a request",
        "framing: judge a request: llhttp alone",
        "framing: judge a response",
        "framing: judge a response: llhttp alone",
    ]
    with pytest.raises(CannotCount, match="two rooms have the name"):
        room_keys([*rooms, rooms[0]])


def test_what_both_runs_of_a_room_have_in_common_is_not_counted_nor_what_befell_one_of_them():
    """Up to each mark: what was before, a run, what was between, a run of twice as many calls, and all that again."""
    start_up, per_run, timer = 1_000_000, 500, 90_000
    once, twice = per_run + CALLS * 7, per_run + 2 * CALLS * 7
    again = [0, once, 0, twice] * (ROUNDS - 2)
    first = [start_up, once + timer, 40_000, twice, 0, once, 0, twice + timer, *again]
    second = [start_up, once, 0, twice + timer, 0, once, 0, twice, *again]
    assert per_call(["a", "b"], [*first, *second]) == {"a": 7, "b": 7}


def test_a_ratio_is_taken_inside_each_round_and_its_median_judged():
    slow_phase = results(measured("fastgw", [10.0, 30.0, 11.0]), measured("nginx", [10.0, 30.0, 10.0]))
    assert (judge(FLOOR, slow_phase).value, judge(FLOOR, slow_phase).fault) == (1.0, "")
    over = results(measured("fastgw", [12.0, 36.0, 12.0]), measured("nginx", [10.0, 30.0, 10.0]))
    assert judge(FLOOR, over).fault == "1.200, +14.3% over the floor"


@pytest.mark.parametrize(("figure", "ratio"), [("p99_us", 1.5), ("cpu_s_per_gib", 2.0), ("cpu_us", 2.0)])
def test_a_floor_names_its_figure(figure, ratio):
    both = results(measured("fastgw", [20.0], p99_us=30.0), measured("nginx", [10.0], p99_us=20.0))
    assert judge(Floor("plain", "64 connections", figure, "fastgw", "nginx", 3.0), both).value == ratio


def test_a_floor_may_be_of_a_difference_shared_out_or_of_the_figure_alone():
    both = results(measured("fastgw", [10.0, 20.0]), measured("nginx", [9.0, 18.0]))
    filters = Floor("plain", "64 connections", "cpu_us", "fastgw", "nginx", 0.5, shared_by=2)
    assert judge(filters, both).value == pytest.approx(0.75)
    assert judge(filters, both).fault == "0.750, +50.0% over the floor"
    assert judge(Floor("plain", "64 connections", "cpu_us", "fastgw", "", 15.0), both).value == pytest.approx(15.0)


def test_a_floor_may_compare_two_loads_of_one_contestant():
    two = measured("fastgw", [12.0, 26.0])
    two.samples.extend(measured("fastgw", [10.0, 20.0], "half load").samples)
    floor = Floor("plain", "64 connections", "cpu_us", "fastgw", "fastgw under half load", 1.3)
    assert judge(floor, results(two)).value == pytest.approx(1.25)
    assert judge(replace(floor, load="half load", to="fastgw under 64 connections"), results(two)).fault == ""


@pytest.mark.parametrize(
    "found",
    [
        None,
        results(measured("fastgw", [9.0])),
        results(measured("nginx", [9.0])),
        results(measured("fastgw", [9.0], "half load"), measured("nginx", [9.0], "half load")),
    ],
    ids=["no results", "no yardstick", "not us", "not this load"],
)
def test_what_was_not_measured_is_neither_kept_nor_broken(found):
    assert (judge(FLOOR, found).value, judge(FLOOR, found).fault) == (None, "")


def test_nothing_is_concluded_from_void_results():
    void = results(measured("fastgw", [1.0]), measured("nginx", [9.0]), void=["fastgw, round 1: lost: 2"])
    assert judge(FLOOR, void).value is None
    assert judge(FLOOR, void).fault == "void: fastgw, round 1: lost: 2"


def test_the_newest_results_are_read_as_they_were_kept(tmp_path: Path):
    contestants = [measured("fastgw", [9.0, 9.0]), measured("nginx", [10.0, 10.0])]
    for date, chosen in (("2026-11-20T0915Z", contestants), ("2026-11-19T2359Z", [])):
        outcome = Outcome(SCENARIOS["plain"], Effort(2, 1, (0, 1)), chosen, {})
        write(outcome, tmp_path / f"plain-{date}.json")
    found = kept("plain", tmp_path)
    assert found is not None
    assert found.source == "plain-2026-11-20T0915Z.json"
    assert judge(FLOOR, found).value == pytest.approx(0.9)
    assert kept("policies", tmp_path) is None


def test_results_of_an_earlier_benchmark_are_void(tmp_path: Path):
    old = {"contestants": [{"name": "fastgw", "version": "1", "samples": [{"round": 1, "p50_us": 6307}]}]}
    (tmp_path / "plain-2026-11-20T0915Z.json").write_text(json.dumps(old))
    assert "measure anew" in judge(FLOOR, kept("plain", tmp_path)).fault


def test_the_floors_are_of_scenarios_loads_and_contestants_that_there_are():
    for floor in read(FILE.read_text()).floors:
        scenario = SCENARIOS[floor.scenario]
        contestant, load = floor.yardstick
        assert {floor.load, load} <= {load.name for load in scenario.loads}
        assert {floor.of, contestant} - {""} <= {peer.name for peer in scenario.peers}
