"""Events of AWS Lambda for HTTP requests, in the payload formats 1.0 and 2.0 of API Gateway.

Source: "Create AWS Lambda proxy integrations for HTTP APIs" of the API Gateway developer guide. Accounts and APIs,
which do not exist here, are empty strings.
"""

import re
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

import orjson

from fastgw.exchange import Exchange
from fastgw.forwarded_headers import fields_for_upstream
from fastgw.http.field_names import EXPECT, HOP_BY_HOP
from fastgw.jose import claim_json

MOST_PARAMETERS: Final = 1000
"""Maximum number of query parameters of a request."""
_TEXTS: Final = re.compile(
    rb"text/|application/(?:json|xml|javascript|x-www-form-urlencoded|[a-z0-9.+-]+\+(?:json|xml))", re.IGNORECASE
)
_CODED: Final = b"content-encoding"
_STAGE: Final = "$default"


class TooManyParameters(ValueError):
    """A query with more than `MOST_PARAMETERS` parameters."""


class EventRequest(NamedTuple):
    """Request of a client in the terms of events."""

    method: str
    path: str
    query: str
    protocol: str
    host: str
    client_ip: str
    request_id: str
    headers: list[tuple[str, str]]
    """Names in lower case and values, in order."""
    parameters: Mapping[str, str]
    claims: Mapping[str, Any]
    begun_date: float
    """Seconds since the epoch."""


def read_request(exchange: Exchange) -> EventRequest:
    """Return the request as a function gets it: with the changes of filters, and with `X-Forwarded-For` and its kind
    as for an upstream.
    """
    added, dropped, _ = exchange.changes_for_others
    head, query = exchange.head, exchange.query_shown
    left_out, forwarded = fields_for_upstream(None, exchange.peer, head, exchange.client_ip, dropped)
    headers = [
        (name.lower().decode("latin-1"), value.decode("latin-1"))
        for name, value in exchange.client_lines(left_out | HOP_BY_HOP | EXPECT)
    ]
    for line in (forwarded + added).split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            headers.append((name.lower().decode("latin-1"), value.strip(b" \t").decode("latin-1")))
    return EventRequest(
        exchange.method.decode("ascii"),
        exchange.path.decode("latin-1"),
        "" if query is None else query.decode("latin-1"),
        "HTTP/2.0" if head.version == 20 else "HTTP/1.1",
        exchange.host.decode("latin-1"),
        exchange.client_ip,
        exchange.request_id.decode("latin-1"),
        headers,
        {name: unquote_to_bytes(value).decode(errors="replace") for name, value in exchange.params.items()},
        exchange.claims,
        time.time(),
    )


def write_event(request: EventRequest, body: bytes, version: str) -> bytes:
    """Return the event. `version`: of the payload format. Raises `TooManyParameters`. May run in a thread."""
    event = _event_2(request) if version == "2.0" else _event_1(request)
    is_text, text = _body_text(request, body)
    if body or version == "1.0":
        event["body"] = text if body else None
    event["isBase64Encoded"] = bool(body) and not is_text
    return orjson.dumps(event, default=str)


def _event_2(request: EventRequest) -> dict[str, Any]:
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in request.headers:
        if name == "cookie":
            cookies += (each.strip() for each in value.split(";") if each.strip())
        else:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    query: dict[str, str] = {}
    for name, value in _pairs(request.query):
        query[name] = f"{query[name]},{value}" if name in query else value
    context: dict[str, Any] = {
        **_context(request),
        "http": {
            "method": request.method,
            "path": request.path,
            "protocol": request.protocol,
            "sourceIp": request.client_ip,
            "userAgent": headers.get("user-agent", ""),
        },
        "routeKey": _STAGE,
        "time": _time_of(request),
        "timeEpoch": int(request.begun_date * 1000),
    }
    if request.claims:
        context["authorizer"] = {"jwt": {"claims": _claims(request), "scopes": None}}
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": _STAGE,
        "rawPath": request.path,
        "rawQueryString": request.query,
        "headers": headers,
        "requestContext": context,
    }
    if cookies:
        event["cookies"] = cookies
    if query:
        event["queryStringParameters"] = query
    if request.parameters:
        event["pathParameters"] = dict(request.parameters)
    return event


def _event_1(request: EventRequest) -> dict[str, Any]:
    headers: dict[str, list[str]] = {}
    for name, value in request.headers:
        headers.setdefault(name, []).append(value)
    query: dict[str, list[str]] = {}
    for name, value in _pairs(request.query):
        query.setdefault(name, []).append(value)
    context: dict[str, Any] = {
        **_context(request),
        "extendedRequestId": request.request_id,
        "httpMethod": request.method,
        "identity": {"sourceIp": request.client_ip, "userAgent": headers.get("user-agent", [""])[-1]},
        "path": request.path,
        "protocol": request.protocol,
        "requestTime": _time_of(request),
        "requestTimeEpoch": int(request.begun_date * 1000),
        "resourceId": "",
        "resourcePath": request.path,
    }
    if request.claims:
        context["authorizer"] = {"claims": _claims(request)}
    return {
        "version": "1.0",
        "resource": request.path,
        "path": request.path,
        "httpMethod": request.method,
        "headers": {name: values[-1] for name, values in headers.items()},
        "multiValueHeaders": headers,
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": query or None,
        "pathParameters": dict(request.parameters) or None,
        "stageVariables": None,
        "requestContext": context,
    }


def _context(request: EventRequest) -> dict[str, Any]:
    return {
        "accountId": "",
        "apiId": "",
        "domainName": request.host,
        "domainPrefix": request.host.partition(".")[0],
        "requestId": request.request_id,
        "stage": _STAGE,
    }


def _claims(request: EventRequest) -> orjson.Fragment:
    return orjson.Fragment(claim_json(dict(request.claims)))


def _time_of(request: EventRequest) -> str:
    return time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(request.begun_date))


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, errors="replace", max_num_fields=MOST_PARAMETERS)
    except ValueError as error:
        raise TooManyParameters(f"more than {MOST_PARAMETERS} query parameters") from error


def _body_text(request: EventRequest, body: bytes) -> tuple[bool, str]:
    """Return whether the body is sent as a text, and the text; otherwise it is in Base64."""
    of_type = next((value for name, value in request.headers if name == "content-type"), "")
    coded = any(name.encode() == _CODED for name, _ in request.headers)
    if not coded and _TEXTS.match(of_type.encode("latin-1")):
        try:
            return True, body.decode()
        except UnicodeDecodeError:
            pass
    return False, b64encode(body).decode("ascii")
