"""Path templates of `google.api.http` (google/api/http.proto, AIP-127), and the table that finds the one of a request.

Rule 1: a literal wins over `*`, and `*` over `**`, segment by segment from the left; a template with a verb wins over
one whose last segment contains the colon. Rule 2: a segment for `*` is not empty. Rule 3: nothing here walks all
templates: the time depends on the segments of the path and on the templates that begin like it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar, final

from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize

ANY: Final = b"*"
REST: Final = b"**"
ANY_METHOD: Final = b"*"
"""`kind` of a custom pattern that leaves the method unspecified."""
_LITERAL: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()+,;=@-]|%[0-9A-Fa-f]{2})+")
_FIELD_PATH: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
T = TypeVar("T")


class TemplateError(ValueError):
    """Raised for a template that cannot be used. The text says why, for people."""


class Variable(NamedTuple):
    """Part of a path that is the value of a field."""

    field_path: tuple[str, ...]
    start: int
    """Place of its first segment."""
    end: int | None
    """Place behind its last segment; None: it ends with the path."""
    is_single: bool
    """Whether it is exactly one segment: then it may contain an encoded slash."""

    def value_in(self, segments: list[bytes]) -> str:
        """Return its value. Raises `UnicodeDecodeError`."""
        if self.is_single:
            return _decoded(segments[self.start], keeps_slash=False)
        return _decoded(b"/".join(segments[self.start : self.end]), keeps_slash=True)


@final
@dataclass(frozen=True)
class PathTemplate:
    """A parsed template. `segments`: literals in normal form, `ANY`, and `REST` as the last at most."""

    text: str
    segments: tuple[bytes, ...]
    verb: bytes
    variables: tuple[Variable, ...]

    @property
    def shape(self) -> tuple[tuple[bytes, ...], bytes]:
        """The paths that it matches: templates with equal shapes match the same."""
        return self.segments, self.verb


def parse_template(text: str) -> PathTemplate:
    """Raises `TemplateError`."""
    return _Parser(text).parse()


@final
class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._segments: list[bytes] = []
        self._variables: list[Variable] = []

    def parse(self) -> PathTemplate:
        self._expect("/")
        self._parse_segments(in_variable=False)
        verb = b""
        if self._peek() == ":":
            self._at += 1
            verb = self._literal("a verb")
        if self._at < len(self._text):
            raise self._wrong("the end of the template")
        if REST in self._segments[:-1]:
            raise TemplateError(f"{self._text}: `**` is not the last segment")
        paths = [variable.field_path for variable in self._variables]
        for path in paths:
            if paths.count(path) > 1:
                raise TemplateError(f"{self._text}: the variable {'.'.join(path)} occurs twice")
        return PathTemplate(self._text, tuple(self._segments), verb, tuple(self._variables))

    def _parse_segments(self, in_variable: bool) -> None:
        while True:
            self._parse_segment(in_variable)
            if self._peek() != "/":
                return
            self._at += 1

    def _parse_segment(self, in_variable: bool) -> None:
        if self._text.startswith("**", self._at):
            self._at += 2
            self._segments.append(REST)
        elif self._peek() == "*":
            self._at += 1
            self._segments.append(ANY)
        elif self._peek() == "{":
            if in_variable:
                raise TemplateError(f"{self._text}: a variable is within another one")
            self._parse_variable()
        else:
            self._segments.append(self._literal("a segment"))

    def _parse_variable(self) -> None:
        self._at += 1
        found = _FIELD_PATH.match(self._text, self._at)
        if found is None:
            raise self._wrong("the path of a field, such as shelf.name")
        self._at = found.end()
        start = len(self._segments)
        if self._peek() == "=":
            self._at += 1
            self._parse_segments(in_variable=True)
        else:
            self._segments.append(ANY)
        self._expect("}")
        segments = self._segments[start:]
        end = None if REST in segments else len(self._segments)
        is_single = len(segments) == 1 and segments[0] != REST
        self._variables.append(Variable(tuple(found[0].split(".")), start, end, is_single))

    def _literal(self, what: str) -> bytes:
        found = _LITERAL.match(self._text, self._at)
        if found is None:
            raise self._wrong(what)
        self._at = found.end()
        literal = found[0].encode()
        try:
            normal = normalize(b"/" + literal)[1:]
        except Malformed as malformed:
            raise TemplateError(f"{self._text}: {malformed.reason}") from malformed
        if not normal or b"/" in normal:
            raise TemplateError(f"{self._text}: no path has the segment {found[0]}")
        return normal

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise self._wrong(f"`{character}`")
        self._at += 1

    def _wrong(self, expected: str) -> TemplateError:
        return TemplateError(f"{self._text or 'an empty template'}: expected {expected} at character {self._at + 1}")


def _decoded(text: bytes, keeps_slash: bool) -> str:
    def decode(escape: re.Match[bytes]) -> bytes:
        byte = bytes.fromhex(escape[1].decode("ascii"))
        return escape[0] if keeps_slash and byte == b"/" else byte

    return (_ESCAPE.sub(decode, text) if b"%" in text else text).decode("utf-8")


class TemplateMatch(NamedTuple, Generic[T]):
    """Values of the template that a path matches, by method."""

    by_method: dict[bytes, T]
    segments: list[bytes]
    """Segments of the path, without its verb."""

    def get(self, method: bytes) -> T | None:
        """Return what takes a request with this method. One that takes GET takes HEAD as well."""
        by_method = self.by_method
        found = by_method.get(method)
        if found is None and method == b"HEAD":
            found = by_method.get(b"GET")
        return by_method.get(ANY_METHOD) if found is None else found


@final
@dataclass(slots=True)
class _Node(Generic[T]):
    literals: dict[bytes, "_Node[T]"] = field(default_factory=dict)
    any: "_Node[T] | None" = None
    here: dict[bytes, dict[bytes, T]] = field(default_factory=dict)
    """Values of templates that end here, by verb and method."""
    rest: dict[bytes, dict[bytes, T]] = field(default_factory=dict)
    """Values of templates that end with `**` here."""


@final
class TemplateTable(Generic[T]):
    """Table of templates, each with a method and a value."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._verbs: set[bytes] = set()

    def add(self, template: PathTemplate, method: bytes, value: T) -> T | None:
        """Add a value. Returns the one that is there already for the same paths and method; None: it was added."""
        node = self._root
        segments = template.segments
        is_open = segments[-1] == REST
        for segment in segments[:-1] if is_open else segments:
            if segment == ANY:
                if node.any is None:
                    node.any = _Node()
                node = node.any
            else:
                node = node.literals.setdefault(segment, _Node())
        by_method = (node.rest if is_open else node.here).setdefault(template.verb, {})
        there = by_method.get(method)
        if there is None:
            by_method[method] = value
            if template.verb:
                self._verbs.add(template.verb)
        return there

    def find(self, path: bytes, method: bytes) -> tuple[TemplateMatch[T] | None, frozenset[bytes]]:
        """Return the best match for a path in normal form that takes the method; if there is none, the methods that
        the path can be requested with.
        """
        allowed: set[bytes] = set()
        for segments, verb in self._readings(path):
            for by_method in _matches(self._root, segments, 0, verb):
                found = TemplateMatch(by_method, segments)
                if found.get(method) is not None:
                    return found, frozenset()
                allowed.update(by_method)
        return None, frozenset(allowed)

    def _readings(self, path: bytes) -> Iterator[tuple[list[bytes], bytes]]:
        segments = path.split(b"/")[1:]
        last, colon, verb = segments[-1].rpartition(b":") if segments else (b"", b"", b"")
        if colon and verb in self._verbs:
            yield [*segments[:-1], last], verb
        yield segments, b""


def _matches(node: _Node[T], segments: list[bytes], at: int, verb: bytes) -> Iterable[dict[bytes, T]]:
    """Yield the values of matching templates, the best first. No deeper than the longest template."""
    if at == len(segments):
        if verb in node.here:
            yield node.here[verb]
    else:
        segment = segments[at]
        literal = node.literals.get(segment)
        if literal is not None:
            yield from _matches(literal, segments, at + 1, verb)
        if node.any is not None and segment:
            yield from _matches(node.any, segments, at + 1, verb)
    if verb in node.rest:
        yield node.rest[verb]
