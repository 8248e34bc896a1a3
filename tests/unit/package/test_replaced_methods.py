"""Methods that compiled functions replace: they take what the reference takes, and no instance makes them unsafe."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import fastgw.runtime.run  # noqa: F401  # imports all modules that have a twin
from fastgw.compiled import replaced

Replaced = tuple[type, str]


def name_of(case: Any) -> str:
    return f"{case[0].__name__}.{case[1]}"


def compiled_of(case: Replaced) -> Callable[..., Any]:
    owner, name = case
    found: Callable[..., Any] = owner.__dict__[name]
    return found


def arguments_of(case: Replaced) -> list[Any]:
    """An argument for each parameter without a default: bytes, which are accepted where a type is declared."""
    _, *parameters = inspect.signature(replaced[case]).parameters.values()
    return [b"" for each in parameters if each.default is inspect.Parameter.empty]


def raised_by(function: Callable[..., Any], *arguments: Any) -> type[Exception] | None:
    try:
        function(*arguments)
    except Exception as error:
        return type(error)
    return None


def test_hot_methods_are_replaced() -> None:
    names = {name_of(case) for case in replaced}
    assert {"ComposeAction.begin"} <= names


@pytest.mark.parametrize("case", replaced, ids=name_of)
def test_it_has_the_parameters_of_the_reference(case: Replaced) -> None:
    assert compiled_of(case) is not replaced[case]
    mine, reference = inspect.signature(compiled_of(case)), inspect.signature(replaced[case])
    assert [(each.name, each.default) for each in mine.parameters.values()] == [
        (each.name, each.default) for each in reference.parameters.values()
    ]


@pytest.mark.parametrize("case", replaced, ids=name_of)
def test_an_instance_without_attributes_is_refused(case: Replaced) -> None:
    """It is not the end of the process: nothing is read from a slot that is not set."""
    owner, name = case
    raised = raised_by(compiled_of(case), owner.__new__(owner), *arguments_of(case))
    assert raised in ((None,) if name in ("forget", "take_head") else (AttributeError, TypeError))


@pytest.mark.parametrize("case", replaced, ids=name_of)
def test_an_object_of_another_class_raises(case: Replaced) -> None:
    class Other:
        __slots__ = ("a", "b")

    for other in (Other(), object(), None, 5, b"bytes", [], dict.fromkeys("ab")):
        assert raised_by(compiled_of(case), other, *arguments_of(case)) in (AttributeError, TypeError)
