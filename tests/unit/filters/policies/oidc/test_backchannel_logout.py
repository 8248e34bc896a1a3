"""Logout tokens: which count, which do not, and the form that they come in (OpenID Connect Back-Channel Logout 1.0)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pytest

from fastgw.filters.authentication.jwks import Keyring
from fastgw.filters.policies.oidc.id_token import IdTokens
from fastgw.jose import TokenRefused, read_set
from tests.support.memory import Plane
from tests.support.on_loop import on_loop
from tests.support.tokens import compact, key_set, signer
from tests.unit.filters.policies.oidc.test_filter import ISSUER, LOGIN, RS, cookie, passed, plane_of, refused

EVENTS = {"http://schemas.openid.net/event/backchannel-logout": {}}
PATH = "/oauth2/elsewhere"
TYPE = "Content-Type: application/x-www-form-urlencoded"


def logout_token(header: Mapping[str, Any] = {}, **claims: Any) -> bytes:
    now = time.time()
    said = {"iss": ISSUER, "aud": "web", "iat": now, "exp": now + 60, "jti": "1", "events": EVENTS, "sub": "alice"}
    return RS.token({"nbf": None, **said, **claims}, {"typ": "logout+jwt", **header})


def judged(token: bytes) -> Any:
    tokens = IdTokens(Keyring(read_set(key_set(RS))), ISSUER, "web", frozenset({"RS256"}), 10.0)
    return asyncio.run(tokens.verify_logout(token.decode()))


class Moment:
    """So many seconds from when it is asked for."""

    def __init__(self, offset: float) -> None:
        self._offset = offset

    def __call__(self) -> float:
        return time.time() + self._offset

    def __repr__(self) -> str:
        return f"now {self._offset:+}"


IN_TEN_MINUTES, A_MINUTE_AGO = Moment(600), Moment(-60)


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        ({}, {}),
        ({"typ": "JWT"}, {}),
        ({"typ": None}, {}),
        ({}, {"sub": None, "sid": "s"}),
        ({}, {"sid": "s"}),
        ({}, {"aud": ["other", "web"]}),
    ],
    ids=str,
)
def test_a_logout_token_is_good(header: dict[str, Any], claims: dict[str, Any]) -> None:
    assert judged(logout_token(header, **claims))["jti"] == "1"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"},
        {"iss": None},
        {"aud": "other"},
        {"aud": None},
        {"iat": None},
        {"iat": IN_TEN_MINUTES},
        {"exp": None},
        {"exp": A_MINUTE_AGO},
        {"jti": None},
        {"jti": 7},
        {"events": None},
        {"events": {}},
        {"events": [*EVENTS]},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": None}},
        {"events": {"http://schemas.openid.net/event/other": {}}},
        {"nonce": "n"},
        {"nonce": None, "sub": None},
        {"sub": ""},
        {"sub": ["alice"]},
        {"sid": ["s"]},
        {"sub": None, "sid": 7},
    ],
    ids=str,
)
def test_what_is_no_logout_token_ends_nothing(claims: dict[str, Any]) -> None:
    claims = {name: value() if callable(value) else value for name, value in claims.items()}
    with pytest.raises(TokenRefused):
        judged(logout_token(**claims))


def test_an_id_token_and_one_that_is_signed_otherwise_are_none() -> None:
    with pytest.raises(TokenRefused):
        judged(RS.token({"iss": ISSUER, "aud": "web"}))
    with pytest.raises(TokenRefused):
        judged(logout_token({"typ": "at+jwt"}))
    with pytest.raises(TokenRefused):
        judged(logout_token()[:-4] + b"AAAA")
    body = json.dumps({"iss": ISSUER, "events": EVENTS}).encode()
    with pytest.raises(TokenRefused):
        judged(compact(b'{"alg":"none"}', body, b""))
    with pytest.raises(TokenRefused):
        judged(signer("HS256", "one").token({"iss": ISSUER, "aud": "web", "events": EVENTS, "jti": "1"}))


# --- what comes in a form ---


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Plane:
    keys = read_set(key_set(RS))
    monkeypatch.setattr("fastgw.filters.policies.oidc.filter.Keyring", lambda *_: Keyring(keys))
    return plane_of({"backchannel_logout": PATH})


async def told(
    plane: Plane, body: bytes, *lines: str, method: str = "POST", status: int = 200, whole: bool = True
) -> str:
    client = plane.client()
    head = [f"{method} {PATH} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *(lines or (TYPE,)), "", ""]
    raw = "\r\n".join(head).encode()
    if whole:
        client.sends(raw + body)
    else:
        client.sends(raw)
        for at in range(0, len(body), 100):
            await turns()
            client.sends(body[at : at + 100])
    await turns()
    answer = client.received.decode()
    assert answer.startswith(f"HTTP/1.1 {status} "), answer
    assert "\r\nCache-Control: no-store\r\n" in answer or status == 405
    plane.assert_quiet()
    return answer


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def form(token: bytes) -> bytes:
    return b"logout_token=" + quote(token.decode()).encode()


@pytest.mark.parametrize("whole", [True, False])
@on_loop
async def test_the_session_that_is_named_ends_and_no_other(plane: Plane, whole: bool) -> None:
    one, other, later = cookie(sid="one"), cookie(sid="other"), cookie(sid="one")
    passed(plane, one)
    token = logout_token(sid="one")
    await told(plane, form(token), whole=whole)
    for each in (one, later):
        refused(plane, each)
    passed(plane, other)
    await told(plane, form(token), status=400)  # it was shown before
    await told(plane, form(logout_token(sid="other", jti="2")))
    refused(plane, other)


@on_loop
async def test_all_sessions_of_a_subject_end_but_for_those_that_begin_later(plane: Plane) -> None:
    own, others = cookie(), cookie({"sub": "bob"})
    await told(plane, form(logout_token()))
    refused(plane, own)
    passed(plane, others)
    passed(plane, cookie(begun_date=time.time() + 5))


@on_loop
async def test_what_is_no_such_form_ends_nothing(plane: Plane) -> None:
    own, token = cookie(), form(logout_token())
    await told(plane, b"", status=400)
    await told(plane, b"logout_token", status=400)
    await told(plane, b"other=" + token, status=400)
    await told(plane, token + b"&" + token, status=400)
    await told(plane, token + b"\xff", status=400)
    await told(plane, token, "Content-Type: application/json", status=400)
    await told(plane, token, "X-None: 1", status=400)
    await told(plane, b"a" * 70_000 + b"&" + token, status=400, whole=False)
    await told(plane, token, method="PUT", status=405)
    passed(plane, own)
    await told(plane, token, f"{TYPE}; charset=UTF-8")
    refused(plane, own)


@on_loop
async def test_who_waits_to_be_asked_for_the_form_is_asked(plane: Plane) -> None:
    client, body = plane.client(), form(logout_token())
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\n{TYPE}\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    client.sends(head.encode())
    await turns()
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sends(body)
    await turns()
    assert b"HTTP/1.1 200 " in client.received


def test_without_the_path_nothing_is_heard() -> None:
    plane = plane_of({"session": LOGIN["session"]})
    client = plane.client()
    client.sends(f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
    assert client.received.startswith(b"HTTP/1.1 401 ")
