"""Files: read, taken apart by their format, and the files that they include."""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from glob import has_magic
from types import ModuleType
from typing import Any, BinaryIO, Final

from fastgw.config import from_json, from_toml, from_yaml
from fastgw.config.includes import Search
from fastgw.config.problems import Path, Problem, path_text, show
from fastgw.config.spots import Flaw, Mark, Trace, marker

FORMATS: Final[Mapping[str, ModuleType]] = {
    ".yaml": from_yaml,
    ".yml": from_yaml,
    ".toml": from_toml,
    ".json": from_json,
}
LARGEST: Final = 64 * 1024 * 1024
"""The longest file that is read, in bytes."""


def open_to_read(name: str) -> BinaryIO:
    """Open a file of the configuration. Raises `OSError`, also for a pipe or device, which may never end or begin."""
    mode = os.stat(name).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder is refused by `open`, in clearer words
        raise OSError(errno.EINVAL, "Not a regular file")
    return open(name, "rb")


class Document:
    """One file and what it says. `problems`: what is wrong with its text; `value` is None when it has none to use."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.value: dict[str, Any] | None = None
        self._format = FORMATS.get(os.path.splitext(name)[1].lower())
        self._text = ""
        try:
            self._read()
        except Flaw as flaw:
            self.problems.append(self._problem(flaw.mark, "", flaw.wrong))
        except RecursionError:
            self.problems.append(self._problem((0, 0), "", "nested too deep"))

    @property
    def directory(self) -> str:
        """What the names of files in it are relative to."""
        return os.path.dirname(self.name)

    def problem(self, path: Path, wrong: str, expected: str = "", *, at_key: bool = False) -> Problem:
        """What is wrong with the value of a path; `at_key` where it is about the key, or about what is not there."""
        spot = self._trace.root.find(path)
        return self._problem(spot.key if at_key else spot.value, path_text(path), wrong, expected)

    def place(self, path: Path) -> str:
        """`file:line` of a key, for a problem that lies elsewhere."""
        return f"{self.name}:{self._trace.root.find(path).key[0]}"

    def _problem(self, mark: Mark, path: str, wrong: str, expected: str = "") -> Problem:
        line, column = mark
        return Problem(self.name, line, 0 if self._format is from_toml else column, path, wrong, expected)

    @cached_property
    def _trace(self) -> Trace:
        assert self._format is not None
        trace: Trace = self._format.trace(self._text)
        return trace

    def _read(self) -> None:
        try:
            with open_to_read(self.name) as file:
                raw = file.read(LARGEST + 1)
        except OSError as error:
            raise Flaw(f"cannot be read: {error.strerror or error}") from error
        if self._format is None:
            raise Flaw(f"a file of unknown format; expected a name that ends in {', '.join(FORMATS)}")
        if len(raw) > LARGEST:
            raise Flaw(f"longer than {LARGEST // 1024**2} MiB")
        try:
            self._text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = raw[: error.start].decode("utf-8", "replace")
            raise Flaw("not UTF-8", marker(before)(len(before))) from error
        value, repeats = self._format.read(self._text)
        if repeats:
            self.problems += (
                self._problem(
                    repeat.mark, path_text(repeat.path), f"a repeated key; the first is in line {repeat.first[0]}"
                )
                for repeat in self._trace.repeats
            )
        if isinstance(value, dict):
            self.value = value
        else:
            self.problems.append(self.problem((), show(value), "expected a mapping of settings"))


@dataclass
class Found:
    """A file and all that it includes, directly or not, in the order they are named."""

    documents: list[Document] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


def read_all(name: str) -> Found:
    """Read a file and all that it includes. One that several patterns name is read once, so a circle ends."""
    all_found = Found()
    search = Search()
    waiting = [name]
    met = {os.path.realpath(name)}
    while waiting:
        document = Document(waiting.pop(0))
        all_found.documents.append(document)
        all_found.problems += document.problems
        for index, pattern in enumerate(_patterns(document)):
            place = ("include", index)
            try:
                named = search.find(document.directory, pattern)
            except Flaw as flaw:
                expected = "expected a pattern of fewer folders"
                all_found.problems.append(document.problem(place, f"{show(pattern)}: {flaw.wrong}", expected))
                break
            if not named and has_magic(pattern):
                all_found.notes.append(document.problem(place, f"{show(pattern)} names no file"))
            elif not named:
                all_found.problems.append(document.problem(place, f"{show(pattern)}: no such file"))
            for each in named:
                real = os.path.realpath(each)
                if real not in met:
                    met.add(real)
                    waiting.append(each)
    return all_found


def _patterns(document: Document) -> list[str]:
    """What a document includes; patterns that are no text are left for the check of the settings to report."""
    include = (document.value or {}).get("include")
    return [each for each in include if isinstance(each, str)] if isinstance(include, list) else []
