"""Ingress: classes, hosts, paths, certificates, annotations and statuses."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.config.kubernetes.cluster import INGRESS_CONTROLLER, Cluster
from fastgw.config.kubernetes.ingress import HTTP, HTTPS
from fastgw.config.kubernetes.model import Translation
from fastgw.config.kubernetes.refusals import warnings_of
from fastgw.config.kubernetes.translation import translate
from fastgw.config.settings.kubernetes import GatewayAddresses, KubernetesProvider
from fastgw.config.sources.virtual_files import cluster_name
from tests.support.certificates import Certificates
from tests.support.cluster import in_namespace
from tests.unit.config.kubernetes.loading import loaded

POOL = KubernetesProvider(addresses=GatewayAddresses(pool=("192.0.2.1-192.0.2.2",)), port_offset=8000)


def object_of(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"namespace": "shop", "name": name, "generation": 1, **metadata}, "spec": spec}


def ingress_class(**annotations: str) -> dict[str, Any]:
    item = object_of("IngressClass", "fastgw", {"controller": INGRESS_CONTROLLER}, annotations=annotations)
    item["metadata"]["namespace"] = ""
    return item


def service(name: str, port: int = 80) -> list[dict[str, Any]]:
    """Return a Service, whose port has the same number for TCP and UDP, and its EndpointSlice."""
    ports = [{"name": "web", "port": port}, {"name": "web-udp", "port": port, "protocol": "UDP"}]
    endpoints = [{"addresses": ["198.51.100.7"], "conditions": {"ready": True}}]
    slices = {
        "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "web", "port": 9000}, {"name": "web-udp", "port": 9001, "protocol": "UDP"}],
    }
    return [object_of("Service", name, {"ports": ports}), slices]


def rule(host: str = "", path: str = "/", kind: str = "Prefix", to: str = "cart", port: Any = None) -> dict[str, Any]:
    backend = {"service": {"name": to, "port": port or {"number": 80}}}
    made: dict[str, Any] = {"http": {"paths": [{"path": path, "pathType": kind, "backend": backend}]}}
    return {**made, "host": host} if host else made


def ingress(*rules: dict[str, Any], annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    said = {"ingressClassName": "fastgw", "rules": list(rules), **spec}
    return object_of("Ingress", "front", said, annotations=annotations or {})


def translated(*items: dict[str, Any], settings: KubernetesProvider = POOL) -> Translation:
    return translate(Cluster.of([ingress_class(), *service("cart"), *items]), settings)


def routes_of(translation: Translation) -> list[dict[str, Any]]:
    return [route for piece in translation.pieces if piece.object.startswith("Ingress/") for route in piece.routes]


@pytest.mark.parametrize(
    ("path", "kind", "pattern"),
    [
        ("/foo", "Exact", "/foo"),
        ("/foo/", "Exact", "/foo/"),
        ("/foo", "Prefix", "/foo/*"),
        ("/foo/", "Prefix", "/foo/*"),
        ("/", "Prefix", "/*"),
        ("/foo", "ImplementationSpecific", "/foo/*"),
        ("/a{b}", "Exact", r"~^/a\{b\}$"),
    ],
)
def test_path_types(path: str, kind: str, pattern: str) -> None:
    (route,) = routes_of(translated(ingress(rule("a.example", path, kind))))
    assert (route["hosts"], route["paths"], route["upstream"]) == (["a.example"], [pattern], "shop/cart/80")


def test_a_wildcard_stands_for_one_label() -> None:
    """networking.k8s.io/v1, IngressRule: `*.foo.com` does not match `baz.bar.foo.com`."""
    (route,) = routes_of(translated(ingress(rule("*.foo.com"))))
    assert route["hosts"] == ["*.foo.com"]
    assert route["headers"]["host"]["regex"].startswith("(?i)^[^.:]+")


def test_a_default_backend_takes_what_no_rule_matches() -> None:
    said = ingress(rule("a.example"), defaultBackend={"service": {"name": "cart", "port": {"name": "web"}}})
    *_, default = routes_of(translated(said))
    assert "hosts" not in default
    assert "paths" not in default
    assert default["upstream"] == "shop/cart/80"


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        (
            {"port": {"number": 81}},
            'the Service shop/cart has no TCP port 81; it has 80/TCP ("web"), 80/UDP ("web-udp")',
        ),
        (
            {"port": {"name": "other"}},
            'the Service shop/cart has no TCP port other; it has 80/TCP ("web"), 80/UDP ("web-udp")',
        ),
        ({"to": "gone"}, "the Service shop/gone does not exist"),
    ],
)
def test_a_missing_service_or_port_is_answered_503_and_told(backend: dict[str, Any], why: str) -> None:
    made = translated(ingress(rule("a.example", **backend)))
    (route,) = routes_of(made)
    assert route["respond"] == {"status": 503}
    assert made.warnings == {("Ingress", "shop", "front"): f"rule 0/0: {why}: its requests are answered 503"}


@pytest.mark.parametrize(
    ("item", "classes", "is_served"),
    [
        (ingress(rule()), ingress_class(), True),
        (ingress(rule(), ingressClassName="nginx"), ingress_class(), False),
        (ingress(rule(), ingressClassName=None), ingress_class(), False),
        (
            ingress(rule(), ingressClassName=None),
            ingress_class(**{"ingressclass.kubernetes.io/is-default-class": "true"}),
            True,
        ),
        (
            ingress(rule(), ingressClassName=None, annotations={"kubernetes.io/ingress.class": "fastgw"}),
            ingress_class(),
            True,
        ),
    ],
)
def test_classes(item: dict[str, Any], classes: dict[str, Any], is_served: bool) -> None:
    made = translate(Cluster.of([classes, *service("cart"), item]), POOL)
    assert bool(routes_of(made)) is is_served
    assert (("Ingress", "shop", "front") in made.statuses) is is_served


def test_the_address_is_the_last_one_of_the_pool() -> None:
    made = translated(ingress(rule()))
    assert made.statuses["Ingress", "shop", "front"] == {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}}
    (listeners,) = (piece.listeners for piece in made.pieces if piece.object == "Ingress")
    assert listeners.keys() == {HTTP}
    assert listeners[HTTP]["address"] == "192.0.2.2:8080"


def test_the_address_is_that_of_the_service_of_the_pods() -> None:
    own = object_of("Service", "fastgw", {"clusterIP": "10.0.0.9", "ports": []})
    own["metadata"]["namespace"] = "fastgw-system"
    cluster = Cluster.of([ingress_class(), *service("cart"), ingress(rule()), own])
    made = translate(cluster, KubernetesProvider(), "fastgw-system")
    assert made.statuses["Ingress", "shop", "front"]["loadBalancer"] == {"ingress": [{"ip": "10.0.0.9"}]}
    (listeners,) = (piece.listeners for piece in made.pieces if piece.object == "Ingress")
    assert listeners[HTTP]["address"] == ":8080"


def test_certificates_are_for_the_hosts_of_their_entry(tmp_path: Any) -> None:
    secret = secret_of(tmp_path)
    tls = [{"hosts": ["A.example"], "secretName": "pair"}, {"secretName": "missing"}]
    made = translated(ingress(rule("a.example"), tls=tls), secret)
    (listeners,) = (piece.listeners for piece in made.pieces if piece.object == "Ingress")
    (pair,) = listeners[HTTPS]["tls"]["certificates"]
    assert pair["hosts"] == ["a.example"]
    (route,) = routes_of(made)
    assert route["listeners"] == [HTTP, HTTPS]


def test_requests_are_redirected_to_https_where_that_is_asked_for(tmp_path: Any) -> None:
    said = ingress(rule("a.example"), tls=[{"secretName": "pair"}], annotations={"fastgw.dev/https-redirect": "true"})
    first, second = routes_of(translated(said, secret_of(tmp_path)))
    assert (first["listeners"], first["redirect"]) == ([HTTP], {"scheme": "https"})
    assert (second["listeners"], second["upstream"]) == ([HTTPS], "shop/cart/80")


def test_without_a_certificate_a_redirect_to_https_is_one_all_the_same() -> None:
    """The content is not for plain HTTP, also while the Secret is missing."""
    said = ingress(rule("a.example"), tls=[{"secretName": "gone"}], annotations={"fastgw.dev/https-redirect": "true"})
    (route,) = routes_of(translated(said))
    assert (route["listeners"], route["redirect"]) == ([HTTP], {"scheme": "https"})


def with_certificate(name: str, namespace: str, created: str, *hosts: str, secret: str = "pair") -> dict[str, Any]:
    """Return an Ingress for a.example with a certificate. `hosts`: of it; none: the names in it."""
    tls = [{"secretName": secret, **({"hosts": [*hosts]} if hosts else {})}]
    item = ingress(rule("a.example"), tls=tls)
    item["metadata"] |= {"name": name, "namespace": namespace, "creationTimestamp": f"2026-{created}T00:00:00Z"}
    return item


OLDER = with_certificate("older", "shop", "01-01", "a.example")


@pytest.mark.parametrize("second", ["a.example", ""])
@pytest.mark.parametrize("namespace", ["shop", "other"])
@pytest.mark.parametrize("is_first_valid", [True, False])
def test_the_certificates_for_a_host_are_those_of_the_oldest_ingress_that_names_it(
    tmp_path: Any, second: str, namespace: str, is_first_valid: bool
) -> None:
    """A newer one, with a certificate that clients may prefer, takes over no host, also while the Secret of the older
    one is missing. Its other hosts have its certificate.
    """
    older, *secrets = OLDER, secret_of(tmp_path) if is_first_valid else object_of("Secret", "pair", {})
    second_secret = secret_of(tmp_path, "a.example", "b.example", name="mine", namespace=namespace)
    hosts = (second, "b.example") if second else ()
    newer = with_certificate("newer", namespace, "02-01", *hosts, secret="mine")
    made = translated(newer, older, *secrets, second_secret, *in_namespace(namespace, *service("cart")))
    (listeners,) = (piece.listeners for piece in made.pieces if piece.object == "Ingress")
    found = [(pair["certificate"], pair["hosts"]) for pair in listeners[HTTPS]["tls"]["certificates"]]
    first = [(cluster_name("Secret", "shop", "pair", "tls.crt"), ["a.example"])] if is_first_valid else []
    assert found == [*first, (cluster_name("Secret", namespace, "mine", "tls.crt"), ["b.example"])]
    said = "spec.tls: an older Ingress has another certificate for a.example"
    assert made.warnings["Ingress", namespace, "newer"] == said
    assert ("Ingress", "shop", "older") not in made.warnings or not is_first_valid


@pytest.mark.parametrize("namespace", ["shop", "other"])
def test_ingresses_may_share_a_certificate(tmp_path: Any, namespace: str) -> None:
    """Paths of one host in several Ingresses, of which each names the Secret, or has a copy in its namespace."""
    pair = secret_of(tmp_path)
    copies = in_namespace("other", pair, *service("cart"))
    newer = with_certificate("newer", namespace, "02-01", "a.example")
    assert not translated(OLDER, newer, pair, *copies).warnings


def test_an_ingress_may_have_several_certificates_for_a_host(tmp_path: Any) -> None:
    """Of different types of keys, for clients that know one of them alone."""
    tls = [{"hosts": ["a.example"], "secretName": name} for name in ("pair", "second")]
    made = translated(ingress(rule("a.example"), tls=tls), secret_of(tmp_path), secret_of(tmp_path, name="second"))
    (listeners,) = (piece.listeners for piece in made.pieces if piece.object == "Ingress")
    assert [pair["hosts"] for pair in listeners[HTTPS]["tls"]["certificates"]] == [["a.example"]] * 2
    assert not made.warnings


def secret_of(directory: Any, *names: str, name: str = "pair", namespace: str = "shop") -> dict[str, Any]:
    from base64 import b64encode
    from pathlib import Path

    certificate, key = Certificates(directory).issue(*(names or ("other.example",)))
    data = {"tls.crt": certificate, "tls.key": key}
    item = object_of("Secret", name, {}, namespace=namespace)
    item["data"] = {name: b64encode(Path(file).read_bytes()).decode() for name, file in data.items()}
    return item


def test_annotations_are_settings_of_the_routes() -> None:
    said = {"timeout": "5s", "body-size": "1MiB", "allow": "10.0.0.0/8, 192.0.2.0/24", "backend-protocol": "http2"}
    item = ingress(rule("a.example"), annotations={f"fastgw.dev/{key}": value for key, value in said.items()})
    (route,) = routes_of(translated(item))
    assert route["timeout"] == "5s"
    assert route["filters"] == {"size": {"body": "1MiB"}, "ip": {"allow": ["10.0.0.0/8", "192.0.2.0/24"]}}
    assert route["upstream"] == "shop/cart/80/http2"


@pytest.mark.parametrize(
    ("annotation", "value", "why"),
    [
        ("retries", "\u00b2", "retries.max"),
        ("retries", "9" * 5_000, "retries.max"),
        ("retries", "many", "retries.max"),
        ("allow", " , ", "filters.ip.allow"),
        ("host-header", "a\r\nX-B: 1", "host_header"),
        ("add-prefix", "/a\r\nX-B: 1", "add_prefix"),
    ],
)
def test_an_annotation_that_is_wrong_is_the_problem_of_its_own_ingress(annotation: str, value: str, why: str) -> None:
    """An empty list of networks allows nobody: it must not allow all."""
    other = ingress(rule("b.example"))
    other["metadata"] = {**other["metadata"], "name": "other"}
    found = loaded(translated(ingress(rule("a.example"), annotations={f"fastgw.dev/{annotation}": value}), other))
    assert [*found.refused_objects] == ["Ingress/shop/front"]
    assert why in found.refused_objects["Ingress/shop/front"]
    assert [route.hosts for route in found.config.routes if route.name.startswith("Ingress/")] == [("b.example",)]


@pytest.mark.parametrize(
    ("annotation", "value", "why"),
    [
        ("alow", "10.0.0.0/8", 'annotation fastgw.dev/alow is unknown; did you mean "allow"?'),
        ("https-redirect", "yes", 'annotation fastgw.dev/https-redirect: "yes"; expected true or false'),
        (
            "backend-protocol",
            "h2c",
            'annotation fastgw.dev/backend-protocol: "h2c"; expected http1 or http2 or grpc or https',
        ),
        ("timeout", "30", 'rule 0/0: timeout: "30" has no unit'),
    ],
)
def test_a_wrong_annotation_is_told_and_its_ingress_is_not_served(annotation: str, value: str, why: str) -> None:
    """What would protect it is not left out in silence."""
    made = translated(ingress(rule("a.example"), annotations={f"fastgw.dev/{annotation}": value, "other.dev/a": "b"}))
    found = loaded(made)
    warning = warnings_of(made.warnings, found.refused_objects)["Ingress", "shop", "front"]
    assert warning.startswith(f"it is not served: {why}")
    assert [each for each in found.config.routes if each.name.startswith("Ingress/")] == []


def test_https_to_a_service_has_the_name_of_the_service_and_an_upstream_of_its_own() -> None:
    """Certificates are for names, and targets are addresses. Another Ingress may use the same port without TLS."""
    plain = {**ingress(rule("b.example")), "metadata": {"namespace": "shop", "name": "plain"}}
    made = translated(ingress(rule("a.example"), annotations={"fastgw.dev/backend-protocol": "https"}), plain)
    upstreams = {name: each for piece in made.pieces for name, each in piece.upstreams.items()}
    assert upstreams["shop/cart/80/https"]["targets"] == [{"url": "https://198.51.100.7:9000"}]
    assert upstreams["shop/cart/80/https"]["tls"] == {"server_name": "cart.shop.svc"}
    assert upstreams["shop/cart/80"]["targets"] == [{"url": "http://198.51.100.7:9000"}]
    assert not loaded(made).refused_objects
