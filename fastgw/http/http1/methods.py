"""Methods of requests that are accepted: those of llhttp, and extension methods that look like methods."""

import re
from functools import lru_cache
from typing import Final

from httptools import HttpRequestParser

from fastgw.http.http1.second_parser import SecondParser
from fastgw.http.malformed import Malformed

_COMMON: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
_EXTENSION: Final = re.compile(rb"(?!PRI\Z)[A-Z][A-Z0-9_-]*")
"""Methods that llhttp need not know, such as BAN, in the characters that nginx accepts. In lower case they would be
another method to the gateway, and the same one to some services; PRI begins HTTP/2.
"""
_STAND_IN: Final = b"POST"


def method_for_llhttp(method: bytes) -> bytes:
    """Return the method by which llhttp reads a request: messages with a method that it does not know have the same
    framing as others. Raises `Malformed` (501) if requests with this method are rejected. `method`: a token.
    """
    return method if method in _COMMON else _method_for_llhttp(method)


@lru_cache(maxsize=64)
def _method_for_llhttp(method: bytes) -> bytes:
    try:
        SecondParser(HttpRequestParser).head(b"%b / HTTP/1.1\r\n\r\n" % method, None)
    except Malformed:
        if _EXTENSION.fullmatch(method) is None:
            raise Malformed("The method is unknown; methods are case-sensitive.", 501) from None
        return _STAND_IN
    return method


def knows_method(method: str) -> bool:
    """Whether requests with this method are accepted. `method`: a token."""
    try:
        method_for_llhttp(method.encode())
    except Malformed:
        return False
    return True
