"""Composed routes on real sockets: large answers, and clients of both versions."""

from __future__ import annotations

import gzip
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.base.value_types import parse_name
from fastgw.observe.metrics.families import COMPOSITIONS
from tests.support.client import Client, Response
from tests.support.gateway import OFF, Gateway, name_of, wait_until
from tests.support.http2.translation import TranslatedClient
from tests.support.origin import Origin

STEPS = [{"type": "move", "args": ["items", "moved"]}]
STATIC = {"strategy": "complete", "data": {"source": "gateway"}}
NUMBERS = b"[" + b",".join([b"%d.10" % place for place in range(100_000)]) + b"]"
VERSIONS = ["http1", "http2"]


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin.serve()


@pytest.fixture(scope="module")
def gateway(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    def route(name: str, *parts: dict[str, Any], **compose: Any) -> dict[str, Any]:
        return {"name": name, "paths": [f"/{name}"], "compose": {"parts": list(parts), "timeout": "30s", **compose}}

    def part(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "upstream": "u", "path": f"/{name}", **more}

    settings = {
        **OFF,
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
        "status": {"address": "127.0.0.1:0"},
        "upstreams": {"u": {"targets": [{"url": origin.url}], "retries": {"max": 0}}},
        "routes": [
            route("three", part("a"), part("b"), part("c", after=["a"], required=True)),
            route("large", part("big", allow=["items"]), part("bad"), max_bytes="4MiB"),
            route(
                "each",
                part("list", deny=["inner", "pad"]),
                part("one", path="/one?i={item.id}", after=["list"], for_each="{part.list.inner.items}", group="ones"),
            ),
            route("encoded", part("gzip"), part("bomb"), part("odd"), max_bytes="2MiB"),
            route("whole", part("huge"), output="no-op"),
            route("xml", part("numbers"), output="xml", max_bytes="4MiB"),
            route("joined", part("numbers"), part("few"), flatmap=STEPS, static=STATIC, output="xml", max_bytes="4MiB"),
            route("shaped", part("array", mapping={"*": "other"}, is_collection=True, wrap="all"), max_bytes="4MiB"),
            route("needed", part("needed", path="/{query.of}", flatmap=STEPS, required=True), max_bytes="4MiB"),
            route("moved", part("big"), flatmap=[{"type": "del", "args": ["items.*.id"]}], max_bytes="4MiB"),
        ],
    }
    with Gateway(settings, tmp_path_factory.mktemp("compose")) as gateway:
        yield gateway


@pytest.fixture(params=VERSIONS)
def client(gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[Client]:
    made = gateway.connect() if request.param == "http1" else TranslatedClient(gateway.address("main"))
    with made as client:
        yield client


def get(client: Client, path: str) -> Response:
    return client.exchange(b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % path.encode())


def test_three_parts(client: Client, origin: Origin) -> None:
    for name in (b"a", b"b", b"c"):
        origin.answer(answer(b'{"%b": 1.10}' % name), path=b"/" + name)
    response = get(client, "/three")
    assert (response.status, response.body) == (200, b'{"a":1.10,"b":1.10,"c":1.10}')
    assert response.get_all(b"fastgw-completed") == [b"true"]


def test_large_answers_are_processed_beside_the_loop(client: Client, origin: Origin) -> None:
    items = [{"id": place, "text": "x" * 50} for place in range(20_000)]
    origin.answer(answer(json.dumps({"items": items, "other": 1}).encode()), path=b"/big")
    origin.answer(answer(b'{"a":1,' + b'"b":1,' * 50_000 + b'"c":1}'), path=b"/bad")
    response = get(client, "/large")
    assert json.loads(response.body) == {"items": items}
    assert response.get_all(b"fastgw-completed") == [b"false"]
    moved = get(client, "/moved")
    assert json.loads(moved.body) == {"items": [{"text": "x" * 50}] * 20_000, "other": 1}


def test_large_answers_as_xml(client: Client, origin: Origin) -> None:
    elements = "".join(f"<items>{place}.10</items>" for place in range(100_000))
    origin.answer(answer(b'{"items":%b,"other":"<"}' % NUMBERS), path=b"/numbers")
    origin.answer(answer(b'{"few":1}'), path=b"/few")
    response = get(client, "/xml")
    assert (response.status, response.get_all(b"fastgw-completed")) == (200, [b"true"])
    assert response.body.decode() == f"<doc>{elements}<other>&lt;</other></doc>"
    joined = get(client, "/joined")
    moved = elements.replace("items", "moved")
    assert joined.body.decode() == f"<doc><few>1</few>{moved}<other>&lt;</other><source>gateway</source></doc>"
    assert joined.get_all(b"etag") != response.get_all(b"etag") != []


def test_large_answers_with_rules_of_values(client: Client, origin: Origin) -> None:
    for name, body in (
        ("array", NUMBERS),
        ("object", b'{"items":%b}' % NUMBERS),
        ("twice", b'{"a":1,' + b'"b":1,' * 50_000 + b'"b":1}'),
    ):
        origin.answer(answer(body), path=f"/{name}".encode())
    assert get(client, "/shaped").body == b'{"all":%b}' % NUMBERS
    assert get(client, "/needed?of=object").body == b'{"moved":%b}' % NUMBERS
    assert get(client, "/needed?of=array").status == 502
    assert get(client, "/needed?of=twice").status == 502


def test_a_helper_process_that_has_died_is_replaced(gateway: Gateway, client: Client, origin: Origin) -> None:
    origin.answer(answer(b'{"items":%b}' % NUMBERS), path=b"/object")
    assert get(client, "/needed?of=object").status == 200
    (helper,) = helpers_of(gateway)
    os.kill(helper, signal.SIGKILL)
    wait_until(lambda: helper not in helpers_of(gateway), "that the worker has noticed it")
    assert get(client, "/needed?of=object").body == b'{"moved":%b}' % NUMBERS
    assert len(helpers_of(gateway)) == 1


def test_requests_to_the_helper_process_are_counted(gateway: Gateway, client: Client, origin: Origin) -> None:
    origin.answer(answer(b'{"items":%b}' % NUMBERS), path=b"/object")
    """Not together with those of a filter, whatever its name."""
    answered = r'fastgw_filter_helper_requests_total\{filter="\(compose\)",result="answered"\}'
    with pytest.raises(ValueError, match="is not a name"):
        parse_name(COMPOSITIONS)
    before = gateway.sum_of(answered)
    assert get(client, "/needed?of=object").status == 200
    assert gateway.sum_of(answered) == before + 1


def helpers_of(gateway: Gateway) -> list[int]:
    (worker,) = gateway.worker_pids
    children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    return [int(pid) for pid in children if name_of(int(pid)) == "fastgw compose"]


def test_a_list_in_a_large_answer(client: Client, origin: Origin) -> None:
    items = [{"id": place} for place in range(20)]
    origin.answer(answer(json.dumps({"inner": {"items": items}, "pad": "x" * 300_000}).encode()), path=b"/list")
    origin.answer(answer(b'{"n": 1.0}'), path=b"/one")
    assert get(client, "/each").body == b'{"ones":[%b]}' % b",".join([b'{"n": 1.0}'] * 20)


def test_answers_with_a_content_coding(client: Client, origin: Origin) -> None:
    """They are sent although none is accepted, and are decoded within `max_bytes`."""
    for name, coding, body in (
        ("gzip", "gzip", gzip.compress(b'{"a": 1.10}')),
        ("bomb", "gzip", gzip.compress(b'{"b":"' + b"x" * 3_000_000 + b'"}')),
        ("odd", "deflate, gzip", b"x"),
    ):
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
        origin.answer(head.encode() + body, path=f"/{name}".encode())
    response = get(client, "/encoded")
    assert (response.status, response.body) == (200, b'{"a":1.10}')
    assert response.get_all(b"fastgw-completed") == [b"false"]


def test_a_part_as_it_is_may_have_any_size(client: Client, origin: Origin) -> None:
    body = b"0123456789abcdef" * 500_000
    origin.answer(answer(body), path=b"/huge")
    response = get(client, "/whole")
    assert (response.status, response.body == body) == (200, True)
