"""Operation of the admin API: enough to serve it, and to describe it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fastgw.admin.node_interface import Node

Act = Callable[[Node, Request], Awaitable[Response]]


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    act: Act
    answers: Mapping[int, Any]
    """Response types by status: the type of the JSON, or as text the content type of what is none."""
    takes: Mapping[str, type] = field(default_factory=dict)
    """Body structs by content type; `bytes` = as it comes."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the query that are `true` or `false`, and what they mean."""
    asks: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the query that are text, and what they mean."""
    repeats: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the query that may be repeated, with their meanings."""
