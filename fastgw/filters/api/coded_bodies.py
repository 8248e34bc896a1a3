"""Request bodies with a content coding (RFC 9110 section 8.4), for filters that read the content itself."""

from typing import Final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply
from fastgw.http.content_coding.content_encoding import codings_in

CODING: Final = b"content-encoding"


def is_coded(exchange: Exchange) -> bool:
    """Whether the request body has a content coding, which no filter has removed."""
    values = exchange.kept_values(CODING)
    return bool(values) and bool(codings_in(values))


def refuse_coded_body(exchange: Exchange) -> Reply | None:
    """Return the refusal of a request whose body has a content coding; None: it has none."""
    if not is_coded(exchange):
        return None
    detail = "A request body with a content coding is not supported here."
    return exchange.refuse(Fault.UNSUPPORTED_MEDIA_TYPE, detail, [(b"Accept-Encoding", b"identity")])
