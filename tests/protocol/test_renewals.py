"""A filter renews what the gateway shows an upstream that has refused it; filters change statuses and replies."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastgw
from tests.support.client import Client, Response
from tests.support.extension import install
from tests.support.gateway import Gateway, wait_until
from tests.support.lanes import VERSIONS, Kind, Lane, Lanes, running
from tests.support.origin import OK, Origin, OriginConnection

FILTERS = '''
"""Filters of a test."""

from fastgw.filters.api import Env, Exchange, Filter, Hooks, Phase, Reply, ResponseHead, Services


class Shows(Filter, name="shows", phase=Phase.CREDENTIALS):
    """Show the upstream a token. A fresh one is what the token server answers."""

    token_url: str
    """The URL of the token server."""

    def build(self, env: Env) -> Hooks:
        held: list[Services] = []

        def request(exchange: Exchange) -> None:
            exchange.request_added += b"X-Token: one\\r\\n"

        async def fresh(exchange: Exchange) -> bool:
            fetched = await held[-1].fetcher.fetch(self.token_url)
            exchange.request_added = b"X-Token: %b\\r\\n" % fetched.body
            return fetched.status == 200

        def renew(exchange: Exchange, head: ResponseHead):
            return fresh(exchange) if exchange.may_be_sent_again else None

        return Hooks(request=request, renew=renew, start=held.append)


class Polite(Filter, name="polite", phase=Phase.TRANSFORM):
    """A 5xx of the upstream becomes a 502, and replies of the gateway are in plain words."""

    def build(self, env: Env) -> Hooks:
        def response(exchange: Exchange) -> None:
            if exchange.response.head is not None and exchange.response.status >= 500:
                exchange.add_response_fields(b"X-Was: %d\\r\\n" % exchange.response.status)
                exchange.response.status = 502

        def reply(exchange: Exchange, reply: Reply) -> Reply:
            return Reply(reply.status, b"sorry", ((b"Content-Type", b"text/plain"),), reply.fault)

        return Hooks(response=response, reply=reply)
'''
ENTRIES = {"shows": "shows:Shows", "polite": "shows:Polite"}
DENIED = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 2\r\n\r\nno"
GRANTED = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo"
CLOSED = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"


def environment(folder: Path) -> dict[str, str]:
    install(folder, "shows", {"shows.py": FILTERS}, ENTRIES)
    return {"PYTHONPATH": f"{folder}:{Path(fastgw.__file__).parents[1]}"}


@pytest.fixture(scope="module")
def token_server() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, token_server: Origin
) -> Iterator[Lanes]:
    shows = {"shows": {"token_url": f"{token_server.url}/token"}}
    kinds = {
        "plain": Kind(route={"filters": shows}),
        "timed": Kind(route={"filters": shows, "timeout": "500ms"}),
        "looked-at": Kind(route={"filters": {**shows, "headers": {"response": {"set": {"X-A": "1"}}}}}),
        "small": Kind(route={"filters": shows}, upstream={"retries": {"body_bytes": 10}}),
        "one": Kind(route={"filters": shows}, upstream={"pool": {"max_connections": 1}}),
        "polite": Kind(route={"filters": {"polite": {}}}, upstream={"retries": {"max": 0}}),
    }
    folder = tmp_path_factory.mktemp("renewals")
    settings = {"extensions": ["shows"]}
    yield from running(
        Lanes(folder, kinds, count=8, settings=settings, environment=environment(folder), version=request.param)
    )


@pytest.fixture(autouse=True)
def token_server_again(token_server: Origin) -> Iterator[None]:
    """No test finds a connection of another one there."""
    yield
    token_server.clear()


def at_token_server(token_server: Origin) -> OriginConnection:
    """Somebody asks for a fresh token."""
    asking = token_server.accept_next()
    assert asking.read_request().request_target == b"/token"
    return asking


def token_of(upstream: OriginConnection) -> bytes | None:
    return upstream.read_request().get(b"X-Token")


@pytest.mark.parametrize("kind", ["plain", "looked-at", "timed", "one"])
@pytest.mark.parametrize("warm", [False, True])
def test_it_is_sent_once_more(lanes: Lanes, token_server: Origin, kind: str, warm: bool) -> None:
    lane = lanes.take(kind)
    client = lane.client()
    if warm:
        client.send(lane.get(b"/first"))
        lane.accept().answer()
        assert client.read_response().body == b"ok"
    client.send(lane.get(b"/renewed"))
    upstream = lane.origin.accept_next()
    assert token_of(upstream) == b"one"
    upstream.send(DENIED)
    asking = at_token_server(token_server)
    client.assert_nothing_unread()
    asking.send(GRANTED)
    again = lane.origin.accept_next()
    assert token_of(again) == b"two"
    again.send(OK)
    response = client.read_response()
    assert (response.status, response.body) == (200, b"ok")
    lane.origin.assert_no_further_connection()
    again.assert_nothing_unread()
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/renewed")
    assert (record["status"], record["retries"]) == (200, 1)
    lane.end()


@pytest.mark.parametrize("answer", [DENIED, DENIED.replace(b"401 Unauthorized", b"403 Forbidden")])
def test_without_a_fresh_one_the_answer_is_what_it_was(lanes: Lanes, token_server: Origin, answer: bytes) -> None:
    lane = lanes.take("plain")
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.answer(answer)
    at_token_server(token_server).send(CLOSED)
    response = client.read_response()
    assert (response.status, response.get(b"WWW-Authenticate")) == (int(answer[9:12]), b"Bearer")
    assert response.body == b"no"
    upstream.assert_nothing_unread()
    lane.end()


def test_the_second_refusal_is_the_last(lanes: Lanes, token_server: Origin) -> None:
    lane = lanes.take("plain")
    client = lane.client()
    client.send(lane.get())
    lane.accept().answer(DENIED)
    at_token_server(token_server).send(GRANTED)
    again = lane.origin.accept_next()
    again.answer(DENIED.replace(b"no", b"NO"))
    assert client.read_response().body == b"NO"
    again.assert_nothing_unread()
    lane.end()


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"PUT"])
@pytest.mark.parametrize("kind", ["plain", "one"])
def test_a_body_is_sent_twice(lanes: Lanes, token_server: Origin, method: bytes, kind: str) -> None:
    lane = lanes.take(kind)
    client = lane.client()
    body = bytes(range(256)) * 200  # 51,200 bytes
    client.send(lane.post(body).replace(b"POST", method, 1))
    assert lane.accept().answer(DENIED).body == body
    at_token_server(token_server).send(GRANTED)
    assert lane.origin.accept_next().answer().body == body
    assert client.read_response().status == 200
    lane.end()


def test_a_body_that_is_not_kept_is_not_sent_twice(lanes: Lanes, token_server: Origin) -> None:
    lane = lanes.take("small")
    client = lane.client()
    client.send(lane.post(b"more than ten bytes"))
    lane.accept().answer(DENIED)
    assert client.read_response().status == 401
    token_server.assert_no_further_connection()
    lane.origin.assert_no_further_connection()
    lane.end()


def test_an_upload_goes_on_behind_what_was_kept(lanes: Lanes, token_server: Origin) -> None:
    """The upstream judges the head and does not read the rest; 1 MB streams to it when it takes it."""
    lane = lanes.take("plain")
    client = lane.client()
    client.send(lane.get(fields=b"Transfer-Encoding: chunked\r\n", method=b"POST") + b"5\r\nhello\r\n")
    upstream = lane.accept()
    upstream.read_request_head()
    assert upstream.read_chunk() == b"hello"
    upstream.send(DENIED)
    at_token_server(token_server).send(GRANTED)
    again = lane.accept()
    assert again.read_request_head().get(b"X-Token") == b"two"
    assert again.read_chunk() == b"hello"
    got, more = 0, b"x" * 50_000
    for _ in range(20):
        client.send(b"%x\r\n%b\r\n" % (len(more), more))
    client.send(b"0\r\n\r\n")
    while chunk := again.read_chunk():
        got += len(chunk)
    assert got == 1_000_000
    assert again.read_trailers() == []
    again.send(OK)
    assert client.read_response().status == 200
    lane.end()


def test_who_expects_a_100_is_asked_for_the_body_by_who_takes_it(lanes: Lanes, token_server: Origin) -> None:
    lane = lanes.take("plain")
    client = lane.client()
    client.send(lane.get(fields=b"Content-Length: 3\r\nExpect: 100-continue\r\n", method=b"POST"))
    upstream = lane.accept()
    upstream.read_request_head()
    upstream.send(DENIED)
    at_token_server(token_server).send(GRANTED)
    again = lane.accept()
    head = again.read_request_head()
    assert head.get(b"Expect") == b"100-continue"
    client.assert_nothing_unread()
    again.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.read_response().status == 100
    client.send(b"abc")
    assert again.read_exactly(3) == b"abc"
    again.send(OK)
    assert client.read_response().status == 200
    lane.end()


@pytest.mark.http1
def test_a_tunnel_is_asked_for_twice(lanes: Lanes, token_server: Origin) -> None:
    lane = lanes.take("plain")
    client = lane.client()
    client.send(
        lane.get(
            fields=b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n"
        )
    )
    lane.accept().answer(DENIED)
    at_token_server(token_server).send(GRANTED)
    again = lane.origin.accept_next()
    request = again.read_request_head()
    assert (request.get(b"Upgrade"), request.get(b"X-Token")) == (b"websocket", b"two")
    again.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
    assert client.read_response().status == 101
    assert client.read_exactly(5) == b"hello"
    client.send(b"back")
    assert again.read_exactly(4) == b"back"
    lane.end()


@pytest.mark.parametrize("granted", [True, False])
def test_a_long_refusal_is_passed_on_whole_or_not_at_all(lanes: Lanes, token_server: Origin, granted: bool) -> None:
    """More of it than is held: it is not read until it is known who gets it."""
    lane = lanes.take("plain")
    client = lane.client()
    client.send(lane.get())
    upstream = lane.accept()
    upstream.read_request()
    upstream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 30_000)
    asking = at_token_server(token_server)
    client.assert_nothing_unread()
    asking.send(GRANTED if granted else CLOSED)
    if granted:
        again = lane.accept()
        assert again.answer().get(b"X-Token") == b"two"
        assert client.read_response().body == b"ok"
        upstream.assert_ended()
    else:
        response = client.read_response_head()
        assert response.status == 401
        assert client.read_exactly(30_000) == b"x" * 30_000
        for _ in range(27):
            upstream.send(b"y" * 110_000)
            assert client.read_exactly(110_000) == b"y" * 110_000
    lane.end()


def test_a_client_that_leaves_is_waited_for_by_nobody(lanes: Lanes, token_server: Origin) -> None:
    lane = lanes.take("plain")
    client = lane.client()
    client.send(lane.get(b"/left"))
    upstream = lane.accept()
    upstream.answer(DENIED)
    asking = at_token_server(token_server)
    client.close()
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/left")
    assert (record["status"], record["fault"], record["retries"]) == (499, "client_left", 0)
    asking.assert_ended()
    upstream.assert_nothing_unread()
    lane.origin.assert_no_further_connection()
    lane.end()


def test_the_time_of_the_route_goes_on(lanes: Lanes, token_server: Origin) -> None:
    """What has come in time is the answer, not a fault of the gateway."""
    lane = lanes.take("timed")
    client = lane.client()
    client.send(lane.get(b"/late"))
    lane.accept().answer(DENIED)
    asking = at_token_server(token_server)
    assert client.read_response().body == b"no"
    asking.assert_ended()
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/late")
    assert (record["status"], record["fault_detail"]) == (401, "filter shows timed out while renewing credentials")
    lane.end()


def is_refused(gateway: Gateway) -> bool:
    try:
        gateway.connect().close()
    except OSError:
        return True
    return False


def test_a_drain_waits_for_it(tmp_path: Path) -> None:
    """Nothing is lost that could be kept."""
    with Origin() as token_server, Origin() as origin:
        config = {
            "workers": 1,
            "extensions": ["shows"],
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "routes": [
                {
                    "name": "a",
                    "upstream": origin.url,
                    "filters": {"shows": {"token_url": f"{token_server.url}/token"}},
                }
            ],
        }
        with Gateway(config, tmp_path, environment=environment(tmp_path)) as gateway, gateway.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            origin.accept().answer(DENIED)
            asking = at_token_server(token_server)
            gateway.signal(signal.SIGTERM)
            wait_until(lambda: is_refused(gateway), "that nobody new is let in")
            asking.send(GRANTED)
            assert origin.accept_next().answer().get(b"X-Token") == b"two"
            response = client.read_response()
            assert (response.status, response.get(b"Connection")) == (200, b"close")


# Statuses and replies


def polite(lanes: Lanes, answer: bytes, method: bytes = b"GET") -> tuple[Lane, Response]:
    lane = lanes.take("polite")
    _, response = lane.forward(lane.get(b"/polite", method=method), answer)
    return lane, response


@pytest.mark.parametrize(
    ("answer", "method", "body"),
    [
        (b"HTTP/1.1 500 Broken\r\nContent-Length: 4\r\n\r\noops", b"GET", b"oops"),
        (b"HTTP/1.1 500 Broken\r\nTransfer-Encoding: chunked\r\n\r\n4\r\noops\r\n0\r\n\r\n", b"GET", b"oops"),
        (b"HTTP/1.1 503 Broken\r\nContent-Length: 0\r\n\r\n", b"GET", b""),
        (b"HTTP/1.1 599 Broken\r\nContent-Length: 4\r\n\r\n", b"HEAD", b""),
    ],
)
def test_a_status_of_a_filter_goes_out(lanes: Lanes, answer: bytes, method: bytes, body: bytes) -> None:
    lane, response = polite(lanes, answer, method)
    assert (response.status, response.reason, response.body) == (502, b"Bad Gateway", body)
    assert response.get(b"X-Was") == answer[9:12]
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/polite")
    assert (record["status"], record["fault"]) == (502, None)
    lane.end()


def test_a_reply_of_the_gateway_is_changed_on_its_way(lanes: Lanes) -> None:
    lane = lanes.take("polite")
    client = lane.client()
    client.send(lane.get(b"/lost"))
    upstream = lane.accept()
    upstream.read_request()
    upstream.close()
    response = client.read_response()
    assert (response.status, response.body, response.get(b"Content-Type")) == (502, b"sorry", b"text/plain")
    record = lane.gateway.wait_for_record(host=lane.host.decode(), path="/lost")
    assert (record["status"], record["fault"]) == (502, "connection_lost")
    lane.end()


def test_metrics_count_what_went_out(tmp_path: Path) -> None:
    with Origin() as origin:
        config = {
            "workers": 1,
            "extensions": ["shows"],
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "status": {"address": "127.0.0.1:0"},
            "routes": [{"name": "a", "upstream": origin.url, "filters": {"polite": {}}}],
        }
        with Gateway(config, tmp_path, environment=environment(tmp_path)) as gateway:
            with gateway.connect() as client:
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                origin.accept().answer(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
                assert client.read_response().status == 502

            def counted() -> bool:
                with Client(gateway.ready["status"]) as scraper:
                    text = scraper.exchange(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").body
                series = b'fastgw_requests_total{listener="main",method="GET",route="a",status="502"} 1'
                return series in text

            wait_until(counted, "that a 502 is counted")
