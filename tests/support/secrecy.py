"""Secrets planted by a test, and all places where they must not appear."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from fastgw.explain import as_text, explain
from fastgw.gateway.tables import Gateway
from fastgw.observe import Record
from fastgw.observe.access_log.formats import masker
from fastgw.observe.access_log.line_formats import FORMATS


def reported(records: list[Record], gateway: Gateway) -> str:
    """Return the access log lines of these requests in all formats."""
    (log, *_) = gateway.config.access_logs
    return b"".join(line(record, masker(log.redact)) for record in records for line in FORMATS.values()).decode()


def explained(gateway: Gateway, url: str, *lines: str) -> str:
    """Return the output of `fastgw explain` for a request, as text and as JSON."""
    found = explain(gateway, "GET", url, lines)
    return as_text(found) + msgspec.json.encode(found).decode() + repr(found)


def shown(value: Any) -> str:
    """Return the `repr` of a value and of its contents."""
    inner = [getattr(value, each.name) for each in fields(value)] if is_dataclass(value) else []
    return repr(value) + "".join(map(repr, inner))
