"""Metrics of WebSockets: messages by sender and kind, and how connections end."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.protocol.test_websocket_filter import VERSIONS, PlainSide, close, frame, kind, open_plain, open_stream
from tests.support.client import Client
from tests.support.gateway import wait_until
from tests.support.lanes import Lane, Lanes, running

SAMPLE = re.compile(r"^fastgw_websocket_(messages|closes)_total\{(.*)\} (\S+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    listeners: dict[str, Any] = {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}}
    settings = {"listeners": listeners, "status": {"address": "127.0.0.1:0"}}
    kinds = {"plain": kind(), "small": kind(message_bytes=100), "rate": kind(rate="2/s")}
    yield from running(Lanes(tmp_path_factory.mktemp("ws-metrics"), kinds, count=24, settings=settings))


@pytest.fixture
def lane(lanes: Lanes, request: pytest.FixtureRequest) -> Iterator[Lane]:
    lane = lanes.take(getattr(request, "param", "plain"))
    yield lane
    lane.end()


def counted(lane: Lane, name: str) -> dict[tuple[str, str], int]:
    """Samples of the lane's route, by their other two labels."""
    with Client(lane.gateway.ready["status"]) as client:
        text = client.exchange(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").body.decode()
    found = {}
    for metric, labels, value in SAMPLE.findall(text):
        told = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if metric == name and told["route"] == lane.name:
            assert told["listener"] == "main"
            first, second = ("sender", "kind") if name == "messages" else ("by", "code")
            found[told[first], told[second]] = int(float(value))
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_messages_are_counted_by_sender_and_kind_while_a_connection_is_open(lane: Lane, version: str) -> None:
    client, upstream = open_plain(lane) if version == "http1" else open_stream(lane)
    client.send(frame(1, b"a") * 3 + frame(2, b"b", fin=False) + frame(0, b"b") + frame(9, b"p"))
    for _ in range(6):
        upstream.read_frame()
    upstream.send(frame(10, b"p", masked=False) + frame(1, b"c", masked=False) + frame(2, b"d", masked=False) * 2)
    expected = {("client", "text"): 3, ("client", "binary"): 1, ("client", "ping"): 1}
    expected |= {("upstream", "pong"): 1, ("upstream", "text"): 1, ("upstream", "binary"): 2}
    wait_until(lambda: counted(lane, "messages") == expected, f"{expected}")
    assert counted(lane, "closes") == {}
    client.send(frame(1, b"last") + close(1000))
    for _ in range(2):
        upstream.read_frame()
    upstream.send(close(1000, masked=False))
    upstream.peer.close()
    expected["client", "text"] = 4
    wait_until(lambda: counted(lane, "closes") == {("client", "1000"): 1}, "the end to be counted")
    assert counted(lane, "messages") == expected


@pytest.mark.parametrize(("code", "label"), [(1001, "1001"), (1014, "1014"), (3000, "3xxx"), (4999, "4xxx")])
@pytest.mark.parametrize("who", ["client", "upstream"])
def test_ends_are_counted_by_code_and_side(lane: Lane, who: str, code: int, label: str) -> None:
    """Codes that peers make up share a label: nobody can make series without end."""
    client, upstream = open_plain(lane)
    here, there = (client, upstream) if who == "client" else (upstream, client)
    here.send(close(code, b"", here.masked))
    there.read_close()
    there.send(close(code, b"", there.masked))
    upstream.peer.close()
    wait_until(lambda: counted(lane, "closes") == {(who, label): 1}, "the end to be counted")


def ends_by_empty_close(client: PlainSide, upstream: PlainSide) -> None:
    client.send(frame(8, b""))


def ends_by_violation(client: PlainSide, upstream: PlainSide) -> None:
    client.send(frame(3, b""))


def leaves(client: PlainSide, upstream: PlainSide) -> None:
    client.peer.reset()


def half_closes(client: PlainSide, upstream: PlainSide) -> None:
    client.peer.sock.shutdown(socket.SHUT_WR)
    upstream.peer.assert_ended()
    upstream.peer.close()


def loses_upstream(client: PlainSide, upstream: PlainSide) -> None:
    upstream.peer.close()


@pytest.mark.parametrize(
    ("end", "labels"),
    [
        (ends_by_empty_close, ("client", "1005")),
        (ends_by_violation, ("gateway", "1002")),
        (leaves, ("client", "1006")),
        (half_closes, ("client", "1006")),
        (loses_upstream, ("upstream", "1011")),
    ],
)
def test_who_closed_is_told(lane: Lane, end: Any, labels: tuple[str, str]) -> None:
    client, upstream = open_plain(lane, path=b"/" + end.__name__.encode())
    end(client, upstream)
    wait_until(lambda: counted(lane, "closes") == {labels: 1}, "the end to be counted")
    record = lane.gateway.wait_for_record(path=f"/{end.__name__}")["websocket"]
    assert (record["closed_by"], str(record["close_code"])) == labels


@pytest.mark.parametrize("lane", ["rate"], indirect=True)
def test_messages_that_are_dropped_are_not_counted(lane: Lane) -> None:
    client, upstream = open_plain(lane, path=b"/dropped")
    client.send(frame(1, b"x") * 9)
    for _ in range(2):
        upstream.read_frame()
    assert upstream.read_close() == 1008
    client.send(frame(1, b"y") * 9 + close(1008))
    upstream.peer.close()
    wait_until(lambda: counted(lane, "closes") == {("gateway", "1008"): 1}, "the end to be counted")
    assert counted(lane, "messages") == {("client", "text"): 2}
    assert lane.gateway.wait_for_record(path="/dropped")["websocket"]["client_messages"] == 2
