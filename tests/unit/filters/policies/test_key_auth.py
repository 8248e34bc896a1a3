"""key_auth: who sends a consumer's key is that consumer, and nobody else is."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import pytest

from fastgw.config.settings.gateway import ConsumerKey
from fastgw.config.settings.secrets import Secret
from fastgw.consumers.index import Roster, index_of
from fastgw.filters.api import Consumer
from fastgw.filters.policies import key_auth
from fastgw.filters.policies.key_auth import Keys
from tests.support.memory import Plane, Wire
from tests.support.secrecy import explained, reported
from tests.support.table import for_each
from tests.unit.consumers.test_index import ALICE, KEY, of

KEY_OF_BOB = "key-of-bob-4711"
CONSUMERS = [
    {
        "name": "alice",
        "groups": ["admin"],
        "key_auth": [{"key": KEY}, {"key_sha256": sha256(b"second-of-alice").hexdigest()}],
    },
    {"name": "bob", "key_auth": [{"key": KEY_OF_BOB}]},
]
EVERYWHERE = {"key_names": ["apikey", "X-Api-Key"], "key_in": ["header", "query", "cookie"]}


def plane_of(settings: Mapping[str, Any] | None = None, consumers: Any = CONSUMERS) -> Plane:
    route = {"name": "all", "upstream": "u", "filters": {"key_auth": settings or {}}}
    return Plane({"routes": [route], "consumers": consumers})


def asked(plane: Plane, target: str, *lines: str) -> Wire:
    client = plane.client()
    client.sends("\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *lines, "", ""]).encode())
    return client


def passed(plane: Plane, target: str, *lines: str) -> str:
    """The head that the upstream gets."""
    client = asked(plane, target, *lines)
    assert not client.received, client.received
    return plane.connects().received.decode()


def refused(plane: Plane, target: str, *lines: str) -> str:
    """The answer, which is a 401 with a challenge; nothing is sent on."""
    received = asked(plane, target, *lines).received.decode()
    assert received.startswith("HTTP/1.1 401 ")
    assert '\r\nWWW-Authenticate: ApiKey realm="fastgw"\r\n' in received
    plane.assert_quiet()
    return received


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("/", [f"X-Api-Key: {KEY}"]),
        ("/", [f"x-API-key:  {KEY}\t"]),
        ("/", [f"apikey: {KEY}"]),
        ("/", ["apikey: second-of-alice"]),
        (f"/?apikey={KEY}", []),
        (f"/?a=1&X-Api-Key={KEY}&b=2", []),
        (f"/?%61pikey={KEY.replace('-', '%2D')}", []),
        ("/", [f"Cookie: apikey={KEY}"]),
        ("/", [f"Cookie: a=b; apikey={KEY}; c=d"]),
    ],
)
def test_a_key_is_found_in_every_place(target: str, lines: list[str]) -> None:
    plane = plane_of(EVERYWHERE)
    assert passed(plane, target, *lines).startswith(f"GET {target} HTTP/1.1\r\n")


@for_each(
    "lines",
    [
        ["X-Api-Key:"],
        ["X-Api-Key: nobody"],
        [f"X-Api-Key: {KEY}x"],
        [f"X-Api-Key: {KEY[:-1]}"],
        [f"X-Api-Key: {KEY.upper()}"],
        [f"X-Api-Key: Bearer {KEY}"],
        [f'X-Api-Key: "{KEY}"'],
        [f"X-Api-Key: {KEY}, {KEY}"],
        [f"X-Api-Key: {KEY} {KEY_OF_BOB}"],
        ["X-Api-Key: " + "x" * 5000],
        ["X-Api-Key: alice"],  # a name is no key
        ["X-Api-Key: " + sha256(b"second-of-alice").hexdigest()],  # nor is what the file has of it
        ["X-Api-Key: \xff\xfe"],
    ],
)
def test_what_is_no_key_is_refused(lines: list[str]) -> None:
    plane = plane_of()
    assert "urn:fastgw:fault:credentials_invalid" in refused(plane, "/", *lines)


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("/", []),
        (f"/?X-Api-Key={KEY}", []),
        ("/", [f"Cookie: X-Api-Key={KEY}"]),
        ("/", [f"X_Api_Key: {KEY}"]),
        ("/", [f"Authorization: ApiKey {KEY}"]),
        ("/", ["Connection: x-api-key", f"X-Api-Key: {KEY}"]),
    ],
)
def test_a_key_in_another_place_is_none(target: str, lines: list[str]) -> None:
    plane = plane_of()
    assert "urn:fastgw:fault:credentials_missing" in refused(plane, target, *lines)


@for_each(
    ("target", "lines"),
    [
        ("/", [f"X-Api-Key: {KEY}", f"X-Api-Key: {KEY_OF_BOB}"]),
        ("/", [f"X-Api-Key: {KEY}", f"x-api-key: {KEY}"]),
        ("/", [f"X-Api-Key: {KEY}", "X-Api-Key:"]),
        ("/", [f"X-Api-Key: {KEY}", f"apikey: {KEY}"]),
        (f"/?apikey={KEY}", [f"X-Api-Key: {KEY}"]),
        (f"/?apikey={KEY}&apikey={KEY_OF_BOB}", []),
        (f"/?apikey={KEY}&%61pikey={KEY}", []),
        (f"/?apikey={KEY}", [f"Cookie: apikey={KEY}"]),
        ("/", [f"Cookie: apikey={KEY}; apikey={KEY}"]),
        ("/", [f"Cookie: apikey={KEY}", f"Cookie: apikey={KEY}"]),
    ],
)
def test_two_keys_are_refused_be_they_equal(target: str, lines: list[str]) -> None:
    plane = plane_of(EVERYWHERE)
    received = refused(plane, target, *lines)
    assert "There is more than one API key." in received
    assert "urn:fastgw:fault:credentials_invalid" in received


@pytest.mark.parametrize(
    ("target", "lines", "sent"),
    [
        ("/a", [f"X-Api-Key: {KEY}", "X_Api_Key: twin", "X-B: 1"], ["GET /a HTTP/1.1", "X-B: 1"]),
        (f"/a?apikey={KEY}", [], ["GET /a HTTP/1.1"]),
        (f"/a?x=1&%61pikey={KEY}&y=%41", [], ["GET /a?x=1&y=%41 HTTP/1.1"]),
        ("/a?x", [f"Cookie: a=b; apikey={KEY}; c=d"], ["GET /a?x HTTP/1.1", "Cookie: a=b; c=d"]),
        ("/a", [f"Cookie: apikey={KEY}"], ["GET /a HTTP/1.1"]),
        ("/a", [f"apikey: {KEY}", "Cookie: a=b"], ["GET /a HTTP/1.1", "Cookie: a=b"]),
    ],
)
def test_hidden_keys_do_not_reach_the_upstream(target: str, lines: list[str], sent: list[str]) -> None:
    plane = plane_of({**EVERYWHERE, "hide_credentials": True})
    received = passed(plane, target, *lines)
    assert KEY not in received
    told = [line for line in received.split("\r\n") if line and line.partition(":")[0] in ("X-B", "Cookie")]
    assert [received.split("\r\n")[0], *told] == sent
    assert "api" not in received.lower()


@pytest.mark.parametrize("twin", ["X_Api_Key", "x.api-key"])
def test_another_key_in_a_twin_of_the_field_is_a_second_one(twin: str) -> None:
    """To CGI and its heirs both are `HTTP_X_API_KEY`: the upstream might believe the other."""
    for settings in ({}, EVERYWHERE):
        plane = plane_of(settings)
        passed(plane, "/", f"X-Api-Key: {KEY}")
        for _ in range(2):
            assert ("There is more than one API key.") in refused(
                plane_of(settings), "/", f"X-Api-Key: {KEY}", f"{twin}: other"
            )
        both = plane_of({**settings, "hide_credentials": True})
        assert "other" not in passed(both, "/", f"X-Api-Key: {KEY}", f"{twin}: other")
    passed(plane_of({"key_names": ["X-Api-Key", twin]}), "/", f"{twin}: {KEY}")


def test_a_key_that_is_not_hidden_goes_on() -> None:
    assert f"\r\nX-Api-Key: {KEY}\r\n" in passed(plane_of(), "/", f"X-Api-Key: {KEY}")


def test_hiding_goes_with_one_field_too() -> None:
    assert KEY not in passed(plane_of({"hide_credentials": True}), "/?a=1", f"X-Api-Key: {KEY}")


def test_a_rewritten_path_keeps_what_is_left_of_the_query() -> None:
    settings = {"key_names": ["k"], "key_in": ["query"], "hide_credentials": True}
    route = {"name": "all", "paths": ["/a/*"], "upstream": "u", "strip_prefix": "/a", "filters": {"key_auth": settings}}
    plane = Plane({"routes": [route], "consumers": CONSUMERS})
    assert passed(plane, f"/a/b?k={KEY}&x=1").startswith("GET /b?x=1 HTTP/1.1\r\n")


def test_consumers_are_told_apart() -> None:
    plane = Plane(
        {
            "routes": [{"name": "all", "upstream": "u", "filters": {"key_auth": {}}}],
            "filters": {"headers": {"request": {"set": {"X-Consumer": "{consumer.name}"}}}},
            "consumers": CONSUMERS,
        }
    )
    for key, name in ((KEY, "alice"), (KEY_OF_BOB, "bob"), ("second-of-alice", "alice")):
        for _ in ("found", "remembered"):
            assert f"X-Consumer: {name}\r\n" in passed(plane, "/", f"X-Api-Key: {key}", "X-Consumer: root")


# --- what is remembered ---


def test_a_key_that_is_withdrawn_is_refused_at_once() -> None:
    plane = plane_of()
    passed(plane, "/", f"X-Api-Key: {KEY}")
    passed(plane, "/", f"X-Api-Key: {KEY_OF_BOB}")
    roster = plane.gateway.stock.roster
    roster.use_index(index_of([of("alice")], {}))
    for key in (KEY, KEY_OF_BOB):
        asked(plane, "/", f"X-Api-Key: {key}")
    assert [record.status for record in plane.records[-2:]] == [401, 401]


def test_not_all_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_auth, "REMEMBERED", 100)
    crowd = [of(f"c{n}", key_auth=(ConsumerKey(key=Secret(text=f"key-{n}")),)) for n in range(500)]
    roster = Roster(index_of(crowd, {}))
    keys = Keys(roster)
    for number in [*range(len(crowd)), *range(len(crowd))]:
        assert keys.consumer(b"key-%d" % number) == Consumer(f"c{number}")
        assert keys.consumer(b"wrong-%d" % number) is None
        assert len(keys.found) <= 100
    assert repr(keys).startswith("<Keys: ")
    assert "key-" not in repr(keys)


def test_all_uses_share_what_is_remembered() -> None:
    routes = [{"name": n, "paths": [f"/{n}"], "upstream": "u", "filters": {"key_auth": {}}} for n in "abc"]
    plane = Plane({"routes": routes, "consumers": CONSUMERS})
    chains = [compiled.rules[0][0].route.chain for compiled in plane.gateway.routes if compiled.rules[0]]
    assert len({chain.links[0].keeps[0] for chain in chains}) == 1


# --- nothing of a key is told ---


@pytest.mark.parametrize("lines", [[f"X-Api-Key: {KEY}"], [f"apikey: {KEY}x"], [f"Cookie: apikey={KEY}"]])
def test_no_key_is_told_to_anybody(lines: list[str], caplog: pytest.LogCaptureFixture) -> None:
    plane = plane_of({**EVERYWHERE, "key_names": ["apikey", "X-Api-Key", "plain"]})
    for target in ("/", f"/?plain={KEY}", f"/?%70lain={KEY}", f"/?plain={KEY}x&plain={KEY}"):
        client = asked(plane, target, *lines, f"Referer: http://a/?plain={KEY}")
        assert KEY not in client.received.decode()
    client = asked(plane, f"/?plain={KEY}", f"plain: {KEY}")
    assert KEY not in client.received.decode()
    for waiting in [*plane.pool.waiting]:
        plane.connects()
        assert KEY not in repr(waiting)
    told = reported(plane.records, plane.gateway) + caplog.text
    told += explained(plane.gateway, f"http://a/?plain={KEY}") + explained(plane.gateway, "http://a/", *lines)
    told += explained(plane.gateway, "http://a/", f"plain: {KEY}") + repr(plane.config)
    assert KEY not in told
    assert "consumer" in told
    assert ALICE.name in told


def test_why_is_told_to_those_who_ask() -> None:
    plane = plane_of()
    assert "pass (consumer alice)" in explained(plane.gateway, "http://a/", f"X-Api-Key: {KEY}")
    assert "credentials_missing" in explained(plane.gateway, "http://a/")
    assert "the API key is unknown" in explained(plane.gateway, "http://a/", "X-Api-Key: x")


def test_names_that_belong_to_the_connection_are_no_names_for_keys() -> None:
    for name in ("Host", "connection", "Cookie", "Content-Length"):
        with pytest.raises(Exception, match="is a connection header; expected another header for the key"):
            plane_of({"key_names": [name]})


@pytest.mark.parametrize("first", ["k1", "k2"])
def test_each_of_two_filters_hides_its_own_parameter(first: str) -> None:
    ways = {
        "k1": {"type": "key_auth", "key_in": ["query"], "key_names": ["k1"], "hide_credentials": True},
        "k2": {"type": "key_auth", "key_in": ["query"], "key_names": ["k2"], "hide_credentials": True},
    }
    ordered = {name: ways[name] for name in (first, *(each for each in ways if each != first))}
    plane = Plane({"routes": [{"name": "all", "upstream": "u", "filters": ordered}], "consumers": CONSUMERS})
    assert passed(plane, f"/?a=1&k1={KEY}&k2={KEY}&b=2").startswith("GET /?a=1&b=2 HTTP/1.1\r\n")
