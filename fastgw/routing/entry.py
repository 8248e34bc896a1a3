"""Entry of the route table: one route under one of its hosts and one of its paths, with its other conditions.

Rule: user patterns run on RE2 only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import re2

from fastgw.config.base.route_patterns import (
    HostPattern,
    MixedSegment,
    Parameter,
    PathKind,
    PathPattern,
    Segment,
    re2_options,
)
from fastgw.http.header_conditions import has_value
from fastgw.routing.requirements import Requirement


class Routable(Protocol):
    """Attributes of a request that decide its route: host without port in lower case, path in normal form."""

    @property
    def host(self) -> bytes: ...
    @property
    def path(self) -> bytes: ...
    @property
    def method(self) -> bytes: ...
    @property
    def query(self) -> bytes | None: ...
    def values(self, name: bytes) -> list[bytes]:
        """Return the value of each line of a header, by its lower-case name."""


class RouteEntry:
    """One route under one of its hosts and one of its paths."""

    def __init__(
        self,
        route: Any,
        host: HostPattern | None,
        path: PathPattern | None,
        methods: tuple[bytes, ...],
        fields: tuple[tuple[bytes, bytes], ...],
        query: tuple[Any, ...],
        others: tuple[Requirement, ...],
        priority: int,
        rank: int | None,
    ) -> None:
        self.route = route
        self.host = host
        self.path = path
        self.methods = methods
        self.fields = fields
        self.query = query
        self.others = others
        self.priority = priority
        self.rank = len(fields) + len(query) + len(others) if rank is None else rank
        self.only_method = not (fields or query or others)
        self.regex: Any = None
        """Regular expression of the path with named groups, which are the parameters."""
        self.places: tuple[tuple[str, int], ...] = ()
        """Names and positions of the parameters that are whole segments."""
        self.mixed: tuple[tuple[Any, int], ...] = ()
        """Regular expressions and positions of the segments of text and parameters."""
        self.takes_rest = False
        if path is not None and path.kind is PathKind.PARAMETERS:
            parameters = [(each, place) for place, each in enumerate(path.segments, 1) if isinstance(each, Parameter)]
            self.places = _shared(tuple([(parameter.name, place) for parameter, place in parameters]))
            self.takes_rest = bool(parameters) and parameters[-1][0].rest
            self.mixed = tuple(
                [(_segment_regex(each), n) for n, each in enumerate(path.segments, 1) if isinstance(each, MixedSegment)]
            )
        elif path is not None and b"<" in path.regex:  # may have names: RE2 reads both (?P<name>...) and (?<name>...)
            regex = re2.compile(path.regex, re2_options())
            if regex.groupindex:
                self.regex = regex
        self.has_parameters = bool(self.places or self.mixed) or self.regex is not None

    @property
    def is_written(self) -> bool:
        """Whether its path is as configured, including the trailing slash."""
        return self.path is None or self.path.written

    def accepts(self, request: Routable) -> bool:
        """Whether a request whose host and path match meets the conditions."""
        if self.methods and request.method not in self.methods:
            return False
        return self.only_method or self.accepts_any_method(request)

    def accepts_any_method(self, request: Routable) -> bool:
        """Whether a request whose host and path match meets the conditions other than that on the method."""
        for name, value in self.fields:
            if not has_value(name, value, request.values(name)):
                return False
        for pattern in self.query:
            if not pattern.search(request.query or b""):
                return False
        return not self.others or _meets_all(self.others, request)


def _meets_all(requirements: tuple[Requirement, ...], request: Routable) -> bool:
    return all(meets(request) for meets in requirements)


def precedence_of(path: PathPattern) -> list[tuple[int, int]]:
    """Return the precedence of a path's segments. Of two paths of one kind that match, the lower one goes first; if
    they are equal, neither is more specific.
    """
    return [_precedence_of(segment) for segment in path.segments]


def _precedence_of(segment: Segment) -> tuple[int, int]:
    if isinstance(segment, MixedSegment):
        return 1, segment.order
    if isinstance(segment, Parameter):
        return (3, 0) if segment.rest else (2, 0)
    return 0, 0


def named_groups(regex: Any, text: bytes) -> Mapping[str, bytes]:
    """Return the named groups of a regular expression, which matches the text."""
    return {name.decode(): value or b"" for name, value in regex.search(text).groupdict().items()}


@lru_cache(maxsize=64)
def _shared(places: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Share equal positions of parameters as one tuple: 10,000 routes with an `{id}` in the same position use less
    memory.
    """
    return places


@lru_cache(maxsize=64)  # the routes of an API that differ in the method have the same one
def _segment_regex(segment: MixedSegment) -> Any:
    return re2.compile(segment.regex, re2_options())
