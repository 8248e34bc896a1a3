"""Context of `Filter.warnings`: the configuration around one use of a filter.

Rule: warn only about definite mistakes. A third-party filter may authenticate clients, and consumer files change while
the gateway runs.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar, final

import msgspec

from fastgw.config.base.problems import format_value, nearest
from fastgw.config.decoding.filter_levels import running, running_before_routing
from fastgw.config.settings.gateway import Config, Consumer, FilterUse, Route

F = TypeVar("F")
T = TypeVar("T")

MOST: Final = 20
"""Maximum number of warnings of one use of a filter."""
LONGEST: Final = 500
"""Maximum number of characters of a warning, or of an exception of a filter."""


BODILESS: Final = frozenset(("GET", "HEAD"))
"""Methods whose requests have no body as a rule."""


class ClientIdentity(NamedTuple):
    """Identities that a filter may give a client."""

    known: bool
    """Whether the filter may authenticate the client."""
    foreign_groups: bool = False
    """Whether clients may get groups or claims from the filter that `consumers` do not have."""
    foreign_names: bool = False
    """Whether the filter names only clients that are not among `consumers`."""


NOBODY: Final = ClientIdentity(known=False)
CONSUMERS: Final = ClientIdentity(known=True)
UNKNOWN: Final = ClientIdentity(known=True, foreign_groups=True)
ANYBODY: Final = ClientIdentity(known=True, foreign_groups=True, foreign_names=True)


def hint_at(name: str, known: Iterable[str]) -> str:
    """Return the end of a warning about an unknown name: the known one that is probably meant; "": there is none."""
    meant = nearest(name, known)
    return "" if meant is None else f"; did you mean {format_value(meant)}?"


def _gives_other_names(settings: Any) -> bool:
    """Whether a filter, or one that it contains, may name clients that are not among `consumers`."""
    identities = map(identity_by, _with_inner(settings))
    return any(identity.foreign_names or identity.foreign_groups for identity in identities)


def _with_inner(settings: Any) -> Iterator[Any]:
    """Yield the settings of a filter, and of those inside `auth` and `all_of`."""
    yield settings
    inner = [*getattr(settings, "any_of", ()), *getattr(settings, "methods", ())] if is_built_in(settings) else []
    for each in inner:
        if isinstance(each, FilterUse):
            yield from _with_inner(each.settings)


def is_built_in(settings: Any) -> bool:
    """Whether a filter is one of fastgw's own."""
    return bool(type(settings).__module__.startswith("fastgw."))


def identity_by(settings: Any) -> ClientIdentity:
    """Return the identities that a filter may give a client."""
    identity: ClientIdentity = settings.client_identity() if is_built_in(settings) else UNKNOWN
    return identity


class FilterPosition(NamedTuple):
    """Position of a filter among those that run for the requests of one listener and route."""

    listener: str
    route: str
    client_certificates: bool
    """Whether the listener asks clients for certificates."""
    running: Sequence[FilterUse]
    """All filters that run for these requests, in running order."""
    place: int

    @property
    def before(self) -> Sequence[FilterUse]:
        return self.running[: self.place]

    @property
    def behind(self) -> Sequence[FilterUse]:
        return self.running[self.place + 1 :]


@final
class Surroundings:
    """Configuration around the filters that may warn. `warned`: the uses of these filters."""

    def __init__(self, config: Config, warned: Iterable[FilterUse]) -> None:
        self.config = config
        self._warned = {id(use) for use in warned}
        self._preceding: dict[int, Collection[FilterUse]] = {}
        self._groups: dict[str, frozenset[str]] = {}
        self._shared: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<Surroundings of {len(self._warned)} filters>"

    @cached_property
    def routes(self) -> Mapping[str, Route]:
        """Return all routes by name."""
        return {route.name: route for route in self.config.routes}

    @cached_property
    def route_names(self) -> frozenset[str]:
        return frozenset(self.routes)

    @cached_property
    def positions(self) -> Mapping[int, Sequence[FilterPosition]]:
        """Return the positions of each use in `warned`, by its identity."""
        found: defaultdict[int, list[FilterPosition]] = defaultdict(list)
        asking = {name for name in self.config.listeners if self._asks_for_certificates(name)}
        early = {name: running_before_routing(self.config, name) for name in self.config.listeners}
        for route in self.config.routes:
            for listener in route.listeners or self.config.listeners:
                uses = running(self.config, listener, route, early[listener])
                for place, use in enumerate(uses):
                    if id(use) in self._warned:
                        found[id(use)].append(FilterPosition(listener, route.name, listener in asking, uses, place))
        return found

    def _asks_for_certificates(self, listener: str) -> bool:
        tls = self.config.listeners[listener].tls
        return tls is not None and tls.client_auth is not None

    def preceding(self, use: FilterUse) -> Collection[FilterUse]:
        """Return the filters that run before this one for any request, each once."""
        if id(use) not in self._preceding:
            positions = self.positions.get(id(use), ())
            before = {id(each): each for at in positions for each in at.before}
            self._preceding[id(use)] = before.values()
        return self._preceding[id(use)]

    @cached_property
    def _consumers(self) -> Mapping[str, Sequence[Consumer]]:
        """Return the consumers by namespace; "": those that all filters know."""
        found: defaultdict[str, list[Consumer]] = defaultdict(list)
        for consumer in self.config.consumers:
            found[consumer.namespace or ""].append(consumer)
        return found

    def consumers_of(self, namespace: str) -> Sequence[Consumer]:
        """Return the consumers that filters of a namespace know; "": the operator's filters."""
        of_all = self._consumers.get("", ())
        return [*self._consumers.get(namespace, ()), *of_all] if namespace else of_all

    def uses_of(self, kind: type[F]) -> Iterator[tuple[F, Route]]:
        """Yield the filters of a type that may warn, and those inside of others, each with the routes they run for."""
        for positions in self.positions.values():
            use = positions[0].running[positions[0].place]
            found = [each for each in _with_inner(use.settings) if isinstance(each, kind)]
            for name in dict.fromkeys(position.route for position in positions) if found else ():
                yield from ((each, self.routes[name]) for each in found)

    def shared(self, key: Any, make: Callable[[], T]) -> T:
        """Return what `make` returns: it is called once for each key."""
        if key not in self._shared:
            self._shared[key] = make()
        made: T = self._shared[key]
        return made

    def groups_of(self, namespace: str) -> frozenset[str]:
        """Return the groups of these consumers."""
        if namespace not in self._groups:
            consumers = self.consumers_of(namespace)
            self._groups[namespace] = frozenset(group for consumer in consumers for group in consumer.groups)
        return self._groups[namespace]


@final
class WarningContext(msgspec.Struct, frozen=True, kw_only=True):
    """Configuration around one use of a filter, for its `warnings`."""

    instance: str
    """Name of the filter in the configuration."""
    level: str
    """Level at which it is configured: "gateway", "listener public", "upstream users", "filter set api" or "route"."""
    route: str | None = None
    """The route that it is configured at; None: another level."""
    generated: bool = False
    """Whether `egress` has generated this use. There may be thousands of them, and `egress` has its own warnings."""
    alternative: bool = False
    """Whether it is one of several methods of `auth`: clients may authenticate with another one."""
    _surroundings: Surroundings
    _use: FilterUse

    @property
    def routes(self) -> frozenset[str]:
        """Names of all routes."""
        return self._surroundings.route_names

    @property
    def reached_routes(self) -> Sequence[Route]:
        """Routes whose requests it runs for. None: it never runs."""
        names = dict.fromkeys(position.route for position in self.positions)
        return [self._surroundings.routes[name] for name in names]

    @property
    def consumers(self) -> Sequence[Consumer]:
        """The consumers that the filter knows, without those in `consumer_files`."""
        return self._surroundings.consumers_of(self._use.namespace)

    @property
    def consumer_files(self) -> bool:
        """Whether there may be other consumers, in files that change while the gateway runs."""
        return bool(self._surroundings.config.consumer_files)

    @property
    def filter_timeout(self) -> float:
        """Timeout of all filters together in seconds (`timeouts.filters`)."""
        return self._surroundings.config.timeouts.filters

    @property
    def workers(self) -> int | None:
        """Number of workers; None: it depends on the machine."""
        workers = self._surroundings.config.workers
        return workers if isinstance(workers, int) else None

    @property
    def has_state(self) -> bool:
        """Whether nodes share state in Redis."""
        return self._surroundings.config.state is not None

    @property
    def quotas_file(self) -> str | None:
        """The file in which quota counts are kept over restarts (`quotas.file`)."""
        return self._surroundings.config.quotas.file

    @property
    def positions(self) -> Sequence[FilterPosition]:
        """Positions of the filter, one for each listener and route whose requests it runs for. None: it never runs."""
        return self._surroundings.positions.get(id(self._use), ())

    @property
    def preceding(self) -> Collection[FilterUse]:
        """Return the filters that run before it at any position, each once."""
        return self._surroundings.preceding(self._use)

    def uses_of(self, kind: type[F]) -> Iterator[tuple[F, Route]]:
        """Yield all filters of a type that has warnings, with the routes that they run for."""
        return self._surroundings.uses_of(kind)

    def shared(self, key: Any, make: Callable[[], T]) -> T:
        """Return what `make` returns, which is called once for all filters of the configuration with this key."""
        return self._surroundings.shared(key, make)

    @property
    def protocols(self) -> frozenset[str]:
        """`protocol` of the upstreams that the requests it runs for are sent to; for URLs `http1`."""
        return frozenset(protocol for route in self.reached_routes for protocol in self._protocols_of(route))

    @property
    def methods(self) -> frozenset[str]:
        """Methods of the requests that it runs for. None: any method."""
        held = [route.methods for route in self.reached_routes]
        return frozenset(method for methods in held for method in methods) if all(held) else frozenset()

    @property
    def without_bodies(self) -> str:
        """Methods of the requests that it runs for, for people, if all of them are requests without a body; else ""."""
        return " and ".join(sorted(self.methods)) if self.methods <= BODILESS else ""

    @property
    def only_own_answers(self) -> bool:
        """Whether the gateway answers all requests that it runs for by itself: by `respond`, `redirect` or `files`."""
        held = self.reached_routes
        return bool(held) and all(any((route.respond, route.redirect, route.files)) for route in held)

    @property
    def websockets(self) -> bool:
        """Whether any request that it runs for may begin a WebSocket connection."""
        return any(self._takes_websockets(route) for route in self.reached_routes)

    def _takes_websockets(self, route: Route) -> bool:
        if route.methods and "GET" not in route.methods:
            return False
        if route.websocket_api is not None:
            return True
        speaks_http1 = not self._protocols_of(route) <= {"http2", "grpc"}
        return "websocket" in map(str.lower, route.upgrade) and (speaks_http1 or route.fallback is not None)

    def _protocols_of(self, route: Route) -> frozenset[str]:
        """Return `protocol` of the upstreams of a route; for URLs `http1`."""
        upstreams = self._surroundings.config.upstreams
        return frozenset(upstreams[each].protocol if isinstance(each, str) else "http1" for each in route.destinations)

    @property
    def client_certificates(self) -> bool:
        """Whether any listener that it runs for asks clients for certificates."""
        return any(position.client_certificates for position in self.positions)

    @property
    def identified(self) -> bool:
        """Whether a filter before it may authenticate the client."""
        return any(identity_by(use.settings).known for use in self.preceding)

    @property
    def knows_all_groups(self) -> bool:
        """Whether clients here have only the groups of `consumers`."""
        return not self.consumer_files and not any(identity_by(use.settings).foreign_groups for use in self.preceding)

    @property
    def known_names(self) -> frozenset[str] | None:
        """All names of consumers that clients here can have; None: a filter before it, or a file, may give others."""
        if self.consumer_files or not self.identified:
            return None
        names = {consumer.name for consumer in self.consumers}
        for use in self.preceding:
            if _gives_other_names(use.settings):
                return None
            anonymous: str | None = getattr(use.settings, "anonymous", None)
            if anonymous is not None:
                names.add(anonymous)
        return frozenset(names)

    @property
    def groups(self) -> frozenset[str]:
        """The groups of `consumers`."""
        return self._surroundings.groups_of(self._use.namespace)

    def empty_groups(self, groups: Iterable[str]) -> Iterator[str]:
        """Yield a warning for each of these groups that no client here can have."""
        if self.identified and self.knows_all_groups:
            for group in groups:
                if group not in self.groups:
                    yield f"no consumer is in the group {format_value(group)}{hint_at(group, self.groups)}"

    def no_consumer_with(self, credential: str) -> Iterator[str]:
        """Yield a warning if no client can authenticate, because no consumer has this setting, such as `key_auth`."""
        if not (self.alternative or self.consumer_files or any(getattr(each, credential) for each in self.consumers)):
            yield f"no consumer has a `{credential}`: every request is refused"


def warnings_by(use: FilterUse, context: WarningContext) -> Iterator[str]:
    """Yield the warnings of one use, at most `MOST`; an exception in it is reported as a warning too."""
    if not callable(getattr(type(use.settings), "warnings", None)):
        return  # a third-party filter has a setting of this name
    try:
        for warning in islice(use.settings.warnings(context), MOST):
            if not isinstance(warning, str):
                raise TypeError(f"{type(warning).__name__} in place of a text")
            yield _line(warning)
    except Exception as error:  # the edge of a filter, which may be third-party code
        yield f"its warnings cannot be told, as the filter `{use.type}` has a defect: {_described(error)}"


def _described(error: Exception) -> str:
    try:
        return _line(f"{type(error).__name__}: {error}")
    except Exception:  # not even its text can be read
        return type(error).__name__


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
