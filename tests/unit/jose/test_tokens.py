"""Tokens: what the RFCs' own are taken for, and what is refused, each with its reason."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.jose import (
    ALGORITHMS,
    Expected,
    KeySet,
    TokenRefused,
    TokenRules,
    check_claims,
    read_set,
    read_token,
    verify,
)
from fastgw.jose.keys import read_jwk
from tests.support.table import for_each
from tests.support.tokens import Signer, b64, claims_of, compact, key_set, signer

VECTORS = json.loads((Path(__file__).parent / "vectors" / "jws.json").read_text())
ALL = TokenRules(frozenset(ALGORITHMS))
RULES = TokenRules(frozenset({"RS256"}))
EXPECTED = Expected("https://idp.example", frozenset({"api"}), leeway=5.0)
RS, ES, ED, HS = signer("RS256", "one"), signer("ES256", "two"), signer("EdDSA", "three"), signer("HS256", "four")
KEYS = read_set(key_set(RS, ES, ED))
NOW = time.time()
CLAIMS = json.dumps(claims_of()).encode()


def judged(
    token: bytes, rules: TokenRules = RULES, keys: KeySet = KEYS, expected: Expected = EXPECTED
) -> dict[str, Any]:
    """As the filter does: take it apart, verify it, only then read what it says."""
    signed = read_token(token, rules)
    verify(signed, keys)
    claims = signed.claims()
    check_claims(claims, expected, time.time())
    return claims


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_tokens_of_the_rfcs_are_verified_with_their_keys(vector: dict[str, Any]) -> None:
    """RFC 7515 appendix A.1 to A.4, RFC 7520 section 4, RFC 8037 appendix A.4."""
    keys = read_set(json.dumps(vector["key"]).encode(), symmetric=True)
    assert verify(read_token(vector["token"].encode(), ALL), keys) is keys.keys[0]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
@pytest.mark.parametrize("segment", [0, 1, 2])
def test_a_bit_that_is_changed_in_a_token_of_the_rfcs_is_noticed(vector: dict[str, Any], segment: int) -> None:
    """Whichever part it is in; what is changed at its first character stays well-formed base64url."""
    keys = read_set(json.dumps(vector["key"]).encode(), symmetric=True)
    segments = vector["token"].encode().split(b".")
    first = segments[segment][:1]
    segments[segment] = (b"e" if first != b"e" else b"f") + segments[segment][1:]
    with pytest.raises(TokenRefused):
        verify(read_token(b".".join(segments), ALL), keys)


def test_the_unsigned_token_of_the_rfc_is_refused() -> None:
    """RFC 7515 appendix A.5."""
    claims = VECTORS[0]["token"].split(".")[1].encode()
    with pytest.raises(TokenRefused, match="not signed"):
        read_token(b"eyJhbGciOiJub25lIn0." + claims + b".", ALL)


@for_each("alg", ALGORITHMS)
def test_a_good_token_of_every_algorithm_is_taken(alg: str) -> None:
    made = signer(alg, "key")
    claims = judged(
        made.token({"scope": "read"}), TokenRules(frozenset({alg})), read_set(key_set(made), symmetric=True)
    )
    assert (claims["sub"], claims["scope"]) == ("alice", "read")


@for_each("alg", ALGORITHMS)
def test_a_key_serves_no_algorithm_but_those_of_its_type_and_curve(alg: str) -> None:
    made = signer(alg, "key")
    key = read_jwk(made.jwk, symmetric=True)
    like = {name for name, each in ALGORITHMS.items() if (each.kty, each.crv) == (key.kty, ALGORITHMS[alg].crv)}
    assert key.algorithms == like
    for other in set(ALGORITHMS) - like:
        token = made.token(header={"alg": other})
        with pytest.raises(TokenRefused, match="the token's `alg` does not match its key"):
            verify(read_token(token, ALL), KeySet([key]))


def header_with(**more: Any) -> bytes:
    return RS.token(header=more)


def payload_of(raw: bytes) -> bytes:
    return RS.raw(json.dumps({"alg": "RS256", "kid": "one"}).encode(), raw)


def header_of(raw: bytes) -> bytes:
    return RS.raw(raw, CLAIMS)


def claim(**more: Any) -> bytes:
    return RS.token(more)


def signature(change: Callable[[bytes], bytes], by: Signer = RS) -> bytes:
    """A good token with another signature."""
    signed = by.token().rpartition(b".")[0]
    return signed + b"." + b64(change(by.sign(signed)))


def encoded(place: int, change: Callable[[bytes], bytes]) -> bytes:
    """A good token in which one segment is written otherwise."""
    segments = RS.token().split(b".")
    segments[place] = change(segments[place])
    return b".".join(segments)


def with_public_key_as_secret() -> bytes:
    """RFC 8725 section 2.1: the public key of RS256 taken for the secret of HS256."""
    return Signer("HS256", "one", secret=RS.pem).token()


def spare_bit() -> bytes:
    """The same signature with one of the bits set that its last character has to spare."""
    token = RS.token()
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1 :][:1]


def der(raw: bytes) -> bytes:
    return encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))


HOSTILE: dict[str, tuple[bytes, str]] = {
    # the form
    "nothing": (b"", "the token is not a signed JWT"),
    "no dots": (b"x" * 40, "the token is not a signed JWT"),
    "one dot": (b"e30.e30", "the token is not a signed JWT"),
    "four segments": (RS.token() + b".e30", "the token is not a signed JWT"),
    "five segments, encrypted": (b"e30.e30.e30.e30.e30", "encrypted"),
    "thousands of dots": (b"." * 4000, "the token is not a signed JWT"),
    "too long": (claim(filling="x" * 8192), "more than 8192 bytes"),
    "only dots": (b"..", "not signed"),
    "a header of 5 KB": (header_with(filling="x" * 3800), "header is too long"),
    "a signature of 2 KB": (signature(lambda made: made * 8), "signature is too long"),
    "the JSON form": (json.dumps({"payload": "e30", "signatures": []}).encode(), "the token is not a signed JWT"),
    # the encoding
    "padding": (RS.token() + b"==", "signature is not base64url"),
    "padding in the header": (encoded(0, lambda text: text + b"="), "header is not base64url"),
    "padding in the payload": (encoded(1, lambda text: text + b"="), "the signature is invalid"),
    "the alphabet of base64": (encoded(2, lambda text: text[:-3] + b"+/+"), "signature is not base64url"),
    "a line end": (RS.token() + b"\n", "signature is not base64url"),
    "a space inside": (encoded(0, lambda text: text[:4] + b" " + text[4:]), "header is not base64url"),
    "a NUL": (encoded(0, lambda text: text + b"\0"), "header is not base64url"),
    "bytes above ASCII": (encoded(0, lambda text: text + b"\xc3\xa4"), "header is not base64url"),
    "percent escapes": (encoded(2, lambda text: b"%41" + text[1:]), "signature is not base64url"),
    "a bit to spare": (spare_bit(), "is not valid base64url: its length is wrong"),
    ("a character too many"): (
        encoded(0, lambda text: text + b"A" * (1 + -len(text) % 4)),
        "its length is wrong|not valid JSON",
    ),
    # the header
    "no alg": (header_with(alg=None), "no `alg`"),
    "alg none": (compact(b'{"alg":"none"}', CLAIMS, b""), "not signed"),
    "alg none with a signature": (header_with(alg="none"), "`alg` is none"),
    "alg None": (header_with(alg="None"), "`alg` is none"),
    "alg NONE": (header_with(alg="NONE"), "`alg` is none"),
    "alg in lower case": (header_with(alg="rs256"), "the token's `alg` is not among the allowed algorithms"),
    "alg with a blank": (header_with(alg="RS256 "), "the token's `alg` is not among the allowed algorithms"),
    "alg as a list": (header_with(alg=["RS256"]), "no `alg`"),
    "alg true": (header_with(alg=True), "no `alg`"),
    "alg that the policy has not": (header_with(alg="RS512"), "the token's `alg` is not among the allowed algorithms"),
    "public key as secret": (with_public_key_as_secret(), "the token's `alg` is not among the allowed algorithms"),
    "alg of encryption": (header_with(alg="RSA-OAEP"), "the token's `alg` is not among the allowed algorithms"),
    "alg twice": (header_of(b'{"alg":"none","alg":"RS256","kid":"one"}'), "header has a duplicate member"),
    "kid twice": (header_of(b'{"alg":"RS256","kid":"two","kid":"one"}'), "header has a duplicate member"),
    "twice by an escape": (header_of(b'{"alg":"RS256","\\u0061lg":"none","kid":"one"}'), "has a duplicate member"),
    "twice deep inside": (header_of(b'{"alg":"RS256","kid":"one","x":[{"a":1,"a":2}]}'), "has a duplicate member"),
    "crit": (header_with(crit=["exp"], exp=1), "`crit`"),
    "crit, empty": (header_with(crit=[]), "`crit`"),
    "crit that is no list": (header_with(crit="exp"), "`crit`"),
    "crit null": (header_of(b'{"alg":"RS256","kid":"one","crit":null}'), "`crit`"),
    "b64": (header_with(b64=False), "`b64`"),
    "b64 with crit": (header_with(b64=False, crit=["b64"]), "`crit`"),
    "enc": (header_with(enc="A128GCM"), "encrypted"),
    "zip": (header_with(zip="DEF"), "encrypted"),
    ("the header has `cty`: nested tokens are not accepted"): (
        header_with(cty="JWT"),
        "the header has `cty`: nested tokens are not accepted",
    ),
    "typ of something else": (header_with(typ="secevent+jwt"), "`typ`"),
    "typ of a proof": (header_with(typ="dpop+jwt"), "`typ`"),
    "typ that is no text": (header_with(typ=1), "`typ`"),
    "kid as a number": (header_with(kid=1), "the header's `kid` is not a string"),
    "kid null": (header_of(b'{"alg":"RS256","kid":null}'), "the header's `kid` is not a string"),
    "kid of nobody": (header_with(kid="../../dev/null"), "the token is signed with an unknown key"),
    "kid with SQL": (header_with(kid="x' UNION SELECT 'k';--"), "the token is signed with an unknown key"),
    "kid of a key of another type": (header_with(kid="two"), "the token's `alg` does not match its key"),
    "a header that is a list": (header_of(b'["RS256"]'), "not a JSON object"),
    "a header that is text": (header_of(b'"RS256"'), "not a JSON object"),
    "a header that is no JSON": (header_of(b"alg=RS256"), "is not valid JSON"),
    "a header with bytes behind": (header_of(b'{"alg":"RS256","kid":"one"}x'), "is not valid JSON"),
    "a header with a comma too many": (header_of(b'{"alg":"RS256","kid":"one",}'), "is not valid JSON"),
    "a header with a comment": (header_of(b'{"alg":"RS256"/**/,"kid":"one"}'), "is not valid JSON"),
    "a header in UTF-16": (header_of('{"alg":"RS256","kid":"one"}'.encode("utf-16")), "not UTF-8|not JSON"),
    "a header with a BOM": (header_of(b'\xef\xbb\xbf{"alg":"RS256","kid":"one"}'), "is not valid JSON"),
    "a header that is not UTF-8": (header_of(b'{"alg":"RS256","kid":"one","x":"\xff"}'), "not UTF-8"),
    "a header with half a surrogate": (header_of(b'{"alg":"RS256","kid":"one","x":"\\ud800"}'), "is not valid JSON"),
    "a header with NaN": (header_of(b'{"alg":"RS256","kid":"one","x":NaN}'), "is not valid JSON"),
    "a header nested 1,000 deep": (header_of(b'{"alg":"RS256","x":' + b"[" * 1000 + b"]" * 1000 + b"}"), "nested"),
    # the signature
    "no signature": (RS.token().rpartition(b".")[0] + b".", "not signed"),
    "signed by somebody else": (signer("RS256", "other").token(header={"kid": "one"}), "the signature is invalid"),
    "a signature cut short": (signature(lambda made: made[:-1]), "the signature is invalid"),
    "a signature with a byte more": (signature(lambda made: made + b"\0"), "the signature is invalid"),
    "a signature with a zero before": (signature(lambda made: b"\0" + made), "the signature is invalid"),
    "a signature of zeros": (signature(lambda made: bytes(len(made))), "the signature is invalid"),
    ("a signature of another scheme"): (
        RS.raw(b'{"alg":"RS256","kid":"one"}', CLAIMS, "PS256"),
        "the signature is invalid",
    ),
    ("a signature of another hash"): (
        RS.raw(b'{"alg":"RS256","kid":"one"}', CLAIMS, "RS512"),
        "the signature is invalid",
    ),
    "another payload": (encoded(1, lambda text: b64(CLAIMS.replace(b"alice", b"admin"))), "the signature is invalid"),
    "no kid, and signed by nobody": (signer("RS256", "other").token(header={"kid": None}), "the signature is invalid"),
    # the payload
    "a payload that is no JSON": (payload_of(b"hello"), "payload is not valid JSON"),
    "a payload that is a list": (payload_of(b"[]"), "not a JSON object"),
    "a payload that is a number": (payload_of(b"1"), "not a JSON object"),
    "an empty payload": (payload_of(b""), "is not valid JSON"),
    "sub twice": (payload_of(b'{"sub":"alice","sub":"admin","exp":99999999999}'), "has a duplicate member"),
    "a payload nested 40 deep": (claim(x=json.loads("[" * 40 + "]" * 40)), "nested"),
    "exp as text": (claim(exp="99999999999"), "`exp` is not a number"),
    "exp true": (claim(exp=True), "`exp` is not a number"),
    "exp null": (payload_of(CLAIMS.replace(b'"exp": ', b'"exp": null, "xxx": ')), "`exp` is missing"),
    "exp as a list": (claim(exp=[99999999999]), "`exp` is not a number"),
    "exp infinite": (payload_of(CLAIMS.replace(b'"exp": ', b'"exp": 1e999, "xxx": ')), "payload is not valid JSON"),
    "exp of 5,000 digits": (payload_of(b'{"exp":' + b"1" * 5000 + b"}"), "payload is not valid JSON"),
    "exp in the past": (claim(exp=int(NOW) - 60), "expired"),
    "exp below zero": (claim(exp=-1), "expired"),
    "no exp": (claim(exp=None), "`exp` is missing"),
    "exp before any calendar": (claim(exp=-(10**299)), "expired"),
    "exp of 400 digits": (claim(exp=10**399), "payload is not valid JSON"),
    "nbf in the future": (claim(nbf=int(NOW) + 86_400), "not valid yet"),
    "nbf behind any calendar": (claim(nbf=10**18), "not valid yet"),
    "nbf in milliseconds": (claim(nbf=int(NOW) * 1000), "not valid yet"),
    "nbf as text": (claim(nbf="0"), "`nbf` is not a number"),
    "iat in the future": (claim(iat=int(NOW) + 86_400), "issued in the future"),
    "iat behind any calendar": (claim(iat=1e18), "issued in the future"),
    "iat as text": (claim(iat="now"), "`iat` is not a number"),
    "the token has the wrong issuer": (claim(iss="https://idp.example/"), "the token has the wrong issuer"),
    "no issuer": (claim(iss=None), "`iss` is missing"),
    "issuers in a list": (claim(iss=["https://idp.example"]), "`iss` is not a string"),
    "the token has the wrong audience": (claim(aud="billing"), "the token has the wrong audience"),
    "an audience that begins alike": (claim(aud="api.other"), "the token has the wrong audience"),
    "no audience": (claim(aud=None), "`aud` is missing"),
    "no audience in a list": (claim(aud=[]), "the token has the wrong audience"),
    ("audiences that are not all text"): (
        claim(aud=["api", 1]),
        "the claim `aud` is neither a string nor a list of strings",
    ),
    "audiences in an object": (claim(aud={"api": True}), "the claim `aud` is neither a string nor a list of strings"),
    "sub as a number": (claim(sub=1), "`sub` is not a string"),
}


@for_each("name", HOSTILE)
def test_a_hostile_token_is_refused_and_the_reason_told_without_showing_it(name: str) -> None:
    """By RFC 7515 to 7519, 7797 and 8725."""
    token, reason = HOSTILE[name]
    with pytest.raises(TokenRefused, match=reason) as refused:
        judged(token)
    segments = [segment.decode("latin-1") for segment in token.split(b".") if len(segment) > 8]
    assert not [segment for segment in segments if segment in str(refused.value)]


def test_there_are_more_than_sixty_hostile_tokens_and_one_that_differs_in_nothing_is_taken() -> None:
    assert len(HOSTILE) > 60
    assert judged(RS.token())["sub"] == "alice"


HOSTILE_EC: dict[str, bytes] = {
    "DER": signature(der, ES),
    "R and S of zero": signature(lambda made: bytes(64), ES),
    "S of zero": signature(lambda made: made[:32] + bytes(32), ES),
    "R of the curve's order": signature(
        lambda made: bytes.fromhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551") + made[32:], ES
    ),
    "one byte short": signature(lambda made: made[:-1], ES),
    "one byte more": signature(lambda made: made + b"\0", ES),
    "halves of unequal length": signature(lambda made: b"\0" + made[:32] + made[33:], ES),
    "the length of P-384": signature(lambda made: made[:32].rjust(48, b"\0") + made[32:].rjust(48, b"\0"), ES),
}


@pytest.mark.parametrize("name", HOSTILE_EC)
def test_a_hostile_signature_of_ecdsa_is_refused(name: str) -> None:
    """RFC 7518 section 3.4: R and S, each exactly as long as the curve's order, and none of them out of range."""
    rules = TokenRules(frozenset({"ES256"}))
    assert judged(ES.token(), rules)["sub"] == "alice"
    with pytest.raises(TokenRefused, match="the signature is invalid"):
        judged(HOSTILE_EC[name], rules)


def test_a_signature_of_ed25519_that_is_moved_by_the_order_is_refused() -> None:
    """RFC 8032 section 5.1.7: S must be below the order, or a signature could be written in two ways."""
    order = 2**252 + 27742317777372353535851937790883648493

    def moved(made: bytes) -> bytes:
        return made[:32] + (int.from_bytes(made[32:], "little") + order).to_bytes(32, "little")

    rules = TokenRules(frozenset({"EdDSA"}))
    assert judged(ED.token(), rules)["sub"] == "alice"
    for change in (moved, lambda made: made + b"\0", lambda made: made[:63], lambda made: bytes(64)):
        with pytest.raises(TokenRefused, match="the signature is invalid"):
            judged(signature(change, ED), rules)


def test_a_public_key_is_no_secret_even_where_both_kinds_of_algorithms_are_accepted() -> None:
    """RFC 8725 section 2.1: the key, not the token, says which kind of algorithm it serves."""
    both = TokenRules(frozenset({"RS256", "HS256"}))
    with pytest.raises(TokenRefused, match="the token's `alg` does not match its key"):
        judged(with_public_key_as_secret(), both)
    assert judged(HS.token(), both, read_set(key_set(RS, HS), symmetric=True))["sub"] == "alice"


FOREIGN: dict[str, Any] = {
    "jku": "https://attacker.example/keys",
    "jwk": signer("RS256", "other").jwk,
    "x5u": "https://attacker.example/cert",
    "x5c": ["MII"],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_key_that_a_token_brings_or_names_is_neither_trusted_nor_a_reason_to_refuse_it(name: str) -> None:
    """RFC 7515 section 4.1. Servers of SAP and Cloud Foundry send `jku` in every token."""
    foreign = {name: FOREIGN[name]}
    assert judged(RS.token(header=foreign))["sub"] == "alice"
    with pytest.raises(TokenRefused, match="the signature is invalid"):
        judged(signer("RS256", "other").token(header={"kid": "one", **foreign}))
    with pytest.raises(TokenRefused, match="the token is signed with an unknown key"):
        judged(signer("RS256", "other").token(header={"kid": "other", **foreign}))
    with pytest.raises(TokenRefused, match=f"`{name}`"):
        judged(RS.token(header=foreign), RULES._replace(foreign_keys_refused=True))


@pytest.mark.parametrize("name", FOREIGN)
def test_an_extension_that_must_be_understood_is_refused_beside_a_key_that_is_ignored(name: str) -> None:
    """RFC 7515 section 4.1.11: also where `crit` lists the very parameter, which the RFC forbids."""
    with pytest.raises(TokenRefused, match="`crit`"):
        judged(header_with(crit=[name], **{name: FOREIGN[name]}))


@pytest.mark.parametrize("exp", [253_402_300_800, 10**18, 1e18, 10**299, 1.7e308, 1_800_000_000_000])
def test_an_expiry_behind_the_last_date_is_far_away(exp: float) -> None:
    assert judged(claim(exp=exp))["sub"] == "alice"
    assert check_claims(claims_of(exp=exp), EXPECTED, time.time()) == 253_402_300_799 + EXPECTED.leeway


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_beginning_before_the_first_date_was_long_ago(name: str) -> None:
    assert judged(claim(**{name: -1e18}))["sub"] == "alice"


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", "Application/JWT", None])
def test_a_token_of_an_expected_type_is_taken_and_so_is_one_that_does_not_say(typ: str | None) -> None:
    """RFC 7515 section 4.1.9: `application/` may be left out, and case does not count."""
    assert judged(header_with(typ=typ))["sub"] == "alice"


def test_a_type_and_a_kid_can_be_required() -> None:
    only_access = RULES._replace(types=frozenset({"at+jwt"}), require_type=True, require_kid=True)
    assert judged(header_with(typ="at+jwt"), only_access)["sub"] == "alice"
    for token, reason in (
        (header_with(typ="JWT"), "`typ`"),
        (header_with(typ=None), "no `typ`"),
        (header_with(typ="at+jwt", kid=None), "no `kid`"),
    ):
        with pytest.raises(TokenRefused, match=reason):
            judged(token, only_access)


def test_a_token_without_kid_is_tried_with_every_key_that_fits_but_not_with_any_number() -> None:
    token = RS.token(header={"kid": None})
    assert judged(token, keys=read_set(key_set(signer("RS256", "other"), ES, RS)))["sub"] == "alice"
    many = KeySet([read_jwk(RS.jwk | {"kid": f"{place}"}) for place in range(9)])
    with pytest.raises(TokenRefused, match="too many keys"):
        judged(token, keys=many)


def test_a_kid_leads_to_keys_of_that_name_and_only_where_there_is_none_to_those_without_a_name() -> None:
    nameless = RS.jwk | {"kid": "x"}
    del nameless["kid"]
    assert judged(RS.token(header={"kid": "new"}), keys=read_set(key_set(nameless)))["sub"] == "alice"
    with pytest.raises(TokenRefused, match="the signature is invalid"):
        judged(RS.token(), keys=read_set(key_set(nameless, signer("RS256", "other").jwk | {"kid": "one"})))
    twins = read_set(key_set(ES.jwk | {"kid": "same"}, RS.jwk | {"kid": "same"}))  # RFC 7517 section 4.5 allows it
    assert judged(RS.token(header={"kid": "same"}), keys=twins)["sub"] == "alice"


PIECES = st.one_of(
    st.sampled_from([b"", b"e30", b"eyJhbGciOiJSUzI1NiJ9", b64(b'{"alg":"RS256","kid":"one"}'), b"=", b"\xff", b" "]),
    st.binary(max_size=12).map(b64),
    st.binary(max_size=12),
)


@given(st.lists(PIECES, max_size=6).map(b".".join))
@example(b"..")
def test_whatever_comes_is_refused_in_words_and_nothing_else_is_raised(token: bytes) -> None:
    with pytest.raises(TokenRefused):
        judged(token, ALL)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ALL_NAMES = "alg kid typ crit b64 jku x5u jwk x5c cty enc zip iss sub aud exp nbf iat jti x"
NAMES = st.sampled_from(ALL_NAMES.split(" "))


@given(st.dictionaries(NAMES, JSON | st.sampled_from(["RS256", "one", "none", "HS256"]), max_size=4))
def test_a_header_of_any_values_is_taken_or_refused_in_words(header: dict[str, Any]) -> None:
    raw = json.dumps({"alg": "RS256"} | header).encode()
    try:
        signed = read_token(b64(raw) + b".e30.AAAA", RULES)
    except TokenRefused:
        return
    assert signed.alg == "RS256"
    assert signed.header.keys().isdisjoint({"crit", "b64", "enc", "zip"})


@given(st.dictionaries(NAMES, JSON | st.sampled_from(["https://idp.example", "api", NOW, NOW + 60]), max_size=6))
def test_claims_of_any_values_are_taken_or_refused_in_words(claims: dict[str, Any]) -> None:
    try:
        good_until = check_claims(claims, EXPECTED, NOW)
    except TokenRefused:
        return
    assert good_until > NOW
    assert claims["iss"] == "https://idp.example"
    assert claims["aud"] == "api" or "api" in claims["aud"]


@given(st.integers(0, 2), st.integers(0, 2000), st.binary(min_size=1, max_size=3))
def test_a_token_that_is_changed_anywhere_is_never_taken(place: int, at: int, put: bytes) -> None:
    """One signature stands for one token: no other spelling of it is taken either."""
    segments = RS.token(claims_of(iat=1, exp=99_999_999_999)).split(b".")
    before = segments[place]
    at %= len(before)
    segments[place] = before[:at] + put + before[at + 1 :]
    if segments[place] == before:
        return
    with pytest.raises(TokenRefused):
        judged(b".".join(segments))
