"""Lanes by listener: tests share a gateway, and each has a listener, routes and upstreams that no other test uses.

For tests whose settings differ, or that send any `Host`. A gateway with 100 listeners starts nearly as fast as one with
a single listener, in 0.25 s of processor time; so a module lists the settings of its tests, and has lanes of each in
one gateway. A lane is used once: nothing of an earlier test is in its pools, counts or log records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.client import Client
from tests.support.gateway import CHANGE_DEADLINE, Gateway, Lines
from tests.support.peer import DEADLINE

Settings = Mapping[str, Any]
"""Of a test; the module's function makes a `Part` of them."""


class Part(NamedTuple):
    """Part of a configuration that is one lane's. Names of upstreams and routes begin with that of the lane."""

    upstreams: dict[str, Any]
    routes: list[dict[str, Any]]
    origin: Any = None
    """For the test: the other end of its upstream."""
    close: Callable[[], object] = lambda: None
    """To be called when the test is over."""


class ListenerLane:
    """One test's view of the gateway: it has the methods of `Gateway` that concern a single listener."""

    def __init__(self, gateway: Gateway, name: str, part: Part) -> None:
        self.whole, self.name, self.origin, self.close = gateway, name, part.origin, part.close

    def address(self) -> str:
        return self.whole.address(self.name)

    def connect(self, deadline: float = DEADLINE) -> Client:
        return self.whole.connect(self.name, deadline)

    def wait_for_record(self, deadline: float = CHANGE_DEADLINE, **fields: Any) -> dict[str, Any]:
        """Return the first access log record of this lane with these values, within the deadline."""
        return self.whole.wait_for_record(deadline, listener=self.name, **fields)

    @property
    def stderr(self) -> Lines:
        """Of the gateway: a test looks for a line with the address of its own origin."""
        return self.whole.stderr


class ListenerLanes:
    """Lanes of several kinds in a gateway, which starts when the first is taken.

    `kinds`: how many lanes, with which settings; `part_of`: makes the part of the configuration of a lane with a name;
    `common`: further top-level keys.
    """

    def __init__(
        self,
        directory: Path,
        part_of: Callable[[str, Settings], Part],
        kinds: Sequence[tuple[int, Settings]],
        common: Settings | None = None,
    ) -> None:
        self._directory, self._part_of, self._kinds, self._common = directory, part_of, kinds, common or {}
        self._free: dict[str, list[ListenerLane]] = {_key(settings): [] for _, settings in kinds}
        self._taken: list[ListenerLane] = []
        self._gateways: list[Gateway] = []

    def take(self, settings: Settings) -> ListenerLane:
        free = self._free[_key(settings)]
        if not free:
            self._start()
        lane = free.pop()
        self._taken.append(lane)
        return lane

    def _start(self) -> None:
        names = [(f"lane-{number}", settings) for number, settings in enumerate(self._each())]
        parts = {name: self._part_of(name, settings) for name, settings in names}
        config = {
            "workers": 1,
            "listeners": {name: {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]} for name in parts},
            "upstreams": {name: each for part in parts.values() for name, each in part.upstreams.items()},
            "routes": [{"listeners": [name], **each} for name, part in parts.items() for each in part.routes],
            **self._common,
        }
        gateway = Gateway(config, self._directory)
        self._gateways.append(gateway)
        for name, settings in names:
            self._free[_key(settings)].append(ListenerLane(gateway, name, parts[name]))

    def _each(self) -> list[Settings]:
        return [settings for count, settings in self._kinds for _ in range(count)]

    def stop(self) -> None:
        for lanes in ([*self._taken], *self._free.values()):
            for lane in lanes:
                lane.close()
        for gateway in self._gateways:
            gateway.stop()


def _key(settings: Settings) -> str:
    return json.dumps(settings, sort_keys=True)
