"""Parameters in the styles of OpenAPI (RFC 6570): from the text of a request to the value that its schema describes.

Delimiters are looked for before percent-decoding, so an encoded one is data. A parameter that is no array and is sent
twice is an error: two readers could take different values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import unquote_to_bytes

from fastgw.filters.policies.content.number_comparisons import takes_long_to_check
from fastgw.filters.policies.content.parameter_pairs import Unreadable, pairs_in
from fastgw.filters.policies.content.schemas import converted
from fastgw.filters.policies.openapi.members import NO_MEMBERS, LikelyMembers
from fastgw.http.json.invalid import InvalidJson
from fastgw.http.json.strict import parse_json
from fastgw.http.percent_encoding import decode_form_text

if TYPE_CHECKING:
    from fastgw.exchange import Exchange

_DELIMITERS: Final = {
    "form": re.compile(rb","),
    "cookie": re.compile(rb","),
    "spaceDelimited": re.compile(rb"%20|\+"),
    "pipeDelimited": re.compile(rb"\||%7[Cc]"),
}
_OF_MEMBERS: Final = ("array", "object", "null")
"""Types that no text on its own is of."""
MOST_MEMBERS: Final = 1000
"""Maximum number of elements and members of one parameter."""

Pairs = Mapping[bytes, list[bytes]]
"""Raw values by their decoded names."""

MISSING: Final = object()
"""Value of a parameter that the request does not have."""
_ONCE: Final = "expected the parameter once"
_MOST_ELEMENTS: Final = f"expected at most {MOST_MEMBERS} elements"
_MOST_OF_OBJECT: Final = f"expected at most {MOST_MEMBERS} members"
_MOST_OF_JSON: Final = f"expected at most {MOST_MEMBERS} elements and members, and fewer numbers"


def _text(raw: bytes) -> str:
    """Return a percent-decoded text. Raises `Unreadable`."""
    try:
        return (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
    except UnicodeDecodeError:
        raise Unreadable("encoding", "expected UTF-8") from None


def _form_text(raw: bytes) -> str:
    try:
        return decode_form_text(raw).decode()
    except UnicodeDecodeError:
        raise Unreadable("encoding", "expected UTF-8") from None


@final
class Style:
    """Reader of values in one style. `plan`: the parameter as `config.openapi.parameters` describes it."""

    __slots__ = (
        "_additional",
        "_closed",
        "_decode",
        "_deep",
        "_items",
        "_likely",
        "_properties",
        "_scalars",
        "_style",
        "explode",
        "name",
        "shape",
        "types",
    )

    def __init__(self, name: str, plan: Mapping[str, Any]) -> None:
        self.name = name.encode()
        self.shape: str = plan.get("shape", "scalar")
        self.explode: bool = plan.get("explode", False)
        self.types: tuple[str, ...] = tuple(plan.get("types", ()))
        self._scalars: Sequence[str] = ()
        self._style: str = plan.get("style", "form")
        if self._style == "deepObject" and (self.shape == "object" or "items" in plan):
            self._scalars = [each for each in self.types if each not in _OF_MEMBERS]
        self._items = tuple(plan.get("items", plan.get("types", ())))
        self._likely = LikelyMembers(plan["likely"]) if plan.get("likely") else NO_MEMBERS
        properties: dict[str, list[str]] = plan.get("properties", {})
        if self._likely is not NO_MEMBERS:
            properties = {each: types or self._likely.types_of(each) or [] for each, types in properties.items()}
        self._properties = properties
        self._additional: tuple[str, ...] = tuple(plan.get("additional", ()))
        self._closed: bool = plan.get("in") != "querystring" and (plan.get("closed", False) or not self._additional)
        self._deep = self.name + b"["
        self._decode = _form_text if plan.get("in") != "cookie" else _COOKIE_TEXTS[self._style]

    def takes(self, name: bytes) -> bool:
        """Whether a name in a query belongs to this parameter."""
        if self._style == "deepObject":
            is_member = name.startswith(self._deep) and name.endswith(b"]")
            return is_member or (name == self.name and bool(self._scalars))
        if self.shape == "object" and self.explode:
            return name.decode("utf-8", "replace") in self._properties
        return name == self.name

    @property
    def takes_others(self) -> bool:
        """Whether every name of a query that no other parameter has belongs to this one."""
        return self.shape == "object" and self.explode and self._style == "form" and not self._closed

    def names_in(self, pairs: Pairs) -> list[bytes]:
        """Return the names that belong to this parameter."""
        if self._style == "deepObject" or (self.shape == "object" and self.explode):
            return [name for name in pairs if self.takes(name)]
        return [self.name] if self.name in pairs else []

    def from_pairs(self, pairs: Pairs) -> Any:
        """Return the value from the names and values of a query, form or cookie; `MISSING`: there is none.
        Raises `Unreadable`.
        """
        if self._style == "deepObject":
            return self._from_deep(pairs)
        if self.shape == "object" and self.explode:
            own = [(name.decode("utf-8", "replace"), raw) for name, values in pairs.items() for raw in values]
            taken = [(name, raw) for name, raw in own if name in self._properties or not self._closed]
            return self._object([(name, self._decode(raw)) for name, raw in taken]) if taken else MISSING
        values = pairs.get(self.name)
        if values is None:
            return MISSING
        if self.shape == "array" and self.explode:
            return self._array(map(self._decode, values))
        if len(values) > 1:
            raise Unreadable("repeated", _ONCE)
        if self.shape == "scalar":
            return converted(self._decode(values[0]), self.types)
        parts = [self._decode(each) for each in self._counted(_DELIMITERS[self._style].split(values[0]))]
        if self.shape == "array":
            return self._array(parts if values[0] else ())
        return self._object(_alternating(parts))

    def from_text(self, raw: bytes) -> Any:
        """Return the value from a part of a path, or a header. Raises `Unreadable`."""
        if self._style == "label":
            return self._from_label(raw)
        if self._style == "matrix":
            return self._from_matrix(raw)
        if self.shape == "scalar":
            return converted(_text(raw), self.types)
        return self._from_list(raw, b",")

    def _from_list(self, raw: bytes, delimiter: bytes) -> Any:
        parts = [_text(each.strip(b" \t")) for each in self._counted(raw.split(delimiter))] if raw else []
        if self.shape == "array":
            return self._array(parts)
        return self._object(_with_equals(parts) if self.explode else _alternating(parts))

    def _from_label(self, raw: bytes) -> Any:
        if not raw.startswith(b"."):
            raise Unreadable("style", "expected a dot before the value")
        if self.shape == "scalar":
            return converted(_text(raw[1:]), self.types)
        return self._from_list(raw[1:], b"." if self.explode else b",")

    def _from_matrix(self, raw: bytes) -> Any:
        begin = b";" + self.name
        if self.shape == "object" and self.explode and raw.startswith(b";"):
            return self._object(_with_equals([_text(each) for each in self._counted(raw[1:].split(b";"))]))
        if self.shape == "array" and self.explode and raw.startswith(begin + b"="):
            pieces = [each.partition(b"=") for each in self._counted(raw[1:].split(b";"))]
            if any(name != self.name for name, _, _ in pieces):
                raise Unreadable("style", "expected the name before each value")
            return self._array(_text(value) for _, _, value in pieces)
        if not raw.startswith(begin + b"=") and raw != begin:
            raise Unreadable("style", "expected `;` and the name before the value")
        value = raw[len(begin) + 1 :]
        return converted(_text(value), self.types) if self.shape == "scalar" else self._from_list_plain(value)

    def _from_list_plain(self, raw: bytes) -> Any:
        parts = [_text(each) for each in self._counted(raw.split(b","))]
        return self._array(parts) if self.shape == "array" else self._object(_alternating(parts))

    def _from_deep(self, pairs: Pairs) -> Any:
        """Return the object of `name[member]`, or the array of `name[]` or `name[0]`: OpenAPI says nothing about arrays
        in this style, nor about other values, but documents have them.
        """
        names = self.names_in(pairs)
        if self.name in names:
            if len(names) > 1 or len(pairs[self.name]) > 1:
                raise Unreadable("repeated", _ONCE)
            return converted(_form_text(pairs[self.name][0]), self._scalars)
        found: list[tuple[str, str]] = []
        for name in names:
            inner = _text_of(name[len(self._deep) : -1])
            if "[" in inner or "]" in inner:
                raise Unreadable("style", "expected one level of members, name[member]")
            found += [(inner, _form_text(raw)) for raw in pairs[name]]
        if not found:
            return MISSING
        may_be_object = "object" in self.types  # whose members may have numbers as names
        if self.shape == "array" and all(
            not inner or (inner == str(place) and not may_be_object) for place, (inner, _) in enumerate(found)
        ):
            return self._array(text for _, text in found)
        return self._object(found)

    def _counted(self, parts: list[bytes]) -> list[bytes]:
        """Return the parts of a value, which are names and values in turn, or elements. Raises `Unreadable`, before
        any is decoded, if there are too many.
        """
        if self.shape == "array" and len(parts) > MOST_MEMBERS:
            raise Unreadable("maxItems", _MOST_ELEMENTS)
        if len(parts) > 2 * MOST_MEMBERS:
            raise Unreadable("maxProperties", _MOST_OF_OBJECT)
        return parts

    def _array(self, texts: Iterable[str]) -> list[Any]:
        made = [converted(text, self._items) for text in texts]
        if len(made) > MOST_MEMBERS:
            raise Unreadable("maxItems", _MOST_ELEMENTS)
        return made

    def _types_of(self, name: str) -> Sequence[str]:
        """Return the types of a member that is no property."""
        if self._additional and not self._likely.excludes(name):
            return self._additional
        likely = self._likely.types_of(name)
        return self._additional if likely is None else likely

    def _object(self, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, text in pairs:
            types = self._properties[name] if name in self._properties else self._types_of(name)
            value = converted(text, types)
            if "array" in types:
                made.setdefault(name, []).append(value)
            elif name in made:
                raise Unreadable("repeated", "expected each member once")
            else:
                made[name] = value
        if len(made) > MOST_MEMBERS:
            raise Unreadable("maxProperties", _MOST_OF_OBJECT)
        return made


def _text_of(raw: bytes) -> str:
    """Return decoded bytes as text. Raises `Unreadable`."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Unreadable("encoding", "expected UTF-8") from None


_COOKIE_TEXTS: Final = {"form": _text, "cookie": _text_of}
"""Functions for the text of a cookie, by its style. A plus sign is one (RFC 6265 section 4.1.1), and the style `cookie`
of OpenAPI 3.2 has no escapes at all."""


def _alternating(parts: list[str]) -> Iterable[tuple[str, str]]:
    """Return the pairs of `R,100,G,200`. Raises `Unreadable`."""
    if len(parts) % 2:
        raise Unreadable("style", "expected names and values in turn")
    return zip(parts[::2], parts[1::2], strict=True)


def _with_equals(parts: list[str]) -> Iterable[tuple[str, str]]:
    """Return the pairs of `R=100,G=200`. Raises `Unreadable`."""
    pairs = [each.partition("=") for each in parts]
    if not all(mark for _, mark, _ in pairs):
        raise Unreadable("style", "expected name=value")
    return [(name, value) for name, _, value in pairs]


def json_value(raw: bytes) -> Any:
    """Return the value of a text that is JSON. Raises `Unreadable`."""
    try:
        return parse_json(raw)
    except InvalidJson as error:
        raise Unreadable("json", str(error)) from None


def json_parameter(raw: bytes, listed: int) -> Any:
    """Return the value of a parameter that is JSON. `listed`: numbers that its schema lists (`numbers_listed`).

    Raises `Unreadable`, also for one with more than `MOST_MEMBERS` elements and members in all its arrays and objects,
    or with numbers that take long to compare.
    """
    if takes_long_to_check(raw, listed):
        raise Unreadable("maxItems", _MOST_OF_JSON)
    value = json_value(raw)
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MOST_MEMBERS and _members_of(value) > MOST_MEMBERS:
        raise Unreadable("maxItems", _MOST_OF_JSON)
    return value


def _members_of(value: Any) -> int:
    """Return the number of elements and members in a value and all values below."""
    count, left = 0, [value]
    while left:
        each = left.pop()
        inner = each.values() if isinstance(each, dict) else each
        if isinstance(each, dict | list):
            count += len(each)
            left += inner
    return count


def query_pairs(query: bytes | None, called: str = "parameters") -> Pairs:
    """Return the parameters of a query, or the fields of a form. Raises `Unreadable` if there are too many."""
    pairs: dict[bytes, list[bytes]] = {}
    for pair in pairs_in(query or b"", b"&", called):
        name, _, value = pair.partition(b"=")
        pairs.setdefault(decode_form_text(name), []).append(value)
    return pairs


def cookie_pairs(exchange: Exchange) -> Pairs:
    """Return the cookies of a request (RFC 6265 section 5.4). Raises `Unreadable` if there are too many."""
    pairs: dict[bytes, list[bytes]] = {}
    for pair in pairs_in(b";".join(exchange.values(b"cookie")), b";", "cookies"):
        name, mark, value = pair.partition(b"=")
        if mark:
            pairs.setdefault(name.strip(), []).append(value.strip())
    return pairs
