"""A provider that does not keep to OpenID Connect, or is somebody else: nobody is let in by what it says."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fastgw.jose import Expected, TokenRules, check_claims, read_set, read_token, verify
from tests.support.certificates import Certificates, server_tls
from tests.support.gateway import Gateway, wait_until
from tests.support.liar import Liar
from tests.support.tokens import Signer, b64, key_set, signer
from tests.support.visitor import Answer, Visitor

OURS, STRANGER, CLIENT = signer("RS256", "ours"), signer("RS256", "stranger"), signer("ES256", "client")
SCRIPT = {"Accept": "application/json"}
ACCESS = "an-access-token"
METADATA: dict[str, dict[str, Any]] = {
    "another-issuer": {"issuer": "http://127.0.0.1/another"},
    "an-issuer-with-a-slash": {},  # below
    "plain-http": {"token_endpoint": "http://idp.example/token"},
    "no-url": {"authorization_endpoint": "javascript:alert(1)"},
    "a-list": {"token_endpoint": ["http://127.0.0.1/"]},
    "no-keys": {"jwks_uri": None},
    "keys-nowhere": {"jwks_uri": ""},
    "a-password": {"authorization_endpoint": "https://user:password@idp.example/"},
}
RAW = {"not-json": b"<html>", "a-member-twice": b'{"issuer": "a", "issuer": "b"}', "too-long": b" " * 300_000 + b"{}"}


class World(NamedTuple):
    liar: Liar
    gateway: Gateway
    over_tls: Liar
    watched: Path
    """The secret of sessions of the policy of this name."""

    def url(self, name: str = "plain") -> str:
        return f"{self.gateway.url()}/{name}"

    def says(self, answer: Any, status: int = 200, name: str = "plain") -> None:
        """Let the token endpoint say this."""
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.liar.says[f"/{name}/token"] = status, body

    def asked(self, name: str = "plain") -> list[dict[str, str]]:
        """What the token endpoint was asked."""
        return [form for path, form in self.liar.asked if path == f"/{name}/token"]

    def begun(self, visitor: Visitor, name: str = "plain") -> tuple[str, dict[str, Any]]:
        """A login that somebody has begun: the callback, and the claims that its ID token should have."""
        query = parse_qs(urlsplit(visitor.ask(self.url(name)).location).query)
        claims = {"iss": f"{self.liar.url}/{name}", "aud": "web", "nonce": query["nonce"][0]}
        return f"{self.url(name)}/callback?code=c&state={query['state'][0]}", claims

    def returned(
        self, name: str = "plain", status: int = 200, answer: Any = None, expires_in: Any = None, **claims: Any
    ) -> Answer:
        """What becomes of a login in which the provider gives this: `answer` in place of an ordinary one, or an
        ordinary one with an ID token that has these claims, or is made by `token`."""
        visitor = Visitor()
        callback, ordinary = self.begun(visitor, name)
        token = claims.pop("token", OURS.token)
        if answer is None:
            answer = tokens(token(ordinary | claims), expires_in=expires_in)
        self.says(answer, status, name)
        self.liar.asked.clear()
        arrived = visitor.ask(callback)
        if arrived.status == 303:
            assert visitor.ask(self.url(name), **SCRIPT).status == 200
        else:
            assert visitor.ask(self.url(name), **SCRIPT).status == 401
        return arrived


def tokens(id_token: bytes, **more: Any) -> dict[str, Any]:
    said = {"token_type": "Bearer", "access_token": ACCESS, "id_token": id_token.decode("latin-1"), **more}
    return {name: value for name, value in said.items() if value is not None}


def policy(issuer: str, name: str, **more: Any) -> dict[str, Any]:
    secret = {} if {"client_key", "client_auth"} & more.keys() else {"client_secret": "of the web: 100%"}
    login = {"client_id": "web", "callback": f"/{name}/callback", "logout": f"/{name}/logout", **secret, **more}
    session = {"secret": "s" * 32, "cookie": f"session_{name}"}
    return {"issuer": issuer, "login": {"session": session, **login}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("gateway")
    key = folder / "client.pem"
    key.write_bytes(CLIENT.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    watched = folder / "watched"
    watched.write_text("s" * 32)
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "post": {"client_auth": "post", "client_secret": "of the web: 100%"},
        "key": {"client_auth": "private_key_jwt", "client_key": str(key)},
        "public": {"client_auth": "none"},
        "watched": {"session": {"secret": {"file": str(watched)}, "former_secrets": ["s" * 32]}},
        "short": {"session": {"secret": "s" * 32, "lifetime": "1s", "idle": None}},
    }
    certificates = Certificates(folder)
    with Liar() as liar, Liar(server_tls(certificates.issue("127.0.0.1"))) as over_tls:
        policies = {name: policy(liar.describes(name, key_set(OURS)), name, **more) for name, more in ways.items()}
        for name, lie in METADATA.items():
            policies[name] = policy(liar.describes(name, key_set(OURS), **lie), name)
        policies["an-issuer-with-a-slash"]["issuer"] += "/"
        for name, raw in RAW.items():
            policies[name] = policy(liar.describes(name, key_set(OURS)), name)
            liar.says[f"/{name}/.well-known/openid-configuration"] = 200, raw
        for name in ("trusted", "not-trusted"):
            policies[name] = policy(over_tls.describes(name, key_set(OURS)), name)
        policies["trusted"]["tls"] = {"ca": certificates.ca}
        policies["silent"] = policy(f"{liar.url}/silent", "silent")
        configuration = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "routes": [
                {"name": name, "paths": [f"/{name}/*"], "respond": {"body": "in"}, "filters": {"oidc": each}}
                for name, each in policies.items()
            ],
        }
        with Gateway(configuration, folder) as gateway:
            yield World(liar, gateway, over_tls, watched)


@pytest.mark.landing
def test_an_ordinary_answer_lets_in(world: World) -> None:
    assert world.returned().status == 303
    assert world.returned(aud=["web"], azp="web").status == 303
    assert world.returned(aud=["web", "another"], azp="web").status == 303
    digest = hashlib.sha256(ACCESS.encode()).digest()
    assert world.returned(at_hash=b64(digest[:16]).decode()).status == 303


@pytest.mark.landing
def test_a_session_is_in_as_many_cookies_as_it_needs_up_to_five(world: World) -> None:
    arrived = world.returned(filling="x" * 9_000)
    assert arrived.status == 303
    kept = [line.partition("=")[0] for line in arrived.cookies if "Max-Age=0" not in line]
    assert kept == ["session_plain", *(f"session_plain.{place}" for place in range(1, 5))]
    for filling in (11_000, 60_000):
        arrived = world.returned(filling="x" * filling)
        assert arrived.status == 502
        assert arrived.told["type"] == "urn:fastgw:fault:session_too_large"
        assert arrived.told["detail"].endswith("Request fewer scopes or claims, or configure `state`.")


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"nonce": ["a"]},
        {"iss": "https://idp.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"aud": []},
        {"aud": ["web", "another"]},
        {"aud": ["web", "another"], "azp": "another"},
        {"azp": "another"},
        {"azp": ["web"]},
        {"sub": None},
        {"sub": 7},
        {"exp": None},
        {"exp": 1},
        {"exp": "2099-01-01"},
        {"iat": None},
        {"iat": 4_000_000_000},
        {"nbf": 4_000_000_000},
        {"at_hash": "AAAA"},
        {"at_hash": 1},
        {"token": STRANGER.token},
        {"token": lambda claims: OURS.token(claims, {"alg": "none"})},
        {"token": lambda claims: OURS.token(claims, {"kid": "another"})},
        {"token": lambda claims: OURS.token(claims, {"typ": "at+jwt"})},
        {"token": lambda claims: STRANGER.token(claims, {"kid": OURS.jwk["kid"], "jwk": STRANGER.jwk})},
        {"token": lambda claims: OURS.token(claims, {"crit": ["exp"]})},
        {"token": lambda claims: Signer("HS256", "ours", secret=OURS.pem).token(claims)},
        {"token": lambda claims: OURS.token(claims)[:-8] + b"AAAAAAAA"},
        {"token": lambda claims: OURS.token(claims).rpartition(b".")[0] + b"."},
        {"token": lambda claims: b""},
        {"token": lambda claims: b"e30.e30.e30"},
    ],
    ids=lambda claims: " ".join(
        f"{name}={'…' if callable(value) else str(value)[:20]}" for name, value in claims.items()
    ),
)
def test_an_id_token_that_is_not_all_right_lets_nobody_in(world: World, claims: dict[str, Any]) -> None:
    """OpenID Connect Core section 3.1.3.7."""
    arrived = world.returned(**claims)
    assert arrived.status == 400
    assert arrived.told["detail"] == "This login is unknown or has expired. Please log in again."


@pytest.mark.landing
def test_a_code_that_is_refused_lets_nobody_in(world: World) -> None:
    assert world.returned(status=400, answer={"error": "invalid_grant"}).status == 400


@pytest.mark.parametrize("error", ["invalid_client", "made\nup", 7, None])
def test_a_gateway_that_is_refused_says_that_it_cannot_log_in(world: World, error: Any) -> None:
    """With another secret than the provider knows, say: nobody is to begin again and again."""
    assert world.returned(status=401, answer={"error": error}).status == 503


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, {}),
        (503, b""),
        (429, {}),
        (200, b""),
        (200, b"<html>"),
        (200, b'{"token_type": "Bearer", "token_type": "Bearer"}'),
        (200, b"[]"),
        (200, tokens(b"") | {"token_type": "mac"}),
        (200, tokens(b"") | {"access_token": 7}),
        (200, tokens(b"") | {"access_token": "a\r\nX-Evil: 1"}),
        (200, tokens(b"") | {"refresh_token": "\N{SNOWMAN}"}),
        (200, tokens(b"") | {"expires_in": []}),
        (200, b" " * 600_000),
        (302, b""),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_token_endpoint_that_talks_nonsense_is_away(world: World, status: int, answer: Any) -> None:
    arrived = world.returned(status=status, answer=answer)
    assert arrived.status == 503
    assert arrived.told["type"] == "urn:fastgw:fault:auth_unavailable"


def test_a_login_without_an_expiry_lasts_as_long_as_the_session(world: World) -> None:
    for said in (None, "60", 60, 1.5, -1, 0):
        assert world.returned(expires_in=said).status == 303


def test_a_provider_that_says_no_good_of_itself_is_away(world: World) -> None:
    """Also one that calls itself otherwise: RFC 8414 section 3.3."""
    names = [*METADATA, *RAW, "silent"]
    with ThreadPoolExecutor(len(names)) as together:
        answers = dict(zip(names, together.map(lambda name: Visitor().ask(world.url(name)), names), strict=True))
    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(names, 503)
    for answer in answers.values():
        assert answer.told["type"] == "urn:fastgw:fault:auth_unavailable"
        assert "127.0.0.1" not in answer.body.decode()


@pytest.mark.landing
def test_the_gateway_shows_the_provider_who_it_is(world: World) -> None:
    def form(name: str) -> dict[str, str]:
        assert world.returned(name).status == 303
        [form] = world.asked(name)
        assert form["grant_type"] == "authorization_code"
        assert form["redirect_uri"] == f"{world.url(name)}/callback"
        assert len(form["code_verifier"]) == 43
        return form

    plain = form("plain")
    assert b64decode(plain["authorization"].removeprefix("Basic ")) == b"web:of+the+web%3A+100%25"
    assert "client_secret" not in plain
    post = form("post")
    assert (post["client_id"], post["client_secret"]) == ("web", "of the web: 100%")
    assert "authorization" not in post
    public = form("public")
    assert public["client_id"] == "web"
    assert not {"authorization", "client_secret", "client_assertion"} & public.keys()
    key = form("key")
    assert key["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    signed = read_token(key["client_assertion"].encode(), TokenRules(frozenset({"ES256"})))
    verify(signed, read_set(key_set(CLIENT.jwk | {"kid": "other"}, CLIENT.jwk)))
    claims = signed.claims()
    issuer = f"{world.liar.url}/key"
    check_claims(claims, Expected("web", frozenset({issuer}), (("jti",), ("exp",), ("sub",))), time.time())
    assert claims["sub"] == "web"
    assert claims["exp"] <= time.time() + 61


def logged_in(world: World, name: str = "plain", **more: Any) -> tuple[Visitor, dict[str, Any]]:
    """Somebody with a session, and the claims of their ID token."""
    visitor = Visitor()
    callback, claims = world.begun(visitor, name)
    world.says(tokens(OURS.token(claims), **more), name=name)
    assert visitor.ask(callback).status == 303
    world.liar.asked.clear()
    return visitor, claims


@pytest.mark.landing
def test_https_to_the_provider_is_verified(world: World) -> None:
    """Discovery, keys and tokens; by the authority that the settings name, or the system's."""
    visitor = Visitor()
    callback, claims = world._replace(liar=world.over_tls).begun(visitor, "trusted")
    world.over_tls.says["/trusted/token"] = 200, json.dumps(tokens(OURS.token(claims))).encode()
    assert visitor.ask(callback).status == 303
    assert visitor.ask(world.url("trusted"), **SCRIPT).status == 200
    assert Visitor().ask(world.url("not-trusted")).status == 503


@pytest.mark.landing
def test_a_session_ends_with_its_lifetime(world: World) -> None:
    visitor, _ = logged_in(world, "short")
    assert visitor.ask(world.url("short"), **SCRIPT).status == 200
    wait_until(lambda: visitor.ask(world.url("short"), **SCRIPT).status == 401, "the end of the session")
    answer = visitor.ask(world.url("short"), **SCRIPT)
    assert answer.told["type"] == "urn:fastgw:fault:credentials_invalid"


@pytest.mark.parametrize(
    ("status", "answer", "then"),
    [
        (400, {"error": "invalid_grant"}, 401),
        (200, tokens(OURS.token({"iss": "https://idp.example"})), 401),
        (401, {"error": "invalid_client"}, 200),
        (503, b"", 200),
        (200, b"<html>", 200),
    ],
    ids=["refused", "another issuer", "gateway refused", "away", "nonsense"],
)
def test_what_becomes_of_a_session_that_cannot_be_refreshed(world: World, status: int, answer: Any, then: int) -> None:
    """Where the provider says no, it ends; where it says nothing that is one, it goes on."""
    visitor, _ = logged_in(world, expires_in=1, refresh_token=f"refresh {status} {then} {answer!r}")
    world.says(answer, status)
    wait_until(lambda: visitor.ask(world.url(), **SCRIPT).status == then and bool(world.asked()), "a refresh")
    assert visitor.ask(world.url(), **SCRIPT).status == then
    assert [form["grant_type"] for form in world.asked()] == ["refresh_token"]


def test_a_refresh_cannot_make_somebody_else_of_a_session(world: World) -> None:
    visitor, claims = logged_in(world, expires_in=1, refresh_token="of alice")
    world.says(tokens(OURS.token(claims | {"sub": "bob"}), expires_in=1, refresh_token="of bob"))
    wait_until(lambda: visitor.ask(world.url(), **SCRIPT).status == 401, "the end of the session")


def test_a_request_that_waits_for_a_refresh_lives_through_a_reload(world: World) -> None:
    visitor, _ = logged_in(world, "watched", expires_in=1, refresh_token="held back")
    released = world.liar.holds["/watched/token"] = threading.Event()
    statuses: list[int] = []
    waiting = threading.Thread(target=lambda: wait_until(lambda: asks_once_more(), "the refresh to end"))

    def asks_once_more() -> bool:
        statuses.append(visitor.ask(world.url("watched"), **SCRIPT).status)
        return bool(world.asked("watched"))

    waiting.start()
    try:
        wait_until(lambda: bool(world.asked("watched")), "the refresh to begin")
        world.watched.write_text("another secret, of as many characters")
        waiting.join()  # though nothing is answered
    finally:
        released.set()
        del world.liar.holds["/watched/token"]
    assert set(statuses) == {200}
