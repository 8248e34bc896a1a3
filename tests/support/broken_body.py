"""A request's body that cannot take a further piece: a defect of the gateway."""

from __future__ import annotations

from typing import Any

from fastgw.exchange import Exchange


class BrokenBody:
    """Stands before the relay of a body."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def feed(self, payload: bytes) -> None:
        raise ZeroDivisionError("a defect")

    last = feed


def break_body(exchange: Exchange) -> None:
    """Let the next piece of the body of a request raise."""
    broken: Any = BrokenBody(exchange.request_body)
    exchange.request_body = broken
