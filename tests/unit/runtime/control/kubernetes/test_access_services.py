"""Kubernetes Services of Kyma's services: the real client library against a stand-in of an API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastgw.config.settings.egress import Kubernetes, Kyma
from fastgw.runtime.control.kubernetes.access_services import AccessServices
from fastgw.runtime.control.kubernetes.api_client import ClusterAccess, SharedAccess
from tests.support.cluster import LONG, ROOT, ClusterStandIn, Object
from tests.unit.runtime.control.kubernetes.test_watch import all_closed

NAMESPACE = "kyma-integration"
GATEWAY = "fastgw-egress.kyma-system.svc.cluster.local"
ROLE = yaml.safe_load((ROOT / "deploy/kubernetes-egress/services/role.yaml").read_text())
Applications = Mapping[str, bytes]


@pytest.fixture
def cluster() -> Iterator[ClusterStandIn]:
    with ClusterStandIn() as cluster:
        yield cluster


def apps(**ids: Any) -> Applications:
    """Applications by name, with the ids of their services; another value stands for the services themselves."""
    entries = [{"type": "API", "targetUrl": "https://api.example"}]

    def services(value: Any) -> Any:
        return [{"id": each, "entries": entries} for each in value] if isinstance(value, tuple) else value

    return {name: json.dumps({"spec": {"services": services(value)}}).encode() for name, value in ids.items()}


def a_service(name: str, gateway: str = GATEWAY, **labels: str) -> Object:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"type": "ExternalName", "externalName": gateway},
    }


def ours(name: str, gateway: str = GATEWAY) -> Object:
    labels = {"app.kubernetes.io/managed-by": "fastgw", "fastgw.dev/owner": "kyma-system", "application": "shop"}
    return a_service(name, gateway, **labels)


def held(cluster: ClusterStandIn) -> dict[str, str]:
    """Services by name, each with what it is an alias of."""
    services = cluster.call(lambda: [*cluster.api.by["", "services"].objects.values()])
    return {each["metadata"]["name"]: each["spec"]["externalName"] for each in services}


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not fact():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def replica(cluster: ClusterStandIn, folder: Path, owner: str = "kyma-system") -> AsyncIterator[AccessServices]:
    file = cluster.kubeconfig(folder / "kubeconfig")
    settings = Kyma(kubernetes=Kubernetes(kubeconfig=str(file)), services="create")
    access = SharedAccess(ClusterAccess(Kubernetes(kubeconfig=str(file)), file.read_bytes()))
    services = AccessServices(settings, access, owner, "kubernetes://kyma")
    running = asyncio.create_task(services.run())
    try:
        yield services
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        client = await access.client("/api")
        await client.close(failed=True)


def problems(services: AccessServices) -> str:
    return "; ".join(each.problem for each in services.feed_infos() if each.problem)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await work()
        await all_closed()

    asyncio.run(run())


def test_services_are_as_the_applications_and_those_of_others_stay(cluster: ClusterStandIn, tmp_path: Path) -> None:
    """Neither a Service that a person has applied is changed, nor one of a gateway in another namespace."""
    by_hand = {"app.kubernetes.io/managed-by": "fastgw", "application": "shop"}
    cluster.put(a_service("shop-taken", "elsewhere.example", **by_hand), ours("shop-left"))
    cluster.put(ours("shop-changed", "old.example"))
    of_another = a_service("other-1", **{**by_hand, "fastgw.dev/owner": "another"})
    cluster.put(of_another)

    async def work() -> None:
        async with replica(cluster, tmp_path) as services:
            services.use_applications(apps(shop=("a", "taken", "changed"), store=("B1",)))
            expected = {"shop-a": GATEWAY, "shop-changed": GATEWAY, "store-b1": GATEWAY}
            others = {"shop-taken": "elsewhere.example", "other-1": GATEWAY}
            await until(lambda: held(cluster) == {**expected, **others})
            assert "shop-taken exists, and this gateway has not made it" in problems(services)
            made = cluster.get("Service", f"{NAMESPACE}/store-b1") or {}
            assert made["metadata"]["labels"] == {
                "app.kubernetes.io/managed-by": "fastgw",
                "application": "store",
                "fastgw.dev/owner": "kyma-system",
            }
            cluster.remove("Service", f"{NAMESPACE}/shop-a")
            cluster.remove("Service", f"{NAMESPACE}/shop-taken")
            await until(lambda: held(cluster) == {**expected, "shop-taken": GATEWAY, "other-1": GATEWAY})
            await until(lambda: not problems(services))
            services.use_applications(apps(shop=("a",)))
            await until(lambda: held(cluster) == {"shop-a": GATEWAY, "other-1": GATEWAY})
        before = cluster.call(lambda: dict(cluster.api.requests))
        async with replica(cluster, tmp_path) as services:  # after a restart
            services.use_applications(apps(shop=("a", "b")))
            await until(lambda: "shop-b" in held(cluster))
        after = cluster.call(lambda: dict(cluster.api.requests))
        kinds = [
            ("POST", "services", False, "", ""),
            *((verb, "services", True, "", "") for verb in ("PATCH", "DELETE")),
        ]
        assert [after.get(each, 0) - before.get(each, 0) for each in kinds] == [1, 0, 0]

    run(work)
    allowed = {
        (group, resource, verb)
        for rule in ROLE["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert cluster.api.calls == allowed, "the role of deploy/ allows what is needed"


UNKNOWN: dict[str, Applications | None] = {
    "no_applications_yet": None,
    "services_of_another_type": apps(shop="x"),
    "a_service_without_an_id": apps(shop=([1],)),
    "entries_of_another_type": apps(shop=[{"id": "a", "entries": "x"}]),
    "a_spec_of_another_type": {"shop": b'{"spec": []}'},
}


def test_what_is_not_known_deletes_nothing(cluster: ClusterStandIn, tmp_path: Path) -> None:
    cluster.put(ours("shop-a"))

    async def work() -> None:
        for number, (case, applications) in enumerate(UNKNOWN.items()):
            async with replica(cluster, tmp_path) as services:
                services.use_applications({**(applications or {}), **apps(last=(f"{number}",))})
                if applications is None:
                    services._applications = None
                    await until(lambda: services._election.is_leader)
                else:
                    await until(lambda number=number: f"last-{number}" in held(cluster))  # type: ignore[misc]
            assert "shop-a" in held(cluster), case
        async with replica(cluster, tmp_path) as services:
            services.use_applications(apps(shop=("a",)))
            await until(lambda: set(held(cluster)) == {"shop-a"})
            cluster.stop()
            services.use_applications(apps(shop=("b",)))
            await until(lambda: "unreachable" in problems(services))
            cluster.start()
            await until(lambda: set(held(cluster)) == {"shop-b"})

    run(work)


REFUSALS = {
    ("create", "services"): (422, "Service is invalid: metadata.name", "shop-a: the API server says 422"),
    ("create", "leases"): (403, "leases is forbidden", "expected a role in the namespace that allows get, create"),
    ("list", "services"): (403, "services is forbidden", "services is forbidden"),
}


def test_what_the_api_server_refuses_is_reported(cluster: ClusterStandIn, tmp_path: Path) -> None:
    """An invalid Service is not sent again, and the others are made."""

    async def work() -> None:
        for (verb, resource), (status, message, shown) in REFUSALS.items():
            cluster.api.refusals = {(verb, resource): (status, message)}
            async with replica(cluster, tmp_path, owner=f"{verb}-{resource}") as services:
                services.use_applications(apps(shop=("a",)))
                await until(lambda services=services, shown=shown: shown in problems(services))  # type: ignore[misc]
                if status == 422:
                    services.use_applications(apps(shop=("a",), store=("a",)))
                    await until(lambda services=services: "store-a: " in problems(services))  # type: ignore[misc]
                    assert cluster.api.refused == {(verb, resource): 2}
                cluster.api.refusals = {}
                if status != 422:
                    await until(lambda: "shop-a" in held(cluster))
                    cluster.remove("Service", f"{NAMESPACE}/shop-a")

    run(work)


def test_of_two_replicas_one_writes_and_the_other_goes_on(cluster: ClusterStandIn, tmp_path: Path) -> None:
    async def work() -> None:
        async with replica(cluster, tmp_path) as second:
            async with replica(cluster, tmp_path) as first:
                for each in (first, second):
                    each.use_applications(apps(shop=("a",)))
                await until(lambda: set(held(cluster)) == {"shop-a"})
                assert [each._election.is_leader for each in (first, second)].count(True) == 1
            second.use_applications(apps(shop=("b",)))
            await until(lambda: set(held(cluster)) == {"shop-b"})

    run(work)


def test_a_service_that_was_given_away_meanwhile_is_not_deleted(cluster: ClusterStandIn, tmp_path: Path) -> None:
    """The labels may be changed after they were read: the version that was read is the precondition."""
    cluster.put(ours("shop-a"))
    read = cluster.get("Service", f"{NAMESPACE}/shop-a") or {}
    cluster.edit("Service", f"{NAMESPACE}/shop-a", lambda item: item["metadata"].update(labels={}))

    async def work() -> None:
        async with replica(cluster, tmp_path) as services:
            client = await services._access.client("/api")
            with pytest.raises(Exception, match="preconditions"):
                await services._delete(client, "shop-a", read)
            await client.close(failed=True)

    run(work)
    assert set(held(cluster)) == {"shop-a"}
