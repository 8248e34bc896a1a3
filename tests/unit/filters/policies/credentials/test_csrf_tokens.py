"""Tokens against forged requests: had with the API's own credentials, once for each set of them."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from time import monotonic
from typing import Any

import pytest

from fastgw.config.base.value_types import parse_endpoint
from fastgw.config.settings.credentials import Basic, Csrf
from fastgw.config.settings.secrets import Secret
from fastgw.errors import Fault
from fastgw.filters.policies.credentials.csrf_tokens import CsrfSource, CsrfToken, Shown
from tests.support.brokering import node_of, oauth2, problem_of
from tests.support.issuer import Issuer, Question
from tests.support.on_loop import on_loop

BASIC = Shown(basic=Basic(username=Secret(text="ann"), password=Secret(text="of ann")))


class Api(Issuer):
    """Hands out `csrf 1`, `csrf 2`… `tokens`: those that it lets in."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: set[str] | None = None
        self.cookies = "sid=s1; Path=/; HttpOnly\nlang=en"
        self.answer = self.hand_out

    def hand_out(self, question: Question) -> Any:
        shown = question.fields.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and shown not in self.tokens:
            return 401, {}, b""
        return 200, {"X-CSRF-Token": f"csrf-{self.asked}", "Set-Cookie": self.cookies}, b"whatever"


@pytest.fixture
def api() -> Any:
    with Api() as serving:
        yield serving


@pytest.fixture
def issuer() -> Any:
    with Issuer() as serving:
        yield serving


def csrf(api: Issuer, **more: Any) -> Csrf:
    return Csrf(token_url=parse_endpoint(api.url), **more)


@on_loop
async def test_one_is_had_for_the_node_with_the_apis_own_credentials(api: Api) -> None:
    async with node_of(workers=4) as node:
        caches = node.csrf_tokens(csrf(api), BASIC)
        got = await asyncio.gather(*(each.obtain() for each in caches for _ in range(50)))
        assert set(got) == {CsrfToken(b"csrf-1", ((b"sid", b"s1"), (b"lang", b"en")))}
        assert got[0].line == b"X-CSRF-Token: csrf-1\r\n"
        newer = await caches[1].obtain(got[0])  # the API has refused it
        assert newer.token == b"csrf-2"
        assert (await caches[2].obtain(got[0])).token == b"csrf-2"
    assert api.asked == 2
    question = api.questions[0]
    assert (question.method, question.path) == ("GET", "/token")
    shown = {name: question.fields[name] for name in ("X-CSRF-Token", "Accept", "Cache-Control", "Authorization")}
    assert shown == {
        "X-CSRF-Token": "fetch",
        "Accept": "*/*",
        "Cache-Control": "no-cache",
        "Authorization": f"Basic {b64encode(b'ann:of ann').decode()}",
    }


@on_loop
async def test_one_that_is_handed_out_again_is_an_answer(api: Api) -> None:
    """It is asked for once, and is not what those want that have been refused with it."""
    api.answer = lambda question: (200, {"X-CSRF-Token": "always"}, b"")
    async with node_of(workers=2) as node:
        cache, other = node.csrf_tokens(csrf(api), BASIC)
        got = await cache.obtain()
        problem = await problem_of(cache, got)
        assert (problem.fault, problem.why) == (
            Fault.TOKEN_REFUSED,
            "there is no newer credential than the rejected one",
        )
        assert api.asked == 2
        assert await other.obtain() == got
    assert api.asked == 2


@on_loop
async def test_the_credentials_may_be_a_token_of_the_node(api: Api, issuer: Issuer) -> None:
    shown = Shown(oauth2=oauth2(issuer.url))
    async with node_of(workers=2) as node:
        tokens = node.tokens(oauth2(issuer.url))
        caches = node.csrf_tokens(csrf(api), shown)
        got = await asyncio.gather(*(each.obtain() for each in caches))
        assert {each.token for each in got} == {b"csrf-1"}
        assert api.questions[0].fields["Authorization"] == "Bearer token-1"
        await asyncio.gather(*(each.obtain() for each in tokens))
        assert issuer.asked == 1  # it is the same that requests are sent with

        api.tokens = {"token-2"}
        assert (await caches[0].obtain(got[0])).token == b"csrf-3"  # behind one that was answered 401
        assert issuer.asked == 2
        api.tokens = set()
        problem = await problem_of(caches[0], await caches[0].obtain())
        assert (problem.fault, problem.why) == (Fault.TOKEN_REFUSED, "it answers 401")
        assert issuer.asked == 3  # once more, and no oftener


@on_loop
async def test_a_worker_gets_both_for_itself_while_control_is_away(api: Api, issuer: Issuer) -> None:
    async with node_of(workers=1) as node:
        (only,) = node.csrf_tokens(csrf(api), Shown(oauth2=oauth2(issuer.url)))
        node.kill_control()
        assert (await only.obtain()).token == b"csrf-1"
        assert only.peek(monotonic()) is not None


FAILURES: dict[str, tuple[int, dict[str, str], Fault]] = {
    "no token": (200, {}, Fault.TOKEN_UNAVAILABLE),
    "an empty one": (200, {"X-CSRF-Token": ""}, Fault.TOKEN_UNAVAILABLE),
    "one is wanted": (200, {"X-CSRF-Token": "Required"}, Fault.TOKEN_UNAVAILABLE),
    "one with a blank": (200, {"X-CSRF-Token": "a b"}, Fault.TOKEN_UNAVAILABLE),
    "forbidden": (403, {"X-CSRF-Token": "Required"}, Fault.TOKEN_REFUSED),
    "another place": (302, {"X-CSRF-Token": "a", "Location": "/login"}, Fault.TOKEN_UNAVAILABLE),
    "away": (503, {}, Fault.TOKEN_UNAVAILABLE),
}


@pytest.mark.parametrize(("status", "fields", "fault"), FAILURES.values(), ids=FAILURES)
@on_loop
async def test_what_is_no_token_is_no_token(api: Api, status: int, fields: dict[str, str], fault: Fault) -> None:
    api.answer = lambda question: (status, fields, b"")
    async with node_of(workers=2) as node:
        one, other = node.csrf_tokens(csrf(api, negative_ttl=30.0), BASIC)
        assert (await problem_of(one)).fault is fault
        assert (await problem_of(other)).fault is fault
        assert api.asked == 1


@on_loop
async def test_cookies_that_no_request_may_have_are_left_out(api: Api) -> None:
    api.cookies = 'a="1"; Secure\nb=x y\n=c\nd\ne=1,2\na=2'
    async with node_of(workers=1) as node:
        (only,) = node.csrf_tokens(csrf(api), BASIC)
        assert (await only.obtain()).cookies == ((b"a", b"2"), (b"e", b"1,2"))


DELETIONS = (
    *("gone=; Max-Age=0", "gone=x; max-age=-1; Expires=Fri, 01 Jan 2100 00:00:00 GMT", "gone=; Path=/; Max-Age=000"),
    "gone=; expires=Tue, 01-Jan-1980 00:00:00 GMT; path=/; secure",
    "gone=; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
)
KEPT = (
    *("kept=1; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "kept=1; Max-Age=x", "kept=1; Expires=soon"),
    *("kept=1; Expires=Fri, 01-Jan-2100 00:00:00 GMT", "kept=1\nkept=; Path=/old; Max-Age=0"),
)


@pytest.mark.parametrize("lines", [*DELETIONS, *KEPT])
@on_loop
async def test_a_cookie_that_is_deleted_is_not_sent(api: Api, lines: str) -> None:
    """RFC 6265 sections 5.2 and 5.3: `Max-Age` has precedence over `Expires`, invalid ones are ignored."""
    api.cookies = f"sid=s1\n{lines}"
    async with node_of(workers=1) as node:
        (only,) = node.csrf_tokens(csrf(api), BASIC)
        kept = ((b"kept", b"1"),) if lines in KEPT else ()
        assert (await only.obtain()).cookies == ((b"sid", b"s1"), *kept)


@on_loop
async def test_a_cookie_that_is_deleted_by_a_later_line_is_not_sent(api: Api) -> None:
    api.cookies = "sid=s1; Path=/\nother=1\nsid=; Path=/; Max-Age=0"
    async with node_of(workers=1) as node:
        (only,) = node.csrf_tokens(csrf(api), BASIC)
        assert (await only.obtain()).cookies == ((b"other", b"1"),)


def test_two_with_the_same_url_and_other_credentials_share_nothing() -> None:
    def source(url: str = "https://api.example/csrf", **shown: Any) -> str:
        return CsrfSource.of(Csrf(token_url=parse_endpoint(url)), Shown(**shown)).key

    bob = Basic(username=Secret(text="bob"), password=Secret(text="of ann"))
    keys = [
        source(),
        source(basic=BASIC.basic),
        source(basic=bob),
        source(bearer=Secret(text="planted")),
        source(headers={"X-Key": Secret(text="planted")}),
        source(oauth2=oauth2("https://idp.example/token")),
        source(oauth2=oauth2("https://idp.example/token", client_secret=Secret(text="another"))),
        source("https://api.example/csrf?a=planted"),
    ]
    assert len(set(keys)) == len(keys)
    assert "planted" not in json.dumps(keys)
    assert "csrf-1" not in repr(CsrfToken(b"csrf-1", ()))
