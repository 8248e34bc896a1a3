"""Translation of Kubernetes objects: configuration and statuses, without a cluster."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fastgw.config import load_text
from fastgw.config.base.value_types import LONGEST_DURATION
from fastgw.config.kubernetes.cluster import CONTROLLER, INGRESS_CONTROLLER, Cluster, key_of, selects
from fastgw.config.kubernetes.model import Elsewhere, ObjectId, Translation
from fastgw.config.kubernetes.provider import FILE
from fastgw.config.kubernetes.refusals import with_refusals
from fastgw.config.kubernetes.translation import Translator
from fastgw.config.settings.kubernetes import GatewayAddresses, KubernetesProvider, addresses_in
from fastgw.filters import TYPES
from fastgw.runtime.control.kubernetes.status_writer import merged_status, status_to_write
from tests.support.table import for_each

SETTINGS = KubernetesProvider(addresses=GatewayAddresses(pool=("127.0.0.2-127.0.0.9",)), port_offset=8000)
GROUP = "gateway.networking.k8s.io"


def an_object(kind: str, name: str, spec: Any = None, namespace: str = "shop", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "generation": 3, "creationTimestamp": more.pop("created", "2026-01-01T00:00:00Z")}
    if namespace:
        metadata["namespace"] = namespace
    return {"kind": kind, "metadata": {**metadata, **more.pop("metadata", {})}, "spec": spec or {}, **more}


def the_class(name: str = "fastgw") -> dict[str, Any]:
    return an_object("GatewayClass", name, {"controllerName": CONTROLLER}, "")


def a_gateway(name: str = "web", *listeners: dict[str, Any], **more: Any) -> dict[str, Any]:
    held = listeners or ({"name": "http", "port": 80, "protocol": "HTTP"},)
    return an_object("Gateway", name, {"gatewayClassName": "fastgw", "listeners": list(held), **more})


INGRESS_CLASS = an_object("IngressClass", "fastgw", {"controller": INGRESS_CONTROLLER}, "")
CART = {"group": GROUP, "kind": "HTTPRoute", "name": "cart"}


def a_service(name: str = "cart", namespace: str = "shop", **port: Any) -> list[dict[str, Any]]:
    ports = [{"name": "http", "port": 80, **port}]
    labels = {"labels": {"kubernetes.io/service-name": name}}
    endpoints = [
        {"addresses": ["10.0.0.2"], "conditions": {"ready": True}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": False, "serving": True}},
    ]
    return [
        an_object("Service", name, {"ports": ports}, namespace),
        an_object(
            "EndpointSlice",
            f"{name}-1",
            None,
            namespace,
            metadata=labels,
            ports=[{"name": "http", "port": 9000}],
            endpoints=endpoints,
            addressType="IPv4",
        ),
    ]


def renamed(item: dict[str, Any], name: str, **members: Any) -> dict[str, Any]:
    return {**item, "metadata": {**item["metadata"], "name": name}, **members}


def a_route(name: str = "cart", *rules: dict[str, Any], kind: str = "HTTPRoute", **more: Any) -> dict[str, Any]:
    held = rules or ({"backendRefs": [{"name": "cart", "port": 80}]},)
    parents = more.pop("parents", [{"name": "web"}])
    return an_object(kind, name, {"parentRefs": parents, "rules": list(held), **more})


def translated(*items: Any) -> Translation:
    flat = [each for item in items for each in (item if isinstance(item, list) else [item])]
    return Translator(SETTINGS, "fastgw").translate(Cluster.of(flat))[0]


def routes_in(translation: Translation, of: str) -> list[dict[str, Any]]:
    return [route for piece in translation.pieces if piece.object == of for route in piece.routes]


def conditions_in(status: Any) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}


def at_parent(translation: Translation, name: str, kind: str = "HTTPRoute") -> dict[str, tuple[str, str]]:
    return conditions_in(translation.statuses[kind, "shop", name]["parents"][0])


def loaded(*items: Any) -> Any:
    flat = [each for item in items for each in (item if isinstance(item, list) else [item])]
    content = Translator(SETTINGS, "fastgw").translate(Cluster.of(flat))[1]
    text = b"version: 1\nadmin: null\nproviders: {kubernetes: {kubeconfig: kube, addresses: {pool: [127.0.0.2]}}}\n"
    kube = b"current-context: a\ncontexts: [{name: a, context: {}}]\n"
    return load_text(text, "/etc/gw.yaml", TYPES, instead={"/etc/kube": kube, FILE: content})


def test_a_route_of_a_gateway_becomes_a_route_on_its_listener_with_the_ready_endpoints() -> None:
    found = loaded(the_class(), a_gateway(), a_service(), a_route(hostnames=["shop.example"]))
    listener = found.config.listeners["gateway/shop/web/80"]
    assert str(listener.address) == "127.0.0.2:8080"
    route = next(each for each in found.config.routes if each.name.startswith("HTTPRoute"))
    assert (route.hosts, route.paths, route.upstream) == (("shop.example",), ("/*",), "shop/cart/80")
    assert [str(each.url) for each in found.config.upstreams["shop/cart/80"].targets] == ["http://10.0.0.2:9000"]


def test_statuses_have_the_generation_and_count_routes() -> None:
    translation = translated(the_class(), a_gateway(), a_service(), a_route(), a_route("other"))
    gateway = translation.statuses["Gateway", "shop", "web"]
    assert conditions_in(gateway)["Programmed"] == ("True", "Programmed")
    assert {each["observedGeneration"] for each in gateway["conditions"]} == {3}
    assert gateway["addresses"] == [{"type": "IPAddress", "value": "127.0.0.2"}]
    assert gateway["listeners"][0]["attachedRoutes"] == 2
    assert {each["kind"] for each in gateway["listeners"][0]["supportedKinds"]} == {"HTTPRoute", "GRPCRoute"}
    parent = translation.statuses["HTTPRoute", "shop", "cart"]["parents"][0]
    assert parent["parentRef"] == {"group": GROUP, "kind": "Gateway", "name": "web"}
    assert conditions_in(parent)["Accepted"] == ("True", "Accepted")


@pytest.mark.parametrize(
    ("parent", "hostname", "reason"),
    [
        ({"name": "web", "sectionName": "no"}, None, "NoMatchingParent"),
        ({"name": "web", "port": 81}, None, "NoMatchingParent"),
        ({"name": "web"}, "other.example", "NoMatchingListenerHostname"),
        ({"name": "web"}, "a.shop.example", "Accepted"),
    ],
)
def test_a_route_that_no_listener_takes_says_why(parent: Any, hostname: str | None, reason: str) -> None:
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "hostname": "*.shop.example"}
    more = {"hostnames": [hostname]} if hostname else {}
    translation = translated(the_class(), a_gateway("web", listener), a_service(), a_route(parents=[parent], **more))
    assert at_parent(translation, "cart")["Accepted"][1] == reason


def test_routes_of_another_namespace_need_to_be_allowed() -> None:
    route = an_object("HTTPRoute", "cart", {"parentRefs": [{"name": "web", "namespace": "shop"}]}, "other")
    status = translated(the_class(), a_gateway(), route).statuses["HTTPRoute", "other", "cart"]
    assert conditions_in(status["parents"][0])["Accepted"] == ("False", "NotAllowedByListeners")
    selector = {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": selector}}
    namespace = an_object("Namespace", "other", None, "", metadata={"labels": {"team": "a"}})
    status = translated(the_class(), a_gateway("web", listener), route, namespace).statuses[
        "HTTPRoute", "other", "cart"
    ]
    assert conditions_in(status["parents"][0])["Accepted"] == ("True", "Accepted")


def test_a_backend_of_another_namespace_needs_a_grant() -> None:
    route = a_route("cart", {"backendRefs": [{"name": "cart", "namespace": "back", "port": 80}]})
    items = [the_class(), a_gateway(), a_service("cart", "back"), route]
    refused = translated(*items)
    assert at_parent(refused, "cart")["ResolvedRefs"] == ("False", "RefNotPermitted")
    assert routes_in(refused, "HTTPRoute/shop/cart")[0]["respond"] == {"status": 500}
    rule = {
        "from": [{"group": GROUP, "kind": "HTTPRoute", "namespace": "shop"}],
        "to": [{"group": "", "kind": "Service"}],
    }
    granted = translated(*items, an_object("ReferenceGrant", "g", rule, "back"))
    assert at_parent(granted, "cart")["ResolvedRefs"] == ("True", "ResolvedRefs")
    assert routes_in(granted, "HTTPRoute/shop/cart")[0]["upstream"] == "back/cart/80"


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ({"name": "none", "port": 80}, "BackendNotFound"),
        ({"name": "cart", "port": 81}, "BackendNotFound"),
        ({"name": "cart", "port": 80, "kind": "Bucket", "group": "x"}, "InvalidKind"),
    ],
)
def test_a_backend_that_cannot_be_used_gets_its_share_of_500(reference: Any, reason: str) -> None:
    rule = {"backendRefs": [{"name": "cart", "port": 80, "weight": 9}, reference]}
    translation = translated(the_class(), a_gateway(), a_service(), a_route("cart", rule))
    assert at_parent(translation, "cart")["ResolvedRefs"] == ("False", reason)
    route = routes_in(translation, "HTTPRoute/shop/cart")[0]
    assert route["variants"] == [
        {"weight": 9, "upstream": "shop/cart/80"},
        {"weight": 1, "respond": {"status": 500}},
    ]


def test_a_method_precedes_headers_which_precede_parameters() -> None:
    header = {"name": "A", "value": "1"}
    matches = [{"method": "PUT"}, {"headers": [header]}, {"queryParams": [header, {"name": "b", "value": "2"}]}]
    translation = translated(the_class(), a_gateway(), a_service(), a_route("cart", {"matches": matches}))
    ranks = [each["rank"] for each in routes_in(translation, "HTTPRoute/shop/cart")]
    assert ranks == sorted(ranks, reverse=True)


def test_listeners_of_one_port_conflict_by_protocol_and_hostname() -> None:
    one = {"name": "a", "port": 80, "protocol": "HTTP", "hostname": "a.example"}
    listeners = [one, {**one, "name": "b"}, {**one, "name": "c", "hostname": "c.example"}]
    status = translated(the_class(), a_gateway("web", *listeners)).statuses["Gateway", "shop", "web"]
    reasons = [conditions_in(each)["Conflicted"] for each in status["listeners"]]
    assert reasons == [("True", "HostnameConflict"), ("True", "HostnameConflict"), ("False", "NoConflicts")]
    assert conditions_in(status)["Accepted"] == ("True", "ListenersNotValid")


def test_a_gateway_keeps_its_address_and_others_get_free_ones() -> None:
    held = a_gateway("zz")
    held["status"] = {"addresses": [{"type": "IPAddress", "value": "127.0.0.2"}]}
    statuses = translated(the_class(), a_gateway("aa"), held).statuses
    assert statuses["Gateway", "shop", "zz"]["addresses"][0]["value"] == "127.0.0.2"
    assert statuses["Gateway", "shop", "aa"]["addresses"][0]["value"] == "127.0.0.3"


def test_ports_of_pods_are_those_that_the_services_of_the_gateways_already_have() -> None:
    """So they stay after a restart, and are the same in all replicas."""
    ports = [{"name": "tcp-80", "port": 80, "targetPort": 20_007}]
    held = an_object("Service", "fastgw-zz", {"ports": ports, "clusterIP": "10.96.0.7"})
    other = an_object("Service", "fastgw-aa", {"ports": [], "clusterIP": "10.96.0.8"})
    settings = KubernetesProvider(addresses=GatewayAddresses(service="fastgw"))
    items = [the_class(), a_gateway("aa"), a_gateway("zz"), held, other]
    made = Translator(settings, "fastgw").translate(Cluster.of(items))[0]
    addresses = {name: each["address"] for piece in made.pieces for name, each in piece.listeners.items()}
    assert addresses == {"gateway/shop/aa/80": ":20000", "gateway/shop/zz/80": ":20007"}


def changed(item: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {**item, "spec": {**item["spec"], **spec}}


def a_policy() -> dict[str, Any]:
    references = [{"group": GROUP, "kind": "HTTPRoute", "name": "cart"}]
    return an_object("FastgwPolicy", "limits", {"targetRefs": references, "filters": {"size": {"body": "1MiB"}}})


def test_only_what_has_changed_is_translated_anew_with_the_result_of_a_translation_of_all() -> None:
    route, other = a_route(), a_route("other", {"backendRefs": [{"name": "books", "port": 80}]})
    (cart, slices), books = a_service(), a_service("books")
    far = a_route("far", {"backendRefs": [{"name": "cart", "namespace": "back", "port": 80}]})
    grant_rule = {
        "from": [{"group": GROUP, "kind": "HTTPRoute", "namespace": "shop"}],
        "to": [{"group": "", "kind": "Service"}],
    }
    grant = an_object("ReferenceGrant", "g", grant_rule, "back")
    call = a_route("call", {"backendRefs": []}, kind="GRPCRoute")
    call["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z"
    call_of_all = a_route("call", {"backendRefs": []}, kind="GRPCRoute")
    call_of_all["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"
    held = [the_class(), a_gateway(), cart, slices, *books, *a_service("cart", "back"), route, other, far, grant, call]
    moved = {**slices, "endpoints": [{"addresses": ["10.0.0.9"], "conditions": {"ready": True}}]}
    listener = {"name": "http", "port": 80, "protocol": "HTTP", "hostname": "*.shop.example"}
    changes: list[tuple[dict[str, Any] | None, dict[str, Any] | None, int]] = [
        (None, None, 0),  # nothing
        (route, changed(route, hostnames=["a.shop.example"]), 2),  # and the GRPCRoute names another one in its status
        (slices, moved, 0),
        (other, None, 0),
        (None, a_route("new"), 1),
        (None, a_policy(), 4),
        (cart, changed(cart, ports=[{"name": "http", "port": 80, "appProtocol": "kubernetes.io/h2c"}]), 4),
        (held[1], a_gateway("web", listener), 4),
        (grant, None, 4),
        (moved, None, 0),
        (call, call_of_all, 4),  # it takes precedence over all HTTPRoutes
        (call_of_all, None, 3),
    ]
    translator = Translator(SETTINGS, "fastgw")
    translator.translate(Cluster.of(held))
    for before, now, count in changes:
        held = [each for each in held if each is not before] + ([now] if now is not None else [])
        made, content = translator.translate(Cluster.of(held))
        whole, content_of_all = Translator(SETTINGS, "fastgw").translate(Cluster.of(held))
        assert translator.memo.translated_count == count
        assert (content, made.statuses) == (content_of_all, whole.statuses)


@for_each(
    ("listener", "http", "grpc", "conflicts"),
    [
        ("", ["a.example"], ["a.example"], True),
        ("", ["b.example", "A.example"], ["a.example", "c.example"], True),
        ("", ["*.example"], ["a.b.example"], True),
        ("", ["a.b.example"], ["*.b.example"], True),
        ("", ["*.b.example"], ["*.example"], True),
        ("", [], ["a.example"], True),
        ("", ["a.example"], [], True),
        ("", [], [], True),
        ("*.example", ["a.example", "c.test"], ["b.example", "c.test"], False),
        ("", ["a.example"], ["b.example"], False),
        ("", ["*.b.example"], ["b.example"], False),
        ("", ["b.example"], ["*.b.example"], False),
        ("", ["*.b.example"], ["*.c.example"], False),
    ],
)
@for_each("older", ["HTTPRoute", "GRPCRoute"])
def test_one_of_an_http_and_a_grpc_route_of_a_hostname_is_accepted(
    listener: str, http: list[str], grpc: list[str], conflicts: bool, older: str
) -> None:
    """The oldest, then the first by name, of those on a listener (`hostnames` of GRPCRoute)."""
    newer = next(each for each in ("HTTPRoute", "GRPCRoute") if each != older)
    hosts = {"HTTPRoute": http, "GRPCRoute": grpc}
    at = {"name": "http", "port": 80, "protocol": "HTTP", "hostname": listener}
    first = a_route("z", kind=older, hostnames=hosts[older])
    second = a_route("a", kind=newer, hostnames=hosts[newer])
    second["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    made = translated(the_class(), a_gateway("web", at), a_service(), first, second)
    assert at_parent(made, "z", older)["Accepted"] == ("True", "Accepted")
    assert at_parent(made, "a", newer)["Accepted"] == (
        ("False", "HostnameConflict") if conflicts else ("True", "Accepted")
    )
    assert bool(routes_in(made, f"{newer}/shop/a")) is not conflicts
    assert made.statuses["Gateway", "shop", "web"]["listeners"][0]["attachedRoutes"] == (1 if conflicts else 2)


def test_of_http_and_grpc_routes_of_one_age_the_first_by_name_is_accepted() -> None:
    made = translated(the_class(), a_gateway(), a_service(), a_route("b"), a_route("a", kind="GRPCRoute"))
    assert at_parent(made, "a", "GRPCRoute")["Accepted"] == ("True", "Accepted")
    (parent,) = made.statuses["HTTPRoute", "shop", "b"]["parents"]
    assert parent["conditions"][0]["message"] == "the GRPCRoute shop/a has a hostname in common, and is first"


def test_a_route_that_is_not_accepted_takes_no_hostname_from_others() -> None:
    middle, last = a_route("b", kind="GRPCRoute", hostnames=["a.test", "b.test"]), a_route("c", hostnames=["b.test"])
    made = translated(the_class(), a_gateway(), a_service(), a_route("a", hostnames=["a.test"]), middle, last)
    assert at_parent(made, "b", "GRPCRoute")["Accepted"] == ("False", "HostnameConflict")
    assert at_parent(made, "c")["Accepted"] == ("True", "Accepted")


def test_a_conflict_on_one_listener_leaves_a_route_on_others() -> None:
    listeners = [{"name": name, "port": port, "protocol": "HTTP"} for name, port in (("one", 80), ("two", 81))]
    only = a_route("a", parents=[{"name": "web", "sectionName": "one"}])
    made = translated(the_class(), a_gateway("web", *listeners), a_service(), only, a_route("b", kind="GRPCRoute"))
    assert at_parent(made, "b", "GRPCRoute")["Accepted"] == ("True", "Accepted")
    assert [each["listeners"] for each in routes_in(made, "GRPCRoute/shop/b")] == [["gateway/shop/web/81"]]


@pytest.mark.parametrize(
    ("said", "whole", "each"),
    [
        ({"request": "10s"}, 10.0, 10.0),
        ({"request": "10s", "backendRequest": "2s"}, 10.0, 2.0),
        ({"backendRequest": "2s"}, None, 2.0),
        ({"request": "0s"}, None, LONGEST_DURATION),
        ({"backendRequest": "0s"}, None, LONGEST_DURATION),
        ({"request": "0s", "backendRequest": "2s"}, None, 2.0),
        ({"request": "10s", "backendRequest": "0s"}, 10.0, 10.0),
        ({"request": "99999h"}, LONGEST_DURATION, LONGEST_DURATION),
    ],
)
def test_a_timeout_of_zero_is_disabled(said: Any, whole: float | None, each: float) -> None:
    """GEP-1742. Where a timeout cannot be disabled, zero is the longest one."""
    found = loaded(
        the_class(),
        a_gateway(),
        a_service(),
        a_route("cart", {"backendRefs": [{"name": "cart", "port": 80}], "timeouts": said}),
    )
    route = next(each for each in found.config.routes if each.name.startswith("HTTPRoute"))
    assert (route.timeout, route.timeouts.response_headers) == (whole, each)


def test_a_rule_may_have_the_index_of_another_one_as_its_name() -> None:
    backends = [{"name": "cart", "port": 80}]
    rules = [
        {"name": name, "matches": [{"path": {"value": path}}], "backendRefs": backends}
        for name, path in (("1", "/a"), (None, "/b"), ("pay", "/c"))
    ]
    found = loaded(the_class(), a_gateway(), a_service(), a_route("cart", *rules))
    names = [each.name for each in found.config.routes if each.name.startswith("HTTPRoute")]
    assert names == [f"HTTPRoute/shop/cart/{each}" for each in ("@1", "1", "pay")]
    assert found.refused_objects == {}


def a_filter(kind: str, path: str | None = None, prefix: str | None = None) -> dict[str, Any]:
    replaced = {"type": "ReplaceFullPath", "replaceFullPath": path}
    if path is None:
        replaced = {"type": "ReplacePrefixMatch", "replacePrefixMatch": prefix}
    return {"type": kind, {"URLRewrite": "urlRewrite", "RequestRedirect": "requestRedirect"}[kind]: {"path": replaced}}


def test_a_redirect_may_add_a_prefix_to_all_paths() -> None:
    items = (
        the_class(),
        a_gateway(),
        a_service(),
        a_route("cart", *with_filter("/", a_filter("RequestRedirect", prefix="/n"))),
    )
    (route, _) = (each for each in loaded(*items).config.routes if each.name.startswith("HTTPRoute"))
    assert (route.redirect.strip_prefix, route.redirect.add_prefix) == (None, "/n")


def with_filter(prefix: str, said: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a rule with a filter, and one without."""
    backends = {} if "requestRedirect" in said else {"backendRefs": [{"name": "cart", "port": 80}]}
    rule = {"matches": [{"path": {"value": prefix}}], "filters": [said], **backends}
    return [rule, {"matches": [{"path": {"value": "/good"}}], "backendRefs": [{"name": "cart", "port": 80}]}]


@pytest.mark.parametrize(
    ("prefix", "replaced", "expected"),
    [
        ("/a*b", {"prefix": "/n"}, {"strip_prefix": "/a*b", "add_prefix": "/n"}),
        ("/a", {"prefix": "/n{x}*"}, {"strip_prefix": "/a", "add_prefix": "/n%7Bx%7D*"}),
        ("/a", {"path": "/v1/{id}"}, {"path": "/v1/%7Bid%7D"}),
        ("/a", {"path": "/café b?c#d/%20*"}, {"path": "/caf%C3%A9%20b%3Fc%23d/%20*"}),
    ],
)
@pytest.mark.parametrize("kind", ["URLRewrite", "RequestRedirect"])
def test_paths_of_filters_are_literal(kind: str, prefix: str, replaced: Any, expected: dict[str, str]) -> None:
    """Nothing in them is a parameter or a pattern of routes."""
    items = the_class(), a_gateway(), a_service(), a_route("cart", *with_filter(prefix, a_filter(kind, **replaced)))
    found = loaded(*items)
    assert found.refused_objects == {}
    (route, _) = (each for each in found.config.routes if each.name.startswith("HTTPRoute"))
    made = route if kind == "URLRewrite" else route.redirect
    names = {"path": "rewrite"} if kind == "URLRewrite" else {}
    assert {key: getattr(made, names.get(key, key)) for key in expected} == expected


@pytest.mark.parametrize(
    ("prefix", "replaced", "path"),
    [("/a", {"path": "/../b"}, "/../b"), ("/a", {"prefix": "/%zz"}, "/%zz"), ("/a/*", {"prefix": "/b"}, "/a/*")],
)
@pytest.mark.parametrize("kind", ["URLRewrite", "RequestRedirect"])
def test_a_path_that_cannot_be_sent_is_that_of_one_rule(kind: str, prefix: str, replaced: Any, path: str) -> None:
    items = the_class(), a_gateway(), a_service(), a_route("cart", *with_filter(prefix, a_filter(kind, **replaced)))
    bad, good = routes_in(translated(*items), "HTTPRoute/shop/cart")
    assert (bad["respond"], good["upstream"]) == ({"status": 500}, "shop/cart/80")
    (parent,) = translated(*items).statuses["HTTPRoute", "shop", "cart"]["parents"]
    assert conditions_in(parent)["PartiallyInvalid"] == ("True", "UnsupportedValue")
    assert any(f"the path {path} is not supported" in each["message"] for each in parent["conditions"])
    assert loaded(*items).refused_objects == {}


def test_a_regular_expression_that_is_not_valid_is_left_out_and_told() -> None:
    bad = {"matches": [{"path": {"type": "RegularExpression", "value": "("}}], "backendRefs": []}
    translation = translated(the_class(), a_gateway(), a_service(), a_route("cart", bad))
    assert at_parent(translation, "cart")["PartiallyInvalid"] == ("True", "UnsupportedValue")
    assert not routes_in(translation, "HTTPRoute/shop/cart")


@pytest.mark.parametrize(
    ("match", "told"),
    [
        ({"method": "CONNECT"}, "the method CONNECT"),
        ({"method": "TRACE", "path": {"type": "Exact", "value": "/b"}}, "the method TRACE"),
        ({"path": {"type": "PathPrefix", "value": "/%2e"}}, "the path /%2e/*"),
        ({"path": {"type": "RegularExpression", "value": "("}}, "the regular expression ^(?:()$"),
        ({"headers": [{"name": "A", "type": "RegularExpression", "value": "("}]}, "the regular expression ^(?:()$"),
    ],
)
def test_a_match_that_no_request_can_meet_takes_nothing_else_with_it(match: Any, told: str) -> None:
    other = {"path": {"type": "Exact", "value": "/a"}}
    backend = [{"name": "cart", "port": 80}]
    rules = {"matches": [match, other], "backendRefs": backend}, {"matches": [match], "backendRefs": backend}
    items = the_class(), a_gateway(), a_service(), a_route("cart", *rules, {"name": "last", "backendRefs": backend})
    found = loaded(*items)
    routes = [each for each in found.config.routes if each.name.startswith("HTTPRoute")]
    assert [(each.paths, each.upstream) for each in routes] == [(("/a",), "shop/cart/80"), (("/*",), "shop/cart/80")]
    (parent,) = translated(*items).statuses["HTTPRoute", "shop", "cart"]["parents"]
    assert conditions_in(parent)["Accepted"] == ("True", "Accepted")
    (told_there,) = (each["message"] for each in parent["conditions"] if each["type"] == "PartiallyInvalid")
    assert told_there.startswith(f"{told} is not supported")


@pytest.mark.parametrize(("said", "expected"), [(600, 600.0), (2**31 - 1, LONGEST_DURATION), (0, None)])
def test_preflight_responses_are_cached_at_most_as_long_as_the_longest_duration(
    said: int, expected: float | None
) -> None:
    cors = {"type": "CORS", "cors": {"allowOrigins": ["https://a.example"], "maxAge": said}}
    rule = {"filters": [cors], "backendRefs": [{"name": "cart", "port": 80}]}
    found = loaded(the_class(), a_gateway(), a_service(), a_route("cart", rule))
    (route,) = (each for each in found.config.routes if each.name.startswith("HTTPRoute"))
    assert route.filters["cors"].settings.max_age == expected


def test_a_bad_object_is_left_out_and_the_others_serve() -> None:
    rewrite = {"type": "URLRewrite", "urlRewrite": {"hostname": "no host"}}
    bad = a_route("bad", {"filters": [rewrite], "backendRefs": [{"name": "cart", "port": 80}]})
    found = loaded(the_class(), a_gateway(), a_service(), a_route(), bad)
    assert [each.name for each in found.config.routes if "HTTPRoute" in each.name] == ["HTTPRoute/shop/cart/0"]
    assert any("HTTPRoute/shop/bad" in each.path for each in found.notes)


@pytest.mark.parametrize("ports", [[{"name": "http", "protocol": "TCP"}], [{"name": "http", "port": None}], None])
def test_a_port_without_a_number_has_no_targets(ports: Any) -> None:
    """Kubernetes allows it in slices that belong to no Service of its own making."""
    service, endpoints = a_service()
    without = renamed(endpoints, "cart-2", ports=ports)
    found = loaded(the_class(), a_gateway(), service, endpoints, without, a_route())
    assert [str(each.url) for each in found.config.upstreams["shop/cart/80"].targets] == ["http://10.0.0.2:9000"]
    assert found.refused_objects == {}


A_SET = {"parentRef": {"name": "web"}, "listeners": [{"name": "x", "port": 81}]}
A_TLS_POLICY = {
    "targetRefs": [{"group": "", "kind": "Service", "name": "cart"}],
    "validation": {"hostname": "cart", "wellKnownCACertificates": "System", "subjectAltNames": [{"type": "Hostname"}]},
}
OPEN = {"allowedListeners": {"namespaces": {"from": "Same"}}}


@for_each(
    ("item", "stays"),
    [
        (a_route("bad", {"filters": [{"type": "RequestMirror"}]}), True),
        (a_route("bad", {"matches": [{"headers": [{"name": "a"}]}]}), True),
        (a_route("bad", parents=[{}]), True),
        (a_route("bad", parents=[{}], kind="GRPCRoute"), True),
        (a_route("bad", {"backendRefs": [{}]}, kind="TCPRoute", parents=[{"name": "tcp"}]), True),
        (a_route("bad", {"backendRefs": [{}]}, kind="TLSRoute", parents=[{"name": "tcp"}]), True),
        (renamed(a_service()[1], "bad", endpoints=[3]), True),
        (an_object("Gateway", "bad", {"gatewayClassName": "fastgw", "listeners": [{"name": "x"}]}), True),
        (an_object("ListenerSet", "bad", A_SET), True),
        (an_object("Ingress", "bad", {"ingressClassName": "fastgw", "defaultBackend": {"service": {}}}), True),
        (an_object("Ingress", "bad", {"ingressClassName": "fastgw", "tls": [{"secretName": "a", "hosts": [3]}]}), True),
        (an_object("FastgwPolicy", "bad", {"filters": [3]}), True),
        (an_object("FastgwPolicy", "bad", {"filters": [3], "targetRefs": [CART]}), False),
        (an_object("FastgwConsumer", "bad", [3]), True),
        (an_object("BackendTLSPolicy", "bad", A_TLS_POLICY), False),
    ],
)
def test_an_object_that_cannot_be_translated_is_refused_and_the_others_serve(item: Any, stays: bool) -> None:
    """What must protect a route takes the route with it."""
    tcp = a_gateway("tcp", {"name": "a", "port": 90, "protocol": "TCP"}, {"name": "b", "port": 91, "protocol": "TLS"})
    items = [the_class(), INGRESS_CLASS, a_gateway("web", **OPEN), tcp, a_service(), a_route(), item]
    id_ = item["kind"], "shop", "bad"
    translation, found = translated(*items), loaded(*items)
    assert "it cannot be translated: " in translation.warnings[id_]
    assert "it cannot be translated: " in found.refused_objects["/".join(id_)]
    assert any("/".join(id_) in each.path for each in found.notes)
    (route,) = (each for each in found.config.routes if each.name == "HTTPRoute/shop/cart/0")
    assert route.upstream == ("shop/cart/80" if stays else None)


def test_a_route_that_cannot_be_translated_says_so_in_its_status() -> None:
    items = the_class(), a_gateway(), a_service(), a_route("bad", {"filters": [{"type": "RequestMirror"}]})
    statuses = with_refusals(translated(*items).statuses, loaded(*items).refused_objects, "")
    (condition,) = statuses["HTTPRoute", "shop", "bad"]["parents"][0]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Accepted", "False", "UnsupportedValue")
    assert "KeyError: 'requestMirror'" in condition["message"]


def test_a_piece_names_no_file_of_the_machine() -> None:
    piece = {"object": "X/a/b", "upstreams": {"u": {"targets": ["https://a.example"], "tls": {"ca": "/etc/passwd"}}}}
    text = b"version: 1\nproviders: {kubernetes: {kubeconfig: kube}}\n"
    kube = b"current-context: a\ncontexts: [{name: a, context: {}}]\n"
    contents = {"/etc/kube": kube, FILE: msgspec.json.encode([piece])}
    found = load_text(text, "/etc/gw.yaml", TYPES, instead=contents)
    assert not found.config.upstreams
    assert any("is a file of the gateway's machine" in each.wrong for each in found.notes)


def test_a_status_keeps_times_the_entries_of_other_controllers_and_the_order() -> None:
    condition = {"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": 1, "message": ""}
    entry = {"parentRef": {"name": "web"}, "controllerName": CONTROLLER, "conditions": [condition]}
    other = {"parentRef": {"name": "web"}, "controllerName": "x/y", "conditions": []}
    before = {"parents": [other, {**entry, "conditions": [{**condition, "lastTransitionTime": "then"}]}]}
    wanted = {"parents": [{**entry, "conditions": [{**condition, "observedGeneration": 2}]}]}
    made = merged_status(before, wanted, "now", "shop", Elsewhere())["parents"]
    assert made[0] == other
    assert made[1]["conditions"][0]["lastTransitionTime"] == "then"
    assert merged_status({"parents": made}, wanted, "later", "shop", Elsewhere())["parents"] == made


def installation(name: str, **more: Any) -> KubernetesProvider:
    """Return the settings of an installation with classes of its own."""
    pool = GatewayAddresses(pool=("127.0.0.2-127.0.0.9",))
    return KubernetesProvider(gateway_class=name, ingress_class=name, addresses=pool, **more)


FIRST, SECOND = installation("fastgw"), installation("second")
Known = dict[ObjectId, dict[str, Any]]


def known(*items: Any) -> Known:
    """Return objects of a cluster by kind, namespace and name."""
    flat = [each for item in items for each in (item if isinstance(item, list) else [item])]
    return {(each["kind"], *key_of(each)): each for each in flat}


def write_statuses(cluster: Known, settings: KubernetesProvider) -> set[ObjectId]:
    """Write the statuses of an installation into the objects. Returns those that were written."""
    translation = Translator(settings, "fastgw").translate(Cluster.of(cluster.values()))[0]
    written = set()
    for id_, wanted in translation.statuses.items():
        status = status_to_write(id_, cluster[id_], wanted, translation, "now") if id_ in cluster else None
        if status is not None:
            cluster[id_] = {**cluster[id_], "status": {**cluster[id_].get("status", {}), **status}}
            written.add(id_)
    return written


def parents_in(item: dict[str, Any]) -> list[str]:
    return [each["parentRef"]["name"] for each in item["status"]["parents"]]


def of_class(name: str, gateway_class: str) -> dict[str, Any]:
    return changed(a_gateway(name), gatewayClassName=gateway_class)


KINDS_OF_ROUTES = ["HTTPRoute", "GRPCRoute", "TCPRoute", "UDPRoute", "TLSRoute"]


@pytest.mark.parametrize("kind", KINDS_OF_ROUTES)
def test_the_entry_of_a_gateway_that_is_deleted_is_removed_and_those_of_other_controllers_stay(kind: str) -> None:
    """The object of the route has the status of before: the gateway has written it since."""
    other = {"parentRef": {"name": "gone"}, "controllerName": "x/y", "conditions": []}
    route = {**a_route(kind=kind, parents=[{"name": "gone"}]), "status": {"parents": [other]}}
    cluster = known(the_class(), a_gateway("gone"), route, a_service())
    write_statuses(cluster, FIRST)
    id_ = kind, "shop", "cart"
    assert parents_in(cluster[id_]) == ["gone", "gone"]
    del cluster["Gateway", "shop", "gone"]
    assert write_statuses(cluster, FIRST) == {id_}
    assert cluster[id_]["status"]["parents"] == [other]
    assert not write_statuses(cluster, FIRST)


def test_a_route_of_other_controllers_alone_gets_no_status() -> None:
    cluster = known(the_class(), a_route(parents=[{"name": "theirs"}]), a_gateway())
    assert write_statuses(cluster, FIRST) == {("GatewayClass", "", "fastgw"), ("Gateway", "shop", "web")}


@pytest.mark.parametrize("is_deleted", [True, False])
def test_a_listener_set_without_its_gateway_is_no_longer_accepted(is_deleted: bool) -> None:
    listener = {"name": "more", "port": 81, "protocol": "HTTP"}
    allowing = changed(a_gateway(), allowedListeners={"namespaces": {"from": "Same"}})
    sets = an_object("ListenerSet", "more", {"parentRef": {"name": "web"}, "listeners": [listener]})
    cluster = known(the_class(), allowing, sets)
    id_, gateway = ("ListenerSet", "shop", "more"), ("Gateway", "shop", "web")
    write_statuses(cluster, FIRST)
    assert conditions_in(cluster[id_]["status"])["Programmed"] == ("True", "Programmed")
    assert cluster[gateway]["status"]["attachedListenerSets"] == 1
    if not is_deleted:
        del cluster[id_]
        assert write_statuses(cluster, FIRST) == {gateway}
        assert cluster[gateway]["status"]["attachedListenerSets"] == 0
        return
    del cluster[gateway]
    assert write_statuses(cluster, FIRST) == {id_}
    assert conditions_in(cluster[id_]["status"]) == {
        "Accepted": ("False", "ParentNotAccepted"),
        "Programmed": ("False", "ParentNotProgrammed"),
    }
    del cluster[id_]["status"]
    assert not write_statuses(cluster, FIRST)  # it may be another controller's


def test_a_backend_tls_policy_has_no_entry_once_no_route_uses_it() -> None:
    validation = {"hostname": "cart.example", "wellKnownCACertificates": "System"}
    targets = [{"group": "", "kind": "Service", "name": "cart"}]
    policy = an_object("BackendTLSPolicy", "tls", {"targetRefs": targets, "validation": validation})
    cluster = known(the_class(), a_gateway(), a_service(), a_route(), policy)
    id_ = "BackendTLSPolicy", "shop", "tls"
    write_statuses(cluster, FIRST)
    assert len(cluster[id_]["status"]["ancestors"]) == 1
    del cluster["HTTPRoute", "shop", "cart"]
    write_statuses(cluster, FIRST)
    assert cluster[id_]["status"]["ancestors"] == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FIRST, SECOND),
        (installation("fastgw", namespaces=("shop",)), installation("second", namespaces=("shop", "far"))),
    ],
)
@pytest.mark.parametrize("kind", ["HTTPRoute", "TCPRoute"])
def test_two_installations_leave_each_others_statuses_alone(
    kind: str, first: KubernetesProvider, second: KubernetesProvider
) -> None:
    """They have one controller name. A route of both has an entry of each, in the order in which they were written."""
    far = {"name": "far", "namespace": "far"}
    listener = {"name": "all", "port": 80, "protocol": "HTTP" if kind == "HTTPRoute" else "TCP"}
    listener["allowedRoutes"] = {"namespaces": {"from": "All"}}
    gateways = [changed(a_gateway("web", listener), gatewayClassName="fastgw")]
    gateways.append(an_object("Gateway", "far", {"gatewayClassName": "second", "listeners": [listener]}, "far"))
    routes = [
        a_route(name, kind=kind, parents=parents)
        for name, parents in (
            ("one", [{"name": "web"}]),
            ("two", [far]),
            ("both", [far, {"name": "web"}]),
        )
    ]
    targets = [{"group": GROUP, "kind": kind, "name": each["metadata"]["name"]} for each in routes]
    limits = an_object("FastgwPolicy", "limits", {"targetRefs": targets, "filters": {"key_auth": {}}})
    cluster = known(the_class(), the_class("second"), *gateways, routes, a_service(), a_policy(), limits)

    def write(settings: KubernetesProvider) -> set[ObjectId]:
        read = settings.namespaces
        seen = {id_: item for id_, item in cluster.items() if not read or id_[1] in ("", *read)}
        written = write_statuses(seen, settings)
        cluster.update(seen)
        return written

    for each in (second, first, second, first):
        write(each)
    assert not write(second)
    assert not write(first)
    found = {name: parents_in(cluster[kind, "shop", name]) for name in ("one", "two", "both")}
    assert found == {"one": ["web"], "two": ["far"], "both": ["far", "web"]}


def test_label_selectors() -> None:
    labels = {"a": "1"}
    assert selects({}, labels)
    assert not selects(None, labels)
    assert selects({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, labels)
    assert not selects({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, labels)


def test_ranges_of_addresses() -> None:
    assert addresses_in("127.0.0.2-127.0.0.4") == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    for wrong in ("127.0.0.4-127.0.0.2", "127.0.0.1-::1", "a"):
        with pytest.raises(ValueError, match=wrong):
            addresses_in(wrong)


def test_a_route_whose_service_is_refused_is_told() -> None:
    """It answers 500, and a Service has no status that could say why."""
    both = [{"name": "cart", "port": 80, "weight": 1}, {"name": "toys", "port": 80, "weight": 2}]
    made = translated(
        the_class(),
        a_gateway(),
        a_service(),
        a_service("toys"),
        a_route("one"),
        a_route("two", {"backendRefs": both}),
        a_route("three", {"backendRefs": both[1:]}),
    )
    statuses = with_refusals(made.statuses, {"Service/shop/cart": "no valid key"}, "", made.pieces)
    told = {
        name: [each["message"] for each in conditions if each["type"] == "ResolvedRefs" and each["status"] == "False"]
        for (kind, _, name), status in statuses.items()
        for conditions in [each["conditions"] for each in status.get("parents", ())]
        if kind == "HTTPRoute"
    }
    assert told == {"one": ["Service/shop/cart: no valid key"], "two": ["Service/shop/cart: no valid key"], "three": []}
