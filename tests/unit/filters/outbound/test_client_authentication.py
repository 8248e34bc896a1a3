"""How the gateway shows a token endpoint who it is."""

from base64 import b64decode
from typing import Any
from urllib.parse import unquote_plus

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fastgw.config.base.value_types import parse_endpoint
from fastgw.config.settings.credentials import BY_SECRET, OAuth2
from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.upstreams import UpstreamTls
from fastgw.filters.outbound.client_authentication import authenticate
from fastgw.jose import KeySet, TokenRules, keys_from_pem, read_token, verify

CLIENT, SECRET = "shop: ä", "50% of + &=:"
URL = "https://idp.example/token?tenant=hidden"


def pem_of(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


KEYS = {
    "RS256": pem_of(rsa.generate_private_key(65537, 2048)),
    "ES256": pem_of(ec.generate_private_key(ec.SECP256R1())),
    "EdDSA": pem_of(ed25519.Ed25519PrivateKey.generate()),
}


def settings(client_auth: str, **more: Any) -> OAuth2:
    given: dict[str, Any] = {"token_url": parse_endpoint(URL), "client_id": Secret(text=CLIENT)}
    if client_auth in BY_SECRET:
        given["client_secret"] = Secret(text=SECRET)
    if client_auth == "private_key_jwt":
        given["client_key"] = Secret(file="/key.pem")
    if client_auth == "certificate":
        given["tls"] = UpstreamTls(certificate="/c.pem", key="/k.pem")
    return OAuth2(client_auth=client_auth, **given, **more)  # type: ignore[arg-type]  # checked by what is tested


def shown(client_auth: str, key: bytes | None = None, **more: Any) -> tuple[dict[str, str], dict[bytes, bytes]]:
    form = {"grant_type": "client_credentials"}
    secret = SECRET if client_auth in BY_SECRET else None
    (ask,) = authenticate(settings(client_auth, **more), CLIENT, secret, key).values()
    fields = dict(ask(form))
    assert form.pop("grant_type") == "client_credentials"
    return form, fields


def client_in(fields: dict[bytes, bytes]) -> tuple[str, str]:
    """As RFC 6749 section 2.3.1 has a server read it."""
    assert list(fields) == [b"Authorization"]
    scheme, _, credentials = fields[b"Authorization"].partition(b" ")
    assert scheme == b"Basic"
    client_id, _, secret = b64decode(credentials, validate=True).decode().partition(":")
    return client_id, secret


def verified(form: dict[str, str], alg: str) -> dict[str, Any]:
    """The claims of an assertion that the client's public key says is its own."""
    public = load_pem_private_key(KEYS[alg], None).public_key()
    keys = keys_from_pem(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    token = read_token(form["client_assertion"].encode(), TokenRules(frozenset({alg})))
    verify(token, KeySet(keys))
    return token.claims()


def test_basic_is_as_it_is_written() -> None:
    """As Kyma's gateway sends it; what stands before the first colon is the client's id."""
    form, fields = shown("basic")
    assert form == {}
    assert ":".join(client_in(fields)) == f"{CLIENT}:{SECRET}"


def test_basic_encoded_is_form_encoded_first() -> None:
    """RFC 6749 section 2.3.1: so an id may have a colon, and both any character."""
    form, fields = shown("basic_encoded")
    assert form == {}
    assert client_in(fields) == ("shop%3A+%C3%A4", "50%25+of+%2B+%26%3D%3A")
    assert tuple(map(unquote_plus, client_in(fields))) == (CLIENT, SECRET)


def test_body_is_in_the_form_alone() -> None:
    assert shown("body") == ({"client_id": CLIENT, "client_secret": SECRET}, {})


@pytest.mark.parametrize(
    ("client_auth", "secret", "tried"),
    [
        ("auto", SECRET, [b"basic_encoded", b"basic", b"body"]),
        ("auto_raw", SECRET, [b"basic", b"basic_encoded", b"body"]),
        ("auto", "plain-1", [b"basic_encoded", b"body"]),
        ("auto_raw", "plain-1", [b"basic_encoded", b"body"]),
        ("basic", "plain-1", [b"basic"]),
    ],
)
def test_what_is_tried_one_after_another(client_auth: str, secret: str, tried: list[bytes]) -> None:
    """Header and body never at once (RFC 6749 section 2.3), and nothing twice that would be the same."""
    client = "shop" if secret == "plain-1" else CLIENT
    ways = authenticate(settings(client_auth), client, secret, None)
    assert [*ways] == tried
    for way in ways.values():
        form: dict[str, str] = {}
        assert bool(way(form)) is not bool(form)


@pytest.mark.parametrize("client_auth", sorted(BY_SECRET))
def test_a_secret_and_an_authorization_of_the_settings_exclude_each_other(client_auth: str) -> None:
    with pytest.raises(ValueError, match="`token_headers` has Authorization, which `client_auth:"):
        settings(client_auth, token_headers={"authorization": Secret(text="Basic a")})


@pytest.mark.parametrize("client_auth", ["none", "certificate"])
def test_without_a_secret_the_id_stands_in_the_form(client_auth: str) -> None:
    """RFC 8705 section 2: a server finds the client by that, and what the certificate must be by the client."""
    assert shown(client_auth) == ({"client_id": CLIENT}, {})


@pytest.mark.parametrize("alg", KEYS)
def test_a_key_signs_an_assertion_that_is_good_once(alg: str) -> None:
    """RFC 7523 section 3: by and about the client, for the token endpoint, with an end and a number of its own."""
    form, fields = shown("private_key_jwt", KEYS[alg])
    assert fields == {}
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assert form["client_id"] == CLIENT
    claims = verified(form, alg)
    assert (claims["iss"], claims["sub"], claims["aud"]) == (CLIENT, CLIENT, "https://idp.example/token")
    assert claims["exp"] == claims["iat"] + 60
    assert verified(shown("private_key_jwt", KEYS[alg])[0], alg)["jti"] != claims["jti"]


def test_an_assertion_is_for_the_issuer_where_the_server_wants_that() -> None:
    form, _ = shown("private_key_jwt", KEYS["ES256"], assertion_audience="https://idp.example")
    assert verified(form, "ES256")["aud"] == "https://idp.example"


@pytest.mark.parametrize("pem", [b"", b"a secret", pem_of(ec.generate_private_key(ec.SECP384R1()))])
def test_a_key_that_cannot_sign_is_refused_and_not_shown(pem: bytes) -> None:
    with pytest.raises(ValueError, match="`client_key` ") as caught:
        shown("private_key_jwt", pem)
    assert "a secret" not in str(caught.value)


def test_an_audience_of_assertions_means_nothing_without_assertions() -> None:
    with pytest.raises(ValueError, match="`assertion_audience` has no effect with `client_auth: basic`"):
        settings("basic", assertion_audience="https://idp.example")
