"""Resources: a file with its precompressed siblings, a directory, a listing, or nothing. Finding one waits for the
disk.
"""

import errno
import os
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from stat import S_ISDIR, S_ISREG
from typing import Final, NamedTuple, TypeAlias, final

from fastgw.exchange import Reply
from fastgw.files.beneath import FLAGS, open_beneath
from fastgw.files.content_types import content_type_of
from fastgw.files.listing import read_entries, render_listing
from fastgw.files.request_path import FilePath, looks_like_file
from fastgw.http.dates import WRITABLE, format_date
from fastgw.http.preconditions import Validators

SUFFIXES: Final = {b"br": b".br", b"zstd": b".zst", b"gzip": b".gz"}
"""Suffix of the precompressed sibling of a file, by content coding."""
SMALL_BYTES: Final = 65_536
"""Most bytes of a file whose content is kept in memory; of larger ones the descriptor is."""
SAMPLE_BYTES: Final = 4096
"""Bytes of the beginning and of the end of a file that differ after an overwrite, and are as before after an append."""
SETTLED_S: Final = 1.0
"""Seconds after a change from which a modification time identifies the content: until then another change may leave it
as it is, the ETag is weak (RFC 9110 section 8.8.1), and there is no Last-Modified. So a client that has this date got
it once the second that it names was over, and it is a strong validator in If-Range (section 8.8.2.2).
"""
_ABSENT: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV, errno.ENXIO))
_DENIED: Final = frozenset((errno.EACCES, errno.EPERM))


@final
class OpenFile:
    """An open regular file. Its descriptor is closed with the last reference."""

    __slots__ = ("_sample", "changed_ns", "fd", "modified_ns", "size")

    def __init__(self, fd: int, status: os.stat_result) -> None:
        self.fd, self.size, self.modified_ns = fd, status.st_size, status.st_mtime_ns
        self.changed_ns = status.st_ctime_ns
        self._sample = b""
        if self.size > SMALL_BYTES:
            sample = self._read_sample()
            self._sample = sample if self.is_unchanged else b""

    def __del__(self) -> None:
        os.close(self.fd)

    def __repr__(self) -> str:
        return f"<OpenFile {self.fd} of {self.size} bytes>"

    def _read_sample(self) -> bytes:
        """Return a digest of the beginning and the end of the content of the opening; b"": it cannot be read."""
        try:
            read = b"".join(os.pread(self.fd, SAMPLE_BYTES, at) for at in (0, self.size - SAMPLE_BYTES))
        except OSError:
            return b""
        return blake2b(read, digest_size=16).digest()

    @property
    def is_unchanged(self) -> bool:
        """Whether size and modification time are those of the opening."""
        status = os.fstat(self.fd)
        return status.st_size == self.size and status.st_mtime_ns == self.modified_ns

    @property
    def is_intact(self) -> bool:
        """Whether the content of the opening is still there. A file that has grown was appended to if the beginning and
        the end of this content are as before; otherwise it was overwritten.
        """
        if self.is_unchanged:
            return True
        has_grown = os.fstat(self.fd).st_size > self.size
        return has_grown and self._sample != b"" and self._read_sample() == self._sample


class Variant(NamedTuple):
    """One representation of a file, with a content coding or without."""

    coding: bytes | None
    file: OpenFile | None
    """The open file; None: `reply` has the content."""
    size: int
    validators: Validators
    content_type: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    """Headers of a 200."""
    reply: Reply | None
    """The whole response, for a small file."""

    @property
    def content(self) -> bytes | None:
        """Content of a small file."""
        body = None if self.reply is None else self.reply.body
        return body if isinstance(body, bytes) else None


class FileResource(NamedTuple):
    """A file. `variants`: the one without a coding is the last."""

    name: bytes
    variants: tuple[Variant, ...]
    is_fallback: bool = False
    """Whether it is the page of a single-page application, in place of a file that does not exist."""

    @property
    def descriptors(self) -> int:
        """Number of open descriptors."""
        return sum(each.file is not None for each in self.variants)

    @property
    def is_unchanged(self) -> bool:
        """Whether no open file has been changed since the opening. Content in memory stays as it was."""
        return all(each.file is None or each.file.is_unchanged for each in self.variants)

    @property
    def content_bytes(self) -> int:
        """Bytes of content in memory."""
        return sum(len(each.content or b"") for each in self.variants)


class Folder(NamedTuple):
    """A directory that was requested without its slash."""


class Listing(NamedTuple):
    """Page that lists a directory."""

    page: bytes


class Missing(NamedTuple):
    """Path that leads to no file. `broken`: the file may exist, but cannot be read now."""

    why: str
    broken: bool = False


Resource: TypeAlias = FileResource | Folder | Listing | Missing


@final
class FileFinder:
    """Finds files beneath a root. Its settings are those of the route; `root` is an absolute path."""

    def __init__(
        self,
        root: str,
        index: Sequence[bytes],
        codings: Sequence[bytes],
        listing: bool,
        fallback: bytes | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Create it. `codings`: of precompressed siblings. `fallback`: the page of a single-page application. `clock`:
        epoch seconds.
        """
        self.root, self._index, self._codings = root, tuple(index), tuple(codings)
        self._lists, self._fallback, self._clock = listing, fallback, clock

    def find(self, path: FilePath, shown: bytes) -> Resource:
        """Return what a path leads to. `shown`: the path of the request, for listings. Waits for the disk."""
        try:
            root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # again each time: it may be replaced
        except OSError as error:
            return Missing(f"the root: {error.strerror}", broken=True)
        try:
            found = self._found(root, path, shown)
            if type(found) is Missing and self._fallback is not None and not looks_like_file(path.name):
                page = self._found(root, FilePath(self._fallback, False), shown)
                return page._replace(is_fallback=True) if isinstance(page, FileResource) else page
        except OSError as error:
            return Missing(error.strerror or str(error), broken=True)
        else:
            return found
        finally:
            os.close(root)

    def _found(self, root: int, path: FilePath, shown: bytes) -> Resource:
        opened, why = _opened(root, path.name or b".")
        if opened < 0:
            return Missing(why)
        try:
            status = os.fstat(opened)
            if S_ISDIR(status.st_mode):
                return self._in_folder(root, opened, path, shown)
            if path.is_folder or not S_ISREG(status.st_mode):
                return Missing("not a directory" if path.is_folder else "not a regular file")
            fd, opened = opened, -1
            return self._resource(root, path.name, OpenFile(fd, status))
        finally:
            if opened >= 0:
                os.close(opened)

    def _in_folder(self, root: int, folder: int, path: FilePath, shown: bytes) -> Resource:
        if not path.is_folder:
            return Folder()
        for index in self._index:
            name = path.name + b"/" + index if path.name else index
            opened, _ = _opened(root, name)
            if opened < 0:
                continue
            file = _regular(opened)
            if file is not None:
                return self._resource(root, name, file)
        if self._lists:
            entries, truncated = read_entries(root, path.name or b".", folder)
            return Listing(render_listing(shown, entries, truncated, is_root=not path.name))
        return Missing("a directory without an index")

    def _resource(self, root: int, name: bytes, file: OpenFile) -> FileResource:
        content_type = content_type_of(name)
        siblings: list[tuple[bytes, OpenFile]] = []
        for coding in self._codings:
            opened, _ = _opened(root, name + SUFFIXES[coding])
            sibling = _regular(opened) if opened >= 0 else None
            if sibling is not None and _is_up_to_date(sibling, file):
                siblings.append((coding, sibling))
        varies, clock = bool(siblings), self._clock
        variants = [_variant(coding, sibling, content_type, varies, clock) for coding, sibling in siblings]
        return FileResource(name, (*variants, _variant(None, file, content_type, varies, clock)))


def _opened(root: int, name: bytes) -> tuple[int, str]:
    """Return the descriptor of what is there, or -1 and why there is nothing. Raises other `OSError`."""
    try:
        return open_beneath(root, name, FLAGS), ""
    except OSError as error:
        if error.errno in _ABSENT or error.errno in _DENIED:
            return -1, "it leads out of the root" if error.errno == errno.EXDEV else error.strerror or ""
        raise


def _regular(fd: int) -> OpenFile | None:
    status = os.fstat(fd)
    if S_ISREG(status.st_mode):
        return OpenFile(fd, status)
    os.close(fd)
    return None


def _is_up_to_date(sibling: OpenFile, file: OpenFile) -> bool:
    """Whether a file is as it was when its sibling was made. brotli and pigz give a sibling the time of the file
    without the fraction of the second: its inode must not have been changed before the file was.
    """
    if sibling.modified_ns >= file.modified_ns:
        return True
    whole = file.modified_ns - file.modified_ns % 10**9
    return sibling.modified_ns == whole and sibling.changed_ns >= file.modified_ns


def _variant(
    coding: bytes | None, file: OpenFile, content_type: bytes, varies: bool, clock: Callable[[], float]
) -> Variant:
    """Return a representation, with the content of a small file."""
    content = _content(file) if file.size <= SMALL_BYTES else None
    date = clock()
    since = date - file.modified_ns / 1e9
    weak = since < SETTLED_S
    # Never later than `Date` (RFC 9110 section 8.8.2.1). The clock of a file server may be a little ahead.
    modified: int | None = min(file.modified_ns // 10**9, int(date))
    if modified not in WRITABLE or abs(since) < SETTLED_S:
        modified = None
    tag = b'%b"%x-%x%b"' % (
        b"W/" if weak else b"",
        file.modified_ns,
        file.size,
        b"" if coding is None else b"-" + coding,
    )
    fields = [
        (b"Content-Type", content_type),
        (b"ETag", tag),
        *(() if modified is None else ((b"Last-Modified", format_date(modified)),)),
        (b"Accept-Ranges", b"bytes"),
    ]
    if coding is not None:
        fields.append((b"Content-Encoding", coding))
    if varies:
        fields.append((b"Vary", b"Accept-Encoding"))
    reply = None if content is None else Reply(200, content, fields)
    kept = file if content is None else None
    validators = Validators(tag, modified, int(date))
    return Variant(coding, kept, file.size, validators, content_type, tuple(fields), reply)


def _content(file: OpenFile) -> bytes | None:
    """Return the content of a small file; None: it is being changed."""
    content = os.pread(file.fd, file.size, 0)
    return content if len(content) == file.size and file.is_unchanged else None
