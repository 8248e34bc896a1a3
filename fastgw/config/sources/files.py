"""Contents of files. Each file is read once, so that the validated bytes are the bytes in use."""

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from glob import escape
from types import MappingProxyType
from typing import Final

from fastgw.config.base.problems import shown_file
from fastgw.config.formats.positions import OUT_OF, MissingPackage, OutOfResources, SyntaxProblem
from fastgw.config.sources.dns_targets import UNKNOWN, begin_lookups, is_lookup, looked_up
from fastgw.config.sources.file_exposure import exposure
from fastgw.config.sources.followed_files import NO_REMOTES, is_discovered, is_followed
from fastgw.config.sources.include_globs import Search
from fastgw.config.sources.virtual_files import (
    content_of,
    is_derived,
    is_issued,
    is_watched,
    issued_in,
    known_content,
    remember,
    set_content,
)

LARGEST: Final = 64 * 1024 * 1024
"""Maximum size in bytes of all configuration files together, and also of all files that they name."""
_TOO_LONG: Final = "longer than {} MiB"
_PATTERN: Final = "\0"
"""Prefix of the names under which patterns are stored; the content is the list of matching names."""


def read_file(name: str, most: int) -> bytes:
    """Read a whole file. Raises `OSError`, also for a pipe or a device; `SyntaxProblem` above `most` bytes."""
    mode = os.stat(name).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # `open` rejects a folder with a clearer message
        raise OSError(errno.EINVAL, "Not a regular file")
    with open(name, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it has been replaced in the meantime
            raise OSError(errno.EINVAL, "Not a regular file")
        raw = file.read(most + 1)
    if len(raw) > most:
        raise SyntaxProblem(f"longer than {most} bytes")
    return raw


def pattern_in(name: str) -> str:
    """Return the pattern stored under this name; "" for a file."""
    return name[1:] if name.startswith(_PATTERN) else ""


def pattern_name(folder: str, pattern: str) -> str:
    """Return the name under which a pattern relative to an absolute `folder` is stored."""
    return _PATTERN + (pattern if pattern.startswith("/") else os.path.join(escape(folder), pattern))


def _found_in(content: bytes) -> list[str]:
    return os.fsdecode(content).split("\0") if content else []


def why_no_folder(name: str) -> str:
    """Return the reason why a folder cannot be listed, in which a search would find nothing; "" = it can."""
    try:
        os.scandir(name).close()
    except FileNotFoundError:
        return "no such directory"
    except NotADirectoryError:
        return "not a directory"
    except OSError as error:
        if error.errno in OUT_OF:
            raise OutOfResources(f"{name} cannot be read: {error.strerror}") from error
        return f"cannot be read: {error.strerror or error}"
    return ""


class Disk:
    """Reads files from disk, each once; at most `LARGEST` bytes in total. `instead`: contents that replace those of
    files.

    `known`: previous results of lookups. A failed lookup returns its previous result, or no targets if there is none;
    `unresolved` has the reason. None: a failed lookup is an unreadable file, and the caller has the previous results.
    """

    def __init__(
        self, instead: Mapping[str, bytes] = MappingProxyType({}), known: Mapping[str, bytes] | None = None
    ) -> None:
        self._instead = instead
        self._known = known
        self._begun: set[str] = set()  # lookups
        self.unresolved: dict[str, str] = {}
        self.remotes = NO_REMOTES
        """Services that followed files are fetched from."""
        self._held: dict[str, bytes] = {}
        self._left = LARGEST
        self._search = Search()

    @property
    def contents_read(self) -> Mapping[str, bytes]:
        """Contents that were read, by requested name."""
        return self._held

    def read(self, name: str) -> bytes:
        """Return the contents of a file, the same bytes each time. Raises `SyntaxProblem`, `OutOfResources`."""
        if name in self._instead:
            self._held[name] = self._instead[name]
        if name not in self._held:
            try:
                raw = self._found(name)
            except OSError as error:
                if error.errno in OUT_OF:
                    raise OutOfResources(f"{name} cannot be read: {error.strerror}") from error
                raise SyntaxProblem(f"cannot be read: {error.strerror or error}") from error
            except SyntaxProblem as flaw:
                if is_lookup(name) or is_followed(name):
                    is_needed = is_followed(name) and not is_discovered(name) and name not in (self._known or {})
                    if self._known is None or isinstance(flaw, MissingPackage) or is_needed:
                        raise
                    self.unresolved[name] = f"{shown_file(name)}: {flaw.wrong}"
                    self._held[name] = self._known.get(name, UNKNOWN)
                    return self._held[name]
                more = " with the files before it" if self._held else ""
                raise SyntaxProblem(_TOO_LONG.format(LARGEST // 1024**2) + more) from flaw
            self._left -= len(raw)
            self._held[name] = raw
        return self._held[name]

    def _found(self, name: str) -> bytes:
        if is_watched(name):
            return content_of(name)
        if is_followed(name):
            return self._followed(name)
        if is_issued(name):
            return _issued(name, self._left)
        if is_lookup(name):
            known = self._known is None or name in self._known
            return looked_up(name, begun=name in self._begun, has_previous=known)
        return read_file(name, self._left)

    def _followed(self, name: str) -> bytes:
        """Return the content that the control process follows; in other processes, and at first, fetch it."""
        content = known_content(name)
        if content is None:
            content = self.remotes.fetch(name)
            remember(name, content)
        return content

    def begin_lookups(self, names: Iterable[str]) -> None:
        """Look up these names at the same time, before they are read one after the other."""
        begun = [name for name in names if name not in self._instead and name not in self._held]
        begin_lookups(begun)
        self._begun.update(begun)

    def derive(self, name: str, content: bytes) -> None:
        """Set the content of a derived file."""
        self._held[name] = content

    def exposure(self, name: str) -> str:
        """Return what other users can do with a file; "" = nothing."""
        return "" if name in self._instead else exposure(name)

    def why_no_folder(self, name: str) -> str:
        """Return the reason why a folder cannot be listed; "" = it can."""
        return why_no_folder(name)

    def is_missing(self, name: str) -> bool:
        """Whether there is no such file."""
        return not os.path.lexists(name)

    def find(self, folder: str, pattern: str) -> list[str]:
        """Return the files that match a pattern relative to an absolute `folder`, sorted. Raises `SyntaxProblem`."""
        name = pattern_name(folder, pattern)
        if name in self._instead:
            self._held[name] = self._instead[name]
        if name not in self._held:
            self._held[name] = os.fsencode("\0".join(self._search.find("/", pattern_in(name))))
        return _found_in(self._held[name])


def _issued(name: str, most: int) -> bytes:
    """Return a certificate obtained by ACME, with its key; while there is none, the one in force, or a placeholder.

    Raises `OSError` for a file that cannot be read; `SyntaxProblem` above `most` bytes.
    """
    from fastgw.net.pem import pair_problem  # it takes time, and most commands do not need it
    from fastgw.net.placeholder import placeholder

    file, domains = issued_in(name)
    try:
        content = read_file(file, most)
    except (FileNotFoundError, NotADirectoryError):
        content = b""
    if content and pair_problem(content, content) is None:
        set_content(name, content)
        return content
    known = known_content(name)
    if known is None:
        remember(name, placeholder(domains))
        known = known_content(name)
    assert known is not None
    return known


class Memory:
    """Files as they were read before, without access to the disk. Derived files are missing until they are derived
    again."""

    unresolved: Mapping[str, str] = MappingProxyType({})
    """Always empty: no lookups are made."""
    remotes = NO_REMOTES
    """Services that followed files have come from: their identities only."""

    def __init__(self, held: Mapping[str, bytes]) -> None:
        self.contents_read = {name: content for name, content in held.items() if not is_derived(name)}

    def begin_lookups(self, names: Iterable[str]) -> None:
        """Do nothing: no lookups are made."""

    def derive(self, name: str, content: bytes) -> None:
        """Set the content of a derived file."""
        self.contents_read[name] = content

    def read(self, name: str) -> bytes:
        """Return the contents of a file. Raises `SyntaxProblem`."""
        if name not in self.contents_read:
            raise SyntaxProblem("cannot be read: it is not part of the captured configuration")
        if len(self.contents_read[name]) > LARGEST:
            raise SyntaxProblem(_TOO_LONG.format(LARGEST // 1024**2))
        return self.contents_read[name]

    def exposure(self, name: str) -> str:
        return ""

    def why_no_folder(self, name: str) -> str:
        """Return "": whether the folder could be listed is not recorded, only its matches."""
        return ""

    def is_missing(self, name: str) -> bool:
        """Return False: whether there was such a file is not recorded."""
        return False

    def find(self, folder: str, pattern: str) -> list[str]:
        """Return the files that matched a pattern. Raises `SyntaxProblem`."""
        return _found_in(self.read(pattern_name(folder, pattern)))


Files = Disk | Memory


def found_by(held: Mapping[str, bytes], pattern: str) -> list[str]:
    """Return the files that match an absolute pattern."""
    return _found_in(held.get(pattern_name("/", pattern), b""))


def found_by_patterns(held: Mapping[str, bytes]) -> set[str]:
    """Return the names of the patterns, of their matches, and of the content of watches."""
    patterns = [name for name in held if pattern_in(name)]
    found = (file for name in patterns for file in _found_in(held[name]))
    return {*patterns, *found, *filter(is_watched, held)}


def brought_forward(held: Mapping[str, bytes], now: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the contents of these files and the matches of these patterns, updated from `now` where it has them."""
    found = {file for name, content in held.items() if pattern_in(name) and name in now for file in _found_in(content)}
    brought = {name: now.get(name, content) for name, content in held.items() if name not in found}
    for name in held:
        if pattern_in(name) and name in now:
            brought.update((file, now[file]) for file in _found_in(now[name]))
    return brought


def read_again(held: Mapping[str, bytes], spared: dict[str, str] | None = None) -> dict[str, bytes]:
    """Read these files and match these patterns again. Raises `SyntaxProblem`, which names the file.

    `spared`: files that may be missing temporarily: their previous contents are used, and the reason is stored there. A
    new file that matches a pattern but cannot be read is left out, also with the reason.
    """
    disk = Disk()
    patterns = [pattern_in(name) for name in held if pattern_in(name)]
    found = {file for name, content in held.items() if pattern_in(name) for file in _found_in(content)}
    derived = {name: content for name, content in held.items() if is_derived(name)}  # derived with their sources
    files = [name for name in held if name not in found and not pattern_in(name) and name not in derived]
    for pattern in patterns:
        files += disk.find("/", pattern)
    disk.begin_lookups(filter(is_lookup, files))
    kept = {}
    unread = set()
    for file in files:
        try:
            disk.read(file)
        except SyntaxProblem as flaw:
            if spared is None or not (file in spared or file not in held):
                raise SyntaxProblem(f"{shown_file(file)} {flaw.wrong}") from flaw
            spared[file] = f"{shown_file(file)}: {flaw.wrong}"
            if file in held:
                kept[file] = held[file]
            else:
                unread.add(file)
    now = {**disk.contents_read, **kept, **derived}
    for pattern in patterns if unread else ():
        listed = [file for file in disk.find("/", pattern) if file not in unread]
        now[pattern_name("/", pattern)] = os.fsencode("\0".join(listed))
    return now


def _open_at_once(name: str, flags: int) -> int:
    """Open a file without blocking, in case it has been replaced by a pipe."""
    return os.open(name, flags | os.O_NONBLOCK)
