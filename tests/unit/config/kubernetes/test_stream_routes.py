"""TLSRoute, TCPRoute and UDPRoute: upstreams, shares, precedence and statuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastgw.config.kubernetes.cluster import CONTROLLER, Cluster
from fastgw.config.kubernetes.model import Translation
from fastgw.config.kubernetes.translation import translate
from fastgw.config.settings.kubernetes import GatewayAddresses, KubernetesProvider
from tests.support.certificates import Certificates
from tests.support.table import for_each
from tests.unit.config.kubernetes.loading import loaded
from tests.unit.config.kubernetes.test_ingress import object_of, secret_of, service

SETTINGS = KubernetesProvider(addresses=GatewayAddresses(pool=("192.0.2.1",)))


def gateway(protocol: str, **more: Any) -> dict[str, Any]:
    listener = {"name": "one", "port": 9000, "protocol": protocol, **more}
    return object_of("Gateway", "edge", {"gatewayClassName": "fastgw", "listeners": [listener]})


def mixed(passed: str, ended: str) -> dict[str, Any]:
    """Return a Gateway that passes TLS through for one name and ends it for another one, at one port."""
    ending = {"mode": "Terminate", "certificateRefs": [{"name": "pair"}]}
    listeners = [
        {"name": "passing", "port": 9000, "protocol": "TLS", "hostname": passed, "tls": {"mode": "Passthrough"}},
        {"name": "ending", "port": 9000, "protocol": "TLS", "hostname": ended, "tls": ending},
    ]
    return object_of("Gateway", "edge", {"gatewayClassName": "fastgw", "listeners": listeners})


def route(kind: str, name: str, *backends: dict[str, Any], created: str = "2026-01-01T00:00:00Z", **spec: Any) -> Any:
    said = {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": list(backends)}], **spec}
    return object_of(kind, name, said, creationTimestamp=created)


def backend(name: str, weight: int | None = None) -> dict[str, Any]:
    return {"name": name, "port": 80, **({} if weight is None else {"weight": weight})}


def translated(*items: dict[str, Any]) -> Translation:
    class_ = {"kind": "GatewayClass", "metadata": {"name": "fastgw"}, "spec": {"controllerName": CONTROLLER}}
    return translate(Cluster.of([class_, *service("cart"), *service("books"), *items]), SETTINGS)


def parts(made: Translation) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the listeners and the upstreams."""
    listeners: dict[str, Any] = {}
    upstreams: dict[str, Any] = {}
    for piece in made.pieces:
        listeners.update(piece.listeners)
        upstreams.update(piece.upstreams)
    return listeners, upstreams


def resolved(made: Translation, kind: str, name: str) -> tuple[str, str]:
    (parent,) = made.statuses[kind, "shop", name]["parents"]
    (found,) = (each for each in parent["conditions"] if each["type"] == "ResolvedRefs")
    return found["status"], found["reason"]


@pytest.mark.parametrize(("protocol", "scheme", "endpoint"), [("TCP", "tcp", 9000), ("UDP", "udp", 9001)])
def test_the_oldest_route_has_the_listener(protocol: str, scheme: str, endpoint: int) -> None:
    """Its backend is the port of its protocol: a Service may have one number for TCP and UDP."""
    kind = f"{protocol}Route"
    made = translated(
        gateway(protocol),
        route(kind, "newer", backend("books"), created="2026-02-01T00:00:00Z"),
        route(kind, "older", backend("cart")),
    )
    listeners, upstreams = parts(made)
    (listener,) = (each for each in listeners.values() if each.get("protocol") == scheme)
    assert listener["upstream"] == f"shop/cart/80/{scheme}"
    assert upstreams[listener["upstream"]]["targets"] == [{"url": f"{scheme}://198.51.100.7:{endpoint}"}]
    assert made.statuses["Gateway", "shop", "edge"]["listeners"][0]["attachedRoutes"] == 2


@pytest.mark.parametrize(("protocol", "other"), [("TCP", "UDP"), ("UDP", "TCP")])
def test_a_port_of_the_other_protocol_is_no_backend(protocol: str, other: str) -> None:
    dns = object_of("Service", "dns", {"ports": [{"port": 80, "protocol": other}]})
    made = translated(gateway(protocol), dns, route(f"{protocol}Route", "one", backend("dns")))
    (parent,) = made.statuses[f"{protocol}Route", "shop", "one"]["parents"]
    (found,) = (each for each in parent["conditions"] if each["type"] == "ResolvedRefs")
    message = f"the Service shop/dns has no {protocol} port 80; it has 80/{other}"
    assert (found["status"], found["reason"], found["message"]) == ("False", "BackendNotFound", message)


@for_each(
    ("weights", "upstream"),
    [
        ({"cart": 70, "books": 30}, {"shop/cart/80/tcp": 70, "shop/books/80/tcp": 30}),
        ({"cart": 20, "missing": 50, "gone": 30}, {"shop/cart/80/tcp": 20, "kubernetes/no-targets": 80}),
        ({"cart": 1, "idle": 1}, {"shop/cart/80/tcp": 1, "shop/idle/80/tcp": 1}),
        ({"cart": 1, "missing": 0}, "shop/cart/80/tcp"),
        ({"cart": 0, "missing": 1}, "kubernetes/no-targets"),
        (
            {"missing": 1_000_000, "gone": 1_000_000, "cart": 1_000_000},
            {"kubernetes/no-targets": 1_000_000, "shop/cart/80/tcp": 500_000},
        ),
        ({}, "kubernetes/no-targets"),
    ],
)
@for_each("kind", ["TCPRoute", "TLSRoute", "UDPRoute"])
def test_backends_have_their_shares(kind: str, weights: dict[str, int], upstream: Any) -> None:
    """Connections to a backend that is not valid or has no endpoint are rejected, by its weight (`backendRefs`)."""
    protocol = kind.removesuffix("Route")
    more = {"tls": {"mode": "Passthrough"}} if protocol == "TLS" else {}
    idle, _ = service("idle")
    backends = [backend(name, weight) for name, weight in weights.items()]
    made = translated(gateway(protocol, **more), idle, route(kind, "both", *backends))
    listeners, upstreams = parts(made)
    (listener,) = (each for each in listeners.values() if "protocol" in each)
    said = listener["routes"][0]["upstream"] if protocol == "TLS" else listener["upstream"]
    scheme = "udp" if protocol == "UDP" else "tcp"
    named = {upstream: 1} if isinstance(upstream, str) else upstream
    named = {name.replace("/tcp", f"/{scheme}"): share for name, share in named.items()}
    assert said == (next(iter(named)) if len(named) == 1 else named)
    for name in named:
        assert bool(upstreams[name]["targets"]) == ("cart" in name or "books" in name)
    lacking = "missing" in weights
    assert resolved(made, kind, "both") == (("False", "BackendNotFound") if lacking else ("True", "ResolvedRefs"))
    assert loaded(made).refused_objects == {}


def test_each_backend_has_its_own_tls(tmp_path: Path) -> None:
    """A BackendTLSPolicy is for the connections to its Service alone."""
    authority = object_of("ConfigMap", "ca", {})
    authority["data"] = {"ca.crt": Path(Certificates(tmp_path).ca).read_text()}
    validation = {"hostname": "books.test", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}
    references = [{"group": "", "kind": "Service", "name": "books"}]
    policy = object_of("BackendTLSPolicy", "books", {"targetRefs": references, "validation": validation})
    made = translated(gateway("TCP"), authority, policy, route("TCPRoute", "both", backend("cart"), backend("books")))
    upstreams = parts(made)[1]
    assert "tls" not in upstreams["shop/cart/80/tcp"]
    assert upstreams["shop/books/80/tcp"]["tls"]["server_name"] == "books.test"
    assert loaded(made).refused_objects == {}


def test_tls_routes_are_selected_by_server_name() -> None:
    made = translated(
        gateway("TLS", hostname="*.example.com", tls={"mode": "Passthrough"}),
        route("TLSRoute", "a", backend("cart"), hostnames=["a.example.com", "b.other.example"]),
        route("TLSRoute", "rest", backend("books")),
    )
    listener = parts(made)[0]["gateway/shop/edge/9000"]
    assert listener["protocol"] == "tls"
    assert listener["routes"] == [
        {"upstream": "shop/cart/80/tcp", "sni": ["a.example.com"]},
        {"upstream": "shop/books/80/tcp", "sni": ["*.example.com"]},
        {"upstream": "kubernetes/no-targets"},  # any other name is reset
    ]


def test_tls_is_passed_through_for_some_names_and_ends_for_others_at_one_port(tmp_path: Path) -> None:
    """The more specific listener has the name; other names are reset before a handshake."""
    made = translated(
        secret_of(tmp_path),
        mixed("*.example.com", "a.example.com"),
        route("TLSRoute", "passed", backend("cart"), parentRefs=[{"name": "edge", "sectionName": "passing"}]),
        route("TLSRoute", "ended", backend("books"), parentRefs=[{"name": "edge", "sectionName": "ending"}]),
    )
    listener = parts(made)[0]["gateway/shop/edge/9000"]
    assert (listener["protocol"], len(listener["tls"]["certificates"])) == ("tcp", 1)
    assert listener["routes"] == [
        {"upstream": "shop/books/80/tcp", "sni": ["a.example.com"]},
        {"upstream": "shop/cart/80/tcp", "passthrough": True, "sni": ["*.example.com"]},
        {"upstream": "kubernetes/no-targets", "passthrough": True},
    ]
    assert [each["attachedRoutes"] for each in made.statuses["Gateway", "shop", "edge"]["listeners"]] == [1, 1]
    assert loaded(made).refused_objects == {}


def test_listeners_of_both_modes_for_one_name_conflict(tmp_path: Path) -> None:
    made = translated(secret_of(tmp_path), mixed("a.example.com", "a.example.com"))
    for each in made.statuses["Gateway", "shop", "edge"]["listeners"]:
        (accepted,) = (found for found in each["conditions"] if found["type"] == "Accepted")
        assert (accepted["status"], accepted["reason"]) == ("False", "HostnameConflict")


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "TLS"])
def test_a_route_without_a_usable_backend_leaves_its_gateway_in_force(protocol: str) -> None:
    more = {"tls": {"mode": "Passthrough"}} if protocol == "TLS" else {}
    made = translated(gateway(protocol, **more), route(f"{protocol}Route", "gone", backend("gone")))
    assert loaded(made).refused_objects == {}
