"""Tokens that the gateway fetches for itself: one fetch for a node, whoever asks when; failures remembered; bounds."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from itertools import chain, repeat
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw.config.settings.secrets import Secret
from fastgw.errors import Fault
from fastgw.filters.policies.credentials import control_fetcher, messages
from fastgw.filters.policies.credentials import rejected_throttle as refused_by
from fastgw.filters.policies.credentials import worker_cache as cache
from fastgw.filters.policies.credentials.messages import LONGEST_S, FetchedRecord, Unavailable, failed, read, renewal
from fastgw.filters.policies.credentials.oauth_tokens import Token, TokenSource
from fastgw.filters.policies.credentials.token_endpoint import LONGEST_S as LONGEST_USE_S
from fastgw.filters.policies.credentials.token_endpoint import UNSAID_S, TokenEndpoint, read_token
from fastgw.http.fields import Fields
from fastgw.redis import encrypted_cache
from fastgw.upstream.client.http_client import Fetched
from tests.support.brokering import Node, held_now, node_of, oauth2, problem_of, word
from tests.support.issuer import Issuer
from tests.support.on_loop import on_loop, turns
from tests.support.redis_server import RedisServer


@pytest.fixture
def issuer() -> Any:
    with Issuer() as serving:
        yield serving


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.002)


class Pace:
    """The clock of those who keep to the pace: it stands still until `go`, and says when somebody has to wait."""

    def __init__(self) -> None:
        self.now = 0.0
        self.paused, self.go = asyncio.Event(), asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= refused_by.AGAIN_S
        self.paused.set()
        await self.go.wait()
        self.now += seconds


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    pace = Pace()
    monkeypatch.setattr(refused_by, "asyncio", SimpleNamespace(sleep=pace.sleep))
    monkeypatch.setattr(refused_by, "time", SimpleNamespace(monotonic=lambda: pace.now, time=time.time))
    return pace


def refused(number: int) -> Token:
    return Token(b"Authorization: Bearer token-%d\r\n" % number)


# --- one fetch ---


@on_loop
async def test_one_fetch_serves_all_requests_of_all_workers(issuer: Issuer) -> None:
    async with node_of(workers=4) as node:
        caches = node.tokens(oauth2(issuer.url))
        got = await asyncio.gather(*(each.obtain() for each in caches for _ in range(100)))
        assert {word(each) for each in got} == {"token-1"}
        assert held_now(caches) == ["token-1"] * 4
        assert issuer.asked == 1


@on_loop
async def test_a_token_is_renewed_while_the_one_before_still_serves(issuer: Issuer) -> None:
    issuer.expires_in = 2
    async with node_of() as node:
        caches = node.tokens(oauth2(issuer.url, expiry_margin=0.0))
        await asyncio.gather(*(each.obtain() for each in caches))
        seen = set()
        while seen != {"token-1", "token-2"}:
            seen.update(held_now(caches))  # there is one at any time: nobody waits
            await asyncio.sleep(0.005)
        assert seen == {"token-1", "token-2"}
        await until(lambda: held_now(caches) == ["token-2"] * 4)
        assert issuer.asked == 2


@on_loop
async def test_who_has_not_heard_of_the_new_token_causes_no_other(issuer: Issuer) -> None:
    async with node_of(workers=2) as node:
        one, other = node.tokens(oauth2(issuer.url))
        await asyncio.gather(one.obtain(), other.obtain())
        node.hears[1] = False
        assert word(await one.obtain(refused(1))) == "token-2"
        assert held_now([other]) == ["token-1"]
        node.hears[1] = True
        assert word(await other.obtain(refused(1))) == "token-2"
        assert issuer.asked == 2


@on_loop
@pytest.mark.parametrize("waits", [True, False], ids=["who waits", "the background"])
async def test_who_hears_of_the_new_token_when_about_to_ask_causes_no_other(issuer: Issuer, waits: bool) -> None:
    async with node_of(workers=2) as node:
        one, other = node.tokens(oauth2(issuer.url))
        await asyncio.gather(one.obtain(), other.obtain())
        node.hears[0] = False
        await other.obtain(refused(1))
        asks = node.asks
        if waits:
            waiting = asyncio.ensure_future(one.obtain(refused(1)))
        else:
            one.renew(refused(1))
        await asyncio.sleep(0)  # it has made up its mind
        node.workers[0].feeds.deliver(one.key, node.kept[one.key])
        node.hears[0] = True
        if waits:
            assert word(await waiting) == "token-2"
        await turns(20)
        assert held_now([one, other]) == ["token-2"] * 2
        assert (node.asks, issuer.asked) == (asks, 2)


@on_loop
async def test_what_many_workers_refuse_is_fetched_anew_once(issuer: Issuer) -> None:
    async with node_of() as node:
        caches = node.tokens(oauth2(issuer.url))
        await asyncio.gather(*(each.obtain() for each in caches))
        got = await asyncio.gather(*(each.obtain(refused(1)) for each in caches for _ in range(50)))
        assert {word(each) for each in got} == {"token-2"}
        assert issuer.asked == 2
        assert word(await caches[0].obtain(refused(1))) == "token-2"  # that one was replaced already
        assert issuer.asked == 2


@on_loop
async def test_an_api_that_refuses_every_token_does_not_have_one_fetched_for_each_request(
    issuer: Issuer, pace: Pace
) -> None:
    """Those who are refused wait for their turn, and share it; who has a call that is let in waits for nothing."""
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url))
        token = await only.obtain()
        token = await only.obtain(token)
        waiting = [asyncio.ensure_future(only.obtain(token)) for _ in range(50)]
        await pace.paused.wait()
        assert not any(each.done() for each in waiting)
        assert issuer.asked == 2
        assert only.peek(monotonic()) == token
        pace.go.set()
        got = set(await asyncio.gather(*waiting))
        assert {word(each) for each in got} == {"token-3"}
        assert issuer.asked == 3


@on_loop
async def test_a_token_that_an_api_refuses_is_renewed_all_the_same_before_it_expires(issuer: Issuer) -> None:
    issuer.expires_in = 2
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url, expiry_margin=0.0))
        token = await only.obtain()
        token = await only.obtain(token)
        while (held := only.peek(monotonic())) == token:
            await asyncio.sleep(0.005)
        assert held is not None  # nobody had to wait


@on_loop
async def test_a_rejected_token_is_not_sent_with_the_next_body(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was streamed is not sent again: the next of its kind waits, others can be sent again themselves."""
    monkeypatch.setattr(cache, "AGAIN_S", 0.0)  # all tokens are old
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url))
        token = await only.obtain()
        only.reject(token)
        assert only.peek(monotonic()) is None
        assert await only.obtain(repeatable=True) == token
        assert {word(each) for each in await asyncio.gather(*(only.obtain() for _ in range(10)))} == {"token-2"}
        assert held_now([only]) == ["token-2"]
        only.reject(token)  # by a call that has begun before
        assert held_now([only]) == ["token-2"]
        assert issuer.asked == 2


@on_loop
async def test_a_rejected_token_is_sent_all_the_same_if_there_is_no_other(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API may have rejected a single call, for reasons of its own."""
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url, negative_ttl=30.0))
        token = await only.obtain()
        issuer.answer = lambda question: (503, {}, b"")
        only.reject(token)  # it was fetched within the last second
        assert only.peek(monotonic()) == token
        await until(lambda: issuer.asked == 2)
        monkeypatch.setattr(cache, "AGAIN_S", 0.0)
        await until(lambda: only.peek(monotonic()) == token)
        node.workers[0].feeds.deliver(only.key, node.kept[only.key])
        only.reject(token)
        assert await only.obtain() == token
        assert held_now([only]) == ["token-1"]


@on_loop
async def test_a_rejected_token_is_sent_all_the_same_if_another_takes_long(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "AGAIN_S", 0.0)
    monkeypatch.setattr(cache, "REPLACED_WITHIN_S", 0.01)
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url))
        token = await only.obtain()
        issuer.open.clear()
        only.reject(token)
        assert await only.obtain() == token
        assert only.peek(monotonic()) == token  # no call waits for the same answer again
        issuer.open.set()


@on_loop
async def test_an_ask_that_is_lost_is_repeated(issuer: Issuer) -> None:
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url))
        node.loses = 2
        assert word(await only.obtain()) == "token-1"
        assert node.asks == 3


@on_loop
async def test_a_client_that_leaves_ends_nobody_elses_wait(issuer: Issuer) -> None:
    issuer.open.clear()
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url))
        waiting = [asyncio.ensure_future(only.obtain()) for _ in range(2)]
        await until(lambda: issuer.asked)
        waiting[0].cancel()
        await asyncio.sleep(0)
        issuer.open.set()
        assert word(await waiting[1]) == "token-1"


# --- control dies ---


@on_loop
async def test_a_worker_fetches_for_itself_and_the_others_while_control_is_away(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = chain([0.0], repeat(5.0))  # one begins before the others
    monkeypatch.setattr(cache, "_own_time", lambda: next(waits))
    async with node_of() as node:
        caches = node.tokens(oauth2(issuer.url))
        node.kill_control()
        got = await asyncio.gather(*(each.obtain() for each in caches for _ in range(50)))
        assert {word(each) for each in got} == {"token-1"}
        assert issuer.asked == 1
        node.start_control()
        assert word(await caches[2].obtain(refused(1))) == "token-2"
        await until(lambda: held_now(caches) == ["token-2"] * 4)
        assert issuer.asked == 2


@on_loop
async def test_nor_does_it_while_control_is_away(issuer: Issuer, pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_own_time", lambda: 0.0)
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url))
        token = await only.obtain()
        node.kill_control()
        token = await only.obtain(token)
        waiting = [asyncio.ensure_future(only.obtain(token)) for _ in range(20)]
        await pace.paused.wait()
        assert not any(each.done() for each in waiting)
        assert issuer.asked == 2
        pace.go.set()
        got = set(await asyncio.gather(*waiting))
        assert {word(each) for each in got} == {"token-3"}


@on_loop
async def test_a_request_that_waits_when_control_dies_is_answered(issuer: Issuer) -> None:
    issuer.open.clear()
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url))
        waiting = asyncio.ensure_future(only.obtain())
        await until(lambda: issuer.asked)
        node.kill_control()
        issuer.open.set()
        assert word(await waiting) in ("token-1", "token-2")


@on_loop
async def test_another_control_process_goes_on_with_the_token_that_is_there(issuer: Issuer) -> None:
    async with node_of() as node:
        settings = oauth2(issuer.url)
        caches = node.tokens(settings)
        await caches[0].obtain()
        node.kill_control()
        node.start_control()
        assert held_now(caches) == ["token-1"] * 4
        node.add_worker()  # which has not heard of it
        *_, other = node.tokens(settings)
        assert held_now([other]) == [""]
        assert word(await other.obtain()) == "token-1"
        assert issuer.asked == 1


@on_loop
async def test_a_control_process_that_says_nothing_is_waited_for_within_bounds(issuer: Issuer) -> None:
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url, timeout=0.2))
        node.loses = 1000
        assert (await problem_of(only)).fault is Fault.TOKEN_TIMEOUT
        asks = node.asks
        assert (await problem_of(only)).fault is Fault.TOKEN_TIMEOUT  # at once
        assert node.asks == asks


# --- another secret ---


@on_loop
async def test_a_new_secret_has_a_token_of_its_own_fetched_and_the_old_one_is_not_used(issuer: Issuer) -> None:
    settings = oauth2(issuer.url, client_secret=Secret(file="/secret"), client_auth="body")
    async with node_of(workers=2) as node:
        node.files["/secret"] = b"one\n"
        before = node.tokens(settings)
        node.follow()
        await asyncio.gather(*(each.obtain() for each in before))
        node.files["/secret"] = b"two\n"
        after = node.tokens(settings)  # prepared while the one before still serves
        assert held_now(after) == ["", ""]
        await before[0].obtain(refused(1))  # something is said about the old secret even now
        node.generation = 2
        waiting = [asyncio.ensure_future(each.obtain()) for each in after]
        await until(lambda: node.asks >= 4)
        assert not any(each.done() for each in waiting)  # control has not heard of it yet
        node.follow()
        assert {word(each) for each in await asyncio.gather(*waiting)} == {"token-3"}
        assert [each.form["client_secret"] for each in issuer.questions] == [["one"], ["one"], ["two"]]
        assert held_now(before) == ["token-3"] * 2  # whoever is under way goes on with it
        assert word(await before[1].obtain(refused(2))) == "token-3"
        assert issuer.asked == 3


def test_sources_that_differ_in_anything_share_nothing() -> None:
    url = "https://idp.example/token"
    all_of_them = [
        oauth2(url),
        oauth2(url + "?tenant=a"),
        oauth2(url, client_id=Secret(text="other")),
        oauth2(url, client_secret=Secret(text="another")),
        oauth2(url, client_secret=Secret(env="SECRET")),
        oauth2(url, scopes=("a",)),
        oauth2(url, audience="b"),
        oauth2(url, client_auth="basic"),
        oauth2(url, token_headers={"X-A": Secret(text="1")}),
        oauth2(url, token_query={"X-A": Secret(text="1")}),
        oauth2(url, token_form={"X-A": Secret(text="1")}),
        oauth2(url, token_form={"X-A": (Secret(text="1"), Secret(text="2"))}),
    ]
    assert len({TokenSource.of(each).key for each in all_of_them}) == len(all_of_them)
    assert TokenSource.of(oauth2(url)).key == TokenSource.of(oauth2(url)).key
    shown = " ".join(f"{TokenSource.of(each).key} {TokenSource.of(each).name}" for each in all_of_them)
    assert "of-the-app" not in shown
    assert "tenant" not in shown


def test_the_contents_of_a_secret_tell_material_apart() -> None:
    settings = oauth2("https://idp.example/token", client_secret=Secret(file="/secret"))
    key = TokenSource.of(settings).key
    one, same, other = (
        TokenEndpoint(key, settings, lambda path, held=held: held).material for held in (b"1\n", b"1\n", b"2\n")
    )
    assert one == same != other


# --- what is asked ---


@on_loop
async def test_all_that_the_settings_say_is_asked_for(issuer: Issuer) -> None:
    settings = oauth2(
        issuer.url + "?a=1",
        scopes=("read", "write"),
        audience="the api",
        client_auth="basic",
        token_headers={"X-Tenant": (Secret(text="t1"), Secret(text="t2"))},
        token_query={"resource": (Secret(text="r 1"), Secret(text="r&2"))},
        token_form={"grant_type": Secret(text="own")},
    )
    async with node_of(workers=1) as node:
        await node.tokens(settings)[0].obtain()
    (question,) = issuer.questions
    assert question.method == "POST"
    assert question.query == "a=1&resource=r+1&resource=r%262"
    assert question.form == {"grant_type": ["own"], "scope": ["read write"], "audience": ["the api"]}
    assert question.fields["Authorization"] == f"Basic {b64encode(b'app:of-the-app').decode()}"
    assert question.fields["Content-Type"] == "application/x-www-form-urlencoded"


CLIENT, SECRET = "sb-shop!b1|x", "50% + 1="
RAW = f"Basic {b64encode(f'{CLIENT}:{SECRET}'.encode()).decode()}"
ENCODED = f"Basic {b64encode(b'sb-shop%21b1%7Cx:50%25+%2B+1%3D').decode()}"
REFUSALS: dict[str, tuple[int, bytes]] = {
    "401": (401, b'{"error": "invalid_client"}'),
    "400": (400, b'{"error": "invalid_client"}'),
    "a parameter is missing": (400, b'{"error": "invalid_request"}'),
    "401 without JSON": (401, b"<html>"),
}


def form_of(question: Any) -> str:
    """How a client was shown."""
    shown = question.fields.get("Authorization", "")
    in_body = "client_secret" in question.form
    assert bool(shown) is not in_body, "header and body at once (RFC 6749 section 2.3)"
    return "body" if in_body else {RAW: "raw", ENCODED: "encoded"}[shown]


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize(
    ("client_auth", "taken", "asked"),
    [
        ("auto", "encoded", ["encoded"]),
        ("auto", "raw", ["encoded", "raw"]),
        ("auto", "body", ["encoded", "raw", "body"]),
        ("auto_raw", "raw", ["raw"]),
        ("auto_raw", "encoded", ["raw", "encoded"]),
        ("auto_raw", "body", ["raw", "encoded", "body"]),
    ],
)
@on_loop
async def test_the_form_that_a_server_takes_is_found_and_remembered(
    issuer: Issuer, client_auth: str, taken: str, asked: list[str], refusal: tuple[int, bytes]
) -> None:
    issuer.answer = lambda question: (
        issuer.issue(question) if form_of(question) == taken else (refusal[0], {}, refusal[1])
    )
    async with node_of(workers=1) as node:
        shown = {"client_id": Secret(text=CLIENT), "client_secret": Secret(text=SECRET)}
        (only,) = node.tokens(oauth2(issuer.url, client_auth=client_auth, **shown))
        assert word(await only.obtain()) == "token-1"
        assert [*map(form_of, issuer.questions)] == asked
        node.kill_control()
        node.start_control()  # what was learned is not lost with it
        assert word(await only.obtain(refused(1))) == "token-2"
        assert [*map(form_of, issuer.questions)] == [*asked, taken]


@pytest.mark.parametrize("answer", [(400, b'{"error": "invalid_scope"}'), (503, b"{}"), (429, b"{}")])
@on_loop
async def test_no_other_form_is_tried_for_what_is_not_about_the_client(
    issuer: Issuer, answer: tuple[int, bytes]
) -> None:
    issuer.fail(*answer)
    async with node_of(workers=1) as node:
        shown = {"client_id": Secret(text=CLIENT), "client_secret": Secret(text=SECRET)}
        await problem_of(*node.tokens(oauth2(issuer.url, **shown)))
        assert [*map(form_of, issuer.questions)] == ["encoded"]


@on_loop
async def test_a_client_that_no_form_helps_is_tried_in_each_once_and_told_by_the_first(issuer: Issuer) -> None:
    issuer.answer = lambda question: (
        (401, {}, b'{"error": "invalid_client"}')
        if form_of(question) != "body"
        else (400, {}, b'{"error": "invalid_request"}')
    )
    async with node_of(workers=1) as node:
        shown = {"client_id": Secret(text=CLIENT), "client_secret": Secret(text=SECRET)}
        problem = await problem_of(*node.tokens(oauth2(issuer.url, **shown)))
        assert (problem.fault, problem.why) == (Fault.TOKEN_REFUSED, "it answers 401 invalid_client")
        assert [*map(form_of, issuer.questions)] == ["encoded", "raw", "body"]


# --- failures ---

FAILURES: dict[str, tuple[int, dict[str, str], bytes, Fault]] = {
    "away for now": (503, {}, b"", Fault.TOKEN_UNAVAILABLE),
    "a defect": (500, {}, b"{}", Fault.TOKEN_UNAVAILABLE),
    "too many questions": (429, {}, b"{}", Fault.TOKEN_UNAVAILABLE),
    "the client is unknown": (401, {}, b'{"error": "invalid_client"}', Fault.TOKEN_REFUSED),
    "a scope is unknown": (400, {}, b'{"error": "invalid_scope"}', Fault.TOKEN_REFUSED),
    "another place": (302, {"Location": "/elsewhere"}, b"", Fault.TOKEN_UNAVAILABLE),
    "no JSON": (200, {}, b"<html>", Fault.TOKEN_UNAVAILABLE),
    "no object": (200, {}, b"[]", Fault.TOKEN_UNAVAILABLE),
    "no token": (200, {}, b"{}", Fault.TOKEN_UNAVAILABLE),
    "a token that is a number": (200, {}, b'{"access_token": 1}', Fault.TOKEN_UNAVAILABLE),
    "an empty token": (200, {}, b'{"access_token": ""}', Fault.TOKEN_UNAVAILABLE),
    "a token with a line end": (200, {}, b'{"access_token": "a\\r\\nX: 1"}', Fault.TOKEN_UNAVAILABLE),
    "a token with a blank": (200, {}, b'{"access_token": "a b"}', Fault.TOKEN_UNAVAILABLE),
    "a token that is not ASCII": (200, {}, '{"access_token": "ä"}'.encode(), Fault.TOKEN_UNAVAILABLE),
    "another type": (200, {}, b'{"access_token": "a", "token_type": "mac"}', Fault.TOKEN_UNAVAILABLE),
    "a type that is no text": (200, {}, b'{"access_token": "a", "token_type": 1}', Fault.TOKEN_UNAVAILABLE),
    "members twice": (200, {}, b'{"access_token": "a", "access_token": "b"}', Fault.TOKEN_UNAVAILABLE),
    "it is good for less than nothing": (200, {}, b'{"access_token": "a", "expires_in": -1}', Fault.TOKEN_UNAVAILABLE),
    "it is good for NaN": (200, {}, b'{"access_token": "a", "expires_in": NaN}', Fault.TOKEN_UNAVAILABLE),
    "it is good for a word": (200, {}, b'{"access_token": "a", "expires_in": "soon"}', Fault.TOKEN_UNAVAILABLE),
    "it is good for true": (200, {}, b'{"access_token": "a", "expires_in": true}', Fault.TOKEN_UNAVAILABLE),
    "it is too long": (200, {}, b'{"access_token": "%b"}' % (b"a" * 65536), Fault.TOKEN_UNAVAILABLE),
    "it may not": (403, {}, b"{}", Fault.TOKEN_REFUSED),
    "it is not there": (404, {}, b"{}", Fault.TOKEN_UNAVAILABLE),
    "it is busy": (400, {}, b'{"error": "slow_down"}', Fault.TOKEN_UNAVAILABLE),
    "it is away": (400, {}, b'{"error": "temporarily_unavailable"}', Fault.TOKEN_UNAVAILABLE),
    "it is cut off": (200, {}, b'{"access_token":"abc","expires_in": 36', Fault.TOKEN_UNAVAILABLE),
}


@pytest.mark.parametrize(("status", "fields", "body", "fault"), FAILURES.values(), ids=FAILURES)
@on_loop
async def test_what_is_no_token_is_no_token(
    issuer: Issuer, status: int, fields: dict[str, str], body: bytes, fault: Fault
) -> None:
    issuer.answer = lambda question: (status, fields, body)
    async with node_of(workers=2) as node:
        one, other = node.tokens(oauth2(issuer.url, client_auth="basic", negative_ttl=30.0))
        assert (await problem_of(one)).fault is fault
        problem = await problem_of(other)  # at once: it is remembered for the node
        assert problem.fault is fault
        assert (problem.retry_after > 0) is (fault is Fault.TOKEN_UNAVAILABLE)
        assert "of-the-app" not in problem.why
        assert issuer.asked == 1
        assert all(each.path == "/token" for each in issuer.questions)


GOOD_FOR: dict[str, tuple[str, float]] = {
    "a number": ('"expires_in": 3600', 3600),
    "a part of a second": ('"expires_in": 0.5', 0.5),
    "text": ('"expires_in": "3600"', 3600),
    "nothing said": ('"scope": ""', UNSAID_S),
    "null": ('"expires_in": null', UNSAID_S),
    "zero": ('"expires_in": 0', UNSAID_S),
    "zero as text": ('"expires_in": "0"', UNSAID_S),
    "a huge number": ('"expires_in": 99999999999999999999', LONGEST_USE_S),
    "a number that is none any more": ('"expires_in": 1e300', LONGEST_USE_S),
}


@pytest.mark.parametrize(("said", "seconds"), GOOD_FOR.values(), ids=GOOD_FOR)
def test_for_how_long_a_token_is_good(said: str, seconds: float) -> None:
    body = f'{{"access_token": "a", "token_type": "bearer", {said}}}'
    assert read_token(Fetched(200, Fields(), body.encode())) == ("a", seconds)


@on_loop
async def test_a_token_that_lives_shorter_than_the_margin_is_used_all_the_same(issuer: Issuer) -> None:
    issuer.expires_in = 1
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url, expiry_margin=60.0))
        assert word(await only.obtain()) == "token-1"
        assert held_now([only]) == ["token-1"]


@on_loop
async def test_a_token_that_is_over_before_it_comes_is_used_and_not_fetched_without_end(issuer: Issuer) -> None:
    issuer.expires_in = 1e-6
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url))
        assert word(await only.obtain()) == f"token-{issuer.asked}"
        assert issuer.asked <= 2  # thousands, where it is over each time that it is looked at


@on_loop
async def test_nobody_waits_longer_than_the_timeout_for_an_endpoint_that_hangs(issuer: Issuer) -> None:
    issuer.open.clear()
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url, timeout=0.2))
        assert (await problem_of(only)).fault is Fault.TOKEN_TIMEOUT
        issuer.open.set()


@on_loop
async def test_an_endpoint_that_is_gone_is_unavailable_until_it_is_back(issuer: Issuer) -> None:
    issuer.fail(503)
    async with node_of(workers=2) as node:
        caches = node.tokens(oauth2(issuer.url, negative_ttl=0.05))
        assert (await problem_of(caches[0])).fault is Fault.TOKEN_UNAVAILABLE
        issuer.recover()
        while True:
            try:
                assert word(await caches[1].obtain()) == "token-1"
                break
            except Unavailable:
                await asyncio.sleep(0.01)


@on_loop
async def test_a_failure_of_before_the_clock_was_set_back_is_forgotten(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request waits for the date of the failure to come again; and a token lives no longer for it."""
    ahead = 3600.0
    clock = SimpleNamespace(time=lambda: time.time() + ahead, monotonic=monotonic)
    for each in (messages, cache, control_fetcher):
        monkeypatch.setattr(each, "time", clock)
    issuer.fail(503)
    async with node_of(workers=2) as node:
        one, other = node.tokens(oauth2(issuer.url, negative_ttl=30.0))
        assert (await problem_of(one)).retry_after == 30
        asked = issuer.asked
        issuer.recover()
        node.hears[1] = False
        ahead = 0.0
        assert word(await one.obtain()) == "token-1"
        assert issuer.asked == asked + 1
        ahead = -3600.0
        assert one.fetched_earlier
        other._accept_record(node.kept[other.key])
        assert other._good_until - monotonic() <= issuer.expires_in


@on_loop
async def test_a_failure_takes_no_token_away(issuer: Issuer) -> None:
    issuer.expires_in = 1
    async with node_of(workers=1) as node:
        (only,) = node.tokens(oauth2(issuer.url, expiry_margin=0.0, negative_ttl=0.1))
        await only.obtain()
        issuer.fail(503)
        await until(lambda: held_now([only]) and issuer.asked >= 2)  # it is to be renewed, and cannot be
        assert held_now([only]) == ["token-1"]
        issuer.recover()
        await until(lambda: held_now([only]) == ["token-2"])


def test_an_endpoint_that_goes_on_failing_is_asked_less_and_less_often() -> None:
    said, rests = FetchedRecord(material=b"m"), []
    for _ in range(8):
        said = failed(said, Unavailable(Fault.TOKEN_UNAVAILABLE, "away"), 1.0)
        rests.append(round(said.failed_until_date - time.time()))
    assert rests == [1, 2, 4, 8, 16, LONGEST_S, LONGEST_S, LONGEST_S]


def test_a_renewal_is_due_before_the_end_at_a_time_of_its_own() -> None:
    dates = {renewal(1000.0, 4600.0) for _ in range(50)}
    assert all(4540.0 <= date <= 4570.0 for date in dates)
    assert len(dates) > 1
    assert 1003.0 <= renewal(1000.0, 1004.0) <= 1003.5


def test_nothing_shows_a_token() -> None:
    said = FetchedRecord(material=b"m", value=b"Authorization: Bearer planted\r\n", good_until_date=1.0)
    assert "planted" not in repr(said) + repr(Token(said.value))
    assert read(b"\xff nonsense") is None


# --- nodes together ---


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@on_loop
async def test_nodes_share_a_token_that_redis_cannot_read(
    issuer: Issuer, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encrypted_cache, "TIMEOUT_S", 15.0)
    settings = oauth2(issuer.url, second_level=Secret(text=redis.url))
    async with node_of(workers=1) as one, node_of(workers=1) as other:
        (ours,), (theirs,) = one.tokens(settings), other.tokens(settings)
        assert word(await ours.obtain()) == "token-1"
        assert word(await theirs.obtain()) == "token-1"
        assert issuer.asked == 1
        assert word(await ours.obtain(refused(1))) == "token-2"
        assert word(await theirs.obtain(refused(1))) == "token-2"  # the other node has fetched it already
        assert issuer.asked == 2
        assert b"token-2" not in redis.everything()
        assert redis.everything()


@on_loop
async def test_what_redis_kept_while_it_took_no_writes_is_not_newer_than_ours(
    issuer: Issuer, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encrypted_cache, "TIMEOUT_S", 15.0)
    monkeypatch.setattr(encrypted_cache, "AWAY_S", 0.0)
    async with node_of(workers=1) as node:
        (cache,) = node.tokens(oauth2(issuer.url, second_level=Secret(text=redis.url)))
        assert word(await cache.obtain()) == "token-1"
        redis.ask("REPLICAOF", "127.0.0.1", "1")
        try:
            assert word(await cache.obtain(refused(1))) == "token-2"
        finally:
            redis.ask("REPLICAOF", "NO", "ONE")
        assert word(await cache.obtain(refused(2))) == "token-3"


@on_loop
async def test_without_redis_each_node_fetches_for_itself(issuer: Issuer) -> None:
    settings = oauth2(issuer.url, second_level=Secret(text="redis://127.0.0.1:1/0"))
    async with node_of(workers=1) as node:
        assert word(await node.tokens(settings)[0].obtain()) == "token-1"


# --- very many ---


@on_loop
async def test_thousands_that_nobody_asks_cost_nothing_and_tell_nothing(issuer: Issuer) -> None:
    async with node_of(workers=1) as node:
        assert node.control is not None
        before = len(asyncio.all_tasks())
        many = [oauth2(f"{issuer.url}/{number}") for number in range(5000)]
        for each in many:
            node.serve(TokenSource.of(each))
        node.follow()
        assert len(asyncio.all_tasks()) == before
        assert not node.control.feed_infos()
        issuer.fail(500)
        (cache,) = node.tokens(many[4321])
        await problem_of(cache)
        (told,) = node.control.feed_infos()
        assert told.feed == f"{issuer.url}/4321"
        assert told.problem == "it answers 500"
        assert len(asyncio.all_tasks()) == before + 1


@on_loop
async def test_one_that_nobody_asks_any_more_rests_and_knows_what_it_knew(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_fetcher, "IDLE_S", 0.01)
    async with node_of(workers=1) as node:
        assert node.control is not None
        before = len(asyncio.all_tasks())
        (only,) = node.tokens(oauth2(issuer.url))
        await only.obtain()
        await until(lambda: len(asyncio.all_tasks()) == before)
        assert [each.problem for each in node.control.feed_infos()] == [""]
        assert word(await only.obtain(refused(1))) == "token-2"
        assert issuer.asked == 2


def test_what_fails_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgw.admin.node_interface import FeedInfo
    from fastgw.runtime.control import feed_runner

    node: Any = Node.__new__(Node)
    told = feed_runner.FeedRunner(node, node)
    told._rested = {f"{n}": FeedInfo(f"{n}", 1.0, "away" if n >= 995 else "") for n in range(1000)}
    shown = told.feed_infos()
    assert len(shown) == feed_runner.SHOWN
    assert [each.feed for each in shown if each.problem] == [f"{n}" for n in range(995, 1000)]
    assert json.dumps([each.feed for each in shown])


def test_of_many_with_one_url_it_is_told_which_fail() -> None:
    """Applications share a token endpoint; those that fare well are one where there are too many to tell."""
    from fastgw.admin.node_interface import FeedInfo
    from fastgw.runtime.control import feed_runner

    node: Any = Node.__new__(Node)
    told = feed_runner.FeedRunner(node, node)
    told.run_sources({}, {}, 1, {}, {f"{n}": (f"egress/app/{n}", 2 if n == 7 else 1) for n in range(1000)})
    told._rested = {f"{n}": FeedInfo("https://idp", 1.0 + n, "it answers 400" if n == 7 else "") for n in range(3)}
    told._rested["7"] = FeedInfo("https://idp", 8.0, "it answers 400")
    assert [(each.used_by, each.users, each.problem) for each in told.feed_infos()] == [
        *((f"egress/app/{n}", 1, "") for n in range(3)),
        ("egress/app/7", 2, "it answers 400"),
    ]
    told._rested |= {f"{n}": FeedInfo("https://idp", 1.0 + n, "") for n in range(1000) if n != 7}
    assert told.feed_infos() == [
        FeedInfo("https://idp", 8.0, "it answers 400", "egress/app/7", 2),
        FeedInfo("https://idp", 1.0, "", users=999),
    ]
