"""nginx, with the same JSON log as the others (the fair peer), and without a log (the harder comparison)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.peer import HERE, Place, Running, routes, version_told
from bench.peers.programs import find_program
from bench.ports import free_port, wait_until_open
from bench.processes import pinned
from bench.templates import ConfigTemplate, render


@dataclass(frozen=True)
class Nginx:
    name: str = "nginx"
    logs: bool = True
    routes: int = 100
    workers: int = 1
    template: Path = HERE / "nginx.conf"
    fill: Mapping[str, str] = field(default_factory=dict)
    """Fragments of this scenario by place: `main`, `http`, `server`, `location` (directives), `listen` (parameters).
    `@{folder}` is the folder of the contestant."""

    action: str = "proxy_pass http://origin;"
    """Directive that forwards to the origin."""

    def version(self) -> str | None:
        nginx = find_program("nginx")
        return nginx.version(version_told(*nginx.command, "-v"))

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        port = free_port()
        access_log = place.folder / "access.log" if self.logs else None
        location = self.fill.get("location", "")
        fill = {name: ConfigTemplate(text).substitute(folder=place.folder) for name, text in self.fill.items()}
        added = {"main": "", "http": "", "server": "", "listen": "", **fill, "location": location}
        config = render(
            self.template,
            place.folder / "nginx.conf",
            folder=place.folder,
            port=port,
            origin_port=place.origin_port,
            workers=self.workers,
            access_log=f"{access_log} json buffer=64k flush=1s" if access_log else "off",
            routes="\n".join(
                f"        location /{route}/ {{ {location} {self.action} }}" for route in routes(self.routes)
            ),
            **added,
        )
        with pinned([*find_program("nginx").command, "-c", config], place.cores, place.folder / "nginx.out") as program:
            wait_until_open(port, program)
            yield Running(program, port, access_log)
