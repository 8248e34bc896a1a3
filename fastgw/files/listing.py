"""Directory listings as HTML. Every name is data: it is escaped in text and percent-encoded in links.

They are made in a thread, in steps after each of which the event loop gets its turn.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from html import escape
from stat import S_ISDIR, S_ISREG
from time import sleep
from typing import Final, NamedTuple, TypeVar
from urllib.parse import quote_from_bytes

from fastgw.files.beneath import open_beneath
from fastgw.files.request_path import file_path
from fastgw.http.dates import WRITABLE, format_date
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize

T = TypeVar("T")

MAX_ENTRIES: Final = 10_000
"""Most entries of a directory that are listed: of a longer one those that the file system returns first. To list the
first by name, each request would have to read all of it.
"""

_STEP: Final = 64
"""Entries that are read or rendered at a time: then the event loop, which shares the interpreter with this thread, gets
its turn. It would have to wait for the interpreter's switch interval of 5 ms otherwise."""
_PAUSE_S: Final = 50e-6
_SORTED_AT_ONCE: Final = 512
"""Entries that are sorted by one call, which holds the interpreter for 0.2 ms."""

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Index of {title}</title>
<h1>Index of {title}</h1>
<table>
<tr><th align="left">Name<th align="right">Size<th align="left">Modified
{rows}</table>
{rest}</html>
"""
_ROW: Final = '<tr><td><a href="{link}">{name}</a><td align="right">{size}<td>{modified}\n'


class Entry(NamedTuple):
    """Entry of a directory."""

    name: bytes
    is_folder: bool
    size: int | None
    """Bytes of a file; None for a link."""
    modified: int | None
    """Time of the last change, in seconds since the epoch; None for a link."""


def read_entries(root: int, path: bytes, folder: int) -> tuple[list[Entry], bool]:
    """Return the visible files and directories of an open directory, and whether there are more than are returned.
    `path`: of the directory beneath the open directory `root`.

    Hidden names, devices, pipes, sockets and links that lead out of the root are left out, and so are names that no
    request can have, such as one with a backslash or a line break. Of a link only the name is shown, not its target's
    size and date.
    """
    entries: list[Entry] = []
    with os.scandir(folder) as found:
        for each in _in_steps(found):
            name = os.fsencode(each.name)
            if name.startswith(b".") or not _can_be_requested(name):
                continue
            try:
                is_link = each.is_symlink()
                status = _status_of_target(root, path + b"/" + name) if is_link else each.stat(follow_symlinks=False)
            except OSError:  # it has just been removed, or leads to nothing
                continue
            is_folder = S_ISDIR(status.st_mode)
            if not is_folder and not S_ISREG(status.st_mode):
                continue
            if len(entries) == MAX_ENTRIES:
                return entries, True
            size, modified = (None, None) if is_link else (status.st_size, int(status.st_mtime))
            entries.append(Entry(name, is_folder, size, modified))
    return entries, False


def _can_be_requested(name: bytes) -> bool:
    """Whether a request for this name is accepted, and names it."""
    try:
        return file_path(normalize(b"/" + quote_from_bytes(name, safe="").encode()), b"") is not None
    except Malformed:
        return False


def _status_of_target(root: int, path: bytes) -> os.stat_result:
    """Return the status of what a link leads to. Raises `OSError`, also if that is not beneath the root."""
    opened = open_beneath(root, path, os.O_PATH | os.O_CLOEXEC)
    try:
        return os.fstat(opened)
    finally:
        os.close(opened)


def _in_steps(items: Iterable[T]) -> Iterator[T]:
    """Yield the items, and let other threads run in between."""
    for index, item in enumerate(items, 1):
        yield item
        if not index % _STEP:
            sleep(_PAUSE_S)


def _order(entry: Entry) -> tuple[bool, bytes, bytes]:
    return not entry.is_folder, entry.name.lower(), entry.name


def _sorted(entries: Sequence[Entry]) -> Iterator[Entry]:
    """Yield the entries in their order: directories first."""
    begins = range(0, len(entries), _SORTED_AT_ONCE)
    runs = [sorted(entries[begin : begin + _SORTED_AT_ONCE], key=_order) for begin in begins]
    return merge(*runs, key=_order)


def _written_date(date: int) -> str:
    return format_date(date).decode() if date in WRITABLE else ""


def render_listing(path: bytes, entries: Sequence[Entry], truncated: bool, is_root: bool) -> bytes:
    """Return the page for a directory. `path`: of the request, in normal form. `truncated`: there are more entries."""
    rows = [] if is_root else [_ROW.format(link="../", name="../", size="", modified="")]
    for each in _in_steps(_sorted(entries)):
        slash = "/" if each.is_folder else ""
        rows.append(
            _ROW.format(
                link="./" + quote_from_bytes(each.name, safe="") + slash,  # a colon does not begin a scheme
                name=escape(each.name.decode(errors="replace")) + slash,
                size="" if each.is_folder or each.size is None else each.size,
                modified="" if each.modified is None else _written_date(each.modified),
            )
        )
    rest = f"<p>There are more entries than these {MAX_ENTRIES}.</p>\n" if truncated else ""
    title = escape(path.decode("ascii", errors="replace"))
    return _PAGE.format(title=title, rows="".join(rows), rest=rest).encode()
