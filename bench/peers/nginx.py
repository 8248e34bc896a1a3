"""nginx: with the same JSON log as the others (the fair peer), and without any (the harder bar)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.peer import ROUTES, Place, Running, version_told
from bench.ports import free_port, wait_until_open
from bench.processes import pinned
from bench.templates import render


class Nginx:
    def __init__(self, *, logs: bool) -> None:
        self.logs = logs
        self.name = "nginx" if logs else "nginx (no log)"

    def version(self) -> str | None:
        return version_told("nginx", "-v")

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        port = free_port()
        access_log = place.folder / "access.log" if self.logs else None
        config = render(
            Path(__file__).with_name("nginx.conf"),
            place.folder / "nginx.conf",
            folder=place.folder,
            port=port,
            origin_port=place.origin_port,
            access_log=f"{access_log} json buffer=64k flush=1s" if access_log else "off",
            routes="\n".join(f"        location /{route}/ {{ proxy_pass http://origin; }}" for route in ROUTES),
        )
        with pinned(["nginx", "-c", config], place.core, place.folder / "nginx.out") as program:
            wait_until_open(port, program)
            yield Running(program, port, access_log)
