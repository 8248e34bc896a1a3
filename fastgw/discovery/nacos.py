"""Targets from Nacos: the instances of a service, requested at an interval."""

import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from fastgw.config.settings.discovery import Nacos
from fastgw.config.settings.secrets import Secret
from fastgw.config.sources.followed_files import FollowedFile
from fastgw.discovery.http_client import ServiceClient, SourceFailed, SourceRefused
from fastgw.discovery.targets import ServiceInstance, TargetList, decode_answer, polled, target_list

TIMEOUT_S: Final = 5.0
MOST_TTL_S: Final = 86400
MOST_WEIGHT: Final = 10_000
"""Maximum weight of an instance in Nacos."""
RENEWED_AFTER: Final = 0.8
"""Share of its lifetime after which a token is replaced."""
_DENIED: Final = frozenset((401, 403))


class _Host(msgspec.Struct):
    ip: str
    port: int
    weight: float = 1.0
    healthy: bool = True
    enabled: bool = True


class _Hosts(msgspec.Struct):
    hosts: list[_Host]


class _Login(msgspec.Struct):
    accessToken: str
    tokenTtl: int = 18_000


class NacosList:
    """The healthy and enabled instances of one service. `secret`: returns the value of a secret of the settings."""

    def __init__(
        self, settings: Nacos, file: FollowedFile, client: ServiceClient, secret: Callable[[Secret], str]
    ) -> None:
        self._settings, self._file, self._client, self._secret = settings, file, client, secret
        self._token = ""
        self._renew_at = 0.0

    async def fetch(self) -> TargetList:
        """Return the list. Raises `SourceFailed`."""
        query = [("serviceName", self._file.subject), ("groupName", self._file.option("group"))]
        query.append(("healthyOnly", "true"))
        if clusters := self._file.values("cluster"):
            query.append(("clusters", ",".join(clusters)))
        if self._settings.namespace:
            query.append(("namespaceId", self._settings.namespace))
        if self._settings.username is not None:
            query.append(("accessToken", await self._access_token()))
        got = await self._client.request(f"/v1/ns/instance/list?{urlencode(query)}", timeout=TIMEOUT_S)
        if got.status in _DENIED:
            self._token = ""
        if got.status != 200:
            raise SourceRefused(got.status, f"Nacos says {got.status}")
        hosts = decode_answer(got.body, _Hosts).hosts
        usable = (each for each in hosts if each.healthy and each.enabled)
        return target_list(map(_instance, usable), self._file.option("scheme"))

    def follow_list(self) -> AsyncIterator[TargetList]:
        """Yield lists. Raises `SourceFailed`."""
        return polled(self.fetch, lambda: self.pause)

    @property
    def pause(self) -> float:
        """Seconds until the next request."""
        return self._settings.interval * random.uniform(0.9, 1.1)

    async def _access_token(self) -> str:
        if self._token and time.monotonic() < self._renew_at:
            return self._token
        assert self._settings.password is not None
        body = urlencode({"username": self._settings.username, "password": self._secret(self._settings.password)})
        form = [("Content-Type", "application/x-www-form-urlencoded")]
        got = await self._client.request(
            "/v1/auth/login", method="POST", headers=form, body=body.encode(), timeout=TIMEOUT_S
        )
        if got.status != 200:
            raise SourceRefused(got.status, f"Nacos says {got.status} to the login")
        try:
            said: Any = msgspec.json.decode(got.body, type=_Login)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SourceFailed("an invalid answer to the login") from error
        self._token, self._renew_at = (
            said.accessToken,
            time.monotonic() + min(said.tokenTtl, MOST_TTL_S) * RENEWED_AFTER,
        )
        return self._token


def _instance(host: _Host) -> ServiceInstance:
    """Return an instance. Weights of Nacos are decimal numbers, 1.0 unless set."""
    weight = host.weight if 0 <= host.weight <= MOST_WEIGHT else 1.0
    return ServiceInstance(host.ip, host.port, 0 if weight == 0 else max(1, round(weight)))
