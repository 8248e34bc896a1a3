"""Current nginx and HAProxy: those of a newer Debian if `make bench-peers` has fetched them, else those of this
machine.

They are not run in a chroot, but by that Debian's loader with its libraries, so that they see the same files, and are
ordinary processes to the kernel.
"""

import shutil
from pathlib import Path
from typing import Final, NamedTuple

SUITE: Final = "trixie"
ROOT: Final = Path(__file__).parents[2] / "build" / "roots" / SUITE
"""Directory into which `make bench-peers` installs that Debian."""


class Program(NamedTuple):
    """How a program is run. `origin`: its distribution, shown with its version; empty for this machine's own."""

    command: tuple[str, ...]
    origin: str = ""
    root: Path = Path("/")
    """Return the root of the files that it was installed with."""

    def version(self, told: str | None) -> str | None:
        """Return the version for people. `told`: as the program prints it."""
        return told if told is None or not self.origin else f"{told} ({self.origin})"


def find_program(name: str, root: Path = ROOT) -> Program:
    """Find a program. `name`: in /usr/sbin of Debian."""
    there = root / "usr" / "sbin" / name
    loaders = sorted(root.glob("usr/lib*/ld-linux*.so.*"))
    if not there.exists() or not loaders:
        return Program((shutil.which(name) or name,))
    libraries = sorted({str(file.parent) for file in root.glob("usr/lib/*/libc.so.*")})
    return Program((str(loaders[0]), "--library-path", ":".join(libraries), str(there)), f"Debian {root.name}", root)
