"""An installed package for a gateway: linked, with some files changed, and replaced in one step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import fastgw
from tests.support.forked import may_be_path, may_not_be_path

PACKAGE = Path(fastgw.__file__).parent

Change = tuple[str, str]
"""Text of a file to replace, and its replacement. ("", text): text is appended."""


class Installed:
    """A folder for `environment`'s PYTHONPATH. It begins with the package, with `changes` applied."""

    def __init__(self, directory: Path, changes: Mapping[str, Change] | None = None) -> None:
        self._directory = directory
        self._versions = 0
        self.path = directory / "installed"
        self.put(changes)

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.path)}

    def put(self, changes: Mapping[str, Change] | None = None) -> None:
        """Install another version. A process that is importing the previous one still finds its files."""
        if changes:
            may_not_be_path(self.path)
        else:
            may_be_path(self.path)
        self._versions += 1
        version = self._directory / f"version {self._versions}"
        _link(PACKAGE, version / "fastgw", [Path(name) for name in changes or ()])
        for name, (old, new) in (changes or {}).items():
            file = version / "fastgw" / name
            text = file.read_text()
            assert old in text, f"{name} does not say {old!r}"
            file.unlink()
            file.write_text(text.replace(old, new) if old else text + new)
        link = self._directory / "link"
        link.symlink_to(version)
        os.replace(link, self.path)


def _link(source: Path, target: Path, changed: Sequence[Path]) -> None:
    """Link what is in a directory. Directories with `changed` files, and with bytecode beside these, are real ones."""
    target.mkdir(parents=True)
    for entry in source.iterdir():
        inside = [
            each.relative_to(entry.name) for each in changed if len(each.parts) > 1 and each.parts[0] == entry.name
        ]
        if inside or entry.name == "__pycache__":
            _link(entry, target / entry.name, inside)
        else:
            (target / entry.name).symlink_to(entry)
