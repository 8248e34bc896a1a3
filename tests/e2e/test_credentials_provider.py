"""Tokens of a real provider for the gateway itself (RFC 6749 section 4.4), in every way to show it who one is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.certificates import Certificates
from tests.support.client import Response
from tests.support.gateway import Gateway
from tests.support.issuer import Issuer, Question
from tests.support.provider import Provider
from tests.support.tokens import signer

SECRET = "50% of a: secret"
KEY = signer("ES256")
PLAIN = ("basic_encoded", "auto_raw", "body", "auto", "auto_post", "private_key_jwt", "audience")
FORGOTTEN = "forgotten"


class Api(Issuer):
    """Demands a token, which the test has judged by whoever has issued it. `revoked`: those it takes no more."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = self.judge
        self.revoked: set[str] = set()

    def judge(self, question: Question) -> tuple[int, Mapping[str, str], bytes]:
        scheme, _, token = question.fields.get("Authorization", "").partition(" ")
        return (200 if scheme == "Bearer" and token not in self.revoked else 401), {}, token.encode()


class World:
    """A route for each way, named so, and a client of that name at the provider."""

    def __init__(self, folder: Path, provider: Provider, by_tls: Provider, api: Api, files: Mapping[str, str]) -> None:
        self.api = api
        self.providers = dict.fromkeys((*PLAIN, FORGOTTEN), provider) | {"certificate": by_tls}
        pem = KEY.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "client.pem").write_bytes(pem)
        by_secret = {"client_secret": SECRET}
        by_key = {"client_auth": "private_key_jwt", "client_key": {"file": str(folder / "client.pem")}}
        tls = {"ca": files["ca"], "certificate": files["certificate"], "key": files["key"]}
        ways: dict[str, dict[str, Any]] = {
            "basic_encoded": {"client_auth": "basic_encoded", **by_secret},
            "auto_raw": {"client_auth": "auto_raw", **by_secret},
            "body": {"client_auth": "body", **by_secret},
            "auto": by_secret,
            "auto_post": {**by_secret, "scopes": ["read", "write"]},
            "private_key_jwt": by_key,
            "audience": {**by_key, "assertion_audience": provider.issuer},
            "certificate": {"client_auth": "certificate", "tls": tls},
            FORGOTTEN: {"client_auth": "basic_encoded", **by_secret},
        }
        methods: dict[str, dict[str, Any]] = {
            "basic_encoded": {"token_endpoint_auth_method": "client_secret_basic", **by_secret},
            "auto_raw": {"token_endpoint_auth_method": "client_secret_basic", **by_secret},
            "body": {"token_endpoint_auth_method": "client_secret_post", **by_secret},
            "auto": {"token_endpoint_auth_method": "client_secret_basic", **by_secret},
            "auto_post": {"token_endpoint_auth_method": "client_secret_post", **by_secret},
            "private_key_jwt": {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [KEY.jwk]}},
            "audience": {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [KEY.jwk]}},
            "certificate": {
                "token_endpoint_auth_method": "tls_client_auth",
                "tls_client_auth_san_dns": "gateway.client",
            },
        }
        own = {"grant_types": ["client_credentials"], "redirect_uris": [], "response_types": []}
        for name, method in methods.items():
            self.providers[name].add_client(name, **own, **method)
        config = {
            "workers": 2,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {"api": {"targets": [{"url": f"http://127.0.0.1:{api.server_port}"}]}},
            "routes": [
                {"name": name, "paths": [f"/{name}"], "upstream": "api", "filters": {"credentials": {"oauth2": way}}}
                for name, way in (
                    (name, {"token_url": f"{self.providers[name].issuer}/token", "client_id": name, **way})
                    for name, way in ways.items()
                )
            ],
        }
        self.gateway = Gateway(config, folder)

    def ask(self, name: str) -> Response:
        with self.gateway.connect() as client:
            response: Response = client.exchange(
                f"GET /{name} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
            )
        return response


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folders = [tmp_path_factory.mktemp(name) for name in ("gateway", "provider", "by_tls")]
    authority = Certificates(folders[0])
    shown = authority.issue("127.0.0.1")
    certificate, key = authority.issue("gateway.client")
    files = {"ca": authority.ca, "certificate": certificate, "key": key}
    by_tls = Provider(folders[2], tls=(*shown, authority.ca))
    with Provider(folders[1]) as provider, by_tls, Api() as api:
        world = World(folders[0], provider, by_tls, api, files)
        with world.gateway:
            yield world


@pytest.mark.parametrize("way", [*PLAIN, "certificate"])
def test_a_provider_gives_the_gateway_a_token_of_its_own(world: World, way: str) -> None:
    """Also to a client that it knows by the body alone, which `auto` finds out."""
    answer = world.ask(way)
    assert answer.status == 200, world.gateway.wait_for_record(path=f"/{way}")
    said = world.providers[way].introspect(answer.body.decode())
    assert (said["active"], said["client_id"]) == (True, way)
    assert said.get("scope") == ("read write" if way == "auto_post" else None)
    assert world.ask(way).body == answer.body


def test_one_that_is_revoked_is_had_anew(world: World) -> None:
    token = world.ask("basic_encoded").body.decode()
    world.api.revoked.add(token)
    answer = world.ask("basic_encoded")
    assert answer.status == 200
    assert answer.body.decode() != token
    assert world.providers["basic_encoded"].introspect(answer.body.decode())["client_id"] == "basic_encoded"


def test_a_client_that_the_provider_does_not_know_is_told_apart_in_the_log(world: World) -> None:
    assert world.ask(FORGOTTEN).status == 502
    record = world.gateway.wait_for_record(path=f"/{FORGOTTEN}")
    assert (record["fault"], record["fault_detail"]) == ("token_refused", "it answers 401 invalid_client")
