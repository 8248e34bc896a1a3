"""FastgwPolicy and FastgwConsumer: what tenants may say, targets, and statuses."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from fastgw.config.kubernetes.model import Piece, Translation
from tests.unit.config.kubernetes.test_ingress import ingress, object_of, routes_of, rule
from tests.unit.config.kubernetes.test_ingress import translated as of_ingress
from tests.unit.config.kubernetes.test_stream_routes import backend, gateway, route
from tests.unit.config.kubernetes.test_stream_routes import translated as of_gateway

LIMIT = {"rate_limit": {"limit": 10, "window": "1s"}}


def policy(filters: dict[str, Any], **target: Any) -> dict[str, Any]:
    reference = {"group": "networking.k8s.io", "kind": "Ingress", "name": "front", **target}
    return object_of("FastgwPolicy", "limits", {"targetRefs": [reference], "filters": filters})


def accepted(made: Translation) -> tuple[str, str, str]:
    (ancestor,) = made.statuses["FastgwPolicy", "shop", "limits"]["ancestors"]
    (found,) = ancestor["conditions"]
    return found["status"], found["reason"], found["message"]


def test_routes_of_the_target_use_the_filters() -> None:
    made = of_ingress(ingress(rule("a.example"), rule("b.example")), policy(LIMIT))
    assert [each["use"] for each in routes_of(made)] == [["FastgwPolicy/shop/limits"]] * 2
    assert [piece.filter_sets for piece in made.pieces if piece.filter_sets] == [{"FastgwPolicy/shop/limits": LIMIT}]
    assert accepted(made) == ("True", "Accepted", "")


@pytest.mark.parametrize("target", [{"name": "other"}, {"kind": "Service"}])
def test_a_target_that_is_not_there_is_said(target: dict[str, str]) -> None:
    status, reason, _ = accepted(of_ingress(ingress(rule("a.example")), policy(LIMIT, **target)))
    assert (status, reason) == ("False", "TargetNotFound" if "name" in target else "Invalid")


@pytest.mark.parametrize(
    ("filters", "why"),
    [
        ({}, "is empty"),
        ({"forward_auth": {"url": "http://auth.example"}}, "not one of those"),
        ({"mine": {"type": "os:system"}}, "not one of those"),
        ({"mirror": {"upstream": "other/service/80"}}, "not one of those"),
        ({"headers": {"request": {"set": {"X-A": {"env": "HOME"}}}}}, "may not read env"),
        ({"headers": {"request": {"set": {"X-A": {"file": "/etc/shadow"}}}}}, "may not read file"),
        ({"jwt": {"jwks_uri": "http://127.0.0.1:9901/keys"}}, "is this machine"),
        ({"jwt": {"jwks_uri": "http://169.254.169.254/latest"}}, "link-local"),
        ({"jwt": {"jwks_uri": "unix:/run/admin.sock"}}, "socket of the gateway"),
        ({"auth": {"any_of": [{"forward_auth": {"url": "http://auth.example"}}]}}, "not one of those"),
    ],
)
def test_what_tenants_may_not_say_is_refused_and_its_routes_are_not_served_without_it(
    filters: dict[str, Any], why: str
) -> None:
    made = of_ingress(ingress(rule("a.example")), policy(filters))
    status, reason, message = accepted(made)
    assert (status, reason) == ("False", "Invalid")
    assert why in message
    (only,) = routes_of(made)
    assert only["respond"] == {"status": 500}
    assert "upstream" not in only


@pytest.mark.parametrize(("filters", "is_served"), [(LIMIT, True), ({"mirror": {"upstream": "a"}}, False)])
def test_a_policy_of_a_gateway_is_for_all_of_its_routes(filters: dict[str, Any], is_served: bool) -> None:
    """Filters of its listeners; if they are refused, none of its routes is served without them."""
    web = gateway("HTTP")
    made = of_gateway(
        web,
        route("HTTPRoute", "cart", backend("cart")),
        policy(filters, group="gateway.networking.k8s.io", kind="Gateway", name="edge"),
    )
    (listener,) = (each for piece in made.pieces for each in piece.listeners.values())
    assert listener.get("filters", {}) == (LIMIT if is_served else {})
    (only,) = (each for piece in made.pieces if piece.object.startswith("HTTPRoute/") for each in piece.routes)
    assert ("upstream" in only, only.get("respond")) == (is_served, None if is_served else {"status": 500})


def test_a_section_is_one_rule() -> None:
    said = ingress(rule("a.example"), rule("b.example"))
    made = of_ingress(said, policy(LIMIT, sectionName="1"))
    assert [each.get("use") for each in routes_of(made)] == [None, ["FastgwPolicy/shop/limits"]]


def consumers(*items: dict[str, Any]) -> tuple[list[Piece], dict[str, Any]]:
    made = of_ingress(ingress(rule("a.example")), *items)
    status = made.statuses["FastgwConsumer", "shop", "alice"]["conditions"][0]
    return [piece for piece in made.pieces if piece.consumers], status


def test_a_consumer_has_its_secrets_from_secrets_of_its_namespace() -> None:
    secret = object_of("Secret", "keys", {})
    secret["data"] = {"alice": b64encode(b"s3cret").decode()}
    said = {"groups": ["staff"], "key_auth": [{"key": {"secret": {"name": "keys", "key": "alice"}}}]}
    (piece,), status = consumers(object_of("FastgwConsumer", "alice", said), secret)
    (consumer,) = piece.consumers
    assert consumer["name"] == "shop.alice"
    assert list(piece.files.values()) == ["s3cret"]
    assert consumer["key_auth"] == [{"key": {"file": next(iter(piece.files))}}]
    assert status["status"] == "True"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"key_auth": [{"key": {"file": "/etc/shadow"}}]}, "may not read file"),
        ({"key_auth": [{"key": {"secret": {"name": "gone", "key": "a"}}}]}, "has no a"),
        ({"name": "root"}, "spec.name is unknown"),
    ],
)
def test_a_consumer_that_is_refused_says_why(spec: dict[str, Any], why: str) -> None:
    pieces, status = consumers(object_of("FastgwConsumer", "alice", spec))
    assert pieces == []
    assert (status["status"], status["reason"]) == ("False", "Invalid")
    assert why in status["message"]
