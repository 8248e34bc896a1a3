"""Kubernetes Services of Kyma's services (`services: create`), which the leader of the replicas keeps as the
Applications are.

Rule 1: a Service is written or deleted only if its labels say that this gateway has made it. Rule 2: nothing is written
before the Applications and the Services were listed once, and the gateway serves what was read. Rule 3: Services of an
Application that cannot be read stay.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from fastgw.admin.node_interface import FeedInfo
from fastgw.config.kubernetes.cluster import KINDS, ClusterObject
from fastgw.config.kyma.service_manifests import (
    APP_LABEL,
    MANAGER,
    MANAGER_LABEL,
    OWNER_LABEL,
    app_label,
    hosts_of,
    service_manifest,
)
from fastgw.config.settings.egress import Kyma
from fastgw.runtime.control.kubernetes.api_client import CannotAsk, ClusterClient, RequestRefused, SharedAccess
from fastgw.runtime.control.kubernetes.cluster_objects import ClusterObjects
from fastgw.runtime.control.kubernetes.leader_election import LeaderElection
from fastgw.runtime.control.kubernetes.status_writer import MERGE, NOT_FOUND, Write, includes, write_all
from fastgw.runtime.control.kubernetes.watch import GATHER_S, Following, Pauses, WatchReport, run_repeatedly

LEASE: Final = "fastgw-kyma-services"
KIND: Final = "Service"
LISTED: Final = 8
"""Maximum number of Services that a report lists."""
_FORBIDDEN: Final = 403
_RIGHTS: Final = "expected a role in the namespace that allows list, watch, create, patch and delete of services"


class AccessServices:
    """Follows the Services of a namespace, and writes those that Applications need."""

    def __init__(self, settings: Kyma, access: SharedAccess, namespace: str, feed: str) -> None:
        """`namespace`: of the gateway itself. `feed`: its name in reports."""
        self._settings, self._access, self._owner = settings, access, namespace
        self._feed = f"{feed}/services"
        self._wake = asyncio.Event()
        self._objects = ClusterObjects(self._wake.set, self._wake.set)
        path = KINDS[KIND].path(settings.services_namespace)
        self._following = Following(KIND, access, "", self._objects, self._feed, path)
        # Gateways of other namespaces elect leaders of their own.
        name = f"{LEASE}-{namespace}"
        self._election = LeaderElection(access, settings.services_namespace, name, self._wake.set)
        self._applications: Mapping[str, bytes] | None = None
        self._hosts: Mapping[tuple[str, bytes], tuple[str, ...] | None] = {}
        """Names of Services by Application, as it was read."""
        self._refused: dict[str, tuple[dict[str, Any], str]] = {}
        """Manifests that the API server has refused as invalid, and its reasons: they are not sent again."""
        self._begin_reports()

    def _begin_reports(self) -> None:
        self._writing = WatchReport(f"{self._feed} (write)")
        self._unmade = WatchReport(f"{self._feed} (not made)")

    def feed_infos(self) -> Sequence[FeedInfo]:
        """Return the state of the watch, and problems."""
        election = FeedInfo(f"{self._feed} (leader election)", None, self._election.problem)
        others = [each for each in (election, self._writing.info, self._unmade.info) if each.problem]
        return [self._following.report.info, *others]

    def use_applications(self, applications: Mapping[str, bytes]) -> None:
        """Make the Services of these Applications, which the gateway serves."""
        self._applications = applications
        self._wake.set()

    async def run(self) -> None:
        """Keep the Services until cancelled; then give the Lease back."""
        works = ((self._following.run, self._following.report), (self._election.run, self._writing))
        async with asyncio.TaskGroup() as group:
            for work, report in (*works, (self._write_changes, self._writing)):
                group.create_task(run_repeatedly(work, report))

    async def _write_changes(self) -> None:
        pauses = Pauses()
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            if not self._election.is_leader:
                self._begin_reports()
                self._refused.clear()
                continue
            if self._applications is None or not self._following.has_listed.is_set():
                continue
            is_done = False
            try:
                is_done = await self._write(self._applications)
                self._writing.succeeded()
            except CannotAsk as error:
                is_forbidden = isinstance(error, RequestRefused) and error.status == _FORBIDDEN
                self._writing.failed(type(error).__name__, f"{error}; {_RIGHTS}" if is_forbidden else str(error))
            if not is_done:
                self._wake.set()
            await asyncio.sleep(pauses.next_delay(soon=not is_done))

    async def _write(self, applications: Mapping[str, bytes]) -> bool:
        """Write what differs. False: something could not be written yet. Raises `CannotAsk`."""
        wanted, unreadable = await asyncio.to_thread(self._wanted, applications)
        held = self._objects.cluster().all(KIND)
        namespace = self._settings.services_namespace
        works: list[Write] = []
        unmade: list[str] = []
        self._refused = {name: each for name, each in self._refused.items() if each[0] == wanted.get(name)}
        for name, body in wanted.items():
            item = held.get((namespace, name))
            if item is not None and not self._is_own(item):
                unmade.append(f"{name} exists, and this gateway has not made it; {self._remedy}")
            elif name in self._refused:
                unmade.append(f"{name}: {self._refused[name][1]}")
            elif item is None or not includes(item, body):
                works.append((self._put, (name, body, item)))
        for (_, name), item in held.items():
            labels = item["metadata"].get("labels") or {}
            if name not in wanted and self._is_own(item) and labels.get(APP_LABEL) not in unreadable:
                works.append((self._delete, (name, item)))
        self._report_unmade(unmade)
        return await write_all(self._access, works)

    def _wanted(self, applications: Mapping[str, bytes]) -> tuple[dict[str, dict[str, Any]], set[str]]:
        """Return the manifests by name, and the labels of the Applications that cannot be read."""
        settings, before = self._settings, self._hosts
        made: dict[str, dict[str, Any]] = {}
        unreadable: set[str] = set()
        self._hosts = {
            each: before[each] if each in before else hosts_of(each[0], msgspec.json.decode(each[1]).get("spec"))
            for each in applications.items()
        }
        for (app, _), hosts in self._hosts.items():
            if hosts is None:
                unreadable.add(app_label(app))
            for host in hosts or ():
                if host not in made:
                    to = settings.services_namespace, settings.services_gateway
                    made[host] = service_manifest(host, app, *to, self._owner)
        return made, unreadable

    @property
    def _remedy(self) -> str:
        return f"delete it, or label it {MANAGER_LABEL}={MANAGER} and {OWNER_LABEL}={self._owner}"

    def _is_own(self, item: ClusterObject) -> bool:
        labels = item["metadata"].get("labels") or {}
        return labels.get(MANAGER_LABEL) == MANAGER and labels.get(OWNER_LABEL) == self._owner

    def _report_unmade(self, unmade: Sequence[str]) -> None:
        if not unmade:
            self._unmade.succeeded()
            return
        more = f"; and {len(unmade) - LISTED} more" if len(unmade) > LISTED else ""
        named = "; ".join(unmade[:LISTED])
        self._unmade.failed(named, f"Services of the namespace {self._settings.services_namespace}: {named}{more}")

    async def _put(self, client: ClusterClient, name: str, body: dict[str, Any], item: ClusterObject | None) -> None:
        """Create a Service, or change it from the version that is known."""
        kind, namespace = KINDS[KIND], self._settings.services_namespace
        try:
            if item is None:
                await client.send("POST", kind.path(namespace), body)
            else:
                version = item["metadata"].get("resourceVersion")
                changed = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
                await client.send("PATCH", kind.path(namespace, name), changed, MERGE)
        except RequestRefused as error:
            if error.status == NOT_FOUND and item is None:
                raise CannotAsk(f"the namespace {namespace} is missing; create it: {error}") from error
            if error.status not in _INVALID:
                raise
            self._refused[name] = body, str(error)
            self._wake.set()

    async def _delete(self, client: ClusterClient, name: str, item: ClusterObject) -> None:
        """Delete a Service in the version that is known: labels may have been changed."""
        metadata = item["metadata"]
        conditions = {key: metadata[key] for key in ("uid", "resourceVersion") if key in metadata}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": conditions}
        await client.send("DELETE", KINDS[KIND].path(self._settings.services_namespace, name), options)


_INVALID: Final = frozenset((400, 422))
"""Statuses of refusals that the same manifest would get again."""
