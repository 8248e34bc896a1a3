"""Adds the pieces of a translation to a configuration, read from the file of the watch.

Rule: objects never make the configuration invalid. A piece with problems is left out, with all that depends on it, and
noted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from fastgw.config.base.problems import Path, Problem
from fastgw.config.decoding.decoder import BROKEN, Reading, shape_of
from fastgw.config.decoding.incremental_cache import IncrementalCache
from fastgw.config.decoding.merge import Merged, SourceLocation
from fastgw.config.kubernetes.model import Piece
from fastgw.config.settings.gateway import Consumer, Filters, Listener, Route, Upstream
from fastgw.config.sources.documents import Document
from fastgw.config.sources.files import Files
from fastgw.config.sources.virtual_files import NOTHING, watched_name

PROVIDER: Final = "gateway"
FILE: Final = watched_name(PROVIDER)
"""File with the pieces, a JSON list."""
PARTS: Final[Mapping[str, Any]] = MappingProxyType(
    {"listeners": Listener, "upstreams": Upstream, "filter_sets": Filters}
)
"""Types of the parts of a piece that have names, by which the other parts refer to them."""


class PieceDocument(Document):
    """Adapter of a piece to `Document`: rules report problems at the object that it was made from."""

    trusted = False
    is_generated = True

    def __init__(self, raw: bytes, of: str) -> None:  # nothing else is parsed
        self.name, self.folder, self.upstream = FILE, "/", ""
        self.problems = []
        self._raw, self._of = raw, of
        self._held: Any = None

    @property
    def value(self) -> Any:  # parsed on demand
        if self._held is None:
            self._held = msgspec.json.decode(self._raw)
        return self._held

    def forget_value(self) -> None:
        """Drop the value, to be parsed again on demand."""
        self._held = None

    def problem(self, path: Path, wrong: str, expected: str = "", *, at_key: bool = False) -> Problem:
        return Problem(FILE, 0, 0, ": ".join((self._of, ".".join(map(str, path[1:])))), wrong, expected)

    def says_nothing(self, path: Path) -> bool:
        return False

    def location(self, path: Path) -> str:
        return self._of


@dataclass
class DecodedPiece:
    """A piece with its settings."""

    piece: Piece
    document: PieceDocument
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    routes: list[Route] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


class KubernetesKept:
    """Cache of the pieces that were decoded."""

    def __init__(self) -> None:
        self.pieces: IncrementalCache[bytes, DecodedPiece] = IncrementalCache()
        self.around: object = None
        self._validated: dict[int, object] = {}
        self._used: list[DecodedPiece] = []

    def begin_reading(self, around: object) -> Mapping[int, object]:
        """Return the routes and upstreams that were valid in the last reading, by identity. `around`: all inputs other
        than the pieces."""
        if around != self.around:
            self.around, self._validated = around, {}
        self._used = []
        return self._validated

    def use(self, raw: bytes, made: DecodedPiece) -> None:
        self._used.append(self.pieces.store(raw, made))

    def end_reading(self, merged: Merged | None) -> None:
        """End a successful reading; None: it has failed."""
        self.pieces.end_reading(merged is not None)
        if merged is not None:
            held = (each for used in self._used for each in (*used.routes, *used.settings["upstreams"].values()))
            valid = (each for each in held if not each.filters and id(each) not in merged.with_notes)
            self._validated = {id(each): each for each in valid}
        for used in self._used:
            used.document.forget_value()
        self._used = []


class OfKubernetes:
    """Result of adding the pieces to a configuration."""

    def __init__(self) -> None:
        self.notes: list[Problem] = []
        self.files: list[str] = []
        self._readings: dict[str, list[Reading]] = {}

    @property
    def refused(self) -> frozenset[str]:
        """Return the objects whose pieces have problems that only the rules found."""
        return frozenset(of for of, readings in self._readings.items() if any(each.problems for each in readings))

    @property
    def problems(self) -> list[Problem]:
        return [problem for readings in self._readings.values() for each in readings for problem in each.problems]

    def add_reading(self, of: str, reading: Reading) -> None:
        self._readings.setdefault(of, []).append(reading)


def add_kubernetes(
    merged: Merged, filter_types: Mapping[str, type], files: Files, refused: frozenset[str], kept: KubernetesKept
) -> OfKubernetes:
    """Add the listeners, routes and upstreams of `providers.kubernetes`, except of refused objects."""
    added = OfKubernetes()
    said = next((providers for _, providers in merged.single_entry("providers") if providers is not BROKEN), None)
    if said is None or said.kubernetes in (None, BROKEN):
        return added
    added.files.append(FILE)
    around = [{name: value for name, (_, value) in each.items()} for each in (merged.single, *merged.maps.values())]
    validated = kept.begin_reading((filter_types, around, refused))
    pieces = [*_decoded(files, filter_types, kept)]
    broken = set(refused)
    for each in pieces:
        if each.problems:
            added.notes += each.problems
            broken.add(each.piece.object)
    usable = [each for each in pieces if each.piece.object not in broken and not each.problems]
    for each in usable:
        _add_named(merged, added, each, Reading(each.document, filter_types, files))
    for each in usable:
        _add_routes(merged, each, Reading(each.document, filter_types, files), added)
    merged.validated_elsewhere = validated
    return added


def _decoded(files: Files, filter_types: Mapping[str, type], kept: KubernetesKept) -> Iterator[DecodedPiece]:
    content = files.read(FILE)
    for raw in () if content == NOTHING else msgspec.json.decode(content, type=list[msgspec.Raw]):
        encoded = bytes(raw)
        made = kept.pieces.find(encoded)
        if made is None:
            piece = msgspec.json.decode(encoded, type=Piece)
            made = DecodedPiece(piece, PieceDocument(encoded, piece.object))
            for name, text in piece.files.items():
                files.derive(name, text.encode("latin-1"))
            _decode(made, Reading(made.document, filter_types, files))
        for name, text in made.piece.files.items():
            files.derive(name, text.encode("latin-1"))
        kept.use(encoded, made)
        yield made


def _decode(made: DecodedPiece, reading: Reading) -> None:
    for part, kind in PARTS.items():
        made.settings[part] = {}
        for name, value in getattr(made.piece, part).items():
            without_targets = part == "upstreams" and value.get("targets") == []
            said = {**value, "targets": ["http://127.0.0.1:1"]} if without_targets else value
            read = shape_of(kind).read(said, (part, name), reading)
            if read is not BROKEN:
                made.settings[part][name] = replace(read, targets=()) if without_targets else read
    for index, route in enumerate(made.piece.routes):
        read = shape_of(Route).read(route, ("routes", index), reading)
        if read is not BROKEN:
            made.routes.append(read)
    for index, consumer in enumerate(made.piece.consumers):
        read = shape_of(Consumer).read(consumer, ("consumers", index), reading)
        if read is not BROKEN:
            made.consumers.append(read)
    made.problems += reading.problems


def _add_named(merged: Merged, added: OfKubernetes, each: DecodedPiece, reading: Reading) -> None:
    added.add_reading(each.piece.object, reading)
    for part in PARTS:
        held = merged.maps[part]
        for name, settings in each.settings[part].items():
            location = SourceLocation(reading, (part, name))
            if name in held:
                location.report(f"already defined at {held[name][0]}", "expected a unique name")
            else:
                held[name] = location, settings


def _add_routes(merged: Merged, each: DecodedPiece, reading: Reading, added: OfKubernetes) -> None:
    added.add_reading(each.piece.object, reading)
    for part, values in (("routes", each.routes), ("consumers", each.consumers)):
        if values:
            at = SourceLocation(reading, (part,))
            merged.lists.setdefault(part, []).extend((at.below(i), value) for i, value in enumerate(values))
