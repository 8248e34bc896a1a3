"""Programs of helper processes: each imports the filter that it works for, and no other one."""

import subprocess
import sys
from pathlib import Path

import pytest

import fastgw
from fastgw import filters
from fastgw.filters.built_in import TYPES

PACKAGE = Path(fastgw.__file__).parent
PROGRAMS = sorted(
    ".".join(("fastgw", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.joinpath("filters").rglob("*_program.py")
)


def test_no_helper_process_imports_all_filters() -> None:
    """Each worker starts its own: with all filters a start took 0.3 s of processor time and 10 MiB more."""
    assert len(PROGRAMS) == 4
    asked = f"import sys, {', '.join(PROGRAMS)}; print(*sys.modules)"
    imported = subprocess.check_output([sys.executable, "-c", asked], text=True).split()
    assert {*PROGRAMS} <= {*imported}
    assert "fastgw.filters.built_in" not in imported


def test_the_list_of_filters_is_imported_with_its_first_use() -> None:
    assert filters.TYPES is TYPES
    with pytest.raises(AttributeError, match="has no attribute 'TYPE'"):
        filters.TYPE  # noqa: B018 - it is the attribute that is asked for
