"""`shadow: true`: a filter decides on a copy of the exchange, and the exchange is what it is without the filter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from fastgw.config.settings.gateway import Config
from fastgw.consumers.index import Consumer
from fastgw.errors import Fault
from fastgw.exchange.body_stages import BodyRefused
from fastgw.exchange.hooks import TranslateHook
from fastgw.exchange.reply import UNKNOWN as UNKNOWN_LENGTH
from fastgw.explain import as_text, explain
from fastgw.filters.api import (
    BodyHead,
    BodyHook,
    BodyStage,
    Bounded,
    Env,
    Exchange,
    Filter,
    Hooks,
    Phase,
    Reply,
    RequestHook,
    StageFactory,
)
from fastgw.filters.wrappers import shadow
from fastgw.observe.metrics.families import FilterEvent
from tests.support.memory import Plane, Wire, probe
from tests.support.table import for_each

HOST = b"Host: a.test\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST + b"X-Old: 1\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc"
OK = b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 2\r\n\r\nok"


class Hidden(Plane):
    """Its probes are in shadow."""

    def _load(self, settings: Mapping[str, Any]) -> Config:
        made = super()._load(settings)
        return replace(made, filters={name: replace(use, shadow=True) for name, use in made.filters.items()})


class Half(Plane):
    """Its probe `p` is in shadow; the others act."""

    def _load(self, settings: Mapping[str, Any]) -> Config:
        made = super()._load(settings)
        return replace(made, filters={name: replace(use, shadow=name == "p") for name, use in made.filters.items()})


def plane_of(*probes: type[Filter], shadow: bool = True) -> Plane:
    """With the probes in shadow, or without them."""
    return Hidden(probes=probes) if shadow else Plane()


def told(plane: Plane) -> list[str]:
    return [record.shadowed for record in plane.records]


def exchanged(plane: Plane, request: bytes = GET) -> tuple[bytes, bytes]:
    """What the upstream and the client got."""
    client = plane.client()
    client.sends(request)
    upstream = plane.connects()
    upstream.sends(OK)
    return upstream.received, _undated(client)


def _undated(client: Wire) -> bytes:
    return b"\r\n".join(line for line in client.received.split(b"\r\n") if not line.startswith(b"Date:"))


def everything(exchange: Exchange) -> Reply | None:
    """All that a request step can do to an exchange."""
    exchange.headers.set(b"X-Set", b"1")
    exchange.headers.remove(b"X-Old")
    exchange.head.fields().set(b"X-Head", b"1")
    exchange.request_added += b"X-Added: 1\r\n"
    exchange.request_dropped |= {b"host", b"x-old"}
    exchange.consumer = Consumer("mallory")
    exchange.claims = {"sub": "mallory"}
    exchange.request_id = b"mallory"
    exchange.path = b"/elsewhere"
    exchange.client_ip = "192.0.2.9"
    exchange.client.answer(None, b"", True)  # type: ignore[arg-type]
    exchange.fail(Fault.INTERNAL)
    return None


def respond(exchange: Exchange) -> None:
    assert exchange.response is not None
    exchange.response.headers.set(b"X-Response", b"1")
    exchange.response.headers.remove(b"Server")
    exchange.response.dropped |= {b"content-length"}
    exchange.response.status = 500
    exchange.add_response_fields(b"X-Line: 1\r\n")


def refuse(exchange: Exchange, *_: object) -> Reply:
    everything(exchange)
    return exchange.refuse(Fault.FORBIDDEN, why="not you")


def broken(*_: object) -> Any:
    raise ZeroDivisionError


@for_each("phase", [Phase.OBSERVE, Phase.ADMIT, Phase.AUTHENTICATE, Phase.TRANSFORM])
@for_each(
    ("hooks", "event", "said"),
    [
        ({"request": lambda exchange: None}, FilterEvent.PASS, ""),
        ({"request": refuse}, FilterEvent.ANSWER, "p: refuse 403 forbidden (not you)"),
        ({"request": lambda exchange: Reply(204)}, FilterEvent.ANSWER, "p: answer 204"),
        ({"request": broken}, FilterEvent.RAISE, "p: raise ZeroDivisionError"),
        ({"request": lambda exchange: True}, FilterEvent.RAISE, "p: raise TypeError"),
        ({"response": broken}, FilterEvent.RAISE, "p: raise ZeroDivisionError"),
        ({"finish": broken}, FilterEvent.RAISE, "p: raise ZeroDivisionError"),
        ({"request_body": broken}, FilterEvent.RAISE, "p: raise ZeroDivisionError"),
        ({"request_body": refuse}, FilterEvent.ANSWER, "p: refuse 403 forbidden (not you)"),
        (
            {"response": respond},
            FilterEvent.CHANGE,
            "p: change response status, Server, Content-Length, X-Response, X-Line",
        ),
    ],
)
def test_what_a_filter_in_shadow_does_reaches_nobody(
    hooks: dict[str, Callable[..., Any]], event: FilterEvent, said: str, phase: Phase
) -> None:
    request = POST if "request_body" in hooks else GET
    without = exchanged(plane_of(probe("p", phase, **hooks), shadow=False), request)
    plane = plane_of(probe("p", phase, **hooks))
    assert exchanged(plane, request) == without
    (record,) = plane.records
    assert (record.status, record.fault, record.fault_detail, record.request_id) == (200, "", "", b"")
    assert record.shadowed == said
    assert plane.observer.filters == [("p", event)]
    plane.assert_quiet()


def test_what_it_would_change_is_told_by_name() -> None:
    plane = plane_of(probe("p", Phase.TRANSFORM, request=everything, response=respond))
    upstream, client = exchanged(plane)
    assert b"X-Old: 1\r\n" in upstream
    assert b"X-Set" not in upstream
    assert b"X-Head" not in upstream
    assert b"X-Added" not in upstream
    assert b"X-Response" not in client
    assert told(plane) == [
        "p: change request Host, X-Old, X-Set, X-Head, X-Added, "
        "change response status, Server, Content-Length, X-Response, X-Line"
    ]
    assert plane.observer.filters == [("p", FilterEvent.CHANGE)]


def test_it_sees_what_it_did_itself_and_what_really_happens() -> None:
    """Its own changes stay on its copy, through all of its steps."""
    seen: dict[str, Any] = {}

    def request(exchange: Exchange) -> None:
        exchange.headers.set(b"X-Mine", b"1")
        exchange.consumer = Consumer("alice")

    def response(exchange: Exchange) -> None:
        assert exchange.response is not None
        assert exchange.consumer is not None
        seen["after"] = exchange.headers.get(b"X-Mine"), exchange.consumer.name, exchange.response.status

    def body(exchange: Exchange, payload: bytes) -> None:
        assert exchange.request_body is not None
        seen["body"] = payload, exchange.request_body.bytes

    def finish(exchange: Exchange) -> None:
        seen["end"] = exchange.state.name, exchange.response_bytes, exchange.upstream, exchange.target

    own = probe("own", Phase.TRANSFORM, request=request, response=response, request_body=body, finish=finish)
    plane = plane_of(own)
    exchanged(plane, POST)
    assert seen["after"] == (b"1", "alice", 200)
    assert seen["body"] == (b"abc", 3)
    assert seen["end"] == ("ENDED", 2, "u", "127.0.0.1:9")


JSON_POST = b"POST /x?a=1 HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
ORDER = {"required": ["a"]}
UNKNOWN = "unknown: bodies of responses are not changed in shadow"


@for_each("pieces", ["whole", "byte by byte"])
@for_each(
    ("filters", "body", "said"),
    [
        ({"validate": {"body": {"inline": ORDER}}}, b"{}", "refuse 400 validation_failed (body -: required)"),
        ({"validate": {"body": {"inline": ORDER}}}, b'{"a":1}', ""),
        ({"validate": {"body": {"inline": ORDER, "max_bytes": 4}}}, b'{"a":1}', "refuse 413 body_too_large"),
        ({"validate": {"body": {"inline": ORDER}, "mode": "report"}}, b"{}", "refuse 400 validation_failed"),
        ({"graphql": {"max_depth": 1}}, b'{"query":"{a{b}}"}', "refuse 400 validation_failed (The depth is 2"),
        ({"graphql": {"max_depth": 2}}, b'{"query":"{a}"}', ""),
        ({"transform": {"request": {"json": {"deny": ["a"]}}}}, b'{"a":1}', "change request body"),
        ({"transform": {"request": {"json": {"deny": ["a"]}}}}, b"{", "refuse 400"),
        ({"transform": {"request": {"json": {"deny": ["x"]}}}}, b'{"a":1}', ""),
        ({"query_parameters": {"remove": ["a"]}}, b"{}", "change request query"),
        ({"query_parameters": {"remove": ["b"]}}, b"{}", ""),
    ],
)
def test_bodies_and_queries_of_requests_are_judged(
    filters: dict[str, Any], body: bytes, said: str, pieces: str
) -> None:
    """As without `shadow`; the upstream gets the request as it is."""
    used = {name: {**settings, "shadow": True} for name, settings in filters.items()}
    plane = Plane({"routes": [{"name": "all", "upstream": "u", "filters": used}]})
    client = plane.client()
    request = JSON_POST % (len(body), body)
    for at in range(0, len(request), len(request) if pieces == "whole" else 1):
        client.sends(request[at:] if pieces == "whole" else request[at : at + 1])
    upstream = plane.connects()
    assert upstream.received.startswith(b"POST /x?a=1 HTTP/1.1\r\n")
    assert upstream.received.endswith(b"\r\n\r\n" + body)
    upstream.sends(OK)
    (name,) = filters
    (record,) = plane.records
    assert record.status == 200
    assert record.shadowed.startswith(f"{name}: {said}" if said else "")
    assert bool(record.shadowed) is bool(said)
    event = FilterEvent.PASS if not said else FilterEvent.CHANGE if "change" in said else FilterEvent.ANSWER
    assert plane.observer.filters == [(name, event)]
    plane.assert_quiet()


@pytest.mark.parametrize(
    ("hooks", "event", "said"),
    [
        (
            {"response_body": BodyHook(lambda exchange, payload: b"x", changes=True)},
            FilterEvent.UNKNOWN,
            f"p: {UNKNOWN}",
        ),
        ({"response_body": lambda exchange, payload: None}, FilterEvent.PASS, ""),
        (
            {"response_body": StageFactory(lambda exchange: None)},  # this response is left alone
            FilterEvent.PASS,
            "",
        ),
        (
            {"request": refuse, "response_body": BodyHook(lambda exchange, payload: b"x", changes=True)},
            FilterEvent.ANSWER,
            "p: refuse 403 forbidden (not you)",
        ),
        (
            {"translate": TranslateHook(lambda exchange, forward: True)},
            FilterEvent.UNKNOWN,
            "p: unknown: requests are not taken over or signed in shadow",
        ),
        (
            {"request": RequestHook(broken, would="copies are not sent"), "request_body": broken, "finish": broken},
            FilterEvent.UNKNOWN,
            "p: unknown: copies are not sent in shadow",
        ),
        (
            {"request_body": BodyHook(lambda exchange, payload: b"x", needs=Bounded(10))},
            FilterEvent.CHANGE,
            "p: change request body",
        ),
        (
            {"request_body": BodyHook(lambda exchange, payload: payload, needs=Bounded(10))},
            FilterEvent.PASS,
            "",
        ),
        (
            {"request_body": BodyHook(lambda exchange, payload: b"x", needs=Bounded(2))},
            FilterEvent.ANSWER,
            "p: refuse 413 body_too_large",
        ),
    ],
)
def test_effects_that_are_not_known_are_not_told_as_pass(hooks: dict[str, Any], event: FilterEvent, said: str) -> None:
    without = exchanged(plane_of(probe("p", Phase.TRANSFORM), shadow=False), POST)
    plane = plane_of(probe("p", Phase.TRANSFORM, **hooks))
    assert exchanged(plane, POST) == without
    assert told(plane) == [said]
    assert plane.observer.filters == [("p", event)]
    plane.assert_quiet()


def test_a_finish_step_sees_whether_the_request_has_passed() -> None:
    seen: list[tuple[bool, bool, int]] = []

    def finish(exchange: Exchange) -> None:
        assert exchange.request_body is not None
        seen.append((exchange.request_body.ended, exchange.request_body.passed, exchange.request_body.bytes))

    plane = plane_of(probe("p", Phase.TRANSFORM, request=lambda exchange: None, finish=finish))
    exchanged(plane, POST)
    assert seen == [(True, True, 3)]
    assert plane.observer.filters == [("p", FilterEvent.PASS)]


def test_a_body_that_does_not_end_is_not_told_as_pass() -> None:
    plane = plane_of(
        probe("p", Phase.TRANSFORM, request_body=BodyHook(lambda exchange, payload: None, needs=Bounded(10)))
    )
    client = plane.client()
    client.sends(POST[:-1])
    plane.connects()
    client.resets()
    assert told(plane) == ["p: unknown: the body was not received completely"]
    assert plane.observer.filters == [("p", FilterEvent.UNKNOWN)]
    plane.assert_quiet()


class Later(BodyStage):
    """Holds a body, and decides outside the event loop."""

    takes_empty = may_wait = True

    def __init__(self, decided: asyncio.Event) -> None:
        self._decided = decided

    def feed(self, payload: bytes) -> bytes:
        return b""

    def pending(self) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self._decided.wait())

    def end(self) -> bytes:
        raise BodyRefused(Reply(422))


def test_a_body_that_is_judged_outside_the_event_loop_is_not_waited_for() -> None:
    async def run() -> None:
        decided = asyncio.Event()
        stages = StageFactory(lambda exchange: Later(decided))
        plane = plane_of(probe("p", Phase.TRANSFORM, request_body=BodyHook(stages, needs=Bounded(10))))
        exchanged(plane, POST)
        assert told(plane) == ["p: unknown: it is still waiting"]
        decided.set()
        await turns()
        assert plane.observer.filters == [("p", FilterEvent.ANSWER)]

    asyncio.run(run())


def collecting(seen: list[tuple[bytes, int, bool]], most: int) -> type[Filter]:
    """The filter `p`, whose decision by the first `most` bytes of a body is to refuse the request."""

    def inspect(exchange: Exchange) -> Reply:
        body = exchange.request_body
        assert body is not None
        seen.append((body.head(most), body.bytes, body.ended))
        return refuse(exchange)

    class Inspects(Filter, name="p", phase=Phase.INSPECT):
        def build(self, env: Env) -> Hooks:
            return Hooks(request_body=BodyHead(inspect, most, lambda exchange: exchange.method == b"POST"))

    return Inspects


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
def test_the_upstream_has_a_body_at_once_whose_beginning_is_judged(expects: bytes) -> None:
    """The filter decides once it has as much as it needs; neither head nor body wait for it."""
    seen: list[tuple[bytes, int, bool]] = []
    plane = plane_of(collecting(seen, 4))
    client = plane.client()
    client.sends(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 6\r\n" + expects + b"\r\n")
    upstream = plane.connects()
    assert (b"Expect: 100-continue\r\n" in upstream.received) is bool(expects)
    assert client.received == b""
    if expects:
        upstream.sends(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    for piece, passed, judged in ((b"ab", b"ab", []), (b"cde", b"abcde", [(b"abcd", 5, False)])):
        client.sends(piece)
        assert upstream.received.endswith(b"\r\n\r\n" + passed)
        assert seen == judged
    client.sends(b"f")
    upstream.sends(OK)
    assert len(seen) == 1
    assert told(plane) == ["p: refuse 403 forbidden (not you)"]
    assert plane.observer.filters == [("p", FilterEvent.ANSWER)]
    plane.assert_quiet()


@pytest.mark.parametrize(
    ("body", "most", "expected"),
    [
        (b"abc", 4, [(b"abc", 3, True)]),
        (b"", 4, [(b"", 0, True)]),
        (b"abcdef", 4, [(b"abcd", 6, True)]),
    ],
)
def test_a_body_that_ends_early_is_judged_at_its_end(
    body: bytes, most: int, expected: list[tuple[bytes, int, bool]]
) -> None:
    seen: list[tuple[bytes, int, bool]] = []
    plane = plane_of(collecting(seen, most))
    framing = b"Transfer-Encoding: chunked\r\n\r\n" + (b"%x\r\n%b\r\n" % (len(body), body) if body else b"")
    upstream, _ = exchanged(plane, b"POST /x HTTP/1.1\r\n" + HOST + framing + b"0\r\n\r\n")
    assert body in upstream
    assert seen == expected
    assert plane.observer.filters == [("p", FilterEvent.ANSWER)]


def test_a_beginning_that_the_filter_does_not_need_is_not_judged() -> None:
    seen: list[tuple[bytes, int, bool]] = []
    plane = plane_of(collecting(seen, 4))
    exchanged(plane, POST.replace(b"POST", b"PUT"))
    assert (seen, told(plane)) == ([], [""])


def test_a_beginning_that_does_not_come_is_not_told_as_pass() -> None:
    seen: list[tuple[bytes, int, bool]] = []
    plane = plane_of(collecting(seen, 4))
    client = plane.client()
    client.sends(POST[:-1])
    plane.connects()
    client.resets()
    assert seen == []
    assert told(plane) == ["p: unknown: the body was not received completely"]


def test_the_beginning_of_a_body_is_judged_after_a_step_that_waits() -> None:
    """In the order without `shadow`: the body passes, and its copy is there once the request step has decided."""

    async def run() -> None:
        decided = asyncio.Event()
        seen: list[bytes] = []

        async def later(exchange: Exchange) -> None:
            await decided.wait()

        def inspect(exchange: Exchange) -> Reply:
            assert exchange.request_body is not None
            seen.append(exchange.request_body.head(2))
            return refuse(exchange)

        class Inspects(Filter, name="p", phase=Phase.INSPECT):
            def build(self, env: Env) -> Hooks:
                return Hooks(request=later, request_body=BodyHead(inspect, 2, lambda exchange: True))

        plane = plane_of(Inspects)
        client = plane.client()
        client.sends(POST)
        upstream = plane.connects()
        assert upstream.received.endswith(b"abc")
        await turns()
        assert seen == []
        decided.set()
        await turns()
        assert seen == [b"ab"]
        upstream.sends(OK)
        assert told(plane) == ["p: refuse 403 forbidden (not you)"]
        assert plane.observer.filters == [("p", FilterEvent.ANSWER)]

    asyncio.run(run())


def _links(plane: Plane) -> list[Any]:
    return list(plane.gateway._links())


async def turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


def test_a_request_does_not_wait_for_a_filter_in_shadow() -> None:
    """It goes on; what is decided before the end is logged."""

    async def later(exchange: Exchange) -> Reply:
        await asyncio.sleep(0)
        return exchange.refuse(Fault.CREDENTIALS_INVALID)

    async def run() -> None:
        plane = plane_of(probe("p", Phase.AUTHENTICATE, request=later))
        client = plane.client()
        client.sends(GET)
        upstream = plane.connects()  # at once
        await turns()
        upstream.sends(OK)
        assert client.received.startswith(b"HTTP/1.1 200 ")
        assert told(plane) == ["p: refuse 401 credentials_invalid"]
        assert plane.observer.filters == [("p", FilterEvent.ANSWER)]

    asyncio.run(run())


def test_what_is_decided_after_the_end_is_counted() -> None:
    async def run() -> None:
        decided = asyncio.Event()

        async def later(exchange: Exchange) -> Reply:
            await decided.wait()
            return exchange.refuse(Fault.CREDENTIALS_INVALID)

        plane = plane_of(probe("p", Phase.AUTHENTICATE, request=later, response=broken))
        client = plane.client()
        client.sends(GET)
        plane.connects().sends(OK)
        assert client.received.startswith(b"HTTP/1.1 200 ")
        assert told(plane) == ["p: unknown: it is still waiting"]
        assert plane.observer.filters == []
        decided.set()
        await turns()
        assert plane.observer.filters == [("p", FilterEvent.ANSWER)]

    asyncio.run(run())


@pytest.mark.parametrize("how", ["too long", "too many", "stopped", "raises", "interrupts"])
def test_what_waits_is_bounded(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "TIMEOUT_S", 0.01 if how == "too long" else 3600.0)
    monkeypatch.setattr(shadow, "MOST_WAITING", 0 if how == "too many" else 1)

    async def run() -> None:
        async def wait(exchange: Exchange) -> None:
            if how == "raises":
                raise SystemExit
            if how == "interrupts":
                raise KeyboardInterrupt
            await asyncio.get_running_loop().create_future()

        plane = plane_of(probe("p", Phase.AUTHENTICATE, request=wait))
        (link,) = _links(plane)
        client = plane.client()
        client.sends(GET)
        upstream = plane.connects()
        await turns()
        if how == "stopped":
            link.hooks.stop()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*tasks)
        upstream.sends(OK)
        assert client.received.startswith(b"HTTP/1.1 200 ")
        said = {
            "too long": "unknown: it timed out",
            "too many": "unknown: too many are waiting",
            "stopped": "unknown: it was cancelled",
            "raises": "raise SystemExit",
            "interrupts": "raise KeyboardInterrupt",
        }
        assert told(plane) == [f"p: {said[how]}"]
        event = FilterEvent.RAISE if how in ("raises", "interrupts") else FilterEvent.UNKNOWN
        assert plane.observer.filters == [("p", event)]

    asyncio.run(run())


def alice(exchange: Exchange) -> None:
    exchange.consumer, exchange.claims = Consumer("alice"), {"sub": "alice"}


def only_alice(exchange: Exchange) -> Reply | None:
    known = exchange.consumer is not None and exchange.consumer.name == exchange.claims.get("sub") == "alice"
    return None if known else exchange.refuse(Fault.FORBIDDEN, why="not alice")


def test_several_are_told_one_after_the_other() -> None:
    plane = plane_of(
        probe("a", Phase.ADMIT, request=lambda exchange: exchange.headers.set(b"X-A", b"1")),
        probe("b", Phase.TRANSFORM, request=lambda exchange: exchange.headers.set(b"X-B", b"1"), response=respond),
        probe("c", Phase.TRANSFORM, order=1, request=refuse),
    )
    exchanged(plane)
    (said,) = told(plane)
    assert said.startswith("a: change request X-A; b: change request X-B, change response ")
    assert said.endswith("; c: refuse 403 forbidden (not you)")


@pytest.mark.parametrize("wrong", [refuse, broken])
def test_one_behind_a_filter_that_answers_is_not_asked(wrong: Callable[..., Any]) -> None:
    plane = plane_of(
        probe("a", Phase.AUTHENTICATE, request=wrong),
        probe("b", Phase.AUTHORIZE, request=refuse, response=respond, finish=broken),
    )
    exchanged(plane)
    assert [name for name, _ in plane.observer.filters] == ["a"]
    (said,) = told(plane)
    assert said.startswith("a: ")
    assert "b: " not in said


def test_they_see_who_the_client_is_by_those_before_them() -> None:
    plane = plane_of(
        probe("a", Phase.AUTHENTICATE, request=alice),
        probe("b", Phase.AUTHORIZE, request=only_alice),
        probe("c", Phase.TRANSFORM, request=only_alice),
    )
    exchanged(plane)
    assert told(plane) == [""]
    assert sorted(plane.observer.filters) == [(name, FilterEvent.PASS) for name in "abc"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("key-of-ann", ""),
        ("key-of-bob", "authorize: refuse 403 forbidden (the groups: guests; one of staff is required)"),
        ("nobodys", "key_auth: refuse 401 credentials_invalid (the API key is unknown)"),
    ],
)
def test_key_auth_and_authorize_are_tried_together(key: str, said: str) -> None:
    filters = {
        "key_auth": {"shadow": True},
        "authorize": {"groups": {"any": ["staff"]}, "shadow": True},
    }
    consumers = [
        {"name": name, "groups": groups, "key_auth": [{"key": f"key-of-{name}"}]}
        for name, groups in (("ann", ["staff"]), ("bob", ["guests"]))
    ]
    plane = Plane({"routes": [{"name": "all", "upstream": "u", "filters": filters}], "consumers": consumers})
    exchanged(plane, GET[:-2] + f"X-Api-Key: {key}\r\n\r\n".encode())
    assert told(plane) == [said]
    assert plane.records[0].consumer == ""
    text = as_text(explain(plane.gateway, "GET", "http://a.test/", [f"X-Api-Key: {key}"]))
    assert (
        f"authorize → in shadow: {'pass' if not said else 'not run' if key == 'nobodys' else 'answers 403'}"
    ) in text


def test_who_the_client_really_is_counts_behind_a_filter_that_acts() -> None:
    def bob(exchange: Exchange) -> None:
        exchange.consumer = Consumer("bob")

    class Between(Plane):
        def _load(self, settings: Mapping[str, Any]) -> Config:
            made = super()._load(settings)
            uses = {name: replace(use, shadow=name != "acts") for name, use in made.filters.items()}
            return replace(made, filters=uses)

    plane = Between(
        probes=[
            probe("a", Phase.AUTHENTICATE, request=alice),
            probe("acts", Phase.AUTHENTICATE, order=1, request=bob),
            probe("b", Phase.AUTHORIZE, request=only_alice),
        ]
    )
    exchanged(plane)
    assert told(plane) == ["b: refuse 403 forbidden (not alice)"]


def test_a_length_that_another_filter_changes_is_not_told_as_a_change_of_this_one() -> None:
    """As behind `compress`, which answers a HEAD request without the length of the uncompressed body."""

    def length_unknown(exchange: Exchange) -> None:
        assert exchange.response is not None
        exchange.response.body_length = UNKNOWN_LENGTH

    probes = [
        probe("p", Phase.OBSERVE, response=lambda exchange: None),
        probe("acts", Phase.TRANSFORM, response=length_unknown),
    ]
    plane = Half(probes=probes)
    exchanged(plane, GET.replace(b"GET", b"HEAD"))
    assert plane.observer.filters == [("p", FilterEvent.PASS)]


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_one_behind_a_filter_that_waits_is_asked_when_that_has_decided(answers: bool, waits: bool) -> None:
    async def run() -> None:
        decided = asyncio.Event()

        async def later(exchange: Exchange) -> Reply | None:
            await decided.wait()
            alice(exchange)
            return exchange.refuse(Fault.CREDENTIALS_INVALID) if answers else None

        async def only_alice_later(exchange: Exchange) -> Reply | None:
            await asyncio.sleep(0)
            return only_alice(exchange)

        plane = plane_of(
            probe("a", Phase.AUTHENTICATE, request=later),
            probe("b", Phase.AUTHORIZE, request=only_alice_later if waits else only_alice),
            probe("c", Phase.TRANSFORM, request=only_alice),
        )
        client = plane.client()
        client.sends(GET)
        upstream = plane.connects()
        decided.set()
        for _ in range(4):
            await turns()
        upstream.sends(OK)
        assert client.received.startswith(b"HTTP/1.1 200 ")
        if answers:
            assert told(plane) == ["a: refuse 401 credentials_invalid"]
            assert plane.observer.filters == [("a", FilterEvent.ANSWER)]
        else:
            assert told(plane) == [""]
            assert sorted(plane.observer.filters) == [(name, FilterEvent.PASS) for name in "abc"]

    asyncio.run(run())


@pytest.mark.parametrize("answers", [False, True])
def test_one_that_is_asked_after_the_end_is_counted(answers: bool) -> None:
    async def run() -> None:
        decided = asyncio.Event()

        async def later(exchange: Exchange) -> Reply | None:
            await decided.wait()
            return exchange.refuse(Fault.CREDENTIALS_INVALID) if answers else None

        plane = plane_of(probe("a", Phase.AUTHENTICATE, request=later), probe("b", Phase.AUTHORIZE, request=only_alice))
        exchanged(plane)
        assert told(plane) == ["a: unknown: it is still waiting; b: unknown: it is still waiting"]
        decided.set()
        for _ in range(4):
            await turns()
        assert plane.observer.filters == (
            [("a", FilterEvent.ANSWER)] if answers else [("a", FilterEvent.PASS), ("b", FilterEvent.ANSWER)]
        )

    asyncio.run(run())


def test_one_behind_a_filter_that_was_stopped_says_nothing() -> None:
    async def run() -> None:
        async def wait(exchange: Exchange) -> None:
            await asyncio.get_running_loop().create_future()

        plane = plane_of(probe("a", Phase.AUTHENTICATE, request=wait), probe("b", Phase.AUTHORIZE, request=refuse))
        client = plane.client()
        client.sends(GET)
        upstream = plane.connects()
        await turns()
        _links(plane)[0].hooks.stop()
        for _ in range(4):
            await turns()
        upstream.sends(OK)
        assert client.received.startswith(b"HTTP/1.1 200 ")
        assert told(plane) == ["a: unknown: it was cancelled"]
        assert plane.observer.filters == [("a", FilterEvent.UNKNOWN)]

    asyncio.run(run())


def test_a_request_that_cannot_be_read_meets_it_too() -> None:
    """Response and finish steps of OBSERVE and ADMIT run for every answer."""
    plane = plane_of(probe("p", Phase.ADMIT, response=respond))
    client = plane.client()
    client.sends(b"nonsense\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 400 ")
    assert b"X-Line" not in client.received
    assert told(plane) == ["p: change response status, X-Response, X-Line"]


def test_what_it_would_reply_is_told_and_not_sent() -> None:
    refuses = probe("r", Phase.AUTHENTICATE, request=lambda exchange: exchange.refuse(Fault.FORBIDDEN))
    without = Plane(probes=[refuses]).client()
    without.sends(GET)
    for reply, event, said in (
        (lambda exchange, reply: Reply(500, b"x"), FilterEvent.CHANGE, "p: change reply 403"),
        (lambda exchange, reply: reply, FilterEvent.PASS, ""),
        (lambda exchange, reply: None, FilterEvent.RAISE, "p: raise TypeError"),
        (broken, FilterEvent.RAISE, "p: raise ZeroDivisionError"),
    ):
        plane = Half(probes=[refuses, probe("p", Phase.ADMIT, reply=reply)])
        client = plane.client()
        client.sends(GET)
        assert _undated(client) == _undated(without)
        assert told(plane) == [said]
        assert plane.observer.filters == [("p", event)]


def test_it_renews_nothing() -> None:
    """What it would have shown was not shown: a refusal says nothing about it."""

    def renew(exchange: Exchange, head: Any) -> Any:
        raise AssertionError("a filter in shadow was asked to renew")

    plane = plane_of(probe("p", Phase.CREDENTIALS, renew=renew))
    client = plane.client()
    client.sends(GET)
    plane.connects().sends(OK.replace(b"200 OK", b"401 Unauthorized"))
    assert plane.records[0].status == 401
    assert plane.observer.filters == [("p", FilterEvent.PASS)]
