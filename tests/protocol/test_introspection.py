"""introspection: opaque tokens, each of which the authorization server is asked about, once."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from fastgw.filters.authentication.bearer import LONGEST
from tests.support.client import Response
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway, wait_until
from tests.support.lanes import Kind, Lane, Lanes
from tests.support.origin import Origin, OriginConnection, Request, Step, close, reset
from tests.support.peer import DEADLINE
from tests.support.redis_server import PASSWORD, RedisServer

SECRET = "the secret / of the gateway"
ISSUER = "https://as.test"


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


class Server:
    """An authorization server. `tokens`: what it says of each that is active."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self.raw: dict[str, bytes] = {}
        """What is said in place of what should be, as it is."""
        self.steps: tuple[Step, ...] | None = None
        """What happens in place of any answer."""
        self.before: threading.Event | None = None
        self.origin = Origin()
        self.origin.answer(self._play)
        self.origin.serve()

    def _play(self, connection: OriginConnection) -> None:
        steps = self.steps or (self._answer(self.asked()),)
        if self.before is not None:
            assert self.before.wait(DEADLINE)
        for step in steps:
            if isinstance(step, bytes):
                connection.send(step)
            else:
                assert callable(step)
                step(connection)

    def _answer(self, request: Request) -> bytes:
        (token,) = parse_qs(request.body.decode())["token"]
        if token in self.raw:
            return answer(self.raw[token])
        claims = self.tokens.get(token)
        return answer(json.dumps({"active": False} if claims is None else {"active": True, **claims}).encode())

    @property
    def questions(self) -> int:
        return len(self.origin.requests)

    def asked(self) -> Request:
        return self.origin.requests[-1]

    def knows(self, token: str, **claims: Any) -> bytes:
        """Let a token be active. Gives the field that shows it."""
        self.tokens[token] = claims
        return shown(token)


def shown(token: str) -> bytes:
    return f"Authorization: Bearer {token}\r\n".encode()


class World:
    def __init__(self, directory: Path) -> None:
        self.server = Server()
        away = Origin()

        def kind(**settings: Any) -> Kind:
            common = {
                "url": f"{self.server.origin.url}/introspect?a=b",
                "client_id": "gate:way",
                "client_secret": SECRET,
            }
            told = {"X-Sub": "{claims.sub}", "X-Consumer": "{consumer.name}", "X-Groups": "{consumer.groups}"}
            filters = {"introspection": {**common, **settings}, "headers": {"request": {"set": told}}}
            return Kind(route={"filters": filters})

        self.lanes = Lanes(
            directory,
            {
                "plain": kind(cache={"negative_ttl": "1h", "ttl": "1h"}, leeway="30s"),
                "post": kind(client_auth="post", hide_credentials=True),
                "strict": kind(issuer=ISSUER, audiences=["api", "other"], scopes=["read", "write"], realm="the api"),
                "required": kind(required_claims=["sub", "user.id"]),
                "forgetful": kind(cache={"ttl": 0, "negative_ttl": 0}),
                "hasty": kind(timeout="100ms"),
                "ruled": kind(
                    claim_rules=[{"claim": "user.role", "any_of": ["admin"]}], claims_to_headers={"user.id": "X-User"}
                ),
                "away": kind(url=away.url),
                "small": kind(cache={"entries": 1}),
                "bounded": kind(max_pending=8),
            },
            count=3,
            settings={"consumers": [{"name": "ann", "groups": ["staff"], "jwt": [{"issuer": ISSUER, "subject": "7"}]}]},
        )
        away.stop()

    def stop(self) -> None:
        self.lanes.stop()
        self.server.origin.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("introspection"))
    yield world
    world.stop()


@pytest.fixture
def server(world: World) -> Iterator[Server]:
    yield world.server
    world.server.steps = world.server.before = None


@pytest.fixture
def take(world: World) -> Iterator[Callable[[str], Lane]]:
    taken: list[Lane] = []

    def take(kind: str = "plain") -> Lane:
        taken.append(world.lanes.take(kind))
        return taken[-1]

    yield take
    for lane in taken:
        lane.end()


Take = Callable[..., Lane]


def refused(lane: Lane, fields: bytes, *faults: str) -> Response:
    client = lane.client()
    client.send(lane.get(fields=fields))
    response = client.read_response()
    assert_fault(response, *faults)
    lane.origin.assert_no_further_connection()
    for connection in lane.origin.connections:
        connection.assert_nothing_unread()
    return response


def test_a_good_token_passes_and_says_who_it_is(server: Server, take: Take) -> None:
    """RFC 7662 section 2.1; RFC 6749 section 2.3.1: id and secret are form-encoded before they are put together."""
    lane = take()
    got, _ = lane.forward(lane.get(fields=server.knows("good~token+/==", sub="7", iss=ISSUER, exp=time.time() + 60)))
    assert got.get(b"X-Sub") == b"7"
    assert got.get(b"X-Consumer") == b"7", "a server that may confirm tokens of any issuer names no consumer of one"
    assert not got.get(b"X-Groups")
    assert got.get(b"Authorization") == b"Bearer good~token+/=="
    question = server.asked()
    assert (question.method, question.request_target) == (b"POST", b"/introspect?a=b")
    assert question.get(b"Content-Type") == b"application/x-www-form-urlencoded"
    assert parse_qs(question.body.decode()) == {"token": ["good~token+/=="], "token_type_hint": ["access_token"]}
    both = b64encode(b"gate%3Away:the+secret+%2F+of+the+gateway")
    assert question.get(b"Authorization") == b"Basic " + both


def test_the_consumer_is_found_by_the_issuer_that_the_filter_requires(server: Server, take: Take) -> None:
    lane = take("strict")
    fields = server.knows("of-ann", sub="7", iss=ISSUER, aud="api", scope="read write")
    got, _ = lane.forward(lane.get(fields=fields))
    assert (got.get(b"X-Consumer"), got.get(b"X-Groups")) == (b"ann", b"staff")


def test_the_secret_can_be_in_the_body_and_the_token_hidden(server: Server, take: Take) -> None:
    lane = take("post")
    got, _ = lane.forward(lane.get(fields=server.knows("posted", sub="8")))
    assert b"Authorization" not in got
    assert got.get(b"X-Consumer") == b"8", "somebody that no consumer is called"
    form = parse_qs(server.asked().body.decode())
    assert (form["client_id"], form["client_secret"]) == (["gate:way"], [SECRET])
    assert b"Authorization" not in server.asked()


@pytest.mark.parametrize("fields", [b"", b"Authorization: Basic YTpi\r\n", b"X-Authorization: Bearer a\r\n"])
def test_a_request_without_a_token_is_told_to_have_one(server: Server, take: Take, fields: bytes) -> None:
    """RFC 6750 section 3.1: no error code where no credentials were sent."""
    lane, before = take(), server.questions
    response = refused(lane, fields, "credentials_missing")
    assert response.get_all(b"WWW-Authenticate") == [b'Bearer realm="fastgw"']
    assert server.questions == before


@pytest.mark.parametrize(
    "fields",
    [
        b"Authorization: Bearer\r\n",
        b"Authorization: Bearer a b\r\n",
        b"Authorization: Bearer a, b\r\n",
        b"Authorization: Bearer a=b\r\n",
        b"Authorization: bearer \xff\r\n",
        b'Authorization: Bearer "a"\r\n',
        b"Authorization: Bearer a\r\nAuthorization: Bearer a\r\n",
        b"Authorization: Bearer a\r\nAuthorization: Basic YTpi\r\n",
        b"Authorization: Basic YTpi\r\nAuthorization: Bearer a\r\n",
        b"Authorization: Bearer " + b"a" * (LONGEST + 1) + b"\r\n",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_and_not_asked_about(server: Server, take: Take, fields: bytes) -> None:
    lane, before = take(), server.questions
    response = refused(lane, fields, "credentials_invalid")
    assert b'error="invalid_request"' in (response.get(b"WWW-Authenticate") or b"")
    assert server.questions == before


def test_the_longest_token_passes(server: Server, take: Take) -> None:
    lane = take()
    lane.forward(lane.get(fields=server.knows("x" * LONGEST, sub="7")))


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.test"},
        {"iss": None},
        {"iss": ISSUER + "/"},
        {"aud": "somebody else"},
        {"aud": None},
        {"aud": ["some", "body"]},
        {"aud": [["api"]]},
        {"exp": 1},
        {"exp": "2100-01-01"},
        {"exp": True},
        {"nbf": 4_000_000_000},
        {"iat": 4_000_000_000},
        {"token_type": "DPoP"},
        {"token_type": 7},
        {"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}},
        {"cnf": {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}},
        {"cnf": "me"},
        {"cnf": {"x5t#S256": ""}},
        {"cnf": {"x5t#S256": "AAAA"}},
        {"cnf": {"x5t#S256": 7}},
        {"sub": 7},
    ],
)
def test_a_token_that_is_active_but_not_for_us_is_refused(server: Server, take: Take, claims: dict[str, Any]) -> None:
    """Somebody else's, expired, of another kind, bound to a key that was not shown, or not what the RFC has it be."""
    lane = take("strict")
    good: dict[str, Any] = {
        "iss": ISSUER,
        "aud": ["api", "x"],
        "scope": "write read",
        "sub": "7",
        "token_type": "bearer",
    }
    token = f"odd-{abs(hash(str(claims)))}"
    lane.forward(lane.get(fields=server.knows(f"{token}-good", **good)))
    told = {name: value for name, value in {**good, **claims}.items() if value is not None}
    response = refused(lane, server.knows(token, **told), "credentials_invalid")
    challenge = response.get(b"WWW-Authenticate") or b""
    assert challenge.startswith(b'Bearer realm="the api", error="invalid_token", error_description="')


def test_a_token_of_nobody_is_refused(server: Server, take: Take) -> None:
    lane = take()
    response = refused(lane, shown("unknown"), "credentials_invalid")
    assert response.get(b"WWW-Authenticate") == (
        b'Bearer realm="fastgw", error="invalid_token", error_description="the token is not active"'
    )


@pytest.mark.parametrize("scope", ["read", "", "readwrite", "READ WRITE", ["read"]])
def test_a_token_without_the_scopes_is_forbidden(server: Server, take: Take, scope: Any) -> None:
    lane = take("strict")
    fields = server.knows("scope-" + str(abs(hash(str(scope)))), iss=ISSUER, aud="api", scope=scope)
    response = refused(lane, fields, "insufficient_scope")
    assert response.get(b"WWW-Authenticate") == (
        b'Bearer realm="the api", scope="read write", error="insufficient_scope", '
        b'error_description="the token lacks a scope"'
    )


def test_claims_can_be_required(server: Server, take: Take) -> None:
    lane = take("required")
    lane.forward(lane.get(fields=server.knows("full", sub="7", user={"id": 1})))
    lacking: list[dict[str, Any]] = [{"sub": "7"}, {"user": {"id": 1}}, {"sub": "7", "user": "x"}]
    for number, claims in enumerate(lacking):
        refused(lane, server.knows(f"lacking-{number}", **claims), "credentials_invalid")


def test_claims_can_be_ruled_and_sent_on(server: Server, take: Take) -> None:
    lane = take("ruled")
    good = server.knows("ruled", user={"role": ["x", "admin"], "id": 7})
    for _ in range(2):
        got, _ = lane.forward(lane.get(fields=good + b"X-User: root\r\nX_User: root\r\n"))
        assert (got.get_all(b"X-User"), got.get(b"X_User")) == ([b"7"], None)
    refused(lane, server.knows("unruly", user={"role": "user"}), "forbidden")
    injecting = server.knows("injecting", user={"role": "admin", "id": "7\r\nX-Admin: 1"})
    refused(lane, injecting, "credentials_invalid")


def test_a_verdict_is_remembered_good_or_bad(server: Server, take: Take) -> None:
    lane, good = take(), server.knows("remembered", sub="7")
    before = server.questions
    for _ in range(3):
        lane.forward(lane.get(fields=good))
    assert server.questions == before + 1
    for _ in range(3):
        refused(lane, shown("not-remembered"), "credentials_invalid")
    assert server.questions == before + 2
    other = take()
    other.forward(other.get(fields=good))
    assert server.questions == before + 2, "one policy, whatever the route"


def test_a_token_in_many_spellings_is_one(server: Server, take: Take) -> None:
    """Else one good token could make a worker forget all others, and ask for each request."""
    for order in (1, -1):
        lane, before = take("small"), server.questions
        server.knows(f"spelled{order}", sub="7")
        for scheme in (b"Bearer ", b"bEaReR ", b"Bearer   ", b"BEARER ")[::order] * 2:
            lane.forward(lane.get(fields=b"Authorization: %bspelled%d\r\n" % (scheme, order)))
        assert server.questions == before + 1


def test_what_one_policy_accepts_is_not_good_for_another(server: Server, take: Take) -> None:
    lane, good = take(), server.knows("for-plain", sub="7")
    lane.forward(lane.get(fields=good))
    refused(take("strict"), good, "credentials_invalid")


@pytest.mark.parametrize(("kind", "exp"), [("forgetful", 3600.0), ("plain", -10.0)])
def test_nothing_is_remembered_for_longer_than_the_ceiling_or_the_token_lasts(
    server: Server, take: Take, kind: str, exp: float
) -> None:
    """The clocks may differ by 30 s, so the second one still passes; but it has to be asked about."""
    lane, good = take(kind), server.knows(f"short-{kind}", sub="7", exp=time.time() + exp)
    before = server.questions
    for _ in range(2):
        lane.forward(lane.get(fields=good))
    assert server.questions == before + 2


def test_a_token_that_was_revoked_is_refused_once_the_memory_is_over(server: Server, take: Take) -> None:
    lane, good = take("forgetful"), server.knows("revoked", sub="7")
    lane.forward(lane.get(fields=good))
    del server.tokens["revoked"]
    refused(lane, good, "credentials_invalid")


def test_good_ones_are_not_pushed_out_by_bad_ones(server: Server, take: Take) -> None:
    lane, good = take("small"), server.knows("kept", sub="7")
    lane.forward(lane.get(fields=good))
    for number in range(3):
        refused(lane, shown(f"guess-{number}"), "credentials_invalid")
    before = server.questions
    lane.forward(lane.get(fields=good))
    assert server.questions == before


def test_however_many_wait_there_is_one_question(server: Server, take: Take) -> None:
    """One that leaves does not end it for the others."""
    lane, good = take(), server.knows("together", sub="7")
    server.before = threading.Event()
    before = server.questions
    clients = [lane.client() for _ in range(5)]
    for client in clients:
        client.send(lane.get(fields=good))
    server.origin.wait_for_requests(before + 1)
    clients[0].close()
    probe = lane.client()
    probe.send(b"GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n")
    assert probe.read_response().status == 404
    server.before.set()
    for _ in clients[1:]:
        lane.accept().answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    assert [client.read_response().status for client in clients[1:]] == [204] * 4
    assert server.questions == before + 1


def test_who_tries_many_tokens_is_refused_at_once(server: Server, take: Take) -> None:
    """A client address has a quarter of what is asked at a time. What is known of, or asked about, passes meanwhile."""
    lane, known = take("bounded"), server.knows("known-before", sub="7")
    lane.forward(lane.get(fields=known))
    server.before = threading.Event()
    before = server.questions
    asking = [lane.client() for _ in range(3)]
    for client, token in zip(asking, ["flood-0", "flood-1", "flood-1"], strict=True):
        client.send(lane.get(fields=shown(token)))
    server.origin.wait_for_requests(before + 2)
    refused(lane, shown("flood-2"), "auth_unavailable")
    assert server.questions == before + 2
    lane.forward(lane.get(fields=known))
    server.before.set()
    assert [client.read_response().status for client in asking] == [401] * 3
    lane.forward(lane.get(fields=server.knows("after", sub="7")))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"true",
        b"{}",
        b'{"active": "true"}',
        b'{"active": 1}',
        b'{"active": null}',
        b'{"active": false, "active": true}',
        b'{"active": true, "sub": "7", "sub": "8"}',
        b'{"active": true} {}',
        b'{"active": true, "x": "\xff"}',
        b'{"active": true, "x": ' + b"[" * 100 + b"]" * 100 + b"}",
        b"<html>active: true</html>",
    ],
)
def test_an_answer_that_cannot_be_read_in_one_way_lets_nothing_pass(server: Server, take: Take, body: bytes) -> None:
    """Nor is it remembered: the next one is asked about again."""
    lane = take()
    token = f"unclear-{len(body)}-{sum(body)}"
    server.raw[token] = body
    before = server.questions
    for _ in range(2):
        refused(lane, shown(token), "auth_unavailable")
    assert server.questions == before + 2


@pytest.mark.parametrize(
    "steps",
    [
        [answer(b'{"active": true}', b"401 Unauthorized")],
        [answer(b'{"active": true}', b"500 Oh")],
        [answer(b'{"active": true}', b"201 Created")],
        [b"HTTP/1.1 302 Found\r\nLocation: /active\r\nContent-Length: 0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b'{"active": true}', close],
        [answer(b'{"active": true' + b" " * 65536 + b"}")],
        [reset],
    ],
)
def test_a_server_that_breaks_lets_nothing_pass(server: Server, take: Take, steps: list[Step]) -> None:
    lane = take()
    server.steps = tuple(steps)
    refused(lane, shown("broken"), "auth_unavailable")


def test_a_server_that_is_away_or_late_lets_nothing_pass(server: Server, take: Take) -> None:
    refused(take("away"), shown("any"), "auth_unavailable")
    server.before = threading.Event()
    refused(take("hasty"), shown("late"), "auth_unavailable")
    server.before.set()


def test_nobody_is_shown_a_secret(server: Server, take: Take, world: World) -> None:
    lane = take()
    lane.forward(lane.get(fields=server.knows("planted-token", sub="7")))
    refused(lane, shown("planted-guess"), "credentials_invalid")
    refused(take("away"), shown("planted-away"), "auth_unavailable")
    gateway = world.lanes.gateway
    gateway.wait_for_record(fault="auth_unavailable")
    written = gateway.stderr.text() + gateway.stdout.text()
    for secret in ("planted", SECRET, b64encode(b"gate%3Away").decode()[:12]):
        assert secret not in written


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


def test_gateways_share_what_they_know_in_a_redis_that_cannot_read_it(redis: RedisServer, tmp_path: Path) -> None:
    """And while it is away each asks for itself."""
    server = Server()
    with contextlib.ExitStack() as stack:
        stack.callback(server.origin.stop)
        upstream = stack.enter_context(Origin().serve())
        gateways = []
        for number in range(2):
            (tmp_path / str(number)).mkdir()
            (tmp_path / str(number) / "secret").write_text(SECRET + "\n")
            settings = {
                "url": f"{server.origin.url}/introspect",
                "client_id": "gateway",
                "client_secret": {"file": "secret"},
                "cache": {"ttl": "1h", "negative_ttl": "1h", "second_level": {"env": "REDIS_URL"}},
            }
            config = {
                "workers": 1,
                "listeners": {"main": {"address": "127.0.0.1:0"}},
                "routes": [{"name": "all", "upstream": upstream.url, "filters": {"introspection": settings}}],
            }
            environment = {"REDIS_URL": redis.url}
            gateways.append(stack.enter_context(Gateway(config, tmp_path / str(number), environment=environment)))

        def status(gateway: Gateway, fields: bytes) -> int:
            with gateway.connect() as client:
                client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n" + fields + b"\r\n")
                return int(client.read_response().status)

        tokens = itertools.count()

        def shared() -> bool:
            """On a busy machine Redis may be too slow for the gateways at first, which then ask for themselves."""
            token, before = f"planted-token-{next(tokens)}", server.questions
            good = server.knows(token, sub="planted-subject", exp=time.time() + 3600)
            assert [status(gateway, good) for gateway in gateways] == [200, 200]
            assert [status(gateway, shown(f"{token}-guess")) for gateway in gateways] == [401, 401]
            return server.questions == before + 2

        wait_until(shared, "what one gateway knows to be known to the other")
        there = redis.everything()
        assert len(redis.names()) >= 2
        for secret in (b"planted", b"active", SECRET.encode()):
            assert secret not in there
        redis.stop()
        late, before = server.knows("planted-late", sub="7"), server.questions
        assert [status(gateway, late) for gateway in gateways] == [200, 200]
        assert server.questions == before + 2
        for gateway in gateways:
            gateway.stop()
            for hidden in ("planted-token", "planted-late", SECRET, PASSWORD, redis.url):
                assert hidden not in gateway.stderr.text() + gateway.stdout.text()
