"""request_id: give every request an identity that client, logs and upstream share."""

import os
import re
from typing import Final

from fastgw.config.values import FieldName
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Outcome, Phase
from fastgw.wire.framing import RequestHead

_ACCEPTABLE: Final = re.compile(rb"[!-~]{1,128}")


class RequestId(Filter, name="request_id", phase=Phase.OBSERVE):
    """Name each request: in the log, to the upstream and in the answer."""

    header: FieldName = "X-Request-Id"
    """The field that carries the name, in the request and in the response."""
    trust_client: bool = True
    """Whether a name that the client sends is kept: up to 128 visible ASCII characters. Else it is replaced."""

    def build(self, env: Env) -> Hooks:
        header = self.header.encode()
        lower = header.lower()
        dropped = frozenset((lower,))
        may_have_twins = lower not in RequestHead.KNOWN
        trust_client = self.trust_client
        prefix = header + b": "

        def request(exchange: Exchange) -> Outcome:
            name = exchange.field(lower)
            if name is not None or may_have_twins:
                exchange.request_dropped |= dropped  # all there are: one goes on
            if name is None or not trust_client or not _ACCEPTABLE.fullmatch(name):
                name = os.urandom(16).hex().encode()
            exchange.request_id = name
            exchange.request_added += prefix + name + b"\r\n"
            return None

        def response(exchange: Exchange) -> None:
            assert exchange.response is not None
            if not exchange.request_id:  # a request that could not be read has got none before
                exchange.request_id = os.urandom(16).hex().encode()
            exchange.response.dropped |= dropped
            exchange.add_response_fields(prefix + exchange.request_id + b"\r\n")

        return Hooks(request=request, response=response)
