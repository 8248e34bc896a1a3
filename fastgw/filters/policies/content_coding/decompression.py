"""Decompression of request bodies.

Imported only where the filter is configured: it needs `fastgw[compression]`.
"""

from collections.abc import Iterable
from typing import Final, final

from fastgw.exchange.body_stages import BodyRefused
from fastgw.filters.api import BodyStage, Exchange, Fault, Outcome
from fastgw.http.content_coding.content_encoding import codings_in
from fastgw.http.content_coding.decompressors import Decompressor, Excessive, Undecodable
from fastgw.observe.metrics.families import CodingOperation, ContentCoding

_NAME: Final = b"content-encoding"
_DROPPED: Final = frozenset((_NAME,))


def codings_of(exchange: Exchange) -> list[bytes]:
    """Return the content codings of the request as the client sent it, in the order in which they were applied; none
    for a request without a body.
    """
    if exchange.body_length == 0:
        return []
    head = exchange.head
    values = exchange.values(_NAME) if head.edited() is None else head.received_fields().get_all(_NAME)
    return codings_in(values)


@final
class Decompression:
    """Compiled settings."""

    def __init__(self, encodings: Iterable[str], max_bytes: int, max_ratio: int) -> None:
        self._codings = tuple(each.encode() for each in encodings)
        self._max_bytes, self._max_ratio = max_bytes, max_ratio

    def request(self, exchange: Exchange) -> Outcome:
        """Refuse codings that are not accepted, and forward the request without its `Content-Encoding`."""
        codings = codings_of(exchange)
        if not codings:
            return None
        if len(codings) > 1 or codings[0] not in self._codings:
            return exchange.refuse(
                Fault.UNSUPPORTED_MEDIA_TYPE,
                "The content coding of the request body is not supported here.",
                [(b"Accept-Encoding", b", ".join(self._codings))],
                why=f"{len(codings)} content codings" if len(codings) > 1 else "unknown content coding",
            )
        exchange.drop_everywhere(_DROPPED)
        return None

    def stage_for(self, exchange: Exchange) -> BodyStage | None:
        codings = codings_of(exchange)
        return _Stage(exchange, codings[0], self._max_bytes, self._max_ratio) if codings else None

    def explain(self, exchange: Exchange) -> str:
        codings = codings_of(exchange)
        if not codings:
            return "the body has no content coding"
        return f"the body is decompressed ({codings[0].decode()}), to at most {self._max_bytes} bytes"


@final
class _Stage(BodyStage):
    """Stage that decompresses the body of one request."""

    def __init__(self, exchange: Exchange, coding: bytes, max_bytes: int, max_ratio: int) -> None:
        self._exchange: Exchange | None = exchange
        self._coding = coding
        self._decompressor = Decompressor(coding, max_bytes, max_ratio)
        self._bytes_in = self._bytes_out = 0

    def feed(self, payload: bytes) -> bytes:
        self._bytes_in += len(payload)
        try:
            out = self._decompressor.feed(payload)
        except Excessive as error:
            raise self._refused(Fault.BODY_TOO_LARGE, "The request body is too large.", error) from error
        except Undecodable as error:
            raise self._undecodable(error) from error
        self._bytes_out += len(out)
        return out

    def end(self) -> bytes:
        try:
            self._decompressor.end()
        except Undecodable as error:
            raise self._undecodable(error) from error
        self.cancel()
        return b""

    def cancel(self) -> None:
        """Count the bytes."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self._bytes_in:
            coding = ContentCoding.named(self._coding)
            exchange.client.counts.count_content_coding(
                exchange, CodingOperation.DECOMPRESS, coding, self._bytes_in, self._bytes_out
            )

    def _undecodable(self, error: Undecodable) -> BodyRefused:
        return self._refused(Fault.BAD_REQUEST, f"The request body is not valid {self._coding.decode()} data.", error)

    def _refused(self, fault: Fault, detail: str, error: Exception) -> BodyRefused:
        assert self._exchange is not None
        return BodyRefused(self._exchange.refuse(fault, detail, why=str(error)))
