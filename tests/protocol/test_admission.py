"""Who may pass, asked of a running gateway: addresses, pages of other origins, keys and tokens, groups and scopes."""

from __future__ import annotations

import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.certificates import Certificates, client_tls
from tests.support.client import Response
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway
from tests.support.lanes import VERSIONS, Kind, Lane, Lanes, running
from tests.support.tokens import Signer

APP = b"https://app.example"
ORIGIN = b"Origin: " + APP + b"\r\n"
SECRET = "a shared secret that is at least thirty-two bytes long"
SIGNER = Signer("HS256", secret=SECRET.encode())
WAYS: list[dict[str, Any]] = [
    {"jwt": {"issuer": "https://idp.test", "audiences": ["api"], "algorithms": ["HS256"], "secret": SECRET}},
    {"key_auth": {"key_names": ["X-Key"], "hide_credentials": True}},
    {"basic_auth": {}},
]
WHO = {"X-Consumer": "{consumer.name}", "X-Groups": "{consumer.groups}", "X-Subject": "{claims.sub}"}
USER = {"X-User": "u-{id}", "X-From": "{client_ip} by {scheme}"}
KINDS = {
    "any": Kind(
        route={
            "paths": ["/users/{id}"],
            "methods": ["GET"],
            "filters": {"auth": {"any_of": WAYS}, "headers": {"request": {"set": {**WHO, **USER}}}},
        }
    ),
    "open": Kind(
        route={"filters": {"auth": {"any_of": WAYS, "anonymous": "guest"}, "headers": {"request": {"set": WHO}}}}
    ),
    "staff": Kind(
        route={
            "filters": {
                "auth": {"any_of": WAYS},
                "authorize": {"any_of": [{"groups": {"any": ["staff"]}}, {"scopes": {"all": ["users:read"]}}]},
            }
        }
    ),
}
SETTINGS = {
    "listeners": {
        "main": {"address": "127.0.0.1:0", "trusted_proxies": ["127.0.0.0/8"]},
        "plain": {"address": "127.0.0.1:0", "filters": {"https_redirect": {"port": 8443, "exceptions": ["/up"]}}},
    },
    "consumers": [
        {"name": "alice", "groups": ["staff", "admin"], "key_auth": [{"key": "k-alice"}]},
        {"name": "bob", "basic_auth": [{"username": "bob", "password": "hunter2"}]},
        {"name": "guest", "groups": ["public"]},
    ],
    "filters": {
        "ip": {"deny": ["192.0.2.0/24"], "enforced": True},
        "cors": {"origins": [APP.decode()], "credentials": True},
        "security_headers": {"preset": "api"},
    },
}
KEY = b"X-Key: k-alice\r\n"
BASIC = b"Authorization: Basic %b\r\n" % b64encode(b"bob:hunter2")


@pytest.fixture(scope="module", params=VERSIONS)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    yield from running(
        Lanes(tmp_path_factory.mktemp("admission"), KINDS, count=4, settings=SETTINGS, version=request.param)
    )


@pytest.fixture
def any_of(lanes: Lanes) -> Iterator[Lane]:
    lane = lanes.take("any")
    yield lane
    lane.end()


def token(**claims: Any) -> bytes:
    payload = {"iss": "https://idp.test", "aud": "api", "exp": int(time.time()) + 600, "sub": "u-7", **claims}
    return b"Authorization: Bearer " + SIGNER.token(payload) + b"\r\n"


def refused(lane: Lane, request: bytes, listener: str = "main") -> Response:
    client = lane.client(listener)
    client.send(request)
    return client.read_response(request.partition(b" ")[0])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (KEY, {b"X-Consumer": b"alice", b"X-Groups": b"admin,staff", b"X-Subject": None, b"X-Key": None}),
        (BASIC, {b"X-Consumer": b"bob", b"X-Groups": None, b"X-Subject": None}),
        (b"BEARER", {b"X-Consumer": b"u-7", b"X-Groups": None, b"X-Subject": b"u-7"}),
        (b"Authorization: Bearer nonsense\r\n" + KEY, {b"X-Consumer": b"alice", b"X-Subject": None}),
    ],
)
def test_each_way_lets_in_and_the_upstream_is_told_who_it_is(
    any_of: Lane, fields: bytes, named: dict[bytes, bytes | None]
) -> None:
    """`auth.any_of`, `headers` with values: what the client says under these names never reaches the upstream."""
    forged = b"X-Consumer: root\r\nx_groups: root\r\nX-Subject: root\r\nX-User: root\r\n"
    fields = token() if fields == b"BEARER" else fields
    got, response = any_of.forward(any_of.get(b"/users/7", forged + fields + b"X-Forwarded-For: 203.0.113.9\r\n"))
    assert response.status == 200
    for name, value in named.items():
        assert got.get_all(name) == ([] if value is None else [value])
    assert b"x_groups" not in got
    assert got.get_all(b"X-User") == [b"u-7"]
    assert got.get(b"X-From") == b"203.0.113.9 by http"


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (b"", "credentials_missing"),
        (b"X-Key: k-mallory\r\n", "credentials_invalid"),
        (b"Authorization: Bearer nonsense\r\n", "credentials_invalid"),
    ],
)
def test_a_page_can_read_why_it_is_refused(any_of: Lane, fields: bytes, fault: str) -> None:
    """The 401 asks for each of the ways, and carries the fields of `cors` and `security_headers`."""
    response = refused(any_of, any_of.get(b"/users/7", ORIGIN + fields))
    assert_fault(response, fault)
    asked = [value.partition(b" ")[0] for value in response.get_all(b"WWW-Authenticate")]
    assert asked == [b"Bearer", b"ApiKey", b"Basic"]
    assert response.get(b"Access-Control-Allow-Origin") == APP
    assert response.get(b"Access-Control-Allow-Credentials") == b"true"
    assert response.get(b"X-Content-Type-Options") == b"nosniff"
    assert b"Strict-Transport-Security" not in response


def test_what_nobody_has_judged_does_not_reach_the_upstream(any_of: Lane) -> None:
    """A good key beside a forged token: an upstream that believes tokens would be fooled."""
    got, response = any_of.forward(any_of.get(b"/users/7", KEY + b"Authorization: Bearer forged\r\nX-Other: 1\r\n"))
    assert response.status == 200
    assert b"Authorization" not in got
    assert got.get(b"X-Other") == b"1"
    good = token()
    got, _ = any_of.forward(any_of.get(b"/users/7", good + b"x_key: k-mallory\r\nX-Key: k-mallory\r\n"))
    assert good == b"Authorization: %b\r\n" % (got.get(b"Authorization") or b"")
    assert b"X-Key" not in got
    assert b"x_key" not in got


def test_a_preflight_needs_no_credentials(any_of: Lane) -> None:
    """The route takes GET alone; the preflight is for it all the same, and is not shown to the upstream."""
    asking = ORIGIN + b"Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization\r\n"
    response = refused(any_of, any_of.get(b"/users/7", asking, b"OPTIONS"))
    assert response.status == 204
    assert response.get(b"Access-Control-Allow-Origin") == APP
    assert b"GET" in (response.get(b"Access-Control-Allow-Methods") or b"")
    assert (response.get(b"Vary") or b"").startswith(b"Origin")
    assert any_of.gateway.wait_for_record(host=any_of.host.decode(), method="OPTIONS")["route"] == any_of.name


def test_anonymous_is_who_shows_nothing(lanes: Lanes) -> None:
    lane = lanes.take("open")
    got, response = lane.forward(lane.get(fields=b"X-Consumer: root\r\n"))
    assert response.status == 200
    assert got.get_all(b"X-Consumer") == [b"guest"]
    assert got.get_all(b"X-Groups") == [b"public"]
    for fields in (b"X-Key: k-mallory\r\n", b"Authorization: Negotiate abc\r\n"):
        assert_fault(refused(lane, lane.get(fields=fields)), "credentials_invalid")
    lane.end()


def test_groups_or_scopes(lanes: Lanes) -> None:
    lane = lanes.take("staff")
    for fields in (KEY, token(scope="users:read users:write")):
        assert lane.forward(lane.get(fields=fields))[1].status == 200
    assert_fault(refused(lane, lane.get(fields=BASIC)), "insufficient_scope")
    response = refused(lane, lane.get(fields=token(scope="users:write")))
    assert_fault(response, "insufficient_scope")
    assert b'scope="users:read"' in (response.get(b"WWW-Authenticate") or b"")
    lane.end()


def test_a_denied_address_gets_no_further_whatever_it_shows(any_of: Lane) -> None:
    """As a trusted proxy tells it; the refusal can be read."""
    response = refused(any_of, any_of.get(b"/users/7", KEY + ORIGIN + b"X-Forwarded-For: 192.0.2.9\r\n"))
    assert_fault(response, "client_address_denied")
    assert response.get(b"Access-Control-Allow-Origin") == APP


def test_plain_http_is_sent_to_https(any_of: Lane) -> None:
    response = refused(any_of, any_of.get(b"/users/7?x=1", KEY), "plain")
    assert response.status == 308
    assert response.get(b"Location") == b"https://" + any_of.host + b":8443/users/7?x=1"
    assert_fault(refused(any_of, any_of.get(b"/up"), "plain"), "route_not_found")


# --- over TLS ---

SECURED = {
    "filters": {"https_redirect": {}, "security_headers": {}},
    "consumers": [{"name": "alice", "groups": ["staff"], "certificates": [{"san": "DNS:alice.example"}]}],
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Certificates) -> Iterator[Gateway]:
    """Who has a certificate is known by it; one of their names is what may come in by the side."""
    pair = authority.issue("a.test")
    shown = [{"certificate": pair[0], "key": pair[1]}]
    tls = {"certificates": shown, "client_auth": {"mode": "optional", "ca": authority.ca}}
    side = {"san": {"any": ["DNS:side.example"]}}
    settings = {
        **SECURED,
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0", "tls": tls}, "plain": {"address": "127.0.0.1:0"}},
        "routes": [
            {
                "name": "known",
                "paths": ["/known"],
                "filters": {
                    "auth": {"any_of": [{"key_auth": {}}, {"certificate_auth": {}}]},
                    "headers": {"response": {"set": {"X-Who": "{consumer.name} of {consumer.groups} by {scheme}"}}},
                },
                "respond": {"body": "known"},
            },
            {"name": "side", "filters": {"authorize": {"certificate": side}}, "respond": {"body": "side"}},
        ],
    }
    with Gateway(settings, tmp_path_factory.mktemp("secured")) as gateway:
        yield gateway


def asked(gateway: Gateway, tls: ssl.SSLContext, path: bytes) -> Response:
    with gateway.connect() as client:
        client.sock = tls.wrap_socket(client.sock, server_hostname="a.test")
        return client.exchange(b"GET " + path + b" HTTP/1.1\r\nHost: a.test\r\n\r\n")


def test_a_certificate_says_who_it_is(secured: Gateway, authority: Certificates) -> None:
    alice = client_tls(authority, authority.issue("alice.example"))
    response = asked(secured, alice, b"/known")
    assert response.body == b"known"
    assert response.get(b"X-Who") == b"alice of staff by https"
    assert response.get(b"Strict-Transport-Security") == b"max-age=31536000"
    assert_fault(asked(secured, alice, b"/"), "forbidden")


def test_a_name_in_a_certificate_lets_in(secured: Gateway, authority: Certificates) -> None:
    side = client_tls(authority, authority.issue("side.example"))
    assert asked(secured, side, b"/").body == b"side"
    assert_fault(asked(secured, side, b"/known"), "credentials_invalid")


def test_who_shows_no_certificate_is_asked_for_it(secured: Gateway, authority: Certificates) -> None:
    response = asked(secured, client_tls(authority), b"/known")
    assert_fault(response, "credentials_missing")
    assert [each.partition(b" ")[0] for each in response.get_all(b"WWW-Authenticate")] == [
        b"ApiKey",
        b"ClientCertificate",
    ]


def test_nobody_says_over_plain_http_how_it_came(secured: Gateway) -> None:
    """`https_redirect` for the whole gateway: what comes by TLS passes, and nobody else's word for it counts."""
    with secured.connect("plain") as client:
        response = client.exchange(b"GET /known HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Proto: https\r\n\r\n")
    assert response.status == 308
    assert response.get(b"Location") == b"https://a.test/known"
    assert b"Strict-Transport-Security" not in response
