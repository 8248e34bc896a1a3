"""Problems of a configuration, each with its position: one line of `fastgw check` each."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from difflib import SequenceMatcher, get_close_matches
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

from msgspec import Struct
from msgspec.structs import force_setattr, replace

Path = tuple[str | int, ...]
"""Keys and indexes from a file's root to a value."""

LOOKUPS: Final = ("dns", "srv")
"""Kinds of target lookups, as named in the configuration and in the names of virtual files."""
DISCOVERIES: Final = ("consul", "nacos", "eureka", "docker")
"""Kinds of service discovery, as named there."""
VAULT: Final = "vault"
"""Kind of secrets of Vault, as named there."""
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {ord("\n"): "\\n", ord("\t"): "\\t"}
_LONGEST = 300
_EXPECTED: Final = "expected "
_NAMES_LISTED = 16
MOST_HINTS: Final = 200
"""Maximum number of hints per reading. Each one compares a name with all known names: 100,000 unknown keys took 13 s.
"""
NAMES_COMPARED: Final = 1000
_hints_left: ContextVar[int] = ContextVar("hints_left", default=MOST_HINTS)


class Problem(Struct, frozen=True):
    """An error in a configuration, or a note in `Loaded.notes`."""

    file: str
    """File name as it was given; "" for the command line."""
    line: int
    """Line number from 1; 0 when the file could not be read."""
    column: int
    """Column number from 1, in characters; 0 for values in TOML, where only lines are known."""
    path: str
    """Path of the setting, such as `routes[0].upstream`; "" for the file as a whole."""
    wrong: str
    expected: str = ""
    """Correct form, which follows the word "expected". "" = none, or it is in `hint`. The constructor accepts the whole
    advice, the text behind "; ", and keeps the part after the word "expected".
    """
    hint: str | None = None
    """Further advice, such as `did you mean "x"?`; "" = none. Never null."""

    def __post_init__(self) -> None:
        if self.hint is None:
            before, _, after = self.expected.partition(_EXPECTED)
            if before and not before.endswith("? "):  # "expected" is part of a sentence
                before, after = self.expected, ""
            force_setattr(self, "expected", after)
            force_setattr(self, "hint", before.rstrip())

    def __str__(self) -> str:
        location = ":".join([shown_file(self.file), *(str(number) for number in (self.line, self.column) if number)])
        advice = " ".join(filter(None, (self.hint, f"{_EXPECTED}{self.expected}" if self.expected else "")))
        said = f"{self.wrong}; {advice}" if advice else self.wrong
        return ": ".join(part for part in (location, self.path, said) if part).translate(_CONTROL)


def with_counts(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems with equal ones merged, such as those of one file that several settings name: the first of
    each, with the number of the others.
    """
    alike: dict[tuple[str, str, str | None], list[Problem]] = {}
    for each in problems:
        alike.setdefault((each.wrong, each.expected, each.hint), []).append(each)
    return [_with_count(first, len(others)) for first, *others in alike.values()]


def _with_count(problem: Problem, more: int) -> Problem:
    noun = "place" if more == 1 else "places"
    return replace(problem, wrong=f"{problem.wrong} (and in {more} other {noun})") if more else problem


def shown_file(name: str) -> str:
    """Return a file's name for people. The virtual files of DNS lookups and of other services have names of their own,
    which only look like URLs.
    """
    kind, is_url, rest = name.partition("://")
    if is_url and kind == "acme":
        return rest.rpartition("?")[0]  # a file on the disk
    if is_url and kind in (VAULT, *DISCOVERIES):
        rest = unquote(rest.partition("/")[2])
    elif not is_url or kind not in LOOKUPS:
        return name
    return f"{kind}: {rest.partition('?')[0]}"


class ConfigError(Exception):
    """An invalid configuration. `problems`: all problems, by file and line. `excerpts`: lines of syntax errors, for
    terminals of users who can read the files; never for logs or responses.
    """

    def __init__(self, problems: Iterable[Problem], excerpts: Mapping[Problem, str] = MappingProxyType({})) -> None:
        self.problems = tuple(problems)
        self.excerpts = excerpts
        super().__init__("\n".join(map(str, self.problems)))


def path_text(path: Path) -> str:
    """Return a path as text, such as `routes[0].filters.size`. Ambiguous keys are put in brackets and quotes."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[\w/-]+", step):
            text += f".{step}" if text else step
        else:
            text += f'["{shorten(step)}"]'
    return text


def format_value(value: Any) -> str:
    """Return a value as a problem shows it."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{shorten(value)}"'
        case int() | float():
            return shorten(str(value))
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def begin_hints() -> None:
    """Start a reading: reset the number of hints that are left to `MOST_HINTS`."""
    _hints_left.set(MOST_HINTS)


def nearest(name: str, known: Iterable[str], similarity: float = 0.6) -> str | None:
    """Return the known name most similar to a name, in any case. None if none is similar, if this reading has no hints
    left, or if there are too many names to compare. `similarity`: from 0, of any two names, to 1, of equal ones.
    """
    left = _hints_left.get()
    _hints_left.set(left - 1)
    if left <= 0 or len(names := sorted(known)) > NAMES_COMPARED:
        return None
    in_lower_case = {each.lower(): each for each in reversed(names)}
    near = get_close_matches(name.lower(), in_lower_case, n=1, cutoff=similarity)
    return in_lower_case[near[0]] if near else None


def _similarity(compared: SequenceMatcher[str], known: str) -> float:
    compared.set_seq1(known)
    return compared.ratio()


def suggest(name: str, known: Iterable[str], first: Sequence[str] = (), similarity: float = 0.6) -> str:
    """Suggest names in place of an unknown one: the nearest known one, or several when none is near, the most similar
    ones first. `first`: known names to list before the others; `similarity`: as for `nearest`.
    """
    if _hints_left.get() <= 0:
        return ""
    names = [*first, *sorted({*known}.difference(first))]
    near = nearest(name, names, similarity)
    if near is not None:
        return f'did you mean "{near}"?'
    if _NAMES_LISTED < len(names) <= NAMES_COMPARED:
        compared = SequenceMatcher(None, b=name.lower())
        names[len(first) :] = sorted(names[len(first) :], key=lambda each: -_similarity(compared, each.lower()))
    listed = ", ".join(f'"{known_name}"' for known_name in names[:_NAMES_LISTED])
    if len(names) > _NAMES_LISTED:
        listed += f" or {len(names) - _NAMES_LISTED} more"
    return f"expected one of {listed}" if names else "none is defined"
