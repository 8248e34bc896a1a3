"""Include patterns: `*`, `?` and `[…]` within a name, `**` for any number of folders.

The standard library's glob follows symlink loops and searches whole disks; this one reads at most `MOST` names.
"""

import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import translate
from glob import has_magic
from typing import Final

from fastgw.config.formats.positions import OUT_OF, OutOfResources, SyntaxProblem

MOST: Final = 10_000
"""Maximum number of directory entries read for one configuration."""


class Search:
    """Search for files that match patterns; fails after `MOST` names."""

    def __init__(self) -> None:
        self._left = MOST

    def find(self, folder: str, pattern: str) -> list[str]:
        """Return the matches, sorted; the pattern is relative to `folder`. Raises `SyntaxProblem` if there are too many
        names.
        """
        found: Iterable[str] = ["/" if pattern.startswith("/") else folder]
        for part in filter(None, pattern.split("/")):
            if part == "**":
                found = self._folders(found)
            elif has_magic(part):
                found = self._matching(found, part)
            else:
                found = [os.path.join(each, part) for each in found]
        return sorted({each for each in found if os.path.lexists(each)})

    def _matching(self, folders: Iterable[str], part: str) -> Iterator[str]:
        matches = re.compile(translate(part)).match
        for folder in folders:
            for entry in self._entries(folder):
                if matches(entry.name) and (part.startswith(".") or not entry.name.startswith(".")):
                    yield os.path.join(folder, entry.name)

    def _folders(self, folders: Iterable[str]) -> Iterator[str]:
        """Yield these folders and all below them, except hidden ones and symlinks."""
        waiting = [*folders]
        while waiting:
            folder = waiting.pop()
            yield folder
            waiting += (
                os.path.join(folder, entry.name)
                for entry in self._entries(folder)
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            )

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder or ".") as listed:
                for entry in listed:
                    self._left -= 1
                    if self._left < 0:
                        raise SyntaxProblem(f"more than {MOST} directory entries")
                    yield entry
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            if getattr(error, "errno", None) in OUT_OF:
                raise OutOfResources(f"{folder} cannot be read: {error}") from error
            return  # not a folder, or not readable: no files
