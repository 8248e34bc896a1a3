"""Error pages: templates in place of the problem document, for faults of the gateway itself. Without one of their own,
clients that prefer HTML get a plain page.

Responses of upstreams and replies that filters make of their own are not replaced. The status and all headers of the
fault stay (`Retry-After`, `WWW-Authenticate`, `Allow`), only its body is another one. An upgrade gets no page. Neither
does a call of gRPC, gRPC-Web or Connect, whichever of these the route accepts: the library that has sent it reads the
fault in the form of its protocol, or the status.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from fastgw.exchange.reply import Reply, title_of
from fastgw.http.accept import parse_accept, weight_of
from fastgw.http.error_templates import DEFAULT_PAGE, ErrorTemplate
from fastgw.http.grpc.calls import is_rpc
from fastgw.http.messages import RequestHead

if TYPE_CHECKING:
    from fastgw.exchange.exchange import Exchange

_PROBLEM: Final = (b"Content-Type", b"application/problem+json")
_HTML: Final = (b"Content-Type", b"text/html; charset=utf-8")
_JSON: Final = (b"Content-Type", b"application/json")
_VARY: Final = (b"Vary", b"Accept")
_POLICY: Final = (b"Content-Security-Policy", b"default-src 'none'; style-src 'unsafe-inline'")
_MOST_REMEMBERED: Final = 512
"""Maximum length of a value of `Accept` that is remembered."""
_STORED: Final = frozenset((404, 405, 410, 414, 501))
"""Statuses of faults that a cache may store although nothing says so (RFC 9110 section 15.1)."""


class ErrorPage(NamedTuple):
    """Page for one status or class of statuses. None: the problem document is sent in that form."""

    html: ErrorTemplate | None
    json: ErrorTemplate | None

    def replace(self, exchange: "Exchange", reply: Reply, body: bytes) -> Reply:
        """Return the reply with the page that the client accepts; this reply, if that is the problem document."""
        fault = reply.fault
        assert fault is not None
        chosen, kind = self.json, _JSON
        more: tuple[tuple[bytes, bytes], ...] = () if self.html is None else (_VARY,)
        if self.html is not None and prefers_html(exchange.head):
            chosen, kind = self.html, _HTML
            if self is _DEFAULT:
                more = (_VARY, _POLICY)
        elif self is _DEFAULT and reply.status not in _STORED:
            return reply
        fields = [field for field in reply.fields if field[0].lower() != b"content-type"]
        if chosen is None:
            return Reply(reply.status, body, (_PROBLEM, *fields, *more), fault)
        detail = orjson.loads(body).get("detail", fault.detail)
        values = {
            "status": str(reply.status),
            "title": title_of(fault),
            "detail": str(detail),
            "fault": fault.label,
            "request_id": exchange.request_id.decode("ascii", errors="replace"),
        }
        return Reply(reply.status, chosen.render(values), (kind, *fields, *more), fault)


_DEFAULT: Final = ErrorPage(DEFAULT_PAGE, None)


class ErrorPages:
    """Error pages of a listener or route: those of the nearest level first, there by status and then by class."""

    __slots__ = ("_by_status",)

    def __init__(self, levels: Iterable[Mapping[str, ErrorPage]]) -> None:
        """Create them. `levels`: outermost first, pages by `404` or `4xx`."""
        self._by_status: dict[int, ErrorPage] = {}
        for pages in levels:
            for name, page in sorted(pages.items(), key=lambda each: not each[0].endswith("xx")):
                first = int(name[0]) * 100 if name.endswith("xx") else int(name)
                self._by_status.update(dict.fromkeys(range(first, first + (100 if name.endswith("xx") else 1)), page))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ErrorPages) and self._by_status == other._by_status

    def __hash__(self) -> int:
        return hash(frozenset(self._by_status))

    def replace(self, exchange: "Exchange", reply: Reply) -> Reply:
        """Return the reply to a fault with its page; this reply, if there is none."""
        page = self._by_status.get(reply.status, _DEFAULT)
        body = reply.body
        if reply.fault is None or not isinstance(body, bytes) or _PROBLEM not in reply.fields:
            return reply
        head = exchange.head
        return reply if head.upgrade or is_rpc(head) else page.replace(exchange, reply, body)


def prefers_html(head: RequestHead) -> bool:
    """Whether the client prefers HTML to JSON, as browsers do for pages. Clients without a preference get JSON."""
    accepted = b",".join(head.values(b"accept"))
    return _prefers_html(accepted) if len(accepted) <= _MOST_REMEMBERED else _prefers_html.__wrapped__(accepted)


@lru_cache(256)
def _prefers_html(accepted: bytes) -> bool:
    """Cached, because browsers send few values."""
    if b"text/" not in accepted.lower():
        return False
    weights = parse_accept((accepted,))
    json = max(weight_of(weights, kind) for kind in (b"application/json", b"application/problem+json"))
    return weight_of(weights, b"text/html") > json
