"""Secrets that a test plants, and everything where they must not turn up."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from fastgw.explain import as_text, explain
from fastgw.gateway.tables import Gateway
from fastgw.observe import Record
from fastgw.observe.access_log.formats import FORMATS, masker


def reported(records: list[Record], gateway: Gateway) -> str:
    """All lines of all formats that these requests leave in access logs."""
    (log, *_) = gateway.config.access_logs
    return b"".join(line(record, masker(log.redact)) for record in records for line in FORMATS.values()).decode()


def explained(gateway: Gateway, url: str, *lines: str) -> str:
    """What `fastgw explain` says of a request, for people and for programs."""
    found = explain(gateway, "GET", url, lines)
    return as_text(found) + msgspec.json.encode(found).decode() + repr(found)


def shown(value: Any) -> str:
    """Whatever `repr` shows of a value and of what is in it."""
    inner = [getattr(value, each.name) for each in fields(value)] if is_dataclass(value) else []
    return repr(value) + "".join(map(repr, inner))
