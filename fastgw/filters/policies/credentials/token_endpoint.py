"""Token endpoint of OAuth 2.0, with client credentials (RFC 6749 section 4.4)."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from math import isfinite
from typing import Any, Final, final
from urllib.parse import quote_plus, urlencode

import msgspec

from fastgw.config.base.value_types import Endpoint
from fastgw.config.settings.credentials import OAuth2, Values
from fastgw.config.settings.secrets import Secret, secret_in
from fastgw.errors import Fault
from fastgw.filters.outbound.client_authentication import ClientAuth, authenticate
from fastgw.filters.outbound.tls_settings import client_tls
from fastgw.filters.policies.credentials.messages import FetchContext, FetchedRecord, FetchResult, Unavailable, renewal
from fastgw.http.fields import Fields
from fastgw.jose import TokenRefused
from fastgw.jose.strict import members
from fastgw.redis.address import parse_redis
from fastgw.redis.encrypted_cache import EncryptedRedisCache, Kept
from fastgw.upstream.client.http_client import Fetched, FetchFailed

MOST: Final = 64 * 1024
"""Maximum bytes of a response."""
UNSAID_S: Final = 300.0
"""Seconds for which a token without a lifetime is used: without `expires_in`, or with 0."""
LONGEST_S: Final = 86400.0
"""Maximum seconds for which a token is used."""
SHORTEST_S: Final = 0.5
"""Minimum seconds for which a token is used, even if it expires earlier: otherwise each response would cause the next
fetch.
"""
ERRORS: Final = frozenset(
    (
        *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type"),
        *("invalid_scope", "access_denied", "server_error", "temporarily_unavailable", "invalid_target"),
        *("invalid_dpop_proof", "use_dpop_nonce", "interaction_required", "slow_down"),
    )
)
"""Error codes of token endpoints (RFC 6749 section 5.2 and the registry of RFC 6749 section 11.4)."""
LATE: Final = frozenset((Fault.CONNECT_TIMEOUT, Fault.UPSTREAM_TIMEOUT, Fault.UPSTREAM_STALLED, Fault.POOL_TIMEOUT))
REFUSALS: Final = frozenset((400, 401, 403))
"""Statuses by which an endpoint refuses the gateway's credentials, or what is requested with them. All other responses
without a token are failures of the endpoint, such as the page of a proxy in front of it.
"""
_PASSING: Final = frozenset(("server_error", "temporarily_unavailable", "slow_down"))
"""Error codes of an endpoint that refuses nothing."""
_FORM: Final = (b"Content-Type", b"application/x-www-form-urlencoded")
_OURS: Final = frozenset((b"host", b"content-length", b"content-type", b"transfer-encoding", b"connection"))
_IS_TOKEN: Final = re.compile(r"[!-~]+").fullmatch
_IS_NUMBER: Final = re.compile(r"[0-9]{1,18}(\.[0-9]{0,18})?").fullmatch

_SUBJECT: Final = "subject_token"
_BEARER: Final = frozenset(("bearer",))
_EXCHANGED: Final = frozenset(("bearer", "n_a"))
"""Types of exchanged tokens: those that are no access tokens have none (RFC 8693 section 2.2.1)."""

ReadFile = Callable[[str], bytes]


def key_of(kind: str, url: Endpoint, *parts: object) -> str:
    """Return the key of a source: its URL, without a query, and a digest of everything that its results depend on."""
    written = msgspec.json.encode((str(url), parts), enc_hook=_plain, order="sorted")
    return f"{kind} {_without_query(url)} {sha256(written).hexdigest()[:32]}"


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise NotImplementedError(f"{type(value)} in settings")


def _without_query(url: Endpoint) -> str:
    return str(url).partition("?")[0]


@final
class SecretReader:
    """Reads secrets and files, and computes a digest of them."""

    def __init__(self, settings: str, read_file: ReadFile) -> None:
        """`settings`: identifies them, such as the key of a source."""
        self._read_file = read_file
        self._digest = sha256(settings.encode())

    @property
    def material(self) -> bytes:
        """Digest of the settings and everything read so far."""
        return self._digest.digest()

    def file(self, path: str) -> bytes:
        """Return the contents of a file. Raises `OSError`."""
        content = self._read_file(path)
        self._digest.update(b"%d " % len(content) + content)
        return content

    def secret(self, secret: Secret) -> str:
        """Return the value of a secret. Raises `SecretError`."""
        if secret.file:
            return secret_in(secret.file, self.file(secret.file))
        value = secret.value()
        encoded = value.encode()
        self._digest.update(b"%d " % len(encoded) + encoded)
        return value

    def secrets(self, values: Mapping[str, Values]) -> list[tuple[str, str]]:
        """Return the values of secrets by name."""
        return [
            (name, self.secret(each))
            for name, held in values.items()
            for each in ((held,) if isinstance(held, Secret) else held)
        ]


@final
class TokenEndpoint:
    """Fetcher of tokens in one way. Its value is the header line with the token."""

    def __init__(self, key: str, settings: OAuth2, read_file: ReadFile) -> None:
        """Raises `ValueError`, `SecretError` and `OSError`, without secrets."""
        reader = SecretReader(key, read_file)
        client_id = "" if settings.client_id == Secret() else reader.secret(settings.client_id)
        secret = None if settings.client_secret is None else reader.secret(settings.client_secret)
        private = None if settings.client_key is None else reader.secret(settings.client_key).encode()
        self._query = reader.secrets(settings.token_query)
        self._form = _asked_for(settings, reader.secrets(settings.token_form))
        self._fields = _fields(reader.secrets(settings.token_headers))
        self._tls = client_tls(reader.file, settings.tls)
        self._ways = authenticate(settings, client_id, secret, private) if client_id else {b"": _unauthenticated}
        self._types = _EXCHANGED if any(name == _SUBJECT for name, _ in self._form) else _BEARER
        self._second_level: EncryptedRedisCache | None = None
        if settings.second_level is not None:
            known = secret or private or self._tls.material.key
            if not known:
                raise ValueError("`second_level` needs a client secret, key or certificate to encrypt with")
            address = parse_redis(reader.secret(settings.second_level))
            held = known if isinstance(known, bytes) else known.encode()
            self._second_level = EncryptedRedisCache(address, held, b"token\0" + key.encode())
        self.material = reader.material
        self.name = f"token of {_without_query(settings.token_url)}"
        self.timeout = settings.timeout
        self.negative_ttl = settings.negative_ttl
        self._settings = settings
        self._url = _with_query(settings.token_url, self._query)

    def __repr__(self) -> str:
        return f"<TokenEndpoint {self.name}>"

    def start(self, around: FetchContext) -> None:
        if self._second_level is not None:
            self._second_level.start()

    def stop(self) -> None:
        if self._second_level is not None:
            self._second_level.stop()

    async def get(self, around: FetchContext, before: FetchedRecord) -> FetchResult:
        """Fetch a token. Raises `Unavailable`."""
        level = self._second_level
        kept: Kept | None = None if level is None else await level.get(self.material)
        # Another node was faster. An older value is there because ours could not be stored.
        if kept is not None and kept.value != before.value and kept.until_date > before.good_until_date:
            return FetchResult(kept.value, kept.until_date, renewal(time.time(), kept.until_date), before.note)
        try:
            async with asyncio.timeout(self.timeout):
                got = await self._request_token(around, before.note)
        except TimeoutError as late:
            raise Unavailable(Fault.TOKEN_TIMEOUT, f"no answer within {self.timeout:g} s") from late
        if level is not None:
            await level.set(self.material, Kept(got.value, got.good_until_date))
        return got

    async def _request_token(self, around: FetchContext, note: bytes) -> FetchResult:
        answers = []
        for name in sorted(self._ways, key=lambda name: name != note):  # the method accepted last time first
            note = name
            answers.append(await self._post(around, self._ways[name]))
            if not _refuses_client(answers[-1]):
                break
        answer = answers[0] if _refuses_client(answers[-1]) else answers[-1]
        token, seconds = read_token(answer, self._types)
        now_date = time.time()
        # A token that is valid for less than twice the margin is used for half of its lifetime.
        good_until_date = now_date + max(seconds - self._settings.expiry_margin, seconds / 2, SHORTEST_S)
        line = b"Authorization: Bearer %b\r\n" % token.encode()
        return FetchResult(line, good_until_date, renewal(now_date, good_until_date), note)

    async def _post(self, around: FetchContext, way: ClientAuth) -> Fetched:
        shown: dict[str, str] = {}
        fields = [*self._fields, _FORM, *way(shown)]
        form = [pair for pair in self._form if pair[0] not in shown] + list(shown.items())
        return await await_fetched(
            around.fetcher.fetch(
                self._url,
                method=b"POST",
                fields=fields,
                body=urlencode(form).encode(),
                tls=self._tls,
                timeout=self.timeout,
                most=MOST,
                repeatable=True,  # at worst, an unused token is issued
                tolerate=self._settings.tolerate,
            )
        )


async def await_fetched(fetching: Any) -> Fetched:
    """Return the response to the current fetch. Raises `Unavailable`."""
    try:
        answer: Fetched = await fetching
    except FetchFailed as failure:
        if failure.fault in LATE:
            raise Unavailable(Fault.TOKEN_TIMEOUT, failure.reason) from failure
        raise Unavailable(Fault.TOKEN_UNAVAILABLE, failure.reason) from failure
    return answer


def problem_of_status(answer: Fetched, error: str = "") -> Unavailable:
    """Return the problem of a response whose status says that it has no token. `error`: its error code."""
    fault = Fault.TOKEN_REFUSED if answer.status in REFUSALS and error not in _PASSING else Fault.TOKEN_UNAVAILABLE
    return Unavailable(fault, f"it answers {answer.status} {error}".rstrip())


def _unauthenticated(form: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return []


def read_token(answer: Fetched, types: frozenset[str] = _BEARER) -> tuple[str, float]:
    """Return the token and its lifetime in seconds (RFC 6749 section 5.1). `types`: in lower case. Raises
    `Unavailable`.
    """
    if answer.status != 200:
        raise problem_of_status(answer, _error(answer))
    try:
        said = members(answer.body, "its answer")
    except TokenRefused as refusal:
        raise Unavailable(Fault.TOKEN_UNAVAILABLE, str(refusal)) from refusal
    token, kind = said.get("access_token"), said.get("token_type")
    if not isinstance(token, str) or not token:
        raise Unavailable(Fault.TOKEN_UNAVAILABLE, "its answer has no `access_token`")
    if not _IS_TOKEN(token):
        raise Unavailable(Fault.TOKEN_UNAVAILABLE, "its token has characters that are not allowed in a header")
    if kind is not None and (not isinstance(kind, str) or kind.lower() not in types):
        raise Unavailable(Fault.TOKEN_UNAVAILABLE, "its token is not a bearer token")
    return token, _seconds(said.get("expires_in"))


def _seconds(expires_in: object) -> float:
    if isinstance(expires_in, str) and _IS_NUMBER(expires_in):
        expires_in = float(expires_in)  # some servers send it as a string
    if expires_in is None or expires_in is False:
        return UNSAID_S
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float) or expires_in < 0:
        raise Unavailable(Fault.TOKEN_UNAVAILABLE, "its `expires_in` is not a number of seconds")
    if isinstance(expires_in, float) and not isfinite(expires_in):
        return LONGEST_S
    return min(float(min(expires_in, LONGEST_S)), LONGEST_S) or UNSAID_S


def _refuses_client(answer: Fetched) -> bool:
    """Whether the client authentication was rejected. A server that expects another method may report a missing
    parameter.
    """
    return answer.status == 401 or (answer.status == 400 and _error(answer) in ("invalid_client", "invalid_request"))


def _error(answer: Fetched) -> str:
    """Return the error code of a response; "": not a known code. Unknown ones could contain secrets from the
    request.
    """
    try:
        error = members(answer.body, "").get("error")
    except TokenRefused:
        return ""
    return error if isinstance(error, str) and error in ERRORS else ""


def _asked_for(settings: OAuth2, further: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the form without the client authentication. Parameters of the settings take precedence."""
    form = [("grant_type", "client_credentials")]
    if settings.scopes:
        form.append(("scope", " ".join(settings.scopes)))
    if settings.audience is not None:
        form.append(("audience", settings.audience))
    written = {name for name, _ in further}
    return [pair for pair in form if pair[0] not in written] + further


def _fields(further: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return the constant headers. Raises `ValueError`."""
    fields = [(name.encode(), value.encode()) for name, value in further]
    for name, value in fields:
        if name.lower() in _OURS:
            raise ValueError(f"`token_headers` has {name.decode()}, which is set by the gateway")
        try:
            Fields([(name, value)])
        except ValueError:
            raise ValueError(f"the value of {name.decode()} in `token_headers` has a control character") from None
    if not any(name.lower() == b"accept" for name, _ in fields):
        fields.append((b"Accept", b"application/json"))
    return fields


def _with_query(url: Endpoint, further: list[tuple[str, str]]) -> Endpoint:
    if not further:
        return url
    joint = "&" if "?" in url.target else "?"
    return Endpoint(url.origin, url.target + joint + urlencode(further, quote_via=quote_plus))
