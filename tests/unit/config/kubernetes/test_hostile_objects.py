"""Objects of a tenant that aim at others: what they cost, and what they take, is their own."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.config.kubernetes.cluster import CONTROLLER, Cluster
from fastgw.config.kubernetes.model import Translation
from fastgw.config.kubernetes.translation import translate
from fastgw.config.settings.kubernetes import GatewayAddresses, KubernetesProvider
from tests.unit.config.kubernetes.test_ingress import object_of
from tests.unit.config.kubernetes.test_stream_routes import backend, gateway, route
from tests.unit.config.kubernetes.test_stream_routes import translated as in_pool

WITH_SERVICES = KubernetesProvider(addresses=GatewayAddresses(service="fastgw"))
CLASS = {"kind": "GatewayClass", "metadata": {"name": "fastgw"}, "spec": {"controllerName": CONTROLLER}}


def a_gateway(namespace: str, name: str, created: str) -> dict[str, Any]:
    listener = {"name": "web", "port": 80, "protocol": "HTTP"}
    spec = {"gatewayClassName": "fastgw", "listeners": [listener]}
    return object_of("Gateway", name, spec, namespace=namespace, creationTimestamp=created)


def its_service(namespace: str, name: str, target: Any) -> dict[str, Any]:
    return object_of("Service", name, {"ports": [{"port": 80, "targetPort": target}]}, namespace=namespace)


def ports_of(*items: dict[str, Any]) -> dict[str, int]:
    """Return the ports of the pods that the Services of the Gateways shall have, by namespace and name."""
    made = translate(Cluster.of([CLASS, *items]), WITH_SERVICES)
    bodies = (child.body for child in made.children if child.body["kind"] == "Service")
    return {
        f"{each['metadata']['namespace']}/{each['metadata']['name']}": each["spec"]["ports"][0]["targetPort"]
        for each in bodies
    }


@pytest.mark.parametrize("target", [20_000, 8080, 9901, 22, 70_000, "web"])
def test_a_service_that_its_owner_has_changed_takes_no_port_of_another_gateway(target: Any) -> None:
    ports = ports_of(
        a_gateway("shop", "edge", "2026-01-01T00:00:00Z"),
        a_gateway("evil", "edge", "2026-01-02T00:00:00Z"),
        its_service("shop", "fastgw-edge", 20_000),
        its_service("evil", "fastgw-edge", target),
    )
    assert ports == {"shop/fastgw-edge": 20_000, "evil/fastgw-edge": 20_001}


def test_gateways_have_services_of_different_names() -> None:
    created = "2026-01-01T00:00:00Z"
    names = [*ports_of(*(a_gateway("shop", name, created) for name in ("a.b", "a-b", "a.b.c", "a-b.c")))]
    assert len(names) == 4
    assert "shop/fastgw-a-b" in names


def unsupported(made: Translation) -> str:
    (parent,) = made.statuses["HTTPRoute", "shop", "cart"]["parents"]
    found = [each["message"] for each in parent["conditions"] if each["type"] == "PartiallyInvalid"]
    return str(found[0]) if found else ""


@pytest.mark.parametrize("kind", ["path", "headers"])
def test_a_regular_expression_that_takes_long_to_compile_is_refused(kind: str) -> None:
    """RE2 compiles in time that grows with the square of the instructions: this one would take minutes."""
    said = {"type": "RegularExpression", "value": "x{0,1000}" * 100}
    match = {"path": said} if kind == "path" else {"headers": [{"name": "X-A", **said}]}
    made = in_pool(
        gateway("HTTP"), route("HTTPRoute", "cart", rules=[{"matches": [match], "backendRefs": [backend("cart")]}])
    )
    assert "x{0,1000}" in unsupported(made)
    assert not [piece for piece in made.pieces if piece.object == "HTTPRoute/shop/cart"]
