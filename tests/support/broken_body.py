"""A request's body that cannot take a further piece: a defect of the gateway."""

from __future__ import annotations

from typing import Any

from fastgw.exchange import Exchange


class BrokenStages:
    """Stages of a body, which pass nothing on."""

    changes = changed = holds = False
    complete = keeps_length = True

    def feed(self, payload: bytes, is_last: bool) -> bytes:
        raise ZeroDivisionError("a defect")

    def end(self, when_done: Any) -> bytes:
        return b""

    def release_held(self) -> None: ...
    def cancel(self) -> None: ...


def break_body(exchange: Exchange) -> None:
    """Let the next piece of the body of a request raise."""
    assert exchange.request_body is not None
    exchange.request_body._stages = BrokenStages()
