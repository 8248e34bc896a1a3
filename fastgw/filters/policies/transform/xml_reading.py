"""XML to JSON by an explicit mapping: nothing is guessed about types, lists or namespaces.

Rule: a text with a document type declaration is refused, so entities other than the five of XML cannot be defined,
expanded or fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

import orjson

from fastgw.filters.policies.transform.values import UnmappableBody
from fastgw.http.json.tree import Node, rendered

if TYPE_CHECKING:
    from fastgw.filters.policies.transform.filter import XmlInput, XmlValue

DEEPEST: Final = 64
"""Maximum depth of elements."""
MOST_ELEMENTS: Final = 5000
"""Maximum number of elements of a document: its tree is built in the event loop."""

_DOCTYPE: Final = "the XML has a document type declaration"
_MALFORMED: Final = "not well-formed XML"
_ENCODING: Final = re.compile(r"<\?xml\s[^>]*?encoding\s*=\s*[\"']([^\"']*)[\"']").match
_IS_NAME: Final = re.compile(r"(?:([A-Za-z_][\w.-]*):)?([A-Za-z_][\w.-]*)").fullmatch
_IS_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?").fullmatch
_IS_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)").fullmatch
_BOOLEANS: Final = {"true": b"true", "1": b"true", "false": b"false", "0": b"false"}
_NIL: Final = "{http://www.w3.org/2001/XMLSchema-instance}nil"
_SPACE: Final = " \t\r\n"
_NO_SPACE: Final = re.compile(r"[^ \t\r\n]").search

Reader: TypeAlias = Callable[[Element], "Node | None"]
"""Function from an element to a value in JSON; None: it is missing. Raises `UnmappableBody`."""


def parse_xml(body: bytes) -> Element:
    """Return the document element. Raises `UnmappableBody`."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnmappableBody("the XML is not UTF-8") from error
    declared = _ENCODING(text)
    if declared is not None and declared[1].lower() not in ("utf-8", "us-ascii"):
        raise UnmappableBody("the XML declares another encoding than UTF-8")
    _check_prolog(text)
    parser = XMLParser(target=_BoundedBuilder())
    try:
        parser.feed(text)
        root: Element = parser.close()
    except UnmappableBody:
        raise
    except (ParseError, ValueError) as error:
        raise UnmappableBody(_MALFORMED) from error
    level, depth = [root], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise UnmappableBody(f"the XML is nested deeper than {DEEPEST} elements")
        level = [child for element in level for child in element]
    return root


def _check_prolog(text: str) -> None:
    """Raise `UnmappableBody` if anything but white space, comments and processing instructions precedes the document
    element: a document type declaration (XML 1.0 section 2.8), or text that is not well-formed.

    It is found before the parser runs, which reads on after an exception of its target, and would expand entities. The
    parser also skips what this does not know, such as a second byte order mark.
    """
    at = _past_space(text, 0)
    while text.startswith(("<?", "<!--"), at):
        end = "?>" if text[at + 1] == "?" else "-->"
        found = text.find(end, at + 2 if end == "?>" else at + 4)
        if found < 0:
            break
        at = _past_space(text, found + len(end))
    if text.startswith("<!DOCTYPE", at):
        raise UnmappableBody(_DOCTYPE)
    if not text.startswith("<", at) or text.startswith(("<!", "<?"), at):
        raise UnmappableBody(_MALFORMED)


def _past_space(text: str, at: int) -> int:
    found = _NO_SPACE(text, at)
    return len(text) if found is None else found.start()


class _BoundedBuilder(TreeBuilder):
    """Builder of a tree with at most `MOST_ELEMENTS` elements."""

    def __init__(self) -> None:
        super().__init__()
        self._left = MOST_ELEMENTS

    def start(self, tag: str, attributes: dict[str, str], /) -> Element:
        self._left -= 1
        if self._left < 0:
            raise UnmappableBody(f"the XML has more than {MOST_ELEMENTS} elements")
        return super().start(tag, attributes)

    def doctype(self, name: str, public_id: str | None, system_id: str | None) -> None:
        raise UnmappableBody(_DOCTYPE)


def compile_xml_input(settings: XmlInput) -> Callable[[bytes], bytes]:
    """Return the function from an XML document to a JSON object. Raises `ValueError`."""
    root_names = steps_of_xml(settings.root, settings.namespaces)
    if not root_names or root_names[-1].startswith("@"):
        raise ValueError(f'"{settings.root}" is not a path of elements')
    read = _object_reader(settings.fields, settings.namespaces)

    def convert(body: bytes) -> bytes:
        root = parse_xml(body)
        found = [root] if root.tag == root_names[0] else []
        for name in root_names[1:]:
            found = [child for element in found for child in element if child.tag == name]
        if len(found) != 1:
            raise UnmappableBody(f"expected one element {settings.root}, got {len(found)}")
        return rendered(read(found[0]))

    return convert


def steps_of_xml(path: str, namespaces: Mapping[str, str]) -> list[str]:
    """Return the names of a path, with their namespaces; `.` is the element itself. Raises `ValueError`."""
    if path == ".":
        return []
    steps = path.split("/")
    made = []
    for number, step in enumerate(steps, 1):
        is_attribute = step.startswith("@") and number == len(steps)
        name = _IS_NAME(step[1:] if is_attribute else step)
        if name is None:
            raise ValueError(f'"{path}" is not a path; expected one such as soap:Body/p:Price/@currency')
        if name[1] is not None and name[1] not in namespaces:
            raise ValueError(f'"{path}" has the unknown prefix "{name[1]}"; expected it in `namespaces`')
        uri = "" if name[1] is None else f"{{{namespaces[name[1]]}}}"
        made.append(("@" if is_attribute else "") + uri + name[2])
    return made


def _object_reader(
    fields: Mapping[str, XmlValue], namespaces: Mapping[str, str]
) -> Callable[[Element], dict[str, Node]]:
    readers = [(name, _field_reader(field, namespaces)) for name, field in fields.items()]

    def read(element: Element) -> dict[str, Node]:
        made: dict[str, Node] = {}
        for name, read_field in readers:
            value = read_field(element)
            if value is not None:
                made[name] = value
        return made

    return read


def _field_reader(field: XmlValue, namespaces: Mapping[str, str]) -> Reader:
    steps = steps_of_xml(field.path, namespaces)
    inner: Mapping[str, XmlValue] = getattr(field, "fields", {})
    attribute = steps.pop()[1:] if steps and steps[-1].startswith("@") else None
    if attribute is not None and inner:
        raise ValueError(f'"{field.path}" is an attribute, which has no `fields`')
    read_object = _object_reader(inner, namespaces) if inner else None
    convert = _CONVERSIONS[field.type]

    def value_of(element: Element) -> Node | None:
        if attribute is not None:
            text = element.get(attribute)
            return None if text is None else convert(text)
        if element.get(_NIL) in ("true", "1"):
            return b"null"
        if read_object is not None:
            return read_object(element)
        if len(element):
            raise UnmappableBody(f"{field.path} has elements; expected text")
        return convert(element.text or "")

    def read(element: Element) -> Node | None:
        found = [element]
        for name in steps:
            found = [child for each in found for child in each if child.tag == name]
        values = [value for each in found if (value := value_of(each)) is not None]
        if field.list:
            return values
        if len(values) > 1:
            raise UnmappableBody(f"there is more than one {field.path}, which is no list")
        return values[0] if values else None

    return read


def _string(text: str) -> bytes:
    return orjson.dumps(text)


def _number(text: str) -> bytes:
    return _matched(text, _IS_NUMBER, "number")


def _integer(text: str) -> bytes:
    return _matched(text, _IS_INTEGER, "integer")


def _matched(text: str, matches: Callable[[str], object], what: str) -> bytes:
    text = text.strip(_SPACE)
    if matches(text) is None:
        raise UnmappableBody(f"a value is no {what}")
    return text.encode()


def _boolean(text: str) -> bytes:
    written = _BOOLEANS.get(text.strip(_SPACE))
    if written is None:
        raise UnmappableBody("a value is no boolean")
    return written


_CONVERSIONS: Final = {"string": _string, "number": _number, "integer": _integer, "boolean": _boolean}
