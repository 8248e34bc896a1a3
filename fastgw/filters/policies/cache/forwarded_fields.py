"""Headers of a request as the upstream gets them."""

from typing import final

from fastgw.exchange import Exchange
from fastgw.http.fields import Fields


@final
class ForwardedFields:
    """Request headers as the upstream gets them: with the changes of filters. For the values that `Vary` names."""

    __slots__ = ("_added", "_exchange")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._added: Fields | None = None

    def first(self, name: bytes) -> bytes | None:
        values = self.values(name)
        return values[0] if values else None

    def values(self, name: bytes) -> list[bytes]:
        exchange = self._exchange
        values = [] if name in exchange.request_dropped else exchange.head.values(name)
        if exchange.request_added:
            if self._added is None:
                self._added = Fields.parse(exchange.request_added, 0)
            values += self._added.get_all(name)
        return values
