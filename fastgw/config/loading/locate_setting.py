"""Finds the source positions of settings that are valid, but that this machine cannot use: an address, a file."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fastgw.config.base.problems import Path, Problem, path_text
from fastgw.config.decoding.merge import Merged, SourceLocation, merge
from fastgw.config.loading.load import Loaded
from fastgw.config.loading.locate_filter import documents_of


class UnusableSetting(NamedTuple):
    """A setting that this machine cannot use."""

    path: Path
    """Path in the whole configuration, such as `("access_logs", 0, "sink")`."""
    wrong: str
    expected: str = ""


def locate_settings(
    loaded: Loaded, filter_types: Mapping[str, type], unusable: Iterable[UnusableSetting]
) -> list[Problem]:
    """Return the problems of settings, with their positions where files have them."""
    unusable = [*unusable]
    if not unusable:
        return []
    found, known, files = documents_of(loaded, filter_types)
    merged = merge(found.documents, known, files)
    return [_problem(loaded, _location(merged, each.path), each) for each in unusable]


def _problem(loaded: Loaded, location: SourceLocation | None, unusable: UnusableSetting) -> Problem:
    if location is None:
        file = loaded.files[0] if loaded.files else ""
        return Problem(file, 0, 0, path_text(unusable.path), unusable.wrong, unusable.expected)
    return location.reading.document.problem(location.path, unusable.wrong, unusable.expected)


def _location(merged: Merged, path: Path) -> SourceLocation | None:
    """Return the position of a setting; None: it is not in the files, such as one with its default."""
    part, *steps = path
    if part in merged.lists:
        index, *steps = steps
        return merged.lists[part][int(index)][0].below(*steps)
    if part in merged.maps:
        name, *steps = steps
        return merged.maps[part][name][0].below(*steps) if name in merged.maps[part] else None
    return merged.single[part][0].below(*steps) if part in merged.single else None
