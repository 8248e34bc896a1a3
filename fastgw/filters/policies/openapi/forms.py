"""Forms: the values of `application/x-www-form-urlencoded` and `multipart/form-data` (RFC 7578), with bounds.

Parts of multipart bodies are found by their boundary, and read strictly: what two readers could read in two ways is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, final

from fastgw.filters.api.credential_locations import decoded
from fastgw.filters.policies.content.charsets import is_utf8
from fastgw.filters.policies.content.schemas import converted
from fastgw.filters.policies.openapi.parameters import MISSING, Style, Unreadable, json_value, query_pairs

_MOST_PARTS: Final = 200
_MOST_HEADERS: Final = 4096
"""Bytes of the headers of a part."""
_BOUNDARY: Final = re.compile(
    rb'(?:^|;)[ \t]*boundary=(?:"([^"\\]{1,70})"|([^;" \t]{1,70}))[ \t]*(?=;|$)', re.IGNORECASE
)
_BOUNDARY_TEXT: Final = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_DISPOSITION: Final = re.compile(
    rb'form-data((?:[ \t]*;[ \t]*[a-z*]+=(?:"(?:[^"\\\r\n]|\\.)*"|[^;"\s]+))*)[ \t]*', re.I
)
_PARAMETER: Final = re.compile(rb';[ \t]*([a-z*]+)=(?:"((?:[^"\\\r\n]|\\.)*)"|([^;"\s]+))', re.IGNORECASE)


@final
class UrlencodedForm:
    """Reader of urlencoded forms."""

    __slots__ = ("_fields", "_json")

    def __init__(self, fields: Mapping[str, Mapping[str, Any]]) -> None:
        self._fields = {name: Style(name, plan) for name, plan in fields.items() if not plan["json"]}
        self._json = {name.encode(): (name, plan["shape"] == "array") for name, plan in fields.items() if plan["json"]}

    def value(self, payload: bytes) -> dict[str, Any]:
        """Return the object. Raises `Unreadable`."""
        pairs = query_pairs(payload)
        made: dict[str, Any] = {}
        taken: set[bytes] = set()
        for name, style in self._fields.items():
            value = style.from_pairs(pairs)
            if value is not MISSING:
                made[name] = value
                taken.update(each for each, _ in pairs if style.takes(each))
        for raw_name, raw in pairs:
            if raw_name in self._json:
                name, listed = self._json[raw_name]
                _add(made, name, json_value(decoded(raw)), listed=listed)
            elif raw_name not in taken:
                made.setdefault(_decoded_text(raw_name), _decoded_text(decoded(raw)))
        return made


@final
class MultipartForm:
    """Reader of multipart forms. Files and other binary parts are empty texts in the value: they are not validated."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, Mapping[str, Any]]) -> None:
        self._fields = fields

    def value(self, payload: bytes, content_type: bytes) -> dict[str, Any]:
        """Return the object. Raises `Unreadable`."""
        made: dict[str, Any] = {}
        for headers, content in parts_of(payload, boundary_of(content_type)):
            name, is_file = _name_of(headers)
            plan = self._fields.get(name)
            sent = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
            if plan is None:
                _add(made, name, "" if is_file else _decoded_text(content), listed=False)
                continue
            _check_content_type(plan, sent)
            if not is_file and not is_utf8(headers.get(b"content-type", b"")):
                raise Unreadable("encoding", "expected UTF-8")
            _add(made, name, self._part(plan, content, sent, is_file=is_file), listed=plan["shape"] == "array")
        return made

    def _part(self, plan: Mapping[str, Any], content: bytes, sent: str, *, is_file: bool) -> Any:
        if plan["json"] or sent == "application/json" or sent.endswith("+json"):
            return json_value(content)
        if is_file or plan["binary"]:
            return ""
        return converted(_decoded_text(content), plan["types"])


def _check_content_type(plan: Mapping[str, Any], sent: str) -> None:
    accepted = plan.get("content_types")
    if not accepted or not sent:
        return
    if not any(each in (sent, "*/*") or (each.endswith("/*") and sent.startswith(each[:-1])) for each in accepted):
        raise Unreadable("contentType", f"expected a part of type {' or '.join(accepted)}"[:200])


def _add(made: dict[str, Any], name: str, value: Any, *, listed: bool) -> None:
    if listed:
        held = made.setdefault(name, [])
        if isinstance(value, list):
            held += value
        else:
            held.append(value)
    elif name in made:
        raise Unreadable("repeated", "expected each field once")
    else:
        made[name] = value


def boundary_of(content_type: bytes) -> bytes:
    """Return the boundary of a multipart content type (RFC 2046 section 5.1.1). Raises `Unreadable`."""
    found = _BOUNDARY.findall(content_type.partition(b";")[2])
    boundary = (found[0][0] or found[0][1]) if len(found) == 1 else b""
    if _BOUNDARY_TEXT.fullmatch(boundary) is None:
        raise Unreadable("multipart", "expected a boundary")
    return bytes(boundary)


def parts_of(payload: bytes, boundary: bytes) -> list[tuple[dict[bytes, bytes], bytes]]:
    """Return the parts of a multipart body: headers in lower case, and content. Raises `Unreadable`."""
    delimiter = b"\r\n--" + boundary
    pieces = (b"\r\n" + payload).split(delimiter, _MOST_PARTS + 2)
    if len(pieces) > _MOST_PARTS + 2:
        raise Unreadable("multipart", f"expected at most {_MOST_PARTS} parts")
    if len(pieces) < 2 or pieces[0].strip(b"\r\n"):
        raise Unreadable("multipart", "expected parts with the boundary")
    if not pieces[-1].startswith(b"--") or pieces[-1][2:].strip(b" \t\r\n"):
        raise Unreadable("multipart", "expected the last boundary, and nothing after it")
    return [_part_of(piece) for piece in pieces[1:-1]]


def _part_of(piece: bytes) -> tuple[dict[bytes, bytes], bytes]:
    start = piece.lstrip(b" \t")
    if not start.startswith(b"\r\n"):
        raise Unreadable("multipart", "expected a line break after the boundary")
    head, mark, content = start.partition(b"\r\n\r\n")
    if not mark or len(head) > _MOST_HEADERS:
        raise Unreadable("multipart", "expected headers, and an empty line, in each part")
    headers: dict[bytes, bytes] = {}
    for line in head[2:].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or not name or name != name.strip() or name in headers:
            raise Unreadable("multipart", "expected each header of a part once")
        headers[name] = value.strip(b" \t")
    if b"content-transfer-encoding" in headers and headers[b"content-transfer-encoding"].lower() not in (
        b"7bit",
        b"8bit",
        b"binary",
    ):
        raise Unreadable("multipart", "expected parts without a transfer encoding")
    return headers, content


def _name_of(headers: Mapping[bytes, bytes]) -> tuple[str, bool]:
    """Return the name of a part, and whether it is a file. Raises `Unreadable`."""
    disposition = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
    parameters = _PARAMETER.findall(disposition[1]) if disposition is not None else []
    names = [quoted or token for key, quoted, token in parameters if key.lower() == b"name"]
    if len(names) != 1:
        raise Unreadable("multipart", "expected each part to have one name")
    keys = {key.lower() for key, _, _ in parameters}
    return _decoded_text(re.sub(rb"\\(.)", rb"\1", names[0])), bool(keys & {b"filename", b"filename*"})


def _decoded_text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Unreadable("encoding", "expected UTF-8") from None
