"""Compiled modules: each does what its reference, a module in plain Python, does, for less.

Each stands beside its reference, which says what is right, decides what the compiled one does not know, and does all
the work where fastgw was installed without a compiler.
"""

import os
import re
from importlib import import_module
from typing import Any, Final

PURE: Final = bool(os.environ.get("FASTGW_PURE_PYTHON"))
"""Set in the environment, whatever to: use no compiled modules."""

_IS_TWIN: Final = re.compile(r"fastgw(?:\.\w+)*\._\w+").fullmatch
in_use: dict[str, bool] = {}
"""Name of each compiled module that was asked for -> whether it is there and in use."""


def twin(name: str) -> Any | None:
    """The compiled module of this full name; None where it, or one that it uses, is missing or not wanted."""
    module = None
    if not PURE:
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if not _IS_TWIN(error.name or ""):
                raise
    in_use[name] = module is not None
    return module


def describe() -> str:
    """Describe what is in use, for people; modules that nobody has asked for yet are left out."""
    missing = [name for name, used in in_use.items() if not used]
    why = "FASTGW_PURE_PYTHON is set" if PURE else "no compiled modules: installed without a compiler"
    if len(missing) == len(in_use):
        return f"plain Python ({why})"
    return "compiled" + (f", but for {', '.join(missing)} ({why})" if missing else "")


def warning() -> str | None:
    """Return the warning for who runs it slower than it could be, and has not asked for that."""
    if PURE or all(in_use.values()):
        return None
    if any(in_use.values()):
        return f"running without some compiled modules: {describe()}"
    return f"NOT COMPILED: each request costs two to four times as much CPU: {describe()}"
