"""Merges the documents of a configuration: maps and lists add up, single settings may be set once.

Each part keeps its `SourceLocation`, so that later rules can report positions.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from glob import has_magic
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import astuple, fields, replace

from fastgw.config.base.problems import Path, Problem, format_value, shown_file, suggest
from fastgw.config.decoding.decoder import BROKEN, Reading, Structure, shape_of
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.settings.discovered_targets import DiscoveredTargets
from fastgw.config.settings.egress import Egress
from fastgw.config.settings.gateway import Config, ConsumerFile, Targets, TargetsDns, TargetsFile, TargetsSrv
from fastgw.config.sources.dns_targets import UNKNOWN, is_lookup, lookup_name
from fastgw.config.sources.documents import Document
from fastgw.config.sources.files import Files
from fastgw.config.sources.followed_files import FollowedFile, is_discovered

MAPS: Final = ("listeners", "upstreams", "maps", "filter_sets", "filters")
LISTS: Final = ("include", "extensions", "access_logs", "consumers", "consumer_files", "routes")
MOST_BYTES: Final = 1024 * 1024
"""Maximum size in bytes of a file with a list of targets: parsing a larger one would hold up the process that does."""
ANYWHERE: Final = ("version",)
"""Keys allowed in every file, because only one value is valid."""


class SourceLocation(Struct, frozen=True, dict=True):
    """A value in a document.

    PERF: a `Struct` is made in 0.3 us, a frozen dataclass in 2.6 (CPython 3.11); loading an OpenAPI document of 10,000
    operations makes 110,000.
    """

    reading: Reading
    path: Path

    @property
    def source(self) -> "SourceLocation":
        """Position in the file."""
        return self

    def below(self, *steps: str | int) -> "SourceLocation":
        return SourceLocation(self.reading, (*self.path, *steps))

    def report(self, wrong: str, expected: str = "", *, at_key: bool = True) -> None:
        """Report a problem at the key, unless `at_key` says otherwise: rules are about settings more than about
        values.
        """
        self.reading.report(self.path, wrong, expected, at_key=at_key)

    def problem(self, wrong: str) -> Problem:
        return self.reading.document.problem(self.path, wrong, at_key=True)

    def value_problem(self, wrong: str) -> Problem:
        """Return a problem at the value."""
        return self.reading.document.problem(self.path, wrong)

    @property
    def raw(self) -> Any:
        """Return the raw value at this place in the file."""
        value: Any = self.reading.document.value
        for step in self.path:
            value = value[step]
        return value

    @property
    def misspelt(self) -> bool:
        """Whether this key was probably meant by an unknown one."""
        return self.path in self.reading.misspelt

    def __str__(self) -> str:
        return self.reading.document.location(self.path)


class Derived(SourceLocation, frozen=True):
    """Source position of generated configuration, such as a route generated from an egress service. Problems are
    reported at the setting that it was generated from. `find_parts`: parts with a position of their own, by their path
    in the generated configuration; rarely called. `made`: its form in a file, as far as rules read it.
    """

    find_parts: Callable[[], Mapping[Path, SourceLocation]] = dict
    made: Mapping[str, Any] = MappingProxyType({})
    steps: Path = ()
    """Path within the generated configuration."""

    @cached_property
    def _part(self) -> SourceLocation | None:
        """Position of the part that it is in; None: it is in none with a position of its own."""
        parts = self.find_parts() if self.steps else {}
        for length in range(len(self.steps), 0, -1):
            part = parts.get(self.steps[:length])
            if part is not None:
                return part.below(*self.steps[length:])
        return None

    @property
    def source(self) -> SourceLocation:
        """Position in the file: of its part, or of the setting that all was generated from."""
        return SourceLocation(self.reading, self.path) if self._part is None else self._part.source

    def below(self, *steps: str | int) -> SourceLocation:
        """Return the position of a value below this one.

        PERF: its part is found only if there is a problem: 10,000 operations of an OpenAPI document load in 1.3 s
        instead of 1.7, with what `uses_to_validate` spares (CPython 3.11, bench.openapi_load).
        """
        return Derived(self.reading, self.path, self.find_parts, self.made, (*self.steps, *steps))

    def report(self, wrong: str, expected: str = "", *, at_key: bool = True) -> None:
        self.source.report(wrong, expected, at_key=at_key)

    def problem(self, wrong: str) -> Problem:
        return self.source.problem(wrong)

    def value_problem(self, wrong: str) -> Problem:
        return self.source.value_problem(wrong)

    @property
    def raw(self) -> Any:
        if self._part is not None:
            return self._part.raw
        value: Any = self.made
        for step in self.steps:
            value = value.get(step, {})
        return value

    @property
    def misspelt(self) -> bool:
        return self._part is not None and self._part.misspelt

    def __str__(self) -> str:
        return str(self.source)


CONSUMERS: Final = "consumers"
"""Key beside the services of an application: consumers that may call as the application."""
Services = dict[str, dict[str, tuple[SourceLocation, Any]]]
"""Services of `egress`, by application and name; values may be `BROKEN`."""


@dataclass
class Merged:
    """The merged parts of a configuration. Values of `maps` and `lists` may be `BROKEN`."""

    readings: list[Reading] = field(default_factory=list)
    single: dict[str, tuple[SourceLocation, Any]] = field(default_factory=dict)
    maps: dict[str, dict[str, tuple[SourceLocation, Any]]] = field(default_factory=lambda: {name: {} for name in MAPS})
    lists: dict[str, list[tuple[SourceLocation, Any]]] = field(default_factory=dict)
    """Lists present in a file: an empty list is not the same as a missing one."""
    egress_location: SourceLocation | None = None
    """Position of the first `egress`. None: there is none."""
    egress: dict[str, tuple[SourceLocation, Any]] = field(default_factory=dict)
    """Settings of `egress` by key, without `apps`."""
    services: Services = field(default_factory=dict)
    """Services of `egress.apps`, and those added by providers."""
    app_consumers: dict[str, tuple[SourceLocation, Any]] = field(default_factory=dict)
    """Names of the consumers that may call as an application, by application."""
    target_sources: dict[str, Any] = field(default_factory=dict)
    """Sources of the targets that are not listed, by upstream."""
    openapi_entries: list[tuple[int, int, Any]] = field(default_factory=list)
    """Entries for OpenAPI documents, each with the position of its first route and the number of its routes."""
    awaits_services: bool = False
    """Whether a provider has not delivered its services yet."""
    validated: Container[int] = ()
    """Identities of routes and upstreams that were valid in the last reading, among the same others."""
    validated_elsewhere: Container[int] = ()
    """Identities of valid routes and upstreams of the Kubernetes provider."""
    with_notes: set[int] = field(default_factory=set)
    """Identities of the routes and upstreams that rules have reported on."""

    def whole(self, name: str) -> Iterator[tuple[SourceLocation, str, Any]]:
        """Return the valid entries of a map."""
        return ((location, key, value) for key, (location, value) in self.maps[name].items() if value is not BROKEN)

    def single_entry(self, name: str) -> Iterator[tuple[SourceLocation, Any]]:
        """Yield the single entry of a setting that is allowed once; nothing if it is missing or null."""
        if name in self.single and self.single[name][1] is not None:
            yield self.single[name]

    def is_written(self, name: str, key: str | None = None) -> bool:
        """Whether a file has a setting, be it valid or not. `key`: whether it has this one, which is not null."""
        held = [value[name] for reading in self.readings if name in (value := reading.document.value or {})]
        return bool(held) if key is None else any(isinstance(each, dict) and each.get(key) is not None for each in held)

    def routes(self) -> Iterator[tuple[SourceLocation, Any]]:
        """Return the routes whose settings are valid."""
        return ((location, route) for location, route in self.lists.get("routes", ()) if route is not BROKEN)

    def routes_to_validate(self) -> Iterator[tuple[SourceLocation, Any]]:
        """Return the routes not validated yet, for rules about each route by itself. They are found once, when the
        first rule asks.
        """
        return iter(self._unvalidated_routes)

    @cached_property
    def _unvalidated_routes(self) -> Sequence[tuple[SourceLocation, Any]]:
        """PERF: 20 rules ask: with 5,000 known routes 1.5 ms instead of 28 (CPython 3.11, timeit)."""
        return [(location, route) for location, route in self.routes() if not self._is_validated(route)]

    @cached_property
    def uses_to_validate(self) -> Sequence[tuple[SourceLocation, Any, Any]]:
        """Uses of filters not validated yet, with the paths of their routes; None: the route is not known.

        They are found once, when the first rule asks.
        """
        uses: list[tuple[SourceLocation, Any, Any]] = [(at, use, None) for at, use in self.maps["filters"].values()]
        for location, _, each in (*self.whole("listeners"), *self.upstreams_to_validate()):
            uses += _uses_below(location.below("filters"), each.filters, None)
        for location, _, filters in self.whole("filter_sets"):
            uses += _uses_below(location, filters, None)
        for location, route in self.routes_to_validate():
            uses += _uses_below(location.below("filters"), route.filters, route.paths)
        return uses

    def upstreams_to_validate(self) -> Iterator[tuple[SourceLocation, str, Any]]:
        """Return the upstreams not validated yet."""
        return (each for each in self.whole("upstreams") if not self._is_validated(each[2]))

    def _is_validated(self, each: object) -> bool:
        return id(each) in self.validated or id(each) in self.validated_elsewhere

    def note(self, each: object, notes: Iterable[Problem]) -> None:
        """Record that rules have reported on this route or upstream, if there are any `notes`."""
        if any(True for _ in notes):
            self.with_notes.add(id(each))

    def consumers(self) -> Iterator[tuple[SourceLocation, Any]]:
        """Return the consumers whose settings are valid."""
        return ((location, each) for location, each in self.lists.get("consumers", ()) if each is not BROKEN)

    def config(self) -> Config:
        """Return the configuration, once there are no problems."""
        held: dict[str, Any] = {name: value for name, (_, value) in self.single.items()}
        for name, entries in self.maps.items():
            held[name] = MappingProxyType({key: value for key, (_, value) in entries.items()})
        for name, elements in self.lists.items():
            held[name] = tuple(value for _, value in elements)
        if self.egress_location is not None:
            held["egress"] = self._egress()
        return Config(**held)

    def _egress(self) -> Egress:
        said = {name: value for name, (_, value) in self.egress.items()}
        apps = {}
        for app, services in self.services.items():
            held = {name: service for name, (_, service) in services.items()}
            if app in self.app_consumers and CONSUMERS not in held:
                held[CONSUMERS] = self.app_consumers[app][1]
            apps[app] = MappingProxyType(held)
        return Egress(apps=MappingProxyType(apps), **said)


def _uses_below(location: SourceLocation, filters: Any, paths: Any) -> Iterator[tuple[SourceLocation, Any, Any]]:
    return ((location.below(name), use, paths) for name, use in (() if filters is BROKEN else filters.items()))


def merge(documents: Iterable[Document], filter_types: Mapping[str, type], files: Files) -> Merged:
    """Decode each document and merge them. The first is the main one."""
    merged = Merged()
    for document in documents:
        reading = Reading(document, filter_types, files)
        merged.readings.append(reading)
        for name, value in Structure(Config).read_fields(document.value or {}, (), reading).items():
            location = SourceLocation(reading, (name,))
            if value is BROKEN:
                continue
            if name in LISTS:
                merged.lists.setdefault(name, []).extend((location.below(i), each) for i, each in enumerate(value))
            elif name in MAPS:
                for key, each in value.items():
                    _add(merged.maps[name], key, location.below(key), each)
            elif name == "egress":
                _add_egress(merged, location, value)
            elif name not in ANYWHERE or name not in merged.single:
                _add(merged.single, name, location, value, "expected it once")
    return merged


def put_targets(merged: Merged, document: Document, filter_types: Mapping[str, type], files: Files) -> Reading:
    """Replace the targets of the document's upstream by those that it lists."""
    reading = Reading(document, filter_types, files)
    upstreams = merged.maps["upstreams"]
    targets = shape_of(Targets).read(document.value, (), reading)
    if document.upstream not in upstreams:
        reading.report((), f"unknown upstream {format_value(document.upstream)}", suggest(document.upstream, upstreams))
        return reading
    location, upstream = upstreams[document.upstream]
    if BROKEN not in (upstream, targets):
        upstreams[document.upstream] = location, replace(upstream, targets=targets)
        merged.target_sources.pop(document.upstream, None)
    return reading


def targets_in_files(
    merged: Merged, filter_types: Mapping[str, type], files: Files
) -> tuple[list[Reading], list[Problem]]:
    """Insert the targets listed in files. Returns how the files were read, and the upstreams whose targets cannot be
    looked up yet."""
    readings = []
    notes: list[Problem] = []
    upstreams = list(merged.whole("upstreams"))
    files.begin_lookups(
        file
        for _, _, each in upstreams
        if isinstance(each.targets, TargetsDns | TargetsSrv)
        and (file := _name_of(each.targets, each.resolve.interval)) is not BROKEN
    )
    for location, name, upstream in upstreams:
        source = upstream.targets
        if not isinstance(source, TargetsFile | TargetsDns | TargetsSrv | DiscoveredTargets):
            continue
        if isinstance(source, DiscoveredTargets):
            file = _discovered_name(source, location, files, merged)
        else:
            file = _name_of(source, upstream.resolve.interval)
        if file is not BROKEN and _is_unknown(file, files):
            merged.target_sources[name] = source
            merged.maps["upstreams"][name] = location, replace(upstream, targets=())
            missing = "no targets" if is_discovered(file) else "not resolved yet"
            why = files.unresolved.get(file, f"{shown_file(file)}: {missing}")
            notes.append(location.below("targets").problem(f"{why}: requests are answered 503 until it can be"))
        elif file is not BROKEN:
            suffix = "" if isinstance(source, TargetsFile) else ".json"
            read = partial(_list_in, files, file)
            document = Document(file, read, suffix=suffix, upstream=name, quotes=bool(suffix))
            if document.value is None:
                reading = Reading(document, filter_types, files, [*document.problems])
            else:
                reading = put_targets(merged, document, filter_types, files)
            merged.target_sources[name] = source
            readings.append(reading)
            if reading.problems:
                merged.maps["upstreams"][name] = location, BROKEN
        else:
            merged.maps["upstreams"][name] = location, BROKEN
    return readings, notes


def _list_in(files: Files, file: str) -> bytes:
    """Return the content of a file with a list of targets. Raises `SyntaxProblem`."""
    content = files.read(file)
    if len(content) > MOST_BYTES:
        raise SyntaxProblem(f"longer than {MOST_BYTES // 1024**2} MiB", expected="expected a shorter list of targets")
    return content


def _is_unknown(file: str, files: Files) -> bool:
    """Whether this is a lookup without any result yet, or an empty list of service discovery."""
    try:
        return (is_lookup(file) or is_discovered(file)) and files.read(file) == UNKNOWN
    except SyntaxProblem:
        return False  # its next reader reports it


_ADDRESSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "consul": "http://127.0.0.1:8500",
        "nacos": "http://127.0.0.1:8848/nacos",
        "eureka": "http://127.0.0.1:8761/eureka",
        "docker": "unix:/var/run/docker.sock",
    }
)
"""Example of the address of a registry, by kind."""


def _discovered_name(source: DiscoveredTargets, location: SourceLocation, files: Files, merged: Merged) -> Any:
    """Return the file with the targets of service discovery; `BROKEN` if it is unknown. A registry whose settings are
    written and not valid has been reported.
    """
    if any(each is BROKEN or (isinstance(each, tuple) and BROKEN in each) for each in astuple(source)):
        return BROKEN
    kind = next(iter(fields(source))).name
    identity = files.remotes.identities.get(kind)
    if identity is None:
        if not merged.is_written("providers", kind):
            at = location.below("targets", kind)
            example = f'providers: {{{kind}: {{address: "{_ADDRESSES[kind]}"}}}}'
            at.report(
                f"`providers.{kind}` is missing",
                f"expected the address of the registry, such as {example}",
                at_key=False,
            )
        return BROKEN
    return FollowedFile(kind, identity, getattr(source, kind), source.options).name


def _name_of(source: TargetsFile | TargetsDns | TargetsSrv, interval: float) -> Any:
    """Return the file with the targets; `BROKEN` if it is unknown. `interval`: used if the source has none."""
    if isinstance(source, TargetsFile):
        return source.file
    if BROKEN in astuple(source):
        return BROKEN
    every = interval if source.interval is None else source.interval
    if isinstance(source, TargetsDns):
        return lookup_name("dns", source.dns, source.port, source.scheme, every)
    return lookup_name("srv", source.srv, 0, source.scheme, every)


def add_consumers(
    merged: Merged, filter_types: Mapping[str, type], files: Files
) -> tuple[list[Reading], list[Problem]]:
    """Add the consumers of `consumer_files`. Returns how the files were read, and the notes."""
    readings: list[Reading] = []
    notes: list[Problem] = []
    met: set[str] = set()
    consumers = merged.lists.setdefault("consumers", [])
    for location, pattern in merged.lists.get("consumer_files", ()):
        if pattern is BROKEN:
            continue
        try:
            found = files.find(location.reading.document.folder, pattern)
        except SyntaxProblem as flaw:
            location.report(
                f"{format_value(pattern)}: {flaw.wrong}", "expected a pattern that matches fewer directories"
            )
            continue
        if not found and has_magic(pattern):
            notes.append(location.problem(f"{format_value(pattern)} matches no file"))
        elif not found:
            location.report(f"{format_value(pattern)}: no such file", "expected files with consumers")
        for file in found:
            escaped = file.encode(errors="backslashreplace").decode()
            if escaped != file:
                location.report(
                    f"{format_value(pattern)}: {escaped}: a name that is not UTF-8", "expected another name"
                )
            elif file not in met:
                met.add(file)
                reading = Reading(Document(file, partial(files.read, file), quotes=False), filter_types, files)
                readings.append(reading)
                reading.problems += reading.document.problems
                if reading.document.value is not None:
                    held = Structure(ConsumerFile).read(reading.document.value, (), reading)
                    at = SourceLocation(reading, ("consumers",))
                    consumers.extend((at.below(i), each) for i, each in enumerate(_elements(held)))
    return readings, notes


def _elements(file: Any) -> Iterable[Any]:
    return () if file is BROKEN or file.consumers is BROKEN else file.consumers


def _add_egress(merged: Merged, location: SourceLocation, egress: Egress | None) -> None:
    """Merge `egress`: applications and services of several files add up; other settings may be set once."""
    if egress is None:
        return
    merged.egress_location = merged.egress_location or location
    for key in location.raw:
        if key != "apps":
            _add(merged.egress, key, location.below(key), getattr(egress, key), "expected it once")
    for app, services in egress.apps.items():
        held = merged.services.setdefault(app, {})
        for name, service in services.items():
            kind = merged.app_consumers if isinstance(service, tuple) else held
            _add(kind, app if isinstance(service, tuple) else name, location.below("apps", app, name), service)


def _add(
    held: dict[str, tuple[SourceLocation, Any]],
    name: str,
    location: SourceLocation,
    value: Any,
    expected: str = "expected a unique name",
) -> None:
    if name in held:
        location.report(f"already defined at {held[name][0]}", expected)
    else:
        held[name] = location, value
