"""Targets from Eureka: the instances of an application, requested at an interval."""

import random
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final
from urllib.parse import quote

import msgspec

from fastgw.config.settings.discovery import Eureka
from fastgw.config.settings.secrets import Secret
from fastgw.config.sources.followed_files import FollowedFile
from fastgw.discovery.http_client import ServiceClient, SourceRefused
from fastgw.discovery.targets import ServiceInstance, TargetList, decode_answer, polled, target_list

TIMEOUT_S: Final = 5.0
_UP: Final = "UP"


class _Port(msgspec.Struct):
    number: int | str = msgspec.field(name="$", default=0)
    enabled: bool | str = msgspec.field(name="@enabled", default="false")


class _Instance(msgspec.Struct):
    hostName: str = ""
    ipAddr: str = ""
    status: str = ""
    overriddenStatus: str = ""
    port: _Port = msgspec.field(default_factory=_Port)
    securePort: _Port = msgspec.field(default_factory=_Port)


class _Application(msgspec.Struct):
    instance: Any = ()


class _Found(msgspec.Struct):
    application: _Application


class _Changes(msgspec.Struct):
    applications: dict[str, Any]


class EurekaList:
    """The instances of one application that are up. `secret`: returns the value of a secret of the settings."""

    def __init__(
        self, settings: Eureka, file: FollowedFile, client: ServiceClient, secret: Callable[[Secret], str]
    ) -> None:
        self._settings, self._file, self._client, self._secret = settings, file, client, secret

    async def fetch(self) -> TargetList:
        """Return the list; an application that Eureka does not know has no instances. Raises `SourceFailed`.

        An unknown application is answered 404, by most servers with an error page of theirs, so a 404 of a proxy looks
        the same. The list is empty only if Eureka answers here, with its recent changes: a short document.
        """
        headers = [("Accept", "application/json")]
        if self._settings.password is not None:
            basic = f"{self._settings.username}:{self._secret(self._settings.password)}"
            headers.append(("Authorization", f"Basic {b64encode(basic.encode()).decode()}"))
        target = f"/apps/{quote(self._file.subject, safe='')}"
        got = await self._client.request(target, headers=headers, timeout=TIMEOUT_S)
        scheme = self._file.option("scheme")
        if got.status == 404:
            changes = await self._client.request("/apps/delta", headers=headers, timeout=TIMEOUT_S)
            if changes.status != 200:
                raise SourceRefused(got.status, f"Eureka says 404, and {changes.status} to /apps/delta")
            decode_answer(changes.body, _Changes)
            return target_list((), scheme)
        if got.status != 200:
            raise SourceRefused(got.status, f"Eureka says {got.status}")
        return target_list(_instances(got.body, secure=scheme == "https"), scheme)

    def follow_list(self) -> AsyncIterator[TargetList]:
        """Yield lists. Raises `SourceFailed`."""
        return polled(self.fetch, lambda: self.pause)

    @property
    def pause(self) -> float:
        """Seconds until the next request."""
        return self._settings.interval * random.uniform(0.9, 1.1)


def _instances(body: bytes, *, secure: bool) -> Iterator[ServiceInstance]:
    listed = decode_answer(body, _Found).application.instance
    several = listed if isinstance(listed, list | tuple) else [listed]  # older servers do not list a single one
    for each in decode_answer(msgspec.json.encode(several), list[_Instance]):
        port = each.securePort if secure else each.port
        if each.status == _UP and str(port.enabled).lower() == "true":
            yield ServiceInstance(each.ipAddr or each.hostName, _number(port.number))


def _number(said: int | str) -> int:
    """Return a port, which some servers send as text; 0: it is none."""
    if isinstance(said, int):
        return said
    return int(said) if said.isascii() and said.isdigit() and len(said) < 10 else 0
