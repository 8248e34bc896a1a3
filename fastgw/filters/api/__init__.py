"""Filter API: a filter is one file with one frozen struct, which is its settings, its manual and its factory.

`build` is pure: no I/O, no thread, no loop. It runs once for each use of the filter, before the workers are forked:
parse and precompute there. The hooks it returns live as long as the route; what belongs to one request is kept on the
exchange. API is the version of what this file offers.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import IntEnum
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Protocol, TypeVar, cast, dataclass_transform, get_args
from weakref import WeakValueDictionary

import msgspec

from fastgw.config.base.settings_codec import digest
from fastgw.config.base.value_types import Duration, FieldName, FieldValue, Network, Percent, ReadableFile, Size
from fastgw.config.settings.gateway import Settings, SettingsMeta, State
from fastgw.config.settings.secrets import Secret, secret_in
from fastgw.consumers.index import Consumer, Roster
from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Exchange, Hooks, Looks, Outcome, Reply
from fastgw.exchange.body_stages import BodyStage, Bounded, StageFactory
from fastgw.filters.api.credential_locations import NOWHERE, CredentialLocations
from fastgw.filters.api.reply_bodies import FileRange, Pieces
from fastgw.filters.api.warning_context import NOBODY, UNKNOWN, ClientIdentity, WarningContext
from fastgw.http.messages import ResponseHead
from fastgw.shm.node_limits import KeyCounts
from fastgw.shm.quota_table import QuotaTable
from fastgw.shm.rate_limit_table import Cells
from fastgw.sync.feeds import Feed, Feeds
from fastgw.upstream.client.http_client import Fetcher
from fastgw.upstream.client.subrequest import (
    Subrequest,
    SubrequestFailed,
    Subresponse,
    SubresponseListener,
    send_subrequest,
    subrequest,
)
from fastgw.upstream.upstream import Upstream

__all__ = [
    "API",
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
    "Looks",
    "Network",
    "NodeSide",
    "Outcome",
    "Percent",
    "Phase",
    "Pieces",
    "ReadableFile",
    "Reply",
    "ResponseHead",
    "Secret",
    "Services",
    "Settings",
    "Size",
    "StageFactory",
    "Subrequest",
    "SubrequestFailed",
    "Subresponse",
    "SubresponseListener",
    "WarningContext",
    "send_subrequest",
    "subrequest",
]

T = TypeVar("T")

API: Final = 1


class Phase(IntEnum):
    """Phase of a filter in the running order. Cheap refusals first; who it is before what they may do."""

    OBSERVE = 1
    ADMIT = 2
    LIMIT_CLIENT = 3
    INSPECT = 4
    # a route is found here
    AUTHENTICATE = 5
    AUTHORIZE = 6
    LIMIT_CONSUMER = 7
    VALIDATE = 8
    CACHE = 9
    TRANSFORM = 10
    CREDENTIALS = 11

    @property
    def early(self) -> bool:
        """Whether it runs before a route is found, for every request: such filters belong to gateway and listeners."""
        return self <= Phase.INSPECT

    @property
    def always(self) -> bool:
        """Whether its response and finish steps run for every answer, whoever made it."""
        return self <= Phase.ADMIT


STATE: Final = "\0state"
"""Name among the files that a filter has read, where no file is called so, for `state` of the configuration."""


def digest_of_state(state: State | None) -> bytes:
    return digest(state)


class Env:
    """Environment of `build`: the place of a filter, and access to files.

    What is read counts as settings: when it changes, the filter is built anew. `instance`: its name in the
    configuration. `route`: None for an early filter, which serves all routes of its listener, and for one that serves
    sub-requests to an upstream. `level`: where its use is
    configured ("gateway", "listener public", "upstream users", "filter set api", "route"): uses of one level and name
    are one, but for those of "route", which are of one route each.
    """

    __slots__ = ("_files", "_settings", "_state", "_stock", "instance", "keeps", "level", "reads", "roster", "route")

    def __init__(
        self,
        instance: str,
        route: str | None,
        settings: "Filter",
        stock: "FilterResources",
        files: Mapping[str, bytes],
        level: str = "gateway",
        state: State | None = None,
    ) -> None:
        self.instance = instance
        self.route = route
        self.level = level
        self.roster = stock.roster
        self.reads: dict[str, bytes] = {}
        """The files that were read, and the digest of each."""
        self.keeps: list[SharedRef] = []
        """References to shared objects, which live as long as somebody keeps them."""
        self._settings = settings
        self._stock = stock
        self._files = files
        self._state = state

    def read(self, path: str) -> bytes:
        """The contents of a file that the settings name. Raises `OSError`."""
        content = self._files.get(path)
        if content is None:  # it was not captured, for nothing is served yet
            content = Path(path).read_bytes()
        self.reads[path] = sha256(content).digest()
        return content

    @property
    def state(self) -> State | None:
        """Return the configured shared state of nodes."""
        self.reads[STATE] = digest_of_state(self._state)
        return self._state

    def secret(self, secret: Secret) -> str:
        """The value of a secret in the settings. Raises `SecretError`."""
        return secret_in(secret.file, self.read(secret.file)) if secret.file else secret.value()

    @property
    def policy(self) -> bytes:
        """Tells policies apart: a digest of the settings, and of all files that were read so far."""
        return digest(type(self._settings).__qualname__, self._settings, tuple(sorted(self.reads.items())))

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the object that all filters with an equal key share, in this process, also after a reload.

        A filter that stands on 10,000 routes is built 10,000 times. Begin the key with a name of your own.
        """
        kept = self._stock.shared(key, make)
        self.keeps.append(kept)
        return cast(T, kept.value)

    def inner(self, name: str, settings: "Filter") -> "Env":
        """Return the environment of a filter within this one. What is read there counts here."""
        env = Env(f"{self.instance}.{name}", self.route, settings, self._stock, self._files, self.level, self._state)
        env.reads, env.keeps = self.reads, self.keeps
        return env


class SharedRef:
    """Reference to a shared object."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Any) -> None:
        self.value = value


class FilterResources:
    """Resources that the filters of a process share. Lasts from one generation to the next."""

    def __init__(self) -> None:
        self.roster = Roster()
        self._shared: WeakValueDictionary[Hashable, SharedRef] = WeakValueDictionary()

    def shared(self, key: Hashable, make: Callable[[], Any]) -> SharedRef:
        kept = self._shared.get(key)
        if kept is None:
            kept = self._shared[key] = SharedRef(make())
        return kept


class Services(NamedTuple):
    """Services of a worker for a filter that holds something live."""

    worker_loop: WorkerLoop
    fetcher: Fetcher
    """HTTP client for requests of the gateway's own."""
    feeds: Feeds
    """Feeds, which are fetched once per node, by the key of their `FeedSource`."""
    cells: Cells
    """The node's limits by key."""
    in_flight: KeyCounts
    """The node's requests that are under way, by key."""
    run_key: bytes = b""
    """A secret of this run of the gateway, kept over reloads and upgrades; b"": there is none."""
    workers: Callable[[], int] = lambda: 1
    """How many workers the node has now."""
    upstreams: Callable[[str], Upstream | None] = lambda name: None
    """An upstream as it is configured now, by its name."""
    quotas: QuotaTable | None = None
    """The node's counts for long periods. None: there is no node."""
    control_is_away: Callable[[], bool] = lambda: False
    """Whether the process of the sources has been away for a while: whoever cannot wait asks for itself."""
    generation: Callable[[], int] = lambda: 0
    """Returns the generation of the configuration that is served now."""
    feed_others: Callable[[str, bytes], None] = lambda key, value: None
    """Give all workers what one has asked for by itself, as the source of this key would have."""


class NodeSide(Protocol):
    """Services of the control process for a `FeedSource`."""

    @property
    def fetcher(self) -> Fetcher: ...

    @property
    def feeds(self) -> Feeds:
        """Last values of all sources, also of a process before this one. Asking a source there starts it."""

    @property
    def generation(self) -> int:
        """Generation of the configuration that is in force now."""

    @property
    def used_by(self) -> str:
        """Routes, or other places, of the filters that need the source: for the log."""

    def publish(self, value: bytes) -> None:
        """Give this to all workers. The same value once more, or b"", tells those who wait that nothing is newer."""

    def attempted(self, why: str = "") -> None:
        """Say how the last attempt went, for metrics and `fastgw status`: "" well, else why not, without secrets.

        From a source that never says so, everything that it publishes is taken for a good answer.
        """

    async def asked(self, timeout: float) -> bool:
        """Wait for a worker to ask for something newer, at most so many seconds; whether one has."""

    def is_outdated(self, value: bytes) -> bool:
        """Whether somebody has asked for something newer than this value, or whatever it was, since the last
        `publish`."""

    def read(self, path: str) -> bytes:
        """The contents of a file that the settings name, as it is in force."""

    async def look_at_files(self) -> None:
        """Look now whether files that the configuration names have changed, and wait until what they say is in force
        or refused."""


class FeedSource(msgspec.Struct, frozen=True, kw_only=True):
    """Source of a feed: fetched once per node, in the control process, for the filters of all workers.

    Sources with an equal key are one. A source is data: it passes between processes.
    """

    lazy: ClassVar[bool] = False
    """Whether it need not run before somebody asks. Its `run` may come to an end: who asks then begins it anew."""

    key: str

    @property
    def name(self) -> str:
        """Name of the source in metrics and `fastgw status`: the URL without its query, which may hold a secret."""
        return self.key.partition("?")[0]

    async def run(self, node: NodeSide) -> None:
        """Fetch and publish, again and again, until cancelled. What is raised is logged, and it begins anew later."""
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
    """The settings of a filter; `class X(Filter, name=…, phase=…)` says what it is called and when it runs."""

    type_name: ClassVar[str]
    phase: ClassVar[Phase]
    order: ClassVar[int]
    """Order among the filters of one phase: lower runs earlier."""
    api: ClassVar[int]
    """The version of this file that it is written for."""

    @property
    def phase_of_listener(self) -> Phase:
        """When it runs where it stands on the gateway or a listener: `phase`, or an early one if it can do without
        knowing the route, which is then found after it."""
        return self.phase

    for_its_upstream: ClassVar[bool] = False
    """Whether what it adds to requests is for the upstream of the route alone, and no other gets it: credentials. On an
    upstream, the gateway or a listener it runs for sub-requests, too."""

    stands_anywhere: ClassVar[bool] = False
    """Whether `build` asks nothing of its `env` but whether there is a `route`, and what it makes holds nothing: equal
    uses, as thousands of services have them, have it in common. Such settings are hashable."""

    fails_alone: ClassVar[bool] = False
    """Whether calls of a route where it stands are answered 500 when the files of what is for its upstream
    (`for_its_upstream`) cannot be used, where else the whole configuration is refused."""

    by_route: ClassVar[bool] = False
    """Whether a route or upstream may replace it although its phase is early: it has no request step."""

    by_default: ClassVar[bool] = False
    """Whether the gateway has it where its configuration says nothing of it: see `config.levels.with_defaults`."""

    def build(self, env: Env) -> Hooks:
        """The hooks of one use of these settings. Raises `ValueError` when they make no sense there."""
        raise NotImplementedError

    def secret_names(self) -> Iterable[str]:
        """Fields, query parameters and cookies in which clients send a secret: nobody is shown what is in them."""
        return ()

    def credential_places(self) -> CredentialLocations:
        """Return the places of the credentials that this filter checks: `auth` hides them where another filter has
        authenticated the client.
        """
        return NOWHERE

    def written_fields(self) -> Iterable[str]:
        """Request fields that upstreams believe, because only this filter writes them.

        It removes what clients send there; and so does `auth`, where another way than this filter lets them in.
        """
        return ()

    def upstream_names(self) -> Iterable[tuple[str, str]]:
        """Upstreams that the settings name, each behind the setting's name: they have to be configured."""
        return ()

    def feeds(self) -> Iterable[FeedSource]:
        """Return the sources to fetch once per node for these settings."""
        return ()

    def warnings(self, context: WarningContext) -> Iterable[str]:
        """Yield what is certainly wrong with these settings where they are used, though a gateway can run with it: that
        they can never take effect, or that they trust a network in between. A line each, for people: `check` prints
        them behind file and line, and the log has them when the configuration goes live.

        Only files' contents that `context` has may be asked for: no I/O. What it raises is told like a warning.
        """
        return ()

    def client_identity(self) -> ClientIdentity:
        """Return the identities that a filter of fastgw may give a client; of others anything is possible."""
        return UNKNOWN if self.phase is Phase.AUTHENTICATE else NOBODY


def secret_names(settings: Any) -> set[str]:
    """`Filter.secret_names` of a filter and of those within it."""
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
    """Whether its values may have a filter somewhere, as far as its annotations tell."""
    return any(map(_may_be_filter, (field.type for field in msgspec.structs.fields(type))))


def _may_be_filter(annotation: Any) -> bool:
    """Whether this, or something in it, may be a filter."""
    if annotation in (Any, object) or isinstance(annotation, TypeVar):
        return True
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return issubclass(annotation, Filter) or _has_filters_within(annotation)
    return any(map(_may_be_filter, get_args(annotation)))
