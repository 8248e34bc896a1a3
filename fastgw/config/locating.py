"""Where a filter stands of which something is known only when all is read: that it cannot be built, or is of no use.

What was read is read once more for that, from the bytes that are there: places are not kept for the good case.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from fastgw.config.documents import Document, Found
from fastgw.config.extensions import extended
from fastgw.config.files import Memory
from fastgw.config.loading import Loaded, told_of
from fastgw.config.merging import Merged, Place, merge
from fastgw.config.problems import Problem, show
from fastgw.config.shapes import BROKEN


class Where(NamedTuple):
    """One use of a filter."""

    part: str
    """Of the configuration: `filters`, `listeners`, `upstreams`, `filter_sets` or `routes`."""
    holder: str
    """The listener, upstream, filter set or route; "" = the gateway."""
    use: str
    """The name of the instance."""


def locate(loaded: Loaded, filter_types: Mapping[str, type], wrongs: Iterable[tuple[Where, str]]) -> list[Problem]:
    """What there is to say of filters, each at its place. What came from no file has none, and is left out."""
    texts = Memory({source.name: source.text for source in loaded.sources})
    found = Found()
    for source in loaded.sources:
        if not source.upstream:
            found.add(Document(source.name, partial(texts.read, source.name), source.folder, source.suffix))
    known, _ = extended(found.documents, filter_types)
    places = dict(_places(merge(found.documents, known, Memory(loaded.captured))))
    problems = []
    for where, wrong in wrongs:
        if where in places:
            owner = f" (route {show(where.holder)})" if where.part == "routes" else ""
            problems.append(places[where].problem(f"{wrong}{owner}"))
    return told_of(problems, {document.name: number for number, document in enumerate(found.documents)})


def _places(merged: Merged) -> Iterator[tuple[Where, Place]]:
    for use, (place, _) in merged.maps["filters"].items():
        yield Where("filters", "", use), place
    holders: list[tuple[str, str, Place, Any]] = []
    for part in ("listeners", "upstreams"):
        holders += [(part, name, place.below("filters"), each.filters) for place, name, each in merged.whole(part)]
    holders += [("filter_sets", name, place, filters) for place, name, filters in merged.whole("filter_sets")]
    holders += [("routes", route.name, place.below("filters"), route.filters) for place, route in merged.routes()]
    for part, name, place, filters in holders:
        if filters is not BROKEN:
            yield from ((Where(part, name, use), place.below(use)) for use in filters)
