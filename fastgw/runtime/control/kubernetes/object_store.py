"""Known objects of a Kubernetes cluster: Applications, and the Secrets that they or the configuration name.

Other Secrets are dropped as soon as their name is read, and a Secret that is no longer named is removed at once. Rule:
equal objects give equal bytes, regardless of the API server's additions, so irrelevant updates change nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

import msgspec

APPLICATIONS: Final = "applications"
SECRETS: Final = "secrets"
KINDS: Final = (APPLICATIONS, SECRETS)
NAMING: Final = ("secretName", "requestParametersSecretName")
"""The members of an Application that name a Secret."""
_METADATA: Final = ("name", "namespace")

Name = str


class Application(msgspec.Struct):
    """Stored parts of an Application. It is validated when it is read as a configuration."""

    api_version: Any = msgspec.field(name="apiVersion", default="applicationconnector.kyma-project.io/v1alpha1")
    kind: Any = "Application"
    metadata: dict[str, Any] = {}
    spec: Any = None


class ClusterSecret(msgspec.Struct):
    """Stored parts of a Secret."""

    api_version: Any = msgspec.field(name="apiVersion", default="v1")  # lists do not contain it
    kind: Any = "Secret"
    metadata: dict[str, Any] = {}
    data: Any = None


SHAPES: Final[Mapping[str, type[Application | ClusterSecret]]] = {APPLICATIONS: Application, SECRETS: ClusterSecret}


def _decoded(kind: str, raw: bytes) -> Application | ClusterSecret:
    return msgspec.json.decode(raw, type=SHAPES[kind])


def secrets_named(spec: Any) -> Iterator[Name]:
    """Return the Secrets that an Application names, in any position."""
    left = [spec]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            yield from (name for key in NAMING if isinstance(name := each.get(key), str) and name)
            left += each.values()
        elif isinstance(each, list):
            left += each


class Objects:
    """`changed`: called after a change of the known objects. `secrets`: Secrets that are stored without an Application
    that names them.
    """

    def __init__(self, changed: Callable[[], None], secrets: Collection[Name] = ()) -> None:
        self._changed = changed
        self._lines: Mapping[str, dict[Name, bytes]] = {kind: {} for kind in KINDS}
        self._naming: dict[Name, frozenset[Name]] = {}  # by Application, the Secrets that it names
        self._uses = Counter(set(secrets))  # by Secret, how often it is named
        self._listed: set[str] = set()
        self._missing = set(secrets)
        self.is_complete = asyncio.Event()
        """Set while the contents or the absence of all named Secrets are known."""
        self.is_lacking = asyncio.Event()
        """Set while they are not."""
        self._tell_missing()

    def __repr__(self) -> str:
        counted = ", ".join(f"{len(self._lines[kind])} {kind}" for kind in KINDS)
        return f"<Objects: {counted}, {len(self._missing)} missing>"

    @property
    def is_known(self) -> bool:
        """Whether the initial lists are complete. Incomplete ones could have a different meaning."""
        return len(self._listed) == len(KINDS)

    @property
    def missing(self) -> Collection[Name]:
        """Named Secrets that are not known yet."""
        return tuple(self._missing)

    @property
    def named(self) -> Collection[Name]:
        """Named Secrets."""
        return frozenset(self._uses)

    def name_of(self, metadata: Any) -> Name:
        """Return the name under which an object is stored: Secrets are those of one namespace."""
        name: Name = metadata.name
        return name

    def is_wanted(self, kind: str, name: Name) -> bool:
        """Whether such an object is stored."""
        return kind == APPLICATIONS or name in self._uses

    def replace(self, kind: str, raws: Mapping[Name, bytes], named: Collection[Name]) -> None:
        """Replace all objects of a kind by these; for Secrets only those in `named`, which were requested. Others that
        were named meanwhile may have been fetched separately. Replaces none and raises for one that cannot be decoded.
        """
        decoded = {name: _decoded(kind, raw) for name, raw in raws.items() if self.is_wanted(kind, name)}
        lines = self._lines[kind]
        before, was_known = {**lines}, self.is_known
        for name, shaped in decoded.items():
            self._store(kind, name, shaped)
        for name in before.keys() - raws.keys():  # last, because others may name their Secrets now
            if kind == APPLICATIONS or name in named:
                self._drop(kind, name)
        self._listed.add(kind)
        if kind == SECRETS:  # a requested Secret that does not exist is known to be absent
            self._missing -= set(named)
            self._tell_missing()
        if before != lines or not was_known:
            self._changed()

    def store(self, kind: str, name: Name, raw: bytes) -> None:
        """Store an object, if it is wanted."""
        if self._store(kind, name, _decoded(kind, raw)):
            self._changed()

    def delete(self, kind: str, name: Name) -> None:
        """Remove an object that was deleted."""
        if kind == SECRETS:
            self._missing.discard(name)
            self._tell_missing()
        if self._drop(kind, name):
            self._changed()

    def content(self) -> bytes:
        """Return all objects as a JSON array, one per line. Never `kyma_files.NOTHING`: an empty cluster is known to be
        empty."""
        lines = [self._lines[kind][name] for kind in KINDS for name in sorted(self._lines[kind])]
        return b"[\n" + b",\n".join(lines) + b"\n]\n" if lines else b"[]\n"

    def applications(self) -> Mapping[Name, bytes]:
        """Return the Applications as JSON, by name."""
        return {name: self._lines[APPLICATIONS][name] for name in sorted(self._lines[APPLICATIONS])}

    def _store(self, kind: str, name: Name, shaped: Application | ClusterSecret) -> bool:
        shaped.metadata = {key: shaped.metadata[key] for key in _METADATA if shaped.metadata.get(key)}
        line = msgspec.json.encode(shaped, order="deterministic")
        if isinstance(shaped, Application):
            self._name(name, frozenset(secrets_named(shaped.spec)))
        else:
            self._missing.discard(name)
            self._tell_missing()
        same = self._lines[kind].get(name) == line
        self._lines[kind][name] = line
        return not same

    def _drop(self, kind: str, name: Name) -> bool:
        if kind == APPLICATIONS:
            self._name(name, frozenset())
        return self._lines[kind].pop(name, None) is not None

    def _name(self, application: Name, named: frozenset[Name]) -> None:
        """Set the Secrets that an Application names."""
        before = self._naming.get(application, frozenset())
        if named == before:
            return
        self._uses.update(named - before)
        self._missing.update(secret for secret in named - before if secret not in self._lines[SECRETS])
        for secret in before - named:
            self._uses[secret] -= 1
            if not self._uses[secret]:
                del self._uses[secret]
                self._lines[SECRETS].pop(secret, None)
                self._missing.discard(secret)
        self._naming[application] = named
        if not named:
            del self._naming[application]
        self._tell_missing()

    def _tell_missing(self) -> None:
        known, unknown = (self.is_complete, self.is_lacking)
        (unknown if self._missing else known).set()
        (known if self._missing else unknown).clear()
