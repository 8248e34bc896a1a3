"""`egress.apps.NAME.consumers`: who may call as an application, and that nothing of what is shown reaches the API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.decoding.json_schema import schema
from fastgw.explain import as_text, explain
from fastgw.filters import TYPES
from tests.support.memory import Plane
from tests.support.tokens import key_set, signer
from tests.unit.config.egress.test_expand import made, notes, problems, routes

SHOP, CRM = "planted-key-of-shop", "planted-key-of-crm"
ISSUER = "https://idp.example"
CONSUMERS: list[dict[str, Any]] = [
    {
        "name": "shop",
        "key_auth": [{"key": SHOP}],
        "basic_auth": [{"username": "shop", "password": "planted-word"}],
        "jwt": [{"issuer": ISSUER, "subject": "shop-client"}],
    },
    {"name": "crm", "key_auth": [{"key": CRM}]},
]
API = {"url": "http://127.0.0.1:9/v2"}
RS = signer("RS256", "one")


def plane_of(consumers: list[str] | None, egress: Mapping[str, Any] = {}, service: Mapping[str, Any] = {}) -> Plane:
    shop: dict[str, Any] = {"orders": {**API, **service}}
    if consumers is not None:
        shop["consumers"] = consumers
    apps = {"shop": shop, "open": {"orders": API}}
    return Plane({"egress": {"apps": apps, **egress}, "consumers": CONSUMERS})


def sent(plane: Plane, *lines: str, path: str = "/shop/orders/7") -> bytes:
    """What the API gets."""
    client = plane.client()
    client.sends("\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *lines, "", ""]).encode())
    assert not client.received, client.received
    return plane.connects().received


def refused(plane: Plane, *lines: str) -> bytes:
    client = plane.client()
    client.sends("\r\n".join(["GET /shop/orders/7 HTTP/1.1", "Host: a", *lines, "", ""]).encode())
    plane.assert_quiet()
    return client.received


def test_only_its_consumers_call_as_an_application() -> None:
    plane = plane_of(["shop"])
    assert sent(plane, f"X-Api-Key: {SHOP}").startswith(b"GET /v2/7 HTTP/1.1\r\n")
    assert refused(plane_of(["shop"]), f"X-Api-Key: {CRM}").startswith(b"HTTP/1.1 403 ")
    assert refused(plane_of(["shop"]), "X-Api-Key: nobodys").startswith(b"HTTP/1.1 401 ")
    assert refused(plane_of(["shop"])).startswith(b"HTTP/1.1 401 ")
    assert b"GET /v2/7 " in sent(plane_of(["shop", "crm"]), f"X-Api-Key: {CRM}")
    assert b"GET /v2/7 " in sent(plane_of(["shop"]), path="/open/orders/7")
    assert b"GET /v2/7 " in sent(plane_of(None))


@pytest.mark.parametrize("shown", [f"X-Api-Key: {SHOP}", "Authorization: Basic c2hvcDpwbGFudGVkLXdvcmQ="])
def test_what_an_application_shows_does_not_reach_the_api(shown: str) -> None:
    """Nor what else could be a credential, nor what the gateway knows of a client certificate."""
    head = sent(plane_of(["shop"]), shown, "X-Forwarded-For: 1.2.3.4")
    assert b"planted" not in head
    assert b"c2hvc" not in head
    assert b"X-Forwarded" not in head
    own = {"credentials": {"type": "headers", "headers": {"X-Api-Key": "of-the-api"}}}
    head = sent(plane_of(["shop"], service=own), shown)
    assert head.count(b"X-Api-Key") == 1
    assert b"X-Api-Key: of-the-api\r\n" in head


@pytest.mark.parametrize("within", [False, True])
def test_tokens_are_taken_where_the_configuration_says_how(tmp_path: Path, within: bool) -> None:
    (tmp_path / "keys.json").write_bytes(key_set(RS))
    jwt = {"jwks_file": str(tmp_path / "keys.json"), "algorithms": ["RS256"], "audiences": ["api"], "issuer": ISSUER}
    authentication = {"auth": {"any_of": [{"jwt": jwt}, {"key_auth": {}}]}} if within else {"jwt": jwt}
    egress = {"authentication": authentication}
    mine, other = RS.token({"sub": "shop-client"}).decode(), RS.token({"sub": "crm"}).decode()
    head = sent(plane_of(["shop"], egress), f"Authorization: Bearer {mine}")
    assert b"Authorization" not in head
    assert refused(plane_of(["shop"], egress), f"Authorization: Bearer {other}").startswith(b"HTTP/1.1 403 ")
    assert refused(plane_of(["shop"], egress)).startswith(b"HTTP/1.1 401 ")


def test_nothing_that_a_service_says_lets_anybody_in() -> None:
    names = ("app_authentication", "app_consumers")
    plane = plane_of(["shop"], service={"filters": dict.fromkeys(names)})
    assert refused(plane).startswith(b"HTTP/1.1 401 ")


def test_explain_tells_who_may_call() -> None:
    told = as_text(explain(plane_of(["shop"]).gateway, "GET", "http://a/shop/orders/7", [f"X-Api-Key: {CRM}"]))
    assert "app_consumers (authorize) → answers 403 (forbidden: the consumer: crm; one of shop is required)" in told


HEAD = "consumers: [{name: shop, key_auth: [{key: planted-0123456789}]}, {name: jo, jwt: [{issuer: i, subject: s}]}]\n"
SERVICE = "      orders: {url: https://api.example}\n"


def apps(consumers: str, more: str = "") -> str:
    return f"{HEAD}egress:\n{more}  apps:\n    shop:\n      consumers: {consumers}\n{SERVICE}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (apps("[shp]"), 'main.yaml:8: egress.apps.shop.consumers[0]: unknown consumer "shp"; did you mean "shop"?'),
        (apps("[]"), "main.yaml:8: egress.apps.shop.consumers: an empty list"),
        (apps("shop"), 'main.yaml:8: egress.apps.shop.consumers: "shop"; expected a non-empty list'),
        (apps("[jo]"), "egress.apps.shop.consumers: these consumers have no key, password or certificate"),
        (apps("[shop]", "  authentication: {cors: {origins: ['*']}}\n"), '"cors" does not authenticate applications'),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(tmp_path: Path, text: str, told: str) -> None:
    (found,) = problems(tmp_path, text)
    assert told in found


def test_a_filter_of_the_listener_that_says_who_they_are_is_enough(tmp_path: Path) -> None:
    jwt = "filters: {jwt: {secret: 0123456789abcdef0123456789abcdef, algorithms: [HS256]}}\n"
    route = routes(made(tmp_path, jwt + apps("[jo, jp]")))["egress/shop/orders"]
    assert "app_consumers" in route.filters
    assert "app_authentication" not in route.filters
    assert [each for each in notes(tmp_path, jwt + apps("[shp]")) if "did you mean" in each] == [
        'main.yaml:9: egress.apps.shop.consumers[0]: unknown consumer "shp"; did you mean "shop"?'
    ]


def test_a_service_may_be_called_so_and_an_application_of_a_provider_may_be_guarded(tmp_path: Path) -> None:
    config = made(
        tmp_path, "egress: {apps: {shop: {consumers: {url: https://api.example}}, kyma: {consumers: [shop]}}}\n" + HEAD
    )
    assert "egress/shop/consumers" in routes(config)
    assert config.egress is not None
    assert config.egress.apps["kyma"]["consumers"] == ("shop",)


def test_what_was_made_without_consumers_is_not_taken_again() -> None:
    document = {"egress": {"apps": {"shop": {"orders": API}}}, "consumers": CONSUMERS}
    plane = Plane(document)
    assert b"GET /v2/7 " in sent(plane)
    plane = Plane(document)
    plane.adopts({**document, "egress": {"apps": {"shop": {"orders": API, "consumers": ["shop"]}}}})
    assert refused(plane).startswith(b"HTTP/1.1 401 ")


def test_the_schema_knows_both_forms() -> None:
    drawn = schema(TYPES)["$defs"]["Egress"]["properties"]["apps"]["additionalProperties"]
    about_all, service = drawn["properties"]["consumers"]["anyOf"]
    listed = about_all["anyOf"][0]  # or a variable of the environment
    assert (listed["type"], listed["minItems"]) == ("array", 1)
    assert service == drawn["additionalProperties"]
