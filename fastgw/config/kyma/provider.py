"""Services of `egress` from Kyma's documents, read with the configuration from a directory or from a watch.

Rule: documents never make the configuration invalid. Invalid parts, and everything that depends on them, are left out
and noted.
"""

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from glob import escape
from typing import Any, Final

from fastgw.config.base.problems import Path, Problem, format_value
from fastgw.config.decoding.decoder import BROKEN, Reading
from fastgw.config.decoding.incremental_cache import IncrementalCache
from fastgw.config.decoding.merge import Derived, Merged, SourceLocation
from fastgw.config.egress.expand import add_services
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.kyma.objects import ENDINGS, Object, ObjectFiles
from fastgw.config.kyma.services import KymaService, Read, parts_of, services_in
from fastgw.config.settings.egress import EgressService, Kyma
from fastgw.config.sources.documents import Document
from fastgw.config.sources.files import Files, found_by, pattern_name
from fastgw.config.sources.virtual_files import NOTHING, is_watched, watched_name

PROVIDER: Final = "kyma"
Service = tuple[str, str]
"""Application name and service name."""
Refused = Mapping[Service, tuple[Problem, ...]]
"""Services that conflict with others, and their problems."""


class OfKyma:
    """Result of adding Kyma's documents to a configuration."""

    def __init__(self) -> None:
        self.notes: list[Problem] = []
        self.files: list[str] = []
        """Names of the files with the documents, in order."""
        self._readings: dict[Service, Reading] = {}
        self._documents: dict[Object, Document] = {}

    @property
    def refused(self) -> Refused:
        """Return the services with problems that only the rules found."""
        return {service: tuple(each.problems) for service, each in self._readings.items() if each.problems}

    def location(self, service: KymaService, filter_types: Mapping[str, type], files: Files) -> SourceLocation:
        document = self._documents.get(service.of)
        if document is None:
            document = self._documents[service.of] = _ObjectDocument(service.of)
        reading = Reading(document, filter_types, files)
        self._readings[service.app, service.name] = reading
        if not service.entries:
            return _location(reading, service.of, service.path)

        def find_parts() -> Mapping[Path, SourceLocation]:
            entries = service.entries.items()
            return {("entries", name): _location(reading, service.of, entry.path) for name, entry in entries}

        return Derived(reading, service.path, find_parts)


class KymaKept:
    """Cache of the documents that were read."""

    def __init__(self) -> None:
        self.files = ObjectFiles()
        self.applications: IncrementalCache[Object, Read] = IncrementalCache()

    def end_reading(self, succeeded: bool) -> None:
        """End a reading."""
        self.files.end_reading(succeeded)
        self.applications.end_reading(succeeded)


def add_kyma(
    merged: Merged, filter_types: Mapping[str, type], files: Files, refused: Refused, kept: KymaKept | None = None
) -> OfKyma:
    """Add the services of the documents named by `providers.kyma`, except refused ones."""
    added = OfKyma()
    kept = KymaKept() if kept is None else kept
    added.notes += [problem for problems in refused.values() for problem in problems]
    for location, providers in merged.single_entry("providers"):
        if providers is BROKEN or providers.kyma in (None, BROKEN):
            continue
        at, settings = location.below("kyma"), providers.kyma
        objects = [*_objects(at, settings, files, added, kept.files)]
        found = services_in(objects, settings, files.derive, kept.applications)
        added.notes += found.notes
        merged.egress_location = merged.egress_location or at
        merged.awaits_services = any(is_watched(name) and files.read(name) == NOTHING for name in added.files)
        for index in () if merged.awaits_services else found.missing:
            named = f"the Secret {settings.namespace}/{settings.secrets[index]} is missing"
            added.notes.append(at.below("secrets", index).problem(f"{named}: calls of its APIs are answered 404"))
        apps: dict[str, dict[str, tuple[SourceLocation, EgressService]]] = {}
        for service in found.services:
            key = service.app, service.name
            if key in refused:
                continue
            places = merged.services.get(service.app, {}), apps.get(service.app, {})
            if held := next((held[service.name] for held in places if service.name in held), None):
                named = f"{format_value(service.name)} of {format_value(service.app)}"
                wrong = f"{named} is at {held[0]}, which takes precedence"
                added.notes.append(service.of.problem(service.path, wrong, "expected another name"))
                continue
            standing = added.location(service, filter_types, files)
            apps.setdefault(service.app, {})[service.name] = standing, service.settings
        add_services(merged, apps)
    return added


def patterns_of(settings: Kyma) -> list[str]:
    """Return the patterns of the files of its directory."""
    return [] if settings.directory is None else [f"{escape(settings.directory)}/*{each}" for each in ENDINGS]


def documents_in(settings: Kyma, held: Mapping[str, bytes]) -> list[str]:
    """The files of its directory, among files that were read."""
    return [file for pattern in patterns_of(settings) for file in found_by(held, pattern) if file in held]


def directory_in(settings: Kyma, held: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return everything read from its directory: the files, and the matches of its patterns."""
    patterns = patterns_of(settings)
    names = [*(pattern_name("/", pattern) for pattern in patterns), *documents_in(settings, held)]
    return {name: held[name] for name in names if name in held}


def _objects(at: SourceLocation, settings: Any, files: Files, added: OfKyma, kept: ObjectFiles) -> Iterable[Object]:
    notes = added.notes
    names = [watched_name(PROVIDER)] if settings.kubernetes is not None else _names(at, settings, files, notes)
    added.files += names
    for name in names:
        try:
            content = files.read(name)
        except SyntaxProblem as flaw:
            notes.append(Problem(name, 0, 0, "", flaw.wrong))
            continue
        for file in kept.read(name, content):
            notes += file.problems
            yield from file.objects


def _names(at: SourceLocation, settings: Kyma, files: Files, notes: list[Problem]) -> list[str]:
    location = at.below("directory")
    found: set[str] = set()
    try:
        if why := files.why_no_folder(str(settings.directory)):
            location.report(f"{format_value(settings.directory)}: {why}", "expected a directory with Kyma's documents")
            return []
        for pattern in patterns_of(settings):
            found.update(files.find("/", pattern))
    except SyntaxProblem as flaw:
        location.report(f"{format_value(settings.directory)}: {flaw.wrong}", "expected a directory of fewer files")
        return []
    readable = []
    for name in sorted(found):
        escaped = name.encode(errors="backslashreplace").decode()
        if escaped == name:
            readable.append(name)
        else:
            notes.append(Problem(escaped, 0, 0, "", "a name that is not UTF-8"))
    if not readable:
        notes.append(
            location.problem(
                f"{format_value(settings.directory)} has no file with one of the endings {', '.join(ENDINGS)}"
            )
        )
    return readable


def _location(reading: Reading, of: Object, entry: Path) -> SourceLocation:
    """Return the position of an entry."""
    return Derived(
        reading, entry, lambda: {part: SourceLocation(reading, at) for part, at in parts_of(of, entry).items()}
    )


class _ObjectDocument(Document):
    """Adapter of an object to `Document`: rules report problems at the object."""

    def __init__(self, each: Object) -> None:  # nothing is parsed: the object already was
        self.name, self.folder, self.upstream = each.file, os.sep, ""
        self.problems = []
        self._object = each

    @cached_property
    def value(self) -> Any:  # rarely used
        return self._object.value

    def problem(self, path: Path, wrong: str, expected: str = "", *, at_key: bool = False) -> Problem:
        return self._object.problem(path, wrong, expected)

    def says_nothing(self, path: Path) -> bool:
        return False

    def location(self, path: Path) -> str:
        return self._object.location_of(path)
