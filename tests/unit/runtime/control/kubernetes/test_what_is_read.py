"""What the controller reads of a cluster: Secrets that objects may refer to, in the namespaces that it follows, and the
kinds without which it serves nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.kubernetes.cluster import KINDS
from fastgw.config.kubernetes.provider import FILE
from fastgw.config.settings.kubernetes import GatewayAddresses, KubernetesProvider
from fastgw.runtime.control.kubernetes import cluster_controller
from fastgw.runtime.control.kubernetes.api_client import UNREADABLE, ClusterAccess, SharedAccess
from fastgw.runtime.control.kubernetes.cluster_controller import (
    PROTECTING,
    ClusterController,
    namespaces_of,
    watches_of,
)
from fastgw.runtime.control.kubernetes.cluster_objects import ClusterObjects
from fastgw.runtime.reload.activation import Activation
from tests.support.cluster import ClusterStandIn
from tests.support.gateway import wait_until

LONG = 30.0


def secret(name: str, kind: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": {"name": name, "namespace": "shop"}}


def test_secrets_of_types_that_no_object_refers_to_are_not_sent(tmp_path: Path) -> None:
    """Releases of Helm may be larger than all that is read."""
    with ClusterStandIn() as cluster:
        file = cluster.kubeconfig(tmp_path / "kubeconfig")
        cluster.put(secret("release", "helm.sh/release.v1"), secret("pair", "kubernetes.io/tls"))
        cluster.put(secret("account", "kubernetes.io/service-account-token"), secret("login", "Opaque"))
        access = SharedAccess(ClusterAccess(KubernetesProvider(kubeconfig=str(file)), file.read_bytes()))
        changed = asyncio.Event()
        objects = ClusterObjects(changed.set, lambda: None)
        (following,) = watches_of(KINDS["Secret"], (), access, objects)

        async def known(*names: str) -> None:
            async with asyncio.timeout(LONG):
                while {name for _, name in objects.cluster().all("Secret")} != {*names}:
                    await changed.wait()
                    changed.clear()

        async def run() -> None:
            running = asyncio.create_task(following.run())
            try:
                await known("pair", "login")
                more = secret("second-release", "helm.sh/release.v1"), secret("later", "Opaque")
                await asyncio.to_thread(cluster.put, *more)
                await known("pair", "login", "later")
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

        asyncio.run(run())


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("Secret", ("shop",)),
        ("HTTPRoute", ("shop",)),
        ("Service", ("shop", "edge")),
        ("EndpointSlice", ("shop", "edge")),
    ],
)
def test_the_pods_own_service_is_read_beside_the_namespaces_that_are_followed(kind: str, read: tuple[str, ...]) -> None:
    """The Services of Gateways lead to its endpoints."""
    some = KubernetesProvider(namespaces=("shop",))
    assert namespaces_of(KINDS[kind], some, "edge") == read
    assert namespaces_of(KINDS[kind], some, "shop") == ("shop",)
    assert namespaces_of(KINDS[kind], KubernetesProvider(), "edge") == ()
    bare = KubernetesProvider(namespaces=("shop",), addresses=GatewayAddresses(pool=("127.0.0.2",)))
    assert namespaces_of(KINDS[kind], bare, "edge") == ("shop",)


@pytest.mark.parametrize("kind", [*PROTECTING, "Secret", "UDPRoute"])
def test_nothing_is_served_before_the_kinds_that_protect_routes_are_listed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A route must not be served without its policy because the API server cannot list policies now. Other kinds are
    left out: without them less is served.
    """
    monkeypatch.setattr(cluster_controller, "LIST_S", 1.0)
    feed = f"{FILE}/{KINDS[kind].plural}"
    with ClusterStandIn() as cluster:
        file = cluster.kubeconfig(tmp_path / "kubeconfig")
        settings = KubernetesProvider(kubeconfig=str(file), addresses=GatewayAddresses(pool=("127.0.0.2",)))
        access = SharedAccess(ClusterAccess(settings, file.read_bytes()))
        cluster.api.failing = frozenset((KINDS[kind].plural,))
        taken = asyncio.Event()

        async def take() -> Activation:
            taken.set()
            return Activation(is_tried=True)

        async def run() -> None:
            controller = ClusterController(settings, access, "default", take)
            running = asyncio.create_task(controller.run())

            def said() -> str:
                return next((each.problem for each in controller.feed_infos() if each.feed == FILE), "")

            try:
                if kind in PROTECTING:
                    await asyncio.to_thread(wait_until, lambda: bool(said()), "the wait to be reported", LONG)
                    assert feed in said()
                    assert "no object is served before it" in said()
                    assert not taken.is_set()
                    cluster.api.failing = frozenset()
                async with asyncio.timeout(LONG):
                    await taken.wait()
                assert not said()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

        asyncio.run(run())


def version(number: int, host: str) -> bytes:
    metadata = {"name": "cart", "namespace": "shop", "resourceVersion": str(number)}
    return json.dumps({"metadata": metadata, "spec": {"hostnames": [host]}}).encode()


@pytest.mark.parametrize(
    ("seen", "known"),
    [
        ([], ("6", "a.example")),
        ([version(6, "a.example")], ("6", "a.example")),
        ([version(6, "a.example"), version(7, "b.example")], ("7", "b.example")),
        ([None], None),
        ([None, version(9, "c.example")], ("9", "c.example")),
    ],
)
def test_the_answer_to_a_write_replaces_nothing_that_was_seen_since(
    seen: list[bytes | None], known: tuple[str, str] | None
) -> None:
    """The watch may show a later change, or that the object is deleted, before the answer arrives."""
    objects = ClusterObjects(lambda: None, lambda: None)
    objects.store("HTTPRoute", "shop/cart", version(5, "a.example"))
    before = objects.latest("HTTPRoute", "shop", "cart")
    assert before is not None
    for raw in seen:
        if raw is None:
            objects.delete("HTTPRoute", "shop/cart")
        else:
            objects.store("HTTPRoute", "shop/cart", raw)
    objects.store_written("HTTPRoute", version(6, "a.example"), before)
    latest = objects.latest("HTTPRoute", "shop", "cart")
    assert (latest and (latest["metadata"]["resourceVersion"], latest["spec"]["hostnames"][0])) == known
    served = objects.cluster().get("HTTPRoute", "shop", "cart")
    assert (served and served["spec"]) == (latest and latest["spec"])


def test_a_list_with_an_object_that_cannot_be_decoded_replaces_none() -> None:
    """Otherwise the next list would find the objects gone that this one has taken away, and report no change."""
    changes: list[None] = []
    objects = ClusterObjects(lambda: changes.append(None), lambda: None)
    objects.store("HTTPRoute", "shop/cart", version(5, "a.example"))
    objects.store("HTTPRoute", "shop/till", version(5, "b.example"))
    changes.clear()
    with pytest.raises(UNREADABLE):
        objects.replace("HTTPRoute", {"shop/till": version(6, "c.example").replace(b"c.e", b"\xff.e")}, ())
    assert (
        sorted(objects.cluster().get("HTTPRoute", "shop", each) is not None for each in ("cart", "till")) == [True] * 2
    )
    assert not changes
    objects.replace("HTTPRoute", {"shop/till": version(5, "b.example")}, ())
    assert objects.cluster().get("HTTPRoute", "shop", "cart") is None
    assert len(changes) == 1
