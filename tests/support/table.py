"""A table as one test: a loop over its rows, where `pytest.mark.parametrize` makes a test of each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def for_each(names: str | Sequence[str], rows: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a function for each row, as one test that tries all of them and reports those that fail.

    `names`, `rows`: as those of `parametrize`, but for marks. For tests that take microseconds and need no fixture of
    their own: a test costs 1.5 ms of processor time to collect, set up and report.
    """
    wanted = [name.strip() for name in names.split(",")] if isinstance(names, str) else [*names]
    table = [_values(row, len(wanted)) for row in rows]
    assert table, "a table without rows tests nothing"

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def loop(**given: Any) -> None:
            failed: list[BaseException] = []
            for values in table:
                row = dict(zip(wanted, values, strict=True))
                try:
                    test(**given, **row)
                except (Exception, pytest.fail.Exception, BaseExceptionGroup) as error:
                    error.add_note(f"in the row {row!r}")
                    failed.append(error)
            if failed:
                raise BaseExceptionGroup(f"{len(failed)} of {len(table)} rows", failed)

        signature = inspect.signature(test)
        rest = [parameter for name, parameter in signature.parameters.items() if name not in wanted]
        loop.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
        return loop

    return decorate


def _values(row: Any, count: int) -> Sequence[Any]:
    if isinstance(row, ParameterSet):
        assert not row.marks, "a row that is to have a mark is a test of its own: parametrize"
        return row.values
    return (row,) if count == 1 else row
