"""jwt: who shows a token that is good under the policy passes, and nobody else does."""

from __future__ import annotations

import json
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fastgw.config import ConfigError
from fastgw.config.settings.gateway import ConsumerSubject
from fastgw.consumers.index import index_of
from fastgw.filters.api import Consumer, Phase
from fastgw.filters.authentication import token_policy
from fastgw.filters.authentication.token_policy import certificate_of, field_value
from fastgw.gateway.tables import CompileError
from fastgw.jose import TokenRefused
from fastgw.net.client_certificate import ClientCertificate
from tests.support.memory import Plane, Wire, probe
from tests.support.secrecy import explained, reported
from tests.support.tokens import Signer, b64, key_set, signer
from tests.unit.consumers.test_index import of
from tests.unit.filters.policies.test_certificate_auth import certificate
from tests.unit.jose.test_tokens import HOSTILE

RS, OTHER = signer("RS256", "one"), signer("RS256", "other")
SECRET = "s" * 64
SETTINGS = {"issuer": "https://idp.example", "audiences": ["api"], "algorithms": ["RS256"]}
CONSUMERS = [
    {"name": "alice-of-ours", "groups": ["admin"], "jwt": [{"issuer": "https://idp.example", "subject": "alice"}]}
]


@pytest.fixture
def keys(tmp_path: Path) -> str:
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(RS))
    return str(file)


def plane_of(keys: str, consumers: Any = (), probes: Any = (), **more: Any) -> Plane:
    settings = {**SETTINGS, **({"jwks_file": keys} if keys else {}), **more}
    route = {"name": "all", "upstream": "u", "filters": {"jwt": settings}}
    return Plane({"routes": [route], "consumers": list(consumers)}, probes=probes)


def bearer(token: bytes) -> str:
    return f"Authorization: Bearer {token.decode('latin-1')}"


def asked(plane: Plane, *lines: str, target: str = "/") -> Wire:
    client = plane.client()
    client.sends("\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1"))
    return client


def passed(plane: Plane, *lines: str, target: str = "/") -> str:
    """The head that the upstream gets."""
    client = asked(plane, *lines, target=target)
    assert not client.received, client.received
    upstream = plane.connects()
    head = upstream.received.decode()
    upstream.sends(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 204 ")
    return head


def refused(plane: Plane, *lines: str, target: str = "/", status: int = 401) -> str:
    """The answer; nothing is sent on."""
    received = asked(plane, *lines, target=target).received.decode("latin-1")
    assert received.startswith(f"HTTP/1.1 {status} "), received
    if status == 401:
        assert received.count('\r\nWWW-Authenticate: Bearer realm="fastgw"') == 1
    plane.assert_quiet()
    return received


def challenge_in(received: str) -> str:
    return next(line for line in received.split("\r\n") if line.startswith("WWW-Authenticate: "))


# --- what passes ---


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
def test_a_good_token_passes_and_goes_on_to_the_upstream(keys: str, scheme: str) -> None:
    """RFC 9110 section 11.1: the name of the scheme has no case."""
    token = RS.token().decode()
    assert f"Authorization: {scheme}{token}\r\n" in passed(plane_of(keys), f"Authorization: {scheme}{token}")


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
def test_a_shared_secret_may_stand_in_the_file_itself(alg: str) -> None:
    made = Signer(alg, secret=SECRET.encode())
    plane = plane_of("", secret=SECRET, algorithms=[alg])
    passed(plane, bearer(made.token()))
    assert "signature is invalid" in refused(plane, bearer(Signer(alg, secret=b"t" * 64).token()))


@pytest.mark.parametrize("place", ["jwks_file", "secret"])
def test_a_public_key_in_pem_serves_as_well_as_a_set(tmp_path: Path, place: str) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(RS.pem)
    plane = plane_of("", **{place: str(file) if place == "jwks_file" else {"file": str(file)}})
    passed(plane, bearer(RS.token()))
    passed(plane, bearer(RS.token(header={"kid": None})))
    confused = Signer("HS256", "one", secret=RS.pem).token()
    assert "not among the allowed" in refused(plane, bearer(confused))


@pytest.mark.parametrize("write", [b64encode, urlsafe_b64encode, lambda raw: urlsafe_b64encode(raw).rstrip(b"=")])
def test_a_secret_may_be_base64(write: Any) -> None:
    made = Signer("HS256", secret=bytes(range(200, 250)))
    plane = plane_of("", secret=write(made.secret).decode(), secret_is_base64=True, algorithms=["HS256"])
    passed(plane, bearer(made.token()))
    with pytest.raises(CompileError, match="not base64"):
        plane_of("", secret="no base64!", secret_is_base64=True, algorithms=["HS256"])


def test_secrets_that_are_not_text_stand_in_a_set(tmp_path: Path) -> None:
    made = Signer("HS256", "shared", secret=bytes(range(200, 250)))
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(made, RS))
    plane = plane_of(str(file), algorithms=["HS256", "RS256"])
    passed(plane, bearer(made.token()))
    passed(plane, bearer(RS.token()))


PLACES = {"header": None, "cookie": "session", "query": "access_token"}


@pytest.mark.parametrize(
    ("more", "lines", "target"),
    [
        ({"header": "X-Token"}, ["X-Token: $"], "/"),
        ({"header": "X-Token"}, ["x-token: Bearer $"], "/"),
        (PLACES, ["Cookie: a=b; session=$; c=d"], "/"),
        (PLACES, [], "/?a=b&access_token=$"),
        (PLACES, [], "/?access%5ftoken=$"),
        ({"cookie": "session", "query": "access_token"}, ["Authorization: Bearer $"], "/"),
        ({"cookie": "session"}, ["Authorization: Basic YTpi", "Cookie: session=$"], "/"),
    ],
)
def test_a_token_is_found_where_the_settings_say_and_hidden_if_they_say_so(
    keys: str, more: Mapping[str, Any], lines: list[str], target: str
) -> None:
    token = RS.token().decode()
    sent = [line.replace("$", token) for line in lines]
    plane = plane_of(keys, **more)
    for _ in range(2):  # judged, then remembered
        assert token in passed(plane, *sent, target=target.replace("$", token))
    hidden = plane_of(keys, hide_credentials=True, **more)
    for _ in range(2):
        head = passed(hidden, *sent, "X-Other: kept", target=target.replace("$", token))
        assert token not in head
        assert "X-Other: kept\r\n" in head
        assert ("a=b" in head) is ("a=b" in target or any("a=b" in line for line in lines))


# --- what does not ---


def test_who_sends_no_token_is_told_what_is_needed_and_of_no_error(keys: str) -> None:
    """RFC 6750 section 3.1."""
    plane = plane_of(keys, scopes=["write", "read"], realm="the API")
    for lines in ([], ["Authorization: Basic YTpi"], ["Authorization: Digest x", "Authorization: Basic y"]):
        received = asked(plane, *lines).received.decode()
        assert challenge_in(received) == 'WWW-Authenticate: Bearer realm="the API", scope="read write"'
        assert "urn:fastgw:fault:credentials_missing" in received


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_is_refused_with_the_reason(keys: str, name: str) -> None:
    token, _ = HOSTILE[name]
    if b"\n" in token or b"\0" in token:  # then it is no field, and no filter is asked
        assert asked(plane_of(keys), bearer(token)).received.startswith(b"HTTP/1.1 400 ")
        return
    received = refused(plane_of(keys), bearer(token))
    assert 'error="invalid_token"' in received
    assert "urn:fastgw:fault:credentials_invalid" in received
    assert not [part for part in token.split(b".") if len(part) > 8 and part.decode("latin-1") in received]


@pytest.mark.parametrize(
    ("more", "lines", "target"),
    [
        ({}, ["Authorization: Bearer $", "Authorization: Bearer $"], "/"),
        ({}, ["Authorization: Bearer $", "authorization: Basic YTpi"], "/"),
        ({}, ["Authorization: Basic YTpi", "Authorization: Bearer $"], "/"),
        ({"cookie": "session"}, ["Authorization: Bearer $", "Cookie: session=$"], "/"),
        ({"cookie": "session"}, ["Cookie: session=$; session=$"], "/"),
        ({"cookie": "session"}, ["Cookie: session=$", "Cookie: session="], "/"),
        ({"query": "token"}, ["Authorization: Bearer $"], "/?token=$"),
        ({"query": "token"}, [], "/?token=$&%74oken=$"),
        ({"header": "X-Token"}, ["X-Token: $", "X-Token: $"], "/"),
    ],
)
def test_more_than_one_token_can_be_read_in_two_ways(
    keys: str, more: Mapping[str, Any], lines: list[str], target: str
) -> None:
    token = RS.token().decode()
    plane = plane_of(keys, **more)
    for _ in range(2):
        sent = [line.replace("$", token) for line in lines]
        received = refused(plane, *sent, target=target.replace("$", token))
        assert 'error="invalid_request"' in received


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer  x y", "Bearer,"])
def test_a_malformed_field_is_none_or_a_bad_token(keys: str, value: str) -> None:
    refused(plane_of(keys), f"Authorization: {value}")


def test_a_token_of_a_server_that_always_names_its_keys_passes_unless_that_is_refused(keys: str) -> None:
    """As SAP's and Cloud Foundry's do. Another's signature is not made good by the key that the token names."""
    foreign = {"jku": "https://attacker.example/keys", "jwk": OTHER.jwk}
    assert passed(plane_of(keys), bearer(RS.token(header=foreign)))
    forged = OTHER.token(header={"kid": "one", **foreign})
    assert 'error_description="the signature is invalid"' in refused(plane_of(keys), bearer(forged))
    told = refused(plane_of(keys, foreign_keys="refuse"), bearer(RS.token(header=foreign)))
    assert "the header has 'jku'" in told


@pytest.mark.parametrize("exp", [253_402_300_800, 1e18])
def test_a_token_that_ends_behind_the_last_date_passes_again_and_again(keys: str, exp: float) -> None:
    plane = plane_of(keys)
    token = RS.token({"exp": exp})
    assert passed(plane, bearer(token))
    assert passed(plane, bearer(token))
    assert "expires in " in explained(plane.gateway, "http://a/", bearer(token))


def test_who_lacks_a_scope_is_told_which_are_needed(keys: str) -> None:
    """RFC 6750 section 3.1: 403, and the scopes that would do."""
    plane = plane_of(keys, scopes=["read", "write"])
    passed(plane, bearer(RS.token({"scope": "write x read"})))
    passed(plane, bearer(RS.token({"scp": ["read", "write"]})))
    token = RS.token({"scope": "read writer"})
    for _ in range(2):
        received = refused(plane, bearer(token), status=403)
        expected = 'Bearer realm="fastgw", scope="read write", error="insufficient_scope"'
        assert challenge_in(received).startswith(f"WWW-Authenticate: {expected}")
        assert "urn:fastgw:fault:insufficient_scope" in received


RULES: list[tuple[dict[str, Any], Any, bool]] = [
    ({"equals": "a"}, "a", True),
    ({"equals": "a"}, "ab", False),
    ({"equals": "a"}, ["a"], False),
    ({"equals": "a"}, None, False),
    ({"equals": True}, True, True),
    ({"equals": True}, 1, False),
    ({"equals": True}, "true", False),
    ({"equals": 1}, 1, True),
    ({"equals": 1}, True, False),
    ({"equals": 1}, "1", False),
    ({"any_of": ["a", "b"]}, "b", True),
    ({"any_of": ["a", "b"]}, ["x", "a"], True),
    ({"any_of": ["a", "b"]}, ["ab"], False),
    ({"any_of": ["a", "b"]}, [], False),
    ({"any_of": ["a"]}, {"a": 1}, False),
    ({"all_of": ["a", "b"]}, ["b", "x", "a"], True),
    ({"all_of": ["a", "b"]}, ["a"], False),
    ({"all_of": ["a"]}, "a", True),
    ({"none_of": ["a"]}, "b", True),
    ({"none_of": ["a"]}, None, True),
    ({"none_of": ["a"]}, ["b", "a"], False),
    ({"matches": "[a-c]+"}, "abc", True),
    ({"matches": "[a-c]+"}, "abcd", False),
    ({"matches": "a|b"}, "ax", False),
    ({"matches": "[a-c]+"}, "abc\n", False),
    ({"matches": "[0-9]+"}, 12, False),
    ({"matches": ".*@example.com"}, ["x", "a@example.com"], True),
    ({"any_of": ["a"], "none_of": ["b"]}, ["a", "b"], False),
]


@pytest.mark.parametrize(("rule", "value", "holds"), RULES)
def test_claims_must_be_as_the_rules_want_them(keys: str, rule: dict[str, Any], value: Any, holds: bool) -> None:
    """A token that is good but not so is answered 403; a claim within another is found."""
    plane = plane_of(keys, claim_rules=[{"claim": "sub", "equals": "alice"}, {"claim": "deep.roles", **rule}])
    token = RS.token({"deep": {"roles": value}})
    for _ in range(2):
        if holds:
            passed(plane, bearer(token))
        else:
            assert "urn:fastgw:fault:forbidden" in refused(plane, bearer(token), status=403)


# --- who it is ---


def consumer_probe(seen: list[Any]) -> Any:
    def request(exchange: Any) -> None:
        seen.append((exchange.consumer, dict(exchange.claims)))

    return probe("seen", Phase.AUTHORIZE, request=request)


def test_the_consumer_is_found_by_issuer_and_subject_else_called_as_the_subject(keys: str) -> None:
    seen: list[Any] = []
    plane = plane_of(keys, CONSUMERS, [consumer_probe(seen)])
    passed(plane, bearer(RS.token({"x": 1})))
    assert seen[-1][0] == Consumer("alice-of-ours", frozenset({"admin"}))
    assert seen[-1][1]["x"] == 1
    unfit = ("alice-of-ours", "alice-of-ours ", " alice-of-ours", "bob ", "bob\t", "bob\u00a0", "a\nb", "", None)
    for sub, name in (("bob", "bob"), ("bo b", "bo b"), *((each, None) for each in unfit)):
        passed(plane, bearer(RS.token({"sub": sub})))
        assert seen[-1][0] == (Consumer(name) if name else None), sub
    passed(plane, bearer(RS.token({"sub": "s" * 257})))
    assert seen[-1][0] is None
    other = plane_of(keys, CONSUMERS, [consumer_probe(seen)], consumer_claim="user.mail")
    passed(other, bearer(RS.token({"user": {"mail": "a@b"}})))
    assert seen[-1][0] == Consumer("a@b")


@pytest.mark.parametrize("sub", ["alice", "alice-of-ours", "bob"])
def test_without_an_issuer_a_token_leads_to_no_consumer_of_one(keys: str, sub: str) -> None:
    """RFC 8725 section 3.8: the key belongs to nobody in particular, so that its holder could write any issuer."""
    seen: list[Any] = []
    plane = plane_of(keys, CONSUMERS, [consumer_probe(seen)], issuer=None)
    token = bearer(RS.token({"sub": sub}))
    for _ in range(2):
        passed(plane, token)
        assert seen[-1][0] == (None if sub == "alice-of-ours" else Consumer(sub))


def test_a_consumer_that_has_changed_is_found_anew_for_a_token_that_is_remembered(keys: str) -> None:
    seen: list[Any] = []
    plane = plane_of(keys, CONSUMERS, [consumer_probe(seen)])
    token = RS.token()
    passed(plane, bearer(token))
    subject = ConsumerSubject(issuer="https://idp.example", subject="alice")
    plane.gateway.stock.roster.use_index(index_of([of("bob", jwt=(subject,))], {}))
    passed(plane, bearer(token))
    assert [each[0].name for each in seen] == ["alice-of-ours", "bob"]


FIELDS = {"sub": "X-User", "deep.roles": "X-Roles", "n": "X-Number", "o": "X-Object", "gone": "X-Gone"}


def test_claims_go_to_the_upstream_in_fields_that_no_client_can_write(keys: str) -> None:
    """Nor by an underscore, which CGI and its heirs read as a hyphen."""
    plane = plane_of(keys, claims_to_headers=FIELDS)
    token = RS.token({"deep": {"roles": ["a", "b c", "é"]}, "n": 12, "o": {"a": [1, True]}})
    sent = ["X-User: root", "x_user: root", "X-Gone: root", "X_GONE: root", "x-roles: root", "X-Kept: yes"]
    for _ in range(2):
        head = passed(plane, *sent, bearer(token))
        assert ": root\r\n" not in head
        for line in ("X-User: alice", "X-Roles: a,b c,é", "X-Number: 12", 'X-Object: {"a":[1,true]}', "X-Kept: yes"):
            assert head.count(f"{line}\r\n") == 1
        assert "-gone:" not in head.lower()
        assert "_gone:" not in head.lower()


@pytest.mark.parametrize(
    "value",
    [
        "a\r\nX-Admin: 1",
        "a\nb",
        "a\rb",
        "a\0b",
        "a\x7fb",
        " a",
        "a ",
        "\ta",
        ["a,b"],
        ['a"b'],
        ["user", " admin "],
        ["user", "admin\u00a0"],
        ["a\r\n"],
        "a\x1bb",
    ],
)
def test_a_claim_that_cannot_stand_in_a_field_is_a_reason_to_refuse(keys: str, value: Any) -> None:
    received = refused(plane_of(keys, claims_to_headers={"role": "X-Role"}), bearer(RS.token({"role": value})))
    assert "the claim 'role' cannot be sent in a header" in received


def test_values_of_fields_are_what_readers_of_them_expect() -> None:
    for value, written in (
        (None, b""),
        ("", b""),
        ([], b""),
        (True, b"true"),
        ([1, "b"], b"1,b"),
        ("a,b", b"a,b"),
        (10**40, b"1" + b"0" * 40),
    ):
        assert field_value("x", value) == written
    assert field_value("x", [["a"], {"b": 1}]) == b'[["a"],{"b":1}]'
    with pytest.raises(TokenRefused):
        field_value("x", ["a", "b,c"])


@pytest.mark.parametrize("twin", ["X_Auth_Token", "x.auth-token"])
@pytest.mark.parametrize("more", [{}, {"cookie": "session"}])
def test_another_token_in_a_twin_of_the_field_can_be_read_in_two_ways(
    keys: str, twin: str, more: Mapping[str, Any]
) -> None:
    """To CGI and its heirs both are `HTTP_X_AUTH_TOKEN`: the upstream might believe the other."""
    token = RS.token().decode()
    plane = plane_of(keys, header="X-Auth-Token", **more)
    for line in (f"X-Auth-Token: {token}", *([f"Cookie: session={token}"] if more else [])):
        passed(plane, line)
        for _ in range(2):
            assert 'error="invalid_request"' in refused(plane, line, f"{twin}: other")
        hiding = plane_of(keys, header="X-Auth-Token", hide_credentials=True, **more)
        assert "other" not in passed(hiding, line, f"{twin}: other")


# --- what is remembered ---


def verifications(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every token that is verified from now on."""
    seen: list[bytes] = []
    verify = token_policy.verify

    def counting(token: Any, keys: Any) -> Any:
        seen.append(token.signed)
        return verify(token, keys)

    monkeypatch.setattr(token_policy, "verify", counting)
    return seen


BOUND = "ab" * 32


@pytest.mark.parametrize("place", [{}, {"header": "X-Token"}], ids=str)
def test_a_token_that_is_bound_to_a_certificate_is_good_on_its_connections_alone(
    keys: str, place: dict[str, Any]
) -> None:
    """RFC 8705 section 3: also where the token is remembered from a connection that had the certificate."""
    shown: list[ClientCertificate | None] = []
    tls = probe("tls", Phase.OBSERVE, request=lambda exchange: setattr(exchange.peer, "certificate", shown[-1]))
    plane = plane_of(keys, probes=[tls], **place)
    token = RS.token({"cnf": {"x5t#S256": b64(bytes.fromhex(BOUND)).decode()}})
    line = f"X-Token: {token.decode()}" if place else bearer(token)
    own, other = certificate(fingerprint=BOUND), certificate()
    for each, good in [(None, 0), (other, 0), (own, 1), (own, 1), (other, 0), (None, 0), (own, 1)]:
        shown.append(each)
        if good:
            passed(plane, line)
        else:
            assert "bound to another client certificate" in challenge_in(refused(plane, line))


@pytest.mark.parametrize(
    "bond",
    [
        {},
        [],
        "me",
        False,
        {"x5t#S256": ""},
        {"x5t#S256": None},
        {"x5t#S256": 7},
        {"x5t#S256": "AAAA"},
        {"x5t#S256": "\ud800"},
        {"x5t#S256": b64(bytes(32)).decode() + "="},
        {"x5t#S256": b64(bytes(33)).decode()},
        {"jkt": b64(bytes(32)).decode()},
        {"x5t#S256": b64(bytes(32)).decode(), "jkt": b64(bytes(32)).decode()},
        {"jwk": {"kty": "oct"}},
    ],
    ids=str,
)
def test_a_bond_that_cannot_be_looked_at_lets_nobody_in(keys: str, bond: Any) -> None:
    shown = certificate(fingerprint="00" * 32)
    tls = probe("tls", Phase.OBSERVE, request=lambda exchange: setattr(exchange.peer, "certificate", shown))
    refused(plane_of(keys, probes=[tls]), bearer(RS.token({"cnf": bond})))
    with pytest.raises(TokenRefused):
        certificate_of({"cnf": bond})


def test_a_token_is_verified_once_and_then_remembered(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = verifications(monkeypatch)
    plane = plane_of(keys)
    token = RS.token()
    for _ in range(5):
        passed(plane, bearer(token))
    assert len(seen) == 1
    with_nothing_remembered = plane_of(keys, cache={"ttl": 0})
    for _ in range(3):
        passed(with_nothing_remembered, bearer(token))
    assert len(seen) == 4


SPELLINGS = ["Bearer {}", "bearer {}", "bEaReR {}", "Bearer  {}", "BEARER     {}"]


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        ({}, [f"Authorization: {each}" for each in SPELLINGS]),
        ({"cookie": "at"}, [*(f"Authorization: {each}" for each in SPELLINGS), "Cookie: at={}"]),
        (
            {"header": "X-Token", "cookie": "at"},
            ["X-Token: {}", "Cookie: at={}", *(f"X-Token: {s}" for s in SPELLINGS)],
        ),
    ],
)
def test_a_token_in_many_spellings_is_one(
    keys: str, monkeypatch: pytest.MonkeyPatch, more: Mapping[str, Any], lines: list[str]
) -> None:
    """Else one good token could make a worker forget all others, and verify for each request."""
    seen = verifications(monkeypatch)
    token = RS.token().decode()
    for order in (lines, lines[::-1]):
        seen.clear()
        plane = plane_of(keys, cache={"entries": 1}, **more)
        for line in order * 2:
            passed(plane, line.format(token))
        assert len(seen) == 1


def test_what_one_policy_accepted_never_satisfies_another(keys: str) -> None:
    """Nor on the same route under another name, nor after a reload that changes the policy."""
    token = bearer(RS.token({"aud": ["api", "app"], "scope": "read"}))
    jwt = {**SETTINGS, "jwks_file": keys}
    routes = [
        {"name": f"{number}", "paths": [f"/{number}"], "upstream": "u", "filters": {"jwt": {**jwt, **more}}}
        for number, more in enumerate([{}, {"audiences": ["app"]}, {"audiences": ["other"]}, {"scopes": ["write"]}])
    ]
    plane = Plane({"routes": routes})
    for _ in range(2):
        passed(plane, token, target="/0")
        passed(plane, token, target="/1")
        refused(plane, token, target="/2")
        refused(plane, token, target="/3", status=403)
    plane.adopts({"routes": [{"name": "0", "upstream": "u", "filters": {"jwt": {**jwt, "issuer": "https://other"}}}]})
    refused(plane, token, target="/0")


def test_equal_policies_share_what_they_remember_also_after_a_reload(
    keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = verifications(monkeypatch)
    jwt = {**SETTINGS, "jwks_file": keys}
    routes = [
        {"name": f"{number}", "paths": [f"/{number}"], "upstream": "u", "filters": {"jwt": jwt}} for number in range(3)
    ]
    plane = Plane({"routes": routes})
    token = bearer(RS.token())
    for number in range(3):
        passed(plane, token, target=f"/{number}")
    plane.adopts({"routes": [{"name": "new", "upstream": "u", "filters": {"jwt": jwt}}]})
    passed(plane, token)
    assert len(seen) == 1


def test_a_token_ends_where_it_says_though_it_is_remembered(keys: str) -> None:
    plane = plane_of(keys, leeway=0)
    ends = time.time() + 1.0
    token = bearer(RS.token({"exp": ends, "iat": None}))
    passed(plane, token)
    passed(plane, token)
    while time.time() <= ends + 0.05:  # the plane may look at a clock of some milliseconds
        pass
    assert "the token has expired" in refused(plane, token)


def test_a_key_that_is_taken_from_the_file_ends_what_was_verified_with_it(tmp_path: Path) -> None:
    """A filter that has read a file is built anew when the file changes; what it remembered is of another policy."""
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(RS, OTHER))
    jwt = {**SETTINGS, "jwks_file": str(file)}
    document = {"routes": [{"name": "all", "upstream": "u", "filters": {"jwt": jwt}}]}
    plane = Plane(document)
    token = bearer(RS.token())
    passed(plane, token)
    file.write_bytes(key_set(OTHER))
    plane.adopts(document)
    assert "unknown key" in refused(plane, token)
    passed(plane, bearer(OTHER.token()))


# --- what is told, and what never is ---


def test_explain_says_who_and_how_long_or_why_not_and_never_shows_the_token(keys: str) -> None:
    plane = plane_of(keys, CONSUMERS)
    token = RS.token()
    told = explained(plane.gateway, "http://a/", bearer(token))
    assert "consumer alice-of-ours, expires in 3" in told
    bad = RS.token({"exp": 1})
    assert "the token has expired" in explained(plane.gateway, "http://a/", bearer(bad))
    assert "the token is missing" in explained(plane.gateway, "http://a/")
    for each in (token, bad):
        for part in each.decode().split("."):
            assert part not in explained(plane.gateway, "http://a/", bearer(each))


def test_no_token_and_no_secret_is_shown_anywhere(tmp_path: Path) -> None:
    made = Signer("HS256", secret=SECRET.encode())
    more = {"cookie": "session", "query": "tok", "header": "X-Own"}
    plane = plane_of("", secret=SECRET, algorithms=["HS256"], **more)
    good, bad = made.token().decode(), Signer("HS256", secret=b"x" * 64).token().decode()
    for token in (good, bad):
        for lines, target in (([f"X-Own: {token}"], "/"), ([f"Cookie: session={token}"], "/"), ([], f"/?tok={token}")):
            asked(plane, *lines, target=target)
            told = explained(plane.gateway, f"http://a{target}", *lines)
            assert token not in told
            assert token.rpartition(".")[2] not in told
    told = reported(plane.records, plane.gateway) + repr(plane.config) + repr(plane.gateway.routes)
    assert SECRET not in told
    assert good not in told
    assert bad not in told


# --- what the settings refuse ---


def wrong(keys: str, **more: Any) -> str:
    with pytest.raises(Exception) as refusal:  # noqa: PT011 - of which kind is the loader's affair
        plane_of(keys, **more)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"secret": SECRET}, "there are `jwks_file` and `secret`"),
        ({"jwks_file": None}, "there are no keys"),
        (
            {"jwks_file": None, "jwks_uri": "https://idp.example/keys", "algorithms": ["HS256"]},
            ("` needs a shared `secret`; a `jwks_uri` has public keys only"),
        ),
        ({"algorithms": []}, "at least one"),
        ({"algorithms": ["none"]}, "none"),
        ({"algorithms": ["ES256"]}, "for ES256; expected a public key EC P-256; it has keys for RS256, RS384"),
        ({"jwks_file": None, "secret": "short"}, "less than 32 bytes"),
        (
            {"jwks_file": None, "secret": "s" * 32, "algorithms": ["HS512"]},
            "for HS512; expected a shared secret of at least 64 bytes; it has keys for HS256",
        ),
        ({"jwks_file": None, "secret": RS.pem.decode(), "algorithms": ["HS256"]}, "it contains no key for HS256"),
        ({"header": None}, "no source for the token; expected `header`, `cookie` or `query`"),
        ({"header": "Content-Length"}, "is a connection header; expected another header for the token"),
        ({"claims_to_headers": {"sub": "Authorization"}}, "cannot be set by a filter; expected another header"),
        ({"claims_to_headers": {"sub": "Host"}}, "cannot be set by a filter; expected another header"),
        ({"claims_to_headers": {"a": "X-User", "b": "x_user"}}, "two values are sent in `"),
        ({"claims_to_headers": {"sub": "X_Forwarded_For"}}, "cannot be set by a filter; expected another header"),
        ({"claims_to_headers": {"a..b": "X-User"}}, "is not a valid claim path"),
        (
            {"claim_rules": [{"claim": "a"}]},
            ("the claim has no rule; expected `equals`, `any_of`, `all_of`, `none_of` or `matches`"),
        ),
        ({"claim_rules": [{"claim": "a", "matches": "("}]}, "missing"),
        ({"scopes": ["a b"]}, "not a scope"),
        ({"tls": {"verify": False}}, "no `jwks_uri`"),
        ({"realm": 'a"b'}, "realm"),
    ],
)
def test_settings_that_make_no_sense_are_refused(keys: str, more: Mapping[str, Any], reason: str) -> None:
    settings = {
        key: value for key, value in {"jwks_file": keys, **more}.items() if value is not None or key == "header"
    }
    told = wrong("", **settings)
    assert reason in told
    assert "BEGIN PUBLIC" not in told


def test_a_key_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    for content, reason in (
        (b"nonsense", "it is neither a JWKS (JSON) nor PEM"),
        (b"{}", "no list `keys`"),
        (json.dumps({"keys": [RS.jwk | {"use": "enc"}]}).encode(), "key 1: its `use` is not sig"),
    ):
        file = tmp_path / "bad.json"
        file.write_bytes(content)
        assert reason in wrong(str(file))


# --- keys of consumers ---

FIRST, SECOND = signer("HS256", "k"), signer("ES256", "k")


def keyed(name: str, key_id: str, key: str, algorithm: str = "HS256", **more: Any) -> dict[str, Any]:
    return {"name": name, "jwt": [{"key_id": key_id, "algorithm": algorithm, "key": key, **more}]}


def keyed_plane(consumers: Any, by: str = "iss", probes: Any = (), algorithms: Any = ("HS256", "ES256")) -> Plane:
    settings = {"algorithms": algorithms, "consumer_keys": by, "audiences": ["api"]}
    route = {"name": "all", "upstream": "u", "filters": {"jwt": settings}}
    return Plane({"routes": [route], "consumers": list(consumers)}, probes=probes)


@pytest.mark.parametrize("by", ["iss", "kid", "app.key"])
def test_a_token_is_of_the_consumer_whose_key_has_signed_it(by: str) -> None:
    seen: list[Any] = []
    key = "k" if by == "kid" else "https://idp.example"
    consumers = [keyed("ann", key, SECRET), keyed("bob", "other", "t" * 64)]
    plane = keyed_plane(consumers, by, [consumer_probe(seen)])
    token = Signer("HS256", "k", SECRET.encode()).token({"app": {"key": key}})
    for _ in range(2):  # judged, then remembered
        passed(plane, bearer(token))
    assert [who.name for who, _ in seen] == ["ann", "ann"]


def test_the_key_of_another_consumer_does_not_do() -> None:
    plane = keyed_plane([keyed("ann", "a", SECRET), keyed("bob", "b", "t" * 64)], "kid")
    refused(plane, bearer(Signer("HS256", "b", SECRET.encode()).token()))
    refused(plane, bearer(Signer("HS256", "c", SECRET.encode()).token()))
    refused(plane, bearer(Signer("HS256", None, SECRET.encode()).token()))


def test_a_key_is_for_its_algorithm_alone() -> None:
    plane = keyed_plane([keyed("ann", "k", SECRET)], "kid", algorithms=["HS256", "HS512"])
    refused(plane, bearer(Signer("HS512", "k", SECRET.encode()).token()))
    refused(plane, bearer(SECOND.token()))


def test_keys_may_be_base64_pem_or_a_jwk() -> None:
    raw = bytes(range(100, 164))
    consumers = [
        keyed("ann", "a", b64encode(b"{" + raw).decode(), secret_is_base64=True),
        keyed("bob", "k", json.dumps(SECOND.jwk), "ES256"),
        keyed("eve", "p", SECOND.pem.decode(), "ES256"),
    ]
    plane = keyed_plane(consumers, "kid")
    passed(plane, bearer(Signer("HS256", "a", b"{" + raw).token()))
    passed(plane, bearer(SECOND.token()))


def test_a_key_that_is_taken_away_ends_its_tokens() -> None:
    plane = keyed_plane([keyed("ann", "k", SECRET)], "kid")
    token = bearer(Signer("HS256", "k", SECRET.encode()).token())
    passed(plane, token)
    plane.gateway.stock.roster.use_index(index_of((), {}))
    refused(plane, token)


@pytest.mark.parametrize(
    ("consumers", "wrong"),
    [
        ([keyed("ann", "a", SECRET), keyed("bob", "a", "t" * 64)], "the key_id of a token key is already used at"),
        ([keyed("ann", "a", "short")], "a shared secret of less than 32 bytes"),
        ([keyed("ann", "a", SECRET, "RS256")], "it is neither a JWKS (JSON) nor PEM"),
        ([keyed("ann", "a", SECOND.pem.decode(), "RS256")], "not a key for RS256"),
        ([{"name": "ann", "jwt": [{"issuer": "i", "subject": "s", "key_id": "a"}]}], "expected `issuer` and `subject`"),
        ([{"name": "ann", "jwt": [{"key_id": "a"}]}], "expected `issuer` and `subject`"),
    ],
)
def test_check_refuses_keys_that_do_not_do(consumers: Any, wrong: str) -> None:
    with pytest.raises(ConfigError) as error:
        keyed_plane(consumers)
    assert wrong in str(error.value)
    assert SECRET not in str(error.value)
