"""Reads files, parses them by their format, and follows their includes."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from glob import has_magic
from types import ModuleType
from typing import Any, Final

from msgspec import Struct

from fastgw.config.base import redacted_problems
from fastgw.config.base.problems import Path, Problem, format_value, path_text, shown_file
from fastgw.config.formats import json, toml, yaml
from fastgw.config.formats.excerpt import excerpt
from fastgw.config.formats.positions import Mark, PositionMap, SyntaxProblem, marker
from fastgw.config.sources.environment_variables import KEY as VARIABLE
from fastgw.config.sources.environment_variables import VariableError, text_of, variable_in
from fastgw.config.sources.files import Disk, Memory
from fastgw.config.sources.include_globs import Search

FORMATS: Final[Mapping[str, ModuleType]] = {
    ".yaml": yaml,
    ".yml": yaml,
    ".toml": toml,
    ".json": json,
}


class Source(Struct, frozen=True):
    """A configuration file as it was read, with everything that is needed to parse it again."""

    name: str
    """Name of the source as given, used in problems."""
    text: bytes
    folder: str = ""
    """Folder that names in it are relative to: an absolute path, or "" for the folder of `name`."""
    suffix: str = ""
    """Suffix of a file in this format; "" = that of `name`."""
    upstream: str = ""
    """Upstream whose targets the source lists; "" = the source is a configuration file."""
    quotes: bool = True
    """Whether problems may quote it."""

    def __repr__(self) -> str:  # the text may hold secrets
        return f"<{self.name}, {len(self.text)} bytes>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("name", self.name)]


class Document:
    """A parsed file. `problems`: its syntax errors; `value`: None if it has no usable value.

    `read` returns its bytes or raises `SyntaxProblem`. `folder`, `suffix`, `upstream`: as in `Source`. `most_values`:
    maximum number of values; None: no limit.
    """

    trusted = True
    """Whether environment variables may be used: not in a document from the API."""
    quotes = True
    """Whether problems may quote it (`unquoted`)."""
    is_generated = False
    """Whether a provider has made it of what others wrote: it may name derived files only."""

    def __init__(
        self,
        name: str,
        read: Callable[[], bytes],
        folder: str = "",
        suffix: str = "",
        upstream: str = "",
        *,
        trusted: bool = True,
        quotes: bool = True,
        most_values: int | None = None,
    ) -> None:
        self.name = name
        self._most_values = most_values
        self.trusted, self.quotes = trusted, quotes
        self.upstream = upstream
        self.folder = folder or _folder_of(name)
        self.problems: list[Problem] = []
        self.excerpts: dict[Problem, str] = {}
        """Lines of syntax errors with a mark below the column, for users who may read the file (`excerpt`)."""
        self.value: Any = None
        self._suffix = suffix
        self._raw = b""
        self._format = FORMATS.get(suffix or os.path.splitext(name)[1].lower())
        self._text = ""
        try:
            self._raw = read()
            self._take_apart()
        except SyntaxProblem as flaw:
            problem = self._problem(flaw.mark, (), flaw.wrong, flaw.expected, has_column=True)
            self.problems.append(problem)
            if self.quotes and (shown := excerpt(self._text, flaw.mark)):
                self.excerpts[problem] = shown
        except RecursionError:
            self.problems.append(self._problem((0, 0), (), "nested too deep"))

    @property
    def text(self) -> str:
        """Text of the file; "" for a document that is not a configuration file."""
        return self._text

    @property
    def source(self) -> Source:
        return Source(self.name, self._raw, self.folder, self._suffix, self.upstream, self.quotes)

    def problem(self, path: Path, wrong: str, expected: str = "", *, at_key: bool = False) -> Problem:
        """Return a problem with the value at a path; `at_key`: it is about the key, or about a missing value."""
        spot = self._trace.root.find(path)
        name = self._variable_at(path)
        if name and self.plain_text({VARIABLE: name}) in wrong:  # a rule has rejected the variable's value
            wrong = f"the environment variable {name} does not have a valid value for this setting"
        if expected and self.quotes and self._is_expansion(path):
            expected += "; `${…}` is not expanded: write {env: NAME} in place of the whole value"
        return self._problem(spot.key if at_key else spot.value, path, wrong, expected)

    def _is_expansion(self, path: Path) -> bool:
        """Whether a value is text with a shell variable in it."""
        value = self._value_at(path)
        return isinstance(value, str) and re.search(r"\$\{[A-Za-z_]\w*\}", value) is not None

    def _variable_at(self, path: Path) -> str:
        """Return the environment variable of a value, or of the list that contains it; "" = none."""
        return variable_in(self._value_at(path)) or ""

    def _value_at(self, path: Path) -> Any:
        """Return the value at a path, or the nearest enclosing value in the file."""
        value = self.value
        for step in path:
            is_there = (
                step in value if isinstance(value, dict) else isinstance(value, list) and step in range(len(value))
            )
            if not is_there:
                break
            value = value[step]
        return value

    def says_nothing(self, path: Path) -> bool:
        """Whether a key has no value at all where null is allowed."""
        return self._trace.root.find(path).empty

    def location(self, path: Path) -> str:
        """Return `file:line` of a key, for a problem reported elsewhere."""
        return f"{shown_file(self.name)}:{self._trace.root.find(path).key[0]}"

    def plain_text(self, value: Any) -> str:
        """Return the text at a path, also if an environment variable holds it; "" = it is not text, which the decoder
        reports.
        """
        if isinstance(value, str):
            return value
        name = variable_in(value)
        if name is None or not self.trusted:
            return ""
        try:
            return text_of(name)
        except VariableError:
            return ""

    def _problem(self, mark: Mark, path: Path, wrong: str, expected: str = "", *, has_column: bool = False) -> Problem:
        line, column = mark
        if self._format is toml and not has_column:
            column = 0
        if not self.quotes:
            path, wrong = redacted_problems.path(path), redacted_problems.wrong(wrong)
            expected = redacted_problems.expected(expected, wrong)
        return Problem(self.name, line, column, path_text(path), wrong, expected)

    @cached_property
    def _trace(self) -> PositionMap:
        assert self._format is not None
        trace: PositionMap = self._format.trace(self._text)
        return trace

    def _take_apart(self) -> None:
        if self._format is None:
            raise SyntaxProblem(f"unknown file format; expected a file name that ends in {', '.join(FORMATS)}")
        try:
            self._text = self._raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = self._raw[: error.start].decode("utf-8", "replace")
            raise SyntaxProblem("not UTF-8", marker(before)(len(before))) from error
        value, repeats = self._format.read(self._text)
        if self._most_values is not None and not _is_within(value, self._most_values):
            raise SyntaxProblem(f"more than {self._most_values} values; the limit follows from admin.document_bytes")
        if repeats:
            self.problems += (
                self._problem(repeat.mark, repeat.path, f"duplicate key; first defined on line {repeat.first[0]}")
                for repeat in self._trace.repeats
            )
        if isinstance(value, list if self.upstream else dict):
            self.value = value
        else:
            expected = "a list of targets" if self.upstream else "an object"
            wrong = "the file is empty" if value is None and not self._text.strip() else format_value(value)
            self.problems.append(self.problem((), wrong, f"expected {expected}"))


def _folder_of(name: str) -> str:
    """Return the folder of a file as an absolute path, or as it is given if the working directory has been removed:
    then the file cannot be read either, and that is the error to report.
    """
    try:
        return os.path.dirname(os.path.abspath(name))
    except FileNotFoundError:
        return os.path.dirname(name)


def _real_path(name: str) -> str:
    """Return the path of a file without links, or as it is given if the working directory has been removed."""
    try:
        return os.path.realpath(name)
    except FileNotFoundError:
        return name


def _is_within(value: Any, most: int) -> bool:
    """Whether the number of values is within a maximum; values repeated by aliases count each time."""
    waiting, count = [value], 1
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict | list):
            count += len(each)
            if count > most:
                return False
            waiting += each.values() if isinstance(each, dict) else each
    return True


@dataclass
class FoundFile:
    """A file and all that it includes, directly or indirectly, in the order of their names in the configuration."""

    documents: list[Document] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    def add(self, document: Document) -> None:
        self.documents.append(document)
        self.problems += document.problems


def read_all(
    name: str,
    read: Callable[[], bytes],
    disk: Disk,
    suffix: str = "",
    *,
    trusted: bool = True,
    most_values: int | None = None,
) -> FoundFile:
    """Read a main file by `read`, and all that it includes from disk. Files matched by several patterns are read once,
    so include cycles end. `suffix`, `trusted`, `most_values`: of the main file. An untrusted one may include any file,
    so then problems quote none of the files: names in one file are listed in problems of another."""
    all_found = FoundFile()
    search = Search()
    main = Document(name, read, suffix=suffix, trusted=trusted, most_values=most_values)
    if not trusted and _patterns(main):
        main = Document(name, read, suffix=suffix, trusted=trusted, quotes=False)
    waiting = [main]
    met = {_real_path(name)}
    while waiting:
        document = waiting.pop(0)
        all_found.add(document)
        for index, pattern in enumerate(_patterns(document)):
            path = ("include", index)
            try:
                named = search.find(os.path.dirname(document.name), pattern)
            except SyntaxProblem as flaw:
                expected = "expected a pattern that matches fewer directories"
                all_found.problems.append(document.problem(path, f"{format_value(pattern)}: {flaw.wrong}", expected))
                break
            if not named and has_magic(pattern):
                all_found.notes.append(document.problem(path, f"{format_value(pattern)} matches no file"))
            elif not named:
                all_found.problems.append(document.problem(path, f"{format_value(pattern)}: no such file"))
            for each in named:
                escaped = each.encode(errors="backslashreplace").decode()
                if escaped != each:
                    all_found.problems.append(
                        document.problem(path, f"{format_value(pattern)}: {escaped}: a name that is not UTF-8")
                    )
                    continue
                if os.path.isdir(each):
                    folder = each if has_magic(pattern) else pattern
                    wrong = f"{format_value(folder)} is a directory"
                    all_found.problems.append(
                        document.problem(path, wrong, f"expected a pattern such as {format_value(_files_in(folder))}")
                    )
                    continue
                real = _real_path(each)
                if real not in met:
                    met.add(real)
                    waiting.append(Document(each, partial(disk.read, each), quotes=main.quotes))
    return all_found


def _files_in(folder: str) -> str:
    return f"{folder.rstrip('/')}/*.yaml"


def patterns_of(sources: Sequence[Source]) -> list[tuple[str, str]]:
    """Return the include patterns of these files, file by file: folder and relative pattern."""
    texts = Memory({source.name: source.text for source in sources})
    documents = [Document(each.name, partial(texts.read, each.name), each.folder, each.suffix) for each in sources]
    return [(os.path.dirname(each.name), pattern) for each in documents for pattern in _patterns(each)]


def _patterns(document: Document) -> list[str]:
    """Return the include patterns of a document. Other values than text are reported by the decoder."""
    include = (document.value or {}).get("include")
    return [*filter(None, map(document.plain_text, include))] if isinstance(include, list) else []
