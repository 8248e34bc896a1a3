"""Bodies that are transformed or validated in helper processes: large ones, jq and JSONata, through a gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.protocol.test_transform import JSON, whole
from tests.support.gateway import Gateway
from tests.support.lanes import Kind, Lane, Lanes, running
from tests.support.origin import Origin
from tests.unit.filters.policies.openapi.shop import document, json_body, operation

LARGE = 300 * 1024
ENDLESS = "def f: f; f"


def _kind(request: dict[str, Any] | None, response: dict[str, Any] | None) -> Kind:
    directions = {"request": request, "response": response}
    return Kind(route={"filters": {"transform": {name: each for name, each in directions.items() if each is not None}}})


LARGE_RULES = {"json": {"deny": ["secret"], "set": {"by": "{consumer.name}", "n": "{{ n }}"}}, "max_bytes": "1MiB",
               "deadline": "30s"}  # fmt: skip
KINDS = {
    "large": _kind(LARGE_RULES, LARGE_RULES),
    "jq": _kind(
        {"jq": ".items | map(.id)", "deadline": "30s"}, {"jq": "[.a + 1, env, $ENV, input_filename]", "deadline": "30s"}
    ),
    "jsonata": _kind({"jsonata": "$sum(items.price)", "deadline": "30s"}, None),
    "validated": Kind(
        route={
            "filters": {
                "validate": {
                    "body": {
                        "inline": {"properties": {"n": {"type": "integer"}}},
                        "max_bytes": "1MiB",
                        "deadline": "30s",
                    }
                }
            }
        }
    ),
    "nested": Kind(
        route={"filters": {"validate": {"body": {"inline": {"items": {"type": "array"}}, "deadline": "30s"}}}}
    ),
    "compared": Kind(
        route={
            "filters": {
                "validate": {"body": {"inline": {"contains": {"const": 2}}, "max_bytes": "8KiB", "deadline": "30s"}}
            }
        }
    ),
    "endless": _kind({"jq": ENDLESS, "deadline": "1s"}, None),
    "endless_pass": _kind(None, {"jq": ENDLESS, "deadline": "1s", "on_timeout": "pass"}),
}


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(Lanes(tmp_path_factory.mktemp("transform-helpers"), KINDS, count=4))


@pytest.fixture
def lane(lanes: Lanes, request: pytest.FixtureRequest) -> Iterator[Lane]:
    lane = lanes.take(request.param)
    yield lane
    lane.end()


def on(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lane", [kind], indirect=True)


def _large(number: bytes) -> bytes:
    return b'{"n": %b, "secret": 1, "filler": "%b"}' % (number, b"x" * LARGE)


def _kept(number: bytes) -> bytes:
    return b'{"n":%b,"filler":"%b"}' % (number, b"x" * LARGE)


@on("large")
def test_large_bodies_are_transformed_and_keep_their_numbers(lane: Lane) -> None:
    got, response = lane.forward(lane.post(_large(b"1.10"), JSON), whole(_large(b"12345678901234567890123")))
    assert (got.body, response.body) == (_kept(b"1.10"), _kept(b"12345678901234567890123"))


@on("large")
def test_invalid_large_bodies_are_refused_and_the_connection_goes_on(lane: Lane) -> None:
    client = lane.client()
    for bad in (b'{"a": 1, "a": "%b"}' % (b"x" * LARGE), b'{"a": "%b\xff"}' % (b"x" * LARGE), b"[" * LARGE):
        client.send(lane.post(bad, JSON))
        assert client.read_response().status == 400
    client.send(lane.post(b'{"a": "%b"}' % (b"x" * 1024**2), JSON))
    assert client.read_response().status == 413
    client = lane.client()
    client.send(lane.get())
    lane.origin.accept_next().answer(whole(b'{"a":1,"a":"%b"}' % (b"x" * LARGE)))
    assert client.read_response().status == 502


@on("large")
def test_a_client_that_leaves_during_the_transformation_disturbs_nobody(lane: Lane) -> None:
    leaving = lane.client()
    leaving.send(lane.post(_large(b"1"), JSON))
    leaving.close()
    got, response = lane.forward(lane.post(_large(b"2"), JSON), whole(_large(b"3")))
    assert (got.body, response.body) == (_kept(b"2"), _kept(b"3"))


@on("jq")
def test_jq_builds_the_bodies_and_sees_neither_environment_nor_files(lane: Lane) -> None:
    got, response = lane.forward(lane.post(b'{"items": [{"id": 1}, {"id": "x"}]}', JSON), whole(b'{"a": 41}'))
    assert (got.body, response.body) == (b'[1,"x"]', b"[42,{},{},null]")


@on("jq")
def test_jq_refuses_bodies_that_it_cannot_keep_exactly_and_those_on_which_it_fails(lane: Lane) -> None:
    client = lane.client()
    for bad in (b'{"items": [{"id": 9007199254740993}]}', b'{"items": 1}', b'{"items": [], "items": []}', b"{"):
        client.send(lane.post(bad, JSON))
        assert client.read_response().status == 400


@on("jsonata")
def test_jsonata_builds_the_body(lane: Lane) -> None:
    got, _ = lane.forward(lane.post(b'{"items": [{"price": 1.5}, {"price": 2}]}', JSON), whole(b""))
    assert got.body == b"3.5"


@on("validated")
def test_large_bodies_are_validated_and_forwarded_as_they_are(lane: Lane) -> None:
    client = lane.client()
    for bad, keyword in (
        (_large(b'"x"'), b"type"),
        (b'{"n": 1, "n": "%b"}' % (b"x" * LARGE), b"json"),
        (_large(b"1")[:-1], b"json"),
    ):
        client.send(lane.post(bad, JSON))
        response = client.read_response()
        assert (response.status, keyword in response.body) == (400, True)
    got, response = lane.forward(lane.post(_large(b"1"), JSON), whole(b"{}"))
    assert got.body == _large(b"1")
    assert got.get(b"Content-Length") == b"%d" % len(_large(b"1"))


@on("compared")
def test_numbers_that_take_long_to_check_are_validated(lane: Lane) -> None:
    numbers = b"[" + b"1e-300," * 1000
    client = lane.client()
    client.send(lane.post(numbers + b"1]", JSON))
    assert client.read_response().status == 400
    got, _ = lane.forward(lane.post(numbers + b"2]", JSON), whole(b"{}"))
    assert got.body == numbers + b"2]"


@on("nested")
def test_short_bodies_of_very_many_arrays_are_validated_and_forwarded_as_they_are(lane: Lane) -> None:
    arrays = b",".join([b"[" * 100 + b"]" * 100] * 600)
    client = lane.client()
    for bad, keyword in ((b"[%b,1]" % arrays, b"type"), (b"[%b" % arrays, b"json")):
        client.send(lane.post(bad, JSON))
        response = client.read_response()
        assert (response.status, keyword in response.body) == (400, True)
    got, _ = lane.forward(lane.post(b"[%b]" % arrays, JSON), whole(b"{}"))
    assert got.body == b"[%b]" % arrays


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Lane]:
    """A gateway with an operation of an OpenAPI document whose bodies are arrays of arrays."""
    lists = {"type": "array", "items": {"$ref": "#/components/schemas/List"}}
    prices = {"type": "array", "items": {"$ref": "#/components/schemas/Price"}}
    described = document(
        {
            "/lists": {"post": operation(requestBody=json_body(lists))},
            "/prices": {"post": operation(requestBody=json_body(prices))},
        },
        components={"schemas": {"List": {"type": "array"}, "Price": {"enum": [each / 2 for each in range(100)]}}},
    )
    (tmp_path / "shop.json").write_text(json.dumps(described))
    origin = Origin()
    entry = {"file": "shop.json", "upstream": origin.url}
    listeners = {"main": {"address": "127.0.0.1:0"}}
    status = {"address": "127.0.0.1:0"}
    config = {"workers": 1, "listeners": listeners, "status": status, "routes": [{"openapi": entry}]}
    gateway = Gateway(config, tmp_path)
    lane = Lane(gateway, "shop", origin)
    yield lane
    lane.end()
    gateway.stop()
    origin.stop()


def test_bodies_of_an_operation_with_very_many_arrays_are_validated_and_forwarded_as_they_are(shop: Lane) -> None:
    arrays = b",".join([b"[" * 100 + b"]" * 100] * 600)
    client = shop.client()
    for bad, errors in (
        (b"[%b,1]" % arrays, [("/600", "type")]),
        (b"[%b" % arrays, [("", "json")]),
    ):
        client.send(shop.post(bad, JSON, b"/lists"))
        response = client.read_response()
        found = [(each["pointer"], each["keyword"]) for each in json.loads(response.body)["errors"]]
        assert (response.status, found) == (400, errors)
    got, _ = shop.forward(shop.post(b"[%b]" % arrays, JSON, b"/lists"), whole(b"{}"))
    assert got.body == b"[%b]" % arrays
    assert shop.gateway.sum_of("fastgw_filter_helper_requests_total") == 3


@pytest.mark.parametrize(("numbers", "in_helper"), [(80, 0), (81, 1)])
def test_bodies_of_an_operation_whose_numbers_are_compared_with_many(shop: Lane, numbers: int, in_helper: int) -> None:
    fitting = b"[%b]" % b",".join([b"9.5"] * numbers)
    got, _ = shop.forward(shop.post(fitting, JSON, b"/prices"), whole(b"{}"))
    assert got.body == fitting
    assert shop.gateway.sum_of("fastgw_filter_helper_requests_total") == in_helper
    client = shop.client()
    client.send(shop.post(fitting.replace(b"9.5]", b"9.6]"), JSON, b"/prices"))
    response = client.read_response()
    (error,) = json.loads(response.body)["errors"]
    assert (response.status, error["pointer"], error["keyword"]) == (400, f"/{numbers - 1}", "enum")


@on("endless")
def test_an_expression_that_does_not_end_is_killed_and_the_request_answered_504(lane: Lane) -> None:
    client = lane.client()
    client.send(lane.post(b"{}", JSON))
    assert client.read_response().status in (503, 504)  # 503: the process that was killed is being replaced


@on("endless_pass")
def test_an_expression_that_does_not_end_lets_the_body_pass_where_configured(lane: Lane) -> None:
    _, response = lane.forward(lane.get(), whole(b'{"a": 1.10}'))
    assert response.body == b'{"a": 1.10}'
