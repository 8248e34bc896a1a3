"""Tokens from a real provider, `oidc-provider`, by each way to show it who asks; and by a client certificate."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.upstreams import UpstreamTls
from fastgw.errors import Fault
from tests.support.brokering import node_of, oauth2, problem_of, word
from tests.support.certificates import Certificates, server_tls
from tests.support.issuer import Issuer
from tests.support.on_loop import on_loop
from tests.support.provider import SERVICE, Provider

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
NUMBERS = KEY.public_key().public_numbers()
PUBLIC = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k"} | {
    name: urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
    for name, number in (("x", NUMBERS.x), ("y", NUMBERS.y))
}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "basic": ("client_secret_basic", {}),
    "body": ("client_secret_post", {}),
    "auto": ("client_secret_basic", {}),
    "private_key_jwt": (
        "private_key_jwt",
        {"client_secret": None, "client_key": Secret(text=PEM)},
    ),
}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with Provider(tmp_path_factory.mktemp("provider")) as running:
        for way, (method, _) in WAYS.items():
            more = {"jwks": {"keys": [PUBLIC]}} if method == "private_key_jwt" else {}
            client = SERVICE | {"client_id": way, "token_endpoint_auth_method": method, "scope": "read"}
            running.add_client(**(client | more))
        yield running


@pytest.mark.extended
@pytest.mark.parametrize("way", WAYS)
@on_loop
async def test_it_gives_one_token_that_it_knows(provider: Provider, way: str) -> None:
    secrets = {"client_secret": Secret(text=SERVICE["client_secret"])} | WAYS[way][1]
    if way == "private_key_jwt":
        secrets["assertion_audience"] = provider.issuer
    named = Secret(text=way)
    settings = oauth2(provider.issuer + "/token", client_id=named, client_auth=way, scopes=("read",), **secrets)
    async with node_of() as node:
        held = [await each.obtain() for each in node.tokens(settings)]
    assert len(set(held)) == 1
    said = provider.introspect(word(held[0]))
    assert (said["active"], said["client_id"], said["scope"]) == (True, way, "read")


@pytest.mark.extended
@on_loop
async def test_it_refuses_another_secret(provider: Provider) -> None:
    wrong = oauth2(provider.issuer + "/token", client_id=Secret(text="basic"), client_secret=Secret(text="planted"))
    async with node_of(workers=1) as node:
        problem = await problem_of(node.tokens(wrong)[0])
    assert (problem.fault, problem.why) == (Fault.TOKEN_REFUSED, "it answers 401 invalid_client")


@on_loop
async def test_who_is_shown_by_a_certificate_shows_it(tmp_path: Path) -> None:
    authority = Certificates(tmp_path)
    certificate, key = authority.issue("client.test")
    with Issuer(tls=server_tls(authority.issue("127.0.0.1"), authority.ca)) as issuer:
        shown = UpstreamTls(ca=authority.ca, certificate=certificate, key=key)
        async with node_of() as node:
            for path in (authority.ca, certificate, key):
                node.files[path] = Path(path).read_bytes()
            named = {"client_id": Secret(text="app"), "client_secret": None, "client_auth": "certificate"}
            held = [await each.obtain() for each in node.tokens(oauth2(issuer.url, tls=shown, **named))]
            assert {word(each) for each in held} == {"token-1"}
            assert issuer.questions[0].form["client_id"] == ["app"]
            without = oauth2(issuer.url, tls=UpstreamTls(ca=authority.ca))
            assert (await problem_of(node.tokens(without)[0])).fault is not None
            assert issuer.asked == 1
