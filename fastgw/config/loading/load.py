"""Loads a configuration from a file or from the command line, and validates it."""

import gc
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from fastgw.config.base.problems import ConfigError, Problem, begin_hints
from fastgw.config.base.value_types import ADDRESS, URL, Notation
from fastgw.config.decoding.acme_certificates import set_acme_storage
from fastgw.config.decoding.filter_levels import with_defaults
from fastgw.config.decoding.followed_services import identity_of, services_in
from fastgw.config.decoding.merge import Merged, add_consumers, merge, put_targets, targets_in_files
from fastgw.config.egress.expand import EgressKept, expand
from fastgw.config.kubernetes.provider import KubernetesKept, add_kubernetes
from fastgw.config.kyma.provider import KymaKept, Refused, add_kyma
from fastgw.config.loading.writer import origins_of
from fastgw.config.openapi.expand import expand_openapi
from fastgw.config.settings.gateway import MOST_WORKERS, NONE, AccessLog, Config, Listener, Route, Status
from fastgw.config.sources.dns_targets import UNKNOWN
from fastgw.config.sources.documents import Document, FoundFile, Source, read_all
from fastgw.config.sources.extension_packages import Types, extended
from fastgw.config.sources.files import Disk, Files, Memory
from fastgw.config.sources.followed_files import Remotes
from fastgw.config.validation.filter_overrides import FilterRules
from fastgw.config.validation.http2 import http2_notes
from fastgw.config.validation.ineffective_settings import idle_settings, overlaid_targets
from fastgw.config.validation.lint import lint
from fastgw.config.validation.ocsp import ocsp_notes
from fastgw.config.validation.rules import RULES
from fastgw.config.validation.tls import tls_notes

PROBLEMS_LISTED: Final = 1000
"""Maximum number of problems, and of notes, that are listed."""


class Loaded(Struct, frozen=True):
    """A configuration, with its notes and sources."""

    config: Config
    notes: tuple[Problem, ...]
    """Notes on valid settings that may not be intended, such as filters that replace or remove others."""
    files: tuple[str, ...]
    """Every file that was read, the main one first."""
    sources: tuple[Source, ...]
    """The same files with their contents, in reading order; then lists of targets set by the API."""
    captured: Mapping[str, bytes]
    """Contents of the files that the configuration names, such as certificates, by absolute path: the bytes that were
    validated.
    """
    withheld: Mapping[str, str] = MappingProxyType({})
    """Reasons why the previous contents of a file stay in force instead of the current ones, by file."""
    refused_objects: Mapping[str, str] = MappingProxyType({})
    """Objects of the Kubernetes provider that are left out, with the reasons."""

    @classmethod
    def of(cls, config: Config) -> "Loaded":
        """Return the result for a configuration without files."""
        return cls(config, (), (), (), MappingProxyType({}))

    def __repr__(self) -> str:  # captured files may contain keys
        return f"<Loaded: {', '.join(map(repr, self.sources))}; {len(self.captured)} captured>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("sources", self.sources)]


class Remembered:
    """Cache for the next reading, which then processes only changes. One reading at a time.

    It never affects the result, which depends on the files alone; only what the compiler has refused of the Kubernetes
    provider is left out until it changes.
    """

    def __init__(self) -> None:
        self.kyma = KymaKept()
        self.kubernetes = KubernetesKept()
        self.egress = EgressKept()

    def end_reading(self, merged: Merged | None) -> None:
        """End a successful reading; None: it has failed."""
        self.kyma.end_reading(merged is not None)
        self.kubernetes.end_reading(merged)
        self.egress.end_reading(merged)


def load(
    file: str,
    filter_types: Mapping[str, type],
    instead: Mapping[str, bytes] = MappingProxyType({}),
    remembered: Remembered | None = None,
    known: Mapping[str, bytes] = MappingProxyType({}),
) -> Loaded:
    """Read a file and all that it includes, and validate everything.

    `filter_types`: settings struct of each filter, by name. `instead`: contents that replace those of files. `known`:
    previous results of lookups, for those that fail now; without one, a failed lookup gives no targets. Raises
    `ConfigError` with all problems; only those that depend on a file with syntax errors are missing.
    """
    disk = Disk()
    with no_collections():
        return _checked(read_all(file, partial(disk.read, file), disk), filter_types, Disk(instead, known), remembered)


def filter_types_of(file: str, filter_types: Mapping[str, type]) -> Mapping[str, type]:
    """Return the filter types with those of the configuration: of its extensions, and those that it names by class.

    Raises `ConfigError` if they cannot be found; other problems are not reported.
    """
    disk = Disk()
    found = read_all(file, partial(disk.read, file), disk)
    known, problems = extended(found.documents, filter_types)
    if problems := found.problems + problems:
        excerpts = {problem: text for document in found.documents for problem, text in document.excerpts.items()}
        raise ConfigError(problems, excerpts)
    merge(found.documents, known, Disk())  # requests each class that is named
    return {**known, **known.classes} if isinstance(known, Types) else known


def load_text(
    text: bytes,
    name: str,
    filter_types: Mapping[str, type],
    suffix: str = "",
    instead: Mapping[str, bytes] = MappingProxyType({}),
    remembered: Remembered | None = None,
    known: Mapping[str, bytes] = MappingProxyType({}),
    *,
    trusted: bool = True,
    most_values: int | None = None,
) -> Loaded:
    """Load a main file that is not on disk. `name`: selects the format unless `suffix` does, and the folder that names
    in it are relative to. `trusted`: whether environment variables may be used. `most_values`: maximum number of
    values; None: no limit.
    """
    with no_collections():
        read = partial(Memory({name: text}).read, name)
        found = read_all(name, read, Disk(), suffix, trusted=trusted, most_values=most_values)
        return _checked(found, filter_types, Disk(instead, known), remembered)


def load_sources(
    sources: Sequence[Source],
    captured: Mapping[str, bytes],
    filter_types: Mapping[str, type],
    remembered: Remembered | None = None,
) -> Loaded:
    """Load from `Loaded.sources` and `Loaded.captured` alone, without access to the disk.

    The includes are the sources after the first. Patterns without a match are not noted again.
    """
    found = FoundFile()
    texts = Memory({source.name: source.text for source in sources})
    with no_collections():
        for each in sources:
            read, by_api = partial(texts.read, each.name), bool(each.upstream)
            found.add(
                Document(
                    each.name,
                    read,
                    each.folder,
                    each.suffix,
                    each.upstream,
                    trusted=not by_api,
                    quotes=each.quotes,
                )
            )
        return _checked(found, filter_types, Memory(captured), remembered)


_MANY_OBJECTS: Final = 100_000
"""New objects whose first collection takes about 10 ms."""


@contextmanager
def no_collections() -> Iterator[None]:
    """PERF: disable the garbage collector; the data has no cycles and is traversed again and again while it grows:
    100,000 consumers are loaded in 3.0 s instead of 5.6 (CPython 3.11, `time fastgw check`).

    The first collection afterwards would traverse it too, which takes 0.2 s with 10,000 operations of an OpenAPI
    document: much of it goes to the oldest generation, unless there are frozen objects, which would no longer be. They
    are counted one by one: 0.1 s for some millions.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if gc.get_count()[0] > _MANY_OBJECTS and not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def _checked(found: FoundFile, filter_types: Mapping[str, type], files: Files, remembered: Remembered | None) -> Loaded:
    remembered = Remembered() if remembered is None else remembered
    begin_hints()
    merged: Merged | None = None
    try:
        with _remotes(services_in(found.documents, filter_types, files), files) as files.remotes:
            loaded, merged = _validated(found, filter_types, files, remembered, {})
        return loaded
    finally:
        remembered.end_reading(merged)


@contextmanager
def _remotes(services: Mapping[str, Any], files: Files) -> Iterator[Remotes]:
    """Yield the services that followed files come from; for a reading without access to the disk, their identities."""
    identities = {kind: identity_of(each) for kind, each in services.items()}
    if not services or isinstance(files, Memory):
        yield Remotes(identities)
        return
    from fastgw.discovery.sources import fetching  # it takes time, and most configurations do not need it

    with fetching(services, files.contents_read) as fetch:
        yield Remotes(identities, fetch)


def _validated(
    found: FoundFile,
    filter_types: Mapping[str, type],
    files: Files,
    remembered: Remembered,
    refused: Refused,
    refused_objects: Mapping[str, str] = MappingProxyType({}),
    refused_notes: tuple[Problem, ...] = (),
) -> tuple[Loaded, Merged]:
    """Return the merged, validated configuration. `refused`: Kyma services to leave out; `refused_objects`: objects of
    the Kubernetes provider, with `refused_notes`.
    """
    filter_types, of_extensions = extended(found.documents, filter_types)
    merged = merge([each for each in found.documents if not each.upstream], filter_types, files)
    set_acme_storage(merged, files)
    of_kyma = add_kyma(merged, filter_types, files, refused, remembered.kyma)
    of_kubernetes = add_kubernetes(merged, filter_types, files, refused_objects, remembered.kubernetes)
    of_egress = expand(merged, filter_types, remembered.egress)
    of_openapi = expand_openapi(merged, filter_types, files)
    in_files, without_targets = targets_in_files(merged, filter_types, files)
    readings = [*merged.readings, *of_openapi, *in_files]
    overlaid: list[Problem] = []
    for document in found.documents:
        if document.upstream and document.value is not None:
            readings.append(put_targets(merged, document, filter_types, files))
            overlaid += overlaid_targets(merged, document.upstream)
    consumer_files, notes = add_consumers(merged, filter_types, files)
    readings += consumer_files
    deprecated = [note for reading in readings for note in reading.notes.values()]
    of_objects = [*of_kyma.notes, *of_kubernetes.notes, *refused_notes]
    notes = deprecated + found.notes + overlaid + without_targets + of_objects + of_egress + notes
    documents = [*found.documents, *(reading.document for reading in (*of_openapi, *in_files, *consumer_files))]
    if all(document.value is not None for document in documents):
        for rule in RULES:
            rule(merged)
        notes += FilterRules(merged, filter_types).check() + tls_notes(merged) + http2_notes(merged)
        notes += ocsp_notes(merged)
    names = [*(document.name for document in documents), *of_kyma.files, *of_kubernetes.files]
    order = {name: number for number, name in enumerate(names)}
    problems = found.problems + of_extensions + [problem for reading in readings for problem in reading.problems]
    odd_paths = _odd_paths({*names, *files.contents_read})
    problems = [each for each in problems if each.line or each.file not in odd_paths] + [*odd_paths.values()]
    if problems:
        excerpts = {problem: text for document in documents for problem, text in document.excerpts.items()}
        raise ConfigError(sorted_problems(problems, order), excerpts)
    if of_kyma.refused:
        return _validated(found, filter_types, files, remembered, {**refused, **of_kyma.refused})
    if newly_refused := of_kubernetes.newly_refused:
        left_out = {**refused_objects, **newly_refused}
        said = (*refused_notes, *of_kubernetes.problems)
        return _validated(found, filter_types, files, remembered, refused, left_out, said)
    notes += idle_settings(merged) + lint(merged)
    loaded = Loaded(
        config=_with_defaults(replace(merged.config(), origins=origins_of(merged)), filter_types),
        notes=tuple(sorted_problems(notes, order)),
        files=tuple(document.name for document in found.documents if not document.upstream),
        sources=tuple(document.source for document in found.documents),
        captured=MappingProxyType(dict(files.contents_read)),
        withheld=MappingProxyType(
            {name: why for name, why in files.unresolved.items() if files.contents_read[name] != UNKNOWN}
        ),
        refused_objects=MappingProxyType(of_kubernetes.refused),
    )
    return loaded, merged


def _odd_paths(names: Iterable[str]) -> dict[str, Problem]:
    """Return the problems of file names that are not valid text, by name: they can neither be passed between processes
    nor shown.
    """
    shown = {name: name.encode("utf-8", "backslashreplace").decode() for name in names}
    expected = "expected folders and files with names in UTF-8"
    return {
        name: Problem(text, 0, 0, "", "the path is not UTF-8", expected) for name, text in shown.items() if name != text
    }


def _with_defaults(made: Config, filter_types: Mapping[str, type]) -> Config:
    filters = with_defaults(made.filters, filter_types)
    return made if filters is made.filters else replace(made, filters=filters)


def from_flags(
    listen: str,
    to: str,
    filter_types: Mapping[str, type],
    *,
    workers: int | None = None,
    access_log: str | None = None,
    status: str | None = None,
) -> Config:
    """Return the configuration of `fastgw run --listen … --to …`. Raises `ConfigError` whose problems name the
    options.
    """
    problems: list[Problem] = []

    def parsed(flag: str, text: str, notation: Notation) -> Any:
        try:
            return notation.parse(text)
        except ValueError as error:
            problems.append(Problem("", 0, 0, flag, str(error), f"expected {notation.expected}"))
            return None

    given: dict[str, Any] = {"admin": None, "status": None}
    address = parsed("--listen", listen, ADDRESS)
    url = parsed("--to", to, URL)
    if status is not None:
        given["status"] = Status(address=parsed("--status", status, ADDRESS))
    if workers is not None:
        given["workers"] = workers
        if not 1 <= workers <= MOST_WORKERS:
            expected = f"expected a whole number from 1 to {MOST_WORKERS}"
            problems.append(Problem("", 0, 0, "--workers", str(workers), expected))
    if access_log is not None:
        given["access_logs"] = (AccessLog(sink=os.path.abspath(access_log)),)
    if problems:
        raise ConfigError(problems)
    return Config(
        version=1,
        listeners=MappingProxyType({"main": Listener(address=address)}),
        routes=(Route(name="all", upstream=url),),
        filters=with_defaults(NONE, filter_types),
        **given,
    )


def sorted_problems(problems: Iterable[Problem], order: Mapping[str, int]) -> list[Problem]:
    """Return the problems sorted by file, in include order, then by line; without duplicates; at most
    `PROBLEMS_LISTED`, with the number of the others.
    """
    listed = sorted(dict.fromkeys(problems), key=lambda each: (order.get(each.file, -1), each.line, each.column))
    if len(listed) > PROBLEMS_LISTED:
        listed[PROBLEMS_LISTED:] = [Problem(next(iter(order)), 0, 0, "", f"and {len(listed) - PROBLEMS_LISTED} more")]
    return listed
