"""Headers of a request as the upstream gets them."""

from typing import final

from fastgw.exchange import Exchange
from fastgw.exchange.exchange import changed_values


@final
class ForwardedFields:
    """Request headers as the upstream gets them: with the changes of filters. For the values that `Vary` names."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def first(self, name: bytes) -> bytes | None:
        values = self.values(name)
        return values[0] if values else None

    def values(self, name: bytes) -> list[bytes]:
        exchange = self._exchange
        return changed_values(exchange.head, name, exchange.request_added, exchange.request_dropped)
