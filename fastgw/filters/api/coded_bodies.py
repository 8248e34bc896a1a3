"""Request bodies with a content coding (RFC 9110 section 8.4), for filters that read the content itself."""

from typing import Final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply

CODING: Final = b"content-encoding"


def is_coded(values: list[bytes]) -> bool:
    """Whether the values of `Content-Encoding` name a coding that changes the bytes."""
    return any(value.strip().lower() != b"identity" for value in values)


def refuse_coded_body(exchange: Exchange) -> Reply | None:
    """Return the refusal of a request whose body has a content coding, unless a filter has removed it."""
    if not is_coded(exchange.kept_values(CODING)):
        return None
    detail = "A request body with a content coding is not supported here."
    return exchange.refuse(Fault.UNSUPPORTED_MEDIA_TYPE, detail, [(b"Accept-Encoding", b"identity")])
