"""size: limit the size of request bodies."""

from fastgw.config.base.value_types import Size as Bytes
from fastgw.filters.api import Env, Exchange, Fault, Filter, Hooks, Outcome, Phase, Reply


class Size(Filter, name="size", phase=Phase.VALIDATE):
    """Limit the size of the request body. A longer one is answered 413: at once if its length is declared, else as soon
    as the limit is exceeded."""

    body: Bytes
    """Maximum size of the request body, in bytes."""

    def build(self, env: Env) -> Hooks:
        most = self.body

        def request(exchange: Exchange) -> Outcome:
            return exchange.refuse(Fault.BODY_TOO_LARGE) if (exchange.body_length or 0) > most else None

        def request_body(exchange: Exchange, payload: bytes) -> Reply | None:
            assert exchange.request_body is not None
            return exchange.refuse(Fault.BODY_TOO_LARGE) if exchange.request_body.bytes > most else None

        return Hooks(request=request, request_body=request_body)
