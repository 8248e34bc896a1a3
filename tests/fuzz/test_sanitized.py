"""No step in memory goes wrong: what the tests of the twins know, and a short hunt, with sanitizers in the twins."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.hunting import hunt
from tests.fuzz.sanitized import build

CORPORA = (
    "downstream/http2",
    "exchange/test_new_exchange.py",
    "http",
    "observe/access_log/test_formats.py",
    "observe/test_recorder.py",
    "package/test_replaced_methods.py",
    "routing/test_table_compiled.py",
    "shm/test_rate_limit_table.py",
    "upstream/connections/test_http2_liveness.py",
)
FOUND = "tests/fuzz/test_found.py"
DEADLINE = 900.0  # seconds for what takes two minutes alone
CASES = 4000  # a few seconds; `make fuzz` goes on for as long as is wanted


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("sanitized")
    return folder, build(folder)


def test_what_the_tests_of_the_twins_know(sanitized: tuple[Path, dict[str, str]]):
    folder, environment = sanitized
    files = [folder / "tests" / "unit" / each for each in CORPORA]
    done = subprocess.run(
        # What is left to chance is the hunt's. -s: the sanitizer's last words are not kept by pytest.
        [sys.executable, "-m", "pytest", "-q", "-s", "-n0", "-x", "-m", "not hypothesis", *map(str, files), FOUND],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-6000:]}"


def test_a_short_hunt_finds_nothing(sanitized: tuple[Path, dict[str, str]]):
    """Always the same one: a test must not depend on chance."""
    told = hunt(*sanitized, seed=1, most=CASES, seconds=DEADLINE)
    assert "accepted" in told
