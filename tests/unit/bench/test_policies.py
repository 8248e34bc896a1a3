"""The benchmark's tokens and the configurations of its policies."""

import base64
import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from bench.load import tokens
from bench.scenarios import policies
from fastgw import config
from fastgw.filters import TYPES


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def verify(token: str, key: rsa.RSAPublicKey) -> None:
    signed, _, signature = token.rpartition(".")
    key.verify(decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())


def test_a_token_has_the_claims_that_contestants_ask_for():
    header, claims, _ = tokens.token("alice", 7, exp=1).split(".")
    assert json.loads(decoded(header)) == {"alg": "RS256", "typ": "JWT", "kid": tokens.KEY_ID}
    told = json.loads(decoded(claims))
    assert (told["sub"], told["jti"], told["exp"]) == ("alice", "alice-7", 1)
    assert (told["iss"], told["aud"]) == (tokens.ISSUER, tokens.AUDIENCE)


def test_both_forms_of_the_public_key_verify_tokens_but_not_those_of_another_signer(tmp_path):
    tokens.write_public_key(tmp_path / "public.pem", tmp_path / "jwks.json")
    pem = serialization.load_pem_public_key((tmp_path / "public.pem").read_bytes())
    (jwk,) = json.loads((tmp_path / "jwks.json").read_text())["keys"]
    numbers = (int.from_bytes(decoded(jwk[member]), "big") for member in ("e", "n"))
    for key in (pem, rsa.RSAPublicNumbers(*numbers).public_key()):
        verify(tokens.token("alice"), key)
        with pytest.raises(InvalidSignature):
            verify(tokens.token("alice", signer="another"), key)


@pytest.mark.parametrize(
    ("program", "places"),
    [
        ("nginx", {"main", "http", "server"}),
        ("haproxy", {"frontend", "sections"}),
        ("envoy", {"http_filters", "virtual_host", "clusters"}),
    ],
)
def test_a_programs_fragments_are_filled_in(program, places):
    """A place that the program's template lacks would be left out in silence."""
    fill = policies.fill(program)
    assert set(fill) == places
    template = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "envoy": "envoy.yaml"}[program]
    text = (policies.HERE / template).read_text()
    assert all(f"@{{{place}}}" in text for place in places)
    assert not any("@{" in fragment for fragment in fill.values())


def test_each_request_has_field_lines_of_its_own(tmp_path):
    policies.SCENARIO.prepare(tmp_path)
    lines = (tmp_path / "fields").read_text().splitlines()
    assert len(set(lines)) == policies.TOKENS
    assert all(line.endswith(f"\tOrigin: {policies.ORIGIN}") for line in lines)


def test_fastgw_knows_its_configuration(tmp_path):
    policies.SCENARIO.prepare(tmp_path)
    fastgw = next(peer for peer in policies.SCENARIO.peers if peer.name == "fastgw")
    (tmp_path / "fastgw").mkdir()
    file = tmp_path / "fastgw" / "fastgw.json"
    file.write_text(json.dumps(fastgw._configuration(9, file.with_name("access.log"))))
    assert config.load(str(file), TYPES).config.filters["rate_limit"].settings.limit == policies.AMPLE
