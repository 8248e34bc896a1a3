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
    folder: Path,
    *objects: Json,
    listeners: dict[str, str] | None = None,
    egress: dict[str, Any] | None = None,
    workers: int = 2,
    **provider: Any,
) -> Iterator[Gateway]:
    """A gateway with these documents; applications call at `main`, by path unless `listeners` says otherwise."""
    (folder / "apps").mkdir()
    put(folder / "apps" / "all.yaml", stream(*objects))
    addressings = listeners or {"main": "path"}
    config = {
        "workers": workers,
        "listeners": {name: {"address": "127.0.0.1:0"} for name in addressings},
        "status": {"address": "127.0.0.1:0"},
        "admin": {"address": "127.0.0.1:0"},
        "egress": {"listeners": addressings, **(egress or {})},
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

    @pytest.mark.landing
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
            ((200, b"<html>"), "token_unavailable"),
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

    @pytest.mark.landing
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

    @pytest.mark.landing
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
        with documents(tmp_path, application(oauth(origin, issuer)), held, workers=1) as gateway:
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
            with calling_on(gateway, "/shop/orders/x") as counters:
                assert {*crowd(gateway, "/shop/orders/forbidden", 200)} <= {401, 403}
                issuer.revoke()
                assert ask(gateway, "/shop/orders/x").status == 200
            assert ([*counters.statuses], counters.lost) == ([200], [])
            assert issuer.asked < 2 + 30, "hundreds are refused: all that come within a second share one"


NAME_OF = {"/v2": "shop", "/v2/": "closed", "": "bare", "/": "root"}
"""Path of an API's URL -> name of the application that calls it."""


@pytest.fixture(scope="class")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, ApiOrigin]]:
    """A gateway with an application for each path, whose service `orders` has one entry."""
    with ApiOrigin() as origin:
        apps = [application(service("orders", api(f"{origin.url}{base}")), name=name) for base, name in NAME_OF.items()]
        with documents(tmp_path_factory.mktemp("alone"), *apps) as gateway:
            yield gateway, origin


class TestTheWayToTheApi:
    """What an API gets, and what comes back of it."""

    @pytest.mark.parametrize(
        ("base", "target", "sent"),
        [
            ("/v2", "/shop/orders", "/v2"),
            ("/v2", "/shop/orders?x=1", "/v2?x=1"),
            ("/v2", "/shop/orders/", "/v2/"),
            ("/v2", "/shop/%6Frders", "/v2"),
            ("/v2/", "/shop/orders", "/v2/"),
            ("/v2/", "/shop/orders/x", "/v2/x"),
            ("", "/shop/orders", "/"),
            ("/", "/shop/orders", "/"),
            ("", "/shop/orders?x", "/?x"),
        ],
    )
    def test_a_service_alone_is_its_url(
        self, alone: tuple[Gateway, ApiOrigin], base: str, target: str, sent: str
    ) -> None:
        gateway, origin = alone
        assert ask(gateway, target.replace("/shop/", f"/{NAME_OF[base]}/")).status == 200
        assert origin.calls[-1].target == sent

    def test_a_query_in_target_url_comes_first_and_both_values_go(
        self, origin_of_all: ApiOrigin, tmp_path: Path
    ) -> None:
        entry = api(f"{origin_of_all.url}/v2?a=1&sap-client=100&flag", requestParametersSecretName="more")
        held = secret("more", queryParameters='{"a": ["9"], "b": ["2"]}')
        with documents(tmp_path, application(service("orders", entry)), held) as gateway:
            for target in ("/shop/orders/x?a=3&c", "/shop/orders/x", "/shop/orders?", "/shop/orders/y?b=5"):
                assert ask(gateway, target).status == 200
        assert [call.target for call in origin_of_all.calls[-4:]] == [
            "/v2/x?a=1&sap-client=100&flag&a=3&c&b=2",
            "/v2/x?a=1&sap-client=100&flag&b=2",
            "/v2?a=1&sap-client=100&flag&b=2",
            "/v2/y?a=1&sap-client=100&flag&b=5",
        ]

    def test_a_location_of_another_port_or_scheme_of_the_host_is_the_gateways(
        self, origin_of_all: ApiOrigin, tmp_path: Path
    ) -> None:
        origin_of_all.answers["/v2/moved"] = 302, {"Location": "https://127.0.0.1:9/v2/here?a=b"}, b""
        origin_of_all.answers["/v2/away"] = 302, {"Location": "https://127.0.0.2/v2/here"}, b""
        origin_of_all.answers["/v2/out"] = 302, {"Location": "http://127.0.0.1:1/v3/here"}, b""
        app = application(service("orders", api(f"{origin_of_all.url}/v2", name="main")))
        forms = {"main": "path", "entries": "path_with_entry", "hosts": "host"}
        with documents(tmp_path, app, listeners=forms) as gateway:
            assert ask(gateway, "/shop/orders/moved").get(b"Location") == b"http://gate/shop/orders/here?a=b"
            assert ask(gateway, "/shop/orders/away").get(b"Location") == b"https://127.0.0.2/v2/here"
            assert ask(gateway, "/shop/orders/out").get(b"Location") == b"http://127.0.0.1:1/v3/here"
            host = "shop-id-of-orders"
            assert ask(gateway, "/moved", host=host).get(b"Location") == f"http://{host}/here?a=b".encode()
            with gateway.connect("entries") as client:
                answer = client.exchange(b"GET /shop/orders/main/moved HTTP/1.1\r\nHost: a\r\n\r\n")
            assert answer.get(b"Location") == b"http://a/shop/orders/main/here?a=b"

    @pytest.mark.parametrize("via", ["on", "off", None])
    def test_without_a_via_of_the_gateways(self, origin_of_all: ApiOrigin, tmp_path: Path, via: str | None) -> None:
        origin_of_all.answers["/long"] = 200, {}, b"x" * 200_000
        app = application(service("orders", api(origin_of_all.url)))
        more = {} if via is None else {"via": via}
        with documents(tmp_path, app, egress=more) as gateway:
            for method, path, body in ("GET", "x", b""), ("POST", "x", b"{}"), ("GET", "long", b""):
                answer = ask(gateway, f"/shop/orders/{path}", method, "Via: 1.1 sidecar\r\n", body)
                ours = ["1.1 fastgw"] if via == "on" else []
                assert origin_of_all.calls[-1].values("Via") == ["1.1 sidecar", *ours]
                assert answer.get_all(b"Via") == [each.encode() for each in ours]

    @pytest.mark.parametrize(
        ("size", "limit", "status"), [(1 << 20, None, 200), (1_100_000, None, 401), (90_000, "64KiB", 401)]
    )
    def test_bodies_up_to_a_mebibyte_are_kept_for_the_second_try(
        self, tmp_path: Path, origin: ApiOrigin, issuer: Issuer, size: int, limit: str | None, status: int
    ) -> None:
        held = secret("secret", clientId="shop", clientSecret="planted")
        more = {} if limit is None else {"defaults": {"retries": {"body_bytes": limit}}}
        with documents(tmp_path, application(oauth(origin, issuer)), held, **more) as gateway:
            assert ask(gateway, "/shop/orders/x").status == 200
            issuer.revoke()
            assert ask(gateway, "/shop/orders/x", "POST", body=b"x" * size).status == status
        sent = [(call.status, call.body_bytes) for call in origin.calls[1:]]
        assert sent == ([(401, size), (200, size)] if status == 200 else [(401, size)])

    def test_the_defaults_of_the_provider_are_those_of_its_services(
        self, origin_of_all: ApiOrigin, tmp_path: Path
    ) -> None:
        origin_of_all.open.clear()
        defaults = {
            "timeouts": {"response_headers": "100ms"},
            "filters": {"headers": {"request": {"set": {"X-Set": "1"}}}, "target_errors": None},
        }
        origin_of_all.answers["/broken"] = 500, {}, b""
        app = application(service("orders", api(origin_of_all.url)))
        with documents(tmp_path, app, defaults=defaults) as gateway:
            assert ask(gateway, "/shop/orders/broken").status == 500
            assert origin_of_all.calls[-1].values("X-Set") == ["1"]
            assert ask(gateway, "/shop/orders/held").status == 504
            origin_of_all.open.set()


class TestWhatCannotBeCalled:
    """What an application is told."""

    def test_which_api_is_meant_is_not_guessed(self, origin_of_all: ApiOrigin, tmp_path: Path) -> None:
        url = origin_of_all.url
        app = application(
            service("several", api(url, name="a"), api(url, name="b")),
            service("Twice!", api(url)),
            service("twice", api(url)) | {"id": "other"},
        )
        with documents(tmp_path, app, listeners={"main": "path", "hosts": "host"}) as gateway:
            several = ask(gateway, "/shop/several/x")
            assert (several.status, said(several)["code"]) == (400, 400)
            assert 'several entries ("a", "b")' in said(several)["error"]
            twice = ask(gateway, "/shop/twice/x")
            assert twice.status == 400
            assert all(f'of the service "{name}"' in said(twice)["error"] for name in ("Twice!", "twice"))
        assert origin_of_all.calls == []

    def test_what_is_wrong_with_credentials_is_named(self, origin_of_all: ApiOrigin, tmp_path: Path) -> None:
        url = origin_of_all.url
        app = application(
            service("unknown", api(url, credentials=credentials("Basci"))),
            service("missing", api(url, credentials=credentials("Basic", "not-there"))),
            service("plain", api(url)),
        )
        with documents(tmp_path, app, secret("secret", username="me", password="planted")) as gateway:
            unknown, missing = ask(gateway, "/shop/unknown/x"), ask(gateway, "/shop/missing/x")
            assert (unknown.status, missing.status) == (500, 500)
            why = "spec.services[0].entries[0].credentials.type of the Application shop cannot be used: it is unknown"
            assert said(unknown)["error"].startswith(why)
            assert said(missing)["error"] == "the Secret kyma-system/not-there is missing"
            assert ask(gateway, "/shop/plain/x").status == 200
            assert b"planted" not in unknown.raw + missing.raw + gateway.stderr.text().encode()


@pytest.fixture
def origin_of_all() -> Iterator[ApiOrigin]:
    """It demands nothing."""
    with ApiOrigin() as serving:
        yield serving
