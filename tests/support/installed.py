"""The package as a gateway finds it installed: linked file by file, some of them changed, and swapped in one step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import fastgw

PACKAGE = Path(fastgw.__file__).parent

Change = tuple[str, str]
"""What a file says, and what it says in this version. ("", text): text is added at its end."""


class Installed:
    """A folder for `environment`'s PYTHONPATH. What is there first is the package as it is, but for `changes`."""

    def __init__(self, directory: Path, changes: Mapping[str, Change] | None = None) -> None:
        self._directory = directory
        self._versions = 0
        self.path = directory / "installed"
        self.put(changes)

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.path)}

    def put(self, changes: Mapping[str, Change] | None = None) -> None:
        """Install another version. Who has begun to import the one before goes on with files that stay."""
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
