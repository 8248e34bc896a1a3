"""The route table: which route a request belongs to.

Match order (the contract): exact host > longest wildcard > any; then exact path > parameters (text before a parameter,
at the first segment where they differ) > longest prefix > regular expressions in file order > any path; then most
header and query conditions; then file order. This orders *all* routes that match: a route for any host answers what
the routes of the request's own host do not. A route whose method does not fit is passed over like any other.

Rule 1: user patterns run on RE2 only. Rule 2: no step looks at all routes: a lookup costs what the request's path has
segments, plus the routes that share its host and path and differ only in method, header and query conditions, plus
one pass of RE2 over the path where a host has regular expressions.

The compiled twin, `_routes`, finds the route where host, path and method decide. It asks here about the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, Generic, Protocol, TypeVar

import re2
from msgspec import Struct

from fastgw.compiled import twin
from fastgw.config.patterns import HostPattern, Parameter, PathKind, PathPattern, re2_options

_routes: Final = twin("fastgw._routes")

R = TypeVar("R")

_NO_PARAMETERS: Final[Mapping[str, bytes]] = MappingProxyType({})
_ANY_HOST: Final = b""
_ANSWERED: Final = {b"GET": (b"GET", b"HEAD")}  # RFC 9110 section 9.3.2: HEAD is GET without the content
_NOTHING_BELOW: Final[dict[bytes, Any]] = {}  # shared by all leaves of trees: an empty dict of its own takes 64 bytes
_REGEX_MEMORY: Final = 8 << 20  # bytes for the automaton of a host's set; what RE2 takes by default


class Routable(Protocol):
    """What of a request decides its route: host without port in lower case, path in normal form."""

    @property
    def host(self) -> bytes: ...
    @property
    def path(self) -> bytes: ...
    @property
    def method(self) -> bytes: ...
    @property
    def query(self) -> bytes | None: ...

    def field(self, name: bytes) -> bytes | None:
        """The first value of a field, by its lower-case name."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a route asks of a request. Empty = any; of hosts, paths and methods one must fit, of the others all."""

    hosts: tuple[HostPattern, ...] = ()
    paths: tuple[PathPattern, ...] = ()
    methods: tuple[bytes, ...] = ()
    """GET answers HEAD too."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Name (any case) and exact value; of a repeated field its first line counts."""
    query: tuple[tuple[bytes, bytes], ...] = ()
    """Name and value as the application reads them: escapes decoded, `+` a space; any occurrence may fit."""


class Match(Struct, Generic[R], frozen=True):
    """A route and the parameters of its path: normal-form bytes of the segments, escapes kept."""

    route: R
    params: Mapping[str, bytes] = _NO_PARAMETERS


@dataclass(frozen=True, slots=True)
class Candidate(Generic[R]):
    """A route that matches, for `explain`."""

    match: Match[R]
    host: HostPattern | None
    path: PathPattern | None
    weakness: str
    """Why the first candidate goes before it: `shorter prefix`. Empty for the first itself."""


class Router(Generic[R]):
    """An immutable route table, made of conditions and routes in file order."""

    def __init__(self, rules: Sequence[tuple[Conditions, R]]) -> None:
        exact: dict[bytes, _HostTable[R]] = {}
        wildcards: dict[bytes, _HostTable[R]] = {}
        # Added in this order, entries that share a host and a path are in match order without sorting again.
        by_conditions = sorted(enumerate(rules), key=lambda rule: -_condition_count(rule[1][0]))
        entries: dict[_HostTable[R], list[_Entry[R]]] = {}
        for file_order, (conditions, route) in by_conditions:
            for host in conditions.hosts or (None,):
                tables = exact if host and not host.wildcard else wildcards
                table = tables.setdefault(_host_name(host), _HostTable())
                for path in conditions.paths or (None,):
                    entry = _Entry(file_order, conditions, host, path, route)
                    table.add(entry)
                    entries.setdefault(table, []).append(entry)
        for table in chain(exact.values(), wildcards.values()):
            table.seal()

        self._longest_wildcard = max(map(len, wildcards), default=0)
        self._by_wildcard: dict[bytes, tuple[_HostTable[R], ...]] = {_ANY_HOST: ()}
        for name in sorted(wildcards, key=len):  # what a longer one matches, the shorter ones at its end match too
            self._by_wildcard[name] = (wildcards[name], *(self._wildcard_tables(name[1:]) if name else ()))
        self._sole = self._by_wildcard[_ANY_HOST] if not exact and len(self._by_wildcard) == 1 else ()
        """The tables for every request, where no route names a host."""
        self._by_host = {name: (table, *self._wildcard_tables(name)) for name, table in exact.items()}
        self.compiled: Any = None if _routes is None else _routes.Tables(self._numbered(entries), Match)
        """The twin of these tables, which finds what it can by itself; None: there is none."""

    def _numbered(
        self, entries: Mapping[_HostTable[R], list[_Entry[R]]]
    ) -> list[tuple[bytes, bool, int, list[_Entry[R]]]]:
        """The hosts as the twin takes them: the less specific ones first, and each knows the number of the next."""
        hosts: list[tuple[bytes, bool, int, list[_Entry[R]]]] = []
        numbers: dict[_HostTable[R], int] = {}
        for wildcard, by_name in ((True, self._by_wildcard), (False, self._by_host)):
            for name, tables in by_name.items():
                if tables:
                    table, *beyond = tables
                    numbers[table] = len(hosts)
                    hosts.append((name, wildcard, numbers[beyond[0]] if beyond else -1, entries[table]))
        return hosts

    def find(self, request: Routable) -> Match[R] | None:
        """The route that `request` belongs to. None: `allowed_methods` tells 405 from 404."""
        # PERF: 0.1 us for an exact path or a prefix and 0.25 with parameters, in plain Python 0.3, 0.5 and 1.2 (CPython
        # 3.11, micro/routing).
        if self.compiled is not None:
            found: Match[R] | None = self.compiled.find(request.host, request.path, request.method)
            if found is not NotImplemented:
                return found
        for table in self._sole or self._tables(request.host):
            match = table.find(request)
            if match is not None:
                return match
        return None

    def allowed_methods(self, request: Routable) -> tuple[bytes, ...]:
        """For a request that `find` gave None: the methods of the routes that match in all else, for 405; () = 404."""
        fitting = (entry.methods for entry in self._entries(request) if entry.fields_and_query_fit(request))
        return tuple(dict.fromkeys(chain.from_iterable(fitting)))

    def candidates(self, request: Routable) -> list[Candidate[R]]:
        """Every route that matches, once, in match order: the first is what `find` finds."""
        best: dict[int, _Entry[R]] = {}
        for entry in self._entries(request):
            if entry.accepts(request):
                best.setdefault(entry.file_order, entry)
        entries = list(best.values())
        segments = request.path.split(b"/")
        return [
            Candidate(entry.match(segments), entry.host, entry.path, _weakness(entry, entries[0])) for entry in entries
        ]

    def _entries(self, request: Routable) -> Iterator[_Entry[R]]:
        for table in self._tables(request.host):
            yield from chain.from_iterable(table.entries(request.path))

    def _tables(self, host: bytes) -> tuple[_HostTable[R], ...]:
        tables = self._by_host.get(host)
        if tables is not None:
            return tables
        if host.startswith(b"["):
            return self._by_host.get(_shortest_ipv6(host), self._by_wildcard[_ANY_HOST])
        return self._wildcard_tables(host)

    def _wildcard_tables(self, host: bytes) -> tuple[_HostTable[R], ...]:
        """The tables of the wildcards that `host` fits, longest first, and that of any host."""
        # Begun no further left than a wildcard can: a host of 30,000 dots must not cost 30,000 look-ups.
        dot = host.find(b".", max(1, len(host) - self._longest_wildcard))
        while dot > 0:
            tables = self._by_wildcard.get(host[dot:])
            if tables is not None:
                return tables
            dot = host.find(b".", dot + 1)
        return self._by_wildcard[_ANY_HOST]


class _Entry(Generic[R]):
    """One route under one of its hosts and one of its paths, with the conditions that are left to check."""

    __slots__ = (
        "condition_count",
        "fields",
        "file_order",
        "host",
        "methods",
        "only_method",
        "path",
        "places",
        "query",
        "ready",
        "route",
        "takes_rest",
    )

    def __init__(
        self, file_order: int, conditions: Conditions, host: HostPattern | None, path: PathPattern | None, route: R
    ) -> None:
        self.file_order = file_order
        self.host = host
        self.path = path
        self.route = route
        self.condition_count = _condition_count(conditions)
        self.methods = _answered(conditions.methods)
        self.fields = tuple([(name.lower(), value) for name, value in conditions.headers])
        self.query = tuple([_query_pattern(name, value) for name, value in conditions.query])
        self.only_method = not (self.fields or self.query)
        self.places: tuple[tuple[str, int], ...] = ()
        self.takes_rest = False
        if path is not None and path.kind is PathKind.PARAMETERS:
            parameters = [(each, place) for place, each in enumerate(path.segments, 1) if isinstance(each, Parameter)]
            self.places = _shared(tuple([(parameter.name, place) for parameter, place in parameters]))
            self.takes_rest = parameters[-1][0].rest
        self.ready = None if self.places else Match(route)

    def accepts(self, request: Routable) -> bool:
        if self.methods and request.method not in self.methods:
            return False
        return self.only_method or self.fields_and_query_fit(request)

    def fields_and_query_fit(self, request: Routable) -> bool:
        if any(request.field(name) != value for name, value in self.fields):
            return False
        return all(pattern.search(request.query or b"") for pattern in self.query)

    def match(self, segments: list[bytes]) -> Match[R]:
        """`segments` of the path, cut at least as often as the pattern has any."""
        if self.ready is not None:
            return self.ready
        params = {}
        for name, place in self.places:
            params[name] = segments[place]
        if self.takes_rest:
            params[name] = b"/".join(segments[place:])
        return Match(self.route, params)


class _Node(Generic[R]):
    """A place in the tree of path segments, in which prefixes and patterns with parameters grow."""

    __slots__ = ("below", "ends", "parameter", "prefixes", "rest", "turns")

    def __init__(self) -> None:
        self.below: dict[bytes, _Node[R]] = _NOTHING_BELOW
        self.parameter: _Node[R] | None = None
        self.rest: _Node[R] | None = None
        """Where a `:path` parameter leads, which takes the path to its end."""
        self.ends: list[_Entry[R]] | None = None
        """The patterns that end here: prefixes where text alone leads, patterns with parameters elsewhere."""
        self.prefixes: tuple[list[_Entry[R]], ...] = ()
        """Where text alone leads: `ends` of this place and of those above, longest prefix first."""
        self.turns: tuple[tuple[int, _Node[R]], ...] = ()
        """Where text alone leads: what goes on with parameters from here and from above, and from which segment."""

    def grow(self, segments: Iterable[bytes | Parameter]) -> list[_Entry[R]]:
        """Find or make the place of a pattern and return its list of entries."""
        node = self
        for segment in segments:
            if isinstance(segment, bytes):
                if not node.below:
                    node.below = {}
                below = node.below.get(segment)
                if below is None:
                    below = node.below[segment] = _Node()
                node = below
            elif segment.rest:
                node.rest = node = node.rest or _Node()
            else:
                node.parameter = node = node.parameter or _Node()
        if node.ends is None:
            node.ends = []
        return node.ends

    def seal(self) -> None:
        """Note `prefixes` and `turns`, once the tree is grown."""
        unsealed: list[tuple[int, _Node[R], _Node[R]]] = [(0, self, self)]
        while unsealed:
            place, node, above = unsealed.pop()
            node.prefixes = (node.ends, *above.prefixes) if node.ends else above.prefixes
            node.turns = above.turns
            if node.parameter or node.rest:
                turn: _Node[R] = _Node()  # not `node`: without cycles, a table is freed as soon as it is replaced
                turn.parameter, turn.rest = node.parameter, node.rest
                node.turns = ((place, turn), *above.turns)
            unsealed += ((place + 1, below, node) for below in node.below.values())

    def deepest(self, segments: list[bytes]) -> _Node[R]:
        """The last place that the text of `segments` leads to."""
        node = self
        for segment in segments:
            below = node.below.get(segment)
            if below is None:
                return node
            node = below
        return node


class _HostTable(Generic[R]):
    """The routes of one host pattern, by path."""

    def __init__(self) -> None:
        self._exact: dict[bytes, list[_Entry[R]]] = {}
        self._tree: _Node[R] = _Node()
        self._cuts = 0
        """How often to cut a path, so that all segments which the tree looks at are told apart. 0: it has none."""
        self._regexes: list[_Entry[R]] = []
        self._regex_set: Any = None
        self._any_path: list[_Entry[R]] = []

    def add(self, entry: _Entry[R]) -> None:
        self._list_for(entry.path).append(entry)

    def _list_for(self, path: PathPattern | None) -> list[_Entry[R]]:
        if path is None:
            return self._any_path
        if path.kind is PathKind.EXACT:
            return self._exact.setdefault(path.literal, [])
        if path.kind is PathKind.REGEX:
            return self._regexes
        self._cuts = max(self._cuts, len(path.segments) + 1)
        # A path has an empty segment before its first slash, but `*` has none: that one is covered by `/*` alone.
        return self._tree.grow((b"", *path.segments) if path.segments else ())

    def seal(self) -> None:
        """Compile the regular expressions and note short cuts in the tree, once all routes are added."""
        self._regexes.sort(key=lambda entry: entry.file_order)
        if self._regexes:
            self._regex_set = _compile_set([entry.path.regex for entry in self._regexes if entry.path])
        self._tree.seal()

    def entries(self, path: bytes) -> Iterator[Sequence[_Entry[R]]]:
        """The entries whose path matches, in match order."""
        yield self._exact.get(path, ())
        segments = path.split(b"/", self._cuts)
        node = self._tree.deepest(segments)
        for place, turn in node.turns:
            yield from _beyond(turn, place, segments)
        yield from node.prefixes
        yield self._matching_regexes(path)
        yield self._any_path

    def find(self, request: Routable) -> Match[R] | None:
        """The first of `entries` that accepts `request`."""
        # PERF: no step for what the table has not, and no generator: 0.5 us for a prefix, over `entries` 0.9 (CPython
        # 3.11, micro/routing).
        path = request.path
        if self._exact and (exact := self._exact.get(path)) and (entry := _first(exact, request)):
            return entry.ready
        if self._cuts:
            segments = path.split(b"/", self._cuts)
            node = self._tree.deepest(segments)
            for place, turn in node.turns:
                for entries in _beyond(turn, place, segments):
                    if entry := _first(entries, request):
                        return entry.match(segments)
            for entries in node.prefixes:
                if entry := _first(entries, request):
                    return entry.ready
        if self._regexes and (entry := _first(self._matching_regexes(path), request)):
            return entry.ready
        if self._any_path and (entry := _first(self._any_path, request)):
            return entry.ready
        return None

    def _matching_regexes(self, path: bytes) -> Sequence[_Entry[R]]:
        if self._regex_set is None:
            return ()
        matching = sorted(self._regex_set.Match(path))
        return [self._regexes[index] for index in matching if index < len(self._regexes)]


def _beyond(node: _Node[R], place: int, segments: list[bytes]) -> list[list[_Entry[R]]]:
    """The entries of the patterns that lead to `node` and fit `segments` from `place` on, most specific first."""
    found: list[list[_Entry[R]]] = []
    end = len(segments)
    untried: list[tuple[int, _Node[R]]] = []
    while True:
        below = parameter = None
        if place < end:
            segment = segments[place]
            below = node.below.get(segment)
            if segment:
                parameter = node.parameter
            if node.rest:
                untried.append((end, node.rest))
        elif node.ends:
            found.append(node.ends)
        place += 1
        if below is not None:
            if parameter is not None:
                untried.append((place, parameter))
            node = below
        elif parameter is not None:
            node = parameter
        elif untried:
            place, node = untried.pop()
        else:
            return found


def _first(entries: Iterable[_Entry[R]], request: Routable) -> _Entry[R] | None:
    for entry in entries:
        if entry.accepts(request):
            return entry
    return None


@lru_cache(maxsize=64)  # most routes have the methods of others, and share the tuple
def _answered(methods: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(_ANSWERED.get(method, (method,)) for method in methods)))


@lru_cache(maxsize=64)
def _shared(places: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Equal places of parameters as one tuple: 10,000 routes with an `{id}` in one place stay close together."""
    return places


def _condition_count(conditions: Conditions) -> int:
    return len(conditions.headers) + len(conditions.query)


def _query_pattern(name: bytes, value: bytes) -> Any:
    """A search for `name=value` as any of the pairs of a query, however it is escaped."""
    pair = _spellings(name) + (b"=" + _spellings(value) if value else b"=?")
    return re2.compile(b"(?:^|&)" + pair + b"(?:&|$)", re2_options())


def _spellings(text: bytes) -> bytes:
    return b"".join(rb"(?:\x%02x|%%(?i:%02x)%b)" % (code, code, rb"|\+" if code == 0x20 else b"") for code in text)


def _compile_set(regexes: Sequence[bytes]) -> Any:
    """One automaton that finds all of `regexes` that match, in one pass over a path.

    RE2 says nothing when the automaton has no room, it just matches nothing; so the set has one more pattern that
    matches everything, and gets more room until that one is seen.
    """
    options = re2_options()
    options.max_mem = _REGEX_MEMORY
    while True:
        regex_set = re2.Set.SearchSet(options)
        for regex in (*regexes, b""):
            regex_set.Add(regex)
        try:
            regex_set.Compile()
        except re2.error:
            pass
        else:
            if regex_set.Match(b"/"):
                return regex_set
        options.max_mem *= 2


def _shortest_ipv6(host: bytes) -> bytes:
    """The spelling that patterns have: `[0:0::1]` is `[::1]`. What is no IPv6 address stays as it is."""
    try:
        return b"[%b]" % str(IPv6Address(host[1:-1].decode("ascii"))).encode()
    except ValueError:
        return host


def _weakness(entry: _Entry[Any], first: _Entry[Any]) -> str:
    """The first step of the match order at which `first` is ahead of `entry`."""
    if entry is first:
        return ""
    if _host_name(entry.host) != _host_name(first.host):
        return "less specific host"
    if _shape(entry.path) != _shape(first.path):
        return _WEAKER_PATHS[entry.path.kind if entry.path else None]
    by_conditions = entry.path is None or entry.path.kind is not PathKind.REGEX
    if by_conditions and entry.condition_count != first.condition_count:
        return "fewer header and query conditions"
    return "later in the file"


def _host_name(host: HostPattern | None) -> bytes:
    return host.name if host else _ANY_HOST


def _shape(path: PathPattern | None) -> tuple[object, ...]:
    """Of two patterns that match the same path, neither is more specific when their shapes are equal."""
    if path is None:
        return ()
    return path.kind, *(segment.rest if isinstance(segment, Parameter) else None for segment in path.segments)


_WEAKER_PATHS: Final = {
    PathKind.PARAMETERS: "a parameter where the other has text",
    PathKind.PREFIX: "shorter prefix",
    PathKind.REGEX: "regular expression",
    None: "any path",
}
