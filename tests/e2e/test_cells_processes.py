"""The limiter cells among real processes: counts are exact, and whoever is killed leaves nothing that is in the way."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cells import ALGORITHMS
from tests.support.cells_build import SOURCES, build_stopping_module

ROOT = Path(__file__).parents[2]
DEADLINE = 300.0
KILLS = 400  # for each algorithm
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def ran(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-4000:]}"
    return done.stdout


def program(name: str, *arguments: str) -> str:
    """Run a program that forks thousands of times. Without `site` its processes have half of the memory to copy."""
    return ran(sys.executable, "-S", "-m", f"tests.support.{name}", *arguments)


def crowd(*arguments: str) -> str:
    return program("cells_crowd", *arguments)


@pytest.mark.landing
@each_algorithm
def test_four_processes_get_exactly_the_limit(algorithm: str) -> None:
    crowd("contend", algorithm)


@each_algorithm
def test_processes_that_are_killed_at_random_break_no_limit_and_leave_nothing_behind(algorithm: str) -> None:
    told = crowd("kill", algorithm, str(KILLS))
    assert int(told.split()[0]) > 100, told


@pytest.fixture(scope="module")
def stopping_module(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_stopping_module(tmp_path_factory.mktemp("cells")))


@each_algorithm
def test_whoever_is_stopped_or_killed_at_any_step(stopping_module: str, algorithm: str) -> None:
    program("cells_stops", algorithm, stopping_module)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a compiler")
def test_no_order_of_steps_breaks_a_limit(tmp_path: Path) -> None:
    """Coroutines in place of processes, in many thousand orders; always the same ones."""
    schedules = str(tmp_path / "schedules")
    source = str(ROOT / "tests/support/cells_schedules.c")
    ran("gcc", "-O2", "-Wall", "-Werror", "-fno-strict-aliasing", f"-I{SOURCES}", source, "-o", schedules)
    ran(schedules, "0", "20000")
