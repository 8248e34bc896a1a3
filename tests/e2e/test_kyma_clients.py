"""What applications and identity providers that know Kyma's application gateway can tell: each sentence is a test."""

from __future__ import annotations

import contextlib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_egress import ask, said
from tests.support.api_origin import ApiOrigin, Demands
from tests.support.gateway import Gateway
from tests.support.issuer import Issuer, Question
from tests.support.kyma import Json, api, application, credentials, put, secret, service, stream

CLIENT, SECRET = "sb-shop!b1|x", "50% + planted="


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as serving:
        yield serving


@pytest.fixture
def origin(issuer: Issuer) -> Iterator[ApiOrigin]:
    """It demands the token that is live."""
    with ApiOrigin(Demands(authorization=lambda: f"Bearer {issuer.live}")) as serving:
        yield serving


@contextlib.contextmanager
def documents(
    folder: Path, *objects: Json, listeners: dict[str, str] | None = None, **provider: Any
) -> Iterator[Gateway]:
    """A gateway with these documents; applications call at `main`, by path unless `listeners` says otherwise."""
    (folder / "apps").mkdir()
    put(folder / "apps" / "all.yaml", stream(*objects))
    addressings = listeners or {"main": "path"}
    config = {
        "workers": 2,
        "listeners": {name: {"address": "127.0.0.1:0"} for name in addressings},
        "status": {"address": "127.0.0.1:0"},
        "admin": {"address": "127.0.0.1:0"},
        "egress": {"listeners": addressings},
        "providers": {"kyma": {"directory": "apps", "allow_local": True, **provider}},
    }
    with Gateway(config, folder) as gateway:
        yield gateway


def oauth(origin: ApiOrigin, issuer: Issuer, **more: Any) -> Json:
    """A service `orders` that is called with a token."""
    return service(
        "orders", api(f"{origin.url}/v2", credentials=credentials("OAuth", authenticationUrl=issuer.url), **more)
    )


def by_basic(client_id: str, client_secret: str) -> str:
    return f"Basic {b64encode(f'{client_id}:{client_secret}'.encode()).decode()}"


class TestTheTokenEndpoint:
    """What an identity provider gets, and what applications are told when it gives nothing."""

    def test_it_gets_client_id_and_secret_in_the_header_as_they_are(
        self, tmp_path: Path, origin: ApiOrigin, issuer: Issuer
    ) -> None:
        held = secret("secret", clientId=CLIENT, clientSecret=SECRET)
        with documents(tmp_path, application(oauth(origin, issuer)), held) as gateway:
            assert ask(gateway, "/shop/orders/x").status == 200
        (question,) = issuer.questions
        assert question.fields["Authorization"] == by_basic(CLIENT, SECRET)
        assert question.form == {"grant_type": ["client_credentials"]}

    def test_one_that_takes_the_encoded_form_alone_gets_that_and_from_then_on_at_once(
        self, tmp_path: Path, origin: ApiOrigin, issuer: Issuer
    ) -> None:
        encoded = by_basic("sb-shop%21b1%7Cx", "50%25+%2B+planted%3D")

        def judge(question: Question) -> Any:
            taken = question.fields["Authorization"] == encoded
            return issuer.issue(question) if taken else (401, {}, b'{"error": "invalid_client"}')

        issuer.answer = judge
        held = secret("secret", clientId=CLIENT, clientSecret=SECRET)
        with documents(tmp_path, application(oauth(origin, issuer)), held) as gateway:
            assert ask(gateway, "/shop/orders/x").status == 200
            issuer.revoke()
            assert ask(gateway, "/shop/orders/x").status == 200
        raw = by_basic(CLIENT, SECRET)
        assert [question.fields["Authorization"] for question in issuer.questions] == [raw, encoded, encoded]
        assert not any("client_secret" in question.form for question in issuer.questions)

    def test_an_authorization_among_the_headers_of_its_secret_gives_way(
        self, tmp_path: Path, origin: ApiOrigin, issuer: Issuer
    ) -> None:
        headers = '{"authorization": ["Basic own"], "X-Tenant": ["t1"]}'
        held = secret("secret", clientId="shop", clientSecret="planted", headers=headers)
        with documents(tmp_path, application(oauth(origin, issuer)), held) as gateway:
            assert ask(gateway, "/shop/orders/x").status == 200
        (question,) = issuer.questions
        assert (question.fields["Authorization"], question.fields["X-Tenant"]) == (by_basic("shop", "planted"), "t1")

    @pytest.mark.parametrize(
        ("answer", "fault"),
        [
            ((503, b"{}"), "token_unavailable"),
            ((429, b"{}"), "token_unavailable"),
            ((400, b'{"error": "invalid_scope"}'), "token_refused"),
            ((401, b'{"error": "invalid_client"}'), "token_refused"),
            ((200, b"<html>"), "token_refused"),
        ],
    )
    def test_one_that_fails_or_refuses_is_a_502(
        self, tmp_path: Path, origin: ApiOrigin, issuer: Issuer, answer: tuple[int, bytes], fault: str
    ) -> None:
        issuer.fail(*answer)
        held = secret("secret", clientId="shop", clientSecret="planted")
        with documents(tmp_path, application(oauth(origin, issuer)), held) as gateway:
            self.is_told(gateway, 502, fault)

    def test_one_that_is_unreachable_is_a_502(self, tmp_path: Path, origin: ApiOrigin, issuer: Issuer) -> None:
        app = application(oauth(origin, issuer))
        issuer.__exit__()
        with documents(tmp_path, app, secret("secret", clientId="shop", clientSecret="planted")) as gateway:
            self.is_told(gateway, 502, "token_unavailable")

    def test_one_that_is_late_is_a_504(self, tmp_path: Path, origin: ApiOrigin, issuer: Issuer) -> None:
        issuer.open.clear()
        held = secret("secret", clientId="shop", clientSecret="planted")
        with documents(tmp_path, application(oauth(origin, issuer)), held) as gateway:
            self.is_told(gateway, 504, "token_timeout")
            issuer.open.set()

    def is_told(self, gateway: Gateway, status: int, fault: str) -> None:
        answer = ask(gateway, "/shop/orders/x")
        told = said(answer)
        assert (answer.status, told["code"], told["type"]) == (status, status, f"urn:fastgw:fault:{fault}")
        assert told["error"] == told["detail"] != ""
        assert b"planted" not in answer.raw + gateway.stderr.text().encode()
