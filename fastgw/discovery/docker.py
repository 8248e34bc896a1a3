"""Targets from Docker: running containers with a label, listed again when an event tells of a container."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from fastgw.config.settings.discovery import Docker
from fastgw.config.settings.secrets import Secret
from fastgw.config.sources.followed_files import FollowedFile
from fastgw.discovery.http_client import ServiceClient, SourceFailed, SourceRefused
from fastgw.discovery.targets import ServiceInstance, TargetList, decode_answer, target_list

TIMEOUT_S: Final = 5.0
LABEL: Final = "fastgw.upstream"
PORT: Final = "fastgw.port"
WEIGHT: Final = "fastgw.weight"
PRIORITY: Final = "fastgw.priority"
EVENTS: Final = ("start", "die", "stop", "destroy", "pause", "unpause", "health_status")
"""Events of containers after which the list may be another one."""
RELISTED_S: Final = 60.0
"""Interval after which the list is read again without an event, in case one was lost."""
LOOKS_S: Final = (1.0, 5.0)
"""Seconds after which the list is read again when no further event has come: Docker tells that a container has died
while it still lists it as running, until its network is removed.
"""
GATHER_S: Final = 0.1
"""Seconds for which further events are awaited: containers start in groups."""
_UNHEALTHY: Final = ("(unhealthy)", "(health: starting)")


class _Port(msgspec.Struct):
    PrivatePort: int = 0
    Type: str = "tcp"


class _Network(msgspec.Struct):
    IPAddress: str = ""
    GlobalIPv6Address: str = ""


class _Networks(msgspec.Struct):
    Networks: dict[str, _Network] | None = None


class _Container(msgspec.Struct):
    Labels: dict[str, str] | None = None
    State: str = ""
    Status: str = ""
    Ports: list[_Port] | None = None
    NetworkSettings: _Networks = msgspec.field(default_factory=_Networks)


class DockerList:
    """The running containers with one value of the label."""

    def __init__(
        self, settings: Docker, file: FollowedFile, client: ServiceClient, secret: Callable[[Secret], str]
    ) -> None:
        self._settings, self._file, self._client = settings, file, client

    async def follow_list(self) -> AsyncIterator[TargetList]:
        """Yield the list at once, and again after each event. Raises `SourceFailed`.

        The list is read after the subscription to the events, so none between the two is lost.
        """
        filters = {"type": ["container"], "event": [*EVENTS], "label": [f"{LABEL}={self._file.subject}"]}
        target = f"/events?{urlencode({'filters': _json(filters)})}"
        looks: Iterator[float] = iter(())
        while True:
            silence = next(looks, RELISTED_S)
            with suppress(TimeoutError):  # no event for a while: the connection is replaced, in case it is dead
                async with self._client.stream(target, timeout=TIMEOUT_S, silence=silence) as (head, events):
                    if head.status != 200:
                        raise SourceRefused(head.status, f"Docker says {head.status} to the request for events")
                    yield await self.fetch()
                    if await anext(events, None) is None:
                        raise SourceFailed("Docker has ended the events")
                    looks = iter(LOOKS_S)
                    await asyncio.sleep(GATHER_S)

    async def fetch(self) -> TargetList:
        """Return the list. Raises `SourceFailed`."""
        filters = {"label": [f"{LABEL}={self._file.subject}"], "status": ["running"]}
        got = await self._client.request(
            f"/containers/json?{urlencode({'filters': _json(filters)})}", timeout=TIMEOUT_S
        )
        if got.status != 200:
            raise SourceRefused(got.status, f"Docker says {got.status}")
        usable = (each for each in decode_answer(got.body, list[_Container]) if _is_usable(each, self._file.subject))
        return target_list(map(self._instance, usable), self._file.option("scheme"))

    def _instance(self, container: _Container) -> ServiceInstance:
        """Return the instance of a container; its address or port is empty if there is none."""
        labels = container.Labels or {}
        exposed = {each.PrivatePort for each in container.Ports or () if each.Type == "tcp"}
        only = next(iter(exposed)) if len(exposed) == 1 else 0
        port = _number(labels.get(PORT), _number(self._file.option("port"), only))
        address = _address(container.NetworkSettings.Networks or {}, self._settings.network)
        return ServiceInstance(address, port, _number(labels.get(WEIGHT), 1), _number(labels.get(PRIORITY), 0))


def _is_usable(container: _Container, value: str) -> bool:
    """The filters of the request are checked again: a proxy in front of the socket may drop them."""
    return (
        (container.Labels or {}).get(LABEL) == value
        and container.State == "running"
        and not any(each in container.Status for each in _UNHEALTHY)
    )


def _address(networks: dict[str, _Network], wanted: str | None) -> str:
    names: Iterable[str] = sorted(networks) if wanted is None else (wanted,)
    for name in names:
        network = networks.get(name)
        if network is not None and (network.IPAddress or network.GlobalIPv6Address):
            return network.IPAddress or network.GlobalIPv6Address
    return ""


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else otherwise


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
