"""From a file, or from the command line, to a configuration that is right in every part."""

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct

from fastgw.config.documents import read_all
from fastgw.config.filter_rules import FilterRules
from fastgw.config.merging import merge
from fastgw.config.problems import ConfigError, Problem
from fastgw.config.rules import RULES
from fastgw.config.settings import MOST_WORKERS, AccessLog, Config, Listener, Route, Status
from fastgw.config.values import ADDRESS, URL, Notation

MOST_TOLD: Final = 1000
"""How many problems, and how many notes, are told one by one."""


class Loaded(Struct, frozen=True):
    """A configuration, and what there is to say about it."""

    config: Config
    notes: tuple[Problem, ...]
    """Not wrong, but perhaps not meant: filters that replace or remove others."""
    files: tuple[str, ...]
    """Every file it was read from, the main one first."""


def load(file: str, filter_types: Mapping[str, type]) -> Loaded:
    """Read a file and all it includes, and check everything.

    `filter_types`: by name, the struct of each filter's settings. Raises `ConfigError` with every problem there is;
    only when a file cannot be taken apart at all, what depends on its content stays unsaid.
    """
    found = read_all(file)
    merged = merge(found.documents, filter_types)
    notes = found.notes
    if all(document.value is not None for document in found.documents):
        for rule in RULES:
            rule(merged)
        notes += FilterRules(merged, filter_types).check()
    order = {document.name: number for number, document in enumerate(found.documents)}
    problems = found.problems + [problem for reading in merged.readings for problem in reading.problems]
    if problems:
        raise ConfigError(_told(problems, order))
    return Loaded(merged.config(), tuple(_told(notes, order)), tuple(order))


def from_flags(
    listen: str, to: str, *, workers: int | None = None, access_log: str | None = None, status: str | None = None
) -> Config:
    """The configuration of `fastgw run --listen … --to …`. Raises `ConfigError` whose problems name the flags."""
    problems: list[Problem] = []

    def parsed(flag: str, text: str, notation: Notation) -> Any:
        try:
            return notation.parse(text)
        except ValueError as error:
            problems.append(Problem("", 0, 0, flag, str(error), f"expected {notation.expected}"))
            return None

    given: dict[str, Any] = {}
    address = parsed("--listen", listen, ADDRESS)
    url = parsed("--to", to, URL)
    if status is not None:
        given["status"] = Status(address=parsed("--status", status, ADDRESS))
    if workers is not None:
        given["workers"] = workers
        if not 1 <= workers <= MOST_WORKERS:
            expected = f"expected a whole number from 1 to {MOST_WORKERS}"
            problems.append(Problem("", 0, 0, "--workers", str(workers), expected))
    if access_log is not None:
        given["access_logs"] = (AccessLog(sink=os.path.abspath(access_log)),)
    if problems:
        raise ConfigError(problems)
    return Config(
        version=1,
        listeners=MappingProxyType({"main": Listener(address=address)}),
        routes=(Route(name="all", upstream=url),),
        **given,
    )


def _told(problems: Iterable[Problem], order: Mapping[str, int]) -> list[Problem]:
    """By file, as they are included, then by line; each once; at most `MOST_TOLD`, and how many more there are."""
    told = sorted(dict.fromkeys(problems), key=lambda each: (order.get(each.file, -1), each.line, each.column))
    if len(told) > MOST_TOLD:
        told[MOST_TOLD:] = [Problem(next(iter(order)), 0, 0, "", f"and {len(told) - MOST_TOLD} more")]
    return told
