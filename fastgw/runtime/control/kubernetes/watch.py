"""Kubernetes watch of the control process: it lists objects, then watches them, and publishes changes.

The known objects are one file of the configuration (`kubernetes_objects`), and reach the workers like a changed file.
Rule 1: a failed list changes nothing; the known objects stay. Rule 2: a list or watch that ends is restarted from the
version that was reached, with an increasing delay if it ends early. Everything is listed again only if the API server
no longer has that version, refuses the watch repeatedly for another reason than its load (429) or the credentials
(401), or was unreachable for longer: its data may have been restored to an older state, and a watch from a future
version reports nothing. Rule 3: a 404 is a failure as well. A kind has no
objects because there is no such kind only if API discovery says so.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from math import inf
from typing import Final, Protocol

import msgspec

from fastgw.admin.node_interface import FeedInfo
from fastgw.config.kubernetes.cluster import ObjectKind
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import described, notice
from fastgw.runtime.control.kubernetes.api_client import (
    MOST_BYTES,
    UNREADABLE,
    CannotAsk,
    ClusterAccess,
    ClusterClient,
    RequestRefused,
    SharedAccess,
    TooLong,
    refusal,
)
from fastgw.runtime.control.kubernetes.api_discovery import lacks_kind
from fastgw.runtime.control.kubernetes.nesting import without_deep_values
from fastgw.runtime.control.kubernetes.object_store import APPLICATIONS, KINDS, SECRETS, Objects

MOST: Final = 24 * 1024 * 1024
"""Maximum total bytes of published objects."""
PAGE: Final = 200
"""Objects per page."""
WATCH_S: Final = (45, 75)
"""Duration of one watch. The next one continues where it ended, and shows that the API server is still reachable."""
GATHER_S: Final = 0.05
"""Seconds for which changes are collected after the first one."""
FETCH_S: Final = 0.5
"""Maximum seconds for which a change waits for a newly named Secret."""
FETCHES: Final = 8
"""Number of Secrets that are fetched concurrently."""
EVERY_S: Final = 0.2
"""Minimum interval between publications; longer if they take long."""
PAUSE_S: Final = 0.1
"""Approximate seconds before a restart; doubled after each further early end."""
LONGEST_PAUSE_S: Final = 5.0
SOON_S: Final = 1.0
"""Seconds within which the end of a watch counts as early, and after which one without events resolves a problem."""
UNLOGGED_TRIES: Final = 5
"""Number of times in a row that a watch may end soon before that is reported."""
MISSING_S: Final = 15.0
"""Seconds until the API server is asked again about a kind that it does not know."""
_UNAUTHORIZED: Final = 401
_GONE: Final = 410
_NOT_OF_THE_VERSION: Final = frozenset((_UNAUTHORIZED, 429))
"""Statuses of refusals that another version would get as well. Whole lists would be more load for an API server that
has too much of it.
"""
_NOT_FOUND: Final = 404
HINTS: Final[Mapping[tuple[int, str], str]] = {
    (401, APPLICATIONS): "expected a token that it accepts",
    (401, SECRETS): "expected a token that it accepts",
    (403, APPLICATIONS): "expected a cluster role that allows get, list and watch",
    (403, SECRETS): "expected a role in the namespace that allows get, list and watch",
    (404, APPLICATIONS): "expected Kyma's definition of this resource",
}


class ObjectMetadata(msgspec.Struct):
    """ObjectMetadata of an object or list, as far as watches read them."""

    name: str = ""
    namespace: str = ""
    resource_version: str = msgspec.field(name="resourceVersion", default="")
    goes_on: str = msgspec.field(name="continue", default="")
    """Token of the next page of a list."""


class _Object(msgspec.Struct):
    metadata: ObjectMetadata


class _Page(msgspec.Struct):
    """Page of a list. Each member is required: an object that lacks one, such as an error of a proxy, is no list."""

    metadata: ObjectMetadata
    kind: str
    items: list[msgspec.Raw] | None
    """Null is the API server's empty list, as Go writes it."""


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class Pauses:
    """Backoff: an increasing, randomized delay before the next attempt."""

    def __init__(self) -> None:
        self.tries = 0
        """Number of consecutive attempts that have ended early."""

    def next_delay(self, soon: bool) -> float:
        """Return the current delay."""
        self.tries = self.tries + 1 if soon else 0
        pause: float = min(LONGEST_PAUSE_S, PAUSE_S * 2.0 ** min(max(self.tries - 1, 0), 16))
        return pause * random.uniform(0.5, 1)


class Nonsense(CannotAsk):
    """The response is not that of an API server."""


class WatchReport:
    """State of one kind of request, for the admin API and the log, which reports each problem once."""

    def __init__(self, feed: str) -> None:
        self.info = FeedInfo(feed, None, "")
        self._logged: set[str] = set()

    def succeeded(self) -> None:
        """Record a success."""
        if self._logged:
            notice(OperatorEvent.FEED_BACK, f"{self.info.feed}: reachable again")
            self._logged.clear()
        self.info = FeedInfo(self.info.feed, time.time(), "")

    def failed(self, kind: str, why: str) -> None:
        """Record a failure. `kind`: kind of error; the same one is logged once until it is resolved."""
        if kind not in self._logged:
            notice(OperatorEvent.FEED_FAILED, f"{self.info.feed}: {why}; the last known objects stay in use")
            self._logged.add(kind)
        self.info = FeedInfo(self.info.feed, self.info.last_success_date, why)


class WatchedObjects(Protocol):
    """Store of the objects that a watch follows."""

    @property
    def named(self) -> Collection[str]: ...
    def name_of(self, metadata: ObjectMetadata) -> str:
        """Return the name under which an object is stored."""

    def is_wanted(self, kind: str, name: str) -> bool: ...
    def replace(self, kind: str, raws: Mapping[str, bytes], named: Collection[str]) -> None: ...
    def store(self, kind: str, name: str, raw: bytes) -> None: ...
    def delete(self, kind: str, name: str) -> None: ...


class Following:
    """Lists and watches one kind of object."""

    def __init__(
        self,
        kind: str,
        access: ClusterAccess | SharedAccess,
        namespace: str,
        objects: WatchedObjects,
        feed: str,
        path: str = "",
        optional: ObjectKind | None = None,
        field_selector: str = "",
    ) -> None:
        """`path`: of the objects; "": that of the kind. `optional`: the kind, if the API server may lack it.
        `field_selector`: of the objects; "": all.
        """
        self._kind = kind
        self._path = path or kind
        self._optional = optional
        self._selected = {"field_selector": field_selector} if field_selector else {}
        self._access = access
        self._namespace = namespace
        self._objects = objects
        self._since = ""
        self._pauses = Pauses()
        self._well_at = inf  # working since then; inf: it does not work
        self.has_listed = asyncio.Event()
        self.report = WatchReport(feed)

    async def run(self) -> None:
        """List and watch forever."""
        while True:
            try:
                client = await self._access.client(self._path, self._namespace)
                failed = True
                try:
                    await self._list_and_watch(client)
                except RequestRefused as error:
                    failed = error.status == _UNAUTHORIZED
                    raise
                finally:
                    await client.close(failed)
            except CannotAsk as error:
                status = error.status if isinstance(error, RequestRefused) else 0
                if status == _GONE:
                    self._since = ""
                was_well, self._well_at = self._well_at, inf
                pause = self._pauses.next_delay(soon=time.monotonic() - was_well < SOON_S)
                # Connections end, tokens are replaced, servers restart, versions expire: only repeated failures are
                # errors.
                if was_well == inf or self._pauses.tries > UNLOGGED_TRIES or isinstance(error, Nonsense):
                    self.report.failed(*_describe_error(error, self._kind))
                    if status not in _NOT_OF_THE_VERSION:
                        self._since = ""
                await asyncio.sleep(pause)

    async def _list_and_watch(self, client: ClusterClient) -> None:
        """List and watch until `CannotAsk` is raised."""
        while True:
            begun_at = time.monotonic()
            try:
                if not self._since:
                    await self._list(client)
                await self._watch(client)
            except UNREADABLE as error:
                self._since = ""  # an event was missed
                raise Nonsense(f"the API server sent an invalid response: {error}") from error
            except RequestRefused as error:
                if error.status != _NOT_FOUND or self._optional is None:
                    raise
                await self._confirm_missing(client, self._optional, error)
                self._objects.replace(self._kind, {}, ())
                self.has_listed.set()
                self._since = ""
                self._begin_well()
                self.report.succeeded()
                await asyncio.sleep(MISSING_S)
                continue
            await asyncio.sleep(self._pauses.next_delay(soon=time.monotonic() - begun_at < SOON_S))

    async def _confirm_missing(self, client: ClusterClient, kind: ObjectKind, error: RequestRefused) -> None:
        """Raise the error, a 404, unless API discovery says that the API server does not have the kind."""
        try:
            if await lacks_kind(client, kind):
                return
            why = "has this kind"
        except RequestRefused as refused:
            why = f"does not confirm that this kind is missing: {refused}"
        except UNREADABLE as invalid:
            why = f"does not confirm that this kind is missing: an invalid response: {invalid}"
        raise RequestRefused(error.status, f"{error}; API discovery {why}") from error

    async def _list(self, client: ClusterClient) -> None:
        found: dict[str, bytes] = {}
        named = self._objects.named
        since, goes_on, limit, size = "", "", PAGE, 0
        while True:
            try:
                raw = await client.list(limit=limit, **self._selected, **({"_continue": goes_on} if goes_on else {}))
            except TooLong:
                if limit == 1:
                    raise
                limit = max(1, limit // 4)
                continue
            page = msgspec.json.decode(without_deep_values(raw), type=_Page)
            if not page.kind.endswith("List"):
                raise Nonsense(f"the API server answered a list with an object of the kind {page.kind[:100]}")
            since = since or page.metadata.resource_version
            for each in page.items or ():
                name = self._objects.name_of(msgspec.json.decode(each, type=_Object).metadata)
                if self._objects.is_wanted(self._kind, name):
                    found[name] = bytes(each)
                    size += len(found[name])
            if size > 2 * MOST_BYTES:
                raise TooLong(f"{self._kind} of more than {2 * MOST_BYTES // 1024**2} MiB")
            goes_on = page.metadata.goes_on
            if not goes_on:
                break
        self._objects.replace(self._kind, found, named)
        self._since = since
        self.has_listed.set()

    async def _watch(self, client: ClusterClient) -> None:
        async with client.watch(self._since, random.randint(*WATCH_S), **self._selected) as events:
            self._begin_well()
            # An API server that no longer has the version answers 200, too, with an event that says so. A problem is
            # over once there is another event, or none for a while.
            wait_s = SOON_S if self.report.info.problem else 0.0
            success = asyncio.get_running_loop().call_later(wait_s, self.report.succeeded)
            try:
                async for event in events:
                    self._apply_event(event)
                    success.cancel()
                    self.report.succeeded()
            finally:
                success.cancel()
        self.report.succeeded()

    def _begin_well(self) -> None:
        self._well_at = min(self._well_at, time.monotonic())

    def _apply_event(self, line: bytes) -> None:
        event = msgspec.json.decode(without_deep_values(line), type=_Event)
        if event.type == "ERROR":
            raise refusal(bytes(event.object))
        metadata = msgspec.json.decode(event.object, type=_Object).metadata
        name = self._objects.name_of(metadata)
        if event.type == "DELETED":
            self._objects.delete(self._kind, name)
        elif event.type != "BOOKMARK" and self._objects.is_wanted(self._kind, name):
            self._objects.store(self._kind, name, bytes(event.object))
        self._since = metadata.resource_version


class KubernetesWatch:
    """Follows a cluster. `publish`: receives the known objects; `take`: activates them, if possible now."""

    def __init__(
        self,
        feed: str,
        access: ClusterAccess,
        namespace: str,
        publish: Callable[[bytes], object],
        take: Callable[[], Awaitable[bool]],
        served: Callable[[Mapping[str, bytes]], object] = lambda applications: None,
        secrets: Collection[str] = (),
    ) -> None:
        """`feed`: its name in reports. `served`: receives the Applications by name once they are activated.
        `secrets`: names of Secrets without an Application.
        """
        self._access = access
        self._namespace = namespace
        self._publish = publish
        self._take = take
        self._served = served
        self._changed = asyncio.Event()
        self._objects = Objects(self._changed.set, secrets)
        self._following = {kind: Following(kind, access, namespace, self._objects, f"{feed}/{kind}") for kind in KINDS}
        self._fetching = WatchReport(f"{feed}/{SECRETS} (get)")
        self._passing = WatchReport(feed)

    def feed_infos(self) -> Sequence[FeedInfo]:
        """Return the states of the watches."""
        tellings = [each.report for each in self._following.values()]
        others = [each for each in (self._fetching, self._passing) if each.info.problem]
        return [each.info for each in (*tellings, *others)]

    async def run(self) -> None:
        """Watch forever."""
        applications, secrets = (self._following[kind] for kind in KINDS)

        async def follow_secrets() -> None:
            await applications.has_listed.wait()  # the named ones are known by then
            await secrets.run()

        works = (
            (applications.run, applications.report),
            (follow_secrets, secrets.report),
            (self._fetch, self._fetching),
            (self._pass_on, self._passing),
        )
        async with asyncio.TaskGroup() as group:
            for work, report in works:
                group.create_task(run_repeatedly(work, report))

    async def _fetch(self) -> None:
        """Fetch Secrets that are named for the first time: they may be older than the watch."""
        pauses = Pauses()
        await self._following[SECRETS].has_listed.wait()  # it includes all that were named by then
        while True:
            await self._objects.is_lacking.wait()
            failed = True
            try:
                await self._fetch_missing()
                self._fetching.succeeded()
                failed = False
            except CannotAsk as error:
                self._fetching.failed(*_describe_error(error, SECRETS))
            await asyncio.sleep(pauses.next_delay(soon=failed))

    async def _fetch_missing(self) -> None:
        """Fetch the missing Secrets. Raises `CannotAsk`."""
        client = await self._access.client(SECRETS, self._namespace)
        turns = asyncio.Semaphore(FETCHES)

        async def fetch(name: str) -> None:
            raw = b""
            async with turns:
                try:
                    raw = await client.secret(name)
                except RequestRefused as error:
                    if error.status != _NOT_FOUND:
                        raise
            if name not in self._objects.missing:  # the watch has reported it in the meantime
                return
            if raw:
                self._objects.store(SECRETS, name, raw)
            else:
                self._objects.delete(SECRETS, name)

        try:
            ended = await asyncio.gather(*map(fetch, self._objects.missing), return_exceptions=True)
        finally:
            await client.close()
        for each in ended:
            if isinstance(each, BaseException):
                raise each

    async def _pass_on(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(GATHER_S)
            await self._wait_for_secrets()
            self._changed.clear()
            begun_at = time.monotonic()
            if self._objects.is_known:
                content = self._objects.content()
                if len(content) > MOST:
                    self._passing.failed("size", f"{len(content)} bytes of objects, more than {MOST}")
                else:
                    self._passing.succeeded()
                    applications = self._objects.applications()
                    self._publish(content)
                    if await self._until_taken():
                        self._served(applications)
            took_s = time.monotonic() - begun_at
            await asyncio.sleep(max(EVERY_S - took_s, took_s))

    async def _wait_for_secrets(self) -> None:
        try:
            async with asyncio.timeout(FETCH_S):
                await self._objects.is_complete.wait()
        except TimeoutError:
            pass  # the Applications that use them report that they are missing

    async def _until_taken(self) -> bool:
        """Wait until the state is activated, at the start and during other changes. False: another one is to be."""
        pauses = Pauses()
        while not (is_taken := await self._take()) and not self._changed.is_set():
            await asyncio.sleep(pauses.next_delay(soon=True))
        return is_taken


async def run_repeatedly(work: Callable[[], Awaitable[None]], report: WatchReport) -> None:
    """Run work that ends only by a defect, and restart it then."""
    while True:
        try:
            await work()
        except Exception as error:  # the edge of a large library: its exceptions are logged, and the watch is restarted
            report.failed(type(error).__name__, described(error))
        await asyncio.sleep(LONGEST_PAUSE_S)


def _describe_error(error: CannotAsk, kind: str) -> tuple[str, str]:
    """Return the kind of an error, and the text to report."""
    if not isinstance(error, RequestRefused):
        return type(error).__name__, str(error)
    hint = HINTS.get((error.status, kind), "")
    return f"{error.status}", f"{error}; {hint}" if hint else str(error)
