"""Operation of the admin API, with all data to serve and to describe it."""

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
    """Response types by status: the struct of the JSON; for other responses a content type as text, or several of
    them.
    """
    takes: Mapping[str, type] = field(default_factory=dict)
    """Body structs by content type; `bytes` = the body is not decoded."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Boolean query parameters, with descriptions."""
    asks: Mapping[str, str] = field(default_factory=dict)
    """Text query parameters, with descriptions."""
    reads: bool = False
    """Whether it changes nothing, although its method could: it is not part of the audit log."""
    repeats: Mapping[str, str] = field(default_factory=dict)
    """Query parameters that may be repeated, with descriptions."""
    consumes: bool = False
    """Whether a GET removes what it returns, so that HEAD is not allowed."""
