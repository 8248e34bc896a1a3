"""Fields of a log line that the configuration chooses: names, templates, and the names that other formats give them.

All of it is resolved once, when the configuration is loaded: a chosen field is a function from a record to a value.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from fastgw.net.proxy_protocol import TLV_TEXTS
from fastgw.observe.access_log.formats import FIELDS, VERSIONS, Mask, Value, masked_words, text_of
from fastgw.observe.access_log.record import Record
from fastgw.observe.access_log.secret_names import SecretNames

MOST_FIELDS: Final = 48
MOST_NAME: Final = 64
MOST_TEMPLATE: Final = 256
MOST_BODY: Final = 1024
"""Maximum bytes of a body that is shown: a line has at most `formats.MAX_LINE`."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VARIABLE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_REQUEST, _RESPONSE = "header.", "response_header."
_PROXY: Final = "proxy."
_OF_PROXY: Final = frozenset(f"{_PROXY}{name}" for name in TLV_TEXTS)
"""Values of the PROXY header of the client's connection."""


class ChosenField(NamedTuple):
    """Field of a line: its name in `json`, and its value. `is_ours`: one of `FIELDS` or `BODIES`."""

    name: str
    value: Value
    is_ours: bool


_Bodies = Callable[[Record, tuple[str, ...]], str | None]
BODIES: Final[Mapping[str, _Bodies]] = {
    "request_body": lambda record, redact: None if record.bodies is None else record.bodies.request_text(redact),
    "response_body": lambda record, redact: None if record.bodies is None else record.bodies.response_text(redact),
}
"""Fields that only lines with chosen fields have, because their values are collected while a request passes."""


def shows_bodies(fields: Iterable[str]) -> bool:
    """Whether chosen fields show bodies."""
    for each in fields:
        name, equals, template = each.partition("=")
        if not BODIES.keys().isdisjoint(found[1] for found in _VARIABLE.finditer(template)) or (
            not equals and name in BODIES
        ):
            return True
    return False


def check_field(text: str) -> str:
    """Return the text of a chosen field, unchanged. Raises `ValueError` if it is none."""
    chosen_field(text, ())
    return text


def name_of(text: str) -> str:
    """Return the name of a chosen field in the line."""
    return text.partition("=")[0]


def chosen_field(text: str, redact: Iterable[str]) -> ChosenField:
    """Return a chosen field: `NAME`, a variable, or `NAME=TEMPLATE`. `redact`: header names whose values are masked.

    Raises `ValueError`.
    """
    name, equals, template = text.partition("=")
    if not equals:
        return ChosenField(name, _variable(name, redact), name in FIELDS or name in BODIES)
    if not _NAME.fullmatch(name) or len(name) > MOST_NAME:
        raise ValueError(f"{name!r} is not a name of a field")
    if len(template) > MOST_TEMPLATE:
        raise ValueError(f"the template of `{name}` has more than {MOST_TEMPLATE} characters")
    return ChosenField(name, _template(template, redact), False)


def _variable(name: str, redact: Iterable[str]) -> Value:
    if (known := FIELDS.get(name)) is not None:
        return known
    if (body := BODIES.get(name)) is not None:
        names = tuple(redact)
        return lambda record, mask: body(record, names)
    if name in _OF_PROXY:
        return _proxy_value(name.removeprefix(_PROXY))
    for prefix, header in ((_REQUEST, _request_header), (_RESPONSE, _response_header)):
        sought = name.removeprefix(prefix)
        if sought != name and _TOKEN.fullmatch(sought):
            value = header(sought.lower().encode())
            return _masked(value) if SecretNames(redact).has_header(sought.lower().encode()) else value
    raise ValueError(f"unknown field `{name}`")


def _proxy_value(attribute: str) -> Value:
    def value(record: Record, mask: Mask) -> str | None:
        peer = getattr(record.exchange, "peer", None)  # sessions of UDP have none
        return None if peer is None else getattr(peer.tlvs, attribute) or None

    return value


def _masked(value: Value) -> Value:
    """Return a field that only shows whether there is a value."""
    return lambda record, mask: None if value(record, mask) is None else "***"


def _request_header(name: bytes) -> Value:
    def value(record: Record, mask: Mask) -> str | None:
        exchange = record.exchange
        if exchange is None or record.version not in VERSIONS:
            return None
        return _joined(exchange.head.received_fields().get_all(name), mask)

    return value


def _response_header(name: bytes) -> Value:
    def value(record: Record, mask: Mask) -> str | None:
        exchange = record.exchange
        if exchange is None or exchange.response is None or record.version not in VERSIONS:
            return None
        response: Any = exchange.response  # a `Response`, which is of a higher package
        return _joined(response.sent_values(name), mask)

    return value


def _joined(values: list[bytes], mask: Mask) -> str | None:
    return text_of(masked_words(b", ".join(values), mask)) if values else None


def _template(template: str, redact: Iterable[str]) -> Value:
    pieces: list[str | Value] = []
    end = 0
    for found in _VARIABLE.finditer(template):
        pieces.append(template[end : found.start()])
        end = found.end()
        if found[0] in ("{{", "}}"):
            pieces.append(found[0][0])
        elif found[1] is None:
            raise ValueError(f"a brace without its pair in {template!r}; write {{{{ for a brace")
        else:
            pieces.append(_variable(found[1], redact))
    pieces.append(template[end:])
    parts = tuple(piece for piece in pieces if piece != "")
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]  # a number stays one

    def value(record: Record, mask: Mask) -> str:
        return "".join(part if isinstance(part, str) else _as_text(part(record, mask)) for part in parts)

    return value


def _as_text(value: Any) -> str:
    return "" if value is None else str(value)
