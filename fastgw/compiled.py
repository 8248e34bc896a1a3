"""Compiled modules: each replaces a reference module in plain Python, at a lower cost.

A compiled module is beside its reference. The reference defines the behaviour, handles the cases that the compiled
module does not, and does all the work if fastgw was installed without a compiler.
"""

import os
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

PURE: Final = bool(os.environ.get("FASTGW_PURE_PYTHON"))
"""Environment variable: if set, to any value, no compiled modules are used."""

_IS_TWIN: Final = re.compile(r"fastgw(?:\.\w+)*\._\w+").fullmatch
in_use: dict[str, bool] = {}
"""Full name of each compiled module that was requested -> whether it is in use."""
replaced: dict[tuple[type, str], Callable[..., Any]] = {}
"""Class and name of each method that was replaced -> the method of the reference."""


def twin(name: str) -> Any | None:
    """Return the compiled module of this full name; None if it, or one that it imports, is missing or disabled."""
    module = None
    if not PURE:
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if not _IS_TWIN(error.name or ""):
                raise
    in_use[name] = module is not None
    return module


def replace(owner: type, *methods: Callable[..., Any]) -> None:
    """Replace methods of a class by the functions of its compiled module that have their names."""
    for method in methods:
        replaced[owner, method.__name__] = getattr(owner, method.__name__)
        setattr(owner, method.__name__, method)


def describe() -> str:
    """Describe the modules in use, for people. Modules that were not requested yet are left out."""
    missing = [name for name, used in in_use.items() if not used]
    why = "FASTGW_PURE_PYTHON is set" if PURE else "no compiled modules: installed without a compiler"
    if len(missing) == len(in_use):
        return f"plain Python ({why})"
    return "compiled" + (f", but for {', '.join(missing)} ({why})" if missing else "")


def warning() -> str | None:
    """Return the warning that modules are not compiled, unless that was requested."""
    if PURE or all(in_use.values()):
        return None
    if any(in_use.values()):
        return f"running without some compiled modules: {describe()}"
    return f"NOT COMPILED: each request costs two to four times as much CPU: {describe()}"
