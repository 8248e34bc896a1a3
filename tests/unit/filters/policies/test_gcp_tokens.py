"""Google-signed ID tokens: the requests for them, and what is made of the answers."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import cache
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from fastgw.config.base.value_types import parse_endpoint
from fastgw.config.settings.credentials import GcpIdToken
from fastgw.config.settings.secrets import Secret
from fastgw.errors import Fault
from fastgw.filters.policies.credentials.gcp_tokens import GcpIdentity
from fastgw.filters.policies.credentials.messages import FetchedRecord, Unavailable
from fastgw.filters.policies.credentials.oauth_tokens import TokenSource
from fastgw.http.fields import Fields
from fastgw.upstream.client.http_client import Fetched

AUDIENCE = "https://service-x.a.run.app"


@cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def account(**more: Any) -> str:
    pem = private_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    said = {
        "type": "service_account",
        "client_email": "gw@p.iam.gserviceaccount.com",
        "private_key": pem.decode(),
        "private_key_id": "k1",
        "token_uri": "https://oauth2.test/token",
    }
    return json.dumps({**said, **more})


def encoded(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def decoded(text: str) -> Any:
    return json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def token(expires_in: float = 3600) -> str:
    return f"{encoded({'alg': 'RS256'})}.{encoded({'aud': AUDIENCE, 'exp': int(time.time() + expires_in)})}.c2ln"


class Endpoint:
    """Stands in for the fetcher, the feeds and so on."""

    control_is_away = generation = feed_others = feeds = None

    def __init__(self, status: int, body: str) -> None:
        self._answer = Fetched(status, Fields(), body.encode())
        self.url = ""
        self.request: dict[str, Any] = {}

    @property
    def fetcher(self) -> Any:
        return self

    async def fetch(self, url: Any, **request: Any) -> Fetched:
        self.url, self.request = str(url), request
        return self._answer


def got(settings: GcpIdToken, status: int, body: str) -> tuple[Endpoint, Any]:
    endpoint: Any = Endpoint(status, body)
    identity = GcpIdentity("key", settings, lambda path: b"")
    return endpoint, asyncio.run(identity.get(endpoint, FetchedRecord(material=b"")))


def test_by_the_key_of_a_service_account() -> None:
    settings = GcpIdToken(audience=AUDIENCE, key=Secret(text=account()))
    endpoint, result = got(settings, 200, json.dumps({"id_token": token()}))
    assert endpoint.url == "https://oauth2.test/token"
    form = parse_qs(endpoint.request["body"].decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    header, claims, signature = form["assertion"][0].split(".")
    assert decoded(header) == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    said = decoded(claims)
    assert said["iss"] == "gw@p.iam.gserviceaccount.com"
    assert said["aud"] == "https://oauth2.test/token"
    assert said["target_audience"] == AUDIENCE
    assert said["exp"] - said["iat"] == 3600
    raw = urlsafe_b64decode(signature + "==")
    private_key().public_key().verify(raw, f"{header}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
    assert result.value.startswith(b"Authorization: Bearer ey")
    assert 3000 < result.good_until_date - time.time() <= 3600


def test_by_the_metadata_server() -> None:
    endpoint, result = got(GcpIdToken(audience=AUDIENCE), 200, token(60))
    assert endpoint.url.startswith("http://metadata.google.internal/computeMetadata/v1/")
    assert endpoint.url.endswith("/identity?audience=https%3A%2F%2Fservice-x.a.run.app&format=full")
    assert (b"Metadata-Flavor", b"Google") in endpoint.request["fields"]
    assert result.good_until_date - time.time() <= 60


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (403, "no", Fault.TOKEN_REFUSED),
        (503, "no", Fault.TOKEN_UNAVAILABLE),
        (200, "no token", Fault.TOKEN_UNAVAILABLE),
        (200, "a.b.c\r\nX: y", Fault.TOKEN_UNAVAILABLE),
        (200, "", Fault.TOKEN_UNAVAILABLE),
    ],
)
def test_answers_without_a_token(status: int, body: str, fault: Fault) -> None:
    settings = GcpIdToken(audience=AUDIENCE, token_url=parse_endpoint("http://127.0.0.1:1/id"))
    with pytest.raises(Unavailable) as raised:
        got(settings, status, body)
    assert raised.value.fault is fault


@pytest.mark.parametrize("key", ["{", "[]", account(type="user"), account(token_uri=1), account(private_key="-----x")])
def test_keys_that_are_none(key: str) -> None:
    with pytest.raises(ValueError, match="key") as raised:
        GcpIdentity("key", GcpIdToken(audience=AUDIENCE, key=Secret(text=key)), lambda path: b"")
    assert "PRIVATE" not in str(raised.value)


def test_sources_differ_by_audience() -> None:
    one, other = (TokenSource.of(GcpIdToken(audience=each)) for each in ("a", "b"))
    assert one.key != other.key
    assert one.name == "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/identity"
