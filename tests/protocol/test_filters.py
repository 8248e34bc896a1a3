"""The first three filters and the levels they may stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.faults import assert_fault
from tests.support.lanes import VERSIONS, Kind, Lane, Lanes, running

KINDS = {
    "plain": Kind(),
    "fields": Kind(
        route={
            "filters": {
                "headers": {
                    "request": {"set": {"X-Set": "gateway"}, "add": {"X-Add": "gateway"}, "remove": ["X-Remove"]},
                    "response": {
                        "set": {"X-Set": "gateway"},
                        "add": {"X-Add": "gateway"},
                        "remove": ["X-Remove", "Server"],
                    },
                }
            }
        }
    ),
    "levels": Kind(
        upstream={"filters": {"of_upstream": {"type": "headers", "response": {"set": {"X-Upstream": "1"}}}}},
        route={
            "use": ["bundle"],
            "filters": {
                "of_route": {"type": "headers", "response": {"set": {"X-Route": "1"}}},
                "replaced": {"type": "headers", "response": {"set": {"X-Replaced": "route"}}},
                "removed": None,
            },
        },
    ),
}
SETTINGS = {
    "filters": {
        "request_id": {"header": "X-Request-Id", "trust_client": True},
        "everywhere": {"type": "headers", "response": {"set": {"X-Gateway": "1"}}},
        "replaced": {"type": "headers", "response": {"set": {"X-Replaced": "gateway"}}},
        "removed": {"type": "headers", "response": {"set": {"X-Removed": "gateway"}}},
    },
    "filter_sets": {"bundle": {"of_set": {"type": "headers", "response": {"set": {"X-Bundle": "1"}}}}},
}


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(
        Lanes(tmp_path_factory.mktemp("filters"), KINDS, count=8, settings=SETTINGS, version=request.param)
    )


@pytest.fixture(scope="module")
def suspicious(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    """A gateway that takes no request id from clients."""
    settings = {"filters": {"request_id": {"trust_client": False}}}
    yield from running(Lanes(tmp_path_factory.mktemp("suspicious"), count=2, settings=settings))


def test_a_request_without_an_id_gets_one(lane: Lane) -> None:
    """`request_id`: the same in the upstream's request, the response and the log; each request has its own."""
    seen = set()
    for number in range(3):
        got, response = lane.forward(
            lane.get(b"/id-%d" % number), b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
        )
        request_id = got.get(b"X-Request-Id")
        assert request_id
        assert response.get(b"X-Request-Id") == request_id
        record = lane.gateway.wait_for_record(host=lane.host.decode(), path=f"/id-{number}")
        assert record["request_id"] == request_id.decode()
        seen.add(request_id)
    assert len(seen) == 3


def test_a_clients_id_is_kept_where_it_is_trusted(lane: Lane) -> None:
    """`trust_client: true`: one request keeps one id across several systems."""
    got, response = lane.forward(lane.get(fields=b"X-Request-Id: from-the-client-1\r\n"))
    assert got.get(b"X-Request-Id") == response.get(b"X-Request-Id") == b"from-the-client-1"


def test_a_clients_id_is_replaced_where_it_is_not_trusted(suspicious: Lanes) -> None:
    """`trust_client: false`: an outsider cannot choose what stands in the log."""
    lane = suspicious.take()
    got, response = lane.forward(lane.get(fields=b"X-Request-Id: forged\r\n"))
    assert got.get(b"X-Request-Id") == response.get(b"X-Request-Id") != b"forged"
    lane.end()


def test_a_refusal_has_an_id_too(lane: Lane) -> None:
    """Design section 2: response steps of early filters run for every answer, whoever made it."""
    client = lane.client()
    client.send(b"GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n")
    response = client.read_response()
    assert_fault(response, "route_not_found")
    assert response.get(b"X-Request-Id")


def test_an_upstream_that_fails_gives_an_answer_with_an_id(lane: Lane) -> None:
    """Design section 2: so does a 502."""
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.close()
    response = client.read_response()
    assert_fault(response, "connection_lost")
    assert response.get(b"X-Request-Id")


def test_fields_of_a_request_are_changed(lanes: Lanes) -> None:
    """`headers`: `set` replaces all, `add` adds one, `remove` takes all, in any case; the others stay in order."""
    lane = lanes.take("fields")
    got, _ = lane.forward(
        lane.get(fields=b"A: 1\r\nx-set: a\r\nX-Set: b\r\nX-Add: c\r\nx-remove: d\r\nX-Remove: e\r\nB: 2\r\n")
    )
    assert got.get_all(b"X-Set") == [b"gateway"]
    assert got.get_all(b"X-Add") == [b"c", b"gateway"]
    assert b"X-Remove" not in got
    names = [name.lower() for name, _ in got.head.lines]
    assert names.index(b"a") < names.index(b"b")
    lane.end()


def test_fields_of_a_response_are_changed(lanes: Lanes) -> None:
    """`headers`: the same on the way back."""
    lane = lanes.take("fields")
    _, response = lane.forward(
        lane.get(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: a\r\nx-set: b\r\nX-Add: c\r\nX-Remove: d\r\nB: 2\r\n\r\nok",
    )
    assert response.get_all(b"X-Set") == [b"gateway"]
    assert response.get_all(b"X-Add") == [b"c", b"gateway"]
    assert b"X-Remove" not in response
    assert b"Server" not in response
    assert response.get(b"B") == b"2"
    lane.end()


@pytest.mark.http1
def test_connection_takes_away_nothing_that_was_set(lanes: Lanes) -> None:
    """RFC 9110 section 7.6.1: a sender names its own fields; what the gateway says to the next hop stays, both ways."""
    lane = lanes.take("fields")
    named = b"Connection: X-Set, X-Add\r\nX-Set: a\r\nX-Add: b\r\n"
    got, response = lane.forward(
        lane.get(fields=named), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + named + b"\r\nok"
    )
    for message in (got, response):
        assert message.get_all(b"X-Set") == message.get_all(b"X-Add") == [b"gateway"]
    lane.end()


def test_underscores_are_no_way_round(lanes: Lanes) -> None:
    """RFC 3875 section 4.1.18: to CGI `X_Remove` and `X-Remove` are one variable."""
    lane = lanes.take("fields")
    got, _ = lane.forward(lane.get(fields=b"X_Set: a\r\nX_Remove: b\r\nX_Other: c\r\n"))
    assert b"X_Set" not in got
    assert b"X_Remove" not in got
    assert (got.get(b"X-Set"), got.get(b"X_Other")) == (b"gateway", b"c")
    lane.end()


def test_bodies_pass_where_fields_are_changed(lanes: Lanes) -> None:
    """The general path frames bodies as the fast one does: chunks, trailers and all."""
    lane = lanes.take("fields")
    got, response = lane.forward(
        lane.get(method=b"POST", fields=b"Transfer-Encoding: chunked\r\nConnection: X-Gone\r\nX-Gone: 1\r\n")
        + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Gone\r\nX-Gone: 1\r\n\r\n"
        b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
    )
    for message in (got, response):
        assert message.body == b"abc"
        assert [(name.lower(), value) for name, value in message.trailers] == [(b"x-sum", b"1")]
        assert b"X-Gone" not in message
        assert b"Via" in message
    lane.end()


def test_levels_add_up(lanes: Lanes) -> None:
    """Design section 4: all levels accumulate; the same name at a nearer level replaces, null removes."""
    lane = lanes.take("levels")
    _, response = lane.forward(lane.get())
    for name in (b"X-Gateway", b"X-Upstream", b"X-Bundle", b"X-Route"):
        assert response.get_all(name) == [b"1"]
    assert response.get_all(b"X-Replaced") == [b"route"]
    assert b"X-Removed" not in response
    lane.end()


def test_the_gateways_level_alone(lane: Lane) -> None:
    """Where a route says nothing the gateway's filters stand."""
    _, response = lane.forward(lane.get())
    assert response.get(b"X-Replaced") == b"gateway"
    assert response.get(b"X-Removed") == b"gateway"
    assert b"X-Route" not in response
