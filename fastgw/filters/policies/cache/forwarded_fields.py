"""Headers of a request as the upstream gets them."""

from collections.abc import Sequence

import cython

from fastgw.exchange.exchange import Exchange, changed_values
from fastgw.http.messages import values_of


@cython.cclass
class ForwardedFields:
    """Request headers as the upstream gets them: with the changes of filters. For the values that `Vary` names."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def first(self, name: bytes) -> bytes | None:
        values = self.values(name)
        return values[0] if values else None

    def values(self, name: bytes) -> Sequence[bytes]:
        exchange = self._exchange
        if not exchange.request_added and not exchange.request_dropped:
            return values_of(exchange.head, name)
        return changed_values(exchange.head, name, exchange.request_added, exchange.request_dropped)
