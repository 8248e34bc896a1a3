"""Actions of routes that the gateway answers itself: `respond` and `redirect`, with values of the request.

Rule: a value is encoded for its position, so that it never ends a string, an element, a segment or a header.
"""

import re
from collections.abc import Callable
from html import escape
from time import time
from typing import Final, final

import orjson

from fastgw.config.base.route_patterns import parse_path, parse_plain_path, parse_redirect
from fastgw.config.base.variables import inserted_values
from fastgw.config.settings import gateway as config
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply, Route
from fastgw.exchange.action import Action
from fastgw.exchange.ready_answer import ReadyAnswer, ReadyReply
from fastgw.exchange.sent_fields import SentFields
from fastgw.filters.authentication.templates import Value, fit_value, url_value
from fastgw.forwarded_headers import Peer, client_scheme
from fastgw.http.authority import DEFAULT_PORTS, parse_authority
from fastgw.http.grammar import IS_VALUE
from fastgw.http.messages import RequestHead
from fastgw.upstream.policies.path_rewrite import MissingVariable, expander, path_replacer

Parts = tuple[bytes | Value, ...]

MAX_READY: Final = 64
"""Maximum number of forms in which a fixed answer is kept: filters may change its headers by the listener, the scheme
and the origin."""

_PATH_END: Final = re.compile(rb"[?#]")
_DOT_SEGMENT: Final = re.compile(rb"/(?:\.|%2e){1,2}(?=/|\Z)", re.IGNORECASE)
_NOT_IN_XML: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""Characters that XML does not allow, not even as a reference (XML 1.0 section 2.2)."""
_HALF_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class RespondAction(Action):
    """Action of a route with `respond`: the same answer to each request."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._ready: dict[SentFields, ReadyReply | None] = {}  # by the headers that filters change

    def begin(self, exchange: Exchange) -> None:
        exchange.reply(self._reply)

    def ready_answer(self, head: RequestHead, peer: Peer, route: Route) -> ReadyAnswer | None:
        """Return the answer to a plain GET (`TranslateHook.ready`)."""
        if head.method != b"GET" or (peer.trusted and head.forwarded):
            return None
        fields = route.chain.response_fields_for(head, peer)
        if fields is None:
            return None
        if fields not in self._ready:
            if len(self._ready) >= MAX_READY:
                self._ready.clear()
            self._ready[fields] = ReadyReply.of(self._reply, fields.dropped, fields.added)
        ready = self._ready[fields]
        return None if ready is None else ready.at(time())


@final
class TemplateAction(Action):
    """Action of a route with `respond` and variables in it."""

    def __init__(self, status: int, body: Parts, fields: tuple[tuple[bytes, Parts], ...], encode: "Encode") -> None:
        self._status, self._body, self._fields, self._encode = status, body, fields, encode

    def begin(self, exchange: Exchange) -> None:
        fields = []
        for name, parts in self._fields:
            value = _joined(parts, exchange, bytes)
            if value == value.strip(b" \t") and IS_VALUE(value) and all(_is_there(part, exchange) for part in parts):
                fields.append((name, value))
        exchange.reply(Reply(self._status, _joined(self._body, exchange, self._encode), fields))


Encode = Callable[[bytes], bytes]


def respond_action(route: config.Route, respond: config.Respond) -> RespondAction | TemplateAction:
    """Return the action of a route with `respond`."""
    body = _parts(respond.body, route)
    reply = static_reply(respond)
    fields = tuple((name, _parts(value.decode(), route)) for name, value in reply.fields)
    if all(isinstance(part, bytes) for parts in (body, *(parts for _, parts in fields)) for part in parts):
        return RespondAction(reply)
    kind = next((value for name, value in reply.fields if name.lower() == b"content-type"), b"").lower()
    media_type = kind.partition(b";")[0].strip()
    encode: Encode = bytes
    if media_type.endswith((b"/json", b"+json")):
        encode = _in_json
    elif media_type.endswith((b"html", b"xml")):
        encode = _in_markup
    return TemplateAction(respond.status, body, fields, encode)


def static_reply(respond: config.Respond) -> Reply:
    """Return the response without variables."""
    fields = [(name.encode(), value.encode()) for name, value in respond.headers.items()]
    if respond.body and not any(name.lower() == b"content-type" for name, _ in fields):
        fields.append((b"Content-Type", b"text/plain; charset=utf-8"))
    return Reply(respond.status, respond.body.encode(), fields)


@final
class RedirectAction(Action):
    """Action of a route with `redirect`."""

    def __init__(self, answer: Callable[[Exchange], None]) -> None:
        self._answer = answer

    def begin(self, exchange: Exchange) -> None:
        self._answer(exchange)


def redirect_action(route: config.Route, redirect: config.Redirect) -> RedirectAction:
    """Return the action of a route with `redirect`."""
    if redirect.to is None:
        return _parts_redirect(redirect)
    to = parse_redirect(redirect.to)
    has_query = "?" in redirect.to.partition("#")[0]  # after it, a `?` belongs to the fragment
    expand, status = expander(to, route, url_value), redirect.status
    dot_segments = _dot_segments(to.expand(dict.fromkeys(to.parameters, b"value")))

    def answer(exchange: Exchange) -> None:
        try:
            location = expand(exchange)
        except MissingVariable as missing:
            exchange.fail(missing.fault, "A value of the redirect is missing.", why=f"redirect: {missing}")
            return
        if to.parameters and (_dot_segments(location) != dot_segments or _HALF_ESCAPE.search(location)):
            exchange.fail(Fault.BAD_REQUEST, "The redirect has a dot segment or an incomplete escape.")
            return
        if not has_query and exchange.query_shown is not None:
            url, mark, fragment = location.partition(b"#")  # values have none: it is percent-encoded
            location = b"%b?%b%b%b" % (url, exchange.query_shown, mark, fragment)
        exchange.reply(Reply(status, fields=((b"Location", location),)))

    return RedirectAction(answer)


def _dot_segments(location: bytes) -> int:
    """Return the number of dot segments in the path of a URL or path, as clients resolve them."""
    return len(_DOT_SEGMENT.findall(_PATH_END.split(location, 1)[0]))


def _parts_redirect(redirect: config.Redirect) -> RedirectAction:
    """Return the action of a redirect to the URL of the request with other parts."""
    path_of = path_replacer(redirect.strip_prefix, redirect.add_prefix)
    whole = None if redirect.path is None else parse_plain_path(redirect.path)
    host = None if redirect.host is None else redirect.host.encode()
    scheme = None if redirect.scheme is None else redirect.scheme.encode()
    keeps_path = redirect.strip_prefix is redirect.add_prefix is None
    status = redirect.status

    def answer(exchange: Exchange) -> None:
        name, port = exchange.host if host is None else host, redirect.port
        path = whole
        if path is None:
            path = exchange.path if keeps_path else path_of(exchange)
        if not (name and exchange.path.startswith(b"/")):  # HTTP/1.0 without Host; OPTIONS * and CONNECT have no path
            exchange.fail(Fault.BAD_REQUEST, "The request has no URL that can be redirected.")
            return
        used = scheme or client_scheme(exchange.head, exchange.peer)
        if port is None and scheme is None:
            port = parse_authority(exchange.authority).port
        shown = b"" if port is None or port == DEFAULT_PORTS[used] else b":%d" % port
        # Paths are normalized, so none begins with a host.
        location = b"%b://%b%b%b" % (used, name, shown, path)
        if exchange.query_shown is not None:
            location += b"?" + exchange.query_shown
        exchange.reply(Reply(status, fields=((b"Location", location),)))

    return RedirectAction(answer)


def _parts(text: str, route: config.Route) -> Parts:
    """Return literals and variables of a text; braces around anything else are literal."""
    held = [parse_path(path).names for path in route.paths]
    known = frozenset.intersection(*held) if held else frozenset()
    parts: list[bytes | Value] = []
    end = 0
    for match, name in inserted_values(text, known):
        parts += (text[end : match.start()].encode(), fit_value(name))
        end = match.end()
    parts.append(text[end:].encode())
    return tuple(part for part in parts if part != b"")


def _joined(parts: Parts, exchange: Exchange, encode: Encode) -> bytes:
    return b"".join(part if isinstance(part, bytes) else encode(part(exchange) or b"") for part in parts)


def _is_there(part: bytes | Value, exchange: Exchange) -> bool:
    return isinstance(part, bytes) or bool(part(exchange))


def _in_json(value: bytes) -> bytes:
    """Escape a value within a string of JSON."""
    return orjson.dumps(value.decode("utf-8", "replace"))[1:-1]


def _in_markup(value: bytes) -> bytes:
    """Escape a value within an element or a quoted attribute. Characters that have no escape are replaced."""
    return escape(_NOT_IN_XML.sub("\ufffd", value.decode("utf-8", "replace"))).encode()
