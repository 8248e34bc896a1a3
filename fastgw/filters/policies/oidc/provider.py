"""OpenID provider: its metadata and keys, fetched once per node, and the token requests of a worker.

OpenID Connect Discovery 1.0 and RFC 8414; codes and refresh tokens are redeemed by RFC 6749 and RFC 7636.
"""

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, NamedTuple, final
from urllib.parse import urlencode

import msgspec
import orjson

from fastgw.config.settings.gateway import UpstreamTls
from fastgw.filters.api import Feed, FeedSource, Fetcher, NodeSide
from fastgw.filters.authentication.jwks import fetch_key_set, follow_key_set
from fastgw.filters.outbound.client_authentication import ClientAuth
from fastgw.filters.policies.oidc.refresh_coordinator import (
    CoordinatorUnavailable,
    RefreshAnswer,
    RefreshCoordinator,
    RefreshRequest,
    SessionPlace,
    is_invalid_grant,
    post,
    request_refresh,
)
from fastgw.filters.policies.oidc.urls import is_safe
from fastgw.jose import TokenRefused, UnusableKey
from fastgw.jose.strict import members
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.client.http_client import Fetched, FetchFailed
from fastgw.upstream.targets.tls import ClientTls, read_tls

log = logging.getLogger("fastgw")

EVERY_S: Final = 600.0
"""Seconds between fetches of the metadata, without requests for newer ones."""
METADATA_WAIT_S: Final = 2.0
"""Seconds for which keys wait for the metadata, which may name another URL: requests wait for the keys."""
AGAIN_S: Final = 10.0
"""Seconds between attempts while the provider is unreachable."""
REST_S: Final = 1.0
"""Minimum seconds between fetches on request."""
TIMEOUT_S: Final = 6.0
"""Seconds that a login waits for the provider's metadata."""
SUCCESSION_S: Final = 3.0
"""Seconds that a refresh waits for a new control process after one has ended. Then the worker refreshes itself."""
_MOST: Final = 256 * 1024
_ENDPOINTS: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint")


class Metadata(msgspec.Struct, frozen=True):
    """Metadata of a provider, as far as used here (OpenID Connect Discovery section 3)."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    end_session_endpoint: str = ""
    authorization_response_iss_parameter_supported: bool = False


class Away(Exception):
    """The provider is unreachable, or its response is invalid. The text is for the log."""


class Denied(Exception):
    """The code or refresh token is not valid any more (`invalid_grant`). The text is for the log.

    All other errors concern the gateway and not the session: they are `Away`.
    """


class ProviderSource(FeedSource, frozen=True, kw_only=True):
    """Source of the provider's metadata. While it is unreachable: the last metadata, and the reason."""

    issuer: str
    tls: UpstreamTls

    @property
    def name(self) -> str:
        return self.issuer

    async def run(self, node: NodeSide) -> None:
        tls = read_tls(self.tls, node.read)
        metadata, tell = None, _Telling(f"oidc: logins at {self.issuer}")
        async with RefreshCoordinator(node.fetcher, tls) as coordinator:
            while True:
                away = ""
                try:
                    metadata = await _discover(node.fetcher, self.issuer, tls)
                except Away as problem:
                    away = str(problem)
                tell(away)
                node.attempted(away)
                record = {"metadata": metadata, "away": away, "date": time.time(), "desk": coordinator.place}
                node.publish(orjson.dumps(record, default=msgspec.to_builtins))
                await asyncio.sleep(REST_S)
                await node.asked(AGAIN_S if away else EVERY_S)


class KeysSource(FeedSource, frozen=True, kw_only=True):
    """The provider's key set, at the URL in its metadata."""

    issuer: str
    tls: UpstreamTls

    @property
    def name(self) -> str:
        return f"{self.issuer} (keys)"

    async def run(self, node: NodeSide) -> None:
        located = _LocatedKeys(node, self.issuer, read_tls(self.tls, node.read))
        try:
            await follow_key_set(node, self.key, self.issuer, located.fetch)
        finally:
            located.close()


@final
class _LocatedKeys:
    """Key set whose URL is looked up with each fetch: the provider may have moved it together with its new keys."""

    def __init__(self, node: NodeSide, issuer: str, tls: ClientTls) -> None:
        self._node, self._issuer, self._tls = node, issuer, tls
        self._url = ""
        """URL in the last metadata."""
        self._locating: asyncio.Task[str] | None = None
        """Look-up that goes on, or whose result was not used yet: keys wait `METADATA_WAIT_S` for it."""
        self._tell = _Telling(f"oidc: metadata of {issuer}")

    async def fetch(self) -> tuple[Fetched, float]:
        """Return the key set, and the maximum seconds until the next fetch. Raises `FetchFailed` and `UnusableKey`."""
        if not self._url:
            try:
                self._url = await self._locate()
            except Away as problem:
                raise UnusableKey(str(problem)) from problem
            return await self._fetch(self._url), EVERY_S
        if self._locating is not None and self._locating.done():
            self._learn(self._locating)
        locating = self._locating
        if locating is None:
            locating = self._locating = asyncio.create_task(self._locate())
        fetched, failed = None, None
        try:
            fetched = await self._fetch(self._url)
        except (FetchFailed, UnusableKey) as problem:
            failed = problem
        await asyncio.wait((locating,), timeout=None if fetched is None else METADATA_WAIT_S)
        seconds = AGAIN_S
        if locating.done():
            before = self._url
            if self._learn(locating):
                seconds = EVERY_S
            if self._url != before:
                return await self._fetch(self._url), seconds
        if fetched is None:
            assert failed is not None
            raise failed
        return fetched, seconds

    def close(self) -> None:
        """End a look-up that goes on."""
        if self._locating is not None and not self._locating.cancel():
            self._locating.exception()  # it is known, and of no use

    def _learn(self, located: asyncio.Task[str]) -> bool:
        """Use the URL that was looked up. False: there is none."""
        self._locating = None
        try:
            self._url = located.result()
        except Away as problem:
            self._tell(str(problem))
            return False
        self._tell("")
        return True

    async def _locate(self) -> str:
        """Return the URL of the keys. Raises `Away`."""
        return (await _discover(self._node.fetcher, self._issuer, self._tls)).jwks_uri

    async def _fetch(self, url: str) -> Fetched:
        try:
            return await fetch_key_set(self._node, url, self._tls)
        except (UnusableKey, ValueError) as problem:
            raise UnusableKey(f"{url.partition('?')[0]}: {problem}") from problem


@final
class _Telling:
    """Logs a changed problem, and its end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._trouble = ""

    def __call__(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            log_event(
                OperatorEvent.FEED_FAILED if trouble else OperatorEvent.FEED_BACK,
                "%s: %s",
                self._what,
                trouble or "fetched again",
            )


async def _discover(fetcher: Fetcher, issuer: str, tls: ClientTls) -> Metadata:
    url = issuer.rstrip("/") + "/.well-known/openid-configuration"
    raw = await _get(fetcher, url, tls)
    try:
        metadata = msgspec.convert(members(raw, "its metadata"), Metadata)
    except (TokenRefused, msgspec.ValidationError) as error:
        raise Away(f"{url}: {error}") from error
    if metadata.issuer != issuer:
        raise Away(f"{url}: its issuer is {metadata.issuer[:200]!r}; expected the issuer as configured")
    for name in _ENDPOINTS:
        endpoint = getattr(metadata, name)
        if (endpoint or name == "jwks_uri") and not is_safe(endpoint):
            raise Away(f"{url}: its {name} is not an https URL")
    return metadata


async def _get(fetcher: Fetcher, url: str, tls: ClientTls) -> bytes:
    try:
        answer = await fetcher.fetch(url, tls=tls, most=_MOST, fields=[(b"Accept", b"application/json")])
    except (FetchFailed, ValueError) as error:
        raise Away(str(error)) from error
    if answer.status != 200:
        raise Away(f"{url}: it answers {answer.status}")
    return answer.body


class Tokens(NamedTuple):
    """Response of a token endpoint (RFC 6749 section 5.1)."""

    id_token: str
    access_token: str
    refresh_token: str
    expires_in: float
    """Seconds; 0: not given."""

    def __repr__(self) -> str:
        return f"<Tokens for {self.expires_in} s>"


@final
class Provider:
    """Provider, as known to one worker."""

    def __init__(self) -> None:
        self.metadata: Metadata | None = None
        """None until the first response."""
        self.away = "nothing is known of it yet"
        """Reason why it is unreachable; "": it was reachable at `heard_date`."""
        self.heard_date = 0.0
        self._coordinator: SessionPlace | None = None
        self._feed: Feed | None = None
        self._fetcher: Fetcher | None = None
        self._users = 0
        self._listening = 0

    def start(self, feed: Feed, fetcher: Fetcher) -> None:
        """Start the provider in a worker, for each filter that shares it."""
        self._users += 1
        if self._feed is None:
            self._feed, self._fetcher = feed, fetcher
            feed.on_change(self._accept_metadata)
            if feed.value:
                self._accept_metadata(feed.value)

    def stop(self) -> None:
        """Stop the provider, once for each `start`."""
        self._users -= 1
        if not self._users and self._feed is not None:
            self._feed.forget(self._accept_metadata)
            self._feed = None

    def _accept_metadata(self, value: bytes) -> None:
        said = orjson.loads(value)
        self.away, self.heard_date = said["away"], said["date"]
        self._coordinator = msgspec.convert(said["desk"], SessionPlace)
        if said["metadata"] is not None:
            self.metadata = msgspec.convert(said["metadata"], Metadata)

    async def heard_of_late(self) -> Metadata | None:
        """Return the provider's metadata, if it was reachable recently. None: it is unreachable."""
        if time.time() - self.heard_date > REST_S + 0.5 or self.away:
            await self._listen()
        return None if self.away or time.time() - self.heard_date > 2 * TIMEOUT_S else self.metadata

    async def _listen(self) -> None:
        """Request newer metadata, and wait for it. Concurrent callers share one request."""
        if self._feed is None:
            return
        if not self._listening:
            self._feed.ask()
        self._listening += 1
        try:
            await self._feed.changed(TIMEOUT_S)
        finally:
            self._listening -= 1

    async def tokens(self, form: dict[str, str], authenticate: ClientAuth, tls: ClientTls, once: str = "") -> Tokens:
        """Send a token request. Raises `Away` and `Denied`.

        `once`: a value that must be used only once by all workers, such as a refresh token; all of them get the result
        of the first request.
        """
        if self.metadata is None or self._fetcher is None:
            raise Away(self.away)
        url = self.metadata.token_endpoint
        fields = [
            (b"Content-Type", b"application/x-www-form-urlencoded"),
            (b"Accept", b"application/json"),
            *authenticate(form),
        ]
        answer = await self._post(url, fields, urlencode(form).encode(), tls, once)
        if not answer.status:
            raise Away(answer.reason)
        if answer.status >= 500 or answer.status == 429:
            raise Away(f"its token endpoint answered {answer.status}")
        try:
            said = members(answer.body, "the answer of its token endpoint")
        except TokenRefused as refusal:
            raise Away(f"{refusal}, with status {answer.status}") from refusal
        if answer.status != 200:
            error = said.get("error")
            text = f"its token endpoint answered {answer.status} {_word(error)}"
            raise Denied(text) if is_invalid_grant(answer) else Away(text)
        return _tokens(said)

    async def _post(
        self, url: str, fields: list[tuple[bytes, bytes]], body: bytes, tls: ClientTls, once: str
    ) -> RefreshAnswer:
        assert self._fetcher is not None
        if once:
            mark = sha256(once.encode()).digest()
            for timeout in (SUCCESSION_S, 0.0):
                if self._coordinator is not None:
                    with suppress(CoordinatorUnavailable):
                        return await request_refresh(
                            self._coordinator, RefreshRequest(self._coordinator.key, mark, url, fields, body)
                        )
                if timeout and self._feed is not None:
                    await self._feed.changed(timeout)
        return await post(self._fetcher, url, fields, body, tls)


def _tokens(said: Mapping[str, Any]) -> Tokens:
    id_token, access_token, refresh_token = (
        said.get(name, "") for name in ("id_token", "access_token", "refresh_token")
    )
    expires_in = said.get("expires_in", 0)
    # RFC 6749 appendix A: visible ASCII, which headers, forms and cookies can contain.
    texts = (id_token, access_token, refresh_token)
    fit = all(isinstance(text, str) and re.fullmatch("[ -~]*", text) is not None for text in texts)
    if not fit or str(said.get("token_type", "")).lower() != "bearer":
        raise Away("its token endpoint returned no bearer token")
    try:
        seconds = float(expires_in)  # some servers send it as a string
    except (TypeError, ValueError) as error:
        raise Away("its token endpoint returned an `expires_in` that is not a number") from error
    return Tokens(id_token, access_token, refresh_token, seconds if 0 < seconds < 1e9 else 0.0)


def _word(error: object) -> str:
    """Return an error code in a form that is safe for the log (RFC 6749 section 5.2)."""
    return error if isinstance(error, str) and error.isascii() and error.isprintable() and len(error) < 80 else "?"
