"""Secrets of Vault: KV version 2, with authentication by AppRole, by a Kubernetes service account, or by a token.

A token is renewed after two thirds of its lifetime, and replaced by a new login when it cannot be renewed any more.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from typing import Any, Final
from urllib.parse import quote

import msgspec

from fastgw.config.settings.secrets import Secret, SecretError
from fastgw.config.settings.vault import Vault
from fastgw.config.sources.files import read_file
from fastgw.config.sources.followed_files import followed_in
from fastgw.discovery.http_client import ServiceAnswer, ServiceClient, SourceFailed, SourceRefused

RENEWED_AFTER: Final = 2 / 3
"""Share of its lifetime after which a token is renewed."""
LONGEST_S: Final = 10 * 365 * 86400
"""Lifetime beyond which a token counts as one without an end."""
SHORTEST_S: Final = 5.0
"""Lifetime below which a renewed token is replaced by a new login: it has reached its maximum."""
REVOKED_S: Final = 2.0
"""Timeout in seconds of the revocation of a token that is no longer used: it ends by itself."""
LOGIN_AGAIN_S: Final = 300.0
"""Age in seconds from which a token that may not read a path is replaced: it keeps the policies that its role had at
the login. Not sooner, because each login costs a token of Vault's quotas.
"""
_SHOWN: Final = 200
MOST_BROKEN: Final = 3
"""Number of paths in a row without an answer after which the others are not read in the same round: each may take the
whole timeout.
"""
_MOST_TOKEN: Final = 64 * 1024
_HINTS: Final[Mapping[int, str]] = {
    307: "this node is a standby: set `vault.address` to the active one",
    403: "the token's policy needs `read` on the path",
    404: "there is no such secret",
    429: "this node is a standby",
    473: "this node is a standby",
    503: "Vault is sealed or in maintenance",
}


class _Auth(msgspec.Struct):
    client_token: str = ""
    lease_duration: int = 0
    renewable: bool = False


class _Login(msgspec.Struct):
    auth: _Auth | None = None


class _TokenData(msgspec.Struct):
    ttl: int = 0
    renewable: bool = False


class _Lookup(msgspec.Struct):
    data: _TokenData


class _Version(msgspec.Struct):
    data: dict[str, Any] | None = None


class _Secret(msgspec.Struct):
    data: _Version


class _Errors(msgspec.Struct):
    errors: list[str] = []


class VaultSession:
    """A login at Vault. `secret`: returns the value of a secret of the settings."""

    def __init__(self, settings: Vault, client: ServiceClient, secret: Callable[[Secret], str]) -> None:
        self._settings = settings
        self._client = client
        self._secret = secret
        self._token = ""
        self._renewable = False
        self._ends_at = inf
        self._renew_at = inf
        self._login_at = -inf
        """Time of the last login, or attempt at one."""
        self._forbidden: set[str] = set()
        """Paths that a new token could not read either: for them there is no other login until it is old."""

    def __repr__(self) -> str:
        return f"<VaultSession {'with' if self._token else 'without'} a token>"

    async def read(self, path: str) -> dict[str, str]:
        """Return the values of a secret by key. Values that are not text are left out. Raises `SourceFailed`."""
        await self.keep_token()
        try:
            values = await self._read(path)
        except SourceRefused as error:
            if error.status != 403 or self._settings.auth.token is not None:
                raise
            if time.monotonic() - self._login_at >= LOGIN_AGAIN_S:
                with suppress(SourceFailed):  # the token may be valid, and of use for other paths
                    await self._log_in()
            elif await self._is_accepted(path):
                raise
            else:
                await self._log_in()  # the token was revoked
            try:
                values = await self._read(path)
            except SourceRefused as again:
                if again.status == 403:
                    self._forbidden.add(path)
                raise
        self._forbidden.discard(path)
        return values

    async def _is_accepted(self, path: str) -> bool:
        """Whether the token is valid, so that its policy is why it may not read a path. Raises `SourceFailed`."""
        try:
            await self._call_api("/v1/auth/token/lookup-self", None)
        except SourceRefused as error:
            return error.status != 403 or path in self._forbidden  # a policy may deny this question too
        return True

    async def keep_token(self) -> None:
        """Log in, or renew the token, if it is time. Raises `SourceFailed`."""
        now = time.monotonic()
        if self._token and now < self._renew_at:
            return
        if self._token and self._renewable and now < self._ends_at:
            with suppress(SourceRefused):
                auth = _decode(await self._call_api("/v1/auth/token/renew-self", {}), _Login).auth
                if auth is not None and auth.lease_duration > SHORTEST_S:
                    self._use(self._token, auth.lease_duration, auth.renewable)
                    return
        if self._token and now < self._ends_at and self._settings.auth.token is not None:
            self._renew_at = self._ends_at  # it cannot be renewed: it is used until it ends
            return
        await self._log_in()

    @property
    def wait(self) -> float:
        """Seconds until the token has to be renewed."""
        return max(0.0, self._renew_at - time.monotonic())

    async def revoke(self) -> None:
        """Revoke the token of a login that is no longer used. Failures are ignored: it ends by itself."""
        token, self._token = self._token, ""
        await self._revoke(token)

    async def _revoke(self, token: str) -> None:
        if token and self._settings.auth.token is None:
            with suppress(SourceFailed, TimeoutError):
                async with asyncio.timeout(REVOKED_S):
                    await self._call_api("/v1/auth/token/revoke-self", {}, token)

    async def _log_in(self) -> None:
        """Replace the token, and revoke the previous one: each counts against the quotas of Vault until it ends."""
        self._login_at = time.monotonic()
        auth, replaced = self._settings.auth, self._token if time.monotonic() < self._ends_at else ""
        if auth.token is not None:
            token = self._value(auth.token).strip()
            try:
                data = _decode(await self._call_api("/v1/auth/token/lookup-self", None, token), _Lookup).data
            except SourceRefused as error:
                raise SourceFailed(f"the token is not accepted: {error}") from error
            self._use(token, data.ttl, data.renewable)
            return
        if auth.approle is not None:
            mount = auth.approle.mount
            said = {"role_id": self._value(auth.approle.role_id), "secret_id": self._value(auth.approle.secret_id)}
        else:
            assert auth.kubernetes is not None
            mount, file = auth.kubernetes.mount, auth.kubernetes.token_file
            try:
                jwt = await asyncio.to_thread(read_file, file, _MOST_TOKEN)
            except OSError as error:
                raise SourceFailed(f"{file} cannot be read: {error.strerror or error}") from error
            said = {"role": auth.kubernetes.role, "jwt": jwt.decode("ascii", "replace").strip()}
        try:
            held = _decode(await self._call_api(f"/v1/auth/{quote(mount)}/login", said, ""), _Login).auth
        except SourceRefused as error:
            raise SourceFailed(f"login at auth/{mount}: {error}") from error
        if held is None or not held.client_token:
            raise SourceFailed("Vault has answered a login without a token")
        self._use(held.client_token, held.lease_duration, held.renewable)
        await self._revoke(replaced)

    def _value(self, secret: Secret) -> str:
        try:
            return self._secret(secret)
        except SecretError as error:
            raise SourceFailed(str(error)) from error

    def _use(self, token: str, lifetime: int, renewable: bool) -> None:
        """`lifetime`: seconds; 0: unlimited."""
        now = time.monotonic()
        self._token, self._renewable = token, renewable
        ends = 0 < lifetime <= LONGEST_S
        self._ends_at = now + lifetime if ends else inf
        self._renew_at = now + lifetime * RENEWED_AFTER * random.uniform(0.9, 1.0) if ends else inf

    async def _read(self, path: str) -> dict[str, str]:
        mount = self._settings.mount
        if mount is None:
            mount, _, path = path.partition("/")
            if not path:
                raise SourceFailed(f"the path {mount} has no mount: expected one such as secret/{mount}")
        try:
            content = await self._call_api(f"/v1/{quote(mount)}/data/{quote(path)}", None)
        except SourceRefused as error:
            raise SourceRefused(error.status, f"{mount}/{path}: {error}") from error
        values = _decode(content, _Secret).data.data
        if values is None:
            raise SourceRefused(404, f"{mount}/{path}: the secret was deleted")
        return {key: value for key, value in values.items() if isinstance(value, str)}

    async def _call_api(self, target: str, body: Any, token: str | None = None) -> bytes:
        """Return the body of an answer. `body`: None: GET. Raises `SourceFailed`."""
        token = self._token if token is None else token
        if not (token.isascii() and token.isprintable()):
            raise SourceFailed("the token has characters that no token has")
        headers = [("X-Vault-Request", "true"), ("Accept", "application/json")]
        headers += [("X-Vault-Token", token)] if token else []
        headers += [("X-Vault-Namespace", self._settings.namespace)] if self._settings.namespace else []
        got = await self._client.request(
            target,
            method="GET" if body is None else "POST",
            headers=headers,
            body=b"" if body is None else msgspec.json.encode(body),
            timeout=self._settings.timeout,
        )
        if got.status not in (200, 204):
            raise _refusal(got)
        return got.body


class VaultFiles:
    """Secrets that a configuration names, as contents of files."""

    def __init__(self, session: VaultSession) -> None:
        self._session = session
        self._broken: set[str] = set()
        """Paths without a valid answer in the last round: they are read after the others."""

    async def fetch(self, names: list[str]) -> tuple[dict[str, bytes], dict[str, str]]:
        """Return the contents of followed files, and the reasons why others cannot be fetched. Each path is read once.
        Raises `SourceFailed` if Vault cannot be used at all.
        """
        await self._session.keep_token()
        paths: dict[str, list[str]] = {}
        for name in names:
            paths.setdefault(followed_in(name).subject.partition("#")[0], []).append(name)
        contents: dict[str, bytes] = {}
        problems: dict[str, str] = {}
        in_a_row = 0
        for path in sorted(paths, key=self._broken.__contains__):
            wanted = paths[path]
            if in_a_row == MOST_BROKEN:
                problems |= dict.fromkeys(wanted, "other paths were not answered")
                continue
            try:
                values = await self._session.read(path)
            except SourceRefused as error:
                in_a_row = 0
                self._broken.discard(path)
                problems |= dict.fromkeys(wanted, str(error))
                continue
            except SourceFailed as error:
                in_a_row += 1
                self._broken.add(path)
                problems |= dict.fromkeys(wanted, f"{path}: {error}")
                continue
            in_a_row = 0
            self._broken.discard(path)
            for name in wanted:
                key = followed_in(name).subject.partition("#")[2]
                if values.get(key):
                    contents[name] = values[key].encode()
                else:
                    problems[name] = f"{path} has no text under the key {key}"
        return contents, problems


def _decode(content: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceFailed("an invalid answer") from error  # its text may show a secret


def _refusal(got: ServiceAnswer) -> SourceRefused:
    try:
        said = ", ".join(msgspec.json.decode(got.body, type=_Errors).errors)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = ""
    text = "".join(each if each.isprintable() else " " for each in said).strip()[:_SHOWN]
    reason = "; ".join(each for each in (" ".join(text.split()), _HINTS.get(got.status, "")) if each)
    return SourceRefused(got.status, f"Vault says {got.status}{f': {reason}' if reason else ''}")
