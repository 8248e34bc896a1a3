"""nginx and HAProxy as they are today: those of a newer Debian where `make bench-peers` has fetched them, else this
machine's own.

They run in no root of their own, but by that Debian's loader on its libraries, so that they see the same files and are
the same processes to the kernel as all others.
"""

import shutil
from pathlib import Path
from typing import Final, NamedTuple

SUITE: Final = "trixie"
ROOT: Final = Path(__file__).parents[2] / "build" / "roots" / SUITE
"""Where `make bench-peers` has put that Debian."""


class Program(NamedTuple):
    """How a program is run. `origin`: whose it is, to be told beside its version; empty for this machine's own."""

    command: tuple[str, ...]
    origin: str = ""
    root: Path = Path("/")
    """Where the files lie that it was installed with."""

    def version(self, told: str | None) -> str | None:
        """`told`: as it tells it."""
        return told if told is None or not self.origin else f"{told} ({self.origin})"


def find_program(name: str, root: Path = ROOT) -> Program:
    """`name`: of a program that Debian has in /usr/sbin."""
    there = root / "usr" / "sbin" / name
    loaders = sorted(root.glob("usr/lib*/ld-linux*.so.*"))
    if not there.exists() or not loaders:
        return Program((shutil.which(name) or name,))
    libraries = sorted({str(file.parent) for file in root.glob("usr/lib/*/libc.so.*")})
    return Program((str(loaders[0]), "--library-path", ":".join(libraries), str(there)), f"Debian {root.name}", root)
