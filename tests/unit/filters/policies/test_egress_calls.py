"""egress_calls and unknown_service: what applications are told that call what is not there, or cannot be called."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.memory import Plane
from tests.support.table import for_each

APPS = ["shop", "my-app", "my-app-42"]


def plane(filters: dict[str, Any], **route: Any) -> Plane:
    return Plane(
        {
            "upstreams": {"u": {"targets": [{"url": "http://127.0.0.1:9"}], "retries": {"max": 0}}},
            "routes": [
                {"name": "all", **({"upstream": "u"} if "respond" not in route else {}), **route, "filters": filters}
            ],
        }
    )


def unknown(path: str, host: str = "gate", **settings: Any) -> dict[str, Any]:
    """What a call is answered that leads to no API."""
    filters = {"egress_calls": {}, "unknown_service": {"apps": APPS, **settings}}
    client = plane(filters, respond={"status": 404}).client()
    client.sends(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    said: dict[str, Any] = json.loads(client.received.partition(b"\r\n\r\n")[2])
    assert (said["code"], said["error"]) == (said["status"], said["detail"])
    return said


LONG = "a" * 100
BY_PATH = {
    "/": (400, "The path has no application; expected /{application}/{service}/…."),
    "//x": (400, "The path has no application; expected /{application}/{service}/…."),
    "/shop": (400, "The path has no service; expected /{application}/{service}/…."),
    "/shop/": (400, "The path has no service; expected /{application}/{service}/…."),
    "/shop//x": (400, "The path has no service; expected /{application}/{service}/…."),
    "/shop/nope/x": (404, 'The application "shop" has no service "nope".'),
    "/nope/orders": (404, 'There is no application "nope".'),
    "/%22%3Cb%3E/x": (404, 'There is no application "%22%3Cb%3E".'),
    f"/{LONG}/x": (404, f'There is no application "{LONG[:64]}…".'),
}


@pytest.mark.parametrize("path", BY_PATH)
def test_a_path_that_leads_to_no_api(path):
    said = unknown(path)
    assert (said["status"], said["detail"]) == BY_PATH[path]


@pytest.mark.parametrize("settings", [{}, {"addressing": "host"}, {"addressing": "path_with_entry"}])
def test_what_there_is_may_not_be_known_yet(settings):
    said = unknown("/nope/orders/x", host="nope-orders", awaited=True, **settings)
    assert (said["status"], said["detail"]) == (503, "The services are not loaded yet: try again later.")
    assert unknown("/shop/", awaited=True)["status"] == 400


def test_an_entry_is_named_as_well():
    by_entry = {"addressing": "path_with_entry"}
    assert unknown("/shop/orders", **by_entry)["detail"] == (
        "The path has no entry; expected /{application}/{service}/{entry}/…."
    )
    said = unknown("/shop/orders/nope/x", **by_entry)
    assert said["detail"] == 'The application "shop" has no entry "nope" of a service "orders".'


def test_a_service_of_several_entries_is_there_and_it_is_said_how_it_is_called():
    entries = 'has several entries ("a", "b"); call one of them, as /{application}/{service}/{entry}/…'
    said = unknown("/shop/orders/7", several={"shop/orders": ["a", "b"]})
    assert said["status"] == 400
    assert said["detail"] == (
        f'The service "orders" of the application "shop" {entries} where the listener allows such paths.'
    )
    for host in ("shop-orders", "shop-orders.cluster.local:80"):
        said = unknown("/7", host, addressing="host", several={"shop-orders": ["a", "b"]})
        assert said["detail"] == (
            f'The service of the host "shop-orders" {entries} where the listener allows such paths.'
        )
    assert "no service" in unknown("/shop/other/7", several={"shop/orders": ["a", "b"]})["detail"]


BY_SECRET = {
    "/": (400, "The path has no secret; expected /secret/{secret}/api/{API}/…."),
    "/shop/api/x": (400, "The path has no secret; expected /secret/{secret}/api/{API}/…."),
    "/secret/": (400, "The path has no secret; expected /secret/{secret}/api/{API}/…."),
    "/secret/shop/apis/x": (400, "The path has no api; expected /secret/{secret}/api/{API}/…."),
    "/secret/shop/api": (400, "The path has no API; expected /secret/{secret}/api/{API}/…."),
    "/secret/nope/api/V1": (404, 'There is no secret "nope".'),
    "/secret/shop/api/V2/x": (404, 'The secret "shop" has no API "V2".'),
}


@for_each(("path", "expected"), list(BY_SECRET.items()))
def test_a_path_that_leads_to_no_api_of_a_secret(path: str, expected: tuple[int, str]) -> None:
    said = unknown(path, addressing="secret")
    assert (said["status"], said["detail"]) == expected


BY_HOST = {
    "my-app-42-x": 'The application "my-app-42" has no service "x".',
    "my-app-4-x.cluster.local:8080": 'The application "my-app" has no service "4-x" under the domain "cluster.local".',
    "MY-APP-x": 'The application "my-app" has no service "x".',
    "shop": 'The host "shop" does not belong to a known application.',
}


@pytest.mark.parametrize("host", BY_HOST)
def test_a_host_that_leads_to_no_api(host):
    said = unknown("/x", host, addressing="host")
    assert (said["status"], said["detail"]) == (404, BY_HOST[host])


def test_what_cannot_be_called_says_why():
    why = "The Secret integration/orders is missing."
    client = plane({"egress_calls": {"unavailable": why}}).client()
    client.sends(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 500 ")
    said = json.loads(client.received.partition(b"\r\n\r\n")[2])
    assert said["type"] == "urn:fastgw:fault:service_misconfigured"
    assert (said["code"], said["error"]) == (500, why)


def test_every_fault_has_the_members():
    made = plane({"egress_calls": {}})
    client = made.client()
    client.sends(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    made.cannot_connect()
    said = json.loads(client.received.partition(b"\r\n\r\n")[2])
    assert (said["code"], said["error"]) == (502, said["detail"])
    assert said["type"] == "urn:fastgw:fault:connect_refused"


def test_a_path_that_is_not_passed_on_is_such_a_fault_too():
    client = plane({"egress_calls": {}}, path={"forward": "raw"}).client()
    client.sends(b"GET /a//../b HTTP/1.1\r\nHost: a\r\n\r\n")
    said = json.loads(client.received.partition(b"\r\n\r\n")[2])
    assert (said["status"], said["code"], said["error"]) == (400, 400, said["detail"])


def sent(settings: dict[str, Any], fields: bytes = b"") -> bytes:
    made = plane({"egress_calls": settings})
    made.client().sends(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    return made.connects().received


@pytest.mark.parametrize(("fields", "agent"), [(b"", b"partner/1.0"), (b"User-Agent: own\r\n", b"own")])
def test_a_user_agent_in_the_parameters_is_sent_if_the_application_has_none(fields: bytes, agent: bytes):
    parameters = {"headers": {"user-agent": "partner/1.0"}}
    service = {"url": "http://api.test", "request_parameters": parameters}
    made = Plane({"egress": {"apps": {"shop": {"api": service}}}, "routes": []})
    made.client().sends(b"GET /shop/api/x HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    lines = made.connects().received.lower().split(b"\r\n")
    assert [line for line in lines if line.startswith(b"user-agent")] == [b"user-agent: " + agent]


def test_a_call_without_user_agent_is_sent_with_an_empty_one():
    assert b"\r\nUser-Agent: \r\n" in sent({})
    assert b"User-Agent" not in sent({"user_agent": "pass"})
    assert sent({}, b"User-Agent: own\r\n").count(b"User-Agent") == 1
