"""authorize: 401 for nobody, 403 for who may not, and which scopes would help."""

from collections.abc import Mapping
from typing import Any

import pytest

from fastgw import config
from fastgw.filters.api import Consumer, Phase
from fastgw.net.client_certificate import ClientCertificate
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane, probe
from tests.support.table import for_each

ALICE = Consumer("alice", frozenset(("staff", "admin")))
PRINT = "ab" * 32
CERTIFICATE = ClientCertificate(
    subject="CN=alice,O=Example",
    common_name="alice",
    dns_names=("a.example", "b.example"),
    uris=("spiffe://example/alice",),
    emails=("a@example",),
    ip_addresses=("10.0.0.1",),
    fingerprint=PRINT,
    serial="01",
    issuer="CN=ca",
    expires_date=0.0,
)


def answer(
    settings: Mapping[str, Any],
    consumer: Consumer | None = None,
    claims: Mapping[str, Any] | None = None,
    certificate: ClientCertificate | None = None,
) -> bytes:
    """What a client is answered that is known so; empty: it has passed."""

    def identify(exchange: Any) -> None:
        exchange.consumer, exchange.claims, exchange.peer.certificate = consumer, claims or {}, certificate

    plane = Plane({"filters": {"authorize": settings}}, probes=[probe("who", Phase.AUTHENTICATE, request=identify)])
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert bool(plane.pool.waiting) is not bool(client.received)
    return client.received


def status(*of: Any) -> int:
    got = answer(*of)
    return int(got.split(b" ")[1]) if got else 200


@pytest.mark.parametrize("settings", [{}, {"groups": {"none": ["x"]}}, {"none_of": [{"scopes": {"any": ["x"]}}]}])
def test_nobody_is_asked_who_they_are(settings: Mapping[str, Any]) -> None:
    got = answer(settings)
    assert got.startswith(b"HTTP/1.1 401 ")
    assert b'\r\nWWW-Authenticate: Bearer realm="fastgw"\r\n' in got
    assert b"urn:fastgw:fault:credentials_missing" in got


@pytest.mark.parametrize("known", [(ALICE, None, None), (None, {"sub": "x"}, None), (None, None, CERTIFICATE)])
def test_without_conditions_whoever_is_known_may_pass(known: tuple[Any, ...]) -> None:
    assert status({}, *known) == 200


@pytest.mark.parametrize(
    ("groups", "passes"),
    [
        ({"any": ["admin"]}, True),
        ({"any": ["ops", "admin"]}, True),
        ({"any": ["ops"]}, False),
        ({"all": ["admin", "staff"]}, True),
        ({"all": ["admin", "ops"]}, False),
        ({"none": ["ops"]}, True),
        ({"none": ["staff", "ops"]}, False),
        ({"any": ["admin"], "none": ["staff"]}, False),
    ],
)
def test_groups(groups: dict[str, Any], passes: bool) -> None:
    assert status({"groups": groups}, ALICE) == (200 if passes else 403)


def test_a_token_has_no_groups_of_its_own() -> None:
    assert status({"groups": {"any": ["admin"]}}, None, {"sub": "x", "groups": ["admin"]}) == 403


@pytest.mark.parametrize(("names", "passes"), [({"any": ["alice"]}, True), ({"any": ["bob"]}, False)])
def test_consumers(names: dict[str, Any], passes: bool) -> None:
    assert status({"consumers": names}, ALICE) == (200 if passes else 403)


@pytest.mark.parametrize(
    ("claims", "passes"),
    [
        ({"scope": "read write"}, True),
        ({"scp": ["read", "write", "x"]}, True),
        ({"scope": "read"}, False),
        ({"scope": "readwrite"}, False),
        ({"scope": ["read write"]}, False),
        ({"sub": "x"}, False),
    ],
)
def test_scopes(claims: dict[str, Any], passes: bool) -> None:
    assert status({"scopes": {"all": ["read", "write"]}}, ALICE, claims) == (200 if passes else 403)


def test_which_scopes_would_help_is_told() -> None:
    """RFC 6750 section 3.1."""
    got = answer({"scopes": {"all": ["read"], "any": ["a", "b"]}, "realm": "shop"}, None, {"scope": "read"})
    assert got.startswith(b"HTTP/1.1 403 ")
    assert b"urn:fastgw:fault:insufficient_scope" in got
    assert b'\r\nWWW-Authenticate: Bearer realm="shop", scope="read a", error="insufficient_scope"\r\n' in got


def test_a_barred_scope_is_no_lack_of_scopes() -> None:
    got = answer({"scopes": {"none": ["test"]}}, None, {"scope": "test"})
    assert b"urn:fastgw:fault:forbidden" in got
    assert b"WWW-Authenticate" not in got


@for_each(
    ("rule", "value", "passes"),
    [
        ({"any": ["gold"]}, "gold", True),
        ({"any": ["gold"]}, ["silver", "gold"], True),
        ({"any": ["gold"]}, "silver gold", False),
        ({"any": ["gold"]}, None, False),
        ({"any": ["gold"]}, {"gold": True}, False),
        ({"all": ["a", "b"]}, ["b", "c", "a"], True),
        ({"none": ["gold"]}, None, True),
        ({"none": ["gold"]}, ["gold"], False),
        ({"any": [True]}, True, True),
        ({"any": [True]}, "true", False),
        ({"any": [True]}, 1, False),
        ({"any": [1]}, True, False),
        ({"any": [1]}, 1.0, True),
        ({"any": ["1"]}, 1, False),
        ({"any": [2.5]}, [2.5], True),
        ({"any": ["gold"]}, [["gold"]], False),
    ],
)
def test_claims(rule: dict[str, Any], value: Any, passes: bool) -> None:
    settings = {"claims": {"account.tier": rule}}
    assert status(settings, None, {"sub": "x", "account": {"tier": value}}) == (200 if passes else 403)


@for_each(
    ("rule", "passes"),
    [
        ({}, True),
        ({"subject": {"any": ["CN=alice,O=Example"]}}, True),
        ({"subject": {"any": ["CN=alice"]}}, False),
        ({"san": {"any": ["DNS:b.example"]}}, True),
        ({"san": {"all": ["URI:spiffe://example/alice", "email:a@example", "IP:10.0.0.1"]}}, True),
        ({"san": {"any": ["DNS:c.example", "URI:b.example"]}}, False),
        ({"san": {"none": ["DNS:a.example"]}}, False),
        ({"fingerprint_sha256": {"any": [PRINT.upper()]}}, True),
        ({"fingerprint_sha256": {"any": ["00" * 32]}}, False),
        ({"fingerprint_sha256": {"none": [PRINT]}}, False),
    ],
)
def test_certificates(rule: dict[str, Any], passes: bool) -> None:
    assert status({"certificate": rule}, ALICE, None, CERTIFICATE) == (200 if passes else 403)
    assert status({"certificate": rule}, ALICE) == 403


EITHER = {"any_of": [{"groups": {"any": ["admin"]}}, {"scopes": {"any": ["all"]}, "claims": {"vip": {"any": [True]}}}]}


@pytest.mark.parametrize(
    ("consumer", "claims", "passes"),
    [
        (ALICE, {}, True),
        (Consumer("bob"), {"scope": "all", "vip": True}, True),
        (Consumer("bob"), {"scope": "all"}, False),
        (Consumer("bob"), {"vip": True}, False),
        (None, {"scope": "all", "vip": True}, True),
    ],
)
def test_any_of(consumer: Consumer | None, claims: dict[str, Any], passes: bool) -> None:
    assert status(EITHER, consumer, claims) == (200 if passes else 403)


@pytest.mark.parametrize(("claims", "passes"), [({"sub": "x"}, True), ({"banned": True}, False)])
def test_none_of_goes_with_all(claims: dict[str, Any], passes: bool) -> None:
    settings = {"groups": {"any": ["admin"]}, "none_of": [{"claims": {"banned": {"any": [True]}}}]}
    assert status(settings, ALICE, claims) == (200 if passes else 403)


def test_why_is_for_the_log() -> None:
    plane = Plane(
        {"filters": {"authorize": {"groups": {"any": ["ops"]}}}},
        probes=[probe("who", Phase.AUTHENTICATE, request=lambda exchange: setattr(exchange, "consumer", ALICE))],
    )
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert plane.records[0].fault_detail == "the groups: admin, staff; one of ops is required"
    assert b"groups" not in client.received


@pytest.mark.parametrize(
    "settings",
    [
        {"groups": ["admin"]},
        {"groups": {"some": ["admin"]}},
        {"scopes": {"any": ["a b"]}},
        {"scopes": {"any": ['a"']}},
        {"claims": {"": {"any": ["x"]}}},
        {"claims": {"x": {"any": [None]}}},
        {"certificate": {"fingerprint_sha256": {"any": ["ab"]}}},
        {"realm": 'a"b'},
    ],
)
def test_wrong_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(config.ConfigError):
        load_document({**SERVICE, "filters": {"authorize": settings}})
