"""Filter API: a filter is one file with one frozen struct, which is its settings, its reference documentation and its
factory.

`build` is pure: no I/O, no threads, no event loop. It runs once for each use of the filter, before the workers are
forked: parse and precompute there. The hooks that it returns live as long as the route; data of one request is kept on
the exchange. API is the version of the interface in this file.
"""

from asyncio import Future
from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import IntEnum
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Protocol, TypeVar, cast, dataclass_transform, get_args
from weakref import WeakSet, WeakValueDictionary

import msgspec

from fastgw.cache.shared.shared_store import SharedStore
from fastgw.config.base.settings_codec import digest
from fastgw.config.base.value_types import Duration, FieldName, FieldValue, Network, Percent, ReadableFile, Size
from fastgw.config.settings.gateway import NONE, CacheStore, Settings, SettingsMeta, State
from fastgw.config.settings.secrets import Secret, secret_in
from fastgw.consumers.index import Consumer, Roster
from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Exchange, Hooks, Outcome, Reply
from fastgw.exchange.body_stages import BodyHook, BodyStage, Bounded, StageFactory
from fastgw.exchange.hooks import BodyHead, RequestHook, ResponseHook, ResponseLines
from fastgw.exchange.sent_fields import SentFields
from fastgw.filters.api.credential_locations import NOWHERE, CredentialLocations
from fastgw.filters.api.reply_bodies import FileRange, Pieces
from fastgw.filters.api.warning_context import NOBODY, UNKNOWN, ClientIdentity, WarningContext
from fastgw.http.messages import ResponseHead
from fastgw.shm.node_limits import KeyCounts
from fastgw.shm.node_queue import WorkerBell
from fastgw.shm.quota_table import QuotaTable
from fastgw.shm.rate_limit_table import Cells
from fastgw.sync.cache_purges import PurgeOrder
from fastgw.sync.feeds import Feed, Feeds
from fastgw.sync.worker_token_cache import WorkerTokenCache
from fastgw.upstream.client.awaited_subrequest import Subresponse, subrequest
from fastgw.upstream.client.http_client import Fetcher
from fastgw.upstream.client.subrequest import Subrequest, SubrequestFailed, SubresponseListener, send_subrequest
from fastgw.upstream.upstream import Upstream

__all__ = [
    "API",
    "BodyHead",
    "BodyHook",
    "BodyStage",
    "Bounded",
    "Consumer",
    "Duration",
    "Env",
    "Exchange",
    "Fault",
    "Feed",
    "FeedSource",
    "Feeds",
    "Fetcher",
    "FieldName",
    "FieldValue",
    "FileRange",
    "Filter",
    "Hooks",
    "Network",
    "NodeSide",
    "Outcome",
    "Percent",
    "Phase",
    "Pieces",
    "ReadableFile",
    "Reply",
    "RequestHook",
    "ResponseHead",
    "ResponseHook",
    "ResponseLines",
    "Secret",
    "SentFields",
    "Services",
    "Settings",
    "Size",
    "StageFactory",
    "Subrequest",
    "SubrequestFailed",
    "Subresponse",
    "SubresponseListener",
    "WarningContext",
    "WorkerTokenCache",
    "send_subrequest",
    "subrequest",
]

T = TypeVar("T")

API: Final = 1


class Phase(IntEnum):
    """Phase of a filter in the running order: cheap rejections first, and authentication before authorization."""

    OBSERVE = 1
    ADMIT = 2
    LIMIT_CLIENT = 3
    INSPECT = 4
    # the route is found before this phase
    AUTHENTICATE = 5
    AUTHORIZE = 6
    LIMIT_CONSUMER = 7
    VALIDATE = 8
    CACHE = 9
    TRANSFORM = 10
    CREDENTIALS = 11

    @property
    def early(self) -> bool:
        """Whether it runs before routing, for every request: such filters are configured at the gateway and
        listeners.
        """
        return self <= Phase.INSPECT

    @property
    def always(self) -> bool:
        """Whether its response and finish steps run for every response, from the upstream or from the gateway."""
        return self <= Phase.ADMIT


STATE: Final = "\0state"
"""Name of the configuration's `state` among the files that a filter has read. No file has this name."""


CACHES: Final = "\0caches"
"""Name of the configuration's `caches` among the files that a filter has read."""


def digest_of_caches(caches: Mapping[str, CacheStore]) -> bytes:
    return digest(*sorted(caches.items()))


def digest_of_state(state: State | None) -> bytes:
    return digest(state)


class ArgumentVerifier(Protocol):
    """Filter that answers requests to a path of its own, such as the callback of a login, by arguments that it expects:
    these need no inspection.
    """

    @property
    def own_path(self) -> bytes: ...

    def expects(self, name: bytes, value: bytes) -> bool:
        """Whether a parameter of the query there, decoded, has the one value that it accepts."""


class Env:
    """Environment of `build`: the position of a filter, and access to files.

    Files that are read count as settings: when they change, the filter is built again. `instance`: name of the filter
    in the configuration. `route`: None for an early filter, which serves all routes of its listener, and for one that
    serves sub-requests to an upstream. `level`: level at which it is configured ("gateway", "listener public",
    "upstream users", "filter set api", "route"): uses with the same level and name are the same use, except at "route",
    where each route has its own.
    """

    __slots__ = (
        "_caches",
        "_files",
        "_settings",
        "_state",
        "_stock",
        "instance",
        "keeps",
        "level",
        "namespace",
        "reads",
        "roster",
        "route",
        "verifies",
    )

    def __init__(
        self,
        instance: str,
        route: str | None,
        settings: "Filter",
        stock: "FilterResources",
        files: Mapping[str, bytes],
        level: str = "gateway",
        state: State | None = None,
        caches: Mapping[str, CacheStore] = NONE,
        verifies: bool = False,
        namespace: str = "",
    ) -> None:
        self.instance = instance
        self.route = route
        self.level = level
        self.namespace = namespace
        """Namespace of the policy that the filter belongs to; "" = it is the operator's."""
        self.roster = stock.roster.of_namespace(namespace)
        """The consumers that the filter knows."""
        self.reads: dict[str, bytes] = {}
        """The files that were read, with the digest of each."""
        self.keeps: list[SharedRef] = []
        """References to shared objects, which live as long as they are referenced."""
        self.verifies = verifies
        """Whether `build` may wait: the configuration is checked, and nothing is served by this process."""
        self._settings = settings
        self._stock = stock
        self._files = files
        self._state = state
        self._caches = caches

    def read(self, path: str) -> bytes:
        """Return the contents of a file named in the settings. Raises `OSError`."""
        content = self._files.get(path)
        if content is None:  # not read with the configuration, because nothing is served yet
            content = Path(path).read_bytes()
        self.reads[path] = _digest_of(content)
        return content

    @property
    def state(self) -> State | None:
        """Return the configured shared state of nodes."""
        self.reads[STATE] = digest_of_state(self._state)
        return self._state

    def follow_caches(self) -> Mapping[str, CacheStore]:
        """Return the configured cache stores. The filter is built and started again when they change: its handles are
        others then.
        """
        self.reads[CACHES] = digest_of_caches(self._caches)
        return self._caches

    def secret(self, secret: Secret) -> str:
        """Return the value of a secret in the settings. Raises `SecretError`."""
        return secret_in(secret.file, self.read(secret.file)) if secret.file else secret.value()

    @property
    def policy(self) -> bytes:
        """Digest of the settings, the namespace and all files that were read so far, which identifies a policy."""
        reads = tuple(sorted(self.reads.items()))
        return digest(type(self._settings).__qualname__, self._settings, self.namespace, reads)

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the object that all filters with an equal key share in this process, also after a reload.

        A filter that is used by 10,000 routes is built 10,000 times. Begin the key with a unique name. That of an
        object that knows consumers contains `namespace` or `policy`.
        """
        kept = self._stock.shared(key, make)
        self.keeps.append(kept)
        return cast(T, kept.value)

    @property
    def verifiers(self) -> "WeakSet[ArgumentVerifier]":
        """All filters that verify arguments of their own paths, to add one to, and to ask."""
        return self.shared("argument verifiers", WeakSet)

    def inner(self, name: str, settings: "Filter") -> "Env":
        """Return the environment of a filter within this one. Files that the inner filter reads are recorded for this
        one too.
        """
        instance = f"{self.instance}.{name}"
        env = Env(
            instance,
            self.route,
            settings,
            self._stock,
            self._files,
            self.level,
            self._state,
            self._caches,
            self.verifies,
            self.namespace,
        )
        env.reads, env.keeps = self.reads, self.keeps
        return env


@lru_cache(maxsize=4)
def _digest_of(content: bytes) -> bytes:
    """Return the digest of a file's content.

    PERF: 10,000 filters read the same file of 1 MB in 3 ms instead of 10 s: the hash that finds it here is a part of
    the object (CPython 3.11).
    """
    return sha256(content).digest()


class SharedRef:
    """Reference to a shared object."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Any) -> None:
        self.value = value


class FilterResources:
    """Resources that the filters of a process share. They are kept over reloads."""

    def __init__(self) -> None:
        self.roster = Roster()
        self._shared: WeakValueDictionary[Hashable, SharedRef] = WeakValueDictionary()

    def shared(self, key: Hashable, make: Callable[[], Any]) -> SharedRef:
        kept = self._shared.get(key)
        if kept is None:
            kept = self._shared[key] = SharedRef(make())
        return kept


class Services(NamedTuple):
    """Services of a worker, for filters with live resources."""

    worker_loop: WorkerLoop
    fetcher: Fetcher
    """HTTP client for the gateway's own requests."""
    feeds: Feeds
    """Feeds, which are fetched once per node, by key of their `FeedSource`."""
    cells: Cells
    """The node's rate limits by key."""
    in_flight: KeyCounts
    """The node's requests in flight by key."""
    run_key: bytes = b""
    """Secret of this run of the gateway, kept over reloads and upgrades; b"": there is none."""
    workers: Callable[[], int] = lambda: 1
    """Current number of workers of the node."""
    upstreams: Callable[[str], Upstream | None] = lambda name: None
    """Returns the upstream with this name in the current configuration."""
    quotas: QuotaTable | None = None
    """The node's quota counts. None: there is no node."""
    control_is_away: Callable[[], bool] = lambda: False
    """Whether the control process, which runs the sources, has been unreachable for some time: a worker that cannot
    wait then fetches for itself.
    """
    generation: Callable[[], int] = lambda: 0
    """Returns the generation of the active configuration."""
    feed_others: Callable[[str, bytes], None] = lambda key, value: None
    """Publish to all workers a value that this worker has fetched itself, in place of the source with this key."""
    caches: Callable[[str], SharedStore | None] = lambda name: None
    """Returns this worker's handle of the cache store with this name. None: there is no such store."""
    announce_purge: Callable[[PurgeOrder], None] = lambda order: None
    """Tells the other nodes about a purge of this worker, which holds for all workers of this node already."""
    worker_bell: WorkerBell | None = None
    """Wakes other workers that wait for a connection, or have idle ones. None: there are no others."""
    slot: int = 0
    """Number of this worker among those of the node, from 0."""
    count_validation: Callable[[str, str], None] = lambda route, message: None
    """Count a message, `request` or `response`, of a route that does not conform to its schema and passes."""
    count_cache_miss: Callable[[str, str], None] = lambda route, reason: None
    """Count a response that the cache of a route has fetched: `stored`, or why it was not."""
    log_message: Callable[[Exchange, dict[str, object], int, int], None] = lambda exchange, field, sent, answered: None
    """Log a message of a WebSocket: its `websocket` field, and the bytes of the client and of the upstream."""
    wait_for: Callable[[Future[None]], None] = lambda future: None
    """Delay the use of the tables that start now until this future is done. The filter limits the time."""


class NodeSide(Protocol):
    """Services of the control process for a `FeedSource`."""

    @property
    def fetcher(self) -> Fetcher: ...

    @property
    def feeds(self) -> Feeds:
        """Last values of all sources, kept over restarts of the process. Reading a source's value starts the source."""

    @property
    def generation(self) -> int:
        """Generation of the active configuration."""

    @property
    def used_by(self) -> str:
        """Routes, or other places, of the filters that need the source: for the log."""

    def publish(self, value: bytes) -> None:
        """Publish a value to all workers. Publishing the same value again, or b"", ends the wait of workers without a
        newer value.
        """

    def attempted(self, why: str = "") -> None:
        """Report the result of the last attempt, for metrics and `fastgw status`: "" = success, else the reason,
        without secrets.

        If a source never calls this, everything that it publishes counts as a success.
        """

    async def asked(self, timeout: float) -> bool:
        """Wait until a worker requests a newer value, at most this many seconds; returns whether one has."""

    def is_outdated(self, value: bytes) -> bool:
        """Whether a worker has requested a newer value than this one, or any value, since the last `publish`."""

    def read(self, path: str) -> bytes:
        """Return the active contents of a file named in the settings."""

    async def look_at_files(self) -> None:
        """Check now whether files of the configuration have changed, and wait until their contents are active or
        rejected."""


class FeedSource(msgspec.Struct, frozen=True, kw_only=True):
    """Source of a feed: fetched once per node, in the control process, for the filters of all workers.

    Sources with equal keys are the same source. A source is data: it is passed between processes.
    """

    lazy: ClassVar[bool] = False
    """Whether the source runs only on demand. Its `run` may return; the next request for a value starts it again."""

    key: str

    @property
    def name(self) -> str:
        """Name of the source in metrics and `fastgw status`: the URL without its query, which may contain a secret."""
        return self.key.partition("?")[0]

    async def run(self, node: NodeSide) -> None:
        """Fetch and publish, again and again, until cancelled. An exception is logged, and `run` is started again
        later."""
        raise NotImplementedError


class FilterMeta(SettingsMeta):
    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        name: str = "",
        phase: Phase | None = None,
        order: int = 0,
        api: int = 1,
        **options: Any,
    ) -> Any:
        made = super().__new__(mcls, class_name, bases, namespace, **options)
        if phase is not None:
            made.type_name, made.phase, made.order, made.api = name, phase, order, api
        return made


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Filter(Settings, metaclass=FilterMeta, frozen=True):
    """Settings of a filter; `class X(Filter, name=…, phase=…)` sets its name and its phase."""

    type_name: ClassVar[str]
    phase: ClassVar[Phase]
    order: ClassVar[int]
    """Order among the filters of one phase: lower runs earlier."""
    api: ClassVar[int]
    """Version of this interface that the filter is written for."""

    @property
    def phase_of_listener(self) -> Phase:
        """Phase on the gateway or a listener: `phase`, or an early one if the filter does not need the route."""
        return self.phase

    for_its_upstream: ClassVar[bool] = False
    """Whether additions to requests are for the upstream of the route only, and are sent to no other: credentials. On
    an upstream, the gateway or a listener the filter runs for sub-requests, too."""

    stands_anywhere: ClassVar[bool] = False
    """Whether `build` uses nothing of `env` except whether there is a `route`, and its hooks hold no state: equal uses,
    as thousands of services have them, share one instance. Such settings are hashable."""

    fails_alone: ClassVar[bool] = False
    """Whether calls of its route are answered 500 if the files of a filter for its upstream (`for_its_upstream`) are
    unusable; otherwise the whole configuration is rejected."""

    by_route: ClassVar[bool] = False
    """Whether a route or upstream may replace the filter although its phase is early: it has no request step."""

    by_default: ClassVar[bool] = False
    """Whether the gateway has the filter if the configuration does not mention it: see `config.levels.with_defaults`.
    """

    @property
    def unknown_in_shadow(self) -> str:
        """Effects that its decisions in shadow mode do not cover, for people, such as "messages"; empty: none."""
        return ""

    def build(self, env: Env) -> Hooks:
        """Return the hooks of one use of these settings. Raises `ValueError` if the settings are invalid there."""
        raise NotImplementedError

    def secret_names(self) -> Iterable[str]:
        """Return names of headers, query parameters and cookies with secrets of clients: their values are never
        shown.
        """
        return ()

    def credential_places(self) -> CredentialLocations:
        """Return the locations of the credentials that this filter checks: `auth` removes them if another filter has
        authenticated the client.
        """
        return NOWHERE

    def written_fields(self) -> Iterable[str]:
        """Return request headers that identify the client to upstreams, and that only this filter writes.

        The filter removes them if a client sends them; so does `auth` if another method has authenticated the client.
        """
        return ()

    def upstream_names(self) -> Iterable[tuple[str, str]]:
        """Return upstreams named in the settings, each after the name of its setting: they have to be configured."""
        return ()

    def store_names(self) -> Iterable[tuple[str, str]]:
        """Return cache stores named in the settings, each after the name of its setting; they are in `caches`."""
        return ()

    def feeds(self) -> Iterable[FeedSource]:
        """Return the sources to fetch once per node for these settings."""
        return ()

    def warnings(self, context: WarningContext) -> Iterable[str]:
        """Yield mistakes in a use of these settings with which the gateway can still run: for example that the filter
        can never take effect, or that it trusts an insecure network. One line each: `check` prints them with file and
        line, and they are logged when the configuration becomes active.

        It reads only files whose contents `context` has, and does no other I/O. If it raises, this is reported as a
        warning.
        """
        return ()

    def client_identity(self) -> ClientIdentity:
        """Return the identities that a built-in filter may give a client; filters of other packages may give any."""
        return UNKNOWN if self.phase is Phase.AUTHENTICATE else NOBODY


def secret_names(settings: Any) -> set[str]:
    """Return `Filter.secret_names` of a filter and of all filters within it."""
    names: set[str] = set(settings.secret_names()) if isinstance(settings, Filter) else set()
    inner: Iterable[Any] = ()
    if isinstance(settings, msgspec.Struct):
        inner = msgspec.structs.astuple(settings) if _has_filters_within(type(settings)) else ()
    elif isinstance(settings, tuple):
        inner = settings
    elif isinstance(settings, Mapping):
        inner = settings.values()
    for each in inner:
        if isinstance(each, msgspec.Struct | tuple | Mapping):
            names |= secret_names(each)
    return names


@cache
def _has_filters_within(type: type[msgspec.Struct]) -> bool:
    """Whether its values may contain a filter, according to its type annotations."""
    return any(map(_may_be_filter, (field.type for field in msgspec.structs.fields(type))))


def _may_be_filter(annotation: Any) -> bool:
    """Whether this type, or a type within it, may be a filter."""
    if annotation in (Any, object) or isinstance(annotation, TypeVar):
        return True
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return issubclass(annotation, Filter) or _has_filters_within(annotation)
    return any(map(_may_be_filter, get_args(annotation)))
