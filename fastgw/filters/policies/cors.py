"""cors: cross-origin resource sharing (CORS protocol of the Fetch standard)."""

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Final, Literal

from fastgw.config.base.route_patterns import PORT
from fastgw.config.base.value_types import Duration, Notation, check_no_user, parse_method, parse_token
from fastgw.config.settings.gateway import Some
from fastgw.filters.api import (
    Env,
    Exchange,
    Filter,
    Hooks,
    Outcome,
    Phase,
    Reply,
    ResponseHook,
    ResponseLines,
    SentFields,
)
from fastgw.forwarded_headers import Peer
from fastgw.http.messages import RequestHead

ANY: Final = "*"
LONGEST_ORIGIN: Final = 300  # scheme, a name of 253 bytes, port
REMEMBERED: Final = 1024
"""Maximum number of origins that match a pattern whose headers are cached."""

_HOST: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\]"
_ORIGIN: Final = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*)://(\*\.)?({_HOST})(?::({PORT}))?")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_ANY_LABELS: Final = "(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?[.])+"
_SPOKEN: Final = b" cors"
"""Marker in `Response.dropped` that is no header name: a cors filter has set its headers."""
OURS: Final = frozenset(
    (
        _SPOKEN,
        b"access-control-allow-credentials",
        b"access-control-allow-headers",
        b"access-control-allow-methods",
        b"access-control-allow-origin",
        b"access-control-allow-private-network",
        b"access-control-expose-headers",
        b"access-control-max-age",
    )
)


def parse_origin(text: str) -> str:
    """Validate an origin as browsers write it, `null`, `*`, or a pattern for whole labels. Raises `ValueError`."""
    if text in (ANY, "null"):
        return text
    check_no_user(text)
    match = _ORIGIN.fullmatch(text)
    if match is None:
        if text.endswith("/") and _ORIGIN.fullmatch(text.rstrip("/")) is not None:
            raise ValueError(f'"{text}" ends with a slash, which is not allowed in an origin')
        raise ValueError(f'"{text}" is not an origin')
    scheme, wildcard, host, port = match[1].lower(), match[2] or "", match[3].lower(), match[4]
    shown_port = f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else ""
    return f"{scheme}://{wildcard}{host}{shown_port}"


def _or_any(parse: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: text if text == ANY else parse(text)


_TEXT: Final[dict[str, Any]] = {"type": "string"}
Origin = Annotated[
    str, Notation('an origin such as "https://app.example" or "https://*.example", or "*"', parse_origin, _TEXT)
]
Method = Annotated[str, Notation('a method such as "GET", or "*"', _or_any(parse_method), _TEXT)]
FieldName = Annotated[str, Notation('a header name such as "X-Tenant", or "*"', _or_any(parse_token), _TEXT)]


class Cors(Filter, name="cors", phase=Phase.ADMIT):
    """Cross-origin resource sharing (CORS): allow pages of other origins to call this route.

    The gateway answers preflight requests, with the settings of the route that handles the requested method, or, if the
    path has a route with OPTIONS among its methods, with those of that route; one without `cors` gets preflights like
    any request. A preflight has none of the headers of the later request, so it does not match routes with header
    conditions. All other responses, errors of the gateway included, have the CORS headers that browsers need to let the
    page read them. Responses to an origin that is not allowed have no CORS headers; its requests are handled like those
    of any client. With several `Origin` headers a response has no CORS headers, and a preflight is answered 204 without
    them, unless `*` gives the same ones to every origin. CORS protects the users of browsers, not the service.
    """

    by_route: ClassVar[bool] = True

    origins: Some[Origin]
    """Allowed origins, as browsers send them: `https://app.example`; `https://*.example` for every subdomain of
    `example`; `null` for pages without an origin; or `*` alone for every origin."""
    methods: Some[Method] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    """Allowed methods. `*` alone = any method."""
    headers: tuple[FieldName, ...] = ("Authorization", "Content-Type")
    """Allowed request headers, in addition to the CORS-safelisted ones. `*` = any header, but browsers require
    `Authorization` to be named explicitly."""
    expose: tuple[FieldName, ...] = ()
    """Response headers that pages may read, in addition to the CORS-safelisted ones. `*` alone = all headers."""
    credentials: bool = False
    """Whether pages may send the user's cookies and read the responses. Mutually exclusive with `*`, unless
    `reflect` is true."""
    reflect: bool = False
    """Whether `*` stands for whatever a request names, so that it may be used with `credentials`: the response repeats
    the origin, and the method and headers that a preflight asks for. Every page may then act with the user's cookies,
    so this is only for services that cookies do not authenticate."""
    max_age: Duration | None = None
    """Time for which browsers cache the response to a preflight. null = the default of browsers, 5 s."""
    private_network: bool = False
    """Whether pages from a public network may call this service in a private network (Private Network Access)."""
    preflight: Literal["answer", "forward"] = "answer"
    """`answer`: the gateway answers preflights; `forward`: the upstream answers preflights of `origins`, and its
    response is forwarded as it is. The gateway rejects those of other origins. Forwarded preflights bypass the filters
    of authentication and authorization, as browsers send no credentials with them; they are forwarded without
    credentials and without the identity headers of these filters. Other filters handle a preflight like any request. If
    the route itself answers (`respond`, `redirect`) there is no upstream, and these filters have to accept the
    preflight."""

    def __post_init__(self) -> None:
        if self.reflect and ANY not in (*self.origins, *self.methods, *self.headers):
            raise ValueError('`reflect` has no effect without "*" in `origins`, `methods` or `headers`')
        for name in ("origins", "methods", "headers", "expose"):
            said = getattr(self, name)
            if ANY not in said:
                continue
            if self.credentials and not self.reflect:
                raise ValueError(
                    f'`{name}` has "*" and `credentials` is true; expected them by name, for with credentials browsers '
                    'do not take "*"'
                )
            if len(said) > 1 and name != "headers":
                raise ValueError(f'`{name}` has "*" and others; expected "*" alone, or no "*"')

    def build(self, env: Env) -> Hooks:
        everybody = ANY in self.origins and not self.reflect
        vary = b"" if everybody else b"Vary: Origin\r\n"
        exposed = _line(b"Access-Control-Expose-Headers", self.expose)
        may_read = _allowed(self.origins, self.credentials, exposed + vary, self.reflect)
        may_call = _allowed(self.origins, self.credentials, self._preflight_headers() + exposed, self.reflect)
        to_everybody = may_read(b"") if everybody else None
        asked_lines = self._asked_lines()
        asked = [] if everybody else ["Origin"]
        asked += ["Access-Control-Request-Method", "Access-Control-Request-Headers"]
        if self.private_network:
            asked.append("Access-Control-Request-Private-Network")
        preflight_vary = _line(b"Vary", asked)
        private_network = b"Access-Control-Allow-Private-Network: true\r\n" if self.private_network else b""
        forwards = self.preflight == "forward"

        def preflight(exchange: Exchange) -> Outcome:
            if forwards:
                origin = _origin_of(exchange.head)
                if origin is not None and may_call(origin) is not None:
                    return None
            return Reply(204)

        def preflight_fields(head: RequestHead) -> bytes:
            fields = may_call(_origin_of(head) or b"")
            if fields is None:
                return preflight_vary
            if head.first(b"access-control-request-private-network") == b"true":
                fields += private_network
            for name, line in asked_lines:
                wanted = head.first(name)
                fields += line % wanted if wanted else b""
            return fields + preflight_vary

        def response(exchange: Exchange) -> None:
            answer = exchange.response
            assert answer is not None
            dropped = answer.dropped
            if dropped and _SPOKEN in dropped:
                return  # an inner level's filter was first
            if exchange.method == b"OPTIONS" and is_preflight(head := exchange.head):
                if forwards and answer.head is not None:
                    answer.dropped = dropped | {_SPOKEN}
                    return
                fields = preflight_fields(head)
            elif to_everybody is not None:
                fields = to_everybody
            else:
                origin = _origin_of(exchange.head)
                fields = may_read(origin) or vary if origin is not None else vary
            answer.dropped = dropped | OURS if dropped else OURS
            added = answer.added
            answer.added = added + fields if added else fields

        known: dict[bytes, SentFields] = {}

        def fields_for(head: RequestHead, peer: Peer) -> SentFields | None:
            if head.method == b"OPTIONS":  # which may be a preflight
                return None
            lines = to_everybody
            if lines is None:
                # PERF: a hit takes 31,090 instructions, 31,220 by `_origin_of` (callgrind, micro/response_cache).
                origins = head.values(b"origin")
                lines = (may_read(origins[0]) if len(origins) == 1 else None) or vary
            fields = known.get(lines)
            if fields is None:
                fields = SentFields(OURS, lines)
                if len(known) < REMEMBERED:
                    known[lines] = fields
            return fields

        return Hooks(
            response=ResponseHook(
                response,
                lines=ResponseLines((*OURS, b"vary")),
                fields=None if self.reflect and ANY in self.origins else fields_for,
            ),
            preflight=preflight,
        )

    def _preflight_headers(self) -> bytes:
        """Return the headers for a preflight, without the origin."""
        lines = b"" if self._reflects(self.methods) else _line(b"Access-Control-Allow-Methods", self.methods)
        if not self._reflects(self.headers):
            lines += _line(b"Access-Control-Allow-Headers", self.headers)
        return lines if self.max_age is None else lines + b"Access-Control-Max-Age: %d\r\n" % self.max_age

    def _reflects(self, listed: Iterable[str]) -> bool:
        return self.reflect and ANY in listed

    def _asked_lines(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of a preflight that are repeated, each with the line of the response."""
        lines = []
        if self._reflects(self.methods):
            lines.append((b"access-control-request-method", b"Access-Control-Allow-Methods: %b\r\n"))
        if self._reflects(self.headers):
            lines.append((b"access-control-request-headers", b"Access-Control-Allow-Headers: %b\r\n"))
        return lines


def is_preflight(head: RequestHead) -> bool:
    """Whether a request with the method OPTIONS is a preflight (Fetch standard, section 3.2.2)."""
    return head.first(b"access-control-request-method") is not None and head.first(b"origin") is not None


def _origin_of(head: RequestHead) -> bytes | None:
    """Return the origin of a request; None: it has none, or several, of which others may read another one."""
    origins = head.values(b"origin")
    return origins[0] if len(origins) == 1 else None


def _allowed(origins: Iterable[str], credentials: bool, more: bytes, reflect: bool) -> Callable[[bytes], bytes | None]:
    """Return the header lines for an allowed origin, with `more` appended; None: it is not allowed. `reflect`: `*` is
    answered with the origin.
    """
    listed = tuple(origins)
    if credentials:
        more = b"Access-Control-Allow-Credentials: true\r\n" + more
    if ANY in listed and reflect:
        begin = b"Access-Control-Allow-Origin: "
        return lambda origin: b"%b%b\r\n%b" % (begin, origin, more) if 0 < len(origin) <= LONGEST_ORIGIN else None
    if ANY in listed:
        anybody = b"Access-Control-Allow-Origin: *\r\n" + more
        return lambda origin: anybody

    def lines(origin: bytes) -> bytes:
        return b"Access-Control-Allow-Origin: %b\r\n%b" % (origin, more)

    ready = {origin.encode(): lines(origin.encode()) for origin in listed if "*" not in origin}
    patterns = [re.escape(origin).replace(r"\*\.", _ANY_LABELS) for origin in listed if "*" in origin]
    if not patterns:
        return ready.get
    fits = re.compile("|".join(patterns).encode()).fullmatch
    seen: dict[bytes, bytes] = {}

    def allowed(origin: bytes) -> bytes | None:
        held = ready.get(origin) or seen.get(origin)
        if held is None and len(origin) <= LONGEST_ORIGIN and fits(origin):
            held = lines(origin)
            if len(seen) < REMEMBERED:
                seen[origin] = held
        return held

    return allowed


def _line(name: bytes, values: Iterable[str]) -> bytes:
    """Return a list header; empty without values."""
    listed = ", ".join(values).encode()
    return b"%b: %b\r\n" % (name, listed) if listed else b""
