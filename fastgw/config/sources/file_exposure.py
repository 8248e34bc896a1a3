"""Exposure of secrets and private keys: files that every user of the machine can read or replace.

Rule: only what is certain. A group may be the gateway's own, and is not judged; a folder that others cannot enter hides
its files; a Secret of Kubernetes or Docker is mounted readable, into a container that has no other users, as a folder
with a link of kubelet or as a file of another device than its folder.
"""

import os
import stat
from collections.abc import Iterator
from typing import Final

_MOUNTED: Final = ("/run/secrets/", "/var/run/secrets/")
_KUBELET: Final = "..data"
"""Link in each folder of a mounted Secret, which kubelet replaces."""


def exposure(name: str) -> str:
    """Return what other users can do with a file, and what to do against it; "" = nothing."""
    folder = os.path.dirname(name)
    if name.startswith(_MOUNTED) or os.path.islink(os.path.join(folder, _KUBELET)):
        return ""
    try:
        real = os.path.realpath(name)
        here, beside = os.stat(real), os.stat(os.path.dirname(real))
        is_hidden = not all(os.stat(each).st_mode & stat.S_IXOTH for each in _folders(real))
        if is_hidden or here.st_dev != beside.st_dev:
            return ""
    except OSError:
        return ""
    mode, above = here.st_mode, beside.st_mode
    if mode & stat.S_IWOTH:
        return "every user can write to it: chmod o= on the file"
    if above & stat.S_IWOTH and not above & stat.S_ISVTX:
        return "every user can replace it: chmod o-w on its folder"
    return "every user can read it: chmod o= on the file" if mode & stat.S_IROTH else ""


def _folders(name: str) -> Iterator[str]:
    while (folder := os.path.dirname(name)) != name:
        yield folder
        name = folder
