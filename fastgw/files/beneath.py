"""Opening files beneath a folder, and reading them without waiting for the disk.

Neither `..` nor symbolic links lead out of the folder, also while others rename and replace what is in it: openat2(2)
with RESOLVE_BENEATH where the kernel has it (Linux 5.6, compiled module), else a walk from descriptor to descriptor.
Symbolic links to targets beneath the folder are followed; absolute ones are refused, as the kernel does.
"""

import errno
import os
from stat import S_ISDIR, S_ISLNK
from typing import Final

from fastgw.files import _beneath
from fastgw.files._beneath import read_at_once as read_at_once

FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""Flags for opening a file that may be anything: neither a pipe nor a terminal blocks or becomes the process's own."""
_STEP: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_LINKS: Final = 40
"""Most symbolic links in one path, as in the kernel."""
_REFUSED: Final = (errno.ENOSYS, errno.EPERM)
"""Errors of openat2 that mean that this kernel, or its sandbox, does not have it."""


def open_in_steps(folder: int, path: bytes, flags: int) -> int:
    """Open a path beneath the open directory `folder`, one step after the other, and return the descriptor.

    Raises `OSError`: EXDEV if the path leads out of the folder.
    """
    if not path:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if path.startswith(b"/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    if b"\0" in path:
        raise ValueError("embedded null byte")
    pending = path.split(b"/")[::-1]
    walked: list[int] = []  # descriptors of the folders between `folder` and the current one
    links = 0
    try:
        while pending:
            segment = pending.pop()
            if segment in (b"", b"."):
                continue
            if segment == b"..":
                if not walked:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                os.close(walked.pop())
                continue
            here = walked[-1] if walked else folder
            met = os.open(segment, _STEP, dir_fd=here)
            walked.append(met)  # closed in every case
            mode = os.fstat(met).st_mode
            if S_ISDIR(mode):
                continue
            walked.pop()
            try:
                target = os.readlink(b"", dir_fd=met) if S_ISLNK(mode) else None
            finally:
                os.close(met)
            if target is None:
                if pending:
                    raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                return os.open(segment, flags | os.O_NOFOLLOW, dir_fd=here)
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith(b"/"):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            pending += target.split(b"/")[::-1]
        return os.open(b".", flags, dir_fd=walked[-1] if walked else folder)
    finally:
        for descriptor in walked:
            os.close(descriptor)


def open_beneath(folder: int, path: bytes, flags: int = FLAGS) -> int:
    """Open a path beneath the open directory `folder`, and return the descriptor.

    Raises `OSError`: EXDEV if the path leads out of the folder. Waits for the disk.
    """
    try:
        return _beneath.open_beneath(folder, path, flags)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
    return open_in_steps(folder, path, flags)
