"""Values of requests and responses, such as `{client_ip}`, `{claim.sub}` or `{map.plan}`, and templates with them.

Rule 1: a value is never truncated or escaped, and never adds a line: a value that is not allowed in a header is
`Unfit`, which the filter handles. The same holds for a value with leading or trailing space, which recipients strip:
`"alice "` is not alice. Rule 2: if a value is missing or empty, the whole text is None, because a partial value could
mean something else.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes
from uuid import uuid4

from fastgw.config.base.value_templates import PARAM_PREFIX, is_known, template_pieces
from fastgw.config.base.variables import MAP_PREFIX, claim_name
from fastgw.config.settings.value_maps import ValueMap, compile_key, result_pieces
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
        return decoded_value(name) if decodes and not is_known(name) else _value(name, maps)

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
    """Return the function for a variable as `raw_value`, except that path parameters lose the escapes of the path."""
    raw = raw_value(name)
    return raw if is_known(name) else lambda exchange: unquote_to_bytes(raw(exchange) or b"")


def fit_value(name: str) -> Value:
    """Return the function for a variable as `raw_value`, except that a value that is `Unfit` is missing."""
    raw = raw_value(name)

    def value(exchange: Exchange) -> bytes | None:
        try:
            return raw(exchange)
        except Unfit:
            return None

    return value


def _of_map(name: str) -> Value:
    """Return the function for the result of a map of the gateway. It is found by the exchange, so that filters and
    their state outlive a change of the maps.
    """
    key = name.removeprefix(MAP_PREFIX)

    def value(exchange: Exchange) -> bytes | None:
        look_up = exchange.chain.maps.get(key)
        return None if look_up is None else look_up(exchange)

    return value


def look_up_in(table: ValueMap) -> Value:
    """Return the function for the result of a map."""
    equal = {key.encode(): value.encode() or None for key, value in table.values.items() if not key.startswith("~")}
    patterns = [(compile_key(key[1:]), _result(value)) for key, value in table.values.items() if key.startswith("~")]
    default = table.default.encode() or None
    source = compiled(table.source)

    def look_up(exchange: Exchange) -> bytes | None:
        try:
            value = (source if isinstance(source, bytes) else source(exchange)) or b""
        except Unfit:  # it is no key, and is not sent either
            return default
        if value in equal:
            return equal[value]
        for pattern, result in patterns:
            if (match := pattern.search(value)) is not None:
                made = result(match)
                return default if made != made.strip(b" \t") else made or None  # as an unfit source
        return default

    return look_up


def _result(text: str) -> Callable[[Any], bytes]:
    """Return the function for the result of a regular expression. A group without a part in the match is empty."""
    literals = [literal.encode() for literal in result_pieces(text)[::2]]
    names = [name.encode() for name in result_pieces(text)[1::2]]
    if not names:
        return lambda match: literals[0]

    def expand(match: Any) -> bytes:
        made = literals[0]
        for name, literal in zip(names, literals[1:], strict=True):
            made += (match[name] or b"") + literal
        return made

    return expand


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
