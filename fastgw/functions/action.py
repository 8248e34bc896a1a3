"""Action of a route with `lambda`, compiled from its settings."""

from hashlib import blake2b
from typing import final
from urllib.parse import quote

from fastgw.config.settings.functions import Lambda
from fastgw.exchange import Exchange
from fastgw.functions.invocation import Invocation
from fastgw.upstream.client.response_action import MARKS, ResponseAction
from fastgw.upstream.forwarding.forward_action import Forward, is_translated
from fastgw.upstream.forwarding.forwarded_request import ForwardSettings
from fastgw.upstream.upstream import Upstream


@final
class LambdaAction(ResponseAction):
    """Invokes a function for each exchange of a route."""

    __slots__ = ("_digest", "forward", "settings", "target", "upstream")

    def __init__(self, settings: Lambda, upstream: Upstream, via: bool) -> None:
        """`via`: of the route, as in `ForwardSettings`."""
        super().__init__(MARKS)
        self.settings, self.upstream = settings, upstream
        self._digest = blake2b(repr(settings).encode(), digest_size=16).digest()
        self.forward = Forward(upstream, ForwardSettings(via=via))
        version, kind = ("2021-11-15", "response-streaming-invocations") if settings.streaming else _WHOLE
        target = f"/{version}/functions/{settings.function}/{kind}"
        if settings.qualifier is not None:
            target += f"?Qualifier={quote(settings.qualifier, safe='')}"
        self.target = target.encode()
        """Path and query of an invocation."""

    def begin(self, exchange: Exchange) -> None:
        if exchange.chain.translate_steps and is_translated(exchange, self):
            return
        exchange.service = invocation = Invocation(self, exchange)
        invocation.start()

    def key_values(self, exchange: Exchange) -> list[bytes | None]:
        """Return what the response depends on (`ResponseAction`): these settings. A function gets the whole request, as
        an upstream does, and says by `Vary` what else it has used.
        """
        return [self._digest]

    def describe(self) -> str:
        """Describe the function, for people."""
        settings = self.settings
        qualifier = "" if settings.qualifier is None else f":{settings.qualifier}"
        how = ", streamed" if settings.streaming else ""
        return f"{settings.function}{qualifier} by {self.upstream.name} (payload format {settings.payload_format}{how})"


_WHOLE = ("2015-03-31", "invocations")
