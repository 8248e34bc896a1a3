"""The kit for tests of filters: what it tells of a request is what the data plane does with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastgw.filters.api import Consumer, Env, Exchange, Fault, Filter, Hooks, Phase, Reply, Services
from fastgw.filters.policies.headers import Headers
from fastgw.filters.policies.request_id import RequestId
from fastgw.filters.policies.size import Size
from fastgw.http.fields import Fields
from fastgw.testing import OK, ConfigError, Fetched, Ran, configured, run
from tests.support.memory import probe

HOST = b"Host: a.test\r\n"
GET = b"GET /users/7?a=1 HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n"


def made(phase: Phase = Phase.TRANSFORM, **hooks: Any) -> Filter:
    return probe("p", phase, **hooks)()


def test_what_the_upstream_and_the_client_get() -> None:
    ran = run(configured(Headers, request={"set": {"X-A": "1"}}, response={"set": {"X-B": "2"}}), GET)
    assert ran.passed
    assert ran.sent.startswith(b"GET /users/7?a=1 HTTP/1.1\r\nHost: a.test\r\n")
    assert ran.sent_fields.get(b"X-A") == b"1"
    assert ran.received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (ran.status, ran.fields.get(b"X-B"), ran.body) == (200, b"2", b"ok")
    assert (ran.fault, ran.why, ran.waited, ran.events, ran.shadowed) == ("", "", False, (), "")
    assert repr(ran) == "<Ran 200, sent>"


def test_a_refusal_does_not_reach_the_upstream() -> None:
    refuse = made(request=lambda exchange: exchange.refuse(Fault.FORBIDDEN, why="not you"))
    ran = run(refuse, GET)
    assert not ran.passed
    assert (ran.status, ran.fault, ran.why, ran.sent) == (403, "forbidden", "not you", b"")
    assert ran.fields.get(b"Content-Type") == b"application/problem+json"
    assert repr(ran) == "<Ran 403 forbidden, not sent>"


def test_a_body_comes_in_pieces_and_is_seen_as_it_is_let_through() -> None:
    ran = run(configured(Size, body="5B"), [POST, b"ab", b"cde"])
    assert (ran.pieces, ran.sent_body) == ((b"ab", b"cde"), b"abcde")
    ran = run(
        configured(Size, body="4B"),
        [POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"), b"2\r\nab\r\n", b"3\r\ncde\r\n"],
    )
    assert (ran.pieces, ran.fault, ran.sent_body) == ((b"ab",), "body_too_large", b"ab")


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na", b"bc"], b"abc"),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"abc"], b"abc"),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", OK], b"ok"),
    ],
)
def test_answers_of_all_kinds_are_read(response: Any, body: bytes) -> None:
    ran = run([], GET, response=response)
    assert (ran.status, ran.body) == (200, body)


def test_an_upstream_that_does_not_answer() -> None:
    ran = run([], GET, response=None)
    assert (ran.status, ran.fault) == (502, "connection_lost")


def test_filters_run_by_their_phases_each_under_a_name_of_its_own() -> None:
    ran = run([made(request=lambda exchange: None), RequestId(), RequestId()], GET, shadow=True)
    assert [name for name, _ in ran.events] == ["p", "request_id_2", "request_id"]
    named = run({"a": RequestId(), "b": RequestId()}, GET, shadow=True)
    assert sorted(named.events) == [("a", "change"), ("b", "change")]
    assert "a: change request X-Request-Id" in named.shadowed


def test_what_is_known_of_the_client() -> None:
    seen: list[Any] = []

    def request(exchange: Exchange) -> None:
        seen.append((exchange.client_ip, exchange.scheme, exchange.consumer, exchange.claims, dict(exchange.params)))

    alice = Consumer("alice", frozenset({"ops"}))
    ran = run(
        made(request=request),
        GET,
        client_ip="2001:db8::1",
        scheme="https",
        consumer=alice,
        claims={"sub": "a"},
        paths=["/users/{id}"],
    )
    assert seen
    assert all(each == ("2001:db8::1", b"https", alice, {"sub": "a"}, {"id": b"7"}) for each in seen)
    assert ran.exchange.consumer is alice
    assert run([], GET, paths=["/elsewhere"]).fault == "route_not_found"


def test_a_filter_that_waits_and_asks() -> None:
    """By its `services`; it is started and stopped as in a worker."""
    told: list[str] = []

    class Asking(Filter, name="asking", phase=Phase.AUTHENTICATE):
        def build(self, env: Env) -> Hooks:
            def start(services: Services) -> None:
                told.append("start")
                self_services.append(services)

            async def ask(exchange: Exchange) -> Reply | None:
                answer = await self_services[0].fetcher.fetch("http://authority.test/ask")
                return None if answer.status == 200 else exchange.refuse(Fault.FORBIDDEN)

            self_services: list[Services] = []
            return Hooks(request=ask, start=start, stop=lambda: told.append("stop"))

    for status, passed in ((200, True), (401, False)):
        ran = run(Asking(), GET, answers={"http://authority.test/ask": Fetched(status, Fields(), b"")})
        assert (ran.waited, ran.passed) == (True, passed)
    ran = run(Asking(), GET)
    assert (ran.status, ran.why) == (500, "filter asking: its request step raised")
    assert ran.events == (("asking", "raised"),)
    assert told == ["start", "stop"] * 3


def test_a_filter_that_never_decides_is_late() -> None:
    async def never(exchange: Exchange) -> None:
        await asyncio.get_running_loop().create_future()

    ran = run(made(request=never), GET, timeout=0.01)
    assert (ran.status, ran.fault, ran.events) == (504, "filter_timeout", (("p", "late"),))


def test_a_request_that_is_not_whole_is_the_tests_error() -> None:
    with pytest.raises(AssertionError, match="is the request whole"):
        run([], b"GET / HTTP/1.1\r\n", timeout=0.01)


def test_a_request_that_cannot_be_read_is_answered_as_ever() -> None:
    ran = run([RequestId()], b"GET / HTTP/1.1\r\n\r\n")
    assert (ran.status, ran.fault, ran.why) == (400, "bad_request", "The Host header is missing.")
    assert ran.fields.get(b"X-Request-Id")


def test_settings_are_read_as_a_file_has_them() -> None:
    assert configured(Size, body="2KiB") == Size(body=2048)
    with pytest.raises(ConfigError, match=r'filters.size.bodi: unknown key; did you mean "body"\?'):
        configured(Size, bodi="2KiB")


def test_files_that_settings_name_may_be_given() -> None:
    seen: list[bytes] = []

    class Reading(Filter, name="reading", phase=Phase.TRANSFORM):
        path: str

        def build(self, env: Env) -> Hooks:
            seen.append(env.read(self.path))
            return Hooks()

    run(Reading(path="/nowhere/a"), GET, files={"/nowhere/a": b"text"})
    assert seen == [b"text"]


def test_it_has_what_was_promised() -> None:
    assert isinstance(run([], GET), Ran)


DENIED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.parametrize(
    ("renewed", "denied", "status", "tokens"),
    [
        (True, DENIED, 200, [b"one", b"two"]),
        (True, [DENIED[:-1], DENIED[-1:]], 200, [b"one", b"two"]),
        (False, DENIED, 401, [b"one"]),
        (False, [DENIED[:-1], DENIED[-1:]], 401, [b"one"]),
    ],
)
def test_a_request_that_is_sent_once_more(renewed: bool, denied: Any, status: int, tokens: list[bytes]) -> None:
    async def renew(exchange: Exchange, head: Any) -> bool:
        await asyncio.sleep(0)
        exchange.request_added = b"X-Token: two\r\n"
        return renewed

    def request(exchange: Exchange) -> None:
        exchange.request_added += b"X-Token: one\r\n"

    ran = run(made(Phase.CREDENTIALS, request=request, renew=renew), [POST, b"abcde"], response=denied)
    assert (ran.status, ran.record.retries) == (status, len(tokens) - 1)
    assert [each.partition(b"X-Token: ")[2].partition(b"\r\n")[0] for each in ran.requests] == tokens
    assert (ran.sent_fields.get(b"X-Token"), ran.sent_body) == (tokens[-1], b"abcde")
    assert ran.body == (b"ok" if renewed else b"no")


def test_what_the_upstream_says_to_the_second_request() -> None:
    async def renew(exchange: Exchange, head: Any) -> bool:
        return True

    for again, status in ((DENIED, 401), (None, 502), ([b"HTTP/1.1 204 No", b" Content\r\n\r\n"], 204)):
        ran = run(made(renew=renew), GET, response=DENIED, again=again)
        assert (ran.status, len(ran.requests)) == (status, 2)


def test_replies_of_the_gateways_own() -> None:
    ran = run(made(reply=lambda exchange, reply: Reply(502, b"sorry")), GET, response=None)
    assert (ran.status, ran.body, ran.fault) == (502, b"sorry", "connection_lost")


def test_the_status_of_an_answer() -> None:
    def response(exchange: Exchange) -> None:
        assert exchange.response is not None
        exchange.response.status = 502

    ran = run(made(response=response), GET)
    assert (ran.status, ran.body) == (502, b"ok")
    assert ran.received.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


def test_state_of_a_filter_sees_a_request_once() -> None:
    """What `build` makes is made for each run."""
    made: list[list[bytes]] = []

    class Keeping(Filter, name="keeping", phase=Phase.LIMIT_CLIENT):
        def build(self, env: Env) -> Hooks:
            seen: list[bytes] = []
            made.append(seen)
            return Hooks(request=lambda exchange: seen.append(exchange.path))

    assert run(Keeping(), GET).passed
    assert [seen for seen in made if seen] == [[b"/users/7"]]
