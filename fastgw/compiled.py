"""Compiled methods of classes: each replaces a method in plain Python that handles the same cases at a higher cost."""

from collections.abc import Callable
from typing import Any, Final

replaced: Final[dict[tuple[type, str], Callable[..., Any]]] = {}
"""Class and name of each method that was replaced -> the method of the reference."""


def replace(owner: type, *methods: Callable[..., Any]) -> None:
    """Replace methods of a class by the functions of its compiled module that have their names."""
    for method in methods:
        replaced[owner, method.__name__] = getattr(owner, method.__name__)
        setattr(owner, method.__name__, method)
