"""The compiled module of `exchange.new_exchange`."""

from typing import Any

from fastgw.exchange.chain import Chain
from fastgw.exchange.exchange import ClientSide, Exchange
from fastgw.http.messages import RequestHead

class Maker:
    def __init__(self, exchange_class: type[Exchange]) -> None: ...
    def create_exchange(
        self, head: RequestHead, client: ClientSide, listener: Any, peer: Any, chain: Chain
    ) -> Exchange: ...
