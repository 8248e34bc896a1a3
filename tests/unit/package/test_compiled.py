"""The compiled modules: that each is built from the source that is there."""

from __future__ import annotations

from pathlib import Path

import fastgw
from tests.support.table import for_each

PACKAGE = Path(fastgw.__file__).parent
TYPED = [path.with_suffix(".py") for path in PACKAGE.rglob("*.pxd") if path.with_suffix(".py").exists()]
"""Modules in Python with their C types beside them."""


@for_each("source", sorted([*PACKAGE.rglob("*.pyx"), *TYPED]))
def test_a_compiled_module_is_not_older_than_its_source(source: Path) -> None:
    (built,) = source.parent.glob(f"{source.stem}.*.so")
    types = source.with_suffix(".pxd")
    for each in (source, types) if types.exists() else (source,):
        assert built.stat().st_mtime >= each.stat().st_mtime, "make setup"
