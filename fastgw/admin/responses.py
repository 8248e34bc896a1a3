"""Responses of the admin API, with headers that keep browsers from any other use of them."""

from collections.abc import Mapping
from email.utils import formatdate
from typing import Any, Final

import msgspec
from starlette.responses import Response

from fastgw.admin.node_interface import JSON, PROBLEM, Refusal
from fastgw.http.reason_phrases import PHRASES

NOTHING_LOADED: Final = "default-src 'none'; frame-ancestors 'none'"
"""Content security policy of responses other than the page."""
SAFE: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def answer(body: bytes, content_type: str, status: int = 200, policy: str = NOTHING_LOADED, **fields: str) -> Response:
    """Return a response. `policy`: its Content-Security-Policy. `fields`: further headers, with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    headers = {"Date": formatdate(usegmt=True), **SAFE, "Content-Security-Policy": policy, **named}
    return Response(body, status, {**headers, "Content-Type": content_type})


def json_response(what: Any, status: int = 200, **fields: str) -> Response:
    """Return a struct as a JSON response."""
    return answer(msgspec.json.encode(what), JSON, status, **fields)


def refused(status: int, detail: str = "", **fields: str) -> Response:
    """Return a problem response (RFC 9457) with a status code and a detail."""
    refusal = Refusal(title=PHRASES[status], status=status, detail=detail)
    return answer(msgspec.json.encode(refusal), PROBLEM, status, **fields)
