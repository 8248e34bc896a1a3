"""What applications and identity providers that know Kyma's application gateway can tell: each sentence is a test."""

from __future__ import annotations

import contextlib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_egress import ask, calling_on, crowd, said
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


class TestTheAccessToken:
    """An application that has credentials of its own."""

    @pytest.mark.parametrize("shown", ["Bearer own", "Basic b3duOm93bg==", "own"])
    def test_it_is_copied_as_it_is(self, tmp_path: Path, shown: str) -> None:
        with ApiOrigin() as origin:
            basic = service("orders", api(origin.url, credentials=credentials("Basic")))
            held = secret("secret", username="me", password="planted")
            with documents(tmp_path, application(basic), held) as gateway:
                assert ask(gateway, "/shop/orders/x", fields=f"Access-Token: {shown}\r\n").status == 200
                assert ask(gateway, "/shop/orders/x", fields="Access-Token: \r\n").status == 200
                assert ask(gateway, "/shop/orders/x", fields="Access-Token: a\r\nAccess-Token: b\r\n").status == 400
            shown_to_api = [call.values("Authorization") for call in origin.calls]
            assert shown_to_api == [[shown], [by_basic("me", "planted")]]
            assert not any(call.values("Access-Token") for call in origin.calls)

    def test_the_csrf_token_is_sent_with_it_and_renewed(self, tmp_path: Path) -> None:
        """It is had with the gateway's credentials, which the application's own call is never made with."""
        with ApiOrigin(Demands(csrf=True)) as origin:
            csrf = credentials("Basic", csrfInfo={"tokenEndpointURL": origin.csrf_url})
            held = secret("secret", username="me", password="planted")
            with documents(
                tmp_path, application(service("orders", api(origin.url, credentials=csrf))), held
            ) as gateway:
                for _ in range(2):
                    origin.revoke_csrf()
                    answer = ask(gateway, "/shop/orders/x", "POST", "Access-Token: Bearer own\r\n", b"{}")
                    assert answer.status == 200
            assert {call.value("Authorization") for call in origin.csrf_calls} == {by_basic("me", "planted")}
            assert {call.value("Authorization") for call in origin.calls} == {"Bearer own"}
            assert [call.status for call in origin.calls] == [200, 403, 200]

    def test_one_that_the_api_refuses_is_not_replaced_by_the_gateways(self, tmp_path: Path, issuer: Issuer) -> None:
        with ApiOrigin(Demands(authorization=lambda: f"Bearer {issuer.live}")) as origin:
            held = secret("secret", clientId="shop", clientSecret="planted")
            with documents(tmp_path, application(oauth(origin, issuer)), held) as gateway:
                assert ask(gateway, "/shop/orders/x", fields="Access-Token: Bearer own\r\n").status == 401
            assert [call.value("Authorization") for call in origin.calls] == ["Bearer own"]
            assert issuer.asked == 0


class TestRefusals:
    """What happens on a 401 or 403 of the API."""

    def test_basic_is_tried_once_more(self, tmp_path: Path) -> None:
        """As Kyma does it; a second refusal is the application's."""
        with ApiOrigin() as origin:
            origin.answers["/x"] = 401, {"WWW-Authenticate": "Basic"}, b"not now"
            basic = service("orders", api(origin.url, credentials=credentials("Basic")))
            held = secret("secret", username="me", password="planted")
            with documents(tmp_path, application(basic), held) as gateway:
                answer = ask(gateway, "/shop/orders/x", "POST", body=b"{}")
                assert (answer.status, answer.body) == (401, b"not now")
                assert ask(gateway, "/shop/orders/y").status == 200
            assert [(call.path, call.body_bytes) for call in origin.calls] == [("/x", 2), ("/x", 2), ("/y", 0)]

    def test_basic_is_tried_with_what_the_secret_says_by_then(self, tmp_path: Path) -> None:
        """Without waiting until the gateway looks at its files the next time, and without a call lost."""
        good = "one"
        with ApiOrigin(Demands(authorization=lambda: by_basic("me", good))) as origin:
            app = application(service("orders", api(origin.url, credentials=credentials("Basic"))))
            with documents(tmp_path, app, secret("secret", username="me", password="one")) as gateway:
                assert ask(gateway, "/shop/orders/x").status == 200
                for good in ("two", "three"):
                    put(tmp_path / "apps" / "all.yaml", stream(app, secret("secret", username="me", password=good)))
                    assert ask(gateway, "/shop/orders/x", "POST", body=b"{}").status == 200
                    shown = [call.value("Authorization") for call in origin.calls[-2:]]
                    assert shown[1] == by_basic("me", good) != shown[0]

    def test_an_api_with_403s_of_its_own_uses_up_nothing(
        self, tmp_path: Path, origin: ApiOrigin, issuer: Issuer
    ) -> None:
        """Not the renewal of a token that was revoked, however many there were, nor the calls that it lets in."""
        origin.answers["/v2/forbidden"] = 403, {}, b"not yours"
        held = secret("secret", clientId="shop", clientSecret="planted")
        with documents(tmp_path, application(oauth(origin, issuer)), held) as gateway:
            for _ in range(12):
                answer = ask(gateway, "/shop/orders/forbidden")
                assert (answer.status, answer.body) == (403, b"not yours")
                assert ask(gateway, "/shop/orders/x").status == 200
            for _ in range(3):
                issuer.revoke()
                assert ask(gateway, "/shop/orders/x", "POST", body=b"{}").status == 200

    def test_a_storm_of_refusals_has_one_renewal_for_each_token_and_fails_no_good_call(
        self, tmp_path: Path, origin: ApiOrigin, issuer: Issuer
    ) -> None:
        origin.answers["/v2/forbidden"] = 403, {}, b"not yours"
        held = secret("secret", clientId="shop", clientSecret="planted")
        with documents(tmp_path, application(oauth(origin, issuer)), held) as gateway:
            assert ask(gateway, "/shop/orders/x").status == 200
            issuer.revoke()
            assert crowd(gateway, "/shop/orders/x", 200) == {200: 200}
            assert issuer.asked == 2
            with calling_on(gateway, "/shop/orders/x") as tally:
                assert {*crowd(gateway, "/shop/orders/forbidden", 200)} <= {401, 403}
                issuer.revoke()
                assert ask(gateway, "/shop/orders/x").status == 200
            assert ([*tally.statuses], tally.lost) == ([200], [])
            assert issuer.asked < 2 + 30, "hundreds are refused: all that come within a second share one"
