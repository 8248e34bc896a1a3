"""Credentials of the gateway's own, as an API meets them: what it refuses is shown anew, once; nobody else sees it."""

from __future__ import annotations

import json
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_origin import ApiOrigin
from tests.support.client import Response
from tests.support.gateway import Gateway, wait_until
from tests.support.issuer import Issuer, Question
from tests.support.origin import OK, Origin
from tests.support.peer import DEADLINE

SECRET = "planted-8f1c"
X_CSRF = b"X-CSRF-Token"
WEBSOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"


class Api(Issuer):
    """An API with a route of its own for each kind of credential, which are good as long as the test says so.

    `/token/…`, `/outage/…` and so on demand the live token of the issuer of that name; `/csrf/…` also a live
    `X-CSRF-Token` with its cookie, which it hands out at `/csrf`; `/basic/…` the `password`; nothing is good enough for
    `/never/…`. `?slow`: it holds its answer back.
    """

    def __init__(self, issuers: Mapping[str, Issuer]) -> None:
        super().__init__()
        self.issuers = issuers
        self.answer = self.judge
        self.handed_out = 0
        self.password = "one"
        self.slow, self.arrived = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def judge(self, question: Question) -> tuple[int, Mapping[str, str], bytes]:
        kind = question.path.split("/")[1]
        shown = question.fields.get("Authorization", "")
        fields: dict[str, str] = {}
        if question.query == "slow":
            self.arrived.set()
            self.slow.wait(DEADLINE)
        if kind == "basic":
            good = shown == f"Basic {b64encode(f'shop:{self.password}'.encode()).decode()}"
        elif kind == "moved":
            return 302, {"Location": f"{self.url}/elsewhere"}, b""
        else:
            good = shown == f"Bearer {self.issuers[kind].live}" and kind != "never"
        if good and kind == "csrf":
            if question.fields.get("X-CSRF-Token") == "fetch":
                self.handed_out += 1
                return (
                    200,
                    {"X-CSRF-Token": f"csrf-{self.handed_out}", "Set-Cookie": f"sid={self.handed_out}; Path=/"},
                    b"",
                )
            cookies = question.fields.get("Cookie", "").split("; ")
            good = (
                question.fields.get("X-CSRF-Token") == f"csrf-{self.handed_out}" and f"sid={self.handed_out}" in cookies
            )
            fields = {} if good else {"X-CSRF-Token": "Required"}
            return (200 if good else 403), fields, question.fields.get("Cookie", "").encode()
        said = json.dumps([question.method, question.form, question.path, question.query])
        return (200, fields, said.encode()) if good else (401, {"WWW-Authenticate": "Bearer"}, b"not good")

    def asked_for(self, path: str) -> list[Question]:
        return [question for question in self.questions if question.path == path]


class World:
    """A gateway in front of an API, which has a token endpoint, and of others whom nothing concerns."""

    def __init__(self, folder: Path, issuers: Mapping[str, Issuer], api: Api, other: Origin, dead: str) -> None:
        self.issuers, self.api, self.other = issuers, api, other
        self.issuer = issuers["token"]
        self.password = folder / "password"
        self.password.write_text("one")
        oauth2 = {
            name: {"token_url": issuer.url, "client_id": "app", "client_secret": SECRET}
            for name, issuer in issuers.items()
        }
        basic = {"username": "shop", "password": {"file": str(self.password)}}
        csrf = {"token_url": f"{api.url}/csrf"}
        shown: dict[str, dict[str, Any]] = {
            "token": {"oauth2": oauth2["token"], "access_token_header": "Access-Token"},
            "csrf": {"oauth2": oauth2["csrf"], "csrf": csrf},
            "basic": {"basic": basic},
            "never": {"oauth2": oauth2["never"]},
            "moved": {"oauth2": oauth2["moved"]},
            "outage": {"oauth2": oauth2["outage"]},
        }
        routes = [
            {"name": name, "paths": [f"/{name}/*"], "upstream": "api", "filters": {"credentials": settings}}
            for name, settings in shown.items()
        ]
        both = {
            "credentials": {"oauth2": oauth2["csrf"], "csrf": csrf},
            "request_parameters": {"query": {"key": SECRET}},
        }
        routes += [
            {"name": "mirrored", "paths": ["/csrf/mirrored"], "upstream": "api"}
            | {"filters": {**both, "mirror": {"upstream": "other"}}},
            {
                "name": "away",
                "paths": ["/away"],
                "upstream": "dead",
                "fallback": {"upstream": "other"},
                "filters": both,
            },
            {"name": "socket", "paths": ["/socket"], "upstream": "other", "upgrade": ["websocket"]}
            | {"filters": {"credentials": {"oauth2": oauth2["token"]}}},
        ]
        targets = {"api": [api.url], "other": [other.url], "dead": [dead]}
        config = {
            "workers": 2,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {
                name: {"targets": [{"url": url} for url in urls], "timeouts": {"connect": "2s"}}
                for name, urls in targets.items()
            },
            "routes": routes,
        }
        self.gateway = Gateway(config, folder)

    def ask(self, path: str, *fields: str, method: str = "GET", body: bytes = b"") -> Response:
        if body:
            fields = (*fields, "Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}")
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: api", "Connection: close", *fields, "", ""])
        with self.gateway.connect() as client:
            response: Response = client.exchange(head.encode() + body)
        return response

    def revoke(self, name: str = "token") -> None:
        """Another client gets a token, and the gateway's is none any more."""
        self.issuers[name].issue(Question("POST", "/token", "", {}, {}))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("gateway")
    with ExitStack() as stack:
        issuers = {name: stack.enter_context(Issuer()) for name in ("token", "csrf", "never", "moved", "outage")}
        api, other = stack.enter_context(Api(issuers)), stack.enter_context(Origin())
        held = stack.enter_context(socket.socket())  # bound, and nobody listens
        held.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{held.getsockname()[1]}"
        world = World(folder, issuers, api, other, dead)
        with world.gateway:
            yield world
        told = world.gateway.stderr.text() + json.dumps(world.gateway.records)
        assert SECRET not in told
        assert not any(f"token-{number}" in told for number in range(1, 99))


@pytest.mark.landing
def test_a_token_that_is_refused_is_fetched_anew_and_the_request_sent_once_more(world: World) -> None:
    """With its body, though it is a POST: what answers 401 has not acted on it."""
    assert world.ask("/token/a").status == 200
    asked = world.issuer.asked
    world.revoke()
    answer = world.ask("/token/b", "Authorization: Bearer own", method="POST", body=b"payload=1")
    assert answer.status == 200
    assert json.loads(answer.body) == ["POST", {"payload": ["1"]}, "/token/b", ""]
    assert world.issuer.asked == asked + 1
    first, second = world.api.asked_for("/token/b")
    assert first.form == second.form
    assert second.fields["Authorization"] == f"Bearer {world.issuer.live}" != first.fields["Authorization"]
    assert world.gateway.wait_for_record(path="/token/b")["retries"] == 1
    assert world.ask("/token/c").status == 200
    assert len(world.api.asked_for("/token/c")) == 1


@pytest.mark.landing
def test_a_crowd_that_is_refused_has_one_token_fetched(world: World) -> None:
    assert world.ask("/token/crowd").status == 200
    asked = world.issuer.asked
    world.revoke()
    with ThreadPoolExecutor(32) as threads:
        answers = [each.status for each in threads.map(lambda _: world.ask("/token/crowd"), range(200))]
    assert answers == [200] * 200
    assert world.issuer.asked == asked + 1


@pytest.mark.landing
def test_a_second_refusal_is_the_clients(world: World) -> None:
    answer = world.ask("/never/a", method="POST", body=b"a=1")
    assert (answer.status, answer.body, answer.get(b"WWW-Authenticate")) == (401, b"not good", b"Bearer")
    assert len(world.api.asked_for("/never/a")) == 2


def test_what_cannot_be_sent_again_is_not_and_the_refusal_is_the_clients(world: World) -> None:
    """A body that is longer than what is kept of one (`retries.body_bytes`). A token is fetched for those behind it."""
    assert world.ask("/token/a").status == 200
    world.revoke()
    asked = world.issuer.asked
    answer = world.ask("/token/long", method="POST", body=b"a=" + bytes(200_000).replace(b"\0", b"x"))
    assert (answer.status, answer.body) == (401, b"not good")
    assert len(world.api.asked_for("/token/long")) == 1
    wait_until(lambda: world.issuer.asked == asked + 1, "a token is fetched though nobody asks for it")
    assert world.ask("/token/after").status == 200
    assert world.issuer.asked == asked + 1


def test_a_token_of_the_clients_own_is_its_own_to_renew(world: World) -> None:
    asked = world.issuer.asked
    answer = world.ask("/token/own", "Access-Token: Bearer own")
    assert (answer.status, answer.body) == (401, b"not good")
    (question,) = world.api.asked_for("/token/own")
    assert question.fields["Authorization"] == "Bearer own"
    assert "Access-Token" not in question.fields
    assert world.issuer.asked == asked


@pytest.mark.landing
def test_a_token_against_forged_requests_is_had_anew_when_it_is_refused(world: World) -> None:
    """With its cookie in the place of the old one; those of the client stay."""
    assert world.ask("/csrf/a", "Cookie: theme=dark", method="POST", body=b"a=1").status == 200
    handed_out = world.api.handed_out
    world.api.handed_out += 1  # as if the API had begun a new session
    answer = world.ask("/csrf/b", "Cookie: theme=dark; sid=own", "X-CSRF-Token: own", method="POST", body=b"a=1")
    assert (answer.status, answer.body) == (200, b"theme=dark; sid=%d" % (handed_out + 2))
    assert X_CSRF not in answer
    first, second = world.api.asked_for("/csrf/b")
    assert (first.fields["X-CSRF-Token"], second.fields["X-CSRF-Token"]) == (
        f"csrf-{handed_out}",
        f"csrf-{handed_out + 2}",
    )
    assert first.fields["Cookie"] == f"theme=dark; sid={handed_out}"


def test_a_secret_that_is_rotated_while_a_request_is_under_way(world: World) -> None:
    """It was sent with the old one, and is sent once more with the one that has come since."""
    assert world.ask("/basic/a").status == 200
    with ThreadPoolExecutor(1) as threads:
        under_way = threads.submit(world.ask, "/basic/b?slow", method="POST", body=b"a=1")
        assert world.api.arrived.wait(DEADLINE)
        world.password.write_text("two")
        world.api.password = "two"
        shown = "the new password is shown by both workers"
        wait_until(lambda: all(world.ask("/basic/c").status == 200 for _ in range(16)), shown)
        world.api.slow.set()
        answer = under_way.result(DEADLINE)
    assert answer.status == 200
    assert len(world.api.asked_for("/basic/b")) == 2


@pytest.mark.landing
def test_a_redirect_is_passed_on_and_not_followed(world: World) -> None:
    answer = world.ask("/moved/a")
    assert (answer.status, answer.get(b"Location")) == (302, b"http://api/elsewhere")  # the client's own origin
    assert world.api.asked_for("/elsewhere") == []


@pytest.mark.landing
def test_a_mirror_gets_no_credentials(world: World) -> None:
    answer = world.ask("/csrf/mirrored?b=c", "Cookie: theme=dark")
    assert answer.status == 200
    assert [question.query for question in world.api.asked_for("/csrf/mirrored")] == [f"b=c&key={SECRET}"]
    with world.other.accept() as connection:
        copy = connection.read_request()
        connection.send(OK)
    assert copy.request_target == b"/csrf/mirrored?b=c"
    assert copy.get(b"Cookie") == b"theme=dark"
    assert b"Authorization" not in copy
    assert X_CSRF not in copy


@pytest.mark.landing
def test_another_upstream_gets_no_credentials(world: World) -> None:
    """Neither the gateway's, nor what the client would have shown the first one."""
    with world.gateway.connect() as client:
        client.send(b"GET /away?b=c HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer own\r\nCookie: theme=dark\r\n\r\n")
        with world.other.accept() as connection:
            request = connection.read_request()
            connection.send(OK)
        assert client.read_response().status == 200
    assert request.request_target == b"/away?b=c"
    assert request.get(b"Cookie") == b"theme=dark"
    assert b"Authorization" not in request
    assert X_CSRF not in request


@pytest.mark.landing
def test_a_websocket_begins_with_credentials(world: World) -> None:
    with world.gateway.connect() as client:
        client.send(f"GET /socket HTTP/1.1\r\nHost: api\r\n{WEBSOCKET}Authorization: Bearer own\r\n\r\n".encode())
        with world.other.accept() as connection:
            request = connection.read_request_head()
            assert request.get_all(b"Authorization") == [f"Bearer {world.issuer.live}".encode()]
            connection.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"
            )
            assert client.read_head().start_line.startswith(b"HTTP/1.1 101 ")
            assert client.read_exactly(5) == b"hello"
            client.send(b"bytes")
            assert connection.read_exactly(5) == b"bytes"


def test_where_nothing_newer_can_be_had_the_refusal_is_the_clients(world: World) -> None:
    assert world.ask("/outage/a").status == 200
    world.revoke("outage")
    world.issuers["outage"].fail(503)
    answer = world.ask("/outage/b")
    assert (answer.status, answer.body) == (401, b"not good")
    assert len(world.api.asked_for("/outage/b")) == 1
    assert "503" in world.gateway.wait_for_record(path="/outage/b")["fault_detail"]
    world.issuers["outage"].recover()
    wait_until(lambda: world.ask("/outage/a").status == 200, "a token can be had again")


def test_a_hedged_request_shows_the_same_credentials_and_is_renewed_as_one(tmp_path: Path) -> None:
    """Of two targets one answers slowly. A refusal of either is answered with one token for both."""
    with Issuer() as issuer, ApiOrigin() as slow, ApiOrigin() as quick:
        for origin in (slow, quick):
            origin.demands.authorization = lambda: f"Bearer {issuer.live}"
        quick.answers["/held"] = 200, {}, b"quick"
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {
                "api": {
                    "targets": [{"url": slow.url}, {"url": quick.url}],
                    "hedge": {"after": "50ms"},
                    "retries": {"budget": "100%"},
                }
            },
            "routes": [
                {
                    "name": "api",
                    "upstream": "api",
                    "filters": {
                        "credentials": {
                            "oauth2": {"token_url": issuer.url, "client_id": "app", "client_secret": SECRET},
                        }
                    },
                }
            ],
        }
        with Gateway(config, tmp_path) as gateway:

            def held() -> bytes:
                with gateway.connect() as client:
                    return bytes(client.exchange(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n").body)

            assert {held() for _ in range(4)} == {b"quick"}
            assert len(slow.calls) >= 2
            assert {call.value("Authorization") for call in (*slow.calls, *quick.calls)} == {"Bearer token-1"}
            assert issuer.asked == 1
            issuer.revoke()
            assert {held() for _ in range(4)} == {b"quick"}
            assert issuer.asked == 2
            slow.open.set()


def test_the_example_adds_oauth_for_an_application_that_knows_nothing_of_it(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "examples" / "oauth.yaml").read_text()
    with Issuer() as issuer, Api({"v2": issuer}) as api:
        moved = {
            "https://api.example.com": api.url,
            "https://login.example.com/oauth2/token": issuer.url,
            "127.0.0.1:8080": "127.0.0.1:0",
        }
        for before, after in moved.items():
            assert before in text
            text = text.replace(before, after)
        with Gateway(text, tmp_path) as gateway, gateway.connect("app") as client:
            answer = client.exchange(b"GET /orders/7?lang=de HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        assert (answer.status, json.loads(answer.body)[2:]) == (200, ["/v2/orders/7", "lang=de&api-version=2024-10-01"])
        (asked,) = issuer.questions
        assert asked.form == {"grant_type": ["client_credentials"], "scope": ["orders.read orders.write"]}
        shown = b64encode(b"legacy-app:of-the-legacy-app").decode()
        assert asked.fields["Authorization"] == f"Basic {shown}"
        (question,) = api.questions
        assert question.fields["Authorization"] == f"Bearer {issuer.live}"
        assert question.fields["X-Tenant"] == "t1"
        assert not any(name.startswith("X-Forwarded") for name in question.fields)
