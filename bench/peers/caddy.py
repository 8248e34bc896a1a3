"""Caddy, on one thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.peer import ROUTES, Place, Running, version_told
from bench.ports import free_port, wait_until_open
from bench.processes import pinned
from bench.templates import render


class Caddy:
    name = "caddy"

    def version(self) -> str | None:
        return version_told("caddy", "version")

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        port = free_port()
        config = render(
            Path(__file__).with_name("Caddyfile"),
            place.folder / "Caddyfile",
            folder=place.folder,
            port=port,
            origin_port=place.origin_port,
            routes="\n".join(f"    handle /{route}/* {{\n        import to_origin\n    }}" for route in ROUTES),
        )
        with pinned(
            ["caddy", "run", "--config", config, "--adapter", "caddyfile"],
            place.core,
            place.folder / "caddy.out",
            environment={"GOMAXPROCS": "1", "HOME": str(place.folder), "XDG_DATA_HOME": str(place.folder)},
        ) as program:
            wait_until_open(port, program)
            yield Running(program, port, place.folder / "access.log")
