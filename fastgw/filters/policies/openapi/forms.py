"""Forms: the values of `application/x-www-form-urlencoded` and `multipart/form-data` (RFC 7578), with bounds.

Parts of multipart bodies are read by `http.multipart`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, final

from fastgw.filters.policies.content.parameter_pairs import Unreadable
from fastgw.filters.policies.content.schemas import converted
from fastgw.filters.policies.openapi.members import MemberKind, OtherMembers, is_of_any_type
from fastgw.filters.policies.openapi.parameters import MISSING, Style, json_value, query_pairs
from fastgw.http.charsets import is_utf8
from fastgw.http.multipart import InvalidMultipart, boundary_of, names_of, parts_of
from fastgw.http.percent_encoding import decode_form_text

_MEDIA_TYPE: Final = re.compile(rb"[!#-'*+.0-9A-Z^-z|~-]+/[!#-'*+.0-9A-Z^-z|~-]+").fullmatch
_TEXT: Final = ("text/plain",)
"""Content type of a text without an `encoding` in the document (OpenAPI 3.1, Encoding Object)."""
_ANY: Final[MemberKind] = {"shape": "scalar", "types": (), "json": False}


@final
class UrlencodedForm:
    """Reader of urlencoded forms."""

    __slots__ = ("_fields", "_json", "_others")

    def __init__(self, plans: Mapping[str, Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> None:
        """`plans`: members that have a name in the document. `others`: of other names (`OtherMembers`)."""
        self._others = OtherMembers(others)
        fields = _completed(plans, self._others)
        self._fields = {name: Style(name, plan) for name, plan in fields.items() if not plan["json"]}
        self._json = {name.encode(): (name, plan["shape"] == "array") for name, plan in fields.items() if plan["json"]}

    def value(self, payload: bytes) -> dict[str, Any]:
        """Return the object. Raises `Unreadable`."""
        pairs = query_pairs(payload, "fields")
        made: dict[str, Any] = {}
        taken: set[bytes] = set()
        for name, style in self._fields.items():
            value = style.from_pairs(pairs)
            if value is not MISSING:
                made[name] = value
                taken.update(style.names_in(pairs))
        for raw_name, values in pairs.items():
            if raw_name in self._json:
                name, listed = self._json[raw_name]
                for raw in values:
                    _add(made, name, json_value(decode_form_text(raw)), listed=listed)
            elif raw_name not in taken:
                for raw in values:
                    self._add_other(made, _decoded_text(raw_name), decode_form_text(raw))
        return made

    def _add_other(self, made: dict[str, Any], name: str, value: bytes) -> None:
        kind = self._others.kind_of(name) or _ANY
        other = json_value(value) if kind["json"] else converted(_decoded_text(value), kind["types"])
        _add(made, name, other, listed=kind["shape"] == "array")


@final
class MultipartForm:
    """Reader of multipart forms. Files and other binary parts are empty texts in the value: they are not validated.

    Whether a part is a file is up to the document. A file name alone makes none: a client could pass by the schema of a
    text.
    """

    __slots__ = ("_fields", "_others")

    def __init__(self, plans: Mapping[str, Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> None:
        """`plans`: members that have a name in the document. `others`: of other names (`OtherMembers`)."""
        self._others = OtherMembers(others)
        self._fields = _completed(plans, self._others)

    def value(self, payload: bytes, content_type: bytes) -> dict[str, Any]:
        """Return the object. Raises `Unreadable`."""
        made: dict[str, Any] = {}
        for name, file_name, headers, content in _parts(payload, content_type):
            is_file = file_name is not None
            plan = self._fields.get(name) or self._others.kind_of(name)
            sent = _media_type(headers.get(b"content-type", b""))
            if plan is None:
                _add(made, name, "" if is_file else _decoded_text(content), listed=False)
                continue
            accepted = plan.get("content_types")
            _check_content_type(accepted, sent)
            may_be_file = plan["file"] or (accepted is not None and not sent.startswith("text/"))
            if not (is_file and may_be_file) and not is_utf8(headers.get(b"content-type", b"")):
                raise Unreadable("encoding", "expected UTF-8")
            is_json = sent == "application/json" or sent.endswith("+json")
            if plan["json"] or (is_json and not plan["bytes"]):
                value = json_value(content)
            elif plan["binary"] or (is_file and may_be_file):
                value = ""
            else:
                if is_file:  # a service may store it with the type that was sent
                    _check_content_type(accepted or _TEXT, sent)
                value = converted(_decoded_text(content), plan["types"])
            _add(made, name, value, listed=plan["shape"] == "array")
        return made


def _completed(plans: Mapping[str, Mapping[str, Any]], others: OtherMembers) -> Mapping[str, Mapping[str, Any]]:
    """Return the plans of members, those of any type with what schemas for all names say about them."""
    if not others:
        return plans
    made = dict(plans)
    for name, plan in plans.items():
        kind = others.kind_of(name) if is_of_any_type(plan) else None
        if kind is not None:
            made[name] = {**plan, **kind, "json": plan["json"] or kind["json"]}
    return made


def _parts(payload: bytes, content_type: bytes) -> Iterator[tuple[str, bytes | None, dict[bytes, bytes], bytes]]:
    """Yield the parts: name, name of its file or None, headers, and content. Raises `Unreadable`."""
    try:
        for headers, content in parts_of(payload, boundary_of(content_type)):
            name, file_name = names_of(headers)
            yield _decoded_text(name), file_name, headers, content
    except InvalidMultipart as error:
        raise Unreadable("multipart", str(error)) from error


def _media_type(content_type: bytes) -> str:
    """Return the type of a part, which is a text if it has none (RFC 7578 section 4.4) or no valid one (RFC 2045
    section 5.2).
    """
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type.decode() if _MEDIA_TYPE(media_type) else "text/plain"


def _check_content_type(accepted: Sequence[str] | None, sent: str) -> None:
    if accepted is not None and not any(
        each in (sent, "*/*") or (each.endswith("/*") and sent.startswith(each[:-1])) for each in accepted
    ):
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


def _decoded_text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Unreadable("encoding", "expected UTF-8") from None
