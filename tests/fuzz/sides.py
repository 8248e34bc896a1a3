"""fastgw twice in one process."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType


@dataclass(frozen=True)
class Side:
    """The modules behind which a twin may stand."""

    frame_reader: ModuleType
    framing: ModuleType
    malformed: ModuleType
    observe: ModuleType
    patterns: ModuleType
    render: ModuleType
    routing: ModuleType


MODULES = {
    "frame_reader": "fastgw.http.websocket.frame_reader",
    "framing": "fastgw.http.http1.parser",
    "malformed": "fastgw.http.malformed",
    "observe": "fastgw.observe",
    "patterns": "fastgw.config.base.route_patterns",
    "render": "fastgw.http.http1.serializer",
    "routing": "fastgw.routing.table",
}


def as_this_process_has_it() -> Side:
    """With the compiled twins, unless FASTGW_PURE_PYTHON is set."""
    return Side(**{name: import_module(module) for name, module in MODULES.items()})


def in_plain_python() -> Side:
    """The reference: modules of its own beside those that the process has. No twin is loaded for it."""
    kept = _taken_out()
    wanted = os.environ.get("FASTGW_PURE_PYTHON")
    os.environ["FASTGW_PURE_PYTHON"] = "1"
    try:
        return as_this_process_has_it()
    finally:
        if wanted is None:
            del os.environ["FASTGW_PURE_PYTHON"]
        else:
            os.environ["FASTGW_PURE_PYTHON"] = wanted
        _taken_out()
        sys.modules.update(kept)


def _taken_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "fastgw"]
    return {name: sys.modules.pop(name) for name in names}
