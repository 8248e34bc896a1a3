"""The action of a route: what answers the exchanges that its filters let pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange


class Action:
    def begin(self, exchange: Exchange) -> None:
        """Answer an exchange, at once or later."""
        raise NotImplementedError
