"""Stale configuration: whether the configuration's files differ from the active configuration, since when and why.

After a rejected reload, changes without a reload, a document from the API or a rollback, a restart would start with
another configuration, or fail.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Final

from fastgw.admin.node_interface import Stale, StaleReason
from fastgw.config.formats.positions import OUT_OF, OutOfResources, SyntaxProblem
from fastgw.config.sources.documents import Source, patterns_of
from fastgw.config.sources.files import LARGEST, read_file
from fastgw.config.sources.include_globs import Search
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.node.node_state import ReloadRecord
from fastgw.runtime.reload.file_watch import Trait, trait_of

NOT_RELOADED: Final = "the files were changed and have not been reloaded"
ELSEWHERE: Final[Mapping[str, str]] = {
    "api": "the active configuration came from the admin API (POST /config)",
    "rollback": "the active configuration is a rollback",
}
"""Reasons why files differ although they have not changed, by the origin of the active configuration."""


class SourceFiles:
    """Digest of the present source files of a configuration. A file is read only if it may have changed."""

    def __init__(self) -> None:
        self.digest = b""
        """Digest of their names and contents; b"": not computed yet."""
        self._digests: dict[str, tuple[Trait | None, bytes]] = {}
        self._sources: Sequence[Source] = ()
        self._patterns: Sequence[tuple[str, str]] = ()

    def read_files(self, sources: Sequence[Source]) -> bool:
        """Check the files of these sources and their includes. Returns whether they have the same contents.

        Raises `OutOfResources`.
        """
        if sources is not self._sources:
            self._sources, self._patterns = sources, patterns_of(sources)
        said = {each.name: _digest(each.text) for each in sources if not each.upstream}
        names, search = {*said}, Search()
        for folder, pattern in self._patterns:
            try:
                names.update(search.find(folder, pattern))
            except SyntaxProblem:
                names.add(pattern)  # more files than can be checked: they differ
        digests = {}
        for name in names:
            trait = trait_of(name)
            known = self._digests.get(name)
            digests[name] = known if known is not None and known[0] == trait else (trait, _digest_of_file(name))
        self._digests = digests
        found = {name: digest for name, (_, digest) in digests.items()}
        self.digest = _digest(repr(sorted(found.items())).encode())
        return found == said


class Staleness:
    """Follows the changes of the configuration, and of its files in between."""

    def __init__(self, records: Sequence[ReloadRecord]) -> None:
        self.state: Stale | None = None
        """None: the files match the active configuration."""
        self.is_same = False
        """Whether they were byte by byte the same at the last check."""
        self._lock = Lock()  # used by several threads
        self._files = SourceFiles()
        self._refused: tuple[str, bytes] | None = None  # reason, and digest of the files
        self._wrong: tuple[str, bytes] | None = None  # the same, from before a configuration from elsewhere
        self._source = ""  # origin of that request
        self._taken = b""  # digest of the files at the last activation
        for record in records:
            if record.subject == "file" and not record.ok:
                self._refused = record.summary, b""
            elif record.ok and record.subject != "contents":
                self._is_taken(record.source)

    def accepted(self, current: Callable[[], ConfigSnapshot]) -> None:
        """Record that another configuration is active. Reads files, like the other methods: call in a thread."""
        with self._lock:
            self.state = None
            self._is_taken(current().source)
            self._taken = self._digest_now(current())
            self._update_state(current())

    def refused(self, current: Callable[[], ConfigSnapshot], why: str) -> None:
        """Record that the present source files were rejected."""
        with self._lock:
            self._refused = why, self._digest_now(current())
            self.state = Stale("refused", why, time.time() if self.state is None else self.state.since_date)
            self._update_state(current())

    def check_files(self, current: Callable[[], ConfigSnapshot]) -> None:
        """Check the files. Reads those that have changed."""
        with self._lock:
            self._update_state(current())

    def _is_taken(self, source: str) -> None:
        """Record another active configuration. If it is from elsewhere, errors of the files remain."""
        self._wrong = (self._refused or self._wrong) if source in ELSEWHERE else None
        self._refused, self._source = None, source

    def _digest_now(self, current: ConfigSnapshot) -> bytes:
        """Return the digest of the files; b"": it cannot be computed now."""
        try:
            self._files.read_files(current.sources)
        except OutOfResources:
            return b""
        return self._files.digest

    def _update_state(self, current: ConfigSnapshot) -> None:
        try:
            found = self._find_reason(current) if current.file else None
        except OutOfResources:
            return  # the state stays unchanged
        if found is None or self.state is None or found[0] != self.state.reason:
            self.state = None if found is None else Stale(found[0], found[1], time.time())
        elif found[1] != self.state.why:
            self.state = Stale(found[0], found[1], self.state.since_date)

    def _find_reason(self, current: ConfigSnapshot) -> tuple[StaleReason, str] | None:
        """Return the reason why it is stale, as a keyword and as text."""
        is_same = self.is_same = self._files.read_files(current.sources)
        digest = self._files.digest
        if self._refused is not None:
            why, then = self._refused
            if not then:  # recorded by the previous control process
                self._refused = why, digest
            if digest == self._refused[1]:
                return "refused", why
            self._refused = None if is_same else self._refused
            return None if is_same else ("edited", f"{NOT_RELOADED}; their previous contents were rejected: {why}")
        if is_same:
            return None
        self._taken = self._taken or digest
        source = self._source or current.source
        if digest != self._taken or source not in ELSEWHERE:
            return "edited", NOT_RELOADED
        why = ELSEWHERE[source]
        if self._wrong is not None and self._wrong[1] in (b"", digest):
            why += f"; the contents of the files were rejected: {self._wrong[0]}"
        return ("api" if source == "api" else "rollback"), why


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _digest_of_file(name: str) -> bytes:
    try:
        return _digest(read_file(name, LARGEST))
    except (OSError, SyntaxProblem) as error:
        if getattr(error, "errno", None) in OUT_OF:
            raise OutOfResources(f"{name} cannot be read: {error}") from error
        return repr(error).encode()
