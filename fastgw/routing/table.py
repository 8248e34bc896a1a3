"""The route table: finds the route of a request.

Match order (the contract): highest priority; then exact host > longest wildcard > any; then exact path > parameters
(text before text with parameters before a parameter, at the first segment where they differ) > longest prefix > regular
expressions in file order > any path; then a path as it was written > one with another trailing slash; then the highest
rank, by default the number of conditions on headers, query, cookies and clients; then file order. This orders *all*
matching routes: a route for any host answers requests that match no route of their own host. A route whose method does
not match is skipped like any other.

Rule 1: user patterns run on RE2 only. Rule 2: no step visits all routes: the cost of a lookup grows with the segments
of the request's path, plus the routes that share its host and path and differ only in method, header and query
conditions, plus one pass of RE2 over the path if a host has regular expressions, and over a segment where patterns have
text with parameters.

The compiled module, `_table`, finds the route if host, path and method decide. This module does the rest.

A table is immutable: a reload builds the next one from the rules, in steps between which requests are served, and
reuses the hosts whose rules are unchanged. The previous table is then freed in steps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from itertools import chain, groupby
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeAlias, TypeVar

import re2
from msgspec import Struct

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
from fastgw.routing import _table
from fastgw.routing.requirements import Requirement

R = TypeVar("R")
T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""Work in steps of well below 1 ms, with a result. It may be abandoned at any step."""

Match: TypeAlias = tuple[R, Mapping[str, bytes]]
"""A route and the parameters of its path: normal-form bytes of the segments, escapes kept."""

_NO_PARAMETERS: Final[Mapping[str, bytes]] = MappingProxyType({})
_ANY_HOST: Final = b""
_ANSWERED: Final = {b"GET": (b"GET", b"HEAD")}  # RFC 9110 section 9.3.2: HEAD is GET without the content
_NOTHING_BELOW: Final[dict[bytes, Any]] = {}  # shared by all leaves: an empty dict takes 64 bytes
_NONE_MIXED: Final[list[Any]] = []  # shared, too
_NONE_NUMBERED: Final[list[int]] = []
_REGEX_MEMORY: Final = 8 << 20  # bytes for the automaton of a host's regular expressions; RE2's default
_PIECE: Final = 32  # entries, hosts or nodes that one step visits


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


class Conditions(Struct, frozen=True):
    """Conditions of a route. Empty: any; one of the hosts, one of the paths and one of the methods has to match, and
    all of the others.
    """

    hosts: tuple[HostPattern, ...] = ()
    paths: tuple[PathPattern, ...] = ()
    methods: tuple[bytes, ...] = ()
    """GET includes HEAD."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Name (any case) and exact value: see `http.header_conditions`."""
    query: tuple[tuple[bytes, bytes], ...] = ()
    """Name and value as applications decode them: escapes decoded, `+` as a space; any occurrence may match."""
    others: tuple[Requirement, ...] = ()
    """Further conditions: `routing.requirements`."""
    priority: int = 0
    rank: int | None = None
    """Precedence among routes of the same host and path; None: the number of conditions on headers, query and so on."""
    implies_head: bool = True
    """Whether GET includes HEAD."""


@dataclass(frozen=True, slots=True)
class Candidate(Generic[R]):
    """A matching route for `explain`."""

    route: R
    params: Mapping[str, bytes]
    host: HostPattern | None
    path: PathPattern | None
    weakness: str
    """Reason why the first candidate precedes it: `shorter prefix`. Empty for the first itself."""


def at_once(steps: Steps[T]) -> T:
    """Run all steps and return the result."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        outcome: T = end.value
        return outcome


class _Router(Generic[R]):
    """An immutable route table, built from conditions and routes in file order.

    `waiting`: number of requests that wait and will use this table.
    """

    waiting = 0

    def __init__(self, rules: Iterable[tuple[Conditions, R]] = ()) -> None:
        at_once(self._grow([at_once(rule_of(conditions, route)) for conditions, route in rules], None))

    @classmethod
    def building(cls, rules: list[Rule[R]], base: Router[R] | None) -> Steps[Router[R]]:
        """Build the table of these rules, in file order. Equal parts of `base` are reused; if everything is equal, it
        is `base` itself.

        Rules are equal if they are the same objects, hosts if all of their rules are, in the same order.
        """
        if base is not None and base._rules == rules:
            return base
        has_priorities = any(rule[0].priority for rule in rules)
        kind: Any = PriorityRouter if has_priorities else Router
        router: Router[R] = kind.__new__(kind)
        if base is not None and not has_priorities:
            base = base.of_priority(0)
        yield from router._grow(rules, base)
        return router

    def _grow(self, rules: list[Rule[R]], base: Router[R] | None) -> Steps[None]:
        self._rules = rules
        exact: dict[bytes, list[RouteEntry[R]]] = {}
        wildcards: dict[bytes, list[RouteEntry[R]]] = {}
        for place, entry in enumerate(chain.from_iterable(rules), 1):
            host = entry.host
            by_name = exact if host is not None and not host.wildcard else wildcards
            by_name.setdefault(_host_name(host), []).append(entry)
            if not place % _PIECE:
                yield

        by_length: dict[int, list[bytes]] = {}
        for name in wildcards:
            by_length.setdefault(len(name), []).append(name)
            yield
        self._longest_wildcard = max(by_length, default=0)
        self._by_wildcard: dict[bytes, tuple[_HostTable[R], ...]] = {_ANY_HOST: ()}
        for length in sorted(by_length):  # names that match a longer one also match its shorter suffixes
            for name in by_length[length]:
                same = base and base._by_wildcard.get(name)
                table = yield from _host_table(wildcards.pop(name), same[0] if same else None)
                self._by_wildcard[name] = (table, *(self._wildcard_tables(name[1:]) if name else ()))
                yield
        self._by_host: dict[bytes, tuple[_HostTable[R], ...]] = {}
        while exact:
            name, entries = exact.popitem()
            same = base and base._by_host.get(name)
            table = yield from _host_table(entries, same[0] if same else None)
            self._by_host[name] = (table, *self._wildcard_tables(name))
            yield
        self._sole = self._by_wildcard[_ANY_HOST] if not self._by_host and len(self._by_wildcard) == 1 else ()
        """The tables for any request, if no route has a host."""
        self.compiled: Any = yield from self._compile(_table.Tables(_NO_PARAMETERS))
        """Compiled tables, which find most routes."""

    def _compile(self, tables: Any) -> Steps[Any]:
        """Fill the compiled tables: first the hosts, the less specific ones first, because each refers to the next
        number.
        """
        numbers: dict[_HostTable[R], int] = {}
        for wildcard, by_name in ((True, self._by_wildcard), (False, self._by_host)):
            for name, (table, *beyond) in ((name, held) for name, held in by_name.items() if held):
                while tables.widen():
                    yield
                numbers[table] = tables.add_host(name, wildcard, numbers[beyond[0]] if beyond else -1)
                yield
        while numbers:
            table, number = numbers.popitem()
            for place, entry in enumerate(reversed(table.ordered)):  # each is inserted before the present ones
                while tables.widen():
                    yield
                tables.add(number, entry)
                if not place % _PIECE:
                    yield
        while tables.seal():
            yield
        return tables

    def dismantling(self, kept: Router[R]) -> Steps[None]:
        """Free this table, except for parts shared with `kept`. Lookups find nothing from now on."""
        same = kept.of_priority(0)
        if same is self:
            return
        kept = same or Router()
        held = (self._by_wildcard, kept._by_wildcard), (self._by_host, kept._by_host)
        self._by_wildcard, self._by_host, self._sole = {_ANY_HOST: ()}, {}, ()
        while self.compiled is not None and self.compiled.release():
            yield
        for by_name, kept_by_name in held:
            while by_name:
                name, tables = by_name.popitem()
                if tables and tables[0] not in kept_by_name.get(name, ())[:1]:
                    yield from tables[0].dismantling()
                yield
        while self._rules:
            del self._rules[-_PIECE:]
            yield

    def of_priority(self, priority: int) -> Router[R] | None:
        """Return the table of the routes with this priority."""
        return None if priority else self

    def await_request(self) -> None:
        """Count a request that will use this table, even if it is replaced in between."""
        self.waiting += 1

    def count_down_request(self, _: object) -> None:
        """Count down a request that has used the table, or was cancelled. Callback of the request's future."""
        self.waiting -= 1

    def find_in_turn(self, request: Routable) -> Match[R] | None:
        """Find a route as `find` does, in plain Python."""
        for table in self._sole or self._tables(request.host):
            match = table.find(request)
            if match is not None:
                return match
        return None

    find = find_in_turn
    """Return the route of `request`. None: `allowed_methods` decides between 405 and 404."""

    def allowed_methods(self, request: Routable) -> tuple[bytes, ...]:
        """Return the methods allowed for a request without a route: those of the routes that match otherwise, for 405;
        () = 404.
        """
        fitting = (entry.methods for entry in self._entries(request) if entry.fields_and_query_fit(request))
        return tuple(dict.fromkeys(chain.from_iterable(fitting)))

    def candidates(self, request: Routable) -> list[Candidate[R]]:
        """Return every matching route once, in match order: the first is the result of `find`."""
        best: dict[int, RouteEntry[R]] = {}
        for entry in self._entries(request):
            if entry.accepts(request):
                best.setdefault(id(entry.route), entry)
        entries = list(best.values())
        segments = request.path.split(b"/")
        return [
            Candidate(*entry.match(segments), entry.host, entry.path, _weakness(entry, entries[0])) for entry in entries
        ]

    def _entries(self, request: Routable) -> Iterator[RouteEntry[R]]:
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
        """Return the tables of the wildcards that match `host`, longest first, and that of any host."""
        # Start no further left than a wildcard reaches: a host of 30,000 dots must not cost 30,000 lookups.
        dot = host.find(b".", max(1, len(host) - self._longest_wildcard))
        while dot > 0:
            tables = self._by_wildcard.get(host[dot:])
            if tables is not None:
                return tables
            dot = host.find(b".", dot + 1)
        return self._by_wildcard[_ANY_HOST]


if TYPE_CHECKING:
    Router = _Router
else:

    class Router(_table.Finder, _Router[R]):
        __doc__ = _Router.__doc__


class PriorityRouter(Router[R]):
    """The route table of routes with different priorities: one table for each priority."""

    def _grow(self, rules: list[Rule[R]], base: Router[R] | None) -> Steps[None]:
        self._rules = rules
        by_priority: dict[int, list[Rule[R]]] = {}
        for place, rule in enumerate(rules, 1):
            by_priority.setdefault(rule[0].priority, []).append(rule)
            if not place % _PIECE:
                yield
        self._by_priority: dict[int, Router[R]] = {}
        for priority in sorted(by_priority, reverse=True):
            kind: Any = Router
            table: Router[R] = kind.__new__(kind)
            there = None if base is None else base.of_priority(priority)
            if there is not None and there._rules == by_priority[priority]:
                table = there
            else:
                yield from table._grow(by_priority[priority], there)
            self._by_priority[priority] = table
        self.compiled = None

    def dismantling(self, kept: Router[R]) -> Steps[None]:
        if kept is self:
            return
        while self._by_priority:
            priority, table = self._by_priority.popitem()
            if (same := kept.of_priority(priority)) is not table:
                yield from table.dismantling(same or Router())
        while self._rules:
            del self._rules[-_PIECE:]
            yield

    def of_priority(self, priority: int) -> Router[R] | None:
        return self._by_priority.get(priority)

    def find_in_turn(self, request: Routable) -> Match[R] | None:
        for table in self._by_priority.values():
            match = table.find(request)
            if match is not None:
                return match
        return None

    find = find_in_turn

    def _entries(self, request: Routable) -> Iterator[RouteEntry[R]]:
        for table in self._by_priority.values():
            yield from table._entries(request)


class RouteEntry(Generic[R]):
    """One route under one of its hosts and one of its paths, with the remaining conditions."""

    __slots__ = (
        "fields",
        "host",
        "methods",
        "mixed",
        "only_method",
        "others",
        "path",
        "places",
        "priority",
        "query",
        "rank",
        "ready",
        "regex",
        "route",
        "takes_rest",
    )

    def __init__(
        self,
        host: HostPattern | None,
        path: PathPattern | None,
        methods: tuple[bytes, ...],
        fields: tuple[tuple[bytes, bytes], ...],
        query: tuple[Any, ...],
        route: R,
        others: tuple[Requirement, ...] = (),
        priority: int = 0,
        rank: int | None = None,
    ) -> None:
        self.host = host
        self.path = path
        self.route = route
        self.methods = methods
        self.fields = fields
        self.query = query
        self.others = others
        self.priority = priority
        self.only_method = not (fields or query or others)
        self.rank = len(fields) + len(query) + len(others) if rank is None else rank
        self.regex: Any = None
        """Regular expression with named groups, which are the parameters."""
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
        self.ready = None if self.places or self.mixed or self.regex is not None else (route, _NO_PARAMETERS)

    @property
    def is_written(self) -> bool:
        """Whether its path is as configured, including the trailing slash."""
        return self.path is None or self.path.written

    def accepts(self, request: Routable) -> bool:
        if self.methods and request.method not in self.methods:
            return False
        return self.only_method or self.fields_and_query_fit(request)

    def fields_and_query_fit(self, request: Routable) -> bool:
        for name, value in self.fields:
            if not has_value(name, value, request.values(name)):
                return False
        if not all(pattern.search(request.query or b"") for pattern in self.query):
            return False
        return all(meets(request) for meets in self.others)

    def match(self, segments: list[bytes]) -> Match[R]:
        """`segments`: the path, split at least as often as the pattern."""
        if self.ready is not None:
            return self.ready
        params: dict[str, bytes] = {}
        if self.regex is not None:
            return self.route, _groups(self.regex, b"/".join(segments))
        for name, place in self.places:
            params[name] = segments[place]
        if self.takes_rest:
            params[name] = b"/".join(segments[place:])
        for regex, place in self.mixed:
            params |= _groups(regex, segments[place])
        return self.route, params


Rule: TypeAlias = tuple[RouteEntry[R], ...]
"""A route under all its hosts and paths."""


def rule_of(conditions: Conditions, route: R) -> Steps[Rule[R]]:
    methods = _with_implied_methods(conditions.methods) if conditions.implies_head else conditions.methods
    fields = tuple([(name.lower(), value) for name, value in conditions.headers])
    query = tuple([_query_pattern(name, value) for name, value in conditions.query])
    entries: list[RouteEntry[R]] = []
    for host in conditions.hosts or (None,):
        for path in conditions.paths or (None,):
            entries.append(
                RouteEntry(
                    host, path, methods, fields, query, route, conditions.others, conditions.priority, conditions.rank
                )
            )
            if not len(entries) % _PIECE:
                yield
    return tuple(entries)


class _Node(Generic[R]):
    """Node in the tree of path segments, for prefixes and patterns with parameters."""

    __slots__ = ("below", "ends", "mixed", "mixed_set", "numbers", "parameter", "prefixes", "rest", "turns")

    def __init__(self) -> None:
        self.below: dict[bytes, _Node[R]] = _NOTHING_BELOW
        self.mixed: list[tuple[MixedSegment, _Node[R]]] = _NONE_MIXED
        """Next nodes for text with parameters, the most specific first."""
        self.mixed_set: Any = None
        """Automaton that finds those of `mixed` that match a segment; None: there are none."""
        self.parameter: _Node[R] | None = None
        self.rest: _Node[R] | None = None
        """Next node for a `:path` parameter, which matches the path to its end."""
        self.ends: list[RouteEntry[R]] | None = None
        """The patterns that end here: prefixes in nodes reached by text only, patterns with parameters elsewhere."""
        self.numbers: list[int] = _NONE_NUMBERED
        """Positions of `ends` in match order, if their patterns have text with parameters."""
        self.prefixes: tuple[list[RouteEntry[R]], ...] = ()
        """Entries reached by text only: `ends` of this node and of those above, longest prefix first."""
        self.turns: tuple[tuple[int, _Node[R]], ...] = ()
        """Nodes reached by text only: where patterns with parameters branch off, from here and from above, and at which
        segment.
        """

    def grow(self, segments: Iterable[Segment], mixed: dict[_Node[R], None]) -> _Node[R]:
        """Find or create the node of a pattern and return it. Nodes whose `mixed_set` has to be compiled are added to
        `mixed`.
        """
        node = self
        for segment in segments:
            if isinstance(segment, bytes):
                if not node.below:
                    node.below = {}
                below = node.below.get(segment)
                if below is None:
                    below = node.below[segment] = _Node()
                node = below
            elif isinstance(segment, MixedSegment):
                mixed[node] = None
                node = node.grow_mixed(segment)
            elif segment.rest:
                node.rest = node = node.rest or _Node()
            else:
                node.parameter = node = node.parameter or _Node()
        return node

    def add(self, entry: RouteEntry[R], number: int) -> None:
        """Add an entry that ends here, after the others. `number`: its position in match order."""
        if self.ends is None:
            self.ends = []
        self.ends.append(entry)
        if entry.mixed:
            if not self.numbers:
                self.numbers = []
            self.numbers.append(number)

    def grow_mixed(self, segment: MixedSegment) -> _Node[R]:
        """Find or create the next node for text with parameters."""
        if not self.mixed:
            self.mixed = []
        place = bisect_left(self.mixed, (segment.order, segment.shape), key=lambda each: (each[0].order, each[0].shape))
        if place == len(self.mixed) or self.mixed[place][0].shape != segment.shape:
            self.mixed.insert(place, (segment, _Node()))
        return self.mixed[place][1]

    def matching_mixed(self, segment: bytes) -> list[tuple[MixedSegment, _Node[R]]]:
        """Return those of `mixed` that match a segment."""
        matching = sorted(self.mixed_set.Match(segment)) if self.mixed_set is not None else ()
        return [self.mixed[index] for index in matching if index < len(self.mixed)]

    def mixed_nodes(self, segment: bytes) -> list[_Node[R] | _TiedNodes[R]]:
        """Return the next nodes for text with parameters that match a segment, the most specific first."""
        return _by_precedence(self.matching_mixed(segment))

    def seal(self, place: int, above: _Node[R]) -> None:
        """Compute `prefixes` and `turns`, once the tree is complete and `above` is sealed. `place`: the depth."""
        self.prefixes = (self.ends, *above.prefixes) if self.ends else above.prefixes
        self.turns = above.turns
        if self.parameter or self.rest or self.mixed:
            turn: _Node[R] = _Node()  # not `self`: without cycles, a table is freed as soon as it is replaced
            turn.parameter, turn.rest = self.parameter, self.rest
            turn.mixed, turn.mixed_set = self.mixed, self.mixed_set
            self.turns = ((place, turn), *above.turns)

    def sealing(self) -> Steps[None]:
        """Seal this node, which is the root, and all nodes reached by text only."""
        self.seal(0, self)
        unsealed = [(self, iter(self.below.values()))]
        sealed = 0
        while unsealed:
            above, places = unsealed[-1]
            node = next(places, None)
            if node is None:
                unsealed.pop()
                continue
            node.seal(len(unsealed), above)
            if node.below:
                unsealed.append((node, iter(node.below.values())))
            sealed += 1
            if not sealed % _PIECE:
                yield

    def dismantling(self) -> Steps[None]:
        """Free the tree below, one node at a time."""
        left = [self]
        while left:
            node = left[-1]
            if node.below:
                left.append(node.below.popitem()[1])
            elif node.parameter:
                left.append(node.parameter)
                node.parameter = None
            elif node.mixed:
                left.append(node.mixed.pop()[1])
            else:
                left.pop()
                yield

    def deepest(self, segments: list[bytes]) -> _Node[R]:
        """Return the last node that `segments` reach by text only."""
        node = self
        for segment in segments:
            below = node.below.get(segment)
            if below is None:
                return node
            node = below
        return node


class _TiedNodes(Generic[R]):
    """Several nodes as one: their patterns differ so far only in text with parameters that takes no precedence."""

    __slots__ = ("_nodes",)

    def __init__(self, nodes: list[_Node[R]]) -> None:
        self._nodes = nodes

    @property
    def below(self) -> _TiedNodes[R]:
        return self

    def get(self, segment: bytes) -> _Node[R] | _TiedNodes[R] | None:
        """Return the next nodes for text, as `_Node.below` does."""
        return _tied([node.below[segment] for node in self._nodes if segment in node.below])

    @property
    def parameter(self) -> _Node[R] | _TiedNodes[R] | None:
        return _tied([node.parameter for node in self._nodes if node.parameter])

    @property
    def rest(self) -> _Node[R] | _TiedNodes[R] | None:
        return _tied([node.rest for node in self._nodes if node.rest])

    @property
    def mixed_set(self) -> Any:
        return next((node.mixed_set for node in self._nodes if node.mixed_set is not None), None)

    def mixed_nodes(self, segment: bytes) -> list[_Node[R] | _TiedNodes[R]]:
        return _by_precedence([each for node in self._nodes for each in node.matching_mixed(segment)])

    @property
    def ends(self) -> list[RouteEntry[R]]:
        numbered = [each for node in self._nodes for each in zip(node.numbers, node.ends or (), strict=True)]
        return [entry for _, entry in sorted(numbered, key=itemgetter(0))]


def _tied(nodes: list[_Node[R]]) -> _Node[R] | _TiedNodes[R] | None:
    return _TiedNodes(nodes) if len(nodes) > 1 else nodes[0] if nodes else None


def _by_precedence(matching: list[tuple[MixedSegment, _Node[R]]]) -> list[_Node[R] | _TiedNodes[R]]:
    """Return the nodes of segments, the most specific first; those of equally specific ones as one."""
    if len(matching) < 2:
        return [node for _, node in matching]
    matching.sort(key=lambda each: each[0].order)
    tied = (_tied([node for _, node in same]) for _, same in groupby(matching, key=lambda each: each[0].order))
    return [node for node in tied if node is not None]


class _HostTable(Generic[R]):
    """The routes of one host pattern, by path."""

    def __init__(self, rows: list[RouteEntry[R]]) -> None:
        self.rows = rows
        """Rows in file order."""
        self.ordered = rows
        """Rows in an order in which rows with the same path are in match order."""
        self._exact: dict[bytes, list[RouteEntry[R]]] = {}
        self._tree: _Node[R] = _Node()
        self._mixed: dict[_Node[R], None] = {}
        """Nodes whose `mixed_set` is still to be compiled."""
        self._cuts = 0
        """Number of splits of a path that separates all segments that the tree compares. 0: none."""
        self._regexes: list[RouteEntry[R]] = []
        self._regex_set: Any = None
        self._any_path: list[RouteEntry[R]] = []

    def growing(self, base: _HostTable[R] | None) -> Steps[None]:
        """Insert each row. `base`: the previous rows of this host."""
        by_rank: dict[tuple[bool, int], list[RouteEntry[R]]] = {}
        for place, entry in enumerate(self.rows, 1):
            by_rank.setdefault((entry.is_written, entry.rank), []).append(entry)
            if entry.path is not None and entry.path.kind is PathKind.REGEX:
                self._regexes.append(entry)
            if not place % _PIECE:
                yield
        if len(by_rank) > 1:
            self.ordered = []
            for rank in sorted(by_rank, reverse=True):
                self.ordered += by_rank[rank]
        for place, entry in enumerate(self.ordered, 1):
            if entry.path is None or entry.path.kind is not PathKind.REGEX:
                self._insert(entry, place)
            if not place % _PIECE:
                yield
        if self._regexes:
            yield from self._compile_regexes(base)
        for node in self._mixed:
            node.mixed_set = yield from _compile_set([segment.regex for segment, _ in node.mixed])
        self._mixed = {}
        yield from self._tree.sealing()

    def _compile_regexes(self, base: _HostTable[R] | None) -> Steps[None]:
        if base is not None and base._regex_sources() == self._regex_sources():
            self._regex_set = base._regex_set
        else:
            self._regex_set = yield from _compile_set(self._regex_sources())

    def _regex_sources(self) -> list[bytes]:
        return [entry.path.regex for entry in self._regexes if entry.path is not None]

    def dismantling(self) -> Steps[None]:
        self._regex_set = None
        yield from self._tree.dismantling()
        while self._exact:
            self._exact.popitem()
            yield
        for entries in (self._any_path, self._regexes, self.ordered, self.rows):
            while entries:
                del entries[-_PIECE:]
                yield

    def _insert(self, entry: RouteEntry[R], number: int) -> None:
        """Insert an entry after those before it in `ordered`. `number`: its position there."""
        path = entry.path
        if path is None:
            self._any_path.append(entry)
        elif path.kind is PathKind.EXACT:
            self._exact.setdefault(path.literal, []).append(entry)
        else:
            self._cuts = max(self._cuts, len(path.segments) + 1)
            # A path has an empty segment before its first slash, but `*` has none: that one is covered by `/*` alone.
            self._tree.grow((b"", *path.segments) if path.segments else (), self._mixed).add(entry, number)

    def entries(self, path: bytes) -> Iterator[Sequence[RouteEntry[R]]]:
        """Yield the entries whose path matches, in match order."""
        yield self._exact.get(path, ())
        segments = path.split(b"/", self._cuts)
        node = self._tree.deepest(segments)
        for place, turn in node.turns:
            yield from _matching_entries(turn, place, segments)
        yield from node.prefixes
        yield self._matching_regexes(path)
        yield self._any_path

    def find(self, request: Routable) -> Match[R] | None:
        """Return the first of `entries` that accepts `request`."""
        # PERF: kinds that the table does not have are skipped, and there is no generator: 0.5 us for a prefix, 0.9 with
        # `entries` (CPython 3.11, micro/routing).
        path = request.path
        if self._exact and (exact := self._exact.get(path)) and (entry := _first(exact, request)):
            return entry.ready
        if self._cuts:
            segments = path.split(b"/", self._cuts)
            node = self._tree.deepest(segments)
            for place, turn in node.turns:
                for entries in _matching_entries(turn, place, segments):
                    if entry := _first(entries, request):
                        return entry.match(segments)
            for entries in node.prefixes:
                if entry := _first(entries, request):
                    return entry.ready
        if self._regexes and (entry := _first(self._matching_regexes(path), request)):
            return entry.ready or entry.match([path])
        if self._any_path and (entry := _first(self._any_path, request)):
            return entry.ready
        return None

    def _matching_regexes(self, path: bytes) -> Sequence[RouteEntry[R]]:
        if self._regex_set is None:
            return ()
        matching = sorted(self._regex_set.Match(path))
        return [self._regexes[index] for index in matching if index < len(self._regexes)]


def _host_table(rows: list[RouteEntry[R]], base: _HostTable[R] | None) -> Steps[_HostTable[R]]:
    if base is not None and base.rows == rows:
        return base
    table = _HostTable(rows)
    yield from table.growing(base)
    return table


def _matching_entries(node: _Node[R] | _TiedNodes[R], place: int, segments: list[bytes]) -> list[list[RouteEntry[R]]]:
    """Yield the entries of the patterns that lead to `node` and match `segments` from `place` on, most
    specific first.
    """
    found: list[list[RouteEntry[R]]] = []
    end = len(segments)
    untried: list[tuple[int, _Node[R] | _TiedNodes[R]]] = []
    while True:
        below = parameter = None
        if place < end:
            segment = segments[place]
            below = node.below.get(segment)
            if node.rest:
                untried.append((end, node.rest))
            if segment:
                parameter = node.parameter
                if node.mixed_set is not None:
                    nexts = node.mixed_nodes(segment)
                    if parameter is not None:
                        nexts.append(parameter)
                    parameter = nexts.pop(0) if nexts else None
                    untried += [(place + 1, to) for to in reversed(nexts)]
        elif ends := node.ends:
            found.append(ends)
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


def _first(entries: Iterable[RouteEntry[R]], request: Routable) -> RouteEntry[R] | None:
    for entry in entries:
        if entry.accepts(request):
            return entry
    return None


@lru_cache(maxsize=64)  # most routes have the same methods as others, and share the tuple
def _with_implied_methods(methods: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(_ANSWERED.get(method, (method,)) for method in methods)))


@lru_cache(maxsize=64)
def _shared(places: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Share equal positions of parameters as one tuple: 10,000 routes with an `{id}` in the same position use less
    memory.
    """
    return places


@lru_cache(maxsize=64)  # the routes of an API that differ in the method have the same one
def _segment_regex(segment: MixedSegment) -> Any:
    return re2.compile(segment.regex, re2_options())


def _groups(regex: Any, text: bytes) -> dict[str, bytes]:
    """Return the named groups of a regular expression, which matches the text."""
    return {name.decode(): value or b"" for name, value in regex.search(text).groupdict().items()}


def _query_pattern(name: bytes, value: bytes) -> Any:
    """A search for `name=value` among the pairs of a query, with any escaping."""
    pair = _spellings(name) + (b"=" + _spellings(value) if value else b"=?")
    return re2.compile(b"(?:^|&)" + pair + b"(?:&|$)", re2_options())


def _spellings(text: bytes) -> bytes:
    return b"".join(rb"(?:\x%02x|%%(?i:%02x)%b)" % (code, code, rb"|\+" if code == 0x20 else b"") for code in text)


def _compile_set(regexes: Sequence[bytes]) -> Steps[Any]:
    """One automaton that finds all of `regexes` that match, in one pass over a path.

    RE2 does not report an automaton without enough memory, which just matches nothing; so the set has an additional
    pattern that matches everything, and gets more memory until that one matches. The compilation is one step: 1.3 ms
    for 500.
    """
    options = re2_options()
    options.max_mem = _REGEX_MEMORY
    while True:
        regex_set = re2.Set.SearchSet(options)
        for place, regex in enumerate((*regexes, b"")):
            regex_set.Add(regex)
            if not place % _PIECE:
                yield
        yield
        try:
            regex_set.Compile()
        except re2.error:
            pass
        else:
            if regex_set.Match(b"/"):
                return regex_set
        options.max_mem *= 2


def _shortest_ipv6(host: bytes) -> bytes:
    """Normalize an IPv6 address as patterns are: `[0:0::1]` is `[::1]`. Anything else stays unchanged."""
    try:
        return b"[%b]" % str(IPv6Address(host[1:-1].decode("ascii"))).encode()
    except ValueError:
        return host


def _weakness(entry: RouteEntry[Any], first: RouteEntry[Any]) -> str:
    """Return the first criterion of the match order by which `first` precedes `entry`."""
    if entry is first:
        return ""
    if entry.priority != first.priority:
        return "lower priority"
    if _host_name(entry.host) != _host_name(first.host):
        return "less specific host"
    if _shape(entry.path) != _shape(first.path):
        return _WEAKER_PATHS[entry.path.kind if entry.path else None]
    if entry.is_written != first.is_written:
        return "the other has this trailing slash as its own"
    by_conditions = entry.path is None or entry.path.kind is not PathKind.REGEX
    if by_conditions and entry.rank != first.rank:
        return "fewer conditions on the request"
    return "later in the file"


def _host_name(host: HostPattern | None) -> bytes:
    return host.name if host else _ANY_HOST


def _shape(path: PathPattern | None) -> tuple[object, ...]:
    """Return the shape of a pattern: of two patterns that match the same path, neither is more specific if their shapes
    are equal.
    """
    if path is None:
        return ()
    return path.kind, *(_segment_shape(segment) for segment in path.segments)


def _segment_shape(segment: Segment) -> object:
    if isinstance(segment, MixedSegment):
        return segment.order
    return segment.rest if isinstance(segment, Parameter) else None


_WEAKER_PATHS: Final = {
    PathKind.PARAMETERS: "a parameter where the other has text",
    PathKind.PREFIX: "shorter prefix",
    PathKind.REGEX: "regular expression",
    None: "any path",
}
