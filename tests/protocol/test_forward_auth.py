"""forward_auth: a service decides, and nothing passes that it has not let pass."""

from __future__ import annotations

import itertools
import json
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Certificates, server_tls
from tests.support.client import Client, Response
from tests.support.faults import assert_fault
from tests.support.lanes import Kind, Lane, Lanes
from tests.support.origin import Origin, OriginConnection, Request, Step, close, reset
from tests.support.peer import DEADLINE

PASS = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
LOGIN = (
    b"HTTP/1.1 302 Found\r\nLocation: https://login.test/?next=1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
    b"X-Inside: secret\r\nContent-Length: 0\r\n\r\n"
)


class World:
    """A gateway whose routes ask `service`. Each kind has a path of its own there."""

    def __init__(self, directory: Path) -> None:
        self._steps: tuple[Step, ...] = (PASS,)
        self.service = Origin()
        self.service.answer(self._play)
        self.service.serve()
        authority = Certificates(directory)
        self.secure = Origin(tls=server_tls(authority.issue("127.0.0.1"), clients=authority.ca)).serve()
        certificate, key = authority.issue("gateway.test")
        away = Origin()
        self.lanes = Lanes(
            directory,
            {
                "plain": self._kind("/plain?of=service", copy_headers=["X-User", "x-groups"]),
                "renewing": self._kind("/renewing", client_headers=["Set-Cookie", "X-Session"]),
                "renewing_now_and_then": self._kind(
                    "/renewing", client_headers=["Set-Cookie"], cache={"key_headers": ["Cookie"], "ttl": "1h"}
                ),
                "chosen": self._kind("/chosen", request_headers=["Authorization", "x-shown"]),
                "hasty": self._kind("/hasty", timeout="100ms"),
                "small": self._kind("/small", max_body_bytes=10),
                "cached": self._kind(
                    "/cached", copy_headers=["X-User"], cache={"key_headers": ["Authorization", "Cookie"], "ttl": "1h"}
                ),
                "by_field": self._kind(
                    "/by",
                    cache={"key_headers": ["Authorization"], "per_uri": False, "per_address": False, "entries": 2},
                ),
                "stored": Kind(
                    route={
                        "filters": {
                            "forward_auth": {"url": f"{self.service.url}/stored", "copy_headers": ["X-User"]},
                            "cache": {},
                        }
                    }
                ),
                "named": self._kind("/named", consumer_header="X-Name"),
                "either": Kind(
                    route={
                        "filters": {
                            "auth": {
                                "any_of": [
                                    {"key_auth": {}},
                                    {"forward_auth": {"url": f"{self.service.url}/either", "copy_headers": ["X-User"]}},
                                ]
                            }
                        }
                    }
                ),
                "open": Kind(
                    route={
                        "filters": {
                            "auth": {
                                "any_of": [{"key_auth": {}}, {"forward_auth": {"url": f"{self.service.url}/open"}}],
                                "anonymous": "guest",
                            }
                        }
                    }
                ),
                "exchanging": Kind(
                    route={
                        "filters": {
                            "auth": {
                                "any_of": [
                                    {
                                        "forward_auth": {
                                            "url": f"{self.service.url}/exchanging",
                                            "copy_headers": ["Authorization", "X-Api-Key"],
                                        }
                                    },
                                    {"basic_auth": {}},
                                    {"key_auth": {}},
                                ],
                                "anonymous": "guest",
                            }
                        }
                    }
                ),
                "away": self._kind(away.url),
                "secure": self._kind(
                    f"{self.secure.url}/", tls={"ca": authority.ca, "certificate": certificate, "key": key}
                ),
                "unverified": self._kind(f"{self.secure.url}/", tls={"certificate": certificate, "key": key}),
                "hiding": Kind(
                    route={
                        "filters": {
                            "key_auth": {"key_names": ["key"], "key_in": ["query"], "hide_credentials": True},
                            "forward_auth": {"url": f"{self.service.url}/hiding"},
                        }
                    }
                ),
                "edited": Kind(
                    route={
                        "filters": {
                            "forward_auth": {"url": f"{self.service.url}/edited", "copy_headers": ["X-User"]},
                            "headers": {"request": {"set": {"X-Gateway": "1"}}},
                        }
                    }
                ),
                "shown": Kind(
                    route={
                        "filters": {
                            "forward_auth": {"url": f"{self.service.url}/shown", "copy_headers": ["X-User"]},
                            "headers": {"request": {"set": {"X-Out": "{header.X-User}"}}},
                            "transform": {"request": {"json": {"set": {"user": "{header.X-User}"}}}},
                            "query_parameters": {"set": {"user": "{header.X-User}"}},
                        }
                    }
                ),
            },
            count=4,
            settings={
                "filters": {
                    "request_id": {},
                    "who": {
                        "type": "headers",
                        "request": {"set": {"X-Who": "{consumer.name}", "X-Groups-Of": "{consumer.groups}"}},
                    },
                },
                "consumers": [
                    {
                        "name": "ann",
                        "groups": ["staff"],
                        "key_auth": [{"key": "anns-key"}],
                        "basic_auth": [{"username": "ann", "password": "anns-password"}],
                    }
                ],
            },
        )
        away.stop()

    def _kind(self, url: str, **settings: Any) -> Kind:
        url = url if "://" in url else self.service.url + url
        return Kind(route={"filters": {"forward_auth": {"url": url, **settings}}})

    def says(self, *steps: Step) -> None:
        """What the service answers from now on."""
        self._steps = steps

    def _play(self, connection: OriginConnection) -> None:
        for step in self._steps:
            if isinstance(step, bytes):
                connection.send(step)
            elif isinstance(step, threading.Event):
                assert step.wait(DEADLINE)
            else:
                step(connection)

    def asked(self) -> Request:
        """The last question."""
        return self.service.requests[-1]

    def stop(self) -> None:
        self.lanes.stop()
        self.service.stop()
        self.secure.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("forward-auth"))
    yield world
    world.stop()


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


def refused(lane: Lane, request: bytes) -> Response:
    """The answer to a request that does not reach the upstream."""
    client = lane.client()
    client.send(lane.fill(request))
    response = client.read_response(request.partition(b" ")[0])
    lane.origin.assert_untouched()
    return response


def test_the_service_is_shown_what_is_asked(world: World, take: Take) -> None:
    """The path in the form in which it is matched and sent on; what the client claims of it is not believed."""
    lane = take()
    world.says(PASS)
    claims = (
        b"X-Forwarded-Method: GET\r\nX-Forwarded-Uri: /public\r\nX-Forwarded-For: 10.0.0.1\r\nX-Real-IP: 10.1.1.1\r\n"
    )
    shown = b"Authorization: Basic YTpi\r\nCookie: a=1\r\nCookie: b=2\r\nX-Any: thing\r\nContent-Type: text/plain\r\n"
    lane.forward(lane.post(b"hello", claims + shown, b"/a/./b/../%63?x=%63"))
    question = world.asked()
    assert (question.method, question.request_target, question.body) == (b"GET", b"/plain?of=service", b"")
    assert question.get_all(b"X-Forwarded-Method") == [b"POST"]
    assert question.get_all(b"X-Forwarded-Uri") == [b"/a/c?x=%63"]
    assert question.get_all(b"X-Forwarded-Host") == [lane.host]
    assert question.get_all(b"X-Forwarded-Proto") == [b"http"]
    assert question.get_all(b"X-Forwarded-For") == question.get_all(b"X-Real-IP") == [b"127.0.0.1"]
    assert question.get_all(b"Cookie") == [b"a=1", b"b=2"]
    assert question.get(b"Authorization") == b"Basic YTpi"
    assert question.get(b"X-Any") == b"thing"
    assert question.get(b"X-Request-Id")
    assert question.get_all(b"Host") == [world.service.authority.encode()]
    assert b"Content-Length" not in question


def test_conditions_and_expectations_are_not_the_services(world: World, take: Take) -> None:
    """A 304 would answer another question, and 100-continue is the upstream's to say."""
    lane = take()
    world.says(PASS)
    conditions = b'If-None-Match: "1"\r\nIf-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT\r\nRange: bytes=0-1\r\n'
    got, _ = lane.forward(lane.get(fields=conditions + b"TE: trailers\r\nConnection: TE, X-Hop\r\nX-Hop: 1\r\n"))
    for name in (b"If-None-Match", b"If-Modified-Since", b"Range", b"TE", b"X-Hop"):
        assert name not in world.asked()
    assert got.get(b"If-None-Match") == b'"1"'


def test_only_chosen_fields_are_shown(world: World, take: Take) -> None:
    lane = take("chosen")
    world.says(PASS)
    lane.forward(lane.get(fields=b"Authorization: Basic YTpi\r\nCookie: a=1\r\nX-Shown: 1\r\nX-Shown: 2\r\n"))
    question = world.asked()
    assert question.get(b"Authorization") == b"Basic YTpi"
    assert question.get_all(b"X-Shown") == [b"1", b"2"]
    assert b"Cookie" not in question
    assert b"X-Request-Id" not in question
    assert question.get(b"X-Forwarded-Uri") == b"/"


def test_what_filters_before_it_hide_is_hidden_from_the_service_too(world: World, take: Take) -> None:
    lane = take("hiding")
    world.says(PASS)
    lane.forward(lane.get(b"/x?a=1&key=anns-key"))
    assert world.asked().get_all(b"X-Forwarded-Uri") == [b"/x?a=1"]
    assert b"anns-key" not in world.asked().raw


@pytest.mark.parametrize("status", [b"200 OK", b"204 No Content", b"299 Odd"])
def test_any_2xx_lets_pass_and_chosen_fields_are_copied(world: World, take: Take, status: bytes) -> None:
    lane = take()
    length = b"" if b"204" in status else b"Content-Length: 0\r\n"
    answer = b"HTTP/1.1 " + status + b"\r\nX-User: ann\r\nX-Groups: a\r\nX-Groups: b\r\nX-Other: no\r\n" + length
    world.says(answer + b"\r\n")
    got, response = lane.forward(lane.get())
    assert got.get_all(b"X-User") == [b"ann"]
    assert got.get_all(b"X-Groups") == [b"a", b"b"]
    assert b"X-Other" not in got
    assert response.body == b"ok"


@pytest.mark.parametrize("sent", [b"X-User: root\r\n", b"x-user: a\r\nX-USER: b\r\n", b"X_User: root\r\n"])
@pytest.mark.parametrize("answered", [b"", b"X-User: ann\r\n"])
def test_what_the_client_sends_in_place_of_a_copied_field_is_removed(
    world: World, take: Take, sent: bytes, answered: bytes
) -> None:
    """Also when the service says nothing, and under the name that CGI cannot tell from it."""
    lane = take()
    world.says(b"HTTP/1.1 200 OK\r\n" + answered + b"Content-Length: 0\r\n\r\n")
    got, _ = lane.forward(lane.get(fields=sent + b"Connection: X-User\r\n"))
    assert got.get_all(b"X-User") == ([b"ann"] if answered else [])
    assert b"X_User" not in got
    assert all(name not in world.asked() for name in (b"X-User", b"X_User"))


def test_filters_behind_it_may_change_other_fields(world: World, take: Take) -> None:
    lane = take("edited")
    world.says(b"HTTP/1.1 200 OK\r\nX-User: ann\r\nContent-Length: 0\r\n\r\n")
    got, _ = lane.forward(lane.get(fields=b"X-User: root\r\n"))
    assert (got.get_all(b"X-User"), got.get(b"X-Gateway")) == ([b"ann"], b"1")


@pytest.mark.parametrize("answered", [b"", b"X-User: ann\r\n"])
@pytest.mark.parametrize("sent", [b"", b"X-User: root\r\n"])
def test_filters_behind_it_read_the_copied_field_and_never_the_clients(
    world: World, take: Take, sent: bytes, answered: bytes
) -> None:
    lane = take("shown")
    world.says(b"HTTP/1.1 200 OK\r\n" + answered + b"Content-Length: 0\r\n\r\n")
    got, _ = lane.forward(lane.post(b"{}", sent + b"Content-Type: application/json\r\n"))
    user = ["ann"] if answered else []
    assert [value.decode() for value in got.get_all(b"X-Out")] == user
    assert json.loads(got.body).get("user") == (user[0] if user else None)
    assert got.request_target == (b"/?user=ann" if user else b"/")


def test_a_body_waits_for_the_decision_and_is_sent_whole(world: World, take: Take) -> None:
    lane = take()
    decided = threading.Event()
    world.says(decided, PASS)
    body = bytes(range(256)) * 1024
    client = lane.client()
    sending = threading.Thread(target=client.send_gently, args=(lane.post(body),))
    sending.start()
    lane.origin.assert_untouched()
    decided.set()
    upstream = lane.accept()
    assert upstream.read_request().body == body
    upstream.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert client.read_response().status == 204
    sending.join()


def test_a_redirect_goes_to_the_client_with_its_cookies(world: World, take: Take) -> None:
    lane = take()
    world.says(LOGIN)
    response = refused(lane, lane.get())
    assert response.status == 302
    assert response.get(b"Location") == b"https://login.test/?next=1"
    assert response.get_all(b"Set-Cookie") == [b"a=1", b"b=2"]
    assert b"X-Inside" not in response
    assert response.get(b"X-Request-Id")


def test_who_may_be_anonymous_is_not_sent_to_log_in(world: World, take: Take) -> None:
    lane = take("open")
    world.says(LOGIN)
    for shown in (b"Cookie: session=old\r\n", b"Authorization: Basic YTpi\r\n"):
        assert refused(lane, lane.get(fields=shown)).get(b"Location") == b"https://login.test/?next=1"
    got, _ = lane.forward(lane.get())
    assert got.get(b"X-Who") == b"guest"


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_refusal_goes_to_the_client_with_its_body(world: World, take: Take, method: bytes) -> None:
    lane = take()
    world.says(
        b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\nWWW-Authenticate: Bearer\r\n'
        b"Content-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nLog i\r\n1\r\nn\r\n0\r\n\r\n",
    )
    response = refused(lane, lane.get(method=method))
    assert response.status == 401
    assert response.get_all(b"WWW-Authenticate") == [b'Basic realm="x"', b"Bearer"]
    assert response.get(b"Content-Type") == b"text/html"
    assert response.get(b"Content-Length") == b"6"
    assert response.body == (b"Log in" if method == b"GET" else b"")
    assert lane.gateway.wait_for_record(host=lane.host.decode(), status=401)["fault"] == "credentials_missing"


def test_a_401_never_lacks_a_challenge(world: World, take: Take) -> None:
    """RFC 9110 section 15.5.2."""
    lane = take()
    world.says(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    response = refused(lane, lane.get(fields=b"Authorization: Basic d3Jvbmc6d3Jvbmc=\r\n"))
    assert (response.status, b"WWW-Authenticate" in response) == (401, True)
    record = lane.gateway.wait_for_record(host=lane.host.decode(), status=401)
    assert record["fault"] == "credentials_invalid"
    assert "d3Jvbmc" not in json.dumps(record)


@pytest.mark.parametrize(
    ("status", "fault"),
    [(b"403 Forbidden", "forbidden"), (b"404 Not Found", "forbidden"), (b"500 Oh", "auth_unavailable")],
)
def test_other_answers_refuse_too(world: World, take: Take, status: bytes, fault: str) -> None:
    lane = take()
    world.says(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nno")
    response = refused(lane, lane.get())
    assert (response.status, response.body) == (int(status[:3]), b"no")
    record = lane.gateway.wait_for_record(host=lane.host.decode(), status=response.status)
    assert record["fault"] == fault


@pytest.mark.parametrize(
    "steps",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", close],
        [b"nonsense\r\n\r\n"],
        [reset],
        [b"HTTP/1.1 100 Continue\r\n\r\n", close],
    ],
)
def test_a_service_that_breaks_lets_nothing_pass(world: World, take: Take, steps: list[Step]) -> None:
    lane = take()
    world.says(*steps)
    assert_fault(refused(lane, lane.get()), "auth_unavailable")


def test_a_service_that_is_away_lets_nothing_pass(take: Take) -> None:
    lane = take("away")
    assert_fault(refused(lane, lane.get()), "auth_unavailable")
    assert "connect_refused" in lane.gateway.wait_for_record(host=lane.host.decode())["fault_detail"]


def test_a_service_that_is_late_lets_nothing_pass(world: World, take: Take) -> None:
    lane = take("hasty")
    over = threading.Event()
    world.says(over)
    assert_fault(refused(lane, lane.get()), "auth_unavailable")
    over.set()


def test_an_answer_that_is_too_long_lets_nothing_pass(world: World, take: Take) -> None:
    lane = take("small")
    world.says(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world")
    assert_fault(refused(lane, lane.get()), "auth_unavailable")


def test_who_leaves_ends_the_question(world: World, take: Take) -> None:
    lane = take()
    ended = threading.Event()

    def until_closed(connection: Any) -> None:
        connection.read_to_end()
        ended.set()

    world.says(until_closed)
    count = len(world.service.requests)
    client = lane.client()
    client.send(lane.get())
    world.service.wait_for_requests(count + 1)
    client.close()
    assert ended.wait(DEADLINE)
    lane.origin.assert_untouched()


def test_the_service_is_verified_and_shown_a_certificate(world: World, take: Take) -> None:
    lane = take("secure")
    world.secure.answer(PASS)
    got, _ = lane.forward(lane.get())
    assert got.method == b"GET"
    lane = take("unverified")
    assert_fault(refused(lane, lane.get()), "auth_unavailable")


RENEWED = (
    b"HTTP/1.1 200 OK\r\nSet-Cookie: session=2\r\nSet-Cookie: seen=1\r\nX-Session: new\r\nX-Other: no\r\n"
    b"Content-Length: 0\r\n\r\n"
)
UPSTREAMS = b"HTTP/1.1 200 OK\r\nSet-Cookie: own=1\r\nX-Session: old\r\nContent-Length: 2\r\n\r\nok"


def test_a_session_can_be_renewed_while_the_request_passes(world: World, take: Take) -> None:
    lane = take("renewing")
    world.says(RENEWED)
    _, response = lane.forward(lane.get(), UPSTREAMS)
    assert response.get_all(b"Set-Cookie") == [b"own=1", b"session=2", b"seen=1"]
    assert response.get_all(b"X-Session") == [b"new"]
    assert b"X-Other" not in response
    world.says(PASS)
    _, response = lane.forward(lane.get(), UPSTREAMS)
    assert (response.get_all(b"Set-Cookie"), response.get_all(b"X-Session")) == ([b"own=1"], [b"old"])


def test_a_renewed_session_is_nobody_elses(world: World, take: Take) -> None:
    """What is remembered lets pass, and gives nobody the cookies that came with it."""
    lane = take("renewing_now_and_then")
    world.says(RENEWED)
    fields = b"Cookie: session=1\r\n"
    responses = [lane.forward(lane.get(fields=fields), UPSTREAMS)[1] for _ in range(2)]
    assert [each.get_all(b"Set-Cookie") for each in responses] == [[b"own=1", b"session=2", b"seen=1"], [b"own=1"]]
    decided = threading.Event()
    world.says(decided, RENEWED)
    before = len(world.service.requests)
    clients = [lane.client() for _ in range(3)]
    for client in clients:
        client.send(lane.get(b"/together", fields))
    world.service.wait_for_requests(before + 1)
    probe = lane.client()  # by the time that this is answered, the others have been read
    probe.send(b"GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n")
    assert probe.read_response().status == 404
    decided.set()
    for _ in clients:
        lane.origin.accept_next().answer(UPSTREAMS.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    cookies = [client.read_response().get_all(b"Set-Cookie") for client in clients]
    assert sorted(map(len, cookies)) == [1, 1, 3]


ANN = b"HTTP/1.1 200 OK\r\nX-User: ann\r\nContent-Length: 0\r\n\r\n"


def test_what_may_pass_is_remembered_with_what_was_copied(world: World, take: Take) -> None:
    lane = take("cached")
    world.says(ANN)
    before = len(world.service.requests)
    for _ in range(3):
        got, _ = lane.forward(lane.get(fields=b"Authorization: a\r\nX-User: root\r\n"))
        assert got.get_all(b"X-User") == [b"ann"]
    assert len(world.service.requests) == before + 1


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        (b"GET", b"/", b"Authorization: b\r\n"),
        (b"GET", b"/", b"Authorization: a\r\nAuthorization: a\r\n"),
        (b"GET", b"/", b"Cookie: a\r\n"),
        (b"GET", b"/", b"Authorization: a\r\nCookie: a\r\n"),
        (b"POST", b"/", b"Authorization: a\r\n"),
        (b"GET", b"/other", b"Authorization: a\r\n"),
        (b"GET", b"/?a", b"Authorization: a\r\n"),
        (b"GET", b"/", b""),
    ],
)
def test_a_request_that_differs_is_asked_about(
    world: World, take: Take, method: bytes, path: bytes, fields: bytes
) -> None:
    lane = take("cached")
    world.says(ANN)
    lane.forward(lane.get(fields=b"Authorization: a\r\n"))
    world.says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    client = lane.client()
    for _ in range(2):
        before = len(world.service.requests)
        client.send(lane.get(path, fields, method))
        assert client.read_response().status == 403
        assert len(world.service.requests) == before + 1, "refusals are not remembered"


def test_what_one_client_got_is_not_stored_for_others(world: World, take: Take) -> None:
    """Also if the service names no consumer: the response may depend on what is copied."""
    lane = take("stored")
    for name in (b"ann", b"bob"):
        world.says(ANN.replace(b"ann", name))
        answer = (
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nConnection: close\r\nContent-Length: 3\r\n\r\n" + name
        )
        _, response = lane.forward(lane.get(fields=b"Cookie: session=" + name + b"\r\n"), answer)
        assert response.body == name
        assert response.get_all(b"Cache-Status") == [b"fastgw; fwd=uri-miss; detail=authorization"]


def test_requests_that_come_together_are_one_question(world: World, take: Take) -> None:
    """One that leaves does not end it for the others."""
    lane = take("cached")
    decided = threading.Event()
    world.says(decided, ANN)
    before = len(world.service.requests)
    clients = [lane.client() for _ in range(4)]
    for client in clients:
        client.send(lane.get(b"/together", b"Authorization: together\r\n"))
    world.service.wait_for_requests(before + 1)
    clients[0].close()
    probe = lane.client()  # by the time that this is answered, the others have been read
    probe.send(b"GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n")
    assert probe.read_response().status == 404
    decided.set()
    for _ in clients[1:]:
        lane.accept().answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    assert [client.read_response().status for client in clients[1:]] == [204] * 3
    assert len(world.service.requests) == before + 1


def send_together(world: World, lane: Lane, count: int, path: bytes) -> list[Client]:
    """Send equal requests, and return when all of them wait for one question to the service."""
    before = len(world.service.requests)
    clients = [lane.client() for _ in range(count)]
    for client in clients:
        client.send(lane.get(path, b"Cookie: lang=de\r\n"))
    world.service.wait_for_requests(before + 1)
    probe = lane.client()  # by the time that this is answered, the others have been read
    probe.send(b"GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n")
    assert probe.read_response().status == 404
    return clients


def test_a_refusal_belongs_to_the_client_that_asked(world: World, take: Take) -> None:
    """Its cookie, `state` or nonce may be those of one login: each request that has waited for it is asked about."""
    lane = take("cached")
    decided, numbers = threading.Event(), itertools.count(1)

    def refuse(connection: OriginConnection) -> None:
        head = b"HTTP/1.1 302 Found\r\nLocation: https://login.test/?state=%d\r\nSet-Cookie: login=%d\r\n"
        number = next(numbers)
        connection.send(head % (number, number) + b"Content-Length: 0\r\n\r\n")

    world.says(decided, refuse)
    clients = send_together(world, lane, 4, b"/refused")
    before = len(world.service.requests)
    decided.set()
    responses = [client.read_response() for client in clients]
    assert [response.status for response in responses] == [302] * 4
    shown = {(response.get(b"Location"), *response.get_all(b"Set-Cookie")) for response in responses}
    assert shown == {(b"https://login.test/?state=%d" % n, b"login=%d" % n) for n in range(1, 5)}
    assert len(world.service.requests) == before + 3


@pytest.mark.parametrize("status", [b"503 Service Unavailable", b"429 Too Many Requests"])
def test_a_service_that_is_overloaded_is_not_asked_again_by_all_that_wait(
    world: World, take: Take, status: bytes
) -> None:
    lane = take("cached")
    decided = threading.Event()
    own = (
        b"Set-Cookie: login=1\r\nWWW-Authenticate: Digest nonce=1\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"
    )
    world.says(decided, b"HTTP/1.1 " + status + b"\r\nRetry-After: 7\r\n" + own + b"\r\nann")
    clients = send_together(world, lane, 4, b"/overloaded" + status[:3])
    before = len(world.service.requests)
    decided.set()
    responses = [client.read_response() for client in clients]
    assert [(each.status, each.get(b"Retry-After")) for each in responses] == [(int(status[:3]), b"7")] * 4
    assert len(world.service.requests) == before
    names = (b"Set-Cookie", b"WWW-Authenticate")
    shown = [(each.body == b"ann", *(name in each for name in names)) for each in responses]
    assert sorted(shown) == [(False, False, False)] * 3 + [(True, True, True)]


def test_a_request_that_has_waited_for_a_refusal_may_be_allowed(world: World, take: Take) -> None:
    lane = take("cached")
    decided, numbers = threading.Event(), itertools.count()

    def answer(connection: OriginConnection) -> None:
        connection.send(ANN if next(numbers) else b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    world.says(decided, answer)
    clients = send_together(world, lane, 2, b"/waited")
    before = len(world.service.requests)
    decided.set()
    lane.accept().answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    assert sorted(client.read_response().status for client in clients) == [204, 403]
    lane.forward(lane.get(b"/waited", b"Cookie: lang=de\r\n"))
    assert len(world.service.requests) == before + 1, "the decision is cached"


def test_a_memory_is_bounded_and_may_look_at_the_fields_alone(world: World, take: Take) -> None:
    lane = take("by_field")
    world.says(PASS)

    def asked_for(value: bytes) -> int:
        before = len(world.service.requests)
        lane.forward(lane.get(b"/" + value + b"?x", b"Authorization: %b\r\n" % value))
        lane.forward(lane.get(b"/y", b"Authorization: %b\r\n" % value, b"DELETE"))
        return len(world.service.requests) - before

    assert [asked_for(value) for value in (b"1", b"2", b"2", b"3", b"2", b"1")] == [1, 1, 0, 1, 0, 1]


def test_what_the_client_sends_is_removed_also_where_it_is_let_in_another_way(world: World, take: Take) -> None:
    lane = take("either")
    for sent in (b"X-User: root\r\n", b"X_User: root\r\n"):
        got, _ = lane.forward(lane.get(fields=sent + b"X-Api-Key: anns-key\r\n"))
        assert (got.get(b"X-Who"), got.get(b"X-User"), got.get(b"X_User")) == (b"ann", None, None)
    world.says(ANN)
    got, _ = lane.forward(lane.get(fields=b"X-User: root\r\n"))
    assert got.get_all(b"X-User") == [b"ann"]


def test_a_credential_that_is_exchanged_is_judged_first(world: World, take: Take) -> None:
    """What the service gives for the upstream stands where clients show who they are: each way sees what they show, and
    the upstream does not."""
    lane = take("exchanging")
    basic = b"Authorization: Basic %b\r\n"
    good = basic % b64encode(b"ann:anns-password")
    no = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
    world.says(no)
    for shown in (basic % b64encode(b"ann:guessed"), b"X-Api-Key: guessed\r\n", b"Authorization: Odd x\r\n"):
        assert refused(lane, lane.get(fields=shown)).status == 401
    for shown in (good, b"X-Api-Key: anns-key\r\n"):
        got, _ = lane.forward(lane.get(fields=shown))
        assert (got.get(b"X-Who"), got.get(b"Authorization"), got.get(b"X-Api-Key")) == (b"ann", None, None)
        name, _, value = shown.strip().partition(b": ")
        assert world.asked().get(name) == value
    got, _ = lane.forward(lane.get())
    assert got.get(b"X-Who") == b"guest"
    world.says(b"HTTP/1.1 200 OK\r\nAuthorization: inner\r\nContent-Length: 0\r\n\r\n")
    got, _ = lane.forward(lane.get(fields=good + b"X-Api-Key: theirs\r\nX_Api_Key: theirs\r\n"))
    assert got.get_all(b"Authorization") == [b"inner"]
    assert b"theirs" not in got.head.raw


@pytest.mark.parametrize(("named", "groups"), [(b"ann", b"staff"), (b"somebody new", None)])
def test_the_answer_can_name_the_consumer(world: World, take: Take, named: bytes, groups: bytes | None) -> None:
    lane = take("named")
    world.says(b"HTTP/1.1 200 OK\r\nX-Name: %b\r\nContent-Length: 0\r\n\r\n" % named)
    got, _ = lane.forward(lane.get(fields=b"X-Name: root\r\n"))
    assert (got.get(b"X-Who"), got.get(b"X-Groups-Of")) == (named, groups)


@pytest.mark.parametrize(
    "names", [b"X-Name: ann\r\nX-Name: bob\r\n", b"X-Name: %b\r\n" % (b"a" * 300), b"X-Name: \xff\r\n"]
)
def test_an_answer_that_does_not_name_one_lets_nothing_pass(world: World, take: Take, names: bytes) -> None:
    lane = take("named")
    world.says(b"HTTP/1.1 200 OK\r\n" + names + b"Content-Length: 0\r\n\r\n")
    assert_fault(refused(lane, lane.get()), "auth_unavailable")
