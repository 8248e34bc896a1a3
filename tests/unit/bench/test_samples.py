"""Percentiles, what makes a sample void, and the files that keep all of it."""

import json
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

import pytest
from typer.testing import CliRunner

from bench import __main__ as commands
from bench import measure, outcome
from bench.load.load import Environment
from bench.measure import Effort
from bench.outcome import Outcome
from bench.peers.peer import Running
from bench.processes import CpuTime
from bench.samples import Measured, Sample, Told, percentile, percentiles
from bench.scenarios import SCENARIOS
from bench.scenarios.scenario import Comparison

FIGURES = {"p50_us": 900, "p90_us": 1000, "p99_us": 2000, "p99.9_us": 3000}
SAMPLE = Sample("64 connections", 1, 1000, 2.0, 0.02, 0.005, 0.015, FIGURES, 1000, {})


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([5], 50, 5),
        ([5], 99.9, 5),
        ([1, 2], 50, 1),
        ([1, 2, 3], 50, 2),
        (range(1, 101), 99, 99),
        (range(1, 101), 99.9, 100),
        (range(1, 1001), 99.9, 999),
        (range(1, 1002), 99.9, 1000),
        (range(1, 1002), 100, 1001),
    ],
)
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values, share, expected):
    assert percentile(values, share) == expected


def test_percentiles_have_the_names_of_figures():
    assert percentiles([3, 1, 2]) == {"p50_us": 2, "p90_us": 3, "p99_us": 3, "p99.9_us": 3}


def test_figures_of_a_sample_are_per_request_and_per_second():
    assert SAMPLE.cpu_us == pytest.approx(20.0)
    assert SAMPLE.rate == pytest.approx(500.0)


def test_a_contestant_is_void_by_any_fault_and_says_where():
    faulty = replace(SAMPLE, round=2, faults={"wrong status": 3})
    assert [*Measured("nginx", "1", [SAMPLE]).void] == []
    assert [*Measured("nginx", "1", [SAMPLE, faulty]).void] == ["nginx, 64 connections, round 2: wrong status: 3"]


class Program:
    """A contestant's processes; what they have used grows by 1 s of CPU per look."""

    def __init__(self, *pids: list[int]) -> None:
        self._pids = iter(pids)
        self._looks = 0.0

    def pids(self) -> list[int]:
        return next(self._pids)

    def cpu(self) -> CpuTime:
        self._looks += 1.0
        return CpuTime(self._looks, int(25 * self._looks), int(75 * self._looks))


class Loading:
    name = "64 connections"
    cut_off = 2

    def __init__(self, told: Told | None, log: Path | None = None, lines: int = 0) -> None:
        self._told, self._log, self._lines = told, log, lines

    def run(self, *_: object) -> Told | None:
        if self._log:
            self._log.write_text("{}\n" * self._lines)
        return self._told


def sample_of(load: Loading, *pids: list[int], log: Path | None = None) -> Sample | None:
    running = Running(Program(*pids), 80, log)
    return measure._sample(load, "nginx", running, Environment(Path(), 0), 1, 1)


def test_a_sample_has_the_difference_of_two_readings_and_only_faults_that_happened():
    sample = sample_of(Loading(Told(100, 1.0, {"p50_us": 7}, {"lost": 0, "wrong status": 2})), [1], [1])
    assert sample == Sample("64 connections", 1, 100, 1.0, 1.0, 0.25, 0.75, {"p50_us": 7}, None, {"wrong status": 2})


def test_a_process_that_ends_or_begins_is_a_fault():
    assert sample_of(Loading(Told(100, 1.0)), [1, 2], [1, 3]).faults == {"process that ended or began": 2}


def test_the_cache_loader_of_nginx_may_end():
    with Popen(["nginx: cache loader process", "60"], executable="/bin/sleep") as loader:
        while not Path(f"/proc/{loader.pid}/cmdline").read_bytes():
            pass  # the kernel has closed the descriptors of the fork, but not named the program yet
        assert sample_of(Loading(Told(100, 1.0)), [1, loader.pid], [1]).faults == {}
        loader.kill()


def test_a_load_that_is_not_meant_for_a_contestant_leaves_no_sample():
    assert sample_of(Loading(None), [1]) is None


@pytest.mark.parametrize(("lines", "faults"), [(99, 1), (100, 0), (102, 0), (103, 3)])
def test_log_lines_and_requests_agree_but_for_what_the_end_cut_off(tmp_path, monkeypatch, lines, faults):
    monkeypatch.setattr(measure, "LOG_SECONDS", 0.2)
    log = tmp_path / "access.log"
    log.touch()
    sample = sample_of(Loading(Told(100, 1.0), log, lines), [1], [1], log=log)
    assert sum(sample.faults.values()) == faults
    assert sample.log_lines == lines


def measured_plain(**faults: int) -> Outcome:
    contestants = [Measured("fastgw", "0.1.0", [replace(SAMPLE, faults=faults)]), Measured("nginx", "1.22.1", [SAMPLE])]
    about = {"date": "2026-11-20T09:15Z", "revision": "bd74b3d"}
    return Outcome(SCENARIOS["plain"], Effort(1, 2, [0, 1]), contestants, about)


def test_what_is_kept_is_read_again(tmp_path):
    file = tmp_path / "plain-2026-11-20T0915Z.json"
    outcome.write(measured_plain(lost=1), file)
    assert outcome.read(file) == measured_plain(lost=1)
    assert json.loads(file.read_text())["void"] == ["fastgw, 64 connections, round 1: lost: 1"]


def test_the_newest_result_of_a_scenario_is_that_of_the_last_date(tmp_path):
    for name in ("plain-2026-11-20T0915Z", "plain-2026-12-01T0000Z", "plainer-2027-01-01T0000Z"):
        (tmp_path / f"{name}.json").touch()
    assert outcome.newest("plain", tmp_path) == tmp_path / "plain-2026-12-01T0000Z.json"
    assert outcome.newest("routes", tmp_path) is None


@pytest.mark.parametrize(("faults", "code"), [({}, 0), ({"wrong body": 1}, 1)])
def test_a_void_result_is_exit_code_1_and_says_so(monkeypatch, faults, code):
    monkeypatch.setattr(commands, "_measure", lambda scenario, effort, only: measured_plain(**faults))
    monkeypatch.setattr(commands, "_effort", lambda *_: Effort(1, 2, (0, 1)))
    told = CliRunner().invoke(commands.app, ["plain", "--no-save"])
    assert told.exit_code == code
    assert ("**VOID**: fastgw, 64 connections, round 1: wrong body: 1" in told.stdout) is bool(code)


def test_a_scenario_that_cannot_be_measured_is_exit_code_2_and_the_others_are_measured(monkeypatch):
    measured = []

    def measure_all_but_one(scenario, effort, only):
        measured.append(scenario.name)
        if scenario.name == "plain":
            raise commands.CannotMeasure("plain: nginx told nothing")
        return measured_plain(lost=1)

    monkeypatch.setattr(commands, "_measure", measure_all_but_one)
    monkeypatch.setattr(commands, "_effort", lambda *_: Effort(1, 2, (0, 1)))
    told = CliRunner().invoke(commands.app, ["all", "--no-save"])
    assert told.exit_code == 2
    assert told.stderr == "bench: plain: nginx told nothing\n"
    assert measured == [*SCENARIOS]


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
class TestEachScenario:
    def test_has_names_that_tell_apart(self, scenario):
        for names in ([peer.name for peer in scenario.peers], [load.name for load in scenario.loads]):
            assert len(set(names)) == len(names)

    def test_shows_and_draws_what_it_measures(self, scenario):
        loads = {load.name for load in scenario.loads}
        assert {table.load for table in scenario.tables} <= loads
        assert {picture.load for picture in scenario.pictures} <= loads

    def test_compares_with_those_who_take_part(self, scenario):
        names = {peer.name for peer in scenario.peers}
        for table in scenario.tables:
            for column in table.columns:
                if isinstance(column, Comparison):
                    assert {column.to(name) for name in names} - {None} <= names
