"""The contents of files: each is read once, so that the bytes that are checked are the bytes that are used."""

import errno
import os
import stat
from collections.abc import Mapping
from glob import escape
from math import inf
from time import monotonic
from types import MappingProxyType
from typing import Final

from fastgw.config.base.problems import shown_file
from fastgw.config.formats.positions import OUT_OF, MissingPackage, OutOfResources, SyntaxProblem
from fastgw.config.sources.dns_targets import AT_START_S, UNKNOWN, is_lookup, looked_up
from fastgw.config.sources.include_globs import Search
from fastgw.config.sources.virtual_files import content_of, is_derived, is_watched

LARGEST: Final = 64 * 1024 * 1024
"""How many bytes are read of a configuration's own files together, and as many again of those that it names."""
_TOO_LONG: Final = "longer than {} MiB"
_PATTERN: Final = "\0"
"""Begins the name under which a pattern is held; its contents are the names that it finds."""


def read_file(name: str, most: int) -> bytes:
    """Read a whole file. Raises `OSError`, also for a pipe or a device; `SyntaxProblem` above `most` bytes."""
    mode = os.stat(name).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder is refused by `open`, in clearer words
        raise OSError(errno.EINVAL, "Not a regular file")
    with open(name, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it has been replaced since
            raise OSError(errno.EINVAL, "Not a regular file")
        raw = file.read(most + 1)
    if len(raw) > most:
        raise SyntaxProblem(f"longer than {most} bytes")
    return raw


def pattern_in(name: str) -> str:
    """The pattern that is held under this name; "" for a file."""
    return name[1:] if name.startswith(_PATTERN) else ""


def pattern_name(folder: str, pattern: str) -> str:
    """The name under which a pattern is held that is relative to an absolute `folder`."""
    return _PATTERN + (pattern if pattern.startswith("/") else os.path.join(escape(folder), pattern))


def _found_in(content: bytes) -> list[str]:
    return os.fsdecode(content).split("\0") if content else []


def why_no_folder(name: str) -> str:
    """Return the reason why the contents of a folder cannot be seen: a search would find nothing there, as in an empty
    one. "": it can.
    """
    try:
        os.scandir(name).close()
    except (FileNotFoundError, NotADirectoryError):
        return "no such directory"
    except OSError as error:
        if error.errno in OUT_OF:
            raise OutOfResources(f"{name} cannot be read: {error.strerror}") from error
        return f"cannot be read: {error.strerror or error}"
    return ""


class Disk:
    """Reads files, each once; `LARGEST` bytes of all of them together. `instead`: the contents of some, unread.

    `known`: what look-ups have found before. One that fails finds the same, or no targets if it is not there; then
    `unresolved` has why. None: it is a file that cannot be read.
    """

    def __init__(
        self, instead: Mapping[str, bytes] = MappingProxyType({}), known: Mapping[str, bytes] | None = None
    ) -> None:
        self._instead = instead
        self._known = known
        self._lookups_end_at = inf
        self.unresolved: dict[str, str] = {}
        self._held: dict[str, bytes] = {}
        self._left = LARGEST
        self._search = Search()

    @property
    def held(self) -> Mapping[str, bytes]:
        """Contents that were read, by the name they were asked for."""
        return self._held

    def read(self, name: str) -> bytes:
        """All of a file, the same bytes each time. Raises `SyntaxProblem`, `OutOfResources`."""
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
                if is_lookup(name):
                    if self._known is None or isinstance(flaw, MissingPackage):
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
        return self._looked_up(name) if is_lookup(name) else read_file(name, self._left)

    def _looked_up(self, name: str) -> bytes:
        now = monotonic()
        if self._known is not None and name not in self._known:  # nobody waits for very many that do not answer
            self._lookups_end_at = min(self._lookups_end_at, now + AT_START_S)
            if now >= self._lookups_end_at:
                raise SyntaxProblem(f"not resolved yet: the lookups before it took {AT_START_S:g} s")
        return looked_up(name)

    def derive(self, name: str, content: bytes) -> None:
        """Set the content of a derived file from here on."""
        self._held[name] = content

    def why_no_folder(self, name: str) -> str:
        """Return the reason why nothing can be found in a folder; "": its contents can be seen."""
        return why_no_folder(name)

    def find(self, folder: str, pattern: str) -> list[str]:
        """The files that a pattern names, relative to an absolute `folder`, in one order. Raises `SyntaxProblem`."""
        name = pattern_name(folder, pattern)
        if name in self._instead:
            self._held[name] = self._instead[name]
        if name not in self._held:
            self._held[name] = os.fsencode("\0".join(self._search.find("/", pattern_in(name))))
        return _found_in(self._held[name])


class Memory:
    """Files as they were read before: nothing is looked at on disk. Derived files are not among them until they are
    derived anew."""

    unresolved: Mapping[str, str] = MappingProxyType({})
    """Lookups without a result: none is made."""

    def __init__(self, held: Mapping[str, bytes]) -> None:
        self.held = {name: content for name, content in held.items() if not is_derived(name)}

    def derive(self, name: str, content: bytes) -> None:
        """Set the content of a derived file from here on."""
        self.held[name] = content

    def read(self, name: str) -> bytes:
        """All of a file. Raises `SyntaxProblem`."""
        if name not in self.held:
            raise SyntaxProblem("cannot be read: it is not part of the captured configuration")
        if len(self.held[name]) > LARGEST:
            raise SyntaxProblem(_TOO_LONG.format(LARGEST // 1024**2))
        return self.held[name]

    def why_no_folder(self, name: str) -> str:
        """Whether there was one is not known; what there was in it is."""
        return ""

    def find(self, folder: str, pattern: str) -> list[str]:
        """The files that a pattern named. Raises `SyntaxProblem`."""
        return _found_in(self.read(pattern_name(folder, pattern)))


Files = Disk | Memory


def found_by(held: Mapping[str, bytes], pattern: str) -> list[str]:
    """The files that an absolute pattern found."""
    return _found_in(held.get(pattern_name("/", pattern), b""))


def found_by_patterns(held: Mapping[str, bytes]) -> set[str]:
    """The names of the patterns, and of the files that they find; and of what watches say."""
    patterns = [name for name in held if pattern_in(name)]
    found = (file for name in patterns for file in _found_in(held[name]))
    return {*patterns, *found, *filter(is_watched, held)}


def brought_forward(held: Mapping[str, bytes], now: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the contents of these files, and the matches of these patterns, by `now`, as far as that is known
    there.
    """
    found = {file for name, content in held.items() if pattern_in(name) and name in now for file in _found_in(content)}
    brought = {name: now.get(name, content) for name, content in held.items() if name not in found}
    for name in held:
        if pattern_in(name) and name in now:
            brought.update((file, now[file]) for file in _found_in(now[name]))
    return brought


def read_again(held: Mapping[str, bytes], spared: dict[str, str] | None = None) -> dict[str, bytes]:
    """Read these files and match these patterns again. Raises `SyntaxProblem`, which names the file.

    `spared`: files that may be away for a moment: they are taken as they were, and why stands there. A new one that a
    pattern finds and that cannot be read is left out, and why stands there as well.
    """
    disk = Disk()
    patterns = [pattern_in(name) for name in held if pattern_in(name)]
    found = {file for name, content in held.items() if pattern_in(name) for file in _found_in(content)}
    derived = {name: content for name, content in held.items() if is_derived(name)}  # anew with what they come from
    files = [name for name in held if name not in found and not pattern_in(name) and name not in derived]
    for pattern in patterns:
        files += disk.find("/", pattern)
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
    now = {**disk.held, **kept, **derived}
    for pattern in patterns if unread else ():
        listed = [file for file in disk.find("/", pattern) if file not in unread]
        now[pattern_name("/", pattern)] = os.fsencode("\0".join(listed))
    return now


def _open_at_once(name: str, flags: int) -> int:
    """Open a file without waiting for a writer, should there be a pipe in its place by now."""
    return os.open(name, flags | os.O_NONBLOCK)
