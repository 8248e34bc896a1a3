"""Kinds that an API server does not find: a 404 alone takes no object away, API discovery does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.kubernetes.cluster import KINDS
from fastgw.config.settings.kubernetes import KubernetesProvider
from fastgw.runtime.control.kubernetes import watch
from fastgw.runtime.control.kubernetes.api_client import ClusterAccess, SharedAccess
from fastgw.runtime.control.kubernetes.cluster_controller import watches_of
from fastgw.runtime.control.kubernetes.cluster_objects import ClusterObjects
from fastgw.runtime.control.kubernetes.watch import Following
from tests.support.cluster import ClusterStandIn, policy
from tests.support.gateway import messages
from tests.support.kubernetes import status_of
from tests.unit.runtime.control.kubernetes.test_watch import all_closed

LONG = 30.0
KIND = KINDS["FastgwPolicy"]
LIST = KIND.path()
DISCOVERY = "/apis/fastgw.dev/v1"
Reply = tuple[int, bytes, str]
HTML: Reply = (404, b"<html>404 Not Found</html>", "text/html")
HTML_200: Reply = (200, b"<html>Welcome</html>", "text/html")
STATUS: Reply = (404, json.dumps(status_of(404, "could not find the requested resource")).encode(), "application/json")
TEXT: Reply = (404, b"404 page not found\n", "text/plain")


def document(**content: object) -> Reply:
    return 200, json.dumps(content).encode(), "application/json"


def resources(*names: str, version: str = "fastgw.dev/v1", kind: str = "APIResourceList") -> Reply:
    return document(kind=kind, groupVersion=version, resources=[{"name": each} for each in names])


def groups(*versions: str) -> Reply:
    held = [
        {"name": each.partition("/")[0], "versions": [{"groupVersion": each, "version": each.partition("/")[2]}]}
        for each in versions
    ]
    return document(kind="APIGroupList", groups=held)


BUILT_IN = "apps/v1", "discovery.k8s.io/v1"
CONFIRMED = {
    "the version has other kinds": {DISCOVERY: resources("fastgwconsumers", "fastgwconsumers/status")},
    "the version has no kinds": {DISCOVERY: resources()},
    "the group has other versions": {DISCOVERY: TEXT, "/apis": groups(*BUILT_IN, "fastgw.dev/v2")},
    "there is no such group": {DISCOVERY: TEXT, "/apis": groups(*BUILT_IN)},
}
UNCONFIRMED = {
    "discovery has the kind": {},
    "a proxy answers 404 to everything": {DISCOVERY: HTML, "/apis": HTML},
    "everything is a Status": {DISCOVERY: STATUS, "/apis": STATUS},
    "a proxy answers 200 to discovery": {DISCOVERY: HTML_200},
    "a proxy answers 200 to the groups": {DISCOVERY: HTML, "/apis": HTML_200},
    "the version is missing while its group is there": {DISCOVERY: TEXT},
    "there are no groups at all": {DISCOVERY: TEXT, "/apis": groups()},
    "an aggregator that starts has its own group only": {DISCOVERY: TEXT, "/apis": groups("apiregistration.k8s.io/v1")},
    "groups without one that is always there": {DISCOVERY: TEXT, "/apis": groups("apps/v1", "fastgw.dev/v2")},
    "discovery is not UTF-8": {
        DISCOVERY: (200, b'{"kind": "APIResourceList", "groupVersion": "\xff"}', "application/json")
    },
    "discovery is of another version": {DISCOVERY: resources(version="fastgw.dev/v2")},
    "discovery is another document": {DISCOVERY: resources(kind="Status")},
    "discovery without a list": {DISCOVERY: document(kind="APIResourceList", groupVersion="fastgw.dev/v1")},
    "discovery is not permitted": {DISCOVERY: (403, json.dumps(status_of(403, "no")).encode(), "application/json")},
    "discovery fails": {DISCOVERY: (503, b"", "text/plain")},
}


class Policies:
    """Watch of the policies of a cluster."""

    def __init__(self, cluster: ClusterStandIn, folder: Path) -> None:
        file = cluster.kubeconfig(folder / "kubeconfig")
        access = self._access = SharedAccess(ClusterAccess(KubernetesProvider(kubeconfig=str(file)), file.read_bytes()))
        self.objects = ClusterObjects(lambda: None, lambda: None)
        self.following: Following
        (self.following,) = watches_of(KIND, (), access, self.objects)

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.objects.cluster().all(KIND.name)}

    @property
    def problem(self) -> str:
        return self.following.report.info.problem

    async def close(self) -> None:
        client = await self._access.client("")
        await client.close(failed=True)
        await all_closed()

    async def until(self, fact: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONG):
            while not fact():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def watched(cluster: ClusterStandIn, folder: Path) -> AsyncIterator[Policies]:
    policies = Policies(cluster, folder)
    running = asyncio.create_task(policies.following.run())
    try:
        yield policies
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await policies.close()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterStandIn]:
    """One policy. A list that has failed is tried again soon; whether a missing kind has appeared is asked often."""
    monkeypatch.setattr(watch, "MISSING_S", 0.05)
    monkeypatch.setattr(watch, "SOON_S", 0.02)
    with ClusterStandIn() as cluster:
        cluster.put(policy("auth", {"key_auth": {}}, "cart"))
        yield cluster


@pytest.mark.parametrize("refused", [HTML, STATUS, TEXT], ids=["HTML", "Status", "text"])
@pytest.mark.parametrize("case", UNCONFIRMED)
def test_a_404_alone_takes_no_object_away(cluster: ClusterStandIn, tmp_path: Path, case: str, refused: Reply) -> None:
    """It is reported, and what is known stays, until the kind can be listed again."""

    async def run() -> None:
        async with watched(cluster, tmp_path) as policies:
            await policies.until(lambda: policies.names == {"auth"})
            cluster.api.replies = {LIST: refused, f"{LIST} watch": refused, **UNCONFIRMED[case]}
            await asyncio.to_thread(cluster.drop_watches)
            await policies.until(lambda: "404" in policies.problem)
            assert "API discovery" in policies.problem
            assert policies.names == {"auth"}
            cluster.api.replies = {}
            await policies.until(lambda: not policies.problem)
            await asyncio.to_thread(cluster.put, policy("limits", {}, "cart"))
            await policies.until(lambda: policies.names == {"auth", "limits"})

    asyncio.run(run())


@pytest.mark.parametrize("case", UNCONFIRMED)
def test_a_404_at_the_start_is_no_empty_list(cluster: ClusterStandIn, tmp_path: Path, case: str) -> None:
    """The controller waits for the first list of what protects routes."""

    async def run() -> None:
        cluster.api.replies = {LIST: STATUS, **UNCONFIRMED[case]}
        async with watched(cluster, tmp_path) as policies:
            await policies.until(lambda: "404" in policies.problem)
            assert not policies.following.has_listed.is_set()
            cluster.api.replies = {}
            await policies.until(policies.following.has_listed.is_set)
            assert policies.names == {"auth"}

    asyncio.run(run())


@pytest.mark.parametrize("case", CONFIRMED)
def test_a_kind_that_discovery_does_not_have_is_empty(cluster: ClusterStandIn, tmp_path: Path, case: str) -> None:
    """At the start, and when its definition is deleted; its objects are known again once it is installed."""
    missing = {LIST: TEXT, f"{LIST} watch": TEXT, **CONFIRMED[case]}

    async def run() -> None:
        cluster.api.replies = missing
        async with watched(cluster, tmp_path) as policies:
            await policies.until(policies.following.has_listed.is_set)
            assert (policies.names, policies.problem) == (set(), "")
            cluster.api.replies = {}
            await policies.until(lambda: policies.names == {"auth"})
            cluster.api.replies = missing
            await asyncio.to_thread(cluster.drop_watches)
            await policies.until(lambda: policies.names == set())
            assert policies.problem == ""

    asyncio.run(run())


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ((200, *STATUS[1:]), "missing required field `items`"),
        (document(metadata={}, error="bad gateway"), "missing required field `kind`"),
        (document(metadata={}, items=[]), "missing required field `kind`"),
        (document(kind="FastgwPolicyList", metadata={}), "missing required field `items`"),
        (document(kind="Status", metadata={}, items=None), "an object of the kind Status"),
    ],
)
def test_another_object_is_no_empty_list(cluster: ClusterStandIn, tmp_path: Path, reply: Reply, problem: str) -> None:
    """Some proxies answer 200 with the body of an error."""

    async def run() -> None:
        async with watched(cluster, tmp_path) as policies:
            await policies.until(lambda: policies.names == {"auth"})
            cluster.api.replies = {LIST: reply, f"{LIST} watch": STATUS}
            await asyncio.to_thread(cluster.drop_watches)
            await policies.until(lambda: problem in policies.problem)
            assert policies.names == {"auth"}

    asyncio.run(run())


def test_null_is_an_empty_list(cluster: ClusterStandIn, tmp_path: Path) -> None:
    """Go writes a list without items so."""

    async def run() -> None:
        cluster.api.replies = {
            LIST: document(kind="FastgwPolicyList", metadata={"resourceVersion": "999999"}, items=None)
        }
        async with watched(cluster, tmp_path) as policies:
            await policies.until(policies.following.has_listed.is_set)
            assert policies.names == set()

    asyncio.run(run())


@pytest.mark.parametrize("status", [400, 403, 410, 500, 504])
def test_a_watch_that_is_refused_is_replaced_by_lists(cluster: ClusterStandIn, tmp_path: Path, status: int) -> None:
    """Its version may be what the API server stumbles over. That no watch succeeds is reported."""
    refused = status, json.dumps(status_of(status, "no watch")).encode(), "application/json"

    async def run() -> None:
        async with watched(cluster, tmp_path) as policies:
            await policies.until(lambda: policies.names == {"auth"})
            cluster.api.replies = {f"{LIST} watch": refused}
            await asyncio.to_thread(cluster.drop_watches)
            await asyncio.to_thread(cluster.put, policy("limits", {}, "cart"))
            await policies.until(lambda: policies.names == {"auth", "limits"})
            await policies.until(lambda: f"{status}: no watch" in policies.problem)
            cluster.api.replies = {}
            await policies.until(lambda: not policies.problem)

    asyncio.run(run())


def test_lists_that_always_expire_are_reported(cluster: ClusterStandIn, tmp_path: Path) -> None:
    """A single 410 is ordinary: lists of many pages may take longer than a version is kept."""
    gone = 410, json.dumps(status_of(410, "too old resource version")).encode(), "application/json"

    async def run() -> None:
        async with watched(cluster, tmp_path) as policies:
            await policies.until(lambda: policies.names == {"auth"})
            cluster.api.replies = {LIST: gone, f"{LIST} watch": gone}
            await asyncio.to_thread(cluster.drop_watches)
            await policies.until(lambda: "410: too old" in policies.problem)
            assert policies.names == {"auth"}

    asyncio.run(run())


def test_watches_that_always_expire_are_reported_once(
    cluster: ClusterStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The ordinary form of it is an event of a response with 200, behind a list that succeeds."""
    monkeypatch.setattr(watch, "LONGEST_PAUSE_S", 0.05)
    expired = json.dumps({"type": "ERROR", "object": status_of(410, "too old resource version")}).encode()
    lists = 0
    listed = ClusterObjects.replace

    def replace(*arguments: Any) -> None:
        nonlocal lists
        lists += 1
        listed(*arguments)

    monkeypatch.setattr(ClusterObjects, "replace", replace)

    async def run() -> None:
        nonlocal lists
        async with watched(cluster, tmp_path) as policies:
            await policies.until(lambda: policies.names == {"auth"})
            cluster.api.replies = {f"{LIST} watch": (200, expired + b"\n", "application/json")}
            await asyncio.to_thread(cluster.drop_watches)
            await policies.until(lambda: "410: too old" in policies.problem)
            lists = 0
            await policies.until(lambda: lists > 3 or not policies.problem)
            assert "410: too old" in policies.problem
            cluster.api.replies = {}
            await policies.until(lambda: not policies.problem)

    asyncio.run(run())
    failed, back = messages(capfd.readouterr().err)
    assert "410: too old resource version; the last known objects stay in use" in failed
    assert back.endswith("reachable again")


def test_an_event_resolves_a_problem_at_once(
    cluster: ClusterStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SOON_S", 1000.0)

    async def run() -> None:
        cluster.api.replies = {LIST: (500, b"", "text/plain")}
        async with watched(cluster, tmp_path) as policies:
            await policies.until(lambda: "500" in policies.problem)
            cluster.api.replies = {}
            await policies.until(lambda: policies.names == {"auth"})
            assert "500" in policies.problem
            await asyncio.to_thread(cluster.put, policy("limits", {}, "cart"))
            await policies.until(lambda: policies.names == {"auth", "limits"})
            await policies.until(lambda: not policies.problem)

    asyncio.run(run())
