"""Notes on a configuration: its warnings are logged once, when it becomes active."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from fastgw.config import Loaded, Problem, Remembered
from fastgw.config.base.problems import with_counts
from fastgw.config.loading.locate_filter import Beside, Where, locate
from fastgw.filters import TYPES
from fastgw.filters.lint.warnings import warnings_of
from fastgw.gateway.authentication_bypasses import bypasses
from fastgw.gateway.hash_keys import unidentified_hash_keys
from fastgw.gateway.tables import Gateway
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice

NOTES_LISTED: Final = 20
"""Maximum number of notes of one configuration that are logged individually."""
_LOCATION: Final = re.compile(r"\([^()]*:[0-9]+\)")


def notes_of(loaded: Loaded, gateway: Gateway, remembered: Remembered | None = None) -> list[Problem]:
    """Return all notes. `gateway`: the compiled tables. `remembered`: cache of the reader."""
    unusable = [(where, f"{each.why}: calls are answered 500") for where, each in gateway.unusable.items()]
    found: list[tuple[Where, str | Beside]]
    found = [*warnings_of(loaded.config), *unidentified_hash_keys(loaded.config), *bypasses(loaded.config), *unusable]
    return [*loaded.notes, *(locate(loaded, TYPES, found, remembered) if found else ())]


def key_of(note: Problem) -> str:
    """Return the key of a note, which does not change when lines of the files move."""
    return f"{note.path}: {_LOCATION.sub('', note.wrong)}"


def new_among(notes: Iterable[Problem], known: Collection[str]) -> list[Problem]:
    """Return the notes with unknown keys, at most `NOTES_LISTED`; then one with the number of the others. Notes that
    apply to many items, such as services with one Secret, are combined.
    """
    known = frozenset(known)
    new = with_counts(note for note in notes if key_of(note) not in known)
    if len(new) > NOTES_LISTED:
        new[NOTES_LISTED:] = [
            Problem(new[0].file, 0, 0, "", f"and {len(new) - NOTES_LISTED} more; `fastgw check` lists them")
        ]
    return new


def log_notes(notes: Sequence[Problem]) -> None:
    """Log the notes."""
    for note in notes:
        notice(OperatorEvent.CONFIG_NOTE, str(note))
