"""What is compared: the compiled modules, and the references in plain Python that they leave rare cases to."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from fastgw.config.base import route_patterns
from fastgw.http import malformed
from fastgw.http.http1 import parser, parser_reference, serializer, serializer_reference
from fastgw.http.websocket import frame_reader, frames
from fastgw.routing import table


class Side(NamedTuple):
    frame_reader: ModuleType
    framing: ModuleType
    malformed: ModuleType
    patterns: ModuleType
    render: ModuleType
    routing: Any


COMPILED = Side(frame_reader, parser, malformed, route_patterns, serializer, table)
REFERENCE = Side(
    frames,
    parser_reference,
    malformed,
    route_patterns,
    serializer_reference,
    SimpleNamespace(Conditions=table.Conditions, Router=table._Router),
)
