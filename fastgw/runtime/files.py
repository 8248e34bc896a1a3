"""Files that the gateway watches: whether any has changed since it was last looked at.

Looked at, not subscribed to: it works on every file system, and when a folder is swapped below a link, which is how
mounted secrets are renewed.
"""

import os
from collections.abc import Iterable
from typing import Final

LOOK_EVERY: Final = 0.5
"""Seconds."""

Trait = tuple[int, int, int, int]
UNSEEN: Final[Trait] = (0, 0, 0, 0)


class FileWatch:
    """Knows the files as they were at the last look. One that was not looked at yet is taken to have changed: nobody
    knows what it was when it was read."""

    def __init__(self) -> None:
        self._seen: dict[str, Trait | None] = {}

    def watch(self, paths: Iterable[str]) -> None:
        """Watch these from now on. One that is watched already keeps what was seen of it."""
        self._seen = {path: self._seen.get(path, UNSEEN) for path in paths}

    def changed(self) -> bool:
        """Whether any is other than it was at the last look."""
        before, self._seen = self._seen, {path: _trait(path) for path in self._seen}
        return self._seen != before


def _trait(path: str) -> Trait | None:
    """What changes with a file's contents; None when it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
