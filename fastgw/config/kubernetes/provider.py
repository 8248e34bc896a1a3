"""Adds the pieces of a translation to a configuration, read from the file of the watch.

Rule: objects never make the configuration invalid. An object with problems is refused: its pieces are left out, and
the routes that need them (its filters or upstreams) answer 500. A route is never served without a filter that it is
meant to have.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from fastgw.config.base.problems import Path, Problem, path_text
from fastgw.config.decoding.decoder import BROKEN, Reading, shape_of
from fastgw.config.decoding.incremental_cache import IncrementalCache
from fastgw.config.decoding.merge import Derived, Merged, SourceLocation
from fastgw.config.kubernetes.model import Piece
from fastgw.config.settings.gateway import Consumer, Filters, FilterUse, Listener, Route, Upstream
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
MATCHING: Final = ("name", "listeners", "hosts", "paths", "methods", "head", "headers", "query", "rank")
"""Settings of a route that stay when what it needs is refused."""
PROBLEMS_SHOWN: Final = 3
"""Maximum number of problems in the status of an object."""


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
        setting = self._setting_at(path)
        return Problem(FILE, 0, 0, f"{self._of}: {setting}" if setting else self._of, wrong, expected)

    def _setting_at(self, path: Path) -> str:
        """Return the name of a setting for the owner of the object."""
        match path:
            case ("filter_sets", str(), *rest):
                return path_text(("spec", "filters", *rest))
            case ("consumers", int(), *rest):
                return path_text(("spec", *rest))
            case ("routes", int(index), *rest):
                rule = self.value["routes"][index]["name"].removeprefix(f"{self._of}/")
                return f"rule {rule}: {path_text((*rest,))}" if rest else f"rule {rule}"
        return path_text(path[1:])

    def says_nothing(self, path: Path) -> bool:
        return False

    def location(self, path: Path) -> str:
        return self._of


class PieceLocation(SourceLocation, frozen=True):
    """Position in a piece. `elsewhere`: parts whose problems are those of other objects, by their path."""

    elsewhere: Mapping[Path, SourceLocation] = MappingProxyType({})

    def below(self, *steps: str | int) -> SourceLocation:
        path = (*self.path, *steps)
        for length in range(len(self.path) + 1, len(path) + 1):
            if path[:length] in self.elsewhere:
                return self.elsewhere[path[:length]].below(*path[length:])
        return PieceLocation(self.reading, path, self.elsewhere)


@dataclass
class DecodedPiece:
    """A piece with its settings."""

    piece: Piece
    document: PieceDocument
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    routes: list[Route] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    answering_500: dict[int, Route] = field(default_factory=dict)
    """Routes by index, as they are while something that they need is refused."""


class KubernetesKept:
    """Cache of the pieces that were decoded, and of those that could not be compiled."""

    def __init__(self) -> None:
        self.pieces: IncrementalCache[bytes, DecodedPiece] = IncrementalCache()
        self.around: object = None
        self._validated: dict[int, object] = {}
        self._used: dict[bytes, DecodedPiece] = {}
        self._not_compiled: dict[bytes, Problem] = {}
        self.unbound: dict[bytes, Problem] = {}
        """Pieces with listeners whose addresses cannot be opened now."""

    def begin_reading(self, around: object) -> Mapping[int, object]:
        """Return the routes and upstreams that were valid in the last reading, by identity. `around`: all inputs other
        than the pieces."""
        if around != self.around:
            self.around, self._validated = around, {}
        self._used = {}
        return self._validated

    def use(self, raw: bytes, made: DecodedPiece) -> None:
        self._used[raw] = self.pieces.store(raw, made)

    def problems_of(self, raw: bytes, made: DecodedPiece) -> list[Problem]:
        """Return the problems of a piece by itself: of its object, of its settings, of the compiler."""
        of = made.piece.object
        refused = [Problem(FILE, 0, 0, of, made.piece.problem)] if made.piece.problem else []
        later = (held[raw] for held in (self._not_compiled, self.unbound) if raw in held)
        return [*refused, *made.problems, *later]

    def refuse(self, wrongs: Iterable[tuple[tuple[str, str, str, Path], str]]) -> bool:
        """Refuse the pieces whose parts cannot be compiled, for as long as they stay the same, in the next readings.

        `wrongs`: part, owner, use and steps (`locate_filter.Where`), and the error. Returns whether there is any such
        piece.
        """
        known = len(self._not_compiled)
        for (part, owner, use, steps), why in wrongs:
            for raw, made in self.pieces.items():
                if location := _part_of(made, part, owner, use):
                    self._not_compiled.setdefault(raw, made.document.problem((*location, *steps), why))
        return len(self._not_compiled) > known

    def refuse_unbound(self, why: str) -> bool:
        """Refuse the pieces whose listeners have the address that cannot be opened. `why`: text of `CannotListen`.
        Returns whether there is any such piece.
        """
        known = len(self.unbound)
        for raw, made in self.pieces.items():
            for name, listener in made.settings["listeners"].items():
                if f"cannot listen on {listener.address}: " in why:
                    self.unbound[raw] = made.document.problem(("listeners", name, "address"), why)
        return len(self.unbound) > known

    def end_reading(self, merged: Merged | None) -> None:
        """End a successful reading; None: it has failed."""
        self.pieces.end_reading(merged is not None)
        if merged is not None:
            used = self._used.values()
            held = (each for made in used for each in (*made.routes, *made.settings["upstreams"].values()))
            valid = (each for each in held if _is_independent(each) and id(each) not in merged.with_notes)
            self._validated = {id(each): each for each in valid}
            self._not_compiled = {raw: why for raw, why in self._not_compiled.items() if raw in self._used}
        for each in self._used.values():
            each.document.forget_value()
        self._used = {}


def _is_independent(each: Route | Upstream) -> bool:
    """Whether no filter and no filter set of a route or upstream needs to be compared with others again."""
    return not each.filters and not (isinstance(each, Route) and [*_used_sets(each)])


def _used_sets(route: Route) -> Iterator[str]:
    yield from route.use
    for variant in route.variants:
        yield from variant.use


def _part_of(made: DecodedPiece, part: str, owner: str, use: str) -> Path:
    """Return the position of a part in a piece; () = it is not there."""
    if part == "routes":
        index = next((index for index, route in enumerate(made.routes) if route.name == owner), -1)
        return () if index < 0 else ("routes", index, *(("filters", use) if use else ()))
    if owner not in made.settings.get(part, ()):
        return ()
    if part == "listeners" and use and use not in made.piece.listeners[owner].get("filters", ()):
        return ()  # of a policy
    return (part, owner, use) if part == "filter_sets" else (part, owner, *(("filters", use) if use else ()))


class OfKubernetes:
    """Result of adding the pieces to a configuration."""

    def __init__(self, refused: Mapping[str, str]) -> None:
        self.notes: list[Problem] = []
        self.files: list[str] = []
        self.refused = {**refused}
        """Objects that are left out, with the reasons."""
        self._readings: dict[str, list[Reading]] = {}

    @property
    def newly_refused(self) -> Mapping[str, str]:
        """Return the objects whose pieces have problems that only the rules found, with the reasons."""
        found = {of: [each for reading in held for each in reading.problems] for of, held in self._readings.items()}
        return {of: text_of(problems, of) for of, problems in found.items() if problems}

    @property
    def problems(self) -> list[Problem]:
        return [problem for readings in self._readings.values() for each in readings for problem in each.problems]

    def refuse(self, of: str, problems: list[Problem]) -> None:
        self.notes += problems
        self.refused.setdefault(of, text_of(problems, of))

    def add_reading(self, of: str, reading: Reading) -> None:
        self._readings.setdefault(of, []).append(reading)


def text_of(problems: list[Problem], of: str) -> str:
    """Return the problems of an object for its status."""
    texts = [
        str(replace(each, file="", line=0, column=0, path=each.path.removeprefix(of).removeprefix(": ")))
        for each in problems[:PROBLEMS_SHOWN]
    ]
    more = len(problems) - len(texts)
    return ". ".join([*texts, f"And {more} more"] if more else texts)


def add_kubernetes(
    merged: Merged, filter_types: Mapping[str, type], files: Files, refused: Mapping[str, str], kept: KubernetesKept
) -> OfKubernetes:
    """Add the listeners, routes and upstreams of `providers.kubernetes`, except of refused objects."""
    added = OfKubernetes(refused)
    said = next((providers for _, providers in merged.single_entry("providers") if providers is not BROKEN), None)
    if said is None or said.kubernetes in (None, BROKEN):
        return added
    added.files.append(FILE)
    around = [{name: value for name, (_, value) in each.items()} for each in (merged.single, *merged.maps.values())]
    validated = kept.begin_reading((filter_types, around, refused))
    pieces = []
    for raw, each in _decoded(files, filter_types, kept):
        pieces.append(each)
        if problems := kept.problems_of(raw, each):
            added.refuse(each.piece.object, problems)
    parts = _Parts(merged, added)
    for each in pieces:
        if each.piece.object in added.refused:
            parts.leave_out(each.piece)
    usable = [
        (each, Reading(each.document, filter_types, files)) for each in pieces if each.piece.object not in added.refused
    ]
    for each, reading in usable:
        added.add_reading(each.piece.object, reading)
        parts.add_named(each, reading)
    parts.add_filters_of_policies()
    for each, reading in usable:
        parts.add_routes(each, reading)
    merged.validated_elsewhere = validated
    return added


def _decoded(
    files: Files, filter_types: Mapping[str, type], kept: KubernetesKept
) -> Iterator[tuple[bytes, DecodedPiece]]:
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
        yield encoded, made


def _decode(made: DecodedPiece, reading: Reading) -> None:
    for part, kind in PARTS.items():
        made.settings[part] = {}
        for name, value in getattr(made.piece, part).items():
            without_targets = part == "upstreams" and value.get("targets") == []
            said = {**value, "targets": ["http://127.0.0.1:1"]} if without_targets else value
            read = shape_of(kind).read(said, (part, name), reading)
            if read is BROKEN:
                continue
            if part == "filter_sets":
                read = _of_namespace(made.piece.object.split("/")[1], read)
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


def _of_namespace(namespace: str, filters: Filters) -> Filters:
    """Return the filters of a policy, which know the consumers of its namespace."""
    uses = filters.items()
    return MappingProxyType(
        {name: replace(use, namespace=namespace) if isinstance(use, FilterUse) else use for name, use in uses}
    )


class _Parts:
    """Adds the parts of pieces to a configuration."""

    def __init__(self, merged: Merged, added: OfKubernetes) -> None:
        self._merged, self._added = merged, added
        self._lacking: set[str] = set()
        """Filter sets and upstreams of refused objects."""
        self._closed: set[str] = set()
        """Listeners of refused objects."""
        self._policies: dict[str, SourceLocation] = {}
        """Positions of the filter sets."""
        self._with_policies: list[tuple[str, list[str]]] = []
        """Listeners with the filter sets whose filters they have."""
        self._without_policy: set[str] = set()
        """Listeners that lack a filter set."""

    def leave_out(self, piece: Piece) -> None:
        self._lacking.update(piece.filter_sets, piece.upstreams)
        self._closed.update(piece.listeners)

    def add_named(self, each: DecodedPiece, reading: Reading) -> None:
        for part in PARTS:
            held = self._merged.maps[part]
            for name, settings in each.settings[part].items():
                location = SourceLocation(reading, (part, name))
                if name in held:
                    location.report(f"already defined at {held[name][0]}", "expected a unique name")
                    continue
                held[name] = location, settings
                if part == "filter_sets":
                    self._policies[name] = location
        self._with_policies += each.piece.policies.items()

    def add_filters_of_policies(self) -> None:
        """Add the filters of a Gateway's policies to its listeners; those of the oldest one count."""
        listeners, sets = self._merged.maps["listeners"], self._merged.maps["filter_sets"]
        for listener, policies in self._with_policies:
            if not self._lacking.isdisjoint(policies):
                self._without_policy.add(listener)
            location, settings = listeners[listener]
            filters = {**settings.filters}
            elsewhere: dict[Path, SourceLocation] = {}
            for policy in policies:
                for name, use in sets[policy][1].items() if policy in sets else ():
                    if name not in filters:
                        filters[name] = use
                        elsewhere[*location.path, "filters", name] = self._policies[policy].below(name)
            settings = replace(settings, filters=MappingProxyType(filters))
            listeners[listener] = PieceLocation(location.reading, location.path, elsewhere), settings

    def add_routes(self, each: DecodedPiece, reading: Reading) -> None:
        if each.routes:
            routes = self._merged.lists.setdefault("routes", [])
            for index, route in enumerate(each.routes):
                if self._closed and not self._closed.isdisjoint(route.listeners):
                    left = tuple(name for name in route.listeners if name not in self._closed)
                    if left:
                        routes.append(self._route(each, index, replace(route, listeners=left), reading))
                    continue
                routes.append(self._route(each, index, route, reading))
        if each.consumers:
            at = SourceLocation(reading, ("consumers",))
            added = ((at.below(index), consumer) for index, consumer in enumerate(each.consumers))
            self._merged.lists.setdefault("consumers", []).extend(added)

    def _route(self, each: DecodedPiece, index: int, route: Route, reading: Reading) -> tuple[SourceLocation, Route]:
        path: Path = ("routes", index)
        if self._lacks(route):
            raw: dict[str, Any] = {
                key: each.piece.routes[index][key] for key in MATCHING if key in each.piece.routes[index]
            }
            raw["listeners"], raw["respond"] = [*route.listeners], {"status": 500}
            if index not in each.answering_500 or each.answering_500[index].listeners != route.listeners:
                each.answering_500[index] = shape_of(Route).read(raw, path, reading)
            return Derived(reading, path, made=raw), each.answering_500[index]
        if route.use:  # errors in the use of a policy are problems of the policy
            used = enumerate(route.use)
            elsewhere: dict[Path, SourceLocation] = {
                (*path, "use", at): self._policies[name] for at, name in used if name in self._policies
            }
            return PieceLocation(reading, path, elsewhere), route
        return SourceLocation(reading, path), route

    def _lacks(self, route: Route) -> bool:
        """Whether something that the route needs is refused."""
        if not self._lacking:
            return False
        needed = (*_used_sets(route), *route.destinations)
        return not (self._lacking.isdisjoint(needed) and self._without_policy.isdisjoint(route.listeners))
