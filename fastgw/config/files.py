"""The contents of files: each is read once, so that the bytes that are checked are the bytes that are used."""

import errno
import os
import stat
from collections.abc import Mapping
from typing import Final

from fastgw.config.spots import Flaw

LARGEST: Final = 64 * 1024 * 1024
"""How many bytes are read of a configuration's own files together, and as many again of those that it names."""
_TOO_LONG: Final = "longer than {} MiB"


def read_file(name: str, most: int) -> bytes:
    """All of a file. Raises `OSError`, also for a pipe or device, which may never end or begin; `Flaw` above `most`."""
    mode = os.stat(name).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder is refused by `open`, in clearer words
        raise OSError(errno.EINVAL, "Not a regular file")
    with open(name, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it has been replaced since
            raise OSError(errno.EINVAL, "Not a regular file")
        raw = file.read(most + 1)
    if len(raw) > most:
        raise Flaw(f"longer than {most} bytes")
    return raw


class Disk:
    """Reads files, each once; `LARGEST` bytes of all of them together."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}
        self._left = LARGEST

    @property
    def held(self) -> Mapping[str, bytes]:
        """What was read, by the name it was asked for."""
        return self._held

    def read(self, name: str) -> bytes:
        """All of a file, the same bytes each time. Raises `Flaw`."""
        if name not in self._held:
            try:
                raw = read_file(name, self._left)
            except OSError as error:
                raise Flaw(f"cannot be read: {error.strerror or error}") from error
            except Flaw as flaw:
                more = " with the files before it" if self._held else ""
                raise Flaw(_TOO_LONG.format(LARGEST // 1024**2) + more) from flaw
            self._left -= len(raw)
            self._held[name] = raw
        return self._held[name]


class Memory:
    """Files as they were read before: nothing is looked at on disk."""

    def __init__(self, held: Mapping[str, bytes]) -> None:
        self.held = held

    def read(self, name: str) -> bytes:
        """All of a file. Raises `Flaw`."""
        if name not in self.held:
            raise Flaw("cannot be read: it was not captured")
        if len(self.held[name]) > LARGEST:
            raise Flaw(_TOO_LONG.format(LARGEST // 1024**2))
        return self.held[name]


Files = Disk | Memory


def _open_at_once(name: str, flags: int) -> int:
    """Without waiting for a writer, should there be a pipe in the file's place by now."""
    return os.open(name, flags | os.O_NONBLOCK)
