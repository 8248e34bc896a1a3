"""Injected delays: the request waits, and is forwarded or aborted then."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import pytest

from tests.support.lanes import VERSIONS, Kind, Lanes, running

DELAY = 0.4


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Lanes]:
    delay = {"delay": {"time": f"{DELAY * 1000:.0f}ms"}}
    kinds = {
        "delayed": Kind(route={"filters": {"fault": delay}}),
        "grpc": Kind({"protocol": "grpc"}, {"filters": {"fault": {"abort": {"grpc_status": "unavailable"}}}}),
        "asked": Kind({"protocol": "grpc"}, {"filters": {"fault": {"by_client": True}}}),
        "both": Kind(route={"filters": {"fault": {**delay, "abort": {"status": 418}}}}),
    }
    yield from running(Lanes(tmp_path_factory.mktemp("fault"), kinds, count=2, version=request.param))


def test_a_delayed_request_is_forwarded_later(lanes: Lanes) -> None:
    lane = lanes.take("delayed")
    begun = monotonic()
    _, response = lane.forward(b"GET / HTTP/1.1\r\nHost: $HOST\r\n\r\n")
    assert response.status == 200
    assert monotonic() - begun >= DELAY
    lane.end()


def test_a_request_may_be_delayed_and_aborted(lanes: Lanes) -> None:
    lane = lanes.take("both")
    client = lane.client()
    begun = monotonic()
    client.send(lane.get())
    assert client.read_response().status == 418
    assert monotonic() - begun >= DELAY
    record = lane.gateway.wait_for_record(host=lane.host.decode(), status=418)
    assert record["fault"] == "fault_injected"
    assert record["fault_detail"] == "fault: injected"
    lane.end()


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        ("grpc", b"", 14),
        ("asked", b"X-Fastgw-Fault-Grpc: 8\r\n", 8),
    ],
)
def test_a_call_of_grpc_is_aborted_by_its_status(lanes: Lanes, kind: str, fields: bytes, code: int) -> None:
    """The answer is one of trailers only: status 200, and the status of the call in the head."""
    lane = lanes.take(kind)
    client = lane.client()
    client.send(lane.post(b"\0\0\0\0\0", b"Content-Type: application/grpc\r\nTE: trailers\r\n" + fields))
    response = client.read_response()
    assert (response.status, response.body) == (200, b"")
    assert response.get_all(b"grpc-status") == [b"%d" % code]
    assert response.get_all(b"content-type") == [b"application/grpc"]
    record = lane.gateway.wait_for_record(host=lane.host.decode(), fault="fault_injected")
    assert record["grpc_status"] == {8: "RESOURCE_EXHAUSTED", 14: "UNAVAILABLE"}[code]
    client.send(lane.get(fields=fields))  # not a call of gRPC
    assert client.read_response().status == 500
    lane.end()
