"""Forms: the values of `application/x-www-form-urlencoded` and `multipart/form-data` (RFC 7578), with bounds.

Parts of multipart bodies are read by `http.multipart`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, final

from fastgw.filters.policies.content.parameter_pairs import Unreadable
from fastgw.filters.policies.content.schemas import converted
from fastgw.filters.policies.openapi.members import LikelyMembers, MemberKind
from fastgw.filters.policies.openapi.parameters import MISSING, Style, json_value, query_pairs
from fastgw.http.charsets import is_utf8
from fastgw.http.multipart import InvalidMultipart, boundary_of, names_of, parts_of
from fastgw.http.percent_encoding import decode_form_text

_MEDIA_TYPE: Final = re.compile(rb"[!#-'*+.0-9A-Z^-z|~-]+/[!#-'*+.0-9A-Z^-z|~-]+").fullmatch
_TEXT: Final = ("text/plain",)
"""Content type of a text without an `encoding` in the document (OpenAPI 3.1, Encoding Object)."""
_ANY: Final[Mapping[str, Any]] = {"shape": "scalar", "types": (), "json": False}


@final
class UrlencodedForm:
    """Reader of urlencoded forms."""

    __slots__ = ("_fields", "_json", "_likely", "_others")

    def __init__(self, plan: Mapping[str, Any]) -> None:
        """`plan`: the form as `config.openapi.bodies` describes it."""
        self._others: Mapping[str, Any] = plan["others"] or _ANY
        self._likely = LikelyMembers(plan["likely"])
        fields: Mapping[str, Mapping[str, Any]] = plan["fields"]
        self._fields = {
            name: Style(name, self._completed(name, held)) for name, held in fields.items() if not held["json"]
        }
        self._json = {name.encode(): (name, held["shape"] == "array") for name, held in fields.items() if held["json"]}

    def _completed(self, name: str, field: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a field without types with those that it is likely to have."""
        kind = self._likely.kind_of(name) if _is_of_any_type(field) and field["style"] == "form" else None
        return field if kind is None or kind["shape"] == "object" else {**field, **kind}

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
        others = self._others
        kind = _likely_kind(self._likely, others, name)
        if kind is not None:
            _add(made, name, _likely_value(_decoded_text(value), kind), listed=kind["shape"] == "array")
            return
        other = json_value(value) if others["json"] else converted(_decoded_text(value), others["types"])
        _add(made, name, other, listed=others["shape"] == "array")


@final
class MultipartForm:
    """Reader of multipart forms. Files and other binary parts are empty texts in the value: they are not validated.

    Whether a part is a file is up to the document. A file name alone makes none: a client could pass by the schema of a
    text.
    """

    __slots__ = ("_fields", "_likely", "_likely_fields", "_others")

    def __init__(self, plan: Mapping[str, Any]) -> None:
        """`plan`: the form as `config.openapi.bodies` describes it."""
        self._fields: Mapping[str, Mapping[str, Any]] = plan["fields"]
        self._others: Mapping[str, Any] | None = plan["others"]
        """Kind of members without a name in the document; None: their values have no schema."""
        self._likely = LikelyMembers(plan["likely"])
        untyped = [name for name, held in self._fields.items() if _is_of_any_type(held) and not held["bytes"]]
        kinds = {name: self._likely.kind_of(name) for name in untyped}
        self._likely_fields = {
            name: kind for name, kind in kinds.items() if kind is not None and not _is_of_any_type(kind)
        }

    def value(self, payload: bytes, content_type: bytes) -> dict[str, Any]:
        """Return the object. Raises `Unreadable`."""
        made: dict[str, Any] = {}
        for name, file_name, headers, content in _parts(payload, content_type):
            is_file = file_name is not None
            plan = self._fields.get(name, self._others)
            sent = _media_type(headers.get(b"content-type", b""))
            is_json = sent == "application/json" or sent.endswith("+json")
            kind = None if is_file or (is_json and plan is not None) else self._kind_of(name)
            if plan is None or (kind is not None and name not in self._fields):
                if kind is not None and not is_utf8(headers.get(b"content-type", b"")):
                    raise Unreadable("encoding", "expected UTF-8")
                is_binary = plan is not None and plan["binary"]
                text = "" if is_file else _text_or_none(content) if is_binary else _decoded_text(content)
                value = text if kind is None else _likely_value(text, kind)
                _add(made, name, value, listed=kind is not None and kind["shape"] == "array")
                continue
            accepted = plan.get("content_types")
            _check_content_type(accepted, sent)
            may_be_file = plan["file"] or (accepted is not None and not sent.startswith("text/"))
            if not (is_file and may_be_file) and not is_utf8(headers.get(b"content-type", b"")):
                raise Unreadable("encoding", "expected UTF-8")
            if plan["json"] or (is_json and not (plan["bytes"] and self._likely.kind_of(name) is None)):
                value = json_value(content)
            elif kind is not None and sent.startswith("text/"):
                _add(made, name, _likely_value(_text_or_none(content), kind), listed=kind["shape"] == "array")
                continue
            elif plan["binary"] or (is_file and may_be_file):
                value = ""
            else:
                if is_file:  # a service may store it with the type that was sent
                    _check_content_type(accepted or _TEXT, sent)
                value = converted(_decoded_text(content), plan["types"])
            _add(made, name, value, listed=plan["shape"] == "array")
        return made

    def _kind_of(self, name: str) -> MemberKind | None:
        """Return what a part is likely to be, if `properties` and `additionalProperties` do not say so."""
        if name in self._fields:
            return self._likely_fields.get(name)
        return _likely_kind(self._likely, self._others or _ANY, name)


def _is_of_any_type(field: Mapping[str, Any]) -> bool:
    return field["shape"] == "scalar" and not field["types"]


def _likely_kind(likely: LikelyMembers, others: Mapping[str, Any], name: str) -> MemberKind | None:
    """Return what a member without a name in the document is likely to be. None: it is what `others` says."""
    return likely.kind_of(name) if _is_of_any_type(others) or likely.excludes(name) else None


def _likely_value(text: str, kind: MemberKind) -> Any:
    """Return the value of the text of a member, or of an element of it: the text itself if it has no other."""
    if kind["shape"] == "object":
        try:
            return json_value(text.encode())
        except Unreadable:
            return text
    return converted(text, kind["types"])


def _text_or_none(content: bytes) -> str:
    """Return a text; that of bytes which are none is empty, as that of files."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return ""


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
        if not isinstance(held, list):
            raise Unreadable("repeated", "expected each field once")
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
