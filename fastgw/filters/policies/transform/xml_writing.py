"""XML from a template: elements and attributes are those of the configuration, values are escaped text.

Rule: the template is parsed when it is loaded; a value never becomes markup.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from fastgw.filters.policies.transform.values import (
    AT_ONCE,
    LARGEST_VALUE,
    BodyValues,
    Maker,
    UnmappableBody,
    Variables,
    compile_expression,
    compile_value,
)
from fastgw.filters.policies.transform.xml_reading import parse_xml
from fastgw.http.json.tree import rendered, text_of

EACH: Final = "each"
"""Attribute of an element that is repeated: an expression whose result is an array. Expressions within the element look
at the element of the array."""
_SPACE: Final = " \t\r\n"
"""White space of XML; other white space, such as a no-break space, is text."""
_DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
# XML 1.0 section 2.2.
# PERF: as the complement of the allowed ones it takes 4 ms to compile, not 0.1 (CPython 3.11, `python -X importtime`).
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]").search

_ELEMENT_STEPS: Final = 3
"""Steps (`BodyValues.take_steps`) that each element of a repeated one takes, without those of its values.

PERF: 6 us for an element with one value, 35 us with six (CPython 3.11)."""

Piece: TypeAlias = "str | Callable[[BodyValues, list[str]], None]"
"""Markup, or a function that appends the text of values."""


def compile_xml_template(template: str, most: int = AT_ONCE) -> Callable[[bytes, Variables], bytes]:
    """Return the function that builds an XML document from a JSON body. Raises `ValueError`. `most`: as for
    `compile_mapping`.
    """
    try:
        parse_xml(template.encode())  # namespaces, no document type
    except UnmappableBody as error:
        raise ValueError(f"`xml_template`: {error}") from error
    reading = _TemplateReading()
    parser = expat.ParserCreate("utf-8")
    parser.ordered_attributes = True
    parser.buffer_text = True
    parser.StartElementHandler = reading.start
    parser.EndElementHandler = reading.end
    parser.CharacterDataHandler = reading.text
    parser.Parse(template.strip(), True)
    pieces = reading.open_elements[0]

    def build(body: bytes, variables: Variables) -> bytes:
        out = [_DECLARATION]
        _write(pieces, BodyValues(body, variables, most), out)
        return "".join(out).encode()

    return build


def _write(pieces: list[Piece], values: BodyValues, out: list[str]) -> None:
    for piece in pieces:
        if isinstance(piece, str):
            out.append(piece)
        else:
            piece(values, out)


class _TemplateReading:
    """Handlers of the template's parser. `open_elements`: pieces of the document, and of each repeated element."""

    def __init__(self) -> None:
        self.open_elements: list[list[Piece]] = [[]]
        self._repeated: list[Callable[[BodyValues], Any] | None] = []
        self._text = ""  # since the last tag
        self._is_first = False  # the last tag is a start tag

    def start(self, name: str, attributes: list[str]) -> None:
        self._end_text(is_last=False)
        pairs = dict(zip(attributes[::2], attributes[1::2], strict=True))
        each = pairs.pop(EACH, None)
        self._repeated.append(None if each is None else compile_expression(each))
        if each is not None:
            self.open_elements.append([])
        pieces = self.open_elements[-1]
        pieces.append(f"<{name}")
        for attribute, value in pairs.items():
            if "{" in value or "}" in value:
                pieces.append(_attribute(attribute, compile_value(value, f"@{attribute}")))
            else:
                pieces.append(f" {attribute}={quoteattr(value)}")
        pieces.append(">")
        self._is_first = True

    def end(self, name: str) -> None:
        self._end_text(is_last=True)
        self.open_elements[-1].append(f"</{name}>")
        expression = self._repeated.pop()
        if expression is not None:
            pieces = self.open_elements.pop()
            self.open_elements[-1].append(_repeat(expression, pieces))

    def text(self, text: str) -> None:
        self._text += text

    def _end_text(self, *, is_last: bool) -> None:
        """Write the text before a tag. `is_last`: the tag is the end tag of its element."""
        text, self._text = self._text, ""
        is_first, self._is_first = self._is_first, False
        pieces = self.open_elements[-1]
        core = text.strip(_SPACE)
        if not text or (not core and "\n" in text):
            return  # nothing, or indentation
        if "{" not in core and "}" not in core:
            pieces.append(_escaped(text))
            return
        before, _, after = text.partition(core)
        # Next to a tag of another element a line break separates words, as a space does.
        before = "" if is_first and "\n" in before else before
        after = "" if is_last and "\n" in after else after
        make = compile_value(core, "text")  # without the spaces, so that a single expression is one
        begin, end = _escaped(before), _escaped(after)
        pieces.append(lambda values, out: out.append(f"{begin}{_escaped(_text(make, values) or '')}{end}"))


def _escaped(text: str) -> str:
    """Return character data. A carriage return is written as a reference, because parsers read a plain one as a line
    feed (XML 1.0 section 2.11).

    PERF: 2,500 instructions for a short text, 5,000 by `escape` of `xml.sax.saxutils` (CPython 3.11, micro/mapping).
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")


def _attribute(name: str, make: Maker) -> Piece:
    def write(values: BodyValues, out: list[str]) -> None:
        text = _text(make, values)
        if text is not None:
            out.append(f" {name}={quoteattr(text)}")

    return write


def _repeat(expression: Callable[[BodyValues], Any], pieces: list[Piece]) -> Piece:
    def write(values: BodyValues, out: list[str]) -> None:
        found = expression(values)
        held = [] if found is None else values.open_node(found)
        if not isinstance(held, list):
            raise UnmappableBody(f"the expression of `{EACH}` is no array")
        values.take_steps(_ELEMENT_STEPS * len(held))
        for element in held:
            part = values.part(rendered(element))
            _write(pieces, part, out)
            values.steps = part.steps
            if len(out) > LARGEST_VALUE // 8:
                raise UnmappableBody("the XML is too large")

    return write


def _text(make: Maker, values: BodyValues) -> str | None:
    """Return the text of a value; None: it is missing. Raises `UnmappableBody` for what XML cannot hold."""
    node = make(values)
    if node is None or node == b"null":
        return None
    held = text_of(node)
    if held is None:
        raise UnmappableBody("an object or array cannot be the text of an element or attribute")
    text = held.decode()
    if _FORBIDDEN(text) is not None:
        raise UnmappableBody("a value has a character that XML cannot hold")
    return text
