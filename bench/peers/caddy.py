"""Caddy, with as many threads as cores."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.peer import HERE, Place, Running, routes, version_told
from bench.ports import free_port, wait_until_open
from bench.processes import pinned
from bench.templates import render


@dataclass(frozen=True)
class Caddy:
    name: str = "caddy"
    routes: int = 100
    workers: int = 1
    template: Path = HERE / "Caddyfile"
    fill: Mapping[str, str] = field(default_factory=dict)
    """Fragments of this scenario by place: lines of `global` and of `site`; `scheme` instead of http."""

    def version(self) -> str | None:
        return version_told("caddy", "version")

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        port = free_port()
        added = {"global": "", "site": "", "scheme": "http", **self.fill}
        config = render(
            self.template,
            place.folder / "Caddyfile",
            folder=place.folder,
            port=port,
            origin_port=place.origin_port,
            routes="\n".join(
                f"    handle /{route}/* {{\n        import to_origin\n    }}" for route in routes(self.routes)
            ),
            **added,
        )
        with pinned(
            ["caddy", "run", "--config", config, "--adapter", "caddyfile"],
            place.cores,
            place.folder / "caddy.out",
            environment={
                "GOMAXPROCS": str(self.workers),
                "HOME": str(place.folder),
                "XDG_DATA_HOME": str(place.folder),
            },
        ) as program:
            wait_until_open(port, program)
            yield Running(program, port, place.folder / "access.log")
