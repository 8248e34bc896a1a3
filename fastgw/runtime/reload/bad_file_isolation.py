"""Isolation of bad files: if a changed secret, key set or consumer file makes the configuration invalid, that file
keeps its last valid contents, and all other changes become active.

Independent of the kind of error: a failing configuration is retried without the changed files.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeVar

from fastgw.config.base.problems import ConfigError, Problem
from fastgw.config.sources.files import pattern_in
from fastgw.config.sources.virtual_files import is_derived

MOST: Final = 8
"""Maximum number of files that are held back in turn, those named in an error first."""

T = TypeVar("T")
Files = Mapping[str, bytes]


def changed(before: Files, now: Files) -> list[str]:
    """Return the files (not patterns) that have changed or are new. Derived files depend on others and are left out."""
    different = (file for file, content in now.items() if before.get(file) != content)
    return [file for file in different if not pattern_in(file) and not is_derived(file)]


def previous_contents(before: Files, now: Files, held: Collection[str]) -> dict[str, bytes]:
    """Return replacements for present contents by which these files have their previous state, possibly missing."""
    taken = {file: before[file] for file in held if file in before}
    new = {file.encode("utf-8", "surrogateescape") for file in held if file not in before}
    for name, content in now.items() if new else ():
        if pattern_in(name) and new.intersection(found := content.split(b"\0")):
            taken[name] = b"\0".join(each for each in found if each not in new)
    return taken


def with_previous(before: Files, now: Files, held: Collection[str]) -> dict[str, bytes]:
    """Return the present contents, with the previous contents of these files."""
    kept = {file: content for file, content in now.items() if file in before or file not in held}
    return kept | previous_contents(before, now, held)


def tried(
    make: Callable[[Collection[str]], T], files: Sequence[str], known: Mapping[str, str]
) -> tuple[T, dict[str, str]]:
    """Return the result of `make` with as few of these files held back as possible, and the reason for each.

    `known`: files held back before, with reasons. Raises the `ConfigError` of `make` if no file is the cause.
    """
    try:
        return make(()), {}
    except ConfigError as error:
        first = error
    likely = sorted(files, key=lambda file: file not in known and not _named(file, first.problems))[:MOST]
    again = [file for file in likely if file in known]
    for held in ([again] if again[1:] else []) + [[file] for file in likely]:
        try:
            made = make(held)
        except ConfigError:
            continue
        return made, {file: _describe_problem(file, first) if len(held) == 1 else known[file] for file in held}
    if not likely[1:]:
        raise first
    return _one_by_one(make, likely, first)


def _one_by_one(
    make: Callable[[Collection[str]], T], files: Sequence[str], first: ConfigError
) -> tuple[T, dict[str, str]]:
    """Try the files one by one, because several are bad, or none."""
    held = dict.fromkeys(files, "")
    try:
        made = make(held)
    except ConfigError:
        raise first from None
    for file in files:
        fewer = [each for each in held if each != file]
        try:
            made = make(fewer)
            del held[file]
        except ConfigError as error:
            held[file] = _describe_problem(file, error)
    return made, held


def _named(file: str, problems: Sequence[Problem]) -> bool:
    return any(file in (problem.file, *problem.wrong.split()) or problem.file.endswith(file) for problem in problems)


def _describe_problem(file: str, error: ConfigError) -> str:
    """Describe, in one line, the error of the file with its position."""
    problem = next((each for each in error.problems if _named(file, [each])), error.problems[0])
    if problem.file == file:
        return str(problem)
    location = f"{problem.path} in {problem.file}:{problem.line}" if problem.path else problem.file
    wrong = problem.wrong if file in problem.wrong else f"{file}: {problem.wrong}"
    return f"{wrong} ({location})"
