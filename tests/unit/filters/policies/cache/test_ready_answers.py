"""Ready answers: hits that are sent as bytes from the memory of a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastgw.exchange.sent_fields import SentFields
from fastgw.filters.api import Exchange, Phase, ResponseHook, ResponseLines
from fastgw.filters.policies.cache import ready_answers
from fastgw.filters.policies.cache.ready_answers import ReadyAnswers, ReadyMemory
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.parser import parse_request
from tests.support.memory import Wire, probe
from tests.support.table import for_each
from tests.unit.filters.policies.cache.test_hits import value
from tests.unit.filters.policies.cache.world import World

DATED = (
    b"HTTP/1.1 200 OK\r\nDate: Fri, 15 Jan 2027 08:00:00 GMT\r\nCache-Control: max-age=60\r\nX-Request-Id: theirs\r\n"
    b'ETag: "a"\r\nContent-Length: %d\r\n\r\n'
)


def with_hit(body: bytes = b"hello", **settings: Any) -> tuple[World, Wire]:
    """Return a world whose next equal request may be answered from memory, and the client before."""
    world = World(**settings)
    world.client()
    world.upstream().sends(DATED % len(body) + body)
    return world, world.client()


def lines(client: Wire) -> list[bytes]:
    head = client.received.partition(b"\r\n\r\n")[0]
    return sorted(line for line in head.split(b"\r\n") if not line.startswith(b"X-Request-Id"))


def ready(world: World) -> int:
    (link,) = (each for each in world.plane.gateway.live if each.hooks.translate is not None)
    (memory,) = (kept.value for kept in link.keeps if isinstance(getattr(kept, "value", None), ReadyMemory))
    return sum(getattr(entry, "answer", entry) is not None for entry in memory._entries.values())


@for_each(
    ("line", "needs"),
    [
        (b"If-None-Match: x", True),
        (b"cache-control:no-cache", True),
        (b"PRAGMA: x", True),
        (b"X-Bypass:", True),
        (b"X-Bypass-2: 1", False),
        (b"A: If-None-Match: x", False),
        (b"Accept: */*", False),
    ],
)
def test_the_full_path_reads_conditions_directives_and_the_header_of_bypass(line: bytes, needs: bool) -> None:
    answers = ReadyAnswers(ReadyMemory(), b"x-bypass", (), False, lambda: 0.0)
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % line)
    assert answers.needs_policy(head, Peer("192.0.2.1", 1, 80, False)) is needs


@pytest.mark.parametrize("length", [5, 60_000])
def test_it_is_equal_to_the_answer_on_the_full_path(length: int) -> None:
    body = b"x" * length
    world, before = with_hit(body)
    assert ready(world) == 1
    client = world.client()
    assert lines(client) == lines(before)
    assert client.received.endswith(b"\r\n\r\n" + body)
    assert value(client, b"X-Request-Id") not in (None, b"theirs", value(before, b"X-Request-Id"))
    assert client.received.count(b"X-Request-Id") == 1
    world.now += 9
    assert (value(later := world.client(), b"Age"), value(later, b"Cache-Status")) == (b"9", b"fastgw; hit; ttl=51")
    assert [record.cache for record in world.plane.records] == ["miss", "hit", "hit", "hit"]
    assert {record.response_bytes for record in world.plane.records} == {length}
    world.plane.assert_quiet()


def test_a_response_without_date_gets_that_of_its_arrival_and_keeps_it() -> None:
    """RFC 9110 section 6.6.1: the recipient adds when it has received the response."""
    world = World()
    world.client()
    dateless = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nAge: 3\r\nContent-Length: 5\r\n\r\nhello"
    world.upstream().sends(dateless)
    full = world.client()
    assert ready(world) == 1
    world.now += 9
    late = world.client()
    for client, age in ((full, b"3"), (late, b"12")):
        assert client.received.count(b"\r\nDate: ") == 1
        assert (value(client, b"Date"), value(client, b"Age")) == (b"Fri, 15 Jan 2027 08:00:00 GMT", age)
    assert value(late, b"Cache-Status") == b"fastgw; hit; ttl=48"
    world.plane.assert_quiet()


def test_after_a_304_without_date_it_has_that_of_the_304() -> None:
    world = World()
    world.client()
    head = b"HTTP/1.1 %b\r\nCache-Control: max-age=60\r\n"
    world.upstream().sends(head % b"200 OK" + b'ETag: "a"\r\nContent-Length: 5\r\n\r\nhello')
    world.now += 60
    world.client()
    world.upstream().sends(head % b"304 Not Modified" + b"\r\n")
    world.client()
    assert ready(world) == 1
    late = world.client()
    assert (value(late, b"Date"), value(late, b"Age")) == (b"Fri, 15 Jan 2027 08:01:00 GMT", b"0")
    assert value(late, b"Cache-Status") == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


@for_each(
    ("fields", "start"),
    [
        (b'If-None-Match: "a"\r\n', b"HTTP/1.1 304 "),
        (b'IF-NONE-MATCH:"a"\r\n', b"HTTP/1.1 304 "),
        (b"If-Modified-Since: Fri, 15 Jan 2027 09:00:00 GMT\r\n", b"HTTP/1.1 304 "),
        (b"If-Match: *\r\n", b""),
        (b"If-Unmodified-Since: Fri, 15 Jan 2027 08:00:00 GMT\r\n", b""),
        (b"Range: bytes=0-1\r\n", b"HTTP/1.1 206 "),
        (b'Range: bytes=0-1\r\nIf-Range: "a"\r\n', b"HTTP/1.1 206 "),
        (b"cache-control:no-cache\r\n", b""),
        (b"X-A: b\r\nCache-Control: no-cache\r\n", b""),
        (b"pragma: no-cache\r\n", b""),
    ],
)
def test_requests_with_conditions_or_directives_take_the_full_path(fields: bytes, start: bytes) -> None:
    world, _ = with_hit()
    client = world.client(fields=fields)
    assert client.received[:13] == start


@pytest.mark.parametrize("name", ["X-Request-Id", "X-No-Cache", "If"])
def test_a_request_with_the_header_for_a_bypass_takes_the_full_path(name: str) -> None:
    """Whether the name is one that the parser knows, or any other."""
    world, _ = with_hit(bypass={"header": name})
    assert ready(world) == 1
    assert value(world.client(), b"Cache-Status") == b"fastgw; hit; ttl=60"
    assert world.client(fields=name.lower().encode() + b": 1\r\n").received == b""


@pytest.mark.parametrize("end", ["stale", "purged", "soft", "removed"])
def test_it_is_sent_only_while_the_object_is_unchanged_and_fresh(end: str) -> None:
    world, _ = with_hit()
    if end == "stale":
        world.now += 60
    elif end == "removed":
        world.client(method=b"DELETE")
        world.upstream().sends(b"HTTP/1.1 204 No Content\r\n\r\n")
    else:
        world.store.purge("all", soft=end == "soft")
    client = world.client()
    assert client.received == b""
    assert ready(world) == 0


def test_a_pipelined_client_that_reads_slowly_gets_all_of_it() -> None:
    body = b"x" * 60_000
    world, _ = with_hit(body)
    client = world.plane.client()
    client.room = 100
    client.sends(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n" * 2)
    assert len(client.received) == 100
    client.takes()
    assert client.received.count(body) == 2
    world.plane.assert_quiet()


def test_other_filters_with_steps_keep_requests_on_the_full_path() -> None:
    world, _ = with_hit(route={"filters": {"headers": {"response": {"set": {"X-A": "{method}"}}}}})
    assert ready(world) == 0
    assert value(world.client(), b"X-A") == b"GET"


@pytest.mark.parametrize("request_", [{}, {"set": {"User-Agent": "a"}}], ids=["responses", "both"])
def test_fixed_changes_of_other_filters_are_part_of_it(request_: dict[str, Any]) -> None:
    inner = {"set": {"X-A": "1", "ETag": '"other"'}, "remove": ["Server", "X_Extra"], "add": {"Link": "</a>"}}
    outer = {"set": {"X-A": "2"}}
    filters = {
        "outer": {"type": "headers", "response": outer},
        "inner": {"type": "headers", "request": request_, "response": inner},
    }
    world = World(route={"filters": filters})
    world.client()
    world.upstream().sends(
        (DATED % 5).replace(b"\r\n\r\n", b'\r\nServer: s\r\nX-Extra: e\r\nETag: "e"\r\n\r\n') + b"hello"
    )
    before, client = world.client(), world.client()
    assert ready(world) == 1
    assert lines(client) == lines(before)
    assert [value(client, name) for name in (b"X-A", b"ETag", b"Link", b"Server", b"X-Extra")] == [
        *(b"2", b'"other"', b"</a>"),
        *(None, None),
    ]
    assert client.received.count(b"X-A: ") == 1
    assert [record.cache for record in world.plane.records] == ["miss", "hit", "hit"]
    world.plane.assert_quiet()


CORS = {"cors": {"origins": ["https://a.test", "https://*.b.test"]}}
BROWSERS = [b"", b"Origin: https://a.test\r\n", b"Origin: https://x.b.test\r\n", b"Origin: https://c.test\r\n"]


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"cors": {"origins": ["*"]}}, 1),
        (CORS, 3),
        ({**CORS, "security_headers": {}}, 3),
        ({**CORS, "headers": {"response": {"set": {"X-A": "1"}}}}, 3),
        ({**CORS, "inner": {"type": "cors", "origins": ["https://c.test"]}}, 0),
    ],
    ids=["any", "some", "security", "headers", "two"],
)
def test_origins_have_answers_of_their_own(filters: dict[str, Any], kept: int) -> None:
    """Each is what the same request without an answer in memory gets. Origins that are not allowed share one."""
    world = World(route={"filters": filters})
    computed = {"type": "headers", "response": {"add": {"X-P": "{path}"}}}
    plain = World(route={"filters": {**filters, "computed": computed}})
    for each in (world, plain):
        each.client()
        each.upstream().sends(DATED % 5 + b"hello")
    for _ in range(3):
        for origin in BROWSERS:
            expected = lines(plain.client(fields=origin))
            expected.remove(b"X-P: /")
            assert sorted(lines(world.client(fields=origin))) == sorted(expected)
    assert (ready(plain), ready(world)) == (0, kept)
    assert [record.cache for record in world.plane.records] == ["miss", *["hit"] * 12]
    world.plane.assert_quiet()


def test_no_answer_is_kept_for_origins_that_are_reflected() -> None:
    world, _ = with_hit(route={"filters": {"cors": {"origins": ["*"], "reflect": True, "credentials": True}}})
    for origin in BROWSERS[1:] * 2:
        assert origin.strip().partition(b" ")[2] == value(world.client(fields=origin), b"Access-Control-Allow-Origin")
    assert ready(world) == 0


def test_a_path_with_values_of_the_request_has_answers_of_its_own() -> None:
    """They would be found by the request target alone, whatever the value of the request."""
    world = World(route={"rewrite": "/{header.X-Tenant}"})
    assert b"\r\n\r\n" in (missing := world.client().received)
    assert missing.startswith(b"HTTP/1.1 4")
    bodies = []
    for tenant in (b"a", b"b", b"a", b"b"):
        client = world.client(fields=b"X-Tenant: %b\r\n" % tenant)
        if not client.received:
            world.upstream().sends(DATED % 1 + tenant)
        bodies.append(client.received[-1:])
    assert bodies == [b"a", b"b", b"a", b"b"]
    assert ready(world) == 0
    world.plane.assert_quiet()


def test_the_upstreams_of_a_split_have_answers_of_their_own() -> None:
    """Answers from memory would be sent before an upstream is chosen."""
    upstreams = {name: {"targets": [{"url": "http://127.0.0.1:9"}]} for name in ("u", "v")}
    split = {"by": "header:X-Key"}
    world = World(upstreams=upstreams, route={"upstream": {"u": 50, "v": 50}, "split": split})
    answers: dict[bytes, set[bytes | None]] = {}
    for key in [b"X-Key: %d\r\n" % number for number in range(20)] * 2:
        client = world.client(fields=key)
        if not client.received:
            body = b"%d" % len(answers)
            world.upstream().sends(DATED % len(body) + body)
        answers.setdefault(key, set()).add(client.received.rpartition(b"\r\n\r\n")[2])
    assert ready(world) == 0
    assert all(len(of_key) == 1 for of_key in answers.values())
    assert len(set.union(*answers.values())) == 2


VARYING = DATED.replace(b"ETag", b"Vary: A-B\r\nETag")


def ask(world: World, fields: bytes, answer: bytes = VARYING) -> bytes:
    """Return the body of the answer to a request, whose fetch gets a body of its own."""
    client = world.client(fields=fields)
    if not client.received:
        body = fields.strip() or b"none"
        world.upstream().sends(answer % len(body) + body)
    return client.received.rpartition(b"\r\n\r\n")[2]


def test_variants_are_told_apart_by_the_headers_that_vary_names() -> None:
    world = World()
    values = [b"A-B: 1\r\n", b"A-B: 2\r\n", b"a-b: 2\r\nA-B: 3\r\n", b"A-B:\r\n", b""]
    for fields in values * 3:
        assert ask(world, fields) == (fields.strip() or b"none")
    assert ready(world) == 1 + len(values)
    hits = [record.cache for record in world.plane.records]
    assert hits.count("miss") == len(values)
    assert hits.count("hit") == 2 * len(values)


def test_other_names_in_vary_end_the_answers_that_were_made_by_the_former_ones() -> None:
    world = World()
    for _ in range(2):
        assert ask(world, b"A-B: 1\r\n") == b"A-B: 1"
    more = VARYING.replace(b"A-B", b"A-B, C")
    assert ask(world, b"A-B: 2\r\nC: 1\r\n", more) == b"A-B: 2\r\nC: 1"
    for fields in (b"A-B: 1\r\nC: 2\r\n", b"A-B: 1\r\nC: 3\r\n") * 2:
        assert ask(world, fields, more) == fields.strip()


def test_headers_in_the_key_select_an_answer() -> None:
    world = World(key={"headers": ["A-B"]})
    for fields in (b"A-B: 1\r\n", b"A-B: 2\r\n", b"") * 3:
        assert ask(world, fields, DATED) == (fields.strip() or b"none")
    assert ready(world) == 3


def test_long_headers_select_no_answer_from_memory() -> None:
    world = World()
    for _ in range(3):
        assert ask(world, b"A-B: %b\r\n" % (b"x" * 2000)).endswith(b"xx")
    assert ready(world) == 0


def test_the_bytes_of_all_of_them_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready_answers, "MOST_BYTES", 10_000)
    world = World()
    for number in range(10):
        world.client(b"/%d" % number)
        world.upstream().sends(DATED % 2000 + b"x" * 2000)
        world.client(b"/%d" % number)
    assert ready(world) == 3
    assert world.client(b"/9").received.endswith(b"\r\n\r\n" + b"x" * 2000)


FIELDS: dict[str, Callable[[Any, Any], Any]] = {
    "raises": lambda head, peer: {}[head.path],
    "none": lambda head, peer: None,
    "a set": lambda head, peer: SentFields({b"x"}, b""),  # type: ignore[arg-type]
    "text": lambda head, peer: SentFields(frozenset(), "X-Own: 1"),  # type: ignore[arg-type]
    "a tuple": lambda head, peer: (frozenset(), b""),
    "bytes": lambda head, peer: b"X-Own: 1\r\n",
}


@for_each("name", FIELDS)
def test_a_filter_that_does_not_say_what_it_changes_has_its_step_run(name: str) -> None:
    def step(exchange: Exchange) -> None:
        exchange.add_response_fields(b"X-Own: %b\r\n" % exchange.path)

    hook = ResponseHook(step, lines=ResponseLines((b"x-own",)), fields=FIELDS[name])
    world, before = with_hit(probes=[probe("own", Phase.TRANSFORM, response=hook)])
    later = world.client()
    assert [value(each, b"X-Own") for each in (before, later)] == [value(before, b"X-Own")] * 2 != [None] * 2
    assert [record.cache for record in world.plane.records] == ["miss", "hit", "hit"]
