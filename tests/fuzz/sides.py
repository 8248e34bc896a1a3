"""What is compared: the compiled modules, and the references in plain Python that they leave rare cases to."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from fastgw.config.base import route_patterns
from fastgw.routing import table


class Side(NamedTuple):
    patterns: ModuleType
    routing: Any


COMPILED = Side(route_patterns, table)
REFERENCE = Side(route_patterns, SimpleNamespace(Conditions=table.Conditions, Router=table._Router))
