"""File watch: detects whether files of the gateway have changed since the last check.

It polls instead of subscribing: polling works on every file system, and if a directory is swapped below a symlink,
which is how mounted secrets are updated.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from fastgw.config.formats.positions import OutOfResources, SyntaxProblem
from fastgw.config.sources.dns_targets import is_lookup, keep_lookups, turn_of
from fastgw.config.sources.documents import Source, patterns_of
from fastgw.config.sources.files import pattern_in
from fastgw.config.sources.followed_files import is_followed
from fastgw.config.sources.include_globs import Search
from fastgw.config.sources.virtual_files import is_derived, is_issued, is_watched, issued_in
from fastgw.config.sources.virtual_files import turn_of as turn_of_watched

LOOK_EVERY: Final = 0.5
"""Seconds between two checks."""

Trait = tuple[int, int, int, int] | tuple[str, ...]
"""Fingerprint of a file, which changes with its contents; for a pattern: the files that it matches."""
Traits = Mapping[str, Trait | None]
UNSEEN: Final[Trait] = (0, 0, 0, 0)


class FileWatch:
    """State of the files and pattern matches at the last check. A file that was not checked yet counts as changed,
    because its state when it was read is unknown."""

    def __init__(self) -> None:
        self._seen: dict[str, Trait | None] = {}

    def watch(self, paths: Iterable[str]) -> None:
        """Watch these files from now on. Files that are watched already keep their state."""
        self._seen = {path: self._seen.get(path, UNSEEN) for path in paths if not is_derived(path)}
        keep_lookups(self._seen)

    def changed(self) -> bool:
        """Whether any has changed since the last check. Without descriptors or memory to find out: not yet."""
        search = Search()
        before = self._seen
        try:
            now = {name: _trait_of_pattern(search, name) if pattern_in(name) else trait_of(name) for name in before}
        except OutOfResources:
            return False
        self._seen = now
        return now != before


class SourceWatch:
    """State of the files of a configuration when it was last loaded."""

    def __init__(self) -> None:
        self._taken: Traits | None = None  # None: unknown
        self._again = False  # whether the last change is reported once more
        self._seen: Traits | None = None
        self._sources: Sequence[Source] = ()
        self._patterns: Sequence[tuple[str, str]] = ()  # patterns of these sources

    def settled(self, sources: Sequence[Source], *, posted: bool) -> bool:
        """Whether they have changed and are stable since the last check. Reported once.

        `sources`: of the active configuration, with their includes. `posted`: the active configuration was not read
        from these files, and stays active until they change: newly named files count as unchanged. Raises
        `SyntaxProblem` if they include more files than can be checked.
        """
        is_other = sources is not self._sources
        patterns = patterns_of(sources) if is_other else self._patterns
        search = Search()
        names = {each.name for each in sources if not each.upstream}  # targets set by the API are not a file
        try:
            for folder, pattern in patterns:
                names.update(search.find(folder, pattern))
        except OutOfResources:
            return False  # the next check finds out
        self._sources, self._patterns = sources, patterns
        before, self._seen = self._seen, {name: trait_of(name) for name in names}
        if is_other and posted:
            self._again = False  # the operator has decided after the change
        if is_other and posted and (before is None or self._taken is not None):
            known = self._taken or {}
            self._taken = {name: known.get(name, trait) for name, trait in self._seen.items()}
        if self._seen != before or (self._seen == self._taken and not self._again):
            return False
        self._taken, self._again = self._seen, False
        return True

    def forget_settled(self) -> None:
        """Report the last change again: it could not be loaded."""
        self._again = True


def _trait_of_pattern(search: Search, name: str) -> Trait | None:
    """Return the fingerprint of a pattern. None: it matches more files than can be checked."""
    try:
        return tuple(search.find("/", pattern_in(name)))
    except SyntaxProblem:
        return None


def trait_of(path: str) -> Trait | None:
    """Return the fingerprint of a file, which changes with its contents; None if it does not exist."""
    if is_lookup(path):
        return (turn_of(path),)
    if is_watched(path) or is_followed(path):
        return (str(turn_of_watched(path)),)
    try:
        found = os.stat(issued_in(path)[0] if is_issued(path) else path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
