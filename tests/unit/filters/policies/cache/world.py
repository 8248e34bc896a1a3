"""A data plane in memory with a cache, whose clocks stand still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from fastgw.cache.shared.layout import CacheMemory
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.filters.api import Filter
from fastgw.shm.node_limits import own_counts
from tests.support.memory import SERVICE, Plane, Wire

NOW = 1_800_000_000.0


class World:
    """`memory`: bytes of its store. `also`: more parts of the configuration. `settings`: of the filter. Requests are
    sent on new connections; the upstream's are played by the test.
    """

    def __init__(
        self,
        store: SharedStore | None = None,
        route: dict[str, Any] | None = None,
        upstreams: dict[str, Any] = SERVICE["upstreams"],
        memory: int = 8 << 20,
        also: Mapping[str, Any] = MappingProxyType({}),
        probes: Sequence[type[Filter]] = (),
        **settings: Any,
    ) -> None:
        self.now = NOW
        filters = {"cache": settings, **((route or {}).get("filters", {}))}
        action = {} if route is not None and {*route} & {"compose", "lambda", "variants"} else {"upstream": "u"}
        routes = [{"name": "all", **action, **(route or {}), "filters": filters}]
        with patch("fastgw.filters.policies.cache.policy.time", lambda: self.now):
            document = {"routes": routes, "upstreams": upstreams, "filters": {"request_id": {}}}
            self.plane = Plane({**document, **also}, probes=probes)
        turns = self.plane.worker_loop.turns
        clocks: dict[str, Any] = {"clock": lambda: self.now, "date": lambda: self.now}
        self.store: SharedStore = store or SharedStore(CacheMemory(memory), 1, turns, {}, 1 << 30, **clocks)
        self.announced: list[Any] = []
        self.fetched: list[tuple[str, str]] = []
        """Routes and reasons of the misses that were counted."""
        services: Any = SimpleNamespace(
            worker_loop=self.plane.worker_loop,
            workers=lambda: 1,
            slot=0,
            count_validation=lambda *labels: None,
            caches=lambda name: self.store,
            announce_purge=self.announced.append,
            in_flight=own_counts(),
            upstreams=self.plane.gateway.upstreams.get,
            count_cache_miss=lambda *labels: self.fetched.append(labels),
        )
        for link in self.plane.gateway.live:
            if link.hooks.start is not None:
                link.hooks.start(services)

    def client(
        self,
        target: bytes = b"/",
        fields: bytes = b"",
        method: bytes = b"GET",
        body: bytes = b"",
        host: bytes = b"a.test",
        port: int = 80,
    ) -> Wire:
        client = self.plane.client(port=port)
        client.sends(b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n%b" % (method, target, host, fields, body))
        return client

    def upstream(self) -> Wire:
        """Return the upstream's end of the oldest connection with a request that was not answered."""
        if self.plane.pool.waiting:
            return self.plane.connects()
        return self.busy()[0]

    def busy(self) -> list[Wire]:
        """Return the upstream's ends of all connections with a request."""
        found: list[Any] = [each.transport for each in self.plane.pool.open if each.streams]
        return found
