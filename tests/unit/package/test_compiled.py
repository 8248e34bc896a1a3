"""The compiled twins: that all are there and in use, and what is told where they are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import fastgw.filters.policies.content_coding.compression  # imported where the filter is configured
import fastgw.runtime.run  # imports all other modules that have a twin
from fastgw import compiled

PACKAGE = Path(fastgw.__file__).parent
SOURCES = sorted(PACKAGE.rglob("_*.pyx"))


def name_of(source: Path) -> str:
    return ".".join(source.relative_to(PACKAGE.parent).with_suffix("").parts)


IN_HELPER_PROCESSES = {"fastgw.helper_processes._turns"}  # its tests ask for it


def test_every_twin_is_in_use_unless_none_is_wanted():
    """So no test is passed by plain Python in the name of a twin that was not built: `make setup`."""
    assert compiled.describe().partition(" (")[0] == ("plain Python" if compiled.PURE else "compiled")
    names = {name_of(source) for source in SOURCES} - IN_HELPER_PROCESSES
    assert {name: name in sys.modules for name in names} == dict.fromkeys(names, not compiled.PURE)


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_a_twin_is_not_older_than_its_source(source: Path):
    (built,) = source.parent.glob(f"{source.stem}.*.so")
    assert built.stat().st_mtime >= source.stat().st_mtime, "make setup"


WITHOUT = "installed without a compiler"


@pytest.mark.parametrize(
    ("in_use", "pure", "told"),
    [
        ({"a": True, "b": True}, False, "compiled"),
        ({"a": True, "b": False}, False, f"compiled, but for b (no compiled modules: {WITHOUT})"),
        ({"a": False, "b": False}, False, f"plain Python (no compiled modules: {WITHOUT})"),
        ({"a": False, "b": False}, True, "plain Python (FASTGW_PURE_PYTHON is set)"),
    ],
)
def test_it_is_told_what_is_in_use_and_why(monkeypatch, in_use, pure, told):
    monkeypatch.setattr(compiled, "in_use", in_use)
    monkeypatch.setattr(compiled, "PURE", pure)
    assert compiled.describe() == told


@pytest.mark.parametrize(
    ("in_use", "pure", "warns"),
    [
        ({"a": True}, False, False),
        ({"a": True, "b": False}, False, True),
        ({"a": False}, False, True),
        ({"a": False}, True, False),
    ],
)
def test_who_runs_in_plain_python_without_having_asked_for_it_is_warned(monkeypatch, in_use, pure, warns):
    monkeypatch.setattr(compiled, "in_use", in_use)
    monkeypatch.setattr(compiled, "PURE", pure)
    warning = compiled.warning()
    assert (warning is not None) is warns
    assert warning is None or compiled.describe() in warning


@pytest.fixture
def asked(monkeypatch) -> dict[str, bool]:
    """`in_use` of this test alone, with the twins wanted."""
    asked: dict[str, bool] = {}
    monkeypatch.setattr(compiled, "in_use", asked)
    monkeypatch.setattr(compiled, "PURE", False)
    return asked


def test_a_twin_that_is_missing_is_none(asked):
    assert compiled.twin("fastgw.http.http1._nothing") is None
    assert asked == {"fastgw.http.http1._nothing": False}


def test_a_twin_without_the_twin_that_it_uses_is_missing_as_well(asked, monkeypatch, tmp_path):
    (tmp_path / "lonely_twin.py").write_text("import fastgw.http.http1._nothing\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert compiled.twin("lonely_twin") is None
    assert asked == {"lonely_twin": False}


def test_a_twin_that_is_not_wanted_is_not_imported(asked, monkeypatch):
    monkeypatch.setattr(compiled, "PURE", True)
    assert compiled.twin("json") is None
    assert asked == {"json": False}


def test_a_twin_that_cannot_be_loaded_is_no_missing_twin(asked, monkeypatch, tmp_path):
    """It would run slower for ever, and nobody would know why."""
    for number, absent in enumerate(("nothing_of_this_name", "fastgw.http.http1.nothing", "_nothing")):
        (tmp_path / f"broken_twin_{number}.py").write_text(f"import {absent}\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ModuleNotFoundError, match=absent):
            compiled.twin(f"broken_twin_{number}")
