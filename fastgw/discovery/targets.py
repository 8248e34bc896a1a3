"""Lists of targets, as registries deliver them and as the configuration reads them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from fastgw.config.sources.target_addresses import MOST_PRIORITY, add_target, target_url
from fastgw.config.sources.target_weights import scale_weights
from fastgw.discovery.http_client import SourceFailed

MOST_TARGETS: Final = 1000
"""Maximum number of targets of one list."""


@dataclass(frozen=True)
class ServiceInstance:
    """One instance of a service. `weight`: of any size; 0 = it gets no requests."""

    host: str
    port: int
    weight: int = 1
    priority: int = 0


@dataclass(frozen=True)
class TargetList:
    """Content of the file with a list of targets. `problem`: why instances were left out; "": none was."""

    content: bytes
    problem: str = ""


def target_list(instances: Iterable[ServiceInstance], scheme: str) -> TargetList:
    """Return the list of these instances, sorted so that the order of answers does not matter. Instances whose address
    is invalid are left out. Raises `SourceFailed` for too many.
    """
    found: dict[str, dict[str, Any]] = {}
    unusable = 0
    for each in instances:
        url = target_url(scheme, each.host, each.port)
        if url is None:
            unusable += 1
            continue
        weight, priority = max(each.weight, 0), min(max(each.priority, 0), MOST_PRIORITY)
        add_target(found, {"url": url, "weight": weight, "priority": priority})
        if len(found) > MOST_TARGETS:
            raise SourceFailed(f"a list of more than {MOST_TARGETS} targets")
    scale_weights([*found.values()])
    content = json.dumps(sorted(found.values(), key=lambda each: (each["priority"], each["url"]))).encode()
    noun = "instance has" if unusable == 1 else "instances have"
    return TargetList(content, f"{unusable} {noun} no valid address and port" if unusable else "")


def decode_answer(content: bytes, kind: Any) -> Any:
    """Return an answer of a registry. Raises `SourceFailed` if it has another form."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceFailed(f"an invalid answer: {error}") from error


async def polled(fetch: Callable[[], Awaitable[TargetList]], pause: Callable[[], float]) -> AsyncIterator[TargetList]:
    """Yield lists, with a pause of some seconds after each. Raises `SourceFailed`."""
    while True:
        yield await fetch()
        await asyncio.sleep(pause())
