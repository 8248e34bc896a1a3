"""Google-signed ID tokens: by the key of a service account, or by the metadata server of the instance.

They are fetched once per node and cached as access tokens are (`oauth_tokens`). Source: "Get an ID token" of the Google
Cloud documentation: an assertion (RFC 7523) with `target_audience`, or `identity?audience=` of the metadata server.
"""

import asyncio
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from typing import Any, Final, final
from urllib.parse import quote, urlencode

import orjson

from fastgw.config.base.value_types import Endpoint, parse_endpoint
from fastgw.config.settings.credentials import GcpIdToken
from fastgw.errors import Fault
from fastgw.filters.outbound.client_authentication import assertion_signer
from fastgw.filters.outbound.tls_settings import client_tls
from fastgw.filters.policies.credentials.messages import (
    FetchContext,
    FetchedRecord,
    FetchResult,
    Unavailable,
    renewal,
)
from fastgw.filters.policies.credentials.token_endpoint import (
    LONGEST_S,
    MOST,
    SHORTEST_S,
    UNSAID_S,
    ReadFile,
    SecretReader,
    await_fetched,
    problem_of_status,
)
from fastgw.jose import TokenRefused
from fastgw.jose.strict import members
from fastgw.upstream.client.http_client import Fetched

METADATA: Final = parse_endpoint(
    "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/identity"
)
"""Address of the metadata server in every instance of Google Cloud."""
LIFETIME_S: Final = 3600
"""Lifetime of an assertion, the longest that Google accepts."""
MARGIN_S: Final = 5.0
"""Seconds before its expiry from which a token is no longer used."""
_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_FORM: Final = ((b"Content-Type", b"application/x-www-form-urlencoded"), (b"Accept", b"application/json"))
_FROM_METADATA: Final = ((b"Metadata-Flavor", b"Google"),)
_IS_JWT: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}").fullmatch


def endpoint_of(settings: GcpIdToken) -> Endpoint:
    """Return the endpoint in the key of a source: that of the settings, or the metadata server."""
    return settings.token_url or METADATA


def name_of(settings: GcpIdToken) -> str:
    """Return the name of the endpoint, for the log."""
    if settings.token_url is not None:
        return str(settings.token_url).partition("?")[0]
    return str(METADATA) if settings.key is None else "the token_uri of the service account"


@final
class GcpIdentity:
    """Fetcher of ID tokens. Its value is the header line with the token."""

    def __init__(self, key: str, settings: GcpIdToken, read_file: ReadFile) -> None:
        """Raises `ValueError`, `SecretError` and `OSError`, without secrets."""
        reader = SecretReader(key, read_file)
        self._audience = settings.audience
        self._sign: Callable[[dict[str, object]], str] | None = None
        self._issuer = self._token_uri = ""
        url = settings.token_url
        if settings.key is None:
            self._url = _with_audience(url or METADATA, settings.audience)
        else:
            account = _service_account(reader.secret(settings.key))
            self._issuer, self._token_uri = account["client_email"], account["token_uri"]
            self._sign = assertion_signer(account["private_key"].encode(), account.get("private_key_id", ""))
            self._url = parse_endpoint(self._token_uri) if url is None else url
        self._tls = client_tls(reader.file, settings.tls)
        self.material = reader.material
        self.name = f"ID token of {name_of(settings)}"
        self.timeout, self.negative_ttl = settings.timeout, settings.negative_ttl

    def __repr__(self) -> str:
        return f"<GcpIdentity {self.name}>"

    def start(self, around: FetchContext) -> None: ...
    def stop(self) -> None: ...

    async def get(self, around: FetchContext, before: FetchedRecord) -> FetchResult:
        """Fetch a token. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(self.timeout):
                answer = await self._fetch(around)
        except TimeoutError as late:
            raise Unavailable(Fault.TOKEN_TIMEOUT, f"no answer within {self.timeout:g} s") from late
        if answer.status != 200:
            raise problem_of_status(answer)
        token = _token_of(answer, self._sign is not None)
        now_date = time.time()
        seconds = min(_lifetime(token, now_date), LONGEST_S)
        good_until_date = now_date + max(seconds - MARGIN_S, seconds / 2, SHORTEST_S)
        line = b"Authorization: Bearer %b\r\n" % token.encode()
        return FetchResult(line, good_until_date, renewal(now_date, good_until_date))

    async def _fetch(self, around: FetchContext) -> Fetched:
        fetch: Any = around.fetcher.fetch
        if self._sign is None:
            return await await_fetched(
                fetch(self._url, fields=_FROM_METADATA, tls=self._tls, timeout=self.timeout, most=MOST, repeatable=True)
            )
        now = int(time.time())
        claims: dict[str, object] = {"iss": self._issuer, "sub": self._issuer, "aud": self._token_uri, "iat": now}
        assertion = self._sign({**claims, "exp": now + LIFETIME_S, "target_audience": self._audience})
        form = urlencode({"grant_type": _GRANT, "assertion": assertion}).encode()
        return await await_fetched(
            fetch(
                self._url,
                method=b"POST",
                fields=_FORM,
                body=form,
                tls=self._tls,
                timeout=self.timeout,
                most=MOST,
                repeatable=True,  # at worst, an unused token is issued
            )
        )


def _service_account(text: str) -> dict[str, str]:
    """Return the members of the key file. Raises `ValueError` without its contents."""
    try:
        account = orjson.loads(text)
    except ValueError:
        raise ValueError("the key of the service account is not JSON") from None
    needed = ("client_email", "private_key", "token_uri")
    if not isinstance(account, dict) or account.get("type") != "service_account":
        raise ValueError("the key is not that of a service account")
    if not all(isinstance(account.get(name), str) for name in needed):
        raise ValueError(f"the key of the service account lacks one of {', '.join(needed)}")
    return {name: value for name, value in account.items() if isinstance(value, str)}


def _with_audience(url: Endpoint, audience: str) -> Endpoint:
    joint = "&" if "?" in url.target else "?"
    return Endpoint(url.origin, f"{url.target}{joint}audience={quote(audience, safe='')}&format=full")


def _token_of(answer: Fetched, is_json: bool) -> str:
    """Return the token in an answer. Raises `Unavailable`."""
    token: object = None
    if is_json:
        try:
            token = members(answer.body, "its answer").get("id_token")
        except TokenRefused as refusal:
            raise Unavailable(Fault.TOKEN_UNAVAILABLE, str(refusal)) from refusal
    elif answer.body.isascii():
        token = answer.body.decode("ascii").strip()
    if not isinstance(token, str) or _IS_JWT(token) is None:
        raise Unavailable(Fault.TOKEN_UNAVAILABLE, "its answer has no ID token")
    return token


def _lifetime(token: str, now: float) -> float:
    """Return the seconds until `exp`. The token is not verified: the API does that."""
    payload = token.split(".")[1]
    try:
        claims = orjson.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return UNSAID_S
    expiry = claims.get("exp") if isinstance(claims, dict) else None
    return float(expiry) - now if isinstance(expiry, int) and now < expiry < now + LONGEST_S else UNSAID_S
