"""Targets from Consul: blocking queries of the health endpoint."""

import random
import re
from collections.abc import AsyncIterator, Callable
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from fastgw.config.settings.discovery import Consul
from fastgw.config.settings.secrets import Secret
from fastgw.config.sources.followed_files import FollowedFile
from fastgw.discovery.http_client import ServiceClient, SourceFailed, SourceRefused
from fastgw.discovery.targets import ServiceInstance, TargetList, decode_answer, polled, target_list

FIRST_S: Final = 5.0
"""Timeout of a query that is answered at once."""
MOST_INDEX: Final = 2**63
_INDEX: Final = re.compile("[0-9]{1,19}")
_SHOWN: Final = 200


class _Node(msgspec.Struct):
    Address: str = ""


class _Weights(msgspec.Struct):
    Passing: int = 1


class _Service(msgspec.Struct):
    Port: int
    Address: str = ""
    Weights: _Weights = msgspec.field(default_factory=_Weights)


class _Entry(msgspec.Struct):
    Node: _Node
    Service: _Service


class ConsulList:
    """The passing instances of one service. `secret`: returns the value of a secret of the settings."""

    def __init__(
        self, settings: Consul, file: FollowedFile, client: ServiceClient, secret: Callable[[Secret], str]
    ) -> None:
        self._settings, self._file, self._client, self._secret = settings, file, client, secret
        self._index = 0

    async def fetch(self) -> TargetList:
        """Return the list: at first and after a failure at once, else when it has changed, or after some time. Raises
        `SourceFailed`.
        """
        index, self._index = self._index, 0  # after a failure the list is read at once
        query = [("passing", "true"), *((name, each) for name, each in self._file.options if name in ("tag", "dc"))]
        if self._settings.namespace:
            query.append(("ns", self._settings.namespace))
        timeout = FIRST_S
        if index:
            wait = self._settings.wait
            query += [("index", str(index)), ("wait", f"{wait * 1000:.0f}ms")]
            timeout = wait * (1 + 1 / 16) + FIRST_S  # Consul adds up to a sixteenth
        headers = [("Accept", "application/json")]
        if self._settings.token is not None:
            headers.append(("X-Consul-Token", self._secret(self._settings.token)))
        target = f"/v1/health/service/{quote(self._file.subject, safe='')}?{urlencode(query)}"
        got = await self._client.request(target, headers=headers, timeout=timeout)
        if got.status != 200:
            raise SourceRefused(got.status, f"Consul says {got.status}{_text(got.body)}")
        listed = target_list(map(_instance, decode_answer(got.body, list[_Entry])), self._file.option("scheme"))
        self._index = _next_index(got.headers.get("x-consul-index", ""), index)
        return listed

    def follow_list(self) -> AsyncIterator[TargetList]:
        """Yield lists. Raises `SourceFailed`."""
        return polled(self.fetch, lambda: self.pause)

    @property
    def pause(self) -> float:
        """Seconds until the next query: none, because the query itself waits; some if Consul has no index."""
        return 0.0 if self._index else random.uniform(0.5, 1.0)


def _next_index(said: str, before: int) -> int:
    """Return the index of the next query: 0 if the index has gone backwards, as after a restore of Consul's data."""
    if _INDEX.fullmatch(said) is None or int(said) >= MOST_INDEX:
        raise SourceFailed("an invalid answer: no valid X-Consul-Index")
    index = int(said)
    return 0 if index < before else index


def _instance(entry: _Entry) -> ServiceInstance:
    return ServiceInstance(
        entry.Service.Address or entry.Node.Address, entry.Service.Port, max(entry.Service.Weights.Passing, 0)
    )


def _text(body: bytes) -> str:
    text = " ".join("".join(each if each.isprintable() else " " for each in body.decode("utf-8", "replace")).split())
    return f": {text[:_SHOWN]}" if text else ""
