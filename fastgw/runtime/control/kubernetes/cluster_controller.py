"""Controller of the Kubernetes provider: watches all kinds, translates them, activates the result, writes statuses.

Rule 1: while the API server is unreachable, what is known stays in force; nothing is, before the kinds that protect
routes are known (`PROTECTING`). Rule 2: a status is written once the
configuration that it is about serves, or once it is known not to. Rule 3: changes are collected for a moment, and
translated together.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from fastgw.admin.node_interface import FeedInfo
from fastgw.config.kubernetes.cluster import KINDS, ObjectKind
from fastgw.config.kubernetes.model import ObjectId, Statuses, Translation
from fastgw.config.kubernetes.provider import FILE
from fastgw.config.kubernetes.refusals import warnings_of, with_refusals
from fastgw.config.kubernetes.translation import Translator
from fastgw.config.settings.egress import Providers
from fastgw.config.settings.kubernetes import KubernetesProvider
from fastgw.config.sources.virtual_files import set_content
from fastgw.runtime.control.kubernetes.api_client import CannotAsk, ClusterAccess, SharedAccess, own_namespace
from fastgw.runtime.control.kubernetes.cluster_objects import ClusterObjects
from fastgw.runtime.control.kubernetes.leader_election import LEASE, LeaderElection
from fastgw.runtime.control.kubernetes.status_writer import StatusWriter
from fastgw.runtime.control.kubernetes.watch import GATHER_S, MOST, Following, Pauses, WatchReport, run_repeatedly
from fastgw.runtime.reload.activation import Activation

LIST_S: Final = 30.0
"""Seconds for which the first lists are awaited before one that fails is left out, except those of `PROTECTING`: an API
server that refuses one kind must not stop the others."""
PROTECTING: Final = ("Namespace", "BackendTLSPolicy", "HTTPRoute", "GRPCRoute", "Ingress", "FastgwPolicy")
"""Kinds whose first lists are awaited without limit. Without their objects more would be served than with them: routes
without their policies, plaintext to TLS backends, routes of namespaces that a selector excludes, and requests by a less
specific or newer route in place of theirs, with other policies or none. A kind that the API server
does not have, as its API discovery says, is empty."""
PODS_KINDS: Final = frozenset(("Service", "EndpointSlice"))
"""Kinds that are also read in the namespace of the gateway's own pods."""
SHOWN_AFTER: Final = 3
"""Number of attempts to activate a translation after which its statuses say why it is not in force yet."""


class ClusterController:
    """Follows one cluster. `take`: activates the new configuration, if possible now."""

    def __init__(
        self,
        settings: KubernetesProvider,
        access: SharedAccess,
        namespace: str,
        take: Callable[[], Awaitable[Activation]],
    ) -> None:
        """`namespace`: of the gateway itself."""
        self._settings, self._take = settings, take
        self._wake, self._written = asyncio.Event(), asyncio.Event()
        self._is_changed = True
        self._objects = ClusterObjects(self._objects_changed, self._written.set)
        following = {
            kind.name: watches_of(kind, namespaces_of(kind, settings, namespace), access, self._objects)
            for kind in KINDS.values()
        }
        self._following = [each for of_kind in following.values() for each in of_kind]
        self._protecting = [each for name in PROTECTING for each in following[name]]
        self._translator = Translator(settings, namespace)
        self._translation: Translation | None = None
        self._statuses: Statuses = {}
        """Statuses of the translation, with what the configuration made of it."""
        self._warnings: Mapping[ObjectId, str] = {}
        """Problems of objects without conditions."""
        self._writer = StatusWriter(access, self._objects)
        self._election = LeaderElection(access, namespace, f"{LEASE}-{settings.gateway_class}", self._written.set)
        self._report = WatchReport(FILE)
        self._writing = WatchReport(f"{FILE} (status)")

    def feed_infos(self) -> Sequence[FeedInfo]:
        """Return the states of the watches."""
        election = FeedInfo(f"{FILE} (leader election)", None, self._election.problem)
        others = [each for each in (self._report.info, self._writing.info, election) if each.problem]
        return [*(each.report.info for each in self._following), *others]

    def _objects_changed(self) -> None:
        self._is_changed = True
        self._wake.set()

    def configuration_changed(self) -> None:
        """Look again at what is in force of the translation: the configuration has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Follow the cluster until cancelled."""
        works = [(each.run, each.report) for each in self._following]
        works += [(self._apply_changes, self._report), (self._write_statuses, self._writing)]
        async with asyncio.TaskGroup() as group:
            for work, report in works:
                group.create_task(run_repeatedly(work, report))
            group.create_task(run_repeatedly(self._election.run, self._writing))

    async def _wait_for_lists(self) -> None:
        """Wait for the first lists of all kinds."""
        try:
            async with asyncio.timeout(LIST_S):
                for each in self._following:
                    await each.has_listed.wait()
        except TimeoutError:
            pass  # what is missing is reported by its watch
        lacking = [each for each in self._protecting if not each.has_listed.is_set()]
        if lacking:
            feeds = ", ".join(each.report.info.feed for each in lacking)
            self._report.failed("lists", f"no list yet of {feeds}, which protect routes: no object is served before it")
        for each in lacking:
            await each.has_listed.wait()

    async def _apply_changes(self) -> None:
        await self._wait_for_lists()
        self._wake.set()
        again_s: float | None = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(again_s):
                    await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            began_at = time.monotonic()
            again_s = await self._apply()
            took_s = time.monotonic() - began_at
            await asyncio.sleep(min(took_s, 1.0) / 2)

    async def _apply(self) -> float | None:
        """Translate the objects, if they have changed, and activate the result. Returns the seconds after which to try
        again what could not be activated; None: there is none.
        """
        translation = self._translation
        if self._is_changed or translation is None:
            self._is_changed = False
            made, content = await asyncio.to_thread(self._translator.translate, self._objects.cluster())
            translation = made
            if len(content) > MOST:
                why = f"{len(content)} bytes of configuration, more than {MOST}"
                self._report.failed("size", why)
                self._is_changed = True
                self._show_statuses(translation, why, {})
                return None
            self._report.succeeded()
            set_content(FILE, content)
        pauses = Pauses()
        while not (done := await self._take()).is_tried:
            if pauses.tries >= SHOWN_AFTER:
                self._show_statuses(translation, done.rejected, done.refused)
            await asyncio.sleep(pauses.next_delay(soon=True))
        self._show_statuses(translation, done.rejected, done.refused)
        return done.again_s

    def _show_statuses(self, translation: Translation, rejected: str, refused: Mapping[str, str]) -> None:
        """Write the statuses of a translation, with what the configuration made of it."""
        self._translation = translation
        self._statuses = with_refusals(translation.statuses, refused, rejected, translation.pieces)
        self._warnings = warnings_of(translation.warnings, refused)
        self._written.set()

    async def _write_statuses(self) -> None:
        pauses = Pauses()
        while True:
            await self._written.wait()
            self._written.clear()
            translation = self._translation
            if translation is None or not self._election.is_leader:
                continue
            is_done = False
            try:
                is_done = await self._writer.write(self._statuses, translation, self._warnings)
                self._writing.succeeded()
            except CannotAsk as error:
                self._writing.failed(type(error).__name__, str(error))
            if not is_done:
                self._written.set()
                await asyncio.sleep(pauses.next_delay(soon=True))


def watches_of(
    kind: ObjectKind, namespaces: Sequence[str], access: SharedAccess, objects: ClusterObjects
) -> list[Following]:
    def following(where: str, namespace: str = "") -> Following:
        feed, path = f"{FILE}/{kind.plural}{where}", kind.path(namespace)
        optional = kind if kind.optional else None
        return Following(f"{kind.name}{where}", access, "", objects, feed, path, optional, kind.field_selector)

    if not kind.namespaced or not namespaces:
        return [following("")]
    return [following(f"@{each}", each) for each in namespaces]


def namespaces_of(kind: ObjectKind, settings: KubernetesProvider, own: str) -> Sequence[str]:
    """Return the namespaces whose objects of a kind are read; (): all. The Services of Gateways lead to the endpoints
    of the pods' Service, which is in the namespace `own`.
    """
    namespaces = settings.namespaces
    if namespaces and own not in namespaces and not settings.addresses.pool and kind.name in PODS_KINDS:
        return (*namespaces, own)
    return namespaces


class ClusterControl:
    """Follows the cluster of the active configuration. `take`: activates the new contents of a file, if possible
    now.
    """

    def __init__(self, take: Callable[[str], Awaitable[Activation]]) -> None:
        self._take = take
        self._wanted: object = None
        self._controller: ClusterController | None = None
        self._running: asyncio.Task[None] | None = None

    def watch_provider(self, providers: Providers, captured: Mapping[str, bytes]) -> None:
        """Switch to this provider; all continues if the provider and its credentials are unchanged."""
        settings = providers.kubernetes
        if settings is None:
            self.stop()
            return
        kubeconfig = captured.get(settings.kubeconfig or "", b"")
        wanted = settings, kubeconfig
        if wanted == self._wanted:
            if self._controller is not None:
                self._controller.configuration_changed()
            return
        self.stop()
        self._wanted = wanted
        access = SharedAccess(ClusterAccess(settings, kubeconfig))
        namespace = own_namespace(settings, kubeconfig)
        self._controller = ClusterController(settings, access, namespace, partial(self._take, FILE))
        self._running = asyncio.get_running_loop().create_task(self._controller.run())

    def feed_infos(self) -> Sequence[FeedInfo]:
        """Return the states of the watches."""
        return () if self._controller is None else self._controller.feed_infos()

    def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
        self._wanted = self._controller = self._running = None

    async def end(self) -> None:
        """Stop, and give the Lease back."""
        running = self._running
        self.stop()
        if running is not None:
            await asyncio.gather(running, return_exceptions=True)
