"""YAML 1.2, from libyaml's events.

PyYAML's own loaders follow YAML 1.1 (`on` is a boolean, `010` is 8), accept duplicate keys, and take 2.2 s for 10,000
routes instead of 0.3. Anchors and aliases are supported; tags, complex keys and the merge key `<<` are not.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Final, NoReturn

from yaml.error import MarkedYAMLError, YAMLError
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.scanner import Scanner

from fastgw.config.base.problems import Path
from fastgw.config.formats import syntax_messages
from fastgw.config.formats.positions import DEEPEST, Mark, Position, PositionMap, Repeat, SyntaxProblem, marker
from fastgw.config.formats.syntax_messages import found_in


class PureEvents(Reader, Scanner, Parser):
    """Events by PyYAML's own parser, twenty times slower: for installations without libyaml."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


Events: Callable[[str], Any]
try:
    from yaml.cyaml import CParser as Events  # type: ignore[attr-defined]  # its stub does not export it
except ImportError:
    Events = PureEvents

MOST_BY_ALIAS: Final = 100_000
"""Maximum number of values that aliases may repeat in total, so that a small file cannot expand to a huge one."""

_INTEGER = re.compile(r"[-+]?[0-9]{1,1000}|0o[0-7]{1,1000}|0x[0-9a-fA-F]{1,1000}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")
_WORDS: Final = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "false": False}


@lru_cache(maxsize=4096)
def plain(text: str) -> Any:
    """Return the value of an unquoted scalar by the core schema of YAML 1.2, without `.inf` and `.nan`."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def read(text: str) -> tuple[Any, bool]:
    """Return the document, and whether it has a duplicate key (the first one counts; `trace` finds its position)."""
    with _flaws(text):
        reader = _Reader(Events(text).get_event)
        return reader.document(), reader.repeats


def trace(text: str) -> PositionMap:
    """Return the positions of all values of a text that `read` accepts."""
    tracer = _Tracer(Events(text).get_event)
    return PositionMap(tracer.document(), tuple(tracer.repeats))


def read_stream(text: str) -> Iterator[tuple[Any, bool]]:
    """Yield the value of each document of a stream, which may hold secrets: errors quote nothing. Raises
    `SyntaxProblem` after the last valid document.
    """
    with _flaws(text):
        next_event = Events(text).get_event
        next_event()  # start of the stream
        while not isinstance(next_event(), StreamEndEvent):
            reader = _Reader(next_event, shows=False)
            yield reader.value(), reader.repeats


def trace_stream(text: str) -> Iterator[PositionMap]:
    """Yield the positions of each document of a stream, up to where `read_stream` reads it."""
    with suppress(YAMLError, SyntaxProblem):
        next_event = Events(text).get_event
        next_event()
        while not isinstance(next_event(), StreamEndEvent):
            tracer = _Tracer(next_event)
            yield PositionMap(tracer.spot(), tuple(tracer.repeats))


@contextmanager
def _flaws(text: str) -> Iterator[None]:
    """Context manager that converts the parser's errors to `SyntaxProblem`."""
    try:
        yield
    except MarkedYAMLError as error:
        raise _flaw(text, error) from error
    except ReaderError as error:
        wrong, expected, mark = found_in(syntax_messages.YAML, error.reason, marker(text)(error.position))
        raise SyntaxProblem(f"not valid YAML: {wrong}", mark, expected) from error


def _flaw(text: str, error: MarkedYAMLError) -> SyntaxProblem:
    found = error.problem_mark or error.context_mark
    assert found is not None
    began = error.context_mark
    lines = text.splitlines()
    here = lines[found.line] if found.line < len(lines) else ""
    signs = {
        "end": not here[found.column :].strip() and not any(line.strip() for line in lines[found.line + 1 :]),
        "later": began is not None and began.line < found.line,
        "second": ": " in here[: found.column],
        "tab": here[found.column : found.column + 1] == "\t",
    }
    said = ": ".join(part for part in (error.context, error.problem) if part)
    said += "".join(f" [{name}]" for name, is_so in signs.items() if is_so)
    wrong, expected, mark = found_in(
        syntax_messages.YAML, said, _mark_of(found), None if began is None else _mark_of(began)
    )
    return SyntaxProblem(f"not valid YAML: {wrong}", mark, expected)


def _mark_of(mark: Any) -> Mark:
    return mark.line + 1, mark.column + 1


def _mark(event: Any) -> Mark:
    return _mark_of(event.start_mark)


def _refuse(event: Any, wrong: str) -> NoReturn:
    raise SyntaxProblem(wrong, _mark(event))


class _Reader:
    def __init__(self, next_event: Callable[[], Any], *, shows: bool = True) -> None:
        self._next = next_event
        self._shows = shows
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._made = 0
        self._by_alias = 0
        self.repeats = False

    def document(self) -> Any:
        self._next()  # start of the stream
        if isinstance(self._next(), StreamEndEvent):
            return None
        value = self.value()
        following = self._next()
        if not isinstance(following, StreamEndEvent):
            _refuse(following, "more than one YAML document; expected one per file")
        return value

    def value(self) -> Any:
        """Read the value of a document, from after its start to after its end."""
        value = self._value(self._next(), DEEPEST)
        assert isinstance(self._next(), DocumentEndEvent)
        return value

    def _value(self, event: Any, deeper: int) -> Any:
        kind = type(event)
        if kind is AliasEvent:
            return self._repeated(event)
        if event.tag is not None:
            tag = f"the tag {event.tag}" if self._shows else "a tag, or an unquoted string that starts with `!`"
            _refuse(event, f"{tag}; tags are not supported")
        if not deeper:
            _refuse(event, f"nested more than {DEEPEST} levels deep")
        before = self._made
        self._made += 1
        value: Any
        if kind is ScalarEvent:
            value = plain(event.value) if event.implicit[0] else event.value
        elif kind is MappingStartEvent:
            value = {}
            while type(event_of_key := self._next()) is not MappingEndEvent:
                if type(event_of_key) is not ScalarEvent:
                    _refuse(event_of_key, "a key that is not a string")
                key = event_of_key.value
                each = self._value(self._next(), deeper - 1)
                self.repeats |= key in value
                value.setdefault(key, each)
        else:
            value = []
            while type(inner := self._next()) is not SequenceEndEvent:
                value.append(self._value(inner, deeper - 1))
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._made - before
        return value

    def _repeated(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            alias = f"the alias *{event.anchor}" if self._shows else "an alias"
            _refuse(event, f"{alias} has no anchor before it")
        value, size = self._anchors[event.anchor]
        self._made += size
        self._by_alias += size
        if self._by_alias > MOST_BY_ALIAS:
            _refuse(event, f"aliases that repeat more than {MOST_BY_ALIAS} values")
        return value


class _Tracer:
    def __init__(self, next_event: Callable[[], Any]) -> None:
        self._next = next_event
        self._anchors: dict[str | None, Position] = {}
        self.repeats: list[Repeat] = []

    def document(self) -> Position:
        self._next()
        return Position((1, 1), (1, 1)) if isinstance(self._next(), StreamEndEvent) else self.spot()

    def spot(self) -> Position:
        """Return the position of a document's value, from after its start to after its end."""
        event = self._next()
        spot = self._spot(event, _mark(event), ())
        self._next()
        return spot

    def _spot(self, event: Any, key: Mark, path: Path) -> Position:
        spot = Position(_mark(event), key)
        if isinstance(event, AliasEvent):
            anchored = self._anchors.get(event.anchor, spot)  # a stream may contain what `read_stream` rejects
            spot.children, spot.empty = anchored.children, anchored.empty
            return spot
        if len(path) >= DEEPEST:
            _refuse(event, f"nested more than {DEEPEST} levels deep")
        if isinstance(event, MappingStartEvent):
            while not isinstance(key_event := self._next(), MappingEndEvent):
                if not isinstance(key_event, ScalarEvent):
                    _refuse(key_event, "a key that is not a string")
                name, mark = key_event.value, _mark(key_event)
                child = self._spot(self._next(), mark, (*path, name))
                if name in spot.children:
                    self.repeats.append(Repeat((*path, name), mark, spot.children[name].key))
                else:
                    spot.children[name] = child
        elif isinstance(event, SequenceStartEvent):
            while not isinstance(inner := self._next(), SequenceEndEvent):
                index = len(spot.children)
                spot.children[index] = self._spot(inner, _mark(inner), (*path, index))
        else:
            spot.empty = event.implicit[0] and not event.value
        if event.anchor is not None:
            self._anchors[event.anchor] = spot
        return spot
