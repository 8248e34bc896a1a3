"""Responses of functions: the JSON that a function of AWS Lambda returns for an HTTP request.

Without `statusCode` the result itself is the body, as with payload format 2.0 of API Gateway.
"""

import binascii
from base64 import b64decode
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson

from fastgw.exchange.reply import OWN_WITHOUT_BODY
from fastgw.http.field_names import HOP_BY_HOP, WRITTEN_HERE
from fastgw.http.grammar import IS_TOKEN, IS_VALUE

_JSON: Final = (b"Content-Type", b"application/json")
_LEFT_OUT: Final = HOP_BY_HOP | WRITTEN_HERE | {b"content-length", b"date"}
_SINGULAR: Final = frozenset(
    b"age content-disposition content-location content-range content-type etag expires last-modified location "
    b"retry-after".split()
)
"""Headers of responses that are no lists, so that one line is valid (RFC 9110 section 5.3)."""
MOST_FIELDS: Final = 1000
"""Maximum number of headers of a response."""
MOST_HEAD: Final = 64 * 1024
"""Maximum bytes of all headers, as for upstreams: clients refuse longer ones."""


class UnusableResponse(ValueError):
    """A response that cannot be sent to a client. The text is for the log, and has nothing of the response."""


class FunctionResponse(NamedTuple):
    """Response for the client."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes


def parse_response(payload: bytes, infers: bool) -> FunctionResponse:
    """Return the response that a function has returned. `infers`: whether a result without `statusCode` is a body.

    Raises `UnusableResponse`. May run in a thread.
    """
    try:
        result = orjson.loads(payload) if payload else None
    except ValueError:
        raise UnusableResponse("the response of the function is not JSON") from None
    if not isinstance(result, dict) or "statusCode" not in result:
        if not infers:
            raise UnusableResponse("the response of the function has no `statusCode`")
        return FunctionResponse(200, [_JSON], result.encode() if isinstance(result, str) else payload)
    head = parse_head(result)
    body = result.get("body")
    if body is None:
        content = b""
    elif not isinstance(body, str):
        raise UnusableResponse("the `body` of the function's response is no string")
    elif result.get("isBase64Encoded") is True:
        try:
            content = b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise UnusableResponse("the `body` of the function's response is not Base64") from None
    else:
        content = _encoded(body)
    return head._replace(body=b"" if head.status in OWN_WITHOUT_BODY else content)


def parse_head(result: dict[str, Any]) -> FunctionResponse:
    """Return status and headers, without a body. Raises `UnusableResponse`."""
    status = result.get("statusCode", 200)
    if isinstance(status, str) and status.isascii() and status.isdigit() and len(status) == 3:
        status = int(status)
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise UnusableResponse("the `statusCode` of the function's response is not from 200 to 599")
    fields = _singular([*_fields(result)])
    if len(fields) > MOST_FIELDS:
        raise UnusableResponse(f"the function's response has more than {MOST_FIELDS} headers")
    if sum(len(name) + len(value) for name, value in fields) > MOST_HEAD:
        raise UnusableResponse(f"the headers of the function's response have more than {MOST_HEAD} bytes")
    if status not in OWN_WITHOUT_BODY and not any(name.lower() == b"content-type" for name, _ in fields):
        fields.append(_JSON)
    return FunctionResponse(status, fields, b"")


def _fields(result: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers: those of `multiValueHeaders` in place of the same name in `headers`, then the cookies."""
    several = _object(result, "multiValueHeaders")
    names = {name.lower() for name in several}
    for name, value in _object(result, "headers").items():
        if name.lower() not in names:
            yield from _field(name, value)
    for name, values in several.items():
        if not isinstance(values, list):
            raise UnusableResponse("a value of `multiValueHeaders` is no list")
        for value in values:
            yield from _field(name, value)
    cookies = result.get("cookies") or []
    if not isinstance(cookies, list):
        raise UnusableResponse("`cookies` of the function's response is no list")
    for cookie in cookies:
        yield from _field("Set-Cookie", cookie)


def _singular(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers with the last one of each of `_SINGULAR`: in JSON `Content-Type` and `content-type` are two
    names, and parsers of HTTP differ in which of two lines they use.
    """
    last = {folded: index for index, (name, _) in enumerate(fields) if (folded := name.lower()) in _SINGULAR}
    return [line for index, line in enumerate(fields) if last.get(line[0].lower(), index) == index]


def _object(result: dict[str, Any], name: str) -> dict[str, Any]:
    value = result.get(name) or {}
    if not isinstance(value, dict):
        raise UnusableResponse(f"`{name}` of the function's response is no object")
    return value


def _field(name: str, value: Any) -> Iterator[tuple[bytes, bytes]]:
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str):
        raise UnusableResponse("a header of the function's response is no string")
    key, content = _encoded(name), _encoded(value)
    if not IS_TOKEN(key) or not IS_VALUE(content):
        raise UnusableResponse("a header of the function's response is malformed")
    if key.lower() not in _LEFT_OUT:
        yield key, content.strip(b" \t")


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UnusableResponse("the response of the function is not UTF-8") from None
