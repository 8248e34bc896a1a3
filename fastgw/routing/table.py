"""The route table: finds the route of a request.

Match order (the contract): highest priority; then exact host > longest wildcard > any; then exact path > parameters
(text before text with parameters before a parameter, at the first segment where they differ) > longest prefix > regular
expressions in file order > any path; then a path as it was written > one with another trailing slash; then the highest
rank, by default the number of conditions on headers, query, cookies and clients; then file order. This orders *all*
matching routes: a route for any host answers requests that match no route of their own host. A route whose method does
not match is skipped like any other.

Rule: no step visits all routes: the cost of a lookup grows with the segments of the request's path, plus the routes
that share its host and path and differ only in method, header and query conditions, plus one pass of RE2 over the path
if a host has regular expressions, and over a segment where patterns have text with parameters.

A table is immutable: a reload builds the next one from the rules, in steps between which requests are served. The
previous table is then freed in steps.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

import re2
from msgspec import Struct

from fastgw.config.base.route_patterns import HostPattern, PathKind, PathPattern, re2_options
from fastgw.routing.entry import Routable, RouteEntry, precedence_of
from fastgw.routing.regex_choices import automaton_of
from fastgw.routing.requirements import Requirement
from fastgw.routing.route_tree import Finder, RouteTree

R = TypeVar("R")
T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""Work in steps of well below 1 ms, with a result. It may be abandoned at any step."""

Match: TypeAlias = tuple[R, Mapping[str, bytes]]
"""A route and the parameters of its path: normal-form bytes of the segments, escapes kept."""

Rule: TypeAlias = tuple[RouteEntry, ...]
"""A route under all its hosts and paths."""

_ANY_HOST: Final = b""
_ANSWERED: Final = {b"GET": (b"GET", b"HEAD")}  # RFC 9110 section 9.3.2: HEAD is GET without the content
_PIECE: Final = 32  # entries that one step visits


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


class _Level(NamedTuple):
    """The routes of one priority."""

    rules: list[Rule]
    tree: RouteTree
    automata: dict[tuple[bytes, ...], Any]
    """Automata of its regular expressions, by their sources."""


class Router(Finder[R]):
    """An immutable route table, built from conditions and routes in file order.

    `waiting`: number of requests that wait and will use this table.
    """

    waiting = 0
    trees: tuple[RouteTree, ...]

    def __init__(self, rules: Iterable[tuple[Conditions, R]] = ()) -> None:
        at_once(self._grow([at_once(rule_of(conditions, route)) for conditions, route in rules], None))

    @classmethod
    def building(cls, rules: list[Rule], base: Router[R] | None) -> Steps[Router[R]]:
        """Build the table of these rules, in file order. Equal parts of `base` are reused; if everything is equal, it
        is `base` itself. Rules are equal if they are the same objects.
        """
        if base is not None and base._rules == rules:
            return base
        router: Router[R] = cls.__new__(cls)
        yield from router._grow(rules, base)
        return router

    def _grow(self, rules: list[Rule], base: Router[R] | None) -> Steps[None]:
        self._rules = rules
        by_priority: dict[int, list[Rule]] = {}
        for place, rule in enumerate(rules, 1):
            by_priority.setdefault(rule[0].priority, []).append(rule)
            if not place % _PIECE:
                yield
        self._levels: dict[int, _Level] = {}
        for priority in sorted(by_priority, reverse=True):
            before = None if base is None else base._levels.get(priority)
            if before is None or before.rules != by_priority[priority]:
                automata = {} if before is None else before.automata
                self._levels[priority] = yield from _level_of(by_priority[priority], automata)
            else:
                self._levels[priority] = before
        self.trees = tuple([level.tree for level in self._levels.values()])

    def dismantling(self, kept: Router[R]) -> Steps[None]:
        """Free this table, except for parts shared with `kept`. Lookups find nothing from now on."""
        if kept is self:
            return
        self.trees = ()
        while self._levels:
            priority, level = self._levels.popitem()
            if level is kept._levels.get(priority):
                continue
            while level.tree.release():
                yield
            while level.automata:
                level.automata.popitem()
                yield
            while level.rules:
                del level.rules[-_PIECE:]
                yield
        while self._rules:
            del self._rules[-_PIECE:]
            yield

    def await_request(self) -> None:
        """Count a request that will use this table, even if it is replaced in between."""
        self.waiting += 1

    def count_down_request(self, _: object) -> None:
        """Count down a request that has used the table, or was cancelled. Callback of the request's future."""
        self.waiting -= 1

    def allowed_methods(self, request: Routable) -> tuple[bytes, ...]:
        """Return the methods allowed for a request without a route: those of the routes that match otherwise, for 405;
        () = 404.
        """
        fitting = (entry.methods for entry, _ in self._entries(request) if entry.accepts_any_method(request))
        return tuple(dict.fromkeys(chain.from_iterable(fitting)))

    def candidates(self, request: Routable) -> list[Candidate[R]]:
        """Return every matching route once, in match order: the first is the result of `find`."""
        best: dict[int, tuple[RouteEntry, Mapping[str, bytes]]] = {}
        for entry, params in self._entries(request):
            if entry.accepts(request):
                best.setdefault(id(entry.route), (entry, params))
        found = list(best.values())
        return [
            Candidate(entry.route, params, entry.host, entry.path, _weakness(entry, found[0][0]))
            for entry, params in found
        ]

    def _entries(self, request: Routable) -> Iterator[tuple[RouteEntry, Mapping[str, bytes]]]:
        return chain.from_iterable(tree.entries(request) for tree in self.trees)


def rule_of(conditions: Conditions, route: object) -> Steps[Rule]:
    methods = _with_implied_methods(conditions.methods) if conditions.implies_head else conditions.methods
    fields = tuple([(name.lower(), value) for name, value in conditions.headers])
    query = tuple([_query_pattern(name, value) for name, value in conditions.query])
    entries: list[RouteEntry] = []
    for host in conditions.hosts or (None,):
        for path in conditions.paths or (None,):
            entries.append(
                RouteEntry(
                    route, host, path, methods, fields, query, conditions.others, conditions.priority, conditions.rank
                )
            )
            if not len(entries) % _PIECE:
                yield
    return tuple(entries)


def _level_of(rules: list[Rule], present: Mapping[tuple[bytes, ...], Any]) -> Steps[_Level]:
    """`present`: automata that may be used again."""
    automata: dict[tuple[bytes, ...], Any] = {}
    tree = RouteTree()
    by_length: dict[int, list[bytes]] = {}  # of wildcards, whose names begin with a dot, and any host
    exact: list[bytes] = []
    numbers: dict[bytes, int] = {}
    by_rank: dict[tuple[bool, int], list[RouteEntry]] = {}
    regexes: list[RouteEntry] = []
    for place, entry in enumerate(chain.from_iterable(rules), 1):
        name = _host_name(entry.host)
        if name not in numbers:
            numbers[name] = -1
            (exact if name and not name.startswith(b".") else by_length.setdefault(len(name), [])).append(name)
        if entry.path is not None and entry.path.kind is PathKind.REGEX:
            regexes.append(entry)
        else:
            by_rank.setdefault((entry.is_written, entry.rank), []).append(entry)
        if not place % _PIECE:
            yield
    # The less specific hosts first, because each refers to the next one.
    for name in chain(*(by_length[length] for length in sorted(by_length)), exact):
        while tree.widen(1):
            yield
        numbers[name] = tree.add_host(name, _beyond(name, numbers))
        yield
    # Each entry is inserted before the present ones: the last in match order is the first.
    ranked = chain.from_iterable(reversed(by_rank[rank]) for rank in sorted(by_rank))
    for place, entry in enumerate(chain(regexes, ranked)):
        while tree.widen(0 if entry.path is None else len(entry.path.segments)):
            yield
        tree.add(numbers[_host_name(entry.host)], entry)
        if not place % _PIECE:
            yield
    for choices in tree.choices():
        sources = choices.sources
        if sources not in automata:
            there = present.get(sources)
            automata[sources] = there if there is not None else (yield from automaton_of(sources))
        choices.complete(automata[sources])
        yield
    while tree.seal():
        yield
    return _Level(rules, tree, automata)


def _beyond(name: bytes, numbers: Mapping[bytes, int]) -> int:
    """Return the number of the next less specific host: the longest wildcard that matches, or any host; -1: none."""
    dot = name.find(b".", 1)
    while dot > 0:
        number = numbers.get(name[dot:])
        if number is not None:
            return number
        dot = name.find(b".", dot + 1)
    return numbers.get(_ANY_HOST, -1) if name else -1


@lru_cache(maxsize=64)  # most routes have the same methods as others, and share the tuple
def _with_implied_methods(methods: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(_ANSWERED.get(method, (method,)) for method in methods)))


def _query_pattern(name: bytes, value: bytes) -> Any:
    """A search for `name=value` among the pairs of a query, with any escaping."""
    pair = _spellings(name) + (b"=" + _spellings(value) if value else b"=?")
    return re2.compile(b"(?:^|&)" + pair + b"(?:&|$)", re2_options())


def _spellings(text: bytes) -> bytes:
    return b"".join(rb"(?:\x%02x|%%(?i:%02x)%b)" % (code, code, rb"|\+" if code == 0x20 else b"") for code in text)


def _weakness(entry: RouteEntry, first: RouteEntry) -> str:
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


def _shape(path: PathPattern | None) -> object:
    """Return the shape of a pattern: of two patterns that match the same path, neither is more specific if their shapes
    are equal.
    """
    return None if path is None else (path.kind, precedence_of(path))


_WEAKER_PATHS: Final = {
    PathKind.PARAMETERS: "a parameter where the other has text",
    PathKind.PREFIX: "shorter prefix",
    PathKind.REGEX: "regular expression",
    None: "any path",
}
