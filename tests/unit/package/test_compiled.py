"""The compiled modules: that each is built from the source that is there."""

from __future__ import annotations

from pathlib import Path

import fastgw
from tests.support.table import for_each

PACKAGE = Path(fastgw.__file__).parent


@for_each("source", sorted(PACKAGE.rglob("*.pyx")))
def test_a_compiled_module_is_not_older_than_its_source(source: Path) -> None:
    (built,) = source.parent.glob(f"{source.stem}.*.so")
    assert built.stat().st_mtime >= source.stat().st_mtime, "make setup"
