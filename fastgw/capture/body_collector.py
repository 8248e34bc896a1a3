"""Bodies of exchanges that are observed: the beginning of each, collected while it passes.

Rule 1: bodies are bounded, each by the collector's `most`, and all that are being collected by `MOST_HELD`. Rule 2: the
stages only read; an exchange is the same with them and without them.
"""

from typing import Final, final

from fastgw.exchange import Exchange
from fastgw.exchange.body_stages import BodyStage
from fastgw.exchange.reply import Reply

MOST_HELD: Final = 16 * 1024 * 1024
"""Maximum bytes of bodies that a collector holds; further ones are cut off."""


@final
class CollectedBody(BodyStage):
    """Beginning of a body. A stage that changes nothing."""

    keeps_length = True
    changed = False

    def __init__(self, collector: "BodyCollector") -> None:
        self._collector = collector
        self.kept = bytearray()
        self.bytes = 0
        self.is_complete = False

    def feed(self, payload: bytes) -> bytes:
        self.keep_payload(payload)
        return payload

    def keep_payload(self, payload: bytes) -> None:
        self.bytes += len(payload)
        collector = self._collector
        taken = min(len(payload), collector.most - len(self.kept), MOST_HELD - collector.held)
        if taken > 0:
            self.kept += payload[:taken]
            collector.held += taken

    def end(self) -> bytes:
        self.is_complete = self.bytes == len(self.kept)
        return b""


@final
class CollectedExchange:
    """Exchange whose bodies are collected. `head`: the head of its request, as it was received."""

    __slots__ = ("head", "request", "response")

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.request: CollectedBody | None = None
        self.response: CollectedBody | None = None


@final
class BodyCollector:
    """Collector of one observer. Its methods are steps of the observer's filter. `most`: maximum bytes of each body."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        """Bytes of bodies that are held."""
        self._open: dict[Exchange, CollectedExchange] = {}

    def __repr__(self) -> str:
        return f"<BodyCollector {len(self._open)} open>"

    def begin_exchange(self, exchange: Exchange) -> None:
        """Collect the bodies of an exchange, until `end_exchange`."""
        self._open[exchange] = CollectedExchange(getattr(exchange.head, "raw", b""))

    def end_exchange(self, exchange: Exchange) -> CollectedExchange | None:
        """Return what was collected; None: the exchange was not begun here."""
        collected = self._open.pop(exchange, None)
        if collected is not None:
            self._forget(collected.request)
            self._forget(collected.response)
        return collected

    def request_body(self, exchange: Exchange) -> BodyStage | None:
        collected = self._open.get(exchange)
        if collected is None:
            return None
        collected.request = CollectedBody(self)
        return collected.request

    def response_body(self, exchange: Exchange) -> BodyStage | None:
        collected = self._open.get(exchange)
        if collected is None:
            return None
        self._forget(collected.response)  # of a response that was replaced
        collected.response = CollectedBody(self)
        return collected.response

    def keep_reply(self, exchange: Exchange, reply: Reply) -> Reply:
        """Keep the body of a fault, for which body hooks do not run."""
        collected = self._open.get(exchange)
        if collected is not None and reply.fault is not None and isinstance(reply.body, bytes):
            self._forget(collected.response)
            collected.response = CollectedBody(self)
            collected.response.feed(reply.body)
            collected.response.end()
        return reply

    def _forget(self, body: CollectedBody | None) -> None:
        if body is not None:
            self.held -= len(body.kept)
