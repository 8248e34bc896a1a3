"""Finds the source position of a filter instance, for problems found only after the configuration was read: it cannot
be built, or it has no effect.

Reads the captured bytes once more, because positions are not kept for valid configurations.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from msgspec import Struct

from fastgw.config.base.problems import Path, Problem, format_value
from fastgw.config.decoding.decoder import BROKEN
from fastgw.config.decoding.merge import Merged, SourceLocation, merge
from fastgw.config.egress.expand import NAME as EGRESS
from fastgw.config.egress.expand import expand
from fastgw.config.kyma.provider import add_kyma
from fastgw.config.loading.load import Loaded, Remembered, sorted_problems
from fastgw.config.openapi.expand import expand_openapi
from fastgw.config.sources.documents import Document, FoundFile
from fastgw.config.sources.extension_packages import extended
from fastgw.config.sources.files import Files, Memory


class Where(NamedTuple):
    """One use of a filter, or a setting of it."""

    part: str
    """Part of the configuration: `filters`, `listeners`, `upstreams`, `filter_sets` or `routes`."""
    owner: str
    """The listener, upstream, filter set or route; "" = the gateway."""
    use: str
    """Name of the instance; "" = the hash key of an upstream, or the paths of a route."""
    steps: Path = ()
    """Steps from the instance to the setting; () = the instance itself."""


class Beside(Struct, frozen=True):
    """Text of a problem that names a second place; its position follows `before`."""

    before: str
    other: Where
    after: str

    def __str__(self) -> str:
        return self.before + self.after

    def at(self, location: SourceLocation | None) -> str:
        """Return the text with the position; None: the place is in no file."""
        return str(self) if location is None else f"{self.before} ({location}){self.after}"


def documents_of(loaded: Loaded, filter_types: Mapping[str, type]) -> tuple[FoundFile, Mapping[str, type], Files]:
    """Return the documents of a configuration, the settings of their filters by name, and the files that it read."""
    texts = Memory({source.name: source.text for source in loaded.sources})
    found = FoundFile()
    for source in loaded.sources:
        if not source.upstream:
            read = partial(texts.read, source.name)
            found.add(Document(source.name, read, source.folder, source.suffix, quotes=source.quotes))
    known, _ = extended(found.documents, filter_types)
    return found, known, Memory(loaded.captured)


def locate(
    loaded: Loaded,
    filter_types: Mapping[str, type],
    wrongs: Iterable[tuple[Where, str | Beside]],
    remembered: Remembered | None = None,
) -> list[Problem]:
    """Return the problems of filters with their positions. Filters that came from no file are left out.

    `remembered`: cache of the reading.
    """
    wrongs, remembered = [*wrongs], Remembered() if remembered is None else remembered
    found, known, files = documents_of(loaded, filter_types)
    merged = merge(found.documents, known, files)
    try:
        add_kyma(merged, known, files, {}, remembered.kyma)
        expand(merged, known, remembered.egress)
        expand_openapi(merged, known, files)
    finally:
        remembered.end_reading(None)
    wanted = {
        each[:2] for where, wrong in wrongs for each in (where, *([wrong.other] if isinstance(wrong, Beside) else []))
    }
    locations = dict(_locations(merged, wanted))
    problems = []
    for where, wrong in wrongs:
        if isinstance(wrong, Beside):
            wrong = wrong.at(locations.get(wrong.other))
        use = where._replace(steps=())
        if use in locations:
            # For a route generated from `egress`, the position names application and service.
            own = where.part == "routes" and not where.owner.startswith(f"{EGRESS}/")
            owner = f" (route {format_value(where.owner)})" if own else ""
            at = locations[use].below(*where.steps)
            problems.append((at.value_problem if where.steps else at.problem)(f"{wrong}{owner}"))
    return sorted_problems(problems, {document.name: number for number, document in enumerate(found.documents)})


def _locations(merged: Merged, wanted: Container[tuple[str, str]]) -> Iterator[tuple[Where, SourceLocation]]:
    """Yield uses of filters with their positions. `wanted`: parts and their owners to look for."""
    for use, (location, _) in merged.maps["filters"].items():
        yield Where("filters", "", use), location
    owners: list[tuple[str, str, SourceLocation, Any]] = []
    for part in ("listeners", "upstreams"):
        owners += [(part, name, location, each) for location, name, each in merged.whole(part)]
    owners += [("routes", route.name, location, route) for location, route in merged.routes()]
    for part, name, location, each in owners:
        if (part, name) in wanted and each.filters is not BROKEN:
            at = location.below("filters")
            yield from ((Where(part, name, use), at.below(use)) for use in each.filters)
            if part == "upstreams":
                yield Where(part, name, ""), location.below("load_balancing", "hash_on")
            elif part == "routes":
                yield Where(part, name, ""), location.below("paths")
    for location, name, filters in merged.whole("filter_sets"):
        yield from ((Where("filter_sets", name, use), location.below(use)) for use in filters)
