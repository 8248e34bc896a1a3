"""An installed package for a gateway: linked file by file, with some files changed, and replaced in one step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import fastgw

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
        self._versions += 1
        version = self._directory / f"version {self._versions}"
        for folder, _, files in os.walk(PACKAGE):
            (version / "fastgw" / Path(folder).relative_to(PACKAGE)).mkdir(parents=True)
            for name in files:
                file = Path(folder, name)
                (version / "fastgw" / file.relative_to(PACKAGE)).symlink_to(file)
        for name, (old, new) in (changes or {}).items():
            file = version / "fastgw" / name
            text = file.read_text()
            assert old in text, f"{name} does not say {old!r}"
            file.unlink()
            file.write_text(text.replace(old, new) if old else text + new)
        link = self._directory / "link"
        link.symlink_to(version)
        os.replace(link, self.path)
