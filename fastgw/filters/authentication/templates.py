"""Values of requests and responses, such as `{client_ip}`, `{claim.sub}` or `{map.plan}`, and templates with them.

Rule 1: a value is never truncated or escaped, and never adds a line: a value that is not allowed in a header is
`Unfit`, which the filter handles. The same holds for a value with leading or trailing space, which recipients strip:
`"alice "` is not alice. Rule 2: if a value is missing or empty, the whole text is None, because a partial value could
mean something else.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import IntEnum
from time import monotonic, time
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote_to_bytes
from uuid import uuid4

from fastgw.config.base.value_templates import PARAM_PREFIX, is_known, template_pieces
from fastgw.config.base.variables import MAP_PREFIX, claim_name
from fastgw.config.settings.value_maps import ValueMap, compile_key, result_pieces
from fastgw.exchange.chain import ValueStep
from fastgw.exchange.request_keys import cookie_in
from fastgw.filters.api import Exchange
from fastgw.forwarded_headers import client_scheme
from fastgw.http.grammar import IS_VALUE
from fastgw.jose import claim_json, claim_path, find_claim
from fastgw.net.proxy_protocol import TLV_TEXTS
from fastgw.routing.requirements import parameters_named

Value: TypeAlias = Callable[[Exchange], bytes | None]
"""Function that returns the value of a variable in an exchange; None: it is missing. Raises `Unfit`."""

_SOURCES: Final = re.compile(r"(header|query|cookie|response_header)\.(.+)")

_NO_MAPS: Final[Mapping[str, Value]] = {}


class Origin(IntEnum):
    """Where a part of a value comes from."""

    CONFIGURATION = 1
    PATH = 2  # of the request, in normal form: escapes are kept
    PARAMETER = 3  # of the path, likewise
    VALUE = 4  # any other value of the request or response


Form: TypeAlias = Callable[[bytes, Origin], bytes]
"""Function that returns a part of a value as it is written at some place."""
_Part: TypeAlias = tuple[bytes, Origin]


def as_is(text: bytes, origin: Origin) -> bytes:
    return text


_IN_PATHS: Final = "/:@!$&'()*+,;=~"
"""Characters of the configuration's own values that are not encoded: those of a path (RFC 3986 section 3.3)."""
_SAFE_IN_URLS: Final = {Origin.CONFIGURATION: _IN_PATHS, Origin.VALUE: ""}


def in_url(text: bytes, origin: Origin) -> bytes:
    """Percent-encode a value, so that it stays within its segment or parameter. What the configuration holds keeps its
    slashes; what comes from the path is encoded already.
    """
    safe = _SAFE_IN_URLS.get(origin)
    return text if safe is None else quote(text, safe=safe).encode()


def _decoded(text: bytes, origin: Origin) -> bytes:
    """Remove the escapes of the path from a path parameter, for a place that is encoded later."""
    return unquote_to_bytes(text) if origin is Origin.PARAMETER else text


def _origin(name: str) -> Origin:
    """Return the origin of a variable's value, if it is no map."""
    return Origin.PATH if name == "path" else Origin.VALUE if is_known(name) else Origin.PARAMETER


class Unfit(Exception):
    """A value is not allowed in a header, or has no text. `name`: name of the header or variable; the value is not
    shown. `why`: also for values that stand in a path or a body.
    """

    def __init__(self, name: str, why: str = "is not allowed in a header") -> None:
        self.name = name
        super().__init__(f"{{{name}}} {why}")


def _consumer(exchange: Exchange) -> bytes | None:
    return None if exchange.consumer is None else exchange.consumer.name.encode()


def _groups(exchange: Exchange) -> bytes | None:
    return None if exchange.consumer is None else listed("consumer.groups", sorted(exchange.consumer.groups))


def _of_certificate(attribute: str) -> Value:
    """Return a value of the verified client certificate, or of the one that a trusted proxy has terminated."""

    def value(exchange: Exchange) -> bytes | None:
        certificate = exchange.peer.certificate
        return None if certificate is None else getattr(certificate, attribute).encode()

    return value


def _of_handshake(attribute: str) -> Value:
    """Return a value of the TLS connection to this gateway."""

    def value(exchange: Exchange) -> bytes | None:
        tls = exchange.peer.tls
        return None if tls is None else getattr(tls, attribute).encode()

    return value


def _of_proxy(attribute: str) -> Value:
    """Return a value of the PROXY header of the client's connection."""
    return lambda exchange: getattr(exchange.peer.tlvs, attribute).encode() or None


def _iso_time(exchange: Exchange) -> bytes:
    return datetime.fromtimestamp(time(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


_OF_CERTIFICATES: Final = ("subject", "common_name", "fingerprint", "serial", "issuer")
VALUES: Final[Mapping[str, Value]] = {
    "client_ip": lambda exchange: None if exchange.client_ip == "unix:" else exchange.client_ip.encode(),
    "scheme": lambda exchange: client_scheme(exchange.head, exchange.peer),
    "host": lambda exchange: exchange.host,
    "method": lambda exchange: exchange.method,
    "path": lambda exchange: exchange.path,
    "query": lambda exchange: exchange.query_shown,
    "request_id": lambda exchange: exchange.request_id,
    "listener": lambda exchange: exchange.listener.name.encode(),
    "route": lambda exchange: None if exchange.route is None else exchange.route.name.encode(),
    "consumer.name": _consumer,
    "consumer.groups": _groups,
    "upstream": lambda exchange: exchange.upstream.encode(),
    "target": lambda exchange: exchange.target.encode(),
    "latency": lambda exchange: b"%.6f" % (monotonic() - exchange.begun_at + exchange.head.received_s),
    "uuid": lambda exchange: str(uuid4()).encode(),
    "time.unix": lambda exchange: b"%d" % time(),
    "time.unix_ms": lambda exchange: b"%d" % (time() * 1000),
    "time.iso": _iso_time,
    "tls.version": _of_handshake("version"),
    "tls.cipher": _of_handshake("cipher"),
    "tls.sni": _of_handshake("server_name"),
    **{f"tls.{name}": _of_certificate(name) for name in _OF_CERTIFICATES},
    **{f"proxy.{name}": _of_proxy(name) for name in TLV_TEXTS},
    **{f"tls.client_{name}": _of_certificate(name) for name in _OF_CERTIFICATES},
}
"""Functions of the variables with a fixed name (`config.base.variables.FIXED`)."""


def compiled(text: str, maps: Mapping[str, Value] = _NO_MAPS, *, decodes: bool = False) -> bytes | Value:
    """Return the text as bytes if it is constant, otherwise a function that computes it. `maps`: for `map.NAME`, in
    front of those of the gateway. `decodes`: path parameters are `decoded_value`, for a text that is encoded later.
    """
    pieces = template_pieces(text)
    if all(name is None for _, name in pieces):
        return b"".join(literal for literal, _ in pieces)

    def value_of(name: str) -> Value:
        if decodes and (name.startswith(MAP_PREFIX) or not is_known(name)):
            return decoded_value(name)
        return _value(name, maps)

    parts = tuple((literal, None if name is None else value_of(name)) for literal, name in pieces)
    if len(parts) == 1 and (only := parts[0][1]) is not None:
        return lambda exchange: only(exchange) or None

    def expand(exchange: Exchange) -> bytes | None:
        made = b""
        for literal, value in parts:
            if value is not None:
                held = value(exchange)
                if not held:
                    return None
                made += held
            else:
                made += literal
        return made

    return expand


def listed(name: str, values: list[Any]) -> bytes:
    """Join values to a list (RFC 9110 section 5.6.1). Raises `Unfit` for a value that a parser would split or
    change.
    """
    elements = [_text(name, value) for value in values]
    if not all(map(is_element, elements)):
        raise Unfit(name, "is a list, and a value in it has a comma, a quote, or space at its beginning or end")
    return ",".join(elements).encode()


def is_element(text: str) -> bool:
    """Whether it can be a list element unchanged, without leading or trailing space."""
    return "," not in text and '"' not in text and text == text.strip()


def _value(name: str, maps: Mapping[str, Value]) -> Value:
    """Return the function for a variable, checked to be fit for a header."""
    if name.startswith(MAP_PREFIX):
        return maps.get(name.removeprefix(MAP_PREFIX)) or _of_map(name)
    raw = raw_value(name)

    def value(exchange: Exchange) -> bytes | None:
        held = raw(exchange)
        if held is not None and (not IS_VALUE(held) or held != held.strip(b" \t")):
            raise Unfit(name)
        return held

    return value


def raw_value(name: str) -> Value:
    """Return the function for a variable, whose value may not be fit for a header."""
    if name.startswith(MAP_PREFIX):
        return _of_map(name)
    return VALUES.get(name) or _source(name) or (_parameter(name) if claim_name(name) is None else _claim(name))


def decoded_value(name: str) -> Value:
    """Return the function for a variable as `raw_value`, except that path parameters lose the escapes of the path, also
    those that a map has looked up.
    """
    return _formed(name, _decoded)


def url_value(name: str) -> Value:
    """Return the function for a variable as `fit_value`, in the form `in_url`."""
    return _fit(_formed(name, in_url))


def _formed(name: str, form: Form) -> Value:
    if name.startswith(MAP_PREFIX):
        return _of_map(name, form)
    raw, origin = raw_value(name), _origin(name)

    def value(exchange: Exchange) -> bytes | None:
        held = raw(exchange)
        return held and form(held, origin)

    return value


def fit_value(name: str) -> Value:
    """Return the function for a variable as `raw_value`, except that a value that is `Unfit` is missing."""
    return _fit(raw_value(name))


def _fit(raw: Value) -> Value:
    def value(exchange: Exchange) -> bytes | None:
        try:
            return raw(exchange)
        except Unfit:
            return None

    return value


def _of_map(name: str, form: Form = as_is) -> Value:
    """Return the function for the result of a map of the gateway. It is found by the exchange, so that filters and
    their state outlive a change of the maps.
    """
    key = name.removeprefix(MAP_PREFIX)

    def value(exchange: Exchange) -> bytes | None:
        look_up = exchange.chain.maps.get(key)
        return None if look_up is None else look_up(exchange, form)

    return value


def look_up_in(table: ValueMap) -> ValueStep:
    """Return the function for the result of a map. It also takes the form of the result, `as_is` unless given."""
    equal = {key.encode(): value.encode() for key, value in table.values.items() if not key.startswith("~")}
    keys = [(compile_key(key[1:]), value) for key, value in table.values.items() if key.startswith("~")]
    patterns = [(key, _result(value, key.groupindex)) for key, value in keys]
    default = table.default.encode()
    pieces = tuple(
        (literal, Origin.CONFIGURATION, None) if name is None else (b"", _origin(name), _value(name, _NO_MAPS))
        for literal, name in template_pieces(table.source)
    )

    def parts_of(exchange: Exchange) -> list[_Part]:
        """Return the value to look up, in parts; none if one of them is missing. Raises `Unfit`."""
        parts: list[_Part] = []
        for literal, origin, read in pieces:
            text = literal if read is None else read(exchange)
            if text:
                parts.append((text, origin))
            elif read is not None:
                return []
        return parts

    def look_up(exchange: Exchange, form: Form = as_is) -> bytes | None:
        try:
            parts = parts_of(exchange)
        except Unfit:  # it is no key, and is not sent either
            return form(default, Origin.CONFIGURATION) or None
        value = parts[0][0] if len(parts) == 1 else b"".join(text for text, _ in parts)
        result = equal.get(value)
        if result is None:
            for pattern, expand in patterns:
                if (match := pattern.search(value)) is not None:
                    made = expand(match, parts, as_is)
                    if made == made.strip(b" \t"):  # else as an unfit source
                        return (made if form is as_is else expand(match, parts, form)) or None
                    break
            result = default
        return form(result, Origin.CONFIGURATION) or None

    return look_up


def _result(text: str, groups: Mapping[bytes, int]) -> Callable[[Any, list[_Part], Form], bytes]:
    """Return the function for the result of a regular expression. A group without a part in the match is empty.
    `groups`: their numbers, by their names.
    """
    literals = [literal.encode() for literal in result_pieces(text)[::2]]
    numbers = [groups[name.encode()] for name in result_pieces(text)[1::2]]

    def expand(match: Any, parts: list[_Part], form: Form) -> bytes:
        made = form(literals[0], Origin.CONFIGURATION)
        for number, literal in zip(numbers, literals[1:], strict=True):
            begin, end = match.span(number)
            made += _between(begin, end, parts, form) + form(literal, Origin.CONFIGURATION)
        return made

    return expand


def _between(begin: int, end: int, parts: list[_Part], form: Form) -> bytes:
    """Return what is between two positions of a value, each part in the form for its origin."""
    made = b""
    for text, origin in parts:
        if begin < len(text) and end > 0:
            made += form(text[max(begin, 0) : end], origin)
        begin, end = begin - len(text), end - len(text)
    return made


def _source(name: str) -> Value | None:
    """Return the function for `header.NAME`, `query.NAME`, `cookie.NAME` or `response_header.NAME`; None: it is none of
    them.

    Headers and cookies of the request are read as filters have changed them so far: the client must not be able to set
    the value of a header that an authentication filter removes or writes. A header, parameter or cookie that is
    repeated with different values is missing: which one counts is unclear.
    """
    source = _SOURCES.fullmatch(name)
    if source is None:
        return None
    key = source[2].encode()
    if source[1] == "cookie":
        return lambda exchange: cookie_in(exchange.current_values(b"cookie"), key)
    if source[1] == "response_header":
        return lambda exchange: None if exchange.response is None else _only(exchange.response.values(key.lower()))
    if source[1] == "header":
        lower = key.lower()
        return lambda exchange: _only(exchange.current_values(lower))
    return lambda exchange: _only(list(parameters_named(key, exchange.query)))


def _only(values: list[bytes]) -> bytes | None:
    return values[0] if values and all(value == values[0] for value in values) else None


def _parameter(name: str) -> Value:
    key = name.removeprefix(PARAM_PREFIX)
    return lambda exchange: exchange.params.get(key)


def _claim(name: str) -> Value:
    path = claim_path(claim_name(name) or "")

    def claim(exchange: Exchange) -> bytes | None:
        held = find_claim(exchange.claims, path)
        if held is None:
            return None
        if isinstance(held, list):
            return listed(name, held)
        text = _text(name, held)
        if text != text.strip():
            raise Unfit(name, "has space at its beginning or end")
        return text.encode()

    return claim


def _text(name: str, value: Any) -> str:
    """Return a string as it is, anything else as JSON."""
    try:
        return (value.encode() if isinstance(value, str) else claim_json(value)).decode()
    except ValueError:  # a lone surrogate, which JSON can escape
        raise Unfit(name, "is not valid Unicode") from None
