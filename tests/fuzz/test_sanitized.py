"""No step in memory goes wrong: what the tests of the twins know, and a short hunt, with sanitizers in the twins."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.hunting import hunt
from tests.fuzz.sanitized import build

CORPORA = {
    "wire": (
        "http/http1",
        "http/http2",
        "downstream/http2",
        "upstream/connections/test_http2_liveness.py",
    ),
    "others": (
        "http/caching",
        "http/content_coding",
        "http/test_*.py",
        "exchange/test_new_exchange.py",
        "filters/policies/content/test_body_validator.py",
        "filters/policies/test_waf_header_values.py",
        "filters/policies/test_waf_json_values.py",
        "filters/policies/test_waf_literals.py",
        "filters/policies/test_waf_normalization.py",
        "observe/access_log/test_formats.py",
        "observe/test_recorder.py",
        "routing/test_route_tree.py",
        "shm/test_rate_limit_table.py",
        "../fuzz/test_found.py",
    ),
}
"""Each is a process: to import what the tests need costs it 7 s of processor time with the sanitizers."""
DEADLINE = 500.0  # seconds for what takes one minute alone
CASES = 4000  # a few seconds; `make fuzz` goes on for as long as is wanted


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("sanitized")
    return folder, build(folder)


@pytest.mark.extended
def test_they_are_compiled(sanitized: tuple[Path, dict[str, str]]):
    """First, and by itself: it takes as long as the longest of those below."""
    package = sanitized[0] / "fastgw"
    assert {path.name.partition(".")[0] for path in package.rglob("_*.so")} == {
        path.stem for path in package.rglob("_*.pyx")
    }


@pytest.mark.extended
@pytest.mark.parametrize("corpus", CORPORA)
def test_what_the_tests_of_the_twins_know(sanitized: tuple[Path, dict[str, str]], corpus: str):
    folder, environment = sanitized
    unit = folder / "tests" / "unit"
    found = {each: sorted(unit.glob(each)) for each in CORPORA[corpus]}
    assert all(found.values()), "nothing of this name"
    files = [str(file) for several in found.values() for file in several]
    done = subprocess.run(
        # What is left to chance is the hunt's. -s: the sanitizer's last words are not kept by pytest.
        [sys.executable, "-m", "pytest", "-q", "-s", "-n0", "-x", "-m", "not hypothesis", *files],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-6000:]}"


@pytest.mark.extended
def test_a_short_hunt_finds_nothing(sanitized: tuple[Path, dict[str, str]]):
    """Always the same one: a test must not depend on chance."""
    told = hunt(*sanitized, seed=1, most=CASES, seconds=DEADLINE)
    assert "accepted" in told
