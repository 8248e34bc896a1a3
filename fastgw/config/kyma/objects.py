"""Kubernetes objects in files: `Application`s and `Secret`s, each with its position.

A file of a directory is YAML, with one or several documents, or JSON; each document is an object, a `List` of objects
or, in JSON, a plain array. A watch's content (`virtual_files.watched_name`) is such a JSON array. An invalid object or
file does not affect others: it becomes a note.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Final

from fastgw.config.base.problems import Path, Problem, format_value, path_text
from fastgw.config.decoding.incremental_cache import IncrementalCache
from fastgw.config.formats import json, yaml
from fastgw.config.formats.positions import Mark, PositionMap, Repeat, SyntaxProblem, marker
from fastgw.config.sources.virtual_files import is_watched

ENDINGS: Final = (".yaml", ".yml", ".json")
"""Suffixes of files that are read."""

NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_KIND: Final = re.compile(r"[A-Z][A-Za-z]{0,62}")


class Object:
    """A Kubernetes object."""

    def __init__(self, value: dict[str, Any], file: "ObjectFile", path: Path, kind: str, version: str) -> None:
        """Read kind, version, name and namespace of a value. `path`: position in the file: the number of the document,
        then keys and indexes.
        """
        self.kind = kind
        self.version = version
        """Group and version, as in `apiVersion`."""
        said = value.get("metadata")
        metadata = said if isinstance(said, dict) else {}
        self.name = _text_of(metadata, "name")
        """Name of the object; "" = none."""
        self.namespace = _text_of(metadata, "namespace")
        """Namespace of the object; "" = not set."""
        self._value: dict[str, Any] | None = value
        self._file, self._path = file, path

    def __repr__(self) -> str:  # its values may be secrets
        return f"<{self.called}>"

    @property
    def file(self) -> str:
        return self._file.name

    @property
    def value(self) -> dict[str, Any]:
        if self._value is None:
            self._value = self._file.read(self._path)
        return self._value

    def forget_value(self) -> None:
        """Drop the value, to be parsed again on demand: values take ten times the memory of their text."""
        self._value = None

    @property
    def called(self) -> str:
        """Return kind and name of the object for messages. Text that cannot be a kind or name is not shown."""
        kind = self.kind if _KIND.fullmatch(self.kind) else "object"
        return f"{kind}/{self.name}" if NAME.fullmatch(self.name) else kind

    @property
    def location(self) -> str:
        """Return `file:line`, or the file alone if lines have no meaning."""
        return self.location_of(())

    def location_of(self, path: Path) -> str:
        """Return the position of a value in it, for messages."""
        line, _ = self._file.mark((*self._path, *path))
        return f"{self.file}:{line}" if line else self.file

    def problem(self, path: Path, wrong: str, expected: str = "") -> Problem:
        """Return a problem with a value in it."""
        line, column = self._file.mark((*self._path, *path))
        about = ": ".join(part for part in (self.called, path_text(path)) if part)
        return Problem(self.file, line, column, about, wrong, expected)


class ObjectFile:
    """A file and those of its objects that can be parsed."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.objects: list[Object] = []
        self.problems: list[Problem] = []
        self.flaw: Problem | None = None
        """Syntax error after the last object."""
        self._content = content
        self._is_json = is_watched(name) or os.path.splitext(name)[1].lower() == ".json"
        try:
            self._take_apart()
        except SyntaxProblem as flaw:
            self.flaw = Problem(name, *flaw.mark, "", flaw.wrong, flaw.expected)
            self.problems.append(self.flaw)
        except RecursionError:
            self.flaw = Problem(name, 0, 0, "", "nested too deep")
            self.problems.append(self.flaw)

    def mark(self, path: Path) -> Mark:
        """Return the position of a value; (0, 0) in a watch's content."""
        if is_watched(self.name):
            return 0, 0
        number, *steps = path
        assert isinstance(number, int)
        return self._traces[number].root.find(tuple(steps)).key

    def read(self, path: Path) -> Any:
        """Parse a value again, by its path."""
        number, *steps = path
        assert isinstance(number, int)
        value, _ = next(islice(self._documents(), number, None))
        for step in steps:
            value = value[step]
        return value

    def forget_values(self) -> None:
        """Drop the values of all objects, and their positions."""
        self.__dict__.pop("_traces", None)
        for each in self.objects:
            each.forget_value()

    @cached_property
    def _traces(self) -> list[PositionMap]:
        return [json.trace(self._text)] if self._is_json else [*yaml.trace_stream(self._text)]

    @property
    def _text(self) -> str:
        return self._content.decode("utf-8-sig")

    def _documents(self) -> Iterable[tuple[Any, bool]]:
        """Yield each document, and whether it has a duplicate key."""
        return iter([json.read(self._text)]) if self._is_json else yaml.read_stream(self._text)

    def _take_apart(self) -> None:
        try:
            text = self._text
        except UnicodeDecodeError as error:
            before = self._content[: error.start].decode("utf-8", "replace")
            raise SyntaxProblem("not UTF-8", marker(before)(len(before))) from error
        if not text.strip():  # also a file that is being written, or could not be completed because the disk is full
            raise SyntaxProblem("the file is empty; expected an object, or no file at all")
        for number, (document, repeats) in enumerate(self._documents()):
            self._add(document, (number,), "", repeats)

    def _add(self, value: Any, path: Path, kind: str, repeats: bool, version: str = "") -> None:
        """Add the object at a path. `kind`, `version`: of the items of its list."""
        if value is None and path[1:] == ():  # a document with comments only
            return
        if isinstance(value, list) and self._is_json and path == (0,):
            self._add_all(value, path, "", "", repeats)
            return
        if not isinstance(value, dict):
            self._report(path, "a string" if isinstance(value, str) else format_value(value), "expected an object")
            return
        kind, version = value.get("kind", kind), value.get("apiVersion", version)
        if not (isinstance(kind, str) and kind and isinstance(version, str) and version):
            self._report(path, "no `apiVersion` and `kind`", "expected a Kubernetes object")
        elif kind.endswith("List") and isinstance(value.get("items"), list | None):
            self._add_all(value.get("items") or [], (*path, "items"), kind.removesuffix("List"), version, repeats)
        else:
            each = Object(value, self, path, kind, version)
            repeated = self._repeated(path) if repeats else None
            if repeated is None:
                self.objects.append(each)
            else:
                inner = repeated.path[len(path) - 1 :]
                self.problems.append(each.problem(inner, "duplicate key"))

    def _add_all(self, values: list[Any], path: Path, kind: str, version: str, repeats: bool) -> None:
        for index, each in enumerate(values):
            self._add(each, (*path, index), kind, repeats, version if kind else "")

    def _repeated(self, path: Path) -> Repeat | None:
        """Return a duplicate key in the object at a path."""
        number, *steps = path
        assert isinstance(number, int)
        repeats = self._traces[number].repeats
        return next((each for each in repeats if each.path[: len(steps)] == tuple(steps)), None)

    def _report(self, path: Path, wrong: str, expected: str) -> None:
        line, column = self.mark(path)
        self.problems.append(Problem(self.name, line, column, path_text(path[1:]), wrong, expected))


class ObjectFiles:
    """Cache of files of objects: parsed again only after a change."""

    def __init__(self) -> None:
        self._known: IncrementalCache[tuple[str, bytes], ObjectFile] = IncrementalCache()

    def read(self, name: str, content: bytes) -> Sequence[ObjectFile]:
        """Return the file; for the content of a watch, one for each of its lines."""
        lines = _lines(content) if is_watched(name) else ()
        files = [self._file(name, line) for line in lines]
        return files if files and not any(each.flaw for each in files) else [self._file(name, content)]

    def _file(self, name: str, content: bytes) -> ObjectFile:
        file = self._known.find((name, content))
        return self._known.store((name, content), ObjectFile(name, content) if file is None else file)

    def end_reading(self, succeeded: bool) -> None:
        """End a reading."""
        for each in self._known.values():
            each.forget_values()
        self._known.end_reading(succeeded)


def _lines(content: bytes) -> Sequence[bytes]:
    """Return the lines of an array as a watch writes it (`kubernetes_objects.Objects.content`), one object each; () for
    another form.
    """
    if not (content.startswith(_BEGINS) and content.endswith(_ENDS)):
        return ()
    return content[len(_BEGINS) : -len(_ENDS)].split(_BETWEEN)


_BEGINS, _BETWEEN, _ENDS = b"[\n", b",\n", b"\n]\n"


def _text_of(said: Mapping[str, Any], key: str) -> str:
    held = said.get(key)
    return held if isinstance(held, str) else ""
