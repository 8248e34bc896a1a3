"""The file that a request path names, as a path relative to the root; pure functions.

A path names one file in one way only: segments that are empty or that contain an encoded slash, a backslash or a
control character name none, or a file could be reached by a path that another route's filters do not see. Hidden files
(a segment that starts with a dot) are never served, except beneath `/.well-known/` (RFC 8615).
"""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

_NEVER_SERVED: Final = re.compile(rb"[\x00-\x1f\x7f/\\]").search
_WELL_KNOWN: Final = b".well-known"
MAX_SEGMENT: Final = 255
"""Most bytes in the name of a file (NAME_MAX)."""
MAX_PATH: Final = 4095
"""Most bytes of a path (PATH_MAX, less its NUL)."""


class FilePath(NamedTuple):
    """Path of a file relative to the root."""

    name: bytes
    """Segments joined by slashes, decoded; empty: the root itself."""
    is_folder: bool
    """Whether the request path ends with a slash, so that only a directory matches."""


def file_path(path: bytes, prefix: bytes) -> FilePath | None:
    """Return the path of the file that a request names; None: it cannot name a file that is served.

    `path`: in normal form. `prefix`: its leading segments that are not part of the file's path, without a slash at the
    end; the path begins with them.
    """
    if not path.startswith(prefix):
        return None
    segments = path[len(prefix) :].split(b"/")
    if segments == [b""]:  # the prefix itself, without a slash
        return FilePath(b"", False)
    if segments[0]:
        return None
    is_folder = not segments[-1]
    names = segments[1:-1] if is_folder else segments[1:]
    if b"%" in path:
        names = [unquote_to_bytes(each) for each in names]
    for index, name in enumerate(names):
        if not name or len(name) > MAX_SEGMENT or _NEVER_SERVED(name):
            return None
        if name.startswith(b".") and (index or name != _WELL_KNOWN):
            return None
    joined = b"/".join(names)
    return FilePath(joined, is_folder) if len(joined) <= MAX_PATH else None


def looks_like_file(name: bytes) -> bool:
    """Whether the last segment has an extension, so that a page of a single-page application is no answer for it."""
    return b"." in name.rpartition(b"/")[2]
