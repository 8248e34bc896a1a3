"""Keys: which of a set can be used and why the others cannot; PEM files; shared secrets; where claims stand."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed448
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from fastgw.jose import (
    ALGORITHMS,
    Expected,
    TokenRefused,
    UnusableKey,
    check_claims,
    claim_path,
    find_claim,
    key_from_secret,
    keys_from_pem,
    read_keys,
    read_set,
    scopes_of,
)
from fastgw.jose.strict import members, unencoded
from tests.support.table import for_each
from tests.support.tokens import Signer, b64, key_set, number, signer

RS, ES, ED, HS = signer("RS256", "one"), signer("ES256", "two"), signer("EdDSA", "three"), signer("HS256", "four")
WEAK = Signer("RS256", "weak", bits=1024)


def without(jwk: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in jwk.items() if name not in names}


def off_curve() -> dict[str, Any]:
    return ES.jwk | {"y": number(12345, 32)}


UNUSABLE: dict[str, tuple[Any, str]] = {
    "text": ("key", "not a JSON object"),
    "null": (None, "not a JSON object"),
    "nothing in it": ({}, "no `kty`"),
    "kty as a number": ({"kty": 1}, "`kty` is not a string"),
    "kty in lower case": (RS.jwk | {"kty": "rsa"}, "its `kty` is unknown"),
    "kty of the future": (RS.jwk | {"kty": "AKP"}, "its `kty` is unknown"),
    "for encryption": (RS.jwk | {"use": "enc"}, "`use` is not sig"),
    "use null": (RS.jwk | {"use": None}, "`use` is not sig"),
    "use in capitals": (RS.jwk | {"use": "SIG"}, "`use` is not sig"),
    "key_ops without verify": (RS.jwk | {"key_ops": ["sign"]}, "does not include `verify`"),
    "key_ops to wrap": (RS.jwk | {"key_ops": ["wrapKey"]}, "does not include `verify`"),
    "key_ops empty": (RS.jwk | {"key_ops": []}, "does not include `verify`"),
    "key_ops as text": (RS.jwk | {"key_ops": "verify"}, "not a list"),
    "key_ops twice": (RS.jwk | {"key_ops": ["verify", "verify"]}, "duplicate"),
    "kid as a number": (RS.jwk | {"kid": 7}, "its `kid` is not a string"),
    "kid null": (RS.jwk | {"kid": None}, "`kid` is null"),
    "alg of encryption": (RS.jwk | {"alg": "RSA-OAEP"}, "its `alg` is not a signature algorithm"),
    "alg none": (RS.jwk | {"alg": "none"}, "its `alg` is not a signature algorithm"),
    "alg of another type": (RS.jwk | {"alg": "ES256"}, "its `alg` does not match its key type"),
    "alg of a secret": (RS.jwk | {"alg": "HS256"}, "its `alg` does not match its key type"),
    "alg of another curve": (ES.jwk | {"alg": "ES384"}, "its `alg` does not match its key type"),
    "alg as a list": (RS.jwk | {"alg": ["RS256"]}, "`alg` is not a string"),
    "private": (RS.jwk | {"d": "AQAB"}, "it contains the private key: anyone who reads the JWKS can sign tokens"),
    "RSA of 1024 bits": (WEAK.jwk, "1024 bits"),
    "RSA of 16384 bits": (RS.jwk | {"n": number(2**16383 + 1)}, "at most 8192"),
    "RSA without n": (without(RS.jwk, "n"), "no `n`"),
    "RSA with an empty n": (RS.jwk | {"n": ""}, "no `n`"),
    "RSA with an even n": (RS.jwk | {"n": number(2**2047)}, "it is not a valid RSA key"),
    "RSA without e": (without(RS.jwk, "e"), "no `e`"),
    "RSA with an e of 1": (RS.jwk | {"e": "AQ"}, "it is not a valid RSA key"),
    "RSA with an even e": (RS.jwk | {"e": "Ag"}, "it is not a valid RSA key"),
    "RSA with a huge e": (RS.jwk | {"e": RS.jwk["n"]}, "it is not a valid RSA key"),
    "RSA with padding in n": (RS.jwk | {"n": RS.jwk["n"] + "=="}, "`n` is not base64url"),
    "RSA with n as a number": (RS.jwk | {"n": 5}, "`n` is not a string"),
    "EC off its curve": (off_curve(), "not on its curve"),
    "EC of nought": (ES.jwk | {"x": number(0, 32), "y": number(0, 32)}, "not on its curve"),
    "EC of an unknown curve": (ES.jwk | {"crv": "P-224"}, "its `crv` is unknown"),
    "EC without a curve": (without(ES.jwk, "crv"), "its `crv` is unknown"),
    ("EC with a short x"): (
        ES.jwk | {"x": b64(b"\1" * 31).decode()},
        "its `x` or `y` has the wrong length for its curve",
    ),
    ("EC with a long y"): (
        ES.jwk | {"y": b64(b"\0" + b"\1" * 32).decode()},
        "its `x` or `y` has the wrong length for its curve",
    ),
    "EC of the wrong curve": (ES.jwk | {"crv": "secp256k1"}, "not on its curve"),
    "OKP to agree on keys": (ED.jwk | {"crv": "X25519"}, "not Ed25519"),
    "OKP Ed448": (ED.jwk | {"crv": "Ed448"}, "not Ed25519"),
    "OKP too short": (ED.jwk | {"x": b64(b"\1" * 31).decode()}, "it is not a valid Ed25519 key"),
    "a secret": (HS.jwk, "it is a shared secret (`kty: oct`), which must not be in a public JWKS"),
}


@for_each("name", UNUSABLE)
def test_a_key_that_cannot_be_used_is_passed_over_with_the_reason_and_the_others_are_kept(name: str) -> None:
    """RFC 7517 section 5: what is not understood in a set is ignored."""
    jwk, reason = UNUSABLE[name]
    keys = read_set(key_set(ES, RS, ED).replace(b"]", b"," + json.dumps(jwk).encode() + b"]"))
    assert [key.kid for key in keys.keys] == ["two", "one", "three"]
    assert len(keys.passed_over) == 1
    assert str(keys.passed_over[0]).startswith("key 4")
    assert reason in str(keys.passed_over[0])


def test_a_key_without_use_and_alg_serves_all_that_its_type_allows_and_one_with_alg_only_that() -> None:
    keys = read_set(key_set(RS.jwk, RS.jwk | {"alg": "PS384", "use": "sig", "key_ops": ["verify", "x"]}, ES.jwk)).keys
    assert [key.algorithms for key in keys] == [
        {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
        {"PS384"},
        {"ES256"},
    ]
    assert keys[0].mark == keys[1].mark != keys[2].mark


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "is not valid JSON"),
        (b"<html>", "is not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no list"),
        (b'{"keys":{}}', "no list"),
        (b'{"keys":[],"keys":[]}', "has a duplicate member"),
        (b'{"keys":[{"kty":"RSA","kty":"EC"}]}', "has a duplicate member"),
        (b'{"error":"down for maintenance"}', "no list"),
        (b'{"keys":"\xff"}', "not UTF-8"),
    ],
)
def test_what_is_no_key_set_is_refused_as_a_whole(raw: bytes, reason: str) -> None:
    with pytest.raises(UnusableKey, match=reason):
        read_set(raw)


def test_a_set_may_be_empty_or_one_key_and_is_bounded() -> None:
    assert len(read_set(b'{"keys":[]}')) == 0
    assert [key.kid for key in read_set(json.dumps(ES.jwk).encode()).keys] == ["two"]
    crowd = read_set(key_set(*[ES] * 400))
    assert len(crowd) == 256
    assert [str(each) for each in crowd.passed_over] == ["key 257 (two): the JWKS has more than 256 keys"]


def test_what_is_shown_of_a_passed_over_key_can_be_printed() -> None:
    told = str(read_set(key_set({"kty": "x", "kid": "a\nb"}, {"kty": "x", "kid": "k" * 65})).passed_over)
    assert "\n" not in told
    assert "kkk" not in told


def test_secrets_of_a_file_serve_the_algorithms_that_they_are_long_enough_for() -> None:
    """RFC 7518 section 3.2: as long as the hash at least."""
    for length, serves in ((32, {"HS256"}), (48, {"HS256", "HS384"}), (64, {"HS256", "HS384", "HS512"})):
        assert key_from_secret(b"x" * length).algorithms == serves
        jwk = Signer("HS256", "k", secret=b"\xff" * length).jwk
        assert read_set(json.dumps(jwk).encode(), symmetric=True).keys[0].algorithms == serves
    with pytest.raises(UnusableKey, match="less than 32 bytes"):
        key_from_secret(b"x" * 31)
    short = Signer("HS256", "k", secret=b"x" * 32).jwk | {"alg": "HS512"}
    assert ("its `alg` does not match its key type") in str(
        read_set(json.dumps(short).encode(), symmetric=True).passed_over
    )


def public_der(made: Signer) -> bytes:
    raw: bytes = made.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return raw


def ssh(made: Signer) -> bytes:
    raw: bytes = made.key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return raw


@pytest.mark.parametrize(
    ("name", "public"),
    {
        "PEM": RS.pem,
        "PEM behind blanks": b"  \n" + RS.pem,
        "ssh-rsa": ssh(RS),
        "ecdsa-sha2": ssh(ES),
        "JWK set": key_set(RS),
        "JWK": json.dumps(RS.jwk).encode(),
        "DER": public_der(RS),
        "DER, EC": public_der(ES),
        "base64url of DER": b64(public_der(RS)),
        "base64 of DER": b"".join(RS.pem.splitlines()[1:-1]),
        "base64 of DER in lines": b"\n".join(ES.pem.splitlines()[1:-1]),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_public_is_no_shared_secret(name: str, public: bytes) -> None:
    """RFC 8725 section 2.1: everybody could sign."""
    with pytest.raises(UnusableKey, match="cannot be a shared secret"):
        key_from_secret(public)


def certificate(made: Signer) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idp")])
    today = datetime.now(UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(made.key.public_key())
    built = built.serial_number(1).not_valid_before(today - timedelta(days=9)).not_valid_after(today - timedelta(1))
    return built.sign(made.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_pem_file_has_public_keys_and_certificates_with_any_text_between() -> None:
    raw = b"# our provider\n" + RS.pem + b"\n" + ES.pem + b"text\n" + ED.pem + certificate(RS)
    keys = keys_from_pem(raw)
    assert [key.kty for key in keys] == ["RSA", "EC", "OKP", "RSA"]
    assert [key.mark for key in keys] == [each.mark for each in read_set(key_set(RS, ES, ED, RS)).keys]
    assert [key.kid for key in keys] == [None] * 4
    assert [key.mark for key in read_keys(raw, symmetric=False).keys] == [key.mark for key in keys]
    assert len(read_keys(b" \n" + key_set(RS), symmetric=False)) == 1


def private_pem(made: Signer) -> bytes:
    raw: bytes = made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return raw


def public_pem(key: Any) -> bytes:
    raw: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return raw


# Made once: looking for its primes takes a second.
DSA = b"""\
-----BEGIN PUBLIC KEY-----
MIIBtjCCASsGByqGSM44BAEwggEeAoGBAOKsn8Hp2v9K4g5otVzG9Yg7ELRODDXm
XKLd0XEuiwLcPtSA4++SajaKYDaHcHMhXMfBNUfl/p50SBftQQkYW1IoPLY+50lp
DYbQew1heNmWB0VVUpZ7lODlMbzI7n0l7f1e8KrbP2jK2gdUGKp8pD6J0ibRzHwh
1Ygs5dZSthm7AhUAsEYw7a65ISARcu6pQFEVt7UoGAsCgYAcWHmKVc07uQes7abr
m+KLRWvgR8woG1KtR9XqNKj+BwKEksZpS0FDPDhjdAT5RkZlG8hSNJyRUetzEsUJ
7IIAsEoLaCJtqxWSL//T2jyJWAe28H9DE/ljNf0rWsdCvSuByNd0H9kYEZkdaefK
gydEKFRh9Bps8kFmCSL173CGNwOBhAACgYADBzZ8MwqI9qCk5Kw1X0yO1iP5PvvQ
ONWdHC9mfXx0TlpowaI2ltBXrP3uECXUXO6ScZxCNauLl1tvPoqugCj2lJaABcJx
VobOSHk1ehez5JUbQTfZ4PUwIIpqZaM+8fAo1VAoa7ZRmM1xtVziQI7l5WXhHn/k
ULsYg3K4xwh1aQ==
-----END PUBLIC KEY-----
"""


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "neither a JWKS"),
        (b"hello", "neither a JWKS"),
        (RS.pem.replace(b"END", b"END X"), "neither a JWKS"),
        (private_pem(RS), "private key"),
        (RS.pem + private_pem(ES), "private key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "it contains a key that cannot be parsed"),
        (b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", "it contains a key that cannot be parsed"),
        (b"-----BEGIN DH PARAMETERS-----\nAAAA\n-----END DH PARAMETERS-----\n", "neither a public key"),
        (WEAK.pem, "1024 bits"),
        (public_pem(ed448.Ed448PrivateKey.generate()), "it contains a key of a type that is not supported for JWTs"),
        (DSA, "it contains a key of a type that is not supported for JWTs"),
        (ES.pem * 300, "more than 256"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pem_file_that_cannot_be_used_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(UnusableKey, match=reason) as refused:
        keys_from_pem(raw)
    assert "-----" not in str(refused.value)


# --- encodings ---


@given(st.binary(max_size=40))
def test_bytes_have_one_encoding_and_it_is_read_back(raw: bytes) -> None:
    assert unencoded(b64(raw), "it") == raw


@given(st.text(alphabet="ABQgwEIMUYcko048s-_=+/ \n", max_size=8))
def test_what_is_read_is_the_encoding_of_what_it_stands_for(text: str) -> None:
    try:
        raw = unencoded(text.encode(), "it")
    except TokenRefused:
        return
    assert b64(raw) == text.encode()


def test_objects_within_each_other_are_counted_outside_of_texts() -> None:
    assert members(json.dumps({"x": "[" * 500}).encode(), "it") == {"x": "[" * 500}
    assert members(json.dumps({"x": [[]] * 500}).encode(), "it")
    assert members(b'{"x":' + b"[" * 31 + b"]" * 31 + b"}", "it")
    with pytest.raises(TokenRefused, match="nested"):
        members(b'{"x":' + b"[" * 32 + b"]" * 32 + b"}", "it")
    with pytest.raises(TokenRefused, match="nested"):
        members(b'{"x\\"":' + b'{"[\\"":' * 32 + b"1" + b"}" * 33, "it")


# --- claims ---

ANYBODY = Expected(required=())


def test_a_date_is_good_up_to_the_leeway_and_not_a_moment_longer() -> None:
    expected = ANYBODY._replace(leeway=30.0)
    assert check_claims({"exp": 100}, expected, 129.9) == 130.0
    assert check_claims({"exp": 100.5, "nbf": 1, "iat": 2}, expected, 100.0) == 130.5
    for claims, now in (({"exp": 100}, 130.0), ({"nbf": 100}, 69.9), ({"iat": 100}, 69.9)):
        with pytest.raises(TokenRefused):
            check_claims(claims, expected, now)
    assert check_claims({"nbf": 100, "iat": 100}, expected, 70.0) == float("inf")


def test_a_token_for_somebody_is_refused_by_who_has_no_audience_unless_that_is_what_is_configured() -> None:
    """RFC 7519 section 4.1.3: who does not identify itself with one of the audiences must refuse."""
    with pytest.raises(TokenRefused, match="the token has the wrong audience"):
        check_claims({"aud": "api"}, ANYBODY, 0.0)
    check_claims({}, ANYBODY, 0.0)
    for aud in ("api", ["other", "api"]):
        check_claims({"aud": aud}, ANYBODY._replace(audiences=frozenset({"api", "app"})), 0.0)
        check_claims({"aud": aud}, ANYBODY._replace(audiences=frozenset({"*"})), 0.0)
    check_claims({}, ANYBODY._replace(audiences=frozenset({"*"})), 0.0)


def test_required_claims_must_be_there_and_not_null() -> None:
    expected = ANYBODY._replace(required=(("sub",), ("realm_access", "roles")))
    check_claims({"sub": "", "realm_access": {"roles": []}}, expected, 0.0)
    for claims, missing in (
        ({"realm_access": {"roles": []}}, "sub"),
        ({"sub": "a"}, "realm_access.roles"),
        ({"sub": "a", "realm_access": {"roles": None}}, "realm_access.roles"),
        ({"sub": "a", "realm_access": ["roles"]}, "realm_access.roles"),
        ({"sub": "a", "realm_access.roles": ["x"]}, "realm_access.roles"),
    ):
        with pytest.raises(TokenRefused, match=f"`{missing}` is missing"):
            check_claims(claims, expected, 0.0)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sub", ("sub",)),
        ("realm_access.roles", ("realm_access", "roles")),
        ("https://example.com/roles", ("https://example.com/roles",)),
        ("/https:~1~1a.example~1x/b.c/d~0e", ("https://a.example/x", "b.c", "d~e")),
    ],
)
def test_a_claim_is_named_by_a_path(text: str, path: tuple[str, ...]) -> None:
    claims: Any = 7
    for name in reversed(path):
        claims = {name: claims}
    assert claim_path(text) == path
    assert find_claim(claims, path) == 7
    assert find_claim({}, path) is None


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "/", "/a/", "//a"])
def test_a_path_with_nothing_between_its_dots_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid claim path"):
        claim_path(text)


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({}, set()),
        ({"scope": "read write"}, {"read", "write"}),
        ({"scope": "  read  "}, {"read"}),
        ({"scp": ["read", "write", 1]}, {"read", "write"}),
        ({"scp": "read"}, {"read"}),
        ({"scope": "a", "scp": ["b"]}, {"a", "b"}),
        ({"scope": 1, "scp": {"read": True}}, set()),
    ],
)
def test_scopes_are_words_or_a_list(claims: dict[str, Any], scopes: set[str]) -> None:
    """RFC 8693 section 4.2; `scp` is what others than the RFCs write."""
    assert scopes_of(claims) == scopes


def test_every_algorithm_is_named_once() -> None:
    assert len(ALGORITHMS) == 15
    assert "none" not in {name.lower() for name in ALGORITHMS}
