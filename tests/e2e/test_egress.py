"""Applications call APIs outside by name, and the gateway brings along what those demand. Real processes throughout."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.clients import LoadCounts, call
from tests.e2e.test_reload import Reloadable
from tests.e2e.test_watched_files import ASKED_ANEW_S
from tests.support.api_origin import ApiOrigin, Demands
from tests.support.certificates import Certificates, server_tls
from tests.support.client import Response
from tests.support.forked import FASTGW, ran
from tests.support.gateway import Gateway, wait_until
from tests.support.issuer import Issuer

SECRET, ROTATED = "planted-secret-1", "planted-secret-2"
TENANT, CLIENT = "planted-tenant", "planted-100"
PLANTED = (SECRET, ROTATED, TENANT, CLIENT)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as serving:
        yield serving


@pytest.fixture
def api(issuer: Issuer) -> Iterator[ApiOrigin]:
    """It demands the token that is live."""
    with ApiOrigin(Demands(authorization=lambda: f"Bearer {issuer.live}")) as serving:
        yield serving


def oauth2(issuer: Issuer, **more: Any) -> dict[str, Any]:
    return {"type": "oauth2", "token_url": issuer.url, "client_id": "app", "client_secret": SECRET, **more}


def gateway_of(folder: Path, services: Mapping[str, Any], workers: int = 2, **listeners: str) -> Gateway:
    """`services`: of the application `shop`. `listeners`: the addressing of each; left out = `main` by path."""
    addressings = listeners or {"main": "path"}
    config = {
        "workers": workers,
        "listeners": {name: {"address": "127.0.0.1:0"} for name in addressings},
        "status": {"address": "127.0.0.1:0"},
        "admin": {"address": "127.0.0.1:0"},
        "egress": {"listeners": addressings, "apps": {"shop": services}},
    }
    return Gateway(config, folder)


def ask(
    gateway: Gateway, target: str, method: str = "GET", fields: str = "", body: bytes = b"", host: str = ""
) -> Response:
    """What one call of an application is answered. `host`: by which it is made, in place of a path."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    head = f"{method} {target} HTTP/1.1\r\nHost: {host or 'gate'}\r\n{fields}{length}Connection: close\r\n\r\n"
    with gateway.connect("hosts" if host else "main") as client:
        return client.exchange(head.encode() + body, method.encode())


def crowd(gateway: Gateway, target: str, count: int) -> Counter[int]:
    with ThreadPoolExecutor(100) as threads:
        return Counter(threads.map(lambda _: ask(gateway, target).status, range(count)))


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


@contextlib.contextmanager
def calling_on(gateway: Gateway, target: str, clients: int = 4) -> Iterator[LoadCounts]:
    """Applications that call again and again, and what became of their calls."""
    counters, over = LoadCounts(), threading.Event()

    async def call_on() -> None:
        going_on = (call(gateway.address(), lambda: not over.is_set(), counters, path=target) for _ in range(clients))
        await asyncio.gather(*going_on)

    calling = threading.Thread(target=lambda: asyncio.run(call_on()))
    calling.start()
    try:
        yield counters
    finally:
        over.set()
        calling.join()


def said(answer: Response) -> dict[str, Any]:
    """The members of a problem."""
    members: dict[str, Any] = json.loads(answer.body)
    return members


def everything_told(gateway: Gateway, file: Path, *targets: str) -> str:
    """All that the gateway tells anybody: logs, explain, check, the admin API, status and metrics."""
    told = gateway.stdout.text() + gateway.stderr.text()
    for target in targets:
        told += ran([FASTGW, "explain", file, "GET", f"http://gate{target}", "--listener", "main"]).stdout
    told += ran([FASTGW, "check", file]).stdout
    admin, status = (f"http://{gateway.ready[name]}" for name in ("admin", "status"))
    paths = [
        path for path in httpx.get(f"{admin}/openapi.json", headers=gateway.shown).json()["paths"] if "{" not in path
    ]
    for path in paths:
        told += httpx.get(f"{admin}{path}", headers=gateway.shown).text
    return told + httpx.get(f"{status}/metrics").text


class TestTheIntegrator:
    """The scenario of the integrator, from beginning to end."""

    def test_as_written(self, tmp_path: Path, issuer: Issuer) -> None:
        (tmp_path / "secret").write_text(SECRET)
        demands = Demands(
            authorization=lambda: f"Bearer {issuer.live}",
            csrf=True,
            fields={"X-Tenant": [TENANT]},
            query=(f"sap-client={CLIENT}",),
        )
        with ApiOrigin(demands) as api:
            orders = {
                "url": f"{api.url}/rest/v2",
                "credentials": oauth2(issuer, client_secret={"file": str(tmp_path / "secret")}),
                "csrf": {"token_url": api.csrf_url},
                "request_parameters": {"headers": {"X-Tenant": [TENANT]}, "query": {"sap-client": [CLIENT]}},
            }
            api.answers["/rest/v2/moved"] = 302, {"Location": f"{api.url}/rest/v2/here?a=b"}, b""
            api.answers["/rest/v2/broken"] = 500, {}, b"what it says"
            with gateway_of(tmp_path, {"orders": orders}, workers=4) as gateway:
                self.four_hundred_calls(gateway, api, issuer)
                self.a_token_is_revoked(gateway, api, issuer)
                self.a_secret_is_rotated(gateway, api, issuer, tmp_path / "secret")
                self.answers_come_back(gateway)
                told = everything_told(gateway, tmp_path / "gateway.json", "/shop/orders/x?y=1", "/shop/nope/x")
                told += str(ask(gateway, "/shop/nope/x").raw)
            told += gateway.stdout.text() + gateway.stderr.text()
            for secret in (*PLANTED, issuer.live, api.csrf_token):
                assert secret not in told

    def four_hundred_calls(self, gateway: Gateway, api: ApiOrigin, issuer: Issuer) -> None:
        assert crowd(gateway, "/shop/orders/basesites/a%2Fb?x=1", 400) == {200: 400}
        assert (issuer.asked, len(api.csrf_calls)) == (1, 1)
        assert {call.target for call in api.calls} == {f"/rest/v2/basesites/a%2Fb?x=1&sap-client={CLIENT}"}
        names = {name.lower() for call in api.calls for name, _ in call.fields}
        assert not {name for name in names if name.startswith("x-forwarded-") or name == "forwarded"}

    def a_token_is_revoked(self, gateway: Gateway, api: ApiOrigin, issuer: Issuer) -> None:
        before, fetched = len(api.calls), issuer.asked
        issuer.revoke()
        assert ask(gateway, "/shop/orders/new", "POST", body=b"{}").status == 200
        assert [(call.method, call.status, call.body_bytes) for call in api.calls[before:]] == [
            ("POST", 401, 2),
            ("POST", 200, 2),
        ]
        assert issuer.asked == fetched + 1

    def a_secret_is_rotated(self, gateway: Gateway, api: ApiOrigin, issuer: Issuer, file: Path) -> None:
        with calling_on(gateway, "/shop/orders/x") as counters:
            file.write_text(ROTATED)
            wait_until(lambda: issuer.questions[-1].client_secret == ROTATED, "it", ASKED_ANEW_S)
            enough = len(api.calls) + 50
            wait_until(lambda: len(api.calls) > enough, "calls after it")
        assert ([*counters.statuses], counters.lost) == ([200], [])

    def answers_come_back(self, gateway: Gateway) -> None:
        assert ask(gateway, "/shop/orders/moved").get(b"Location") == b"http://gate/shop/orders/here?a=b"
        broken = ask(gateway, "/shop/orders/broken")
        assert (broken.status, broken.get(b"Target-System-Status"), broken.body) == (502, b"500", b"what it says")


class TestWhatIsSent:
    """What the API gets of a call."""

    @pytest.mark.parametrize(
        ("target", "sent"),
        [
            ("/shop/orders", "/v2"),
            ("/shop/orders/", "/v2/"),
            ("/shop/orders/a%2Fb", "/v2/a%2Fb"),
            ("/shop/orders/Sets(Key='a',B=1)/$value?$filter=x%20eq%20'1'", None),
            ("/shop/orders//a//b/", "/v2//a//b/"),
            ("/shop/orders/%7Ea", "/v2/%7Ea"),
            ("/shop/orders/x?a=b&a=c&d", "/v2/x?a=b&a=c&d"),
            ("/shop/orders/x?", "/v2/x?"),
        ],
    )
    def test_the_path_arrives_as_it_was_written(self, plain: tuple[Gateway, ApiOrigin], target: str, sent: str) -> None:
        gateway, api = plain
        assert ask(gateway, target).status == 200
        assert api.calls[-1].target == (sent or target.replace("/shop/orders", "/v2"))

    @pytest.mark.landing
    @pytest.mark.parametrize("target", ["/shop/orders/../../x", "/shop/orders/..%2F..%2Fx", "/shop/orders/%2e%2e/x"])
    def test_nothing_leads_out_of_the_api(self, plain: tuple[Gateway, ApiOrigin], target: str) -> None:
        gateway, api = plain
        before = len(api.calls)
        refused = ask(gateway, target)
        assert refused.status in (400, 404)
        assert (said(refused)["code"], said(refused)["error"]) == (refused.status, said(refused)["detail"])
        assert len(api.calls) == before

    @pytest.mark.parametrize("host", ["", "shop-orders"])
    @pytest.mark.parametrize(
        ("method", "target", "fields", "status"),
        [
            ("TRACE", "/shop/orders/x", "", 405),
            ("GET", "/shop/orders/%00", "", 400),
            ("GET", "/shop/orders/x", "no field\r\n", 400),
            ("GET", "/shop/orders/" + "x" * 70_000, "", 414),
            ("GET", "/shop/orders/a//../b", "", 400),
        ],
    )
    def test_what_is_no_call_of_a_service_is_answered_as_one(
        self, plain: tuple[Gateway, ApiOrigin], method: str, target: str, fields: str, status: int, host: str
    ) -> None:
        gateway, _ = plain
        refused = ask(gateway, target, method, fields, host=host)
        assert refused.status == status
        assert (said(refused)["code"], said(refused)["error"]) == (status, said(refused)["detail"])

    @pytest.mark.landing
    def test_a_host_names_the_service_and_nothing_is_cut(self, plain: tuple[Gateway, ApiOrigin]) -> None:
        gateway, api = plain
        answer = ask(gateway, "/a%2Fb//(c)", fields="X-Forwarded-For: 1.2.3.4\r\n", host="shop-orders:8080")
        assert answer.status == 200
        assert api.calls[-1].target == "/v2/a%2Fb//(c)"
        assert api.calls[-1].value("X-Forwarded-For") is None

    def test_without_credentials_the_application_s_own_pass(self, plain: tuple[Gateway, ApiOrigin]) -> None:
        gateway, api = plain
        ask(gateway, "/shop/orders/x", fields="Authorization: Bearer own\r\nX-Forwarded-For: 1.2.3.4\r\n")
        call = api.calls[-1]
        assert (call.value("Authorization"), call.value("X-Forwarded-For")) == ("Bearer own", "1.2.3.4")
        assert call.values("User-Agent") == [""]

    def test_a_token_of_the_application_s_own_takes_the_place_of_any_credentials(
        self, plain: tuple[Gateway, ApiOrigin]
    ) -> None:
        gateway, api = plain
        ask(gateway, "/shop/basic/x", fields="Access-Token: Bearer own\r\n")
        call = api.calls[-1]
        assert (call.values("Authorization"), call.value("Access-Token")) == (["Bearer own"], None)

    @pytest.mark.landing
    def test_credentials_replace_what_the_application_sends(self, plain: tuple[Gateway, ApiOrigin]) -> None:
        gateway, api = plain
        ask(gateway, "/shop/basic/x", fields="Authorization: Bearer own\r\n")
        shown = "Basic " + b64encode(b"user:" + SECRET.encode()).decode()
        assert api.calls[-1].values("Authorization") == [shown]

    @pytest.mark.landing
    def test_what_leads_nowhere_is_told_with_the_names_that_were_used(self, plain: tuple[Gateway, ApiOrigin]) -> None:
        gateway, _ = plain
        unknown = ask(gateway, "/shop/n%22ope/x")
        assert (unknown.status, said(unknown)["error"]) == (404, 'The application "shop" has no service "n%22ope".')
        assert (said(unknown)["code"], said(unknown)["type"]) == (404, "urn:fastgw:fault:route_not_found")
        assert ask(gateway, "/shop").status == 400
        missing = ask(gateway, "/shop/missing/x")
        assert (missing.status, said(missing)["error"]) == (500, "The Secret integration/missing is not there.")

    def test_an_entry_is_called_by_its_name(self, tmp_path: Path, issuer: Issuer) -> None:
        """Each has its own URL and credentials; without a name it is said how it is called."""
        with ApiOrigin() as one, ApiOrigin(Demands(authorization=lambda: f"Bearer {issuer.live}")) as two:
            one.answers["/v1/moved"] = 302, {"Location": f"{one.url}/v1/here"}, b""
            basic = {"type": "basic", "username": "user", "password": SECRET}
            entries = {
                "one": {"url": f"{one.url}/v1", "credentials": basic},
                "two": {"url": f"{two.url}/v2", "credentials": oauth2(issuer)},
            }
            addressings = {"main": "path_with_entry", "other": "path"}
            with gateway_of(tmp_path, {"orders": {"entries": entries}}, **addressings) as gateway:
                assert ask(gateway, "/shop/orders/one/a%2Fb?x=1").status == 200
                assert ask(gateway, "/shop/orders/two/x", "POST", body=b"{}").status == 200
                assert ask(gateway, "/shop/orders/one/moved").get(b"Location") == b"http://gate/shop/orders/one/here"
                assert "no entry" in said(ask(gateway, "/shop/orders"))["error"]
                assert 'no entry "three"' in said(ask(gateway, "/shop/orders/three/x"))["error"]
                with gateway.connect("other") as client:
                    other = client.exchange(b"GET /shop/orders/one/x HTTP/1.1\r\nHost: a\r\n\r\n")
                assert other.status == 400
                assert 'several entries ("one", "two")' in said(other)["error"]
            shown = "Basic " + b64encode(b"user:" + SECRET.encode()).decode()
            assert [(call.target, call.value("Authorization")) for call in one.calls] == [
                ("/v1/a%2Fb?x=1", shown),
                ("/v1/moved", shown),
            ]
            assert [(call.target, call.value("Authorization")) for call in two.calls] == [("/v2/x", "Bearer token-1")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, ApiOrigin]]:
    """Services that need no token, by path and by host."""
    with ApiOrigin() as api:
        services = {
            "orders": {"url": f"{api.url}/v2"},
            "basic": {"url": api.url, "credentials": {"type": "basic", "username": "user", "password": SECRET}},
            "missing": {"url": api.url, "unavailable": "The Secret integration/missing is not there."},
        }
        with gateway_of(tmp_path_factory.mktemp("plain"), services, main="path", hosts="host") as gateway:
            yield gateway, api


class TestTrouble:
    """What other gateways in this place do wrong, each shown not to happen."""

    def test_two_with_one_client_id_and_two_secrets_share_no_token(self, tmp_path: Path, issuer: Issuer) -> None:
        """Tokens are of all that shaped them, not of a URL and a name."""
        services = {}
        with ApiOrigin() as api:
            for name in ("one", "two"):
                services[name] = {"url": api.url, "credentials": oauth2(issuer, client_secret=f"secret-{name}")}
            with gateway_of(tmp_path, services) as gateway:
                for name in ("one", "two", "one", "two"):
                    assert ask(gateway, f"/shop/{name}/x").status == 200
            shown = [call.value("Authorization") for call in api.calls]
        assert len(set(shown)) == 2
        assert shown[:2] == shown[2:]
        assert [question.client_secret for question in issuer.questions] == ["secret-one", "secret-two"]

    def test_two_with_one_csrf_url_and_two_credentials_share_no_csrf_token(self, tmp_path: Path) -> None:
        with ApiOrigin() as api:
            csrf = {"token_url": api.csrf_url}
            services = {
                name: {"url": api.url, "csrf": csrf, "credentials": {"type": "bearer", "token": f"token-{name}"}}
                for name in ("one", "two")
            }
            with gateway_of(tmp_path, services) as gateway:
                for name in ("one", "two", "one", "two"):
                    assert ask(gateway, f"/shop/{name}/x").status == 200
            assert [call.value("Authorization") for call in api.csrf_calls] == ["Bearer token-one", "Bearer token-two"]
            assert [call.value("X-CSRF-Token") for call in api.calls] == ["csrf-1", "csrf-2", "csrf-1", "csrf-2"]

    def test_a_large_body_is_passed_on_while_it_comes(self, tmp_path: Path, issuer: Issuer, api: ApiOrigin) -> None:
        body = bytes(range(256)) * 4096 * 8
        head = f"POST /shop/orders/up HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        orders = {"url": api.url, "credentials": oauth2(issuer)}
        with gateway_of(tmp_path, {"orders": orders}) as gateway, gateway.connect() as client:
            client.send(head + body[: 1 << 20])
            wait_until(lambda: api.received > 1 << 19, "the API to have the beginning")
            client.send(body[1 << 20 :])
            assert client.read_response().status == 200
        (call,) = api.calls
        assert (call.body_bytes, call.body_sha256) == (len(body), hashlib.sha256(body).hexdigest())

    def test_a_body_that_is_not_at_hand_any_more_is_not_sent_again(
        self, tmp_path: Path, issuer: Issuer, api: ApiOrigin
    ) -> None:
        """The application gets the 401 itself; the next call has a fresh token."""
        with gateway_of(tmp_path, {"orders": {"url": api.url, "credentials": oauth2(issuer)}}) as gateway:
            assert ask(gateway, "/shop/orders/x").status == 200
            issuer.revoke()
            assert ask(gateway, "/shop/orders/x", "POST", body=b"x" * 1_200_000).status == 401
            assert [call.method for call in api.calls] == ["GET", "POST"]
            assert ask(gateway, "/shop/orders/x", "POST", body=b"x").status == 200

    def test_of_a_long_body_little_is_kept_whatever_is_answered(
        self, tmp_path: Path, issuer: Issuer, api: ApiOrigin
    ) -> None:
        """Of a GET as well: what cannot be sent again passes, and so does the refusal that comes at its end."""
        length, piece = 64 << 20, bytes(1 << 20)
        orders = {"url": api.url, "credentials": oauth2(issuer)}
        with gateway_of(tmp_path, {"orders": orders}, workers=1) as gateway:
            assert ask(gateway, "/shop/orders/x").status == 200
            (worker,) = gateway.worker_pids
            before = peak_bytes(worker)
            issuer.revoke()
            with gateway.connect() as client:
                client.send(f"GET /shop/orders/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode())
                for _ in range(length // len(piece)):
                    client.send(piece)
                assert client.read_response().status == 401
            assert [(call.status, call.body_bytes) for call in api.calls] == [(200, 0), (401, length)]
            assert peak_bytes(worker) - before < 8 << 20
            assert ask(gateway, "/shop/orders/x").status == 200

    def test_a_second_refusal_goes_to_the_application(self, tmp_path: Path, issuer: Issuer) -> None:
        with ApiOrigin(Demands(authorization=lambda: "Bearer of-somebody-else")) as api:
            with gateway_of(tmp_path, {"orders": {"url": api.url, "credentials": oauth2(issuer)}}) as gateway:
                assert ask(gateway, "/shop/orders/x").status == 401
            assert [call.status for call in api.calls] == [401, 401]

    @pytest.mark.landing
    def test_two_hundred_refused_at_once_fetch_one_token(self, tmp_path: Path, issuer: Issuer, api: ApiOrigin) -> None:
        with gateway_of(tmp_path, {"orders": {"url": api.url, "credentials": oauth2(issuer)}}, workers=4) as gateway:
            assert crowd(gateway, "/shop/orders/x", 8) == {200: 8}
            before = issuer.asked
            issuer.revoke()
            assert crowd(gateway, "/shop/orders/x", 200) == {200: 200}
            assert issuer.asked == before + 1

    def test_a_token_that_expires_is_replaced_while_calls_go_on(self, tmp_path: Path, api: ApiOrigin) -> None:
        """Also where the API has ended it before the gateway would."""
        with Issuer(expires_in=3) as issuer:
            api.demands.authorization = lambda: f"Bearer {issuer.live}"
            with gateway_of(tmp_path, {"orders": {"url": api.url, "credentials": oauth2(issuer)}}) as gateway:
                while issuer.asked < 3:
                    assert ask(gateway, "/shop/orders/x").status == 200

    def test_a_call_ends_when_the_application_leaves(self, tmp_path: Path, issuer: Issuer, api: ApiOrigin) -> None:
        with gateway_of(tmp_path, {"orders": {"url": api.url, "credentials": oauth2(issuer)}}) as gateway:
            with gateway.connect() as client:
                client.send(b"GET /shop/orders/held HTTP/1.1\r\nHost: a\r\n\r\n")
                assert api.held.wait(5)
            assert api.left.wait(5)
            gateway.wait_for_record(status=499)

    def test_an_outage_of_the_token_endpoint_is_told_and_ends(
        self, tmp_path: Path, issuer: Issuer, api: ApiOrigin
    ) -> None:
        credentials = oauth2(issuer)
        with gateway_of(tmp_path, {"orders": {"url": api.url, "credentials": credentials}}) as gateway:
            issuer.fail(500, b"planted-inner-words")
            failed = ask(gateway, "/shop/orders/x")
            assert failed.status in (502, 503)
            assert said(failed)["code"] == failed.status
            assert b"planted" not in failed.raw
            gateway.stderr.wait_for(lambda line: b"for egress/shop/orders: it answers 500" in line)
            metrics = f"http://{gateway.ready['status']}/metrics"
            told = f'fastgw_feed_up{{feed="{issuer.url}",used_by="egress/shop/orders"}} 0'
            wait_until(lambda: told in httpx.get(metrics).text, "the metrics to tell")
            issuer.recover()
            wait_until(lambda: ask(gateway, "/shop/orders/x").status == 200, "it to go on", 10)


class TestReload:
    """Applications come and go while others call."""

    @pytest.mark.landing
    def test_a_file_of_a_team_adds_services_and_no_call_is_lost(self, tmp_path: Path, issuer: Issuer) -> None:
        (tmp_path / "teams").mkdir()

        def team(app: str, *services: str) -> None:
            said = {name: {"url": f"{api.url}/{name}", "credentials": oauth2(issuer)} for name in services}
            (tmp_path / "teams" / f"{app}.json").write_text(json.dumps({"egress": {"apps": {app: said}}}))

        with ApiOrigin(Demands(authorization=lambda: f"Bearer {issuer.live}")) as api:
            team("one", "a")
            config = {"include": ["teams/*.json"], "egress": {"listener": "main"}}
            with Reloadable(config, tmp_path) as gateway, calling_on(gateway, "/one/a/x") as counters:
                assert ask(gateway, "/two/b/x").status == 404
                team("two", "b", "c")
                gateway.reload()
                assert {ask(gateway, f"/two/{name}/x").status for name in "bc"} == {200}
                seen = httpx.get(f"http://{gateway.ready['admin']}/routes", headers=gateway.shown).json()["routes"]
                assert {"egress/one/a", "egress/two/b", "egress/two/c"} <= {route["name"] for route in seen}
                (tmp_path / "teams" / "two.json").unlink()
                gateway.reload()
                assert ask(gateway, "/two/b/x").status == 404
            assert ([*counters.statuses], counters.lost) == ([200], [])
            assert issuer.asked == 1  # what has not changed goes on with the token that it has

    @pytest.mark.parametrize(
        ("contents", "why"),
        [
            (b"a:b", "(RFC 7617) ({file})"),
            (b"\n", "{file} is empty"),
            (b"\xff", "{file} is not UTF-8"),
        ],
    )
    def test_a_secret_that_cannot_be_shown_harms_no_other(self, tmp_path: Path, contents: bytes, why: str) -> None:
        """Not at the start either; and once it was good, what spoils it is not taken."""
        file = tmp_path / "username"
        file.write_bytes(contents)
        basic = {"type": "basic", "username": {"file": str(file)}, "password": SECRET}
        with ApiOrigin() as api:
            services = {"basic": {"url": api.url, "credentials": basic}, "plain": {"url": api.url}}
            with gateway_of(tmp_path, services) as gateway:
                refused = ask(gateway, "/shop/basic/x")
                assert (refused.status, said(refused)["code"]) == (500, 500)
                assert str(said(refused)["error"]).endswith(why.format(file=file))
                assert ask(gateway, "/shop/plain/x").status == 200
                gateway.stderr.wait_for(
                    lambda line: f"{why.format(file=file)}: calls are answered 500".encode() in line
                )
                file.write_text("mended")
                wait_until(lambda: ask(gateway, "/shop/basic/x").status == 200, "it to be mended", ASKED_ANEW_S)
                file.write_bytes(contents)
                gateway.stderr.wait_for(lambda line: b"stay active" in line and str(file).encode() in line)
                assert ask(gateway, "/shop/basic/x").status == 200
            assert api.calls[-1].value("Authorization") == "Basic " + b64encode(f"mended:{SECRET}".encode()).decode()


class TestTls:
    """How APIs, and token endpoints, are spoken to."""

    @pytest.mark.landing
    def test_each_service_has_its_own_authority_and_certificate(self, tmp_path: Path) -> None:
        for name in ("ours", "theirs"):
            (tmp_path / name).mkdir()
        ours, theirs = Certificates(tmp_path / "ours"), Certificates(tmp_path / "theirs")
        certificate, key = ours.issue("gateway.client")
        asking, silent = server_tls(ours.issue("127.0.0.1"), ours.ca), server_tls(theirs.issue("127.0.0.1"))
        with ApiOrigin(tls=asking) as api, ApiOrigin(tls=silent) as other:
            credentials = {"type": "certificate", "certificate": certificate, "key": key}
            services = {
                "shown": {"url": api.url, "tls": {"ca": ours.ca}, "credentials": credentials},
                "other": {"url": other.url, "tls": {"ca": theirs.ca}},
                "wrong": {"url": other.url, "tls": {"ca": ours.ca}},
                "unverified": {"url": other.url, "tls": {"verify": False}},
            }
            with gateway_of(tmp_path, services) as gateway:
                statuses = {name: ask(gateway, f"/shop/{name}/x").status for name in services}
                assert "is not verified" in gateway.stderr.text()
            assert statuses == {"shown": 200, "other": 200, "wrong": 502, "unverified": 200}
            assert ("DNS", "gateway.client") in api.calls[-1].certificate["subjectAltName"]

    def test_a_token_that_is_refused_is_renewed_there_too(self, tmp_path: Path, issuer: Issuer) -> None:
        ours = Certificates(tmp_path)
        tls = server_tls(ours.issue("127.0.0.1"))
        with ApiOrigin(Demands(authorization=lambda: f"Bearer {issuer.live}"), tls) as api:
            orders = {"url": api.url, "tls": {"ca": ours.ca}, "credentials": oauth2(issuer)}
            with gateway_of(tmp_path, {"orders": orders}) as gateway:
                assert ask(gateway, "/shop/orders/x").status == 200
                issuer.revoke()
                assert ask(gateway, "/shop/orders/x", "POST", body=b"again").status == 200
            sent = [(call.method, call.status, call.body_bytes) for call in api.calls]
            assert sent == [("GET", 200, 0), ("POST", 401, 5), ("POST", 200, 5)]
            assert issuer.asked == 2

    def test_a_token_is_had_by_a_certificate(self, tmp_path: Path) -> None:
        ours = Certificates(tmp_path)
        certificate, key = ours.issue("gateway.client")
        token = json.dumps({"access_token": "by-certificate", "expires_in": 60}).encode()
        with ApiOrigin(tls=server_tls(ours.issue("127.0.0.1"), ours.ca)) as idp, ApiOrigin() as api:
            idp.answers["/token"] = 200, {"Content-Type": "application/json"}, token
            credentials = {
                "type": "oauth2_mtls",
                "token_url": f"{idp.url}/token",
                "client_id": "app",
                "certificate": certificate,
                "key": key,
                "token_tls": {"ca": ours.ca},
            }
            with gateway_of(tmp_path, {"orders": {"url": api.url, "credentials": credentials}}) as gateway:
                assert ask(gateway, "/shop/orders/x").status == 200
            assert api.calls[-1].value("Authorization") == "Bearer by-certificate"
            assert ("DNS", "gateway.client") in idp.calls[-1].certificate["subjectAltName"]
