"""Standard output and errors of the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any, NoReturn

import msgspec
import typer

from fastgw import config
from fastgw.commands.exit_codes import WRONG
from fastgw.commands.options import Format


class OutputLost(Exception):
    """Standard output cannot be written: its disk is full, for example."""


class _StandardOutput(FileIO):
    """Standard output, whose errors are `OutputLost`, unlike those of other files. A closed pipe is left to click."""

    was_closed = False
    """Whether it was closed at the start, so that /dev/null is in its place: the first write is the error."""

    def write(self, data: Any, /) -> int:
        if self.was_closed:
            self.was_closed = False
            raise OutputLost("it is closed")
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(error.strerror) from error


def name_output_errors() -> None:
    usual = sys.stdout
    if isinstance(usual, TextIOWrapper):
        raw = _StandardOutput(usual.fileno(), "wb", closefd=False)
        sys.stdout = TextIOWrapper(
            BufferedWriter(raw),
            usual.encoding,
            usual.errors,
            line_buffering=usual.line_buffering,
            write_through=usual.write_through,
        )
    elif usual is None:
        raw = _StandardOutput(1, "wb", closefd=False)
        raw.was_closed = True
        sys.stdout = TextIOWrapper(BufferedWriter(raw), "utf-8", "surrogateescape")


def fill_standard_descriptors() -> None:
    """Open /dev/null in place of a closed stdin, stdout or stderr; otherwise the next opened file would take its
    number.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, so it is this one


def print_json(value: object) -> None:
    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError:  # an argument, such as the name of a file, is in it and not UTF-8
        text = msgspec.json.encode(printable(msgspec.to_builtins(value)))
    typer.echo(msgspec.json.format(text))


def printable(value: Any) -> Any:
    """Return the value with other bytes than UTF-8 in its texts as `\\udcff`, as the text of errors has them."""
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case list() | tuple():
            return [printable(each) for each in value]
        case dict():
            return {printable(key): printable(each) for key, each in value.items()}
    return value


def fail(code: int, *lines: str) -> NoReturn:
    for line in lines:
        typer.echo(line, err=True)
    raise typer.Exit(code)


def refuse(answer: Format, problems: Sequence[config.Problem], excerpts: Mapping[config.Problem, str] = {}) -> NoReturn:
    """Report that files are invalid: on stderr, or as JSON in place of the output."""
    if answer is not Format.JSON:
        fail(WRONG, *with_excerpts(problems, excerpts))
    print_json({"problems": problems})
    raise typer.Exit(WRONG)


def with_excerpts(problems: Sequence[config.Problem], excerpts: Mapping[config.Problem, str]) -> Iterator[str]:
    """Yield a line for each problem, followed by the excerpt for syntax errors."""
    for problem in problems:
        yield str(problem)
        if problem in excerpts:
            yield excerpts[problem]
