"""Files that survive a crash: replaced as a whole, after their contents are on the disk."""

import os
from contextlib import suppress


def replace(path: str, content: bytes, *, new: str) -> None:
    """Replace a file, which only its owner may read. Afterwards it survives a crash, and until then the former one
    does.

    `new`: name of the file in the same folder that becomes it, of this process alone; killed processes leave it behind.
    Raises `OSError`.
    """
    try:
        with suppress(FileNotFoundError):
            os.unlink(new)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.rename(new, path)
    except OSError:
        with suppress(OSError):
            os.unlink(new)
        raise
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
