"""What is compared: the compiled modules, and the references in plain Python that they leave rare cases to."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from fastgw import observe
from fastgw.config.base import route_patterns
from fastgw.http import malformed
from fastgw.http.http1 import parser, parser_reference, serializer, serializer_reference
from fastgw.http.websocket import frame_reader, frames
from fastgw.observe import observer
from fastgw.observe.access_log.line_queue import LineQueue
from fastgw.routing import table

PLAIN_RECORDING = SimpleNamespace(Recorder=lambda recorder: recorder, LineQueue=LineQueue)
"""In place of `observer.compiled`."""


class Side(NamedTuple):
    frame_reader: ModuleType
    framing: ModuleType
    malformed: ModuleType
    observe: Any
    patterns: ModuleType
    render: ModuleType
    routing: Any


def _plain_observer(**settings: Any) -> observer.Observer:
    compiled = observer.compiled
    observer.compiled = PLAIN_RECORDING  # type: ignore[assignment]
    try:
        return observer.Observer(**settings)
    finally:
        observer.compiled = compiled


COMPILED = Side(frame_reader, parser, malformed, observe, route_patterns, serializer, table)
REFERENCE = Side(
    frames,
    parser_reference,
    malformed,
    SimpleNamespace(Series=observe.Series, Observer=_plain_observer),
    route_patterns,
    serializer_reference,
    SimpleNamespace(Conditions=table.Conditions, Router=table._Router),
)
