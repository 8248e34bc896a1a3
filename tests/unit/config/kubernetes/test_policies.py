"""FastgwPolicy and FastgwConsumer: what tenants may say, targets, and statuses."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest
from msgspec.structs import replace

from fastgw.config import Loaded
from fastgw.config.kubernetes.model import Piece, Translation
from fastgw.config.kubernetes.refusals import with_refusals
from fastgw.config.settings.gateway import Route
from tests.support.table import for_each
from tests.unit.config.kubernetes.loading import loaded
from tests.unit.config.kubernetes.test_ingress import POOL, ingress, object_of, routes_of, rule
from tests.unit.config.kubernetes.test_ingress import translated as of_ingress
from tests.unit.config.kubernetes.test_stream_routes import backend, gateway, route
from tests.unit.config.kubernetes.test_stream_routes import translated as of_gateway

CART = [backend("cart")]
LIMIT = {"rate_limit": {"limit": 10, "window": "1s"}}


def policy(filters: dict[str, Any], **target: Any) -> dict[str, Any]:
    reference = {"group": "networking.k8s.io", "kind": "Ingress", "name": "front", **target}
    return object_of("FastgwPolicy", "limits", {"targetRefs": [reference], "filters": filters})


def accepted(made: Translation, found: Loaded | None = None) -> tuple[str, str, str]:
    """Return the condition of the policy once the translation is in force. `found`: the configuration."""
    statuses = with_refusals(made.statuses, (found or loaded(made)).refused_objects, "")
    (ancestor,) = statuses["FastgwPolicy", "shop", "limits"]["ancestors"]
    (condition,) = ancestor["conditions"]
    return condition["status"], condition["reason"], condition["message"]


def served(found: Loaded, of: str) -> list[Route]:
    return [route for route in found.config.routes if route.name.startswith(of)]


def test_routes_of_the_target_use_the_filters() -> None:
    made = of_ingress(ingress(rule("a.example"), rule("b.example")), policy(LIMIT))
    assert [each["use"] for each in routes_of(made)] == [["FastgwPolicy/shop/limits"]] * 2
    assert [piece.filter_sets for piece in made.pieces if piece.filter_sets] == [{"FastgwPolicy/shop/limits": LIMIT}]
    assert accepted(made) == ("True", "Accepted", "")


@pytest.mark.parametrize("target", [{"name": "other"}, {"kind": "Service"}])
def test_a_target_that_is_not_there_is_said(target: dict[str, str]) -> None:
    status, reason, _ = accepted(of_ingress(ingress(rule("a.example")), policy(LIMIT, **target)))
    assert (status, reason) == ("False", "TargetNotFound" if "name" in target else "Invalid")


def test_a_group_that_is_not_that_of_the_kind_is_said() -> None:
    """A policy that is told to be accepted has to be in force."""
    made = of_ingress(ingress(rule("a.example")), policy(LIMIT, group=""))
    assert accepted(made) == ("False", "Invalid", 'the target has group ""; expected networking.k8s.io')
    assert [each.get("use") for each in routes_of(made)] == [None]


@for_each(
    ("filters", "why"),
    [
        ({}, "spec.filters is empty"),
        (
            {"key_auht": {}},
            'key_auht is not one of those that policies may use; did you mean "key_auth"?',
        ),
        ({"forward_auth": {"url": "http://auth.example"}}, "not one of those"),
        ({"mine": {"type": "os:system"}}, "not one of those"),
        ({"mine": {"type": None}}, "spec.filters.mine.type: expected the name of a filter"),
        ({"mine": {"type": ["waf"]}}, "spec.filters.mine.type: expected the name of a filter"),
        ({"auth": {"any_of": [{"mine": {"type": 7}}]}}, "mine.type: expected the name of a filter"),
        ({"mirror": {"upstream": "other/service/80"}}, "not one of those"),
        ({"headers": {"request": {"set": {"X-A": {"env": "HOME"}}}}}, "may not read env"),
        ({"headers": {"request": {"set": {"X-A": {"file": "/etc/shadow"}}}}}, "may not read file"),
        ({"cors": {"origins": [{"env": "HOME"}]}}, "spec.filters.cors.origins[0]: a policy may not read env"),
        ({"jwt": {"jwks_uri": "http://127.0.0.1:9901/keys"}}, "is this machine"),
        ({"jwt": {"jwks_uri": "http://169.254.169.254/latest"}}, "link-local"),
        ({"jwt": {"jwks_uri": "unix:/run/admin.sock"}}, "socket of the gateway"),
        ({"jwt": {"jwks_uri": "HTTP://127.0.0.1:9901/keys"}}, "is this machine"),
        ({"jwt": {"jwks_uri": " ht\ttp://127.0.0.1/keys"}}, "is this machine"),
        ({"jwt": {"jwks_uri": "http://127.0.0.1:9901/keys?of=all"}}, "is this machine"),
        ({"jwt": {"jwks_uri": "http://127.0.0.1:9901/*"}}, "is this machine"),
        ({"jwt": {"rules": [{"claim": "sub", "matches": "x{0,1000}" * 100}]}}, "regular expression is too large"),
        ({"waf": {"crs": {}}}, "spec.filters.waf.crs: a policy may not use it"),
        ({"waf": {"crs": {"rules": "/etc"}}}, "spec.filters.waf.crs: a policy may not use it"),
        ({"mine": {"type": "waf", "crs": {"processes": 6}}}, "spec.filters.mine.crs: a policy may not use it"),
        ({"waf": {"rules_file": "/etc/passwd"}}, "spec.filters.waf.rules_file"),
        (
            {"auth": {"any_of": [{"forward_auth": {"url": "http://auth.example"}}]}},
            "auth.any_of[0].forward_auth: the filter",
        ),
        ({"rate_limit": {"limit": -1, "window": "1s"}}, "spec.filters.rate_limit.limit: -1; expected"),
        ({"rate_limit": {**LIMIT["rate_limit"], "windw": "1s"}}, "spec.filters.rate_limit.windw: unknown key"),
    ],
)
def test_a_policy_that_is_refused_says_why_and_only_its_own_routes_are_not_served(
    filters: dict[str, Any], why: str
) -> None:
    """What tenants may not say, and what the settings of a filter do not allow."""
    other = {**ingress(rule("b.example"))}
    other["metadata"] = {**other["metadata"], "name": "other"}
    made = of_ingress(ingress(rule("a.example")), other, policy(filters))
    found = loaded(made)
    status, reason, message = accepted(made, found)
    assert (status, reason) == ("False", "Invalid")
    assert why in message
    (mine,), (others,) = served(found, "Ingress/shop/front"), served(found, "Ingress/shop/other")
    assert (mine.hosts, mine.respond.status, mine.upstream) == (("a.example",), 500, None)
    assert others.upstream == "shop/cart/80"


@pytest.mark.parametrize("levels", [60, 900])
def test_a_policy_of_many_levels_is_refused_at_once(levels: int) -> None:
    value: Any = "x"
    filters: dict[str, Any] = {"key_auth": {}}
    for _ in range(levels):
        value, filters = {"a": value}, {"auth": {"any_of": [filters]}}
    for each in ({"transform": {"request": {"json": {"set": value}}}}, filters):
        status, reason, message = accepted(of_ingress(ingress(rule("a.example")), policy(each)))
        assert (status, reason) == ("False", "Invalid")
        assert message.endswith("expected at most 32 levels of nested values")


def test_a_filter_that_the_operator_enforces_is_the_problem_of_the_policy_that_replaces_it() -> None:
    made = of_ingress(ingress(rule("a.example")), policy(LIMIT))
    found = loaded(made, "filters: {rate_limit: {limit: 5, window: 1s, enforced: true}}\n")
    status, reason, message = accepted(made, found)
    assert (status, reason) == ("False", "Invalid")
    assert "enforced by the gateway" in message
    assert [route.respond.status for route in served(found, "Ingress/shop/front")] == [500]


@pytest.mark.parametrize(
    ("filters", "is_served"),
    [(LIMIT, True), ({"mirror": {"upstream": "a"}}, False), ({"rate_limit": {"limit": 0}}, False)],
)
def test_a_policy_of_a_gateway_is_for_all_of_its_routes(filters: dict[str, Any], is_served: bool) -> None:
    """Filters of its listeners; if they are refused, none of its routes is served without them."""
    web = gateway("HTTP")
    made = of_gateway(
        web,
        route("HTTPRoute", "cart", backend("cart")),
        policy(filters, group="gateway.networking.k8s.io", kind="Gateway", name="edge"),
    )
    found = loaded(made)
    assert [*found.config.listeners["gateway/shop/edge/9000"].filters] == ([*LIMIT] if is_served else [])
    (only,) = served(found, "HTTPRoute/")
    assert (only.upstream, only.respond and only.respond.status) == (
        ("shop/cart/80", None) if is_served else (None, 500)
    )
    assert accepted(made, found)[0] == ("True" if is_served else "False")


def test_the_service_of_a_route_that_answers_500_is_not_called_unused() -> None:
    """The note would hide the one that says what to mend."""
    found = loaded(of_ingress(ingress(rule("a.example")), policy({"rate_limt": {}})))
    (note,) = [str(each) for each in found.notes if "shop/" in str(each)]
    assert "FastgwPolicy/shop/limits: spec.filters.rate_limt" in note


def test_a_section_is_one_rule() -> None:
    said = ingress(rule("a.example"), rule("b.example"))
    made = of_ingress(said, policy(LIMIT, sectionName="1"))
    assert [each.get("use") for each in routes_of(made)] == [None, ["FastgwPolicy/shop/limits"]]


def test_a_section_is_a_rule_whose_name_may_have_dots() -> None:
    """Of each of its matches, and of no other rule; a rule that does not exist is reported."""
    named = [
        {"name": "admin.v1", "matches": [{"path": {"value": path}} for path in ("/a", "/b")], "backendRefs": CART},
        {"name": "admin", "backendRefs": CART},
    ]
    named[0]["matches"][1]["method"] = "GET"

    def made(section: str) -> Translation:
        target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "cart", "sectionName": section}
        return of_gateway(gateway("HTTP"), route("HTTPRoute", "cart", rules=named), policy(LIMIT, **target))

    def limited(section: str) -> list[str]:
        routes = [
            each for piece in made(section).pieces if piece.object == "HTTPRoute/shop/cart" for each in piece.routes
        ]
        return [each["name"].removeprefix("HTTPRoute/shop/cart/") for each in routes if "use" in each]

    assert limited("admin.v1") == ["admin.v1/0", "admin.v1/1"]
    assert limited("admin") == ["admin"]
    assert limited("v1") == []
    assert accepted(made("v1")) == (
        "False",
        "TargetNotFound",
        "the HTTPRoute cart has no rule v1; it has admin, admin.v1",
    )


def test_a_section_is_the_name_of_a_rule_before_the_number_of_another() -> None:
    rules = [{"name": "1", "backendRefs": CART}, {"backendRefs": CART}, {"name": "2024", "backendRefs": CART}]

    def limited(section: str) -> list[str]:
        target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "cart", "sectionName": section}
        made = of_gateway(gateway("HTTP"), route("HTTPRoute", "cart", rules=rules), policy(LIMIT, **target))
        routes = [each for piece in made.pieces if piece.object == "HTTPRoute/shop/cart" for each in piece.routes]
        return [each["name"].removeprefix("HTTPRoute/shop/cart/") for each in routes if "use" in each]

    assert (limited("1"), limited("2024"), limited("3")) == (["@1"], ["@2024"], [])


def test_a_section_that_no_rule_has_is_said() -> None:
    made = of_ingress(ingress(rule("a.example"), rule("b.example")), policy(LIMIT, sectionName="two"))
    assert accepted(made) == ("False", "TargetNotFound", "the Ingress front has no rule two; it has 0, 1")


def two_listeners(*ports: int) -> dict[str, Any]:
    hosts = zip(("one", "two"), ports, strict=True)
    listeners = [{"name": name, "port": port, "protocol": "HTTP", "hostname": f"{name}.test"} for name, port in hosts]
    return object_of("Gateway", "edge", {"gatewayClassName": "fastgw", "listeners": listeners})


def test_a_policy_for_one_listener_of_a_gateway_is_for_its_port_alone() -> None:
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}
    web, cart = two_listeners(9000, 9001), route("HTTPRoute", "cart", backend("cart"))
    made = of_gateway(web, cart, policy(LIMIT, **target, sectionName="two"))
    found = loaded(made)
    assert accepted(made, found) == ("True", "Accepted", "")
    limited = {name: [*each.filters] for name, each in found.config.listeners.items() if name.startswith("gateway/")}
    assert limited == {"gateway/shop/edge/9000": [], "gateway/shop/edge/9001": [*LIMIT]}
    assert accepted(of_gateway(web, cart, policy(LIMIT, **target, sectionName="three"))) == (
        "False",
        "TargetNotFound",
        "the Gateway edge serves no listener three; it has one, two",
    )


def test_a_policy_for_one_of_several_listeners_at_a_port_is_refused_with_all_of_its_routes() -> None:
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge", "sectionName": "one"}
    made = of_gateway(two_listeners(9000, 9000), route("HTTPRoute", "cart", backend("cart")), policy(LIMIT, **target))
    found = loaded(made)
    status, reason, message = accepted(made, found)
    assert (status, reason) == ("False", "Invalid")
    assert message.startswith("spec.targetRefs[0].sectionName: the listener one shares its port with two; leave")
    assert {each.respond.status for each in served(found, "HTTPRoute/")} == {500}


def consumers(*items: dict[str, Any]) -> tuple[list[Piece], dict[str, Any]]:
    made = of_ingress(ingress(rule("a.example")), *items)
    statuses = with_refusals(made.statuses, loaded(made).refused_objects, "")
    status = statuses["FastgwConsumer", "shop", "alice"]["conditions"][0]
    return [piece for piece in made.pieces if piece.consumers], status


def test_a_consumer_has_its_secrets_from_secrets_of_its_namespace() -> None:
    secret = object_of("Secret", "keys", {})
    secret["data"] = {"alice": b64encode(b"s3cret").decode()}
    said = {"groups": ["staff"], "key_auth": [{"key": {"secret": {"name": "keys", "key": "alice"}}}]}
    (piece,), status = consumers(object_of("FastgwConsumer", "alice", said), secret)
    (consumer,) = piece.consumers
    assert (consumer["name"], consumer["namespace"]) == ("shop.alice", "shop")
    assert list(piece.files.values()) == ["s3cret"]
    assert consumer["key_auth"] == [{"key": {"file": next(iter(piece.files))}}]
    assert status["status"] == "True"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"key_auth": [{"key": {"file": "/etc/shadow"}}]}, "spec.key_auth[0].key: a consumer may not read file"),
        ({"key_auth": [{"key": {"secret": {"name": "gone", "key": "a"}}}]}, "the Secret shop/gone does not exist"),
        ({"key_auth": [{"key": {"secret": {"name": "empty", "key": "a"}}}]}, "the Secret shop/empty has no key a"),
        ({"name": "root"}, "spec.name is unknown"),
        ({"groups": "staff, admin", "key_auth": [{"kee": "a"}]}, "spec.key_auth[0]"),
    ],
)
def test_a_consumer_that_is_refused_says_why(spec: dict[str, Any], why: str) -> None:
    _, status = consumers(object_of("FastgwConsumer", "alice", spec), object_of("Secret", "empty", {}))
    assert (status["status"], status["reason"]) == ("False", "Invalid")
    assert why in status["message"]


@pytest.mark.parametrize(
    ("shared", "namespace"), [((), "shop"), (("other",), "shop"), (("shop",), None), (("*",), None)]
)
def test_a_consumer_is_known_to_its_own_namespace_unless_the_operator_shares_it(
    shared: tuple[str, ...], namespace: str | None
) -> None:
    settings = replace(POOL, shared_consumers=shared)
    made = of_ingress(object_of("FastgwConsumer", "alice", {"groups": ["staff"]}), settings=settings)
    (known,) = loaded(made).config.consumers
    assert (known.name, known.namespace) == ("shop.alice", namespace)


def test_the_filters_of_a_policy_know_the_consumers_of_its_namespace() -> None:
    """Those of routes, and those of a Gateway, which are its listeners'."""
    filters = {"auth": {"any_of": [{"key_auth": {}}]}, **LIMIT}
    found = loaded(of_ingress(ingress(rule("a.example")), policy(filters)))
    assert {use.namespace for use in found.config.filter_sets["FastgwPolicy/shop/limits"].values() if use} == {"shop"}
    edge = policy(filters, group="gateway.networking.k8s.io", kind="Gateway", name="edge")
    found = loaded(of_gateway(gateway("HTTP"), route("HTTPRoute", "cart", backend("cart")), edge))
    on_listener = found.config.listeners["gateway/shop/edge/9000"].filters.values()
    assert [use.namespace for use in on_listener if use] == ["shop", "shop"]


def test_a_tenant_cannot_take_the_place_of_a_credential_of_another_namespace() -> None:
    """The other one's consumer would be refused, and the message would tell that the credential exists."""
    spec = {"key_auth": [{"key_sha256": sha256(b"key").hexdigest()}]}
    first, second = (object_of("FastgwConsumer", "alice", spec, namespace=name) for name in ("bank", "shop"))
    found = loaded(of_ingress(first, second))
    assert [(each.name, each.namespace) for each in found.config.consumers] == [
        ("bank.alice", "bank"),
        ("shop.alice", "shop"),
    ]
    assert not found.refused_objects
    own = object_of("FastgwConsumer", "bob", spec)
    refused = loaded(of_ingress(first, second, own)).refused_objects
    assert list(refused) == ["FastgwConsumer/shop/bob"]
    assert "the key is already used" in refused["FastgwConsumer/shop/bob"]
